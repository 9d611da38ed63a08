"""Learns error bars, and the softness at which a slice is probably wrong, from scans kept back from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import counted
from autoseg_lib.measure.calibration import KINDS, LEVEL, Bound, Calibration, CalibrationScan
from autoseg_lib.measure.conformal import pooled_quantile
from autoseg_lib.measure.softness import UNSURE_ABOVE, Floats, outline_of, scales_of, softness

# Below this many patients a 90 % interval would rest on the one or two worst of them.
FEWEST_PATIENTS = 20

# A slice counts as wrong below this Dice, the limit that the flags are measured against (benchmarks/intervals.py).
LOW_DICE = 0.8
# Of fewer wrong slices the best limit is a matter of chance; then it lies where this share of the right ones is below it.
FEWEST_SLICES, QUIET_SHARE = 20, 0.95
# A flag that is wrong more often than right is worse than none.
LEAST_PRECISION = 0.5


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
    errors = {kind: [_Errors.none() for _ in rois] for kind in KINDS}
    for scan, pixel_area in zip(scans, pixel_areas, strict=True):
        _gather(errors, scan, pixel_area, outlines)
    areas, means, volumes = (_bounds(errors[kind]) for kind in KINDS)
    return replace(
        base,
        areas=areas,
        mean_areas=means,
        volumes=volumes,
        outlines=tuple(outlines.tolist()),
        unsure_above=unsure_limits(scans, len(rois)),
        in_mm=in_mm,
    )


def _too_few(scans: int, patients: int) -> str:
    if scans == 0:
        return "no scans were kept back from training to calibrate on"
    of = "" if scans == patients else f" of {counted(patients, 'patient')}"
    were = "was" if scans == 1 else "were"
    return f"{counted(scans, 'scan')}{of} {were} kept back to calibrate on, and at least {FEWEST_PATIENTS} patients are needed"


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


def unsure_limits(scans: Sequence[CalibrationScan], rois: int) -> tuple[float | None, ...]:
    """Returns for each ROI the softness above which a slice is best flagged as probably wrong (Dice below ``LOW_DICE``).

    It is the one with the largest F1 score (harmonic mean of precision and recall) among those that are right at least half of
    the time; 1, which nothing exceeds, where there is none. ROIs differ: a thin rim is soft all over and right all the same.

    Args:
        scans: scans kept back.
        rois: number of ROIs.

    Returns:
        None for an ROI with too few slices to learn from.
    """
    limits: list[float | None] = []
    for i in range(rois):
        found = [scan.found[:, i] > 0 for scan in scans]
        values = [softness(s.likely, s.sure)[there, i] for s, there in zip(scans, found, strict=True)]
        wrong = [(s.dice < LOW_DICE)[there, i] for s, there in zip(scans, found, strict=True)]
        limits.append(_limit(np.concatenate(values), np.concatenate(wrong)) if scans else None)
    return tuple(limits)


def _limit(soft: Floats, wrong: npt.NDArray[np.bool_]) -> float | None:
    """The limit of one ROI from the softness of its slices and whether they are wrong."""
    right = soft[~wrong]
    if np.count_nonzero(wrong) < FEWEST_SLICES:
        if right.size < FEWEST_SLICES:
            return None
        return max(UNSURE_ABOVE, float(np.quantile(right, QUIET_SHARE)))
    order = np.argsort(-soft, kind="stable")
    soft, hits, flagged = soft[order], np.cumsum(wrong[order]), np.arange(1, soft.size + 1)
    f1 = 2 * hits / (flagged + hits[-1])
    # Equal values are flagged together or not at all.
    last = np.append(soft[:-1] > soft[1:], True)
    usable = np.flatnonzero(last & (hits >= LEAST_PRECISION * flagged))
    if not usable.size:
        return 1.0
    best = int(usable[np.argmax(f1[usable])])
    return float((soft[best] + (soft[best + 1] if best + 1 < soft.size else 0.0)) / 2)


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
