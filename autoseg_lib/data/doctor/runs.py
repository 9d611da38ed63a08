"""Runs of neighbouring slices whose labels all fit the same number of slices further on.

The label of the next slice nearly always fits well, so one slice proves little. But where labels are out of step with their
images, the same step makes all of them fit better, slice after slice; in a right scan each step makes some fit worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.doctor.fit import Fitter, each
from autoseg_lib.data.doctor.planted import Verdicts

STEPS = (-1, 1, -2, 2, -3, 3)
FEWEST_IN_RUN = 3
_LONGEST_RUN = 60
# A label that fits comfortably cannot fit better: scores below this count as this. And what one slice can add to the
# evidence for a run, and take from it: a label that is wrong in another way is not a run.
_COMFORTABLE = -1.0
_MOST_FOR, _MOST_AGAINST = 3.0, 4.0
# Evidence is the mean gain of a run's slices times the root of their number. Scans of five sets as they are (CT of a liver,
# two sets of cardiac MR, drawn spines) gave up to 3.3, and 2.7 where many labels were wrong in other ways; of the runs put
# out of step by 1 to 3 slices, with a Dice below 0.8, ten of fourteen gave 3.7 and more.
_CLEAR = 3.5
_MOSTLY = 0.75


@dataclass(frozen=True)
class Run:
    """Slices whose labels are out of step.

    Attributes:
        members: the units whose labels fit better so, in order.
        scan: all units of their scan, in order.
        slices: the label drawn on slice i fits slice i + slices.
        evidence: how clear it is.
    """

    members: tuple[int, ...]
    scan: tuple[int, ...]
    slices: int
    evidence: float


def shifted_runs(fitter: Fitter, verdicts: Verdicts, scans: Sequence[Sequence[int]]) -> list[Run]:
    """Returns the clearest run of each scan that has one.

    Args:
        fitter: the set.
        verdicts: how well its labels fit.
        scans: the units of each scan, in order of their slices.
    """
    long_enough = [scan for scan in scans if len(scan) > FEWEST_IN_RUN]
    found = each(lambda scan: _best_run(fitter, verdicts, scan), long_enough)
    return [run for run in found if run is not None]


def _best_run(fitter: Fitter, verdicts: Verdicts, scan: Sequence[int]) -> Run | None:
    best: Run | None = None
    if np.sum(verdicts.scores[list(scan)] > _COMFORTABLE) < FEWEST_IN_RUN:
        return None  # nothing to gain
    for step in STEPS:
        quick = _gains(fitter, verdicts, scan, step, exactly=False)
        if _span(quick, lowest=0.0) is None:
            continue
        gains = _gains(fitter, verdicts, scan, step, exactly=True)
        span = _span(gains, lowest=_CLEAR)
        if span is None:
            continue
        # Which step it is shows in all that is gained, without the bound on what one slice adds.
        gained = gains[span[0] : span[1]]
        evidence = float(gained.sum()) / len(gained) ** 0.5
        if best is None or evidence > best.evidence:
            members = tuple(scan[place] for place in range(span[0], span[1]) if gains[place] > 0)
            best = Run(members, tuple(scan), -step, evidence)
    return best


def _gains(
    fitter: Fitter, verdicts: Verdicts, scan: Sequence[int], step: int, *, exactly: bool
) -> npt.NDArray[np.float64]:
    """Returns how much better each image is fitted by the label drawn ``step`` slices on; NaN where there is none.

    Args:
        fitter: the set.
        verdicts: how well its labels fit.
        scan: units in order.
        step: in slices.
        exactly: by the score of the label; else only by its likelihood, which is quick.
    """
    gains = np.full(len(scan), np.nan)
    for place, index in enumerate(scan):
        if not 0 <= place + step < len(scan):
            continue
        own, other = fitter.labels[index], fitter.labels[scan[place + step]]
        if own.shape != other.shape:
            continue
        judge = verdicts.judges[index]
        if exactly:
            after = verdicts.model.score(index, judge.measures(other))
            gains[place] = max(verdicts.scores[index], _COMFORTABLE) - max(after, _COMFORTABLE)
        else:
            gains[place] = judge.likelihood(other) - judge.likelihood(own)
    return gains


def _span(gains: npt.NDArray[np.float64], lowest: float) -> tuple[int, int, float] | None:
    """Returns (first, one past the last, evidence) of the clearest run above ``lowest``."""
    best: tuple[int, int, float] | None = None
    known = ~np.isnan(gains)
    kept = np.where(known, np.clip(gains, -_MOST_AGAINST, _MOST_FOR), 0)
    sums = np.concatenate([[0.0], np.cumsum(kept)])
    better = np.concatenate([[0], np.cumsum(kept > 0)])
    seen = np.concatenate([[0], np.cumsum(known)])
    for length in range(FEWEST_IN_RUN, min(len(kept), _LONGEST_RUN) + 1):
        evidence = (sums[length:] - sums[:-length]) / length**0.5
        allowed = (kept[: len(evidence)] > 0) & (kept[length - 1 :] > 0)
        allowed &= (better[length:] - better[:-length] >= _MOSTLY * length) & (
            seen[length:] - seen[:-length] == length
        )
        evidence = np.where(allowed, evidence, -np.inf)
        start = int(evidence.argmax())
        if evidence[start] > (lowest if best is None else best[2]):
            best = start, start + length, float(evidence[start])
    return best
