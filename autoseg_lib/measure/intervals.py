"""Error bars on areas and volumes of a new scan, from its soft boundaries and the model's calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg_lib.errors import DataError, counted, name_list
from autoseg_lib.geometry import Geometry
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.calibration import LEVEL, Bound, Calibration
from autoseg_lib.measure.softness import Counts, Floats, SoftCounts, scales_of
from autoseg_lib.measure.volumes import VolumeMeasurement, why_no_volume


@dataclass(frozen=True)
class Intervals:
    """Lower and upper ends; NaN where there is no interval.

    Attributes:
        area: (slices, ROIs, 2) in mm².
        mean_area: (ROIs, 2) in mm².
        volume: (ROIs, 2) in mm³.
    """

    area: Floats
    mean_area: Floats
    volume: Floats


def intervals_of(
    found: Counts,
    soft: SoftCounts,
    pixel_area_mm2: float,
    extents_mm: Floats | None,
    calibration: Calibration,
) -> Intervals:
    """Returns the intervals of one scan: value ± factor × scale, never below 0; where nothing is likely, 0 to what was missed so.

    Args:
        found: (slices, ROIs) pixels of the answer.
        soft: likely and sure pixels.
        pixel_area_mm2: area of a pixel.
        extents_mm: (slices,) what each slice stands for along the normal; None without a volume.
        calibration: one with intervals.
    """
    # A calibration in pixels is one in mm² of pixels of this size.
    unit = 1.0 if calibration.in_mm else pixel_area_mm2
    scales = scales_of(found, soft, pixel_area_mm2, np.array(calibration.outlines) * unit, extents_mm)
    area = np.asarray(found * pixel_area_mm2, dtype=np.float64)
    mean = area.sum(axis=0) / np.maximum((found > 0).sum(axis=0), 1)
    anywhere = np.asarray(scales.possible.any(axis=0))
    nothing = np.full((area.shape[1], 2), np.nan)
    volume = nothing
    if extents_mm is not None and scales.volume is not None:
        volume = _ends(np.asarray(extents_mm @ area), scales.volume, anywhere, calibration.volumes, unit)
    return Intervals(
        area=_ends(area, scales.area, scales.possible, calibration.areas, unit),
        mean_area=_ends(mean, scales.mean_area, anywhere, calibration.mean_areas, unit),
        volume=volume,
    )


def _ends(value: Floats, scale: Floats, possible: np.ndarray, bounds: Sequence[Bound], unit: float) -> Floats:
    """(..., ROIs, 2) ends of the intervals of (..., ROIs) values."""
    factor = np.array([np.nan if b.factor is None else b.factor for b in bounds])
    missed = np.array([np.nan if b.absent is None else b.absent * unit for b in bounds])
    low = np.where(possible, np.maximum(value - factor * scale, 0.0), np.where(np.isnan(missed), np.nan, 0.0))
    return np.stack([low, np.where(possible, value + factor * scale, missed)], axis=-1)


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
    found = np.array([row.pixels for row in rows], dtype=np.int64).reshape(shape)
    extents = None if why_no_volume(geometry) else geometry.slice_extents_mm
    ends = intervals_of(found, soft, geometry.pixel_area_mm2, extents, calibration)
    areas = ends.area.reshape(-1, 2)
    filled = [
        replace(row, area_mm2_low=_known(low), area_mm2_high=_known(high))
        for row, (low, high) in zip(rows, areas, strict=True)
    ]
    of_volumes = [
        _volume_with(row, ends.mean_area[i], ends.volume[i] / 1000) for i, row in enumerate(volumes)
    ]
    return filled, of_volumes, _said(calibration)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _volume_with(row: VolumeMeasurement, mean_mm2: Floats, volume_ml: Floats) -> VolumeMeasurement:
    if row.mean_area_mm2 is not None:
        low, high = _known(mean_mm2[0]), _known(mean_mm2[1])
        row = replace(row, mean_area_mm2_low=low, mean_area_mm2_high=high)
    if row.volume_ml is not None:
        row = replace(row, volume_ml_low=_known(volume_ml[0]), volume_ml_high=_known(volume_ml[1]))
    return row


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
