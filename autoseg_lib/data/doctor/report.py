"""The result of the data doctor: counts, the table of ROIs, and the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.pairing import Pairing
from autoseg_lib.labels import LabelTable

MARKS = {"error": "✘", "warning": "⚠", "fine": "✔"}


@dataclass(frozen=True)
class RoiRow:
    """One line of the ROI table. ``median_area_mm2`` is None where the pixel size is unknown."""

    value: int
    name: str
    color: str
    slices: int
    cases: int
    median_area_mm2: float | None
    median_area_pixels: float
    share_percent: float


@dataclass(frozen=True)
class CheckReport:
    """Result of the data check.

    Attributes:
        summary: one line with the counts and the geometry.
        findings: what is wrong or odd: errors first, then warnings.
        roi_rows: one line for each ROI.
        labels: the ROIs' values and names.
        facts: what was found for each case that could be read.
        usable: index of each readable case in ``Pairing.cases``.
        checksum: of all pixels and label values, to tell whether data changed between two runs.
        fine: what was looked at and found right, one line each.
        fit: (case, slice index) → how well the label fits its image by comparison with the others, 0 to 1.
    """

    summary: str
    findings: tuple[Finding, ...]
    roi_rows: tuple[RoiRow, ...]
    labels: LabelTable
    facts: tuple[CaseFacts, ...] = field(repr=False)
    usable: tuple[int, ...] = ()
    checksum: str = ""
    fine: tuple[Finding, ...] = ()
    fit: Mapping[tuple[str, int], float] = field(default_factory=dict, repr=False)

    @property
    def has_errors(self) -> bool:
        """Whether training must not start."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def fixable(self) -> tuple[Finding, ...]:
        """The findings that a corrected copy of the data would be rid of."""
        return tuple(finding for finding in self.findings if finding.fix is not None)

    def lines(self) -> list[str]:
        """Returns the report as text lines, as shown in a terminal."""
        lines = [self.summary]
        if self.roi_rows:
            lines.append(f"{'value':>5}  {'ROI':<32} {'slices':>6}  {'median area':>14}  {'pixels':>8}")
        for row in self.roi_rows:
            area = (
                f"{row.median_area_pixels:.0f} px"
                if row.median_area_mm2 is None
                else f"{row.median_area_mm2:.1f} mm²"
            )
            lines.append(
                f"{row.value:>5}  {row.name:<32} {row.slices:>6}  {area:>14}  {row.share_percent:>7.2f}%"
            )
        lines += [f"{MARKS[finding.severity]} {finding.text}" for finding in self.findings]
        if not self.findings:
            lines.append("✔ No problems found.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for ``--json``."""
        listed = [finding.to_dict() for finding in (*self.findings, *self.fine)]
        return {
            "summary": self.summary,
            "errors": [item for item in listed if item["severity"] == "error"],
            "warnings": [item for item in listed if item["severity"] == "warning"],
            "findings": listed,
            "fixes": [finding.fix.text for finding in self.fixable if finding.fix is not None],
            "rois": [row.__dict__ for row in self.roi_rows],
            "cases": len(self.facts),
            "patients": len({facts.patient for facts in self.facts}),
            "slices": sum(len(facts.slices) for facts in self.facts),
        }


def summary_line(pairing: Pairing, facts: Sequence[CaseFacts]) -> str:
    """Returns one line: how many images, labels, pairs, patients; modality, size, spacing."""
    patients = len({f.patient for f in facts})
    parts = [
        f"{pairing.images} images",
        f"{pairing.labels} labels",
        f"{pairing.pairs} pairs",
        f"{patients} patient{'s' if patients != 1 else ''}",
    ]
    modalities = sorted({f.modality for f in facts if f.modality})
    if modalities:
        parts.append("/".join(modalities))
    if facts:
        slices = sum(len(f.slices) for f in facts)
        if slices != pairing.pairs:
            parts.append(f"{slices} slices")
        parts.append(
            _range(
                [f.geometry.shape_zyx[1] for f in facts],
                "{:.0f}",
                " × ",
                [f.geometry.shape_zyx[2] for f in facts],
            )
        )
        known = [f for f in facts if f.geometry.spacing_known]
        if known:
            rows = [f.geometry.spacing_zyx_mm[1] for f in known]
            columns = [f.geometry.spacing_zyx_mm[2] for f in known]
            same = all(abs(r - c) < 1e-3 for r, c in zip(rows, columns, strict=True))
            parts.append((_range(rows, "{:.2f}") if same else _range(rows, "{:.2f}", " × ", columns)) + " mm")
        stacked = [
            f
            for f in facts
            if f.geometry.positions_known and f.geometry.has_one_image_per_position and len(f.slices) > 1
        ]
        if stacked:
            parts.append(
                _range([f.geometry.spacing_zyx_mm[0] for f in stacked], "{:.1f}") + " mm between slices"
            )
    return ", ".join(parts)


def _range(first: Sequence[float], form: str, sign: str = "", second: Sequence[float] | None = None) -> str:
    def one(values: Sequence[float]) -> str:
        low, high = form.format(min(values)), form.format(max(values))
        return low if low == high else f"{low}–{high}"

    return one(first) if second is None else f"{one(first)}{sign}{one(second)}"


def roi_table(facts: Sequence[CaseFacts], labels: LabelTable) -> tuple[RoiRow, ...]:
    """Returns one line for each ROI: in how many slices and cases it is, how large it is."""
    total = sum(sum(count.values()) for f in facts for count in f.counts)
    rows = []
    for label in labels:
        pixels, areas, cases = [], [], 0
        for f in facts:
            found = [count[label.value] for count in f.counts if label.value in count]
            cases += bool(found)
            pixels += found
            if f.geometry.spacing_known:
                areas += [n * f.geometry.pixel_area_mm2 for n in found]
        complete = bool(areas) and len(areas) == len(pixels)
        rows.append(
            RoiRow(
                value=label.value,
                name=label.name,
                color=label.color,
                slices=len(pixels),
                cases=cases,
                median_area_mm2=round(float(np.median(areas)), 1) if complete else None,
                median_area_pixels=float(np.median(pixels)) if pixels else 0.0,
                share_percent=round(100 * sum(pixels) / total, 3) if total else 0.0,
            )
        )
    return tuple(rows)
