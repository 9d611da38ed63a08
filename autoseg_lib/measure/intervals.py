"""Error bars on areas and volumes of a new scan, from its soft boundaries and the model's calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoseg_lib.errors import DataError, counted, name_list
from autoseg_lib.geometry import Geometry
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.calibration import LEVEL, Bound, Calibration
from autoseg_lib.measure.softness import Scales, SoftCounts, scales_of
from autoseg_lib.measure.volumes import VolumeMeasurement, why_no_volume


def add_intervals(
    rows: Sequence[SliceMeasurement],
    volumes: Sequence[VolumeMeasurement],
    soft: SoftCounts | None,
    calibration: Calibration,
    geometry: Geometry,
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement], str]:
    """Fills ``area_mm2_low/high``, ``volume_ml_low/high`` and ``mean_area_mm2_low/high``.

    Args:
        rows: of measurements.csv, slice by slice, ROIs in label order.
        volumes: of volumes.csv, ROIs in label order.
        soft: likely and sure pixels; None where the prediction has none.
        calibration: of the model file (``Calibration.from_dict(metadata.get("calibration"))``).
        geometry: the scan's own grid.

    Returns:
        rows and volumes with intervals, and a sentence on what the intervals are made from, or on why there are none.

    Raises:
        DataError: soft counts and rows are not of the same scan and ROIs.
    """
    why = _why_none(soft, calibration, geometry)
    if why or soft is None:
        return list(rows), list(volumes), f"no error bars: {why}."
    shape = (geometry.shape_zyx[0], len(volumes))
    if soft.likely.shape != shape or len(rows) != shape[0] * shape[1] or len(calibration.areas) != shape[1]:
        raise DataError(
            f"error bars: found soft counts of {soft.likely.shape} slices and ROIs, {len(rows)} rows and a calibration of "
            f"{len(calibration.areas)} ROIs; expected {shape} slices and ROIs everywhere."
        )
    # A calibration in pixels is one in mm² of pixels of this size.
    unit = 1.0 if calibration.in_mm else geometry.pixel_area_mm2
    found = np.array([row.pixels for row in rows], dtype=np.int64).reshape(shape)
    extents = None if why_no_volume(geometry) else geometry.slice_extents_mm
    outlines = np.array(calibration.outlines) * unit
    scales = scales_of(found, soft, geometry.pixel_area_mm2, outlines, extents)
    filled_rows = [
        _row_with(
            row,
            calibration.areas[n % shape[1]],
            float(scales.area.flat[n]),
            bool(scales.possible.flat[n]),
            unit,
        )
        for n, row in enumerate(rows)
    ]
    filled = [_volume_with(row, i, calibration, scales, unit) for i, row in enumerate(volumes)]
    return filled_rows, filled, _said(calibration)


def _why_none(soft: SoftCounts | None, calibration: Calibration, geometry: Geometry) -> str:
    if calibration.reason:
        return calibration.reason
    if soft is None:
        return "the prediction kept no probabilities"
    return "" if geometry.spacing_known else "the pixel spacing is unknown"


def _said(calibration: Calibration) -> str:
    pooled = [name for name, bound in zip(calibration.rois, calibration.areas, strict=True) if bound.pooled]
    text = (
        f"error bars ({100 * LEVEL:.0f} %) are calibrated on {counted(calibration.scans, 'scan')} of "
        f"{counted(calibration.patients, 'patient')}: {calibration.what}"
    )
    if pooled:
        text += f"; those of {name_list(pooled)} on all ROIs together, because too few patients have them"
    return f"{text}."


def _interval(
    value: float, bound: Bound, scale: float, possible: bool, unit: float
) -> tuple[float | None, float | None]:
    """The value ± its bound, never below 0; where nothing is likely, 0 up to what was ever missed so."""
    if possible:
        if bound.factor is None:
            return None, None
        return max(0.0, value - bound.factor * scale), value + bound.factor * scale
    return (None, None) if bound.absent is None else (0.0, bound.absent * unit)


def _row_with(
    row: SliceMeasurement, bound: Bound, scale: float, possible: bool, unit: float
) -> SliceMeasurement:
    if row.area_mm2 is None:
        return row
    low, high = _interval(row.area_mm2, bound, scale, possible, unit)
    return replace(row, area_mm2_low=low, area_mm2_high=high)


def _volume_with(
    row: VolumeMeasurement, i: int, calibration: Calibration, scales: Scales, unit: float
) -> VolumeMeasurement:
    possible = bool(scales.possible[:, i].any())
    if row.mean_area_mm2 is not None:
        low, high = _interval(
            row.mean_area_mm2, calibration.mean_areas[i], float(scales.mean_area[i]), possible, unit
        )
        row = replace(row, mean_area_mm2_low=low, mean_area_mm2_high=high)
    if row.volume_mm3 is not None and scales.volume is not None:
        low, high = _interval(row.volume_mm3, calibration.volumes[i], float(scales.volume[i]), possible, unit)
        in_ml = [None if value is None else value / 1000 for value in (low, high)]
        row = replace(row, volume_ml_low=in_ml[0], volume_ml_high=in_ml[1])
    return row
