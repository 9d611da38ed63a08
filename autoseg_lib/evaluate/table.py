"""The tables of a comparison: one row per case and ROI, and a summary that counts what is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.io.csv_files import write_csv


@dataclass(frozen=True)
class EvaluationRow:
    """One case and ROI; None where a number has no meaning (see ``metrics.overlap``).

    Attributes:
        case: name of the case.
        label: label value in the reference.
        roi: name of the ROI.
        dice: overlap, 0 to 1.
        hd95_mm: larger of the two directed 95th percentiles of the surface distances.
        surface_dice_1mm: share of both surfaces within 1 mm of the other.
        mean_surface_distance_mm: mean over all surface pixels of both.
        volume_reference_ml: volume in the reference.
        volume_prediction_ml: volume in the prediction.
        volume_difference_percent: (prediction - reference) / reference.
        voxels_reference: pixels in the reference.
        voxels_prediction: pixels in the prediction.
        note: why mm or ml are missing, "" where they are not.
        area_difference_mm2: mean over the slices of the absolute difference of the areas.
        area_difference_percent: sum of these differences as a share of the reference's areas.
        applied_path_length_mm: length of the reference's contours that are not on the prediction's (added path length).
        applied_path_length_pixels: the same in pixels.
        false_negative_length_mm: length of the reference's contours that lie outside the prediction.
        false_negative_volume_ml: volume of the reference that the prediction misses.
        diameter_reference_mm: longest in-plane diameter on any slice of the reference; 0 for an absent ROI.
        diameter_prediction_mm: likewise of the prediction.
        recist_error: relative error of that diameter, 1 at most.
        diameter_3d_error: relative error of the longest diameter in space, 1 at most.
        relative_volume_error: relative error of the volume, 1 at most.
        reader: whose masks the reference is, "" where there is one reference.
    """

    case: str
    label: int
    roi: str
    dice: float | None
    hd95_mm: float | None
    surface_dice_1mm: float | None
    mean_surface_distance_mm: float | None
    volume_reference_ml: float | None
    volume_prediction_ml: float | None
    volume_difference_percent: float | None
    voxels_reference: int = 0
    voxels_prediction: int = 0
    note: str = ""
    area_difference_mm2: float | None = None
    area_difference_percent: float | None = None
    applied_path_length_mm: float | None = None
    applied_path_length_pixels: int | None = None
    false_negative_length_mm: float | None = None
    false_negative_volume_ml: float | None = None
    diameter_reference_mm: float | None = None
    diameter_prediction_mm: float | None = None
    recist_error: float | None = None
    diameter_3d_error: float | None = None
    relative_volume_error: float | None = None
    reader: str = ""


@dataclass(frozen=True)
class SummaryRow:
    """One ROI over all cases. Means leave out what has no value; the counts say how much that was.

    Attributes:
        label: label value in the reference.
        roi: name of the ROI.
        cases: cases compared.
        absent_in_both: cases in which neither side has the ROI (not part of any mean).
        only_reference: cases in which the prediction misses the ROI (Dice 0, no distance).
        only_prediction: cases in which only the prediction has it (Dice 0, no distance).
        dice_mean: mean Dice.
        dice_std: its standard deviation (n - 1).
        dice_min: worst Dice.
        hd95_mm_mean: mean where both sides have the ROI.
        surface_dice_1mm_mean: mean surface Dice.
        mean_surface_distance_mm_mean: mean where both sides have the ROI.
        volume_difference_percent_mean: mean signed difference.
        volume_difference_percent_abs_mean: mean absolute difference.
        area_difference_percent_mean, applied_path_length_mm_mean, false_negative_length_mm_mean,
            false_negative_volume_ml_mean, recist_error_mean, diameter_3d_error_mean, relative_volume_error_mean: means of
            the columns of these names.
    """

    label: int
    roi: str
    cases: int
    absent_in_both: int
    only_reference: int
    only_prediction: int
    dice_mean: float | None
    dice_std: float | None
    dice_min: float | None
    hd95_mm_mean: float | None
    surface_dice_1mm_mean: float | None
    mean_surface_distance_mm_mean: float | None
    volume_difference_percent_mean: float | None
    volume_difference_percent_abs_mean: float | None
    area_difference_percent_mean: float | None = None
    applied_path_length_mm_mean: float | None = None
    false_negative_length_mm_mean: float | None = None
    false_negative_volume_ml_mean: float | None = None
    recist_error_mean: float | None = None
    diameter_3d_error_mean: float | None = None
    relative_volume_error_mean: float | None = None


_MEANS = (
    "area_difference_percent",
    "applied_path_length_mm",
    "false_negative_length_mm",
    "false_negative_volume_ml",
    "recist_error",
    "diameter_3d_error",
    "relative_volume_error",
)


def summarise(rows: Sequence[EvaluationRow]) -> list[SummaryRow]:
    """Returns one row per ROI, in order of label value."""
    groups: dict[str, list[EvaluationRow]] = {}
    for row in sorted(rows, key=lambda row: row.label):
        groups.setdefault(row.roi, []).append(row)
    return [_summary(group) for group in groups.values()]


def _summary(rows: list[EvaluationRow]) -> SummaryRow:
    scores = _values(rows, "dice")
    differences = _values(rows, "volume_difference_percent")
    return SummaryRow(
        label=rows[0].label,
        roi=rows[0].roi,
        cases=len(rows),
        absent_in_both=sum(not row.voxels_reference and not row.voxels_prediction for row in rows),
        only_reference=sum(bool(row.voxels_reference) and not row.voxels_prediction for row in rows),
        only_prediction=sum(bool(row.voxels_prediction) and not row.voxels_reference for row in rows),
        dice_mean=_mean(scores),
        dice_std=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        dice_min=min(scores, default=None),
        hd95_mm_mean=_mean(_values(rows, "hd95_mm")),
        surface_dice_1mm_mean=_mean(_values(rows, "surface_dice_1mm")),
        mean_surface_distance_mm_mean=_mean(_values(rows, "mean_surface_distance_mm")),
        volume_difference_percent_mean=_mean(differences),
        volume_difference_percent_abs_mean=_mean([abs(value) for value in differences]),
        **{f"{name}_mean": _mean(_values(rows, name)) for name in _MEANS},
    )


def _values(rows: list[EvaluationRow], name: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, name)) is not None]


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def write_rows(path: Path, rows: Sequence[EvaluationRow]) -> None:
    """Writes the CSV of a comparison: one row per case and ROI.

    Raises:
        ExportError: the file cannot be written.
    """
    _write(path, EvaluationRow, rows)


def write_summary(path: Path, rows: Sequence[SummaryRow]) -> None:
    """Writes the summary: one row per ROI.

    Raises:
        ExportError: the file cannot be written.
    """
    _write(path, SummaryRow, rows)


def _write(path: Path, kind: type, rows: Sequence[Any]) -> None:
    names = [item.name for item in dataclasses.fields(kind)]
    write_csv(path, names, ([getattr(row, name) for name in names] for row in rows))
