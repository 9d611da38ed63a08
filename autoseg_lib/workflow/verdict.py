"""What the scores mean, in plain words, and why training ended when it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg_lib.data.doctor.report import RoiRow
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import Scores
from autoseg_lib.workflow.checking import Study

# From this mean Dice on, agreement is called good: two readers of the same organ typically agree to 0.85-0.95.
GOOD_DICE, FAIR_DICE = 0.85, 0.70
# An ROI in less than this share of the slices is named as one of few slices.
_SELDOM = 0.5

# How a training ended, for a sentence that goes on with "12 of 100 epochs".
ENDINGS = {
    "finished": "Training is finished",
    "early": "Training ended by itself, because it no longer got better",
    "time limit": "The time limit was reached",
    "stopped": "Training was stopped; it can go on",
}


def verdict_of(
    plan: Plan,
    study: Study,
    scores: Scores | None,
    *,
    has_model: bool = True,
    judged_epoch: int = 0,
) -> str:
    """Returns what the scores of a run, or of all folds, mean; see ``verdict``."""
    report = study.report
    slices = sum(len(case.slices) for case in report.facts)
    started = bool(plan.settings.start_from)
    return verdict(
        plan.split.kind,
        scores,
        report.roi_rows,
        slices,
        has_model=has_model,
        started=started,
        judged_epoch=judged_epoch,
    )


def verdict(
    split_kind: str,
    scores: Scores | None,
    rois: Sequence[RoiRow],
    slices: int,
    *,
    has_model: bool = True,
    started: bool = False,
    judged_epoch: int = 0,
) -> str:
    """Returns the scores in plain words.

    Args:
        split_kind: see TrainingResult.
        scores: of the best model; None without any.
        rois: of the data check, in label order.
        slices: of all scans.
        has_model: whether anything was learned.
        started: whether training started from another model (``start_from``), which may have seen the scans kept back.
        judged_epoch: epoch that the scores are of, where the scans kept back were learned from after it; 0: they never were.
    """
    if not has_model:
        return "Training was stopped before it had learned anything, so there is no model yet. Run again to go on."
    if scores is None and judged_epoch:
        return f"The scans kept back have judged the model of epoch {judged_epoch}, which is not there any more: see the report of the run."
    if scores is None:
        return "No scan was kept back, so there is no score. Look at predictions on new scans before you trust the model."
    who = "this training" if started else "the model"
    where = {
        "patients": f"on patients {who} has not seen",
        "cases": f"on scans {who} has not seen (same patient)",
        "same scan": "same scan: on slices of a scan it has learned from, so it says little about other patients",
    }[split_kind]
    word = "Good" if scores.mean >= GOOD_DICE else "Fair" if scores.mean >= FAIR_DICE else "Weak"
    sentences = [f"{word}: mean Dice {scores.mean:.3f} {where}."]
    if started:
        sentences.append("If the model it started from has seen them, the score promises too much.")
    for row, dice in zip(rois, scores.per_roi, strict=True):
        if dice is not None and dice < FAIR_DICE:
            # An ROI in most slices is weak for another reason.
            seldom = (
                f": it appears in {row.slices} of {slices} slices" if row.slices < _SELDOM * slices else ""
            )
            sentences.append(f"{row.name} is weak ({dice:.2f}){seldom}.")
    if judged_epoch:
        sentences.append(
            f"That is the model of epoch {judged_epoch}. From then on it learned from the scans kept back, too, so the "
            "finished model is probably better, but no scan is left to tell."
        )
    return " ".join(sentences)


def ending(reason: str, history: Sequence[Mapping[str, Any]], epochs: int) -> str:
    """Says why a training ended before its time; "" where it went through to its planned end.

    Args:
        reason: "finished", "early", "time limit", "stopped".
        history: rows of NAME_history.csv.
        epochs: planned.
    """
    done = len(history)
    if reason == "early":
        seen = [(row["val_dice"], row["epoch"]) for row in history if row.get("val_dice") is not None]
        best = max(seen, default=None)
        since = (
            f" had not become better since about epoch {best[1]:.0f}" if best else " no longer became better"
        )
        return (
            f"Early stopping: training ended at epoch {done} of {epochs}, because the Dice on the validation scans{since}. The best "
            "model of the run is kept, so nothing is lost. To train to the end set early_stopping = False."
        )
    if reason == "time limit":
        return f"The time limit ended the training at epoch {done} of {epochs}; the learning rate had been fitted to it."
    return ""
