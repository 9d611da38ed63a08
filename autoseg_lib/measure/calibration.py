"""Error bars: a 90 % interval for every area and volume, from soft boundaries, calibrated on scans kept back from training.

How far a boundary may be off is told by the model itself: between its likely and its sure pixels (``SoftCounts``) lies the
band in which it wavers. By how many such bands areas are really off is learned from the scans kept back (``calibrate``), and a
new scan's bands times that number are its error bars (``measure/intervals.py``). See docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, ModelError, counted
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import count_pixels
from autoseg_lib.measure.conformal import pooled_quantile
from autoseg_lib.measure.softness import Counts, Floats, SoftCounts, outline_of, scales_of
from autoseg_lib.measure.volumes import why_no_volume
from autoseg_lib.volume import Mask

LEVEL = 0.90

# Below this many patients a 90 % interval would rest on the one or two worst of them.
FEWEST_PATIENTS = 20


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
        unsure_above: softness above which a Dice below 0.8 is to be expected on a slice (see flags.py); None: not calibrated.
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
        if table is None:
            return cls(reason="the model file holds no calibration")
        try:
            values = {key: table[key] for key in cls.__dataclass_fields__}
            for kind in _KINDS:
                values[kind] = tuple(_bound(each) for each in values[kind])
                if values[kind] and len(values[kind]) != len(values["rois"]):
                    raise ValueError(f"{len(values[kind])} bounds for {len(values['rois'])} ROIs")
            unsure = values["unsure_above"]
            return cls(
                **{
                    **values,
                    "rois": tuple(map(str, values["rois"])),
                    "outlines": tuple(float(each) for each in values["outlines"]),
                    "unsure_above": None if unsure is None else float(unsure),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"calibration: the model file's table of error bars is damaged ({error}). Train the model again, or set the "
                "file aside."
            ) from None


_KINDS = ("areas", "mean_areas", "volumes")


def _bound(table: dict[str, Any]) -> Bound:
    factor, absent = (None if table[key] is None else float(table[key]) for key in ("factor", "absent"))
    if any(value is not None and not 0 <= value < np.inf for value in (factor, absent)):
        raise ValueError("a width that is no number of at least 0")
    return Bound(factor, absent, int(table["patients"]), bool(table["pooled"]))


# --- calibrating ------------------------------------------------------------------------------------------------------


@dataclass
class _Errors:
    """Errors of one kind of value and one ROI, patient by patient.

    Attributes:
        scaled: where something was found or likely: |true - found| / scale.
        missed: where nothing was: the true value.
    """

    scaled: dict[str, list[float]]
    missed: dict[str, list[float]]

    @classmethod
    def none(cls) -> _Errors:
        return cls({}, {})

    def add(
        self, patient: str, true: Floats, found: Floats, scale: Floats, possible: npt.NDArray[np.bool_]
    ) -> None:
        errors = np.abs(true - found)[possible] / scale[possible]
        self.scaled.setdefault(patient, []).extend(errors.tolist())
        self.missed.setdefault(patient, []).extend(true[~possible].tolist())


def calibrate(scans: Sequence[CalibrationScan], rois: Sequence[str], what: str) -> Calibration:
    """Learns from scans kept back how far areas and volumes are off.

    Args:
        scans: of the one pass over the scans kept back.
        rois: names of the ROIs.
        what: what the scans are, e.g. "scans kept back from training".

    Returns:
        a calibration; with fewer than ``FEWEST_PATIENTS`` patients one without intervals that says so.
    """
    patients = len({scan.patient for scan in scans})
    base = Calibration(rois=tuple(rois), scans=len(scans), patients=patients, what=what)
    if patients < FEWEST_PATIENTS:
        return replace(base, reason=_too_few(len(scans), patients))
    known = [scan.pixel_area_mm2 for scan in scans if scan.pixel_area_mm2 is not None]
    in_mm = len(known) == len(scans)
    pixel_areas = known if in_mm else [1.0] * len(scans)
    outlines = _outlines(scans, pixel_areas, len(rois))
    errors = {kind: [_Errors.none() for _ in rois] for kind in _KINDS}
    for scan, pixel_area in zip(scans, pixel_areas, strict=True):
        _gather(errors, scan, pixel_area, outlines)
    areas, means, volumes = (_bounds(errors[kind]) for kind in _KINDS)
    return replace(
        base,
        areas=areas,
        mean_areas=means,
        volumes=volumes,
        outlines=tuple(outlines.tolist()),
        in_mm=in_mm,
    )


def _too_few(scans: int, patients: int) -> str:
    if scans == 0:
        return "no scans were kept back from training to calibrate on"
    of = "" if scans == patients else f" of {counted(patients, 'patient')}"
    return f"{counted(scans, 'scan')}{of} were kept back to calibrate on, and at least {FEWEST_PATIENTS} patients are needed"


def _outlines(scans: Sequence[CalibrationScan], pixel_areas: Sequence[float], rois: int) -> Floats:
    """The outline of each ROI as it usually is: around the median of the areas found; of all ROIs where it was never found."""
    side = float(np.median(np.sqrt(pixel_areas)))
    found = [scan.found * area for scan, area in zip(scans, pixel_areas, strict=True)]
    each = [np.concatenate([areas[:, i][areas[:, i] > 0] for areas in found]) for i in range(rois)]
    every = np.concatenate(each)
    usual = float(np.median(every)) if every.size else side**2
    return np.array([outline_of(float(np.median(one)) if one.size else usual, side) for one in each])


def _gather(
    errors: dict[str, list[_Errors]], scan: CalibrationScan, pixel_area: float, outlines: Floats
) -> None:
    scales = scales_of(scan.found, scan, pixel_area, outlines, scan.extents_mm)
    true, found = (np.asarray(each * pixel_area, dtype=np.float64) for each in (scan.true, scan.found))
    anywhere = np.asarray(scales.possible.any(axis=0))
    means = [_mean_where_present(each) for each in (true, found)]
    for i in range(true.shape[1]):
        errors["areas"][i].add(
            scan.patient, true[:, i], found[:, i], scales.area[:, i], scales.possible[:, i]
        )
        one = slice(i, i + 1)
        errors["mean_areas"][i].add(
            scan.patient, means[0][one], means[1][one], scales.mean_area[one], anywhere[one]
        )
        if scales.volume is not None and scan.extents_mm is not None:
            whole = [scan.extents_mm @ each[:, one] for each in (true, found)]
            errors["volumes"][i].add(scan.patient, whole[0], whole[1], scales.volume[one], anywhere[one])


def _mean_where_present(areas: Floats) -> Floats:
    return np.asarray(areas.sum(axis=0) / np.maximum((areas > 0).sum(axis=0), 1), dtype=np.float64)


def _bounds(errors: Sequence[_Errors]) -> tuple[Bound, ...]:
    pooled = _Errors.none()
    for one in errors:
        for mine, all_ in ((one.scaled, pooled.scaled), (one.missed, pooled.missed)):
            for patient, values in mine.items():
                all_.setdefault(patient, []).extend(values)
    bounds = []
    for one in errors:
        factor, patients, from_all = _quantile(one.scaled, pooled.scaled)
        bounds.append(Bound(factor, _quantile(one.missed, pooled.missed)[0], patients, from_all))
    return tuple(bounds)


def _quantile(own: dict[str, list[float]], pooled: dict[str, list[float]]) -> tuple[float | None, int, bool]:
    """The quantile of the ROI's own errors, or of all ROIs' where it is drawn in too few patients; None with too few of all."""
    for values, from_all in ((own, False), (pooled, True)):
        filled = [np.array(each) for each in values.values() if each]
        if len(filled) >= FEWEST_PATIENTS:
            return pooled_quantile(filled, LEVEL), len(filled), from_all
    return None, len([each for each in own.values() if each]), False
