"""Values of a volume between its voxels, by OpenCV's resampling of pictures.

OpenCV resamples pictures far quicker than anything at hand resamples volumes, but it knows two dimensions only.
So the slices are laid side by side into one large picture, each with a border; a value between two slices is a mean
of the values found in both. Within a slice places are rounded to 1/32 of a pixel, as OpenCV does.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FloatPixels = npt.NDArray[np.float32]


# OpenCV counts the pixels along a picture's side in 16 bits.
_LONGEST_SIDE = 2**15 - 1


class Mosaic:
    """Where each voxel of a patch is found in the picture of a volume's slices.

    Made once for a grid of places, used for image and labels.
    """

    def __init__(self, shape_zyx: tuple[int, ...], places: FloatPixels) -> None:
        """Args:
        shape_zyx: size of the volume.
        places: (3, z, y, x) indices into the volume; may lie outside it. Changed.
        """
        # With a border of one voxel.
        self.slices, self.rows, self.columns = (size + 2 for size in shape_zyx)
        # One column of slices is quickest; more only where that would be too long.
        self.across = math.ceil(self.slices / (_LONGEST_SIDE // self.rows))
        self.down = math.ceil(self.slices / self.across)
        self.result_shape = places.shape[1:]
        places += np.float32(1)
        for axis, size in enumerate((self.slices, self.rows, self.columns)):
            np.clip(places[axis], 0, size - 1, out=places[axis])
        self._z, self._y, self._x = places.reshape(3, self.result_shape[0], -1)

    def between(self, volume: npt.NDArray[Any], fill: float) -> FloatPixels:
        """Returns the values at the places, on straight lines between voxels; ``fill`` outside the volume."""
        picture = self._picture(volume, np.float32, fill)
        below = np.floor(self._z)
        np.minimum(below, self.slices - 2, out=below)
        lower = self._remapped(picture, below, cv2.INTER_LINEAR)
        upper = self._remapped(picture, below + np.float32(1), cv2.INTER_LINEAR)
        upper -= lower
        upper *= np.subtract(self._z, below, out=below)
        lower += upper
        return lower.reshape(self.result_shape)

    def nearest(self, volume: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Returns the values of the nearest voxels; 0 outside the volume."""
        picture = self._picture(volume, np.uint8, 0)
        return self._remapped(picture, np.rint(self._z), cv2.INTER_NEAREST).reshape(self.result_shape)

    def _remapped(
        self, picture: npt.NDArray[Any], number: FloatPixels, interpolation: int
    ) -> npt.NDArray[Any]:
        """The values at the places, in the slices of these numbers."""
        return np.asarray(cv2.remap(picture, *self._maps(number), interpolation))

    def _maps(self, number: FloatPixels) -> tuple[FloatPixels, FloatPixels]:
        """Columns and rows of the picture for places in the slices of these numbers."""
        if self.across == 1:
            top = number * np.float32(self.rows)
            top += self._y
            return self._x, top
        line = np.floor(number / np.float32(self.across))
        left = (number - line * np.float32(self.across)) * np.float32(self.columns)
        return left + self._x, line * np.float32(self.rows) + self._y

    def _picture(self, volume: npt.NDArray[Any], kind: type, fill: float) -> npt.NDArray[Any]:
        rows, columns = self.rows, self.columns
        tiles: npt.NDArray[Any] = np.full((self.down * self.across, rows, columns), fill, kind)
        tiles[1 : self.slices - 1, 1:-1, 1:-1] = volume
        lines = tiles.reshape(self.down, self.across, rows, columns).transpose(0, 2, 1, 3)
        return lines.reshape(self.down * rows, self.across * columns)
