"""What the data check knows of made scans, without any pixels: shapes, spacings and the boxes of ROIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts, RoiFacts, SliceFacts
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable

# (first slice, first row, first column, last + 1 of each)
Box = tuple[int, int, int, int, int, int]


def scan_facts(
    name: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    rois: Mapping[int, Box] | None = None,
    modality: str = "MR",
    grey: Sequence[float] = (10.0, 20.0, 30.0),
    spacing_known: bool = True,
    patient: str = "",
) -> CaseFacts:
    """A scan whose ROIs fill their boxes."""
    slices = []
    for number in range(shape[0]):
        here = {
            value: RoiFacts((b[4] - b[1]) * (b[5] - b[2]), (b[1], b[2], b[4], b[5]), False)
            for value, b in (rois or {}).items()
            if b[0] <= number < b[3]
        }
        counts = {value: roi.pixels for value, roi in here.items()}
        counts[0] = shape[1] * shape[2] - sum(counts.values())
        slices.append(
            SliceFacts(
                name=f"slice_{number + 1:04d}",
                image_file=None,
                label_file=None,
                counts=counts,
                rois=here,
                mean=0.0,
                deviation=1.0,
                percentiles=(0.0,) * 7,
                window=(0.0, 1.0),
                bad_pixels=0,
                is_constant=False,
                grey_levels=100,
                checksum="",
                label_checksum="",
                perceptual_hash=0,
                small_image=np.zeros((1, 1), np.uint8),
                small_label=np.zeros((1, 1), np.uint8),
            )
        )
    return CaseFacts(
        name,
        patient or name,
        "volume",
        modality,
        Geometry.from_spacing(shape, spacing, spacing_known=spacing_known, positions_known=spacing_known),
        tuple(slices),
        name,
        roi_grey_values=np.array(grey, np.float32) if rois else None,
    )


def report_on(facts: Sequence[CaseFacts], names: Sequence[str] = ("head", "tail")) -> CheckReport:
    """A report of the data check on them, without findings."""
    return CheckReport(
        summary="",
        findings=(),
        roi_rows=(),
        labels=LabelTable(names),
        facts=tuple(facts),
        usable=tuple(range(len(facts))),
    )
