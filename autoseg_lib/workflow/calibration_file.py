"""NAME_calibration.csv: what the model found on each slice kept back, beside the label; error bars are calibrated on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from autoseg_lib.io.files import atomic_write
from autoseg_lib.measure.calibration import CalibrationScan

_COUNTS = ["true", "found", "overlap", "likely", "sure"]
COLUMNS = ["case", "patient", "slice", "roi", *_COUNTS, "pixel_area_mm2", "extent_mm"]


def write_calibration_scans(path: Path, scans: Sequence[CalibrationScan], rois: Sequence[str]) -> None:
    """Writes one row per scan, slice and ROI; unknown spacing leaves cells empty. Patients are numbered, not named.

    Raises:
        ExportError: the file is open in another program, or the disk is full.
    """
    patients = {name: number for number, name in enumerate(sorted({s.patient for s in scans}), start=1)}
    rows = [
        (
            scan.name,
            patients[scan.patient],
            k + 1,
            roi,
            *(int(getattr(scan, column)[k, i]) for column in _COUNTS),
            scan.pixel_area_mm2,
            None if scan.extents_mm is None else float(scan.extents_mm[k]),
        )
        for scan in scans
        for k in range(scan.true.shape[0])
        for i, roi in enumerate(rois)
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    atomic_write(path, lambda target: frame.to_csv(target, index=False, encoding="utf-8"))


def read_calibration_scans(path: Path, rois: Sequence[str]) -> tuple[CalibrationScan, ...] | None:
    """Returns what ``write_calibration_scans`` wrote; None where the file is missing, damaged or of other ROIs."""
    try:
        frame = pd.read_csv(
            path,
            dtype={"case": str, "patient": str, "roi": str},
            keep_default_na=False,
            na_values={"pixel_area_mm2": "", "extent_mm": ""},
        )
        scans = tuple(
            _scan(str(name), part, rois) for name, part in frame[COLUMNS].groupby("case", sort=False)
        )
    except (OSError, ValueError, KeyError):
        return None
    return scans


def _scan(name: str, part: pd.DataFrame, rois: Sequence[str]) -> CalibrationScan:
    if list(part["roi"])[: len(rois)] != list(rois) or len(part) % len(rois):
        raise ValueError("other ROIs")
    counts = {column: part[column].to_numpy(np.int64).reshape(-1, len(rois)) for column in _COUNTS}
    area, extents = part["pixel_area_mm2"].iloc[0], part["extent_mm"].to_numpy(np.float64)[:: len(rois)]
    return CalibrationScan(
        name=name,
        patient=str(part["patient"].iloc[0]),
        pixel_area_mm2=None if pd.isna(area) else float(area),
        extents_mm=None if np.isnan(extents).any() else extents,
        **counts,
    )
