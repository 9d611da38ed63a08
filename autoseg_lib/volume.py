"""A scan and its labels: two different types, so that a mask can never be treated as an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry

# First and last + 1 index along slices, rows and columns.
Box: TypeAlias = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on its grid.

    Attributes:
        array: (slice, row, column) numbers; rescale slope and intercept applied (HU for CT).
        geometry: where the pixels lie.
        modality: DICOM's word ("CT", "MR", ...), "" where unknown.
        spacing_source: where the pixel spacing comes from, for reports ("PixelSpacing", "NIfTI header", ...).
        others: further images of the same patient on the same grid (a PET beside a CT, MR sequences), in order.
    """

    array: npt.NDArray[np.generic] = field(repr=False)
    geometry: Geometry
    modality: str = ""
    spacing_source: str = ""
    others: tuple[Volume, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)
        for other in self.others:
            if other.others or other.geometry is not self.geometry:
                raise GeometryError("images beside the first must lie on its grid; resample them first.")

    @property
    def images(self) -> tuple[Volume, ...]:
        """The scan itself and the images beside it."""
        return (self, *self.others)

    def with_array(self, array: npt.NDArray[np.generic], geometry: Geometry | None = None) -> Volume:
        """Returns the same scan with other pixels; on another grid without the images beside it (see ``cut``)."""
        if geometry is None or geometry is self.geometry:
            return replace(self, array=array)
        return replace(self, array=array, geometry=geometry, others=())

    def with_others(self, others: Sequence[Volume]) -> Volume:
        """Returns the scan with these images beside it; each has the shape and place of the scan's own pixels.

        Raises:
            GeometryError: one lies on another grid.
        """
        for number, other in enumerate(others, start=2):
            if not other.geometry.is_same_grid(self.geometry):
                raise GeometryError(
                    f"image {number} lies on another grid than the first; resample it onto that one."
                )
        same = tuple(replace(other, geometry=self.geometry, others=()) for other in others)
        return replace(self, others=same)

    def cut(self, box: Box) -> Volume:
        """Returns the part of the scan, and of the images beside it, inside an index box."""
        geometry = self.geometry.boxed(box)
        others = tuple(
            replace(other, array=other.array[box], geometry=geometry, others=()) for other in self.others
        )
        return replace(self, array=self.array[box], geometry=geometry, others=others)

    def slices(self, start: int, stop: int) -> Volume:
        """Returns the slices start .. stop - 1 of the scan and of the images beside it."""
        return self.cut((slice(start, stop), slice(None), slice(None)))


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

    def cut(self, box: Box) -> Mask:
        """Returns the part of the mask inside an index box."""
        return Mask(self.array[box], self.geometry.boxed(box))


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
    turned = item.with_array(np.ascontiguousarray(array), item.geometry.permuted(axes, flips))
    if isinstance(item, Volume) and item.others:
        return turned.with_others([reorient(other, code) for other in item.others])
    return turned


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
    back = turned.with_array(turned.array, target)
    return back.with_others(turned.others) if isinstance(turned, Volume) and turned.others else back


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
    moved = item.with_array(array, geometry)
    if isinstance(item, Volume) and item.others:
        return moved.with_others([crop_or_pad(other, before_zyx, shape_zyx, fill) for other in item.others])
    return moved
