"""Error bars: a 90 % interval for every area and volume, from soft boundaries, calibrated on scans kept back from training.

How far a boundary may be off is told by the model itself: between its likely and its sure pixels (``SoftCounts``) lies the
band in which it wavers. By how many such bands areas are really off is learned from the scans kept back (``calibrate``), and a
new scan's bands times that number are its error bars (``add_intervals``). See docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoseg_lib.geometry import Geometry
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement

LEVEL = 0.90

# Below this many patients a 90 % interval would rest on the one or two worst of them.
FEWEST_PATIENTS = 20

# Beside the soft band, an error of the outline by this share of a pixel on its whole length is always reckoned with; the length
# is taken as that of a circle. It keeps bars of models that are too sure of themselves from shrinking to nothing.
OUTLINE_PIXELS = 0.25

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class SoftCounts(Protocol):
    """Pixels of the scan's own grid that are likely (probability at least 0.25) and surely (0.75) an ROI; see infer/soft.py."""

    @property
    def likely(self) -> Counts:
        """(slices, ROIs) pixels."""

    @property
    def sure(self) -> Counts:
        """(slices, ROIs) pixels."""


@dataclass(frozen=True)
class CalibrationScan:
    """What calibrating needs of one scan kept back: numbers of pixels on the scan's own grid.

    Attributes:
        name: the scan.
        patient: the same for scans of one patient.
        true: (slices, ROIs) pixels of the label.
        found: pixels of the model's answer, after post-processing.
        overlap: pixels of both.
        likely, sure: see SoftCounts.
        pixel_area_mm2: area of a pixel; None where it is unknown.
        extents_mm: (slices,) what each slice stands for along the normal; None where the scan has no volume.
    """

    name: str
    patient: str
    true: Counts = field(repr=False)
    found: Counts = field(repr=False)
    overlap: Counts = field(repr=False)
    likely: Counts = field(repr=False)
    sure: Counts = field(repr=False)
    pixel_area_mm2: float | None
    extents_mm: Floats | None = field(repr=False)

    @property
    def dice(self) -> Floats:
        """(slices, ROIs) Dice on each slice; NaN where neither side has the ROI."""
        both = self.true + self.found
        return np.where(both > 0, 2.0 * self.overlap / np.maximum(both, 1), np.nan)


@dataclass(frozen=True)
class Bound:
    """How many scales an ROI's value may be off.

    Attributes:
        factor: half width of the interval, in scales; None where there were too few patients.
        absent: upper end where nothing of the ROI was likely, in mm² (pixels where the scans had no spacing); None likewise.
        patients: who these were calibrated on.
        pooled: over all ROIs, because this one alone had too few patients.
    """

    factor: float | None
    absent: float | None
    patients: int
    pooled: bool


@dataclass(frozen=True)
class Calibration:
    """What the scans kept back tell about the model's errors; kept in the model file.

    Attributes:
        reason: why there are no intervals; "" where there are.
        rois: names of the ROIs.
        areas, mean_areas, volumes: a Bound for each ROI; empty with a ``reason``.
        pixel_mm: side of a pixel of the scans kept back (median); 1 where they had no spacing.
        in_mm: whether they had.
        scans, patients: how many were calibrated on.
        what: what they were, for a sentence.
        unsure_above: softness above which a Dice below 0.8 is to be expected on a slice (see flags.py); None: not calibrated.
    """

    reason: str = ""
    rois: tuple[str, ...] = ()
    areas: tuple[Bound, ...] = ()
    mean_areas: tuple[Bound, ...] = ()
    volumes: tuple[Bound, ...] = ()
    pixel_mm: float = 1.0
    in_mm: bool = True
    scans: int = 0
    patients: int = 0
    what: str = ""
    unsure_above: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return {"level": LEVEL, **asdict(self)}

    @classmethod
    def from_dict(cls, table: dict[str, Any] | None) -> Calibration:
        """Returns the calibration that ``to_dict`` wrote; one without intervals for a model file that has none.

        Raises:
            ModelError: keys or values are missing or wrong.
        """
        raise NotImplementedError


def calibrate(scans: Sequence[CalibrationScan], rois: Sequence[str], what: str) -> Calibration:
    """Learns from scans kept back how far areas and volumes are off.

    Args:
        scans: of the one pass over the scans kept back.
        rois: names of the ROIs.
        what: what the scans are, e.g. "scans kept back from training".

    Returns:
        a calibration; with fewer than ``FEWEST_PATIENTS`` patients one without intervals that says so.
    """
    raise NotImplementedError


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
    raise NotImplementedError
