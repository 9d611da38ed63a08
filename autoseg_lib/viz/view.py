"""How a slice is turned and scaled to be looked at: radiology's way round, true proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.geometry import DISPLAY_ORIENTATION, Geometry

Kind = TypeVar("Kind", bound=np.generic)

# Letters at the edges of a picture, by the direction in which an axis grows.
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}

# A plane belongs to the patient axis that its slices step along: world axis → plane.
_PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}

# Round lengths for the scale bar, mm.
_BAR_LENGTHS_MM = (1, 2, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class SliceView:
    """Turns slices of one scan for display and back to nothing else: pictures are for looking, never for
    measuring.

    Attributes:
        transpose: whether rows and columns change places (before flipping).
        flip_rows: whether the rows are turned over.
        flip_columns: whether the columns are turned over.
        pixel_mm: height and width of a pixel as displayed; (1, 1) where unknown.
        spacing_known: whether ``pixel_mm`` is in mm.
        edges: letters for (top, right, bottom, left), empty where the orientation is unknown.
        plane: "axial", "coronal", "sagittal", or "" where unknown.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    spacing_known: bool = False
    edges: tuple[str, str, str, str] | tuple[()] = ()
    plane: str = ""

    def turn(self, plane: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
        """Returns a (rows, columns) slice turned for display, pixels untouched."""
        turned = plane.T if self.transpose else plane
        if self.flip_rows:
            turned = turned[::-1]
        if self.flip_columns:
            turned = turned[:, ::-1]
        return np.ascontiguousarray(turned)

    def display_shape(self, shape: tuple[int, int], longest: int) -> tuple[int, int]:
        """Returns (height, width) in screen pixels of a turned slice of ``shape``, longest side "
        "``longest``."""
        height, width = shape[0] * self.pixel_mm[0], shape[1] * self.pixel_mm[1]
        scale = longest / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def scale_bar(self, width: int, columns: int) -> tuple[int, str] | None:
        """Returns (length in screen pixels, text) of a bar of about a quarter of a picture of ``width``, None
        without mm.

        Args:
            width: screen pixels of the picture.
            columns: columns of the turned slice.
        """
        if not self.spacing_known:
            return None
        per_mm = width / (columns * self.pixel_mm[1])
        fitting = [length for length in _BAR_LENGTHS_MM if length * per_mm <= width / 3]
        if not fitting:
            return None
        return round(fitting[-1] * per_mm), f"{fitting[-1]} mm"


def slice_view(geometry: Geometry) -> SliceView:
    """Returns how slices of a scan are displayed: patient's right on the picture's left in axial and coronal
    planes.

    Where the orientation is unknown nothing is turned and there are no letters.
    """
    pixel = (geometry.spacing_zyx_mm[1], geometry.spacing_zyx_mm[2]) if geometry.spacing_known else (1.0, 1.0)
    if not geometry.orientation_known:
        return SliceView(pixel_mm=pixel, spacing_known=geometry.spacing_known)
    plane = _PLANES[geometry.closest_world_axes[0]]
    wanted_rows, wanted_columns = DISPLAY_ORIENTATION[plane][1], DISPLAY_ORIENTATION[plane][2]
    rows, columns = geometry.orientation_code[1], geometry.orientation_code[2]
    transpose = rows not in (wanted_rows, _OPPOSITE[wanted_rows])
    if transpose:
        rows, columns, pixel = columns, rows, (pixel[1], pixel[0])
    edges = (_OPPOSITE[wanted_rows], wanted_columns, wanted_rows, _OPPOSITE[wanted_columns])
    return SliceView(
        transpose, rows != wanted_rows, columns != wanted_columns, pixel, geometry.spacing_known, edges, plane
    )


def resize(plane: npt.NDArray[np.uint8], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Scales a grey or colour picture to (height, width) for display: averaging when it shrinks, linear
    when it grows."""
    shrinks = shape[0] < plane.shape[0] or shape[1] < plane.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, (shape[1], shape[0]), interpolation=method), dtype=np.uint8)


def resize_labels(
    plane: npt.NDArray[np.unsignedinteger], shape: tuple[int, int]
) -> npt.NDArray[np.unsignedinteger]:
    """Scales label values to (height, width) for display by picking the pixel whose area holds each new
    centre."""
    rows = ((np.arange(shape[0]) + 0.5) * plane.shape[0] / shape[0]).astype(np.intp)
    columns = ((np.arange(shape[1]) + 0.5) * plane.shape[1] / shape[1]).astype(np.intp)
    return plane[rows[:, None], columns[None, :]]
