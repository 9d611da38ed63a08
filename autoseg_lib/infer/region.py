"""Two stages: find the region on large voxels first, then look closely only there.

An organ often fills a small part of a scan. The same network looks at the whole scan on voxels several times as large, which
takes a fraction of the time; what it finds there, with a margin around it, is the box that is then predicted as usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.volume import Box

# A box that is hardly smaller than the scan saves less than looking for it costs.
LARGEST_SHARE = 0.7
# Twice as large voxels: an eighth of the windows, half-overlap left out another eighth. Larger ones, and the network no longer
# knows what it sees (training shows it organs 0.85 to 1.15 times as large).
DEFAULT_FACTOR = 2.0
# About two large voxels of 5 mm on each side; the network needs to see around what it outlines.
DEFAULT_MARGIN_MM = 20.0
_LARGEST_FACTOR, _LARGEST_MARGIN_MM = 8.0, 500.0


class CutOff(Exception):  # noqa: N818 - not an error: the whole scan is looked at then
    """An ROI reaches the edge of the box that was looked at closely, and the scan goes on there."""


@dataclass(frozen=True)
class RegionFinder:
    """How the first stage looks for the region.

    Attributes:
        factor: voxels are this many times as large as the network's own.
        margin_mm: added to each side of what was found.

    Raises:
        ModelError: a value cannot be used.
    """

    factor: float = DEFAULT_FACTOR
    margin_mm: float = DEFAULT_MARGIN_MM

    def __post_init__(self) -> None:
        if not 1 < self.factor <= _LARGEST_FACTOR or not 0 <= self.margin_mm <= _LARGEST_MARGIN_MM:
            raise ModelError(
                f"region_finder: found factor = {self.factor:g} and margin_mm = {self.margin_mm:g}; a factor above 1 and at most "
                f"{_LARGEST_FACTOR:g}, and a margin of 0 to {_LARGEST_MARGIN_MM:g} mm are expected."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return {"factor": self.factor, "margin_mm": self.margin_mm}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any] | None) -> RegionFinder | None:
        """Returns what ``to_dict`` wrote; None where nothing was written, and the whole scan is looked at.

        Raises:
            ModelError: a key is unknown or a value cannot be used.
        """
        if not table:
            return None
        try:
            unknown = sorted(set(table) - {"factor", "margin_mm"})
            if unknown:
                raise ValueError(f"unknown {', '.join(unknown)}")
            return cls(**{key: float(value) for key, value in table.items()})
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"region_finder: the model's settings cannot be read ({error}).") from None

    def coarse(self, grid: Geometry) -> Geometry:
        """Returns the grid of the first stage for the network's own grid."""
        return grid.respaced([step * self.factor for step in grid.spacing_zyx_mm])

    def box(
        self, found: npt.NDArray[np.bool_], coarse: Geometry, grid: Geometry, at_least: Sequence[int]
    ) -> Box | None:
        """Returns the part of the network's grid that is looked at closely.

        Args:
            found: (slice, row, column) where the first stage found anything.
            coarse: its grid.
            grid: the network's own grid.
            at_least: smallest size of the box, the network's window; the box grows within the grid to have it.

        Returns:
            the box, or None where nothing was found.
        """
        if not found.any():
            return None
        sides = []
        shift = np.linalg.solve(grid.affine[:3, :3], coarse.origin_xyz_mm - grid.origin_xyz_mm)
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            hits = np.flatnonzero(found.any(axis=others))
            # Both grids have the same directions, so an index of the one is a line in the other. Half a large voxel each way is
            # what the outermost ones reach.
            step = coarse.spacing_zyx_mm[axis] / grid.spacing_zyx_mm[axis]
            margin = self.margin_mm / grid.spacing_zyx_mm[axis]
            low = shift[axis] + step * (hits[0] - 0.5) - margin
            high = shift[axis] + step * (hits[-1] + 0.5) + margin
            sides.append(_widened(low, high, grid.shape_zyx[axis], at_least[axis]))
        return sides[0], sides[1], sides[2]


def _widened(low: float, high: float, size: int, at_least: int) -> slice:
    """Whole voxels within 0 .. size - 1 that hold low .. high, and so many of them, if there are that many."""
    first, last = max(0, int(np.floor(low))), min(size, int(np.ceil(high)) + 1)
    missing = min(at_least, size) - (last - first)
    if missing > 0:
        first = max(0, first - missing // 2)
        last = min(size, first + min(at_least, size))
        first = last - min(at_least, size)
    return slice(first, last)


def share_of(box: Box, shape_zyx: Sequence[int]) -> float:
    """Returns the part of the grid that a box takes up, 0 to 1."""
    sizes = [(side.stop - side.start) / size for side, size in zip(box, shape_zyx, strict=True)]
    return float(np.prod(sizes))


def with_border(box: Box, shape_zyx: Sequence[int]) -> Box:
    """Returns the box and the voxel around it, as far as the grid goes."""
    sides = [
        slice(max(0, side.start - 1), min(size, side.stop + 1))
        for side, size in zip(box, shape_zyx, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def bordered(
    slabs: Iterable[npt.NDArray[np.float32]], box: Box, shape_zyx: Sequence[int]
) -> Iterator[npt.NDArray[np.float32]]:
    """Gives the answer for ``with_border(box, shape_zyx)``: sure background in the voxel around the box.

    On the way back the answer at an edge goes on beyond it; around the box there is background instead.

    Args:
        slabs: (classes, some slices, rows, columns) probabilities of the box, from its first slice to its last.
        box: where it lies.
        shape_zyx: size of the whole grid.

    Raises:
        CutOff: anything but background is likeliest in the box's outermost voxels, on a side where the grid goes on.
    """
    outer = with_border(box, shape_zyx)
    pads = [(b.start - o.start, o.stop - b.stop) for b, o in zip(box, outer, strict=True)]
    behind: npt.NDArray[np.float32] | None = None
    first = box[0].start
    for slab in slabs:
        part = (slice(first, first + slab.shape[1]), *box[1:])
        if _reaches_edge(slab, part, box, shape_zyx):
            raise CutOff
        first = part[0].stop
        whole = np.pad(slab, ((0, 0), (0, 0), *pads[1:]))
        for axis, (before, after) in ((2, pads[1]), (3, pads[2])):
            edges = np.moveaxis(whole[0], axis - 1, 0)
            edges[:before] = 1
            edges[len(edges) - after :] = 1
        if behind is None:
            behind = np.zeros_like(whole[:, :1])
            behind[0] = 1
            if pads[0][0]:
                yield behind
        yield whole
    if behind is not None and pads[0][1]:
        yield behind


def _reaches_edge(slab: npt.NDArray[np.float32], part: Box, box: Box, shape_zyx: Sequence[int]) -> bool:
    """Whether a part of a box finds something in the outermost voxels of the box, where the grid goes on."""
    for axis in range(3):
        faces = []
        if part[axis].start == box[axis].start > 0:
            faces.append(0)
        if part[axis].stop == box[axis].stop < shape_zyx[axis]:
            faces.append(-1)
        for face in faces:
            if slab.take(face, axis=axis + 1).argmax(axis=0).any():
                return True
    return False
