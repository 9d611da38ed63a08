"""Error bars: a 90 % interval for every area and volume, from soft boundaries, calibrated on scans kept back from training.

How far a boundary may be off is told by the model itself: between its likely and its sure pixels (``SoftCounts``) lies the
band in which it wavers. By how many such bands areas are really off is learned from the scans kept back (``calibrate.py``), and
a new scan's bands times that number are its error bars (``intervals.py``). See docs/trust.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from autoseg_lib.errors import DataError, ModelError
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import count_pixels
from autoseg_lib.measure.softness import Counts, Floats, SoftCounts
from autoseg_lib.measure.volumes import why_no_volume
from autoseg_lib.volume import Mask

LEVEL = 0.90


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

    @classmethod
    def compare(
        cls, truth: Mask, found: Mask, soft: SoftCounts, labels: LabelTable, name: str, patient: str
    ) -> CalibrationScan:
        """Counts the pixels of a label, of the answer for it, and of both.

        Args:
            truth: the label.
            found: the model's answer on the same grid, after post-processing.
            soft: of the same answer.
            labels: the ROIs.
            name: the scan.
            patient: the same for scans of one patient.

        Raises:
            DataError: soft counts and masks are not of the same scan and ROIs.
        """
        geometry = truth.geometry
        shape = (geometry.shape_zyx[0], len(labels))
        if soft.likely.shape != shape:
            raise DataError(
                f"'{name}': found soft counts of {soft.likely.shape} slices and ROIs, expected {shape}."
            )
        same = truth.with_array(
            np.where(truth.array == found.array, truth.array, 0).astype(truth.array.dtype)
        )
        return cls(
            name=name,
            patient=patient,
            true=count_pixels(truth, labels, name),
            found=count_pixels(found, labels, name),
            overlap=count_pixels(same, labels, name),
            likely=soft.likely,
            sure=soft.sure,
            pixel_area_mm2=geometry.pixel_area_mm2 if geometry.spacing_known else None,
            extents_mm=None if why_no_volume(geometry) else geometry.slice_extents_mm,
        )


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
        outlines: of each ROI the area of a line one pixel wide around it, in mm² (pixels where the scans had no spacing).
        in_mm: whether they had spacing.
        scans, patients: how many were calibrated on.
        what: what they were, for a sentence.
        unsure_above: of each ROI the softness above which a Dice below 0.8 is to be expected on a slice; None: not calibrated.
    """

    reason: str = ""
    rois: tuple[str, ...] = ()
    areas: tuple[Bound, ...] = ()
    mean_areas: tuple[Bound, ...] = ()
    volumes: tuple[Bound, ...] = ()
    outlines: tuple[float, ...] = ()
    in_mm: bool = True
    scans: int = 0
    patients: int = 0
    what: str = ""
    unsure_above: tuple[float | None, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return {"level": LEVEL, **asdict(self)}

    @classmethod
    def from_dict(cls, table: dict[str, Any] | None) -> Calibration:
        """Returns the calibration that ``to_dict`` wrote; one without intervals for a model file that has none.

        Raises:
            ModelError: keys or values are missing or wrong.
        """
        if table is None:
            return cls(reason="the model file holds no calibration")
        try:
            values = {key: table[key] for key in cls.__dataclass_fields__}
            for kind in KINDS:
                values[kind] = tuple(_bound(each) for each in values[kind])
            outlines = tuple(float(each) for each in values["outlines"])
            unsure = tuple(None if each is None else float(each) for each in values["unsure_above"])
            if any(not 0 <= each < np.inf for each in outlines):
                raise ValueError("an outline that is no number of at least 0")
            # With a reason for having none, all are empty.
            wanted = 0 if values["reason"] else len(values["rois"])
            if any(len(part) != wanted for part in (outlines, unsure, *(values[kind] for kind in KINDS))):
                raise ValueError(f"other than {wanted} bounds of each kind")
            return cls(
                **{
                    **values,
                    "rois": tuple(map(str, values["rois"])),
                    "outlines": outlines,
                    "unsure_above": unsure,
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"calibration: the model file's table of error bars is damaged ({error}). Train the model again, or set the "
                "file aside."
            ) from None


KINDS = ("areas", "mean_areas", "volumes")


def _bound(table: dict[str, Any]) -> Bound:
    factor, absent = (None if table[key] is None else float(table[key]) for key in ("factor", "absent"))
    if any(value is not None and not 0 <= value < np.inf for value in (factor, absent)):
        raise ValueError("a width that is no number of at least 0")
    return Bound(factor, absent, int(table["patients"]), bool(table["pooled"]))
