"""Steps about pieces: parts of a ROI that hang together.

Pixels hang together when they share a side, an edge or a corner (26 neighbours; 8 within a slice), or, with
``neighbours = "sides"``, only when they share a side (6; 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import counted
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import Label, LabelTable
from autoseg_lib.postprocess.sizes import Box, Labels, Per, Where, pixel_sizes, require_mm, size_text
from autoseg_lib.postprocess.step import NEIGHBOURS, PER, ROIS, Rois, Step, chosen, doubled
from autoseg_lib.preprocess.operations import Operation, Parameter

Neighbours = Literal["all", "sides"]
SLICE_BY_SLICE = "the scan has several images at one position, so pieces were looked for slice by slice"


@dataclass(frozen=True)
class Pieces:
    """The pieces of one ROI.

    Attributes:
        numbered: the part of the scan around the ROI; 0 outside, pieces 1..n.
        sizes: (n,) of each piece in ``unit``.
        pixels: (n,) of each piece.
        slices: (n,) first slice of each piece, counted from the box's first.
        unit: "mm³", "mm²" or "pixels".
    """

    numbered: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.int64]
    slices: npt.NDArray[np.int64]
    unit: str


def structure(per: Per, neighbours: Neighbours) -> Where:
    """Returns the (3, 3, 3) pixels that hang together with the one in the middle."""
    from scipy import ndimage

    around = np.asarray(ndimage.generate_binary_structure(3, 3 if neighbours == "all" else 1), dtype=np.bool_)
    if per == "slice":
        around[0] = around[2] = False
    return around


def number_pieces(inside: Where, per: Per, neighbours: Neighbours, geometry: Geometry, first: int) -> Pieces:
    """Finds the pieces of a ROI.

    Args:
        inside: the ROI, cut out of the scan.
        per: "slice" takes every slice by itself.
        neighbours: what hangs together.
        geometry: the scan's own grid.
        first: the scan's slice that is the first of ``inside``.
    """
    from scipy import ndimage

    numbered, count = ndimage.label(inside, structure(per, neighbours), output=np.int32)
    each, unit = pixel_sizes(geometry, per)
    pixels, sizes = np.zeros(count, np.int64), np.zeros(count)
    begins = np.zeros(count, np.int64)
    for k in range(inside.shape[0] - 1, -1, -1):
        here = np.bincount(numbered[k].ravel(), minlength=count + 1)[1:]
        pixels += here
        sizes += here * each[first + k]
        begins[here > 0] = k
    return Pieces(numbered, sizes, pixels, begins, unit)


def boxes(array: Labels, chosen_labels: list[Label]) -> list[tuple[Label, Box]]:
    """Returns each ROI that is there with the smallest box around it, in one pass over the mask."""
    from scipy import ndimage

    if not chosen_labels:
        return []
    found = ndimage.find_objects(array, max_label=max(label.value for label in chosen_labels))
    return [(label, box) for label in chosen_labels if (box := found[label.value - 1]) is not None]


def meant(per: Per, geometry: Geometry) -> Per:
    """Returns "slice" for several images at one position, which do not hang together, else what was asked."""
    return per if geometry.has_one_image_per_position else "slice"


def _remove(array: Labels, box: Box, pieces: Pieces, gone: Where) -> None:
    drop = np.concatenate([[False], gone])
    array[box][drop[pieces.numbered]] = 0


def _removed_text(label: Label, pieces: Pieces, gone: Where, per: Per) -> str:
    size = size_text(float(pieces.sizes[gone].sum()), pieces.unit)
    where = f" in {counted(len(np.unique(pieces.slices[gone])), 'slice')}" if per == "slice" else ""
    return f"removed {counted(int(gone.sum()), 'island')} ({size}) of {label.name}{where}"


def _largest(pieces: Pieces, count: int, per: Per) -> Where:
    """Which pieces are among the ``count`` largest of the scan or of their slice; of equal ones the first."""
    order = np.argsort(-pieces.sizes, kind="stable")
    kept = np.zeros(len(order), np.bool_)
    if per == "scan":
        kept[order[:count]] = True
        return kept
    taken: dict[int, int] = {}
    for piece in order:
        k = int(pieces.slices[piece])
        if taken.get(k, 0) < count:
            kept[piece] = True
            taken[k] = taken.get(k, 0) + 1
    return kept


@dataclass(frozen=True)
class KeepLargest(Step):
    """Keeps the largest pieces of each ROI, by volume (per slice: by area).

    Attributes:
        rois: the ROIs.
        count: how many pieces of each stay.
        per: "scan", or "slice" for every slice by itself.
        neighbours: "all" or "sides", see above.
    """

    operation: ClassVar[Operation] = Operation(
        "keep_largest",
        "after",
        "Keeps the largest pieces of each ROI, by volume (slice by slice: by area); of equal ones the first.",
        (
            ROIS,
            Parameter("count", "whole", "how many pieces of each ROI stay", 1, low=1, high=1000),
            PER,
            NEIGHBOURS,
        ),
        {"step": "keep_largest", "rois": ["liver"], "count": 1},
        source="Isensee et al., nnU-Net, Nature Methods 18 (2021): all but the largest component, where it helps.",
    )
    rois: Rois = "all"
    count: int = 1
    per: Per = "scan"
    neighbours: Neighbours = "all"

    def problems(self) -> list[str]:
        return [doubled("rois", self.rois)]

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        per, notes = meant(self.per, geometry), []
        for label, box in boxes(array, chosen(self.rois, labels)):
            pieces = number_pieces(array[box] == label.value, per, self.neighbours, geometry, box[0].start)
            gone = ~_largest(pieces, self.count, per)
            if gone.any():
                _remove(array, box, pieces, gone)
                notes.append(_removed_text(label, pieces, gone, per))
        return [*notes, SLICE_BY_SLICE] if notes and per != self.per else notes


@dataclass(frozen=True)
class RemoveSmall(Step):
    """Removes small pieces of each ROI. Exactly one of the three sizes is given.

    Attributes:
        rois: the ROIs.
        below_mm3: pieces of less volume go.
        below_mm2: slice by slice, pieces of less area go.
        below_percent: pieces smaller than this share of the ROI's largest go; needs no millimetres.
        per: with below_percent: "scan", or "slice" for every slice by itself.
        neighbours: "all" or "sides", see above.
    """

    operation: ClassVar[Operation] = Operation(
        "remove_small",
        "after",
        "Removes small pieces of each ROI. One of the three sizes is given: mm³ in the scan, mm² slice by slice, or a share of "
        "the ROI's largest piece, which needs no millimetres.",
        (
            ROIS,
            Parameter(
                "below_mm3",
                "number",
                "pieces smaller than this go",
                None,
                "mm³",
                0,
                above=True,
                optional=True,
            ),
            Parameter(
                "below_mm2",
                "number",
                "pieces within a slice smaller than this go",
                None,
                "mm²",
                0,
                above=True,
                optional=True,
            ),
            Parameter(
                "below_percent",
                "number",
                "pieces smaller than this share of the largest go",
                None,
                "%",
                0,
                100,
                above=True,
                optional=True,
            ),
            PER,
            NEIGHBOURS,
        ),
        {"step": "remove_small", "rois": ["liver"], "below_mm3": 500},
    )
    rois: Rois = "all"
    below_mm3: float | None = None
    below_mm2: float | None = None
    below_percent: float | None = None
    per: Per = "scan"
    neighbours: Neighbours = "all"

    def problems(self) -> list[str]:
        given = [n for n in ("below_mm3", "below_mm2", "below_percent") if getattr(self, n) is not None]
        problems = [doubled("rois", self.rois)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            problems.append(f"one of below_mm3, below_mm2 and below_percent is expected, found {found}")
        if self.below_percent is None and self.per != "scan":
            problems.append("per goes with below_percent; mm³ are of the scan, mm² of each slice")
        return problems

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        per = self.per
        if self.below_mm3 is not None:
            require_mm(geometry, "scan", self.operation.name, "below_mm3")
        elif self.below_mm2 is not None:
            require_mm(geometry, "slice", self.operation.name, "below_mm2")
            per = "slice"
        else:
            per = meant(per, geometry)
        notes = []
        for label, box in boxes(array, chosen(self.rois, labels)):
            pieces = number_pieces(array[box] == label.value, per, self.neighbours, geometry, box[0].start)
            gone = pieces.sizes < self._least(pieces, per)
            if gone.any():
                _remove(array, box, pieces, gone)
                notes.append(_removed_text(label, pieces, gone, per))
        said = self.below_percent is not None and per != self.per
        return [*notes, SLICE_BY_SLICE] if notes and said else notes

    def _least(self, pieces: Pieces, per: Per) -> npt.NDArray[np.float64] | float:
        if self.below_percent is None:
            limit = self.below_mm3 if self.below_mm3 is not None else self.below_mm2
            return float(limit or 0)
        share = self.below_percent / 100
        if per == "scan":
            return float(pieces.sizes.max() * share)
        largest = np.zeros(int(pieces.slices.max()) + 1)
        np.maximum.at(largest, pieces.slices, pieces.sizes)
        return np.asarray(largest[pieces.slices] * share, dtype=np.float64)


@dataclass(frozen=True)
class RemoveSmallRoi(Step):
    """Removes a ROI as a whole where all of it together is small: something found where there is nothing.

    Attributes:
        below_mm3: ROIs of less volume go.
        rois: the ROIs.
    """

    operation: ClassVar[Operation] = Operation(
        "remove_small_roi",
        "after",
        "Removes a ROI as a whole where all of it together is small: something found where there is nothing.",
        (ROIS, Parameter("below_mm3", "number", "ROIs smaller than this go", unit="mm³", low=0, above=True)),
        {"step": "remove_small_roi", "rois": ["lesion"], "below_mm3": 50},
    )
    below_mm3: float
    rois: Rois = "all"

    def problems(self) -> list[str]:
        return [doubled("rois", self.rois)]

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        require_mm(geometry, "scan", self.operation.name, "below_mm3")
        each, unit = pixel_sizes(geometry, "scan")
        notes = []
        for label, box in boxes(array, chosen(self.rois, labels)):
            inside = array[box] == label.value
            size = float((inside.sum(axis=(1, 2)) * each[box[0]]).sum())
            if size < self.below_mm3:
                array[box][inside] = 0
                notes.append(
                    f"removed {label.name} ({size_text(size, unit)}), smaller than {self.below_mm3:g} mm³"
                )
        return notes
