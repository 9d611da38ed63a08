"""Filling holes: background that a ROI encloses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autoseg_lib.errors import counted
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.pieces import SLICE_BY_SLICE, boxes, meant, number_pieces
from autoseg_lib.postprocess.sizes import Labels, Per, Where, pixel_sizes, require_mm, size_text
from autoseg_lib.postprocess.step import ROIS, Rois, Step, chosen, doubled
from autoseg_lib.preprocess.operations import Operation, Parameter


def enclosed(inside: Where, per: Per) -> Where:
    """Returns the pixels outside a ROI that no path leads out of: from side to side, not across corners.

    Args:
        inside: the ROI in its smallest box, so that whatever touches the box's border is outside.
        per: "slice" looks at every slice by itself, "scan" also for ways out through other slices.
    """
    from scipy import ndimage

    around = np.asarray(ndimage.generate_binary_structure(3, 1), dtype=np.bool_)
    if per == "slice":
        around[0] = around[2] = False
    numbered, count = ndimage.label(~inside, around, output=np.int32)
    open_to_outside = np.zeros(count + 1, np.bool_)
    for axis in range(1 if per == "slice" else 0, 3):
        for end in (0, -1):
            open_to_outside[np.unique(np.take(numbered, end, axis=axis))] = True
    open_to_outside[0] = True
    return ~open_to_outside[numbered]


@dataclass(frozen=True)
class FillHoles(Step):
    """Fills holes of a ROI with the ROI. A hole that reaches the scan's edge is none.

    Attributes:
        rois: the ROIs, in the order in which they are filled.
        per: "slice" fills what is enclosed within a slice, "scan" only what no slice leads out of.
        up_to_mm3, up_to_mm2: larger holes stay (mm³ with per = "scan", mm² with "slice").
        over: ROIs that filling may replace; all others, and what is not listed, stay as they are.
    """

    operation: ClassVar[Operation] = Operation(
        "fill_holes",
        "after",
        "Fills the background that a ROI encloses with the ROI. A hole that reaches the scan's edge is none.",
        (
            ROIS,
            Parameter(
                "per",
                "choice",
                'what is enclosed within a "slice", or what no slice of the "scan" leads out of',
                "slice",
                choices=("scan", "slice"),
            ),
            Parameter(
                "up_to_mm3",
                "number",
                'with per = "scan": larger holes stay',
                None,
                "mm³",
                0,
                above=True,
                optional=True,
            ),
            Parameter(
                "up_to_mm2",
                "number",
                'with per = "slice": larger holes stay',
                None,
                "mm²",
                0,
                above=True,
                optional=True,
            ),
            Parameter("over", "texts", "other ROIs that filling may replace", (), single=True),
        ),
        {"step": "fill_holes", "rois": ["vertebra"], "per": "slice", "up_to_mm2": 100},
    )
    rois: Rois = "all"
    per: Per = "slice"
    up_to_mm3: float | None = None
    up_to_mm2: float | None = None
    over: Rois = ()

    def problems(self) -> list[str]:
        problems = [doubled("rois", self.rois)]
        for name, per in (("up_to_mm3", "scan"), ("up_to_mm2", "slice")):
            if getattr(self, name) is not None and self.per != per:
                problems.append(f'{name} goes with per = "{per}"')
        return problems

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        if self.up_to_mm3 is not None:
            require_mm(geometry, "scan", self.operation.name, "up_to_mm3")
        if self.up_to_mm2 is not None:
            require_mm(geometry, "slice", self.operation.name, "up_to_mm2")
        per, notes = meant(self.per, geometry), []
        replaced = {label.value for label in chosen(self.over, labels)}
        limit = self.up_to_mm3 if self.up_to_mm3 is not None else self.up_to_mm2
        for label, box in boxes(array, chosen(self.rois, labels)):
            part = array[box]
            fill = enclosed(part == label.value, per) & np.isin(part, [0, *replaced])
            holes = number_pieces(fill, per, "sides", geometry, box[0].start)
            if limit is not None:
                fill &= np.concatenate([[False], holes.sizes <= limit])[holes.numbered]
            if not fill.any():
                continue
            part[fill] = label.value
            number = len(np.unique(holes.numbered[fill]))
            each, unit = pixel_sizes(geometry, per)
            size = float((fill.sum(axis=(1, 2)) * each[box[0]]).sum())
            notes.append(f"filled {counted(number, 'hole')} ({size_text(size, unit)}) in {label.name}")
        return [*notes, SLICE_BY_SLICE] if notes and per != self.per else notes
