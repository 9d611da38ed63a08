"""A scan and its labels: two different types, so that a mask can never be treated as an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on its grid.

    Attributes:
        array: (slice, row, column) numbers; rescale slope and intercept applied (HU for CT).
        geometry: where the pixels lie.
        modality: DICOM's word ("CT", "MR", ...), "" where unknown.
        spacing_source: where the pixel spacing comes from, for reports ("PixelSpacing", "NIfTI header", ...).
    """

    array: npt.NDArray[np.generic] = field(repr=False)
    geometry: Geometry
    modality: str = ""
    spacing_source: str = ""

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)

    def with_array(self, array: npt.NDArray[np.generic], geometry: Geometry | None = None) -> Volume:
        """Returns the same scan with other pixels (and grid)."""
        return replace(self, array=array, geometry=geometry or self.geometry)


@dataclass(frozen=True, eq=False)
class Mask:
    """Label values on their grid.

    Attributes:
        array: (slice, row, column) unsigned integers, 0 background.
        geometry: where the pixels lie.
    """

    array: npt.NDArray[np.unsignedinteger] = field(repr=False)
    geometry: Geometry

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)
        if self.array.dtype.kind != "u":
            raise DataError(f"a mask holds unsigned whole numbers, found {self.array.dtype}.")

    def with_array(self, array: npt.NDArray[np.unsignedinteger], geometry: Geometry | None = None) -> Mask:
        """Returns other label values on the same (or the given) grid."""
        return replace(self, array=array, geometry=geometry or self.geometry)


Gridded = TypeVar("Gridded", Volume, Mask)


def _check_shape(array: npt.NDArray[np.generic], geometry: Geometry) -> None:
    if array.shape != geometry.shape_zyx:
        raise GeometryError(f"the pixels have the shape {array.shape}, their grid says {geometry.shape_zyx}.")


def reorient(item: Gridded, code: str) -> Gridded:
    """Turns the axes so that (slice, row, column) grow towards ``code`` (e.g. "SPL"). No pixel value changes.

    The exact inverse is ``reorient(result, item.geometry.orientation_code)``.
    """
    axes, flips = item.geometry.steps_to(code)
    array = item.array.transpose(axes)
    array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    return item.with_array(np.ascontiguousarray(array), item.geometry.permuted(axes, flips))


def reorient_like(item: Gridded, target: Geometry) -> Gridded:
    """Turns the axes back onto ``target``, the grid that ``item`` was turned from.

    Raises:
        GeometryError: ``target`` is not the same set of points with other axes.
    """
    turned = reorient(item, target.orientation_code)
    if not turned.geometry.is_same_grid(target):
        raise GeometryError(
            f"cannot turn a grid of {item.geometry.shape_zyx} back onto one of {target.shape_zyx}: "
            "they are not the same points. Resample instead."
        )
    return turned.with_array(turned.array, target)


def crop_or_pad(
    item: Gridded, before_zyx: Sequence[int], shape_zyx: Sequence[int], fill: float = 0
) -> Gridded:
    """Cuts or adds pixels at the edges; the grid moves with them.

    Args:
        item: the scan or mask.
        before_zyx: pixels to add before the first (negative: to cut).
        shape_zyx: the new shape.
        fill: value of added pixels.

    The inverse is ``crop_or_pad(result, [-b for b in before_zyx], item.array.shape)``; exact for what was not cut.
    """
    geometry = item.geometry.cropped_or_padded(before_zyx, shape_zyx)
    array = np.full(geometry.shape_zyx, fill, dtype=item.array.dtype)
    source, target = [], []
    for before, old, new in zip(before_zyx, item.array.shape, geometry.shape_zyx, strict=True):
        first, last = max(0, -before), min(old, new - before)
        if last <= first:
            raise GeometryError(
                f"cropping {item.array.shape} to {tuple(shape_zyx)} at {tuple(before_zyx)} leaves nothing."
            )
        source.append(slice(first, last))
        target.append(slice(first + before, last + before))
    array[tuple(target)] = item.array[tuple(source)]
    return item.with_array(array, geometry)
