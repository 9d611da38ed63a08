"""Does it pay to look for the region first? Tried on scans that the model has not learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from autoseg_lib.errors import AutosegError
from autoseg_lib.events import Listener, Progress, StopFlag, nobody
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.infer.region import RegionFinder
from autoseg_lib.labels import LabelTable
from autoseg_lib.metrics.overlap import dice_per_roi
from autoseg_lib.volume import Mask, Volume

# A box that held everything in four scans may well cut something off in the fifth.
FEWEST_SCANS = 5
# Both ways are timed on so many scans; whether the box holds everything is looked at in all of them.
MOST_TIMED = 5
# Less is not worth a second way of going wrong.
LEAST_GAIN = 1.5
# Windows lie at other places, which moves a mean Dice by about this much either way.
DICE_TOLERANCE = 0.002
# How the sentence begins where it was not the finder that failed.
TRIAL_FAILED = "No region finder: trying it failed"


class TrueScan(Protocol):
    """A scan whose ROIs are known (train/validate.py::ValidationScan is one)."""

    @property
    def name(self) -> str:
        """The scan."""
        ...

    @property
    def volume(self) -> Volume:
        """Its image."""
        ...

    @property
    def mask(self) -> Mask:
        """Its true labels, on the same grid."""
        ...


def propose_region_finder(
    predictor: Predictor,
    scans: Sequence[TrueScan],
    labels: LabelTable,
    *,
    finder: RegionFinder | None = None,
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[RegionFinder | None, str]:
    """Tries two stages on scans that were kept back.

    Args:
        predictor: the trained network, as it will segment.
        scans: kept-back scans with their truth.
        labels: the ROIs.
        finder: what to try; None for the default.
        on_event: hears the progress.
        stop: asked between batches.
        clock: seconds.

    Returns:
        the finder, None where the whole scan had better be looked at closely; and a sentence that says why.

    Raises:
        Stopped: ``stop`` was set.
    """
    finder = finder or RegionFinder()
    plain, two = replace(predictor, finder=None), replace(predictor, finder=finder)
    if predictor.window is None:
        return None, "No region finder: a 2D model looks at slices one by one."
    if len(scans) < FEWEST_SCANS:
        return None, (
            f"No region finder: {len(scans)} scans were kept back from training, and at least {FEWEST_SCANS} are needed to try it."
        )
    try:
        for number, scan in enumerate(scans):
            on_event(Progress("Trying a region finder", number, 2 * len(scans), scan.name))
            reason = _what_is_missed(two, scan, stop)
            if reason:
                return None, f"No region finder: {reason}"
        return _compared(plain, two, scans[:MOST_TIMED], labels, finder, on_event, stop, clock)
    except AutosegError as error:
        return None, f"{TRIAL_FAILED} ({error})"


def _what_is_missed(two: Predictor, scan: TrueScan, stop: StopFlag | None) -> str:
    """Why the box of a scan will not do; "" where it holds all of every ROI."""
    part, kept = two.preprocessing.start(scan.volume)
    mask = scan.mask if kept is None else scan.mask.cut(kept)
    box, _ = two.region(part, stop)
    if box is None:
        return f"in '{scan.name}' it found nothing, or nearly the whole scan."
    truth = two.preprocessing.prepare_mask(mask).array > 0
    outside = np.count_nonzero(truth) - np.count_nonzero(truth[box])
    if outside:
        share = 100 * outside / np.count_nonzero(truth)
        return f"in '{scan.name}' {share:.1f} % of the labelled voxels lay outside the region it found."
    return ""


def _compared(
    plain: Predictor,
    two: Predictor,
    scans: Sequence[TrueScan],
    labels: LabelTable,
    finder: RegionFinder,
    on_event: Listener,
    stop: StopFlag | None,
    clock: Callable[[], float],
) -> tuple[RegionFinder | None, str]:
    seconds, dice = [0.0, 0.0], [[], []]  # type: tuple[list[float], list[list[list[float]]]]
    for number, scan in enumerate(scans):
        on_event(Progress("Trying a region finder", len(scans) + number, 2 * len(scans), scan.name))
        for way, predictor in enumerate((plain, two)):
            began = clock()
            found = predictor.predict(scan.volume, nobody, stop)
            seconds[way] += clock() - began
            each = dice_per_roi(scan.mask.array, found.array, labels)
            dice[way].append([np.nan if value is None else value for value in each])
    gain = seconds[0] / max(seconds[1], 1e-9)
    if gain < LEAST_GAIN:
        return (
            None,
            f"No region finder: it would make segmenting {gain:.1f} times as fast; {LEAST_GAIN:g} is the least.",
        )
    whole, boxed = (np.array(values, dtype=float) for values in dice)
    both = ~np.isnan(whole) & ~np.isnan(boxed)
    for index, label in enumerate(labels):
        rows = both[:, index]
        loss = float((whole - boxed)[rows, index].mean()) if rows.any() else 0.0
        if loss > DICE_TOLERANCE:
            return None, f"No region finder: with it the Dice of {label.name} falls by {loss:.3f}."
    return finder, (
        f"A region finder is on: the scan is looked at on voxels {finder.factor:g} times as large first, then closely only where "
        f"something was found, which took 1/{gain:.1f} of the time; on the scans kept back it missed nothing."
    )
