"""The last look at all scans kept back: every score there is, and the best and worst scans to scroll through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autoseg_lib.events import Listener, Progress, StopFlag
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.labels import LabelTable
from autoseg_lib.metrics.bootstrap import MeanScore, mean_scores
from autoseg_lib.train.validate import CaseScore, Scores, ValidationScan, score_case
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.kept_answers import KeptAnswers

# So many scans from each end are shown.
EXTREMES = 3
# Of all scans to scroll through together, in voxels: 4 bytes each (image, label, answer), so 400 MB.
MOST_VOXELS = 100_000_000


@dataclass(frozen=True)
class ShownScan:
    """A scan kept back, with its label and the model's answer, to scroll through."""

    name: str
    dice: float
    volume: Volume = field(repr=False)
    truth: Mask = field(repr=False)
    answer: Mask = field(repr=False)
    slice_names: tuple[str, ...] = ()


def final_scores(
    predictor: Predictor,
    scans: Iterable[ValidationScan],
    labels: LabelTable,
    on_event: Listener,
    total: int,
    stop: StopFlag | None = None,
    keep: KeptAnswers | None = None,
) -> tuple[Scores | None, tuple[ShownScan, ...]]:
    """Scores every scan thoroughly, one in memory at a time.

    Args:
        predictor: the best model.
        scans: kept-back scans, read one at a time.
        labels: the ROIs.
        on_event: hears the progress.
        total: number of scans.
        stop: asked between batches.
        keep: keeps every answer with its label.

    Returns:
        the scores (None without scans), and the worst and best scans, worst first, as far as memory allows.
    """
    cases: list[CaseScore] = []
    shown: list[ShownScan] = []
    for number, scan in enumerate(scans):
        on_event(Progress("Looking at the validation scans", number, total, scan.name))
        case = score_case(predictor, scan, labels, stop, thorough=True)
        if case.answer is not None:
            if keep is not None:
                keep.add(scan, case.answer)
            answer = scan.mask.with_array(case.answer)
            shown.append(
                ShownScan(scan.name, case.mean_dice, scan.volume, scan.mask, answer, scan.slice_names)
            )
            shown = extremes(shown)
        cases.append(replace(case, answer=None))
    on_event(Progress("Looking at the validation scans", total, total))
    return (Scores(tuple(cases)) if cases else None), tuple(shown)


def extremes(scans: Sequence[ShownScan], most_voxels: int = MOST_VOXELS) -> list[ShownScan]:
    """Returns the worst and the best scans, worst first; fewer where they would fill the memory, the worst before the best."""
    ordered = sorted(scans, key=lambda scan: scan.dice)
    half = min(EXTREMES, len(ordered))
    worst, best = ordered[:half], ordered[half:][-EXTREMES:][::-1]
    kept: list[ShownScan] = []
    for scan in (*worst, *best):
        if sum(other.volume.array.size for other in kept) + scan.volume.array.size <= most_voxels:
            kept.append(scan)
    return sorted(kept, key=lambda scan: scan.dice)


def mean_with_interval(scores: Scores, patients: Sequence[str]) -> tuple[list[MeanScore], MeanScore]:
    """Returns mean Dice, spread and 95 % interval of each ROI and of their mean.

    Args:
        scores: of the scans kept back.
        patients: patient of each scan.
    """
    table = np.array([[np.nan if value is None else value for value in case.dice] for case in scores.cases])
    return mean_scores(table, patients)
