"""Which post-processing helps: tried on the scans kept back, and taken only where the improvement is beyond doubt.

As in nnU-Net (Isensee et al., Nature Methods 18, 2021), steps are tried for each ROI on answers for scans that the network
has not learned from. Beyond its rule (the mean Dice rises), a step has to help several patients, and to go on helping when
other patients are drawn, so that one scan or chance decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import counted
from autoseg_lib.labels import Label, LabelTable
from autoseg_lib.metrics.overlap import dice_per_roi
from autoseg_lib.postprocess.holes import FillHoles
from autoseg_lib.postprocess.pieces import KeepLargest, RemoveSmall
from autoseg_lib.postprocess.pipeline import Postprocessing
from autoseg_lib.postprocess.step import Step
from autoseg_lib.volume import Mask

Floats = npt.NDArray[np.float64]

# Of fewer patients nothing is concluded; the intervals of scores need as many (metrics/bootstrap.py).
FEWEST_PATIENTS = 8
# So many patients have to be better off: one or two may be chance.
FEWEST_BETTER = 3
# A smaller rise of the mean Dice is not worth a step: repeated trainings differ by more (docs/learning.md).
LEAST_RISE = 0.002
# Share of bootstrap draws of the patients in which a step may do harm, over all steps tried for a ROI together.
MOST_HARMFUL_DRAWS = 0.02
DRAWS = 2000
# Islands below a tenth of the largest piece: larger ones may be a part of the structure that the network left apart.
SMALL_PERCENT = 10.0


@dataclass(frozen=True)
class _Trial:
    """Steps that are tried together, for any ROI; without their ROIs."""

    words: str
    pieces: Step | None
    holes: Step | None

    def steps(self, label: Label | None = None) -> list[Step]:
        """Returns the steps for one ROI; None for all at once."""
        rois = "all" if label is None else (label.name,)
        kinds = [step for step in (self.pieces, self.holes) if step is not None]
        return [type(step)(**{**step.__dict__, "rois": rois}) for step in kinds]


_PIECES: tuple[tuple[str, Step | None], ...] = (
    ("", None),
    ("keeping the largest piece only", KeepLargest()),
    (
        f"removing islands below {SMALL_PERCENT:g} % of the largest piece",
        RemoveSmall(below_percent=SMALL_PERCENT),
    ),
)
_HOLES: tuple[tuple[str, Step | None], ...] = (
    ("", None),
    ("filling holes within slices", FillHoles(per="slice")),
    ("filling enclosed holes", FillHoles(per="scan")),
)
# The first one leaves everything as it is.
TRIALS = tuple(
    _Trial(" and ".join(text for text in (first, second) if text), pieces, holes)
    for first, pieces in _PIECES
    for second, holes in _HOLES
)


@dataclass(frozen=True)
class Evidence:
    """Dice of each scan and ROI with each trial.

    Attributes:
        patients: patient of each scan.
        dice: (scans, trials, ROIs); NaN where neither label nor answer holds the ROI.
    """

    patients: tuple[str, ...]
    dice: Floats


def evidence(pairs: Iterable[tuple[str, Mask, Mask]], labels: LabelTable) -> Evidence:
    """Tries every step on every scan.

    Args:
        pairs: patient, label and the model's answer of each scan kept back, on the scan's own grid; one in memory at a time.
        labels: the ROIs.
    """
    patients, rows = [], []
    for patient, truth, answer in pairs:
        patients.append(patient)
        rows.append(_with_trials(truth, answer, labels))
    shape = (0, len(TRIALS), len(labels))
    return Evidence(tuple(patients), np.array(rows) if rows else np.zeros(shape))


def _with_trials(truth: Mask, answer: Mask, labels: LabelTable) -> list[list[float]]:
    rows = []
    for _, pieces in _PIECES:
        cleaned = _apply(pieces, answer, labels)
        for _, holes in _HOLES:
            filled = _apply(holes, cleaned, labels)
            dice = dice_per_roi(truth.array, filled.array, labels)
            rows.append([np.nan if value is None else value for value in dice])
    return rows


def _apply(step: Step | None, mask: Mask, labels: LabelTable) -> Mask:
    return mask if step is None else Postprocessing((step,)).apply(mask, labels)[0]


def propose_postprocessing(
    truths_and_answers: Iterable[tuple[str, Mask, Mask]], labels: LabelTable
) -> tuple[Postprocessing, str]:
    """Returns the steps that help on scans kept back, and a sentence on what was found.

    A ROI gets a step when, with it, its mean Dice rises by at least ``LEAST_RISE``, at least ``FEWEST_BETTER`` patients are
    better off, it rises too without the patient helped most, and at most ``MOST_HARMFUL_DRAWS`` of bootstrap draws of the
    patients (shared among the steps tried) show a fall. Of several that pass, the one with the highest mean is taken.

    Args:
        truths_and_answers: patient, label and the model's answer of each scan; one in memory at a time.
        labels: the ROIs.
    """
    return choose(evidence(truths_and_answers, labels), labels)


def choose(found: Evidence, labels: LabelTable) -> tuple[Postprocessing, str]:
    """Returns the steps that the evidence speaks for, and the sentence; see propose_postprocessing."""
    patients = len(set(found.patients))
    if patients < FEWEST_PATIENTS:
        kept = f"scans of {counted(patients, 'patient')} were" if patients else "no scans were"
        return Postprocessing(), (
            f"Post-processing was not tried: {kept} kept back, and at least {FEWEST_PATIENTS} patients are needed to tell "
            "whether it helps."
        )
    steps: list[Step] = []
    texts: list[str] = []
    for i, label in enumerate(labels):
        best = _best(found.dice[:, :, i], found.patients)
        if best is not None:
            steps += TRIALS[best].steps(label)
            texts.append(_text(label, best, found.dice[:, :, i]))
    tried = f"Post-processing was tried on the {counted(len(found.patients), 'scan')} kept back"
    if not steps:
        return Postprocessing(), (
            f"{tried}: neither removing islands nor filling holes surely raised the Dice of a ROI by {LEAST_RISE:g}, so masks stay "
            "as the model gives them."
        )
    rest = "" if len(texts) == len(labels) else " For the other ROIs nothing helped surely."
    return Postprocessing(tuple(steps)), (
        f"{tried} and will be done when segmenting, because it helps: {'; '.join(texts)}.{rest}"
    )


def _text(label: Label, trial: int, dice: Floats) -> str:
    before, after = dice[:, 0], dice[:, trial]
    better, worse = int(np.sum(after > before)), int(np.sum(after < before))
    return (
        f"for {label.name}, {TRIALS[trial].words} raises the mean Dice from {np.nanmean(before):.3f} to "
        f"{np.nanmean(after):.3f} ({better} scans better, {worse} worse)"
    )


def _best(dice: Floats, patients: Sequence[str]) -> int | None:
    """Returns the trial to take for a ROI; None where the answer is better left as it is."""
    there = ~np.isnan(dice).any(axis=1)
    if not there.any():
        return None
    gains = dice[there] - dice[there][:, :1]
    names = [name for name, known in zip(patients, np.asarray(there), strict=True) if known]
    changing = [t for t in range(1, len(TRIALS)) if np.any(gains[:, t])]
    good = [t for t in changing if _is_sure(gains[:, t], names, MOST_HARMFUL_DRAWS / len(changing))]
    # Of equal ones the first: fewer steps stand before more.
    return max(good, key=lambda t: (float(gains[:, t].mean()), -t), default=None)


def _is_sure(gains: Floats, patients: Sequence[str], harm: float) -> bool:
    """Whether the mean rises, for several patients, and not by one of them or by chance."""
    groups = sorted(set(patients))
    member = np.array([groups.index(name) for name in patients])
    sums = np.bincount(member, weights=gains, minlength=len(groups))
    counts = np.bincount(member, minlength=len(groups)).astype(float)
    if len(groups) < FEWEST_PATIENTS or gains.mean() < LEAST_RISE or np.sum(sums > 0) < FEWEST_BETTER:
        return False
    most = int(np.argmax(sums))
    if sums.sum() - sums[most] <= 0:
        return False
    drawn = np.random.default_rng(0).integers(0, len(groups), (DRAWS, len(groups)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return bool(np.mean(means < 0) <= harm)
