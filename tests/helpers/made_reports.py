"""Reports of the data check made in memory: slices with two drawn ROIs, findings wherever a test wants them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts, RoiFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.report import CheckReport, roi_table
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable


def made_slice(name: str, seed: int, size: int = 192, value: int = 0) -> SliceFacts:
    """A slice with a bright disc (ROI 1, or ``value``) and a dark one (ROI 2)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    image = 90 + 50 * np.cos(3 * rows + seed) * np.sin(4 * columns) + rng.normal(0, 6, (size, size))
    label = np.zeros((size, size), np.uint16)
    shift = rng.uniform(-0.08, 0.08, 2)
    for code, row, column, radius, grey in ((value or 1, 0.35, 0.35, 0.17, 80), (2, 0.66, 0.68, 0.12, -70)):
        inside = (rows - row - shift[0]) ** 2 + (columns - column - shift[1]) ** 2 < radius**2
        image[inside] += grey
        label[inside] = code
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    counts = {int(v): int(n) for v, n in zip(*np.unique(label, return_counts=True), strict=True)}
    rois = {v: RoiFacts(n, (0, 0, size, size), False) for v, n in counts.items() if v}
    return SliceFacts(
        name=name,
        image_file=None,
        label_file=None,
        counts=counts,
        rois=rois,
        mean=100.0,
        deviation=20.0,
        percentiles=(0.0,) * 7,
        window=(0.0, 255.0),
        bad_pixels=0,
        is_constant=False,
        grey_levels=200,
        checksum=str(seed),
        label_checksum="",
        perceptual_hash=seed,
        small_image=np.asarray(cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA), np.uint8),
        small_label=np.asarray(cv2.resize(label, (96, 96), interpolation=cv2.INTER_NEAREST)),
        view_jpeg=cv2.imencode(".jpg", pixels)[1].tobytes(),
        view_label_png=cv2.imencode(".png", label)[1].tobytes(),
    )


def made_case(name: str, slices: int, seed: int = 0, size: int = 192, value: int = 0) -> CaseFacts:
    """A case of such slices, 1.5 × 1.5 mm."""
    geometry = Geometry.from_spacing((slices, size, size), (5.0, 1.5, 1.5), spacing_known=True)
    made = tuple(
        made_slice(f"slice_{number + 1:03d}", seed * 1000 + number, size, value) for number in range(slices)
    )
    return CaseFacts(name, f"patient of {name}", "dicom", "MR", geometry, made, str(seed))


def made_report(
    cases: Sequence[CaseFacts],
    findings: Sequence[Finding] = (),
    names: Sequence[str] = ("psoas left", "psoas right"),
) -> CheckReport:
    """A report on them, errors first."""
    labels = LabelTable(names)
    ordered = tuple(sorted(findings, key=lambda finding: finding.severity != "error"))
    total = sum(len(case.slices) for case in cases)
    return CheckReport(
        summary=f"{total} images, {total} labels, {total} pairs, {len(cases)} patients, MR",
        findings=ordered,
        roi_rows=roi_table(cases, labels),
        labels=labels,
        facts=tuple(cases),
        usable=tuple(range(len(cases))),
    )
