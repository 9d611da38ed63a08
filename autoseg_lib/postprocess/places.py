"""Steps about where a ROI may be: within or beside others, away from others, in some slices only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.holes import enclosed
from autoseg_lib.postprocess.pieces import boxes, meant, structure
from autoseg_lib.postprocess.sizes import (
    Labels,
    Per,
    Where,
    box_of,
    near,
    pixel_sizes,
    require_mm,
    require_straight,
    size_text,
)
from autoseg_lib.postprocess.step import PER, ROIS, Rois, Step, chosen, doubled
from autoseg_lib.preprocess.operations import Operation, Parameter

Shape = Literal["mask", "touching", "box", "slices"]
_SHAPES = ("mask", "touching", "box", "slices")
_MARGIN = (
    "so much further reaches the mask, the box or (along the scan) the slices, or so far away may a piece be"
)


@dataclass(frozen=True)
class OnlyWithin(Step):
    """Keeps ROIs only within, or beside, another one.

    Attributes:
        rois: the ROIs that are limited.
        within: the ROIs that limit them, taken together.
        shape: "mask": within these ROIs and what they enclose; "touching": pieces that touch them, whole; "box": within
            the smallest box around them, along the scan's axes; "slices": in slices that hold them.
        margin_mm: so much further reaches the mask or box, or so far away may a piece be; in slices: along the scan.
        per: "slice" takes every slice by itself, margin included.
        if_absent: where none of ``within`` was found: "keep" leaves the ROIs, "remove" removes them.
    """

    operation: ClassVar[Operation] = Operation(
        "only_within",
        "after",
        'Keeps ROIs only where other ROIs are. shape says how: "mask": within them and what they enclose; "touching": pieces '
        'that touch them, whole; "box": within the smallest box around them, along the scan\'s axes; "slices": in slices that '
        "hold them.",
        (
            Parameter("rois", "texts", "the ROIs that are limited", single=True),
            Parameter("within", "texts", "the ROIs that limit them, taken together", single=True),
            Parameter("shape", "choice", "see above", "mask", choices=_SHAPES),
            Parameter("margin_mm", "number", _MARGIN, 0.0, "mm", 0),
            PER,
            Parameter(
                "if_absent",
                "choice",
                'where none of "within" was found: whether the ROIs are kept or removed',
                "keep",
                choices=("keep", "remove"),
            ),
        ),
        {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "shape": "touching", "margin_mm": 3},
    )
    rois: Rois
    within: Rois
    shape: Shape = "mask"
    margin_mm: float = 0.0
    per: Per = "scan"
    if_absent: Literal["keep", "remove"] = "keep"

    def problems(self) -> list[str]:
        problems = [doubled("rois", self.rois), doubled("within", self.within)]
        if "all" in (self.rois, self.within):
            problems.append('rois and within name ROIs; "all" would limit a ROI to itself')
        problems += [f"'{roi}' is in rois and in within" for roi in self.rois if roi in self.within]
        return problems

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        per = meant(self.per, geometry)
        if self.margin_mm > 0:
            require_mm(geometry, self.per, self.operation.name, "margin_mm")
            require_straight(
                geometry, per if self.shape in ("mask", "touching") else "slice", self.operation.name
            )
        around = chosen(self.within, labels)
        limited = chosen(self.rois, labels)
        names = " and ".join(label.name for label in around)
        where: Where = np.asarray(np.isin(array, [label.value for label in around]))
        if not where.any():
            if self.if_absent == "keep":
                there = [label.name for label, _ in boxes(array, limited)]
                return [f"{names} was not found, so {' and '.join(there)} stayed as found"] if there else []
            allowed = where
        else:
            allowed = self._allowed(where, geometry, per)
        each, unit = pixel_sizes(geometry, "scan")
        notes = []
        for label, box in boxes(array, limited):
            inside = array[box] == label.value
            gone = inside & ~allowed[box]
            if self.shape == "touching":
                gone = inside & ~_touching(inside, allowed[box], per)
            if gone.any():
                array[box][gone] = 0
                size = size_text(float((gone.sum(axis=(1, 2)) * each[box[0]]).sum()), unit)
                notes.append(f"removed {size} of {label.name} outside {names}")
        return notes

    def _allowed(self, where: Where, geometry: Geometry, per: Per) -> Where:
        """Where the ROIs may be; with "touching": what a piece has to reach."""
        if self.shape == "slices":
            return _slices_of(where, geometry, self.margin_mm if per == "scan" else 0.0)
        if self.shape == "box":
            return _boxes_around(where, geometry, self.margin_mm, per)
        if self.shape == "touching":
            from scipy import ndimage

            # A gap of the margin is allowed between the pixels' centres; touching without one needs neighbours.
            beside = np.asarray(ndimage.binary_dilation(where, structure(per, "all")), dtype=np.bool_)
            return beside | near(where, self.margin_mm, geometry, per)
        box = box_of(where)
        if box is not None:
            part: Where = where[box]
            where[box] = part | enclosed(part, per)
        return near(where, self.margin_mm, geometry, per)


def _slices_of(where: Where, geometry: Geometry, margin_mm: float) -> Where:
    """All of every slice that holds the ROI or is no further from one than the margin."""
    positions = geometry.positions_mm
    holding: Where = np.asarray(where.any(axis=(1, 2)), dtype=np.bool_)
    if margin_mm > 0:
        away = np.abs(positions[:, None] - positions[holding][None]).min(axis=1)
        holding = np.asarray(away <= margin_mm + 1e-6, dtype=np.bool_)
    return np.broadcast_to(holding.reshape(-1, 1, 1), where.shape)


def _boxes_around(where: Where, geometry: Geometry, margin_mm: float, per: Per) -> Where:
    """The smallest box around the ROI, or around its part of every slice, so much wider."""
    allowed = np.zeros_like(where)
    _, rows, columns = geometry.spacing_zyx_mm
    wider = (int(margin_mm / rows + 1e-6), int(margin_mm / columns + 1e-6)) if margin_mm else (0, 0)
    for first in range(where.shape[0]) if per == "slice" else (0,):
        box = box_of(where[first : first + 1] if per == "slice" else where)
        if box is None:
            continue
        in_rows, in_columns = (
            slice(max(0, side.start - more), side.stop + more)
            for side, more in zip(box[1:], wider, strict=True)
        )
        inside = np.zeros(where.shape[0], np.bool_)
        inside[first + box[0].start : first + box[0].stop] = True
        if per == "scan" and margin_mm > 0:
            ends = geometry.positions_mm[inside]
            low, high = ends.min() - margin_mm - 1e-6, ends.max() + margin_mm + 1e-6
            inside |= (geometry.positions_mm >= low) & (geometry.positions_mm <= high)
        for k in np.flatnonzero(inside):
            allowed[k, in_rows, in_columns] = True
    return allowed


def _touching(inside: Where, reach: Where, per: Per) -> Where:
    """The pieces of a ROI that have a pixel in ``reach``, whole."""
    from scipy import ndimage

    numbered, count = ndimage.label(inside, structure(per, "all"), output=np.int32)
    kept = np.zeros(count + 1, np.bool_)
    kept[np.unique(numbered[reach & inside])] = True
    kept[0] = False
    return np.asarray(kept[numbered], dtype=np.bool_)


@dataclass(frozen=True)
class KeepApart(Step):
    """Keeps a distance between ROIs: of two that come closer, the one named later gives way.

    Attributes:
        priority: the ROIs, the one that stays first.
        margin_mm: pixels of a later ROI whose centre is no further than this from the centre of an earlier one's become
            background.
        per: "slice" measures within every slice alone.
    """

    operation: ClassVar[Operation] = Operation(
        "keep_apart",
        "after",
        "Keeps a distance between ROIs: of two that come closer, the one named later gives way to background.",
        (
            Parameter("priority", "texts", "two ROIs or more, the one that stays first", single=True),
            Parameter(
                "margin_mm",
                "number",
                "pixels of a later ROI go that are no further than this from one of an earlier ROI, centre to centre",
                unit="mm",
                low=0,
                above=True,
            ),
            PER,
        ),
        {"step": "keep_apart", "priority": ["left lung", "right lung"], "margin_mm": 2},
    )
    priority: Rois
    margin_mm: float
    per: Per = "scan"

    def problems(self) -> list[str]:
        problems = [doubled("priority", self.priority)]
        if self.priority != "all" and len(self.priority) < 2:
            problems.append("priority names two ROIs or more, the one that stays first")
        return problems

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        require_mm(geometry, self.per, self.operation.name, "margin_mm")
        require_straight(geometry, self.per, self.operation.name)
        each, unit = pixel_sizes(geometry, "scan")
        taken = np.zeros(array.shape, np.bool_)
        notes = []
        for label in chosen(self.priority, labels):
            inside = array == label.value
            if taken.any():
                gone = inside & near(taken, self.margin_mm, geometry, self.per)
                if gone.any():
                    array[gone] = 0
                    inside &= ~gone
                    size = size_text(float((gone.sum(axis=(1, 2)) * each).sum()), unit)
                    notes.append(f"removed {size} of {label.name} too close to another ROI")
            taken |= inside
        return notes


@dataclass(frozen=True)
class SliceRange(Step):
    """Keeps ROIs only in some slices, numbered from 1 as in the tables.

    Attributes:
        rois: the ROIs.
        first: first slice that may hold them.
        last: last slice that may; None for the scan's last. Negative numbers count from the end: -1 is the last.
    """

    operation: ClassVar[Operation] = Operation(
        "slice_range",
        "after",
        "Keeps ROIs only in some slices, numbered from 1 as in the tables; -1 is the last, -2 the one before it.",
        (
            ROIS,
            Parameter("first", "whole", "first slice that may hold them", 1),
            Parameter("last", "whole", "last slice that may; null for the scan's last", None, optional=True),
        ),
        {"step": "slice_range", "rois": ["bladder"], "first": 1, "last": 40},
    )
    rois: Rois = "all"
    first: int = 1
    last: int | None = None

    def problems(self) -> list[str]:
        problems = [doubled("rois", self.rois)]
        if 0 in (self.first, self.last):
            problems.append("slices are numbered from 1 (or -1 for the last); there is no slice 0")
        elif self.last is not None and (self.first > 0) == (self.last > 0) and self.first > self.last:
            problems.append(
                f"first = {self.first} comes after last = {self.last}, so no slice would be left; swap them"
            )
        return problems

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        count = array.shape[0]
        first = self.first - 1 if self.first > 0 else count + self.first
        last = count if self.last is None else self.last if self.last > 0 else count + self.last + 1
        outside = np.ones(count, np.bool_)
        outside[max(0, first) : max(0, last)] = False
        values = [label.value for label in chosen(self.rois, labels)]
        notes = []
        names = {label.value: label.name for label in labels}
        each, unit = pixel_sizes(geometry, "scan")
        for value in values:
            gone = np.zeros(count)
            for k in np.flatnonzero(outside):
                inside = array[k] == value
                gone[k] = np.count_nonzero(inside)
                array[k][inside] = 0
            if gone.any():
                size = size_text(float((gone * each).sum()), unit)
                notes.append(f"removed {size} of {names[value]} {self._why(first, last, count)}")
        return notes

    def _why(self, first: int, last: int, count: int) -> str:
        """Says which slices were left; where there are none, how many the scan has."""
        if max(0, first) < min(count, last):
            return f"outside the slices {max(0, first) + 1} to {min(count, last)}"
        asked = f"first = {self.first} and last = {'null' if self.last is None else self.last}"
        return f"entirely: {asked} leave no slice, the scan has {count} slice{'' if count == 1 else 's'}"
