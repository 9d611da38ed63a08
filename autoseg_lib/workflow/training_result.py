"""What came out of a training: scores, what they mean in plain words, the report and the Methods paragraph."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg_lib import __version__
from autoseg_lib.events import EpochDone, Listener, Message
from autoseg_lib.networks.model_file import load_model
from autoseg_lib.settings import to_table
from autoseg_lib.system import versions
from autoseg_lib.train.files import read_history, write_report
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import CaseScore, Scores, validate
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.model_metadata import score_table
from autoseg_lib.workflow.training_data import validation_scans
from autoseg_lib.workflow.training_start import make_run_predictor

# From this mean Dice on, agreement is called good: two readers of the same organ typically agree to 0.85-0.95.
GOOD_DICE, FAIR_DICE = 0.85, 0.70


@dataclass(frozen=True)
class TrainingResult:
    """A run that has ended.

    Attributes:
        name: the model's name.
        reason: "finished", "time limit", "stopped".
        model_path: the best model; None where not one epoch was done.
        history: one dict per epoch, columns of NAME_history.csv.
        scores: of the best model on all scans kept back; None without any.
        split_kind: what the scores stand for: "patients", "cases", "same scan" or "none".
        already_finished: the run was found finished and only shown.
    """

    name: str
    reason: str
    model_path: Path | None
    epochs_done: int
    epochs: int
    seconds: float
    roi_names: tuple[str, ...]
    history: tuple[dict[str, Any], ...] = field(repr=False)
    scores: Scores | None = field(repr=False)
    split_kind: str
    split_text: str
    verdict: str
    methods: str
    already_finished: bool = False

    @property
    def best_cases(self) -> tuple[CaseScore, ...]:
        """The up to three best validation scans, best first."""
        return tuple(sorted(self.scores.cases, key=lambda c: -c.mean_dice)[:3]) if self.scores else ()

    @property
    def worst_cases(self) -> tuple[CaseScore, ...]:
        """The up to three worst validation scans, worst first."""
        return tuple(sorted(self.scores.cases, key=lambda c: c.mean_dice)[:3]) if self.scores else ()

    def lines(self) -> list[str]:
        """Returns the result as text lines."""
        done = {
            "finished": "Training is finished",
            "time limit": "The time limit was reached",
            "stopped": "Training was stopped; it can go on",
        }[self.reason]
        lines = [f"{done}: {self.epochs_done} of {self.epochs} epochs in {self.seconds / 60:.1f} minutes."]
        if self.scores:
            lines.append(f"{'ROI':<32} {'Dice':>6} {'sd':>6} {'area error':>11}")
            rows = zip(
                self.roi_names,
                self.scores.per_roi,
                self.scores.sd_per_roi,
                self.scores.area_error_per_roi,
                strict=True,
            )
            for name, dice, sd, error in rows:
                lines.append(
                    f"{name:<32} {_cell(dice, '.3f'):>6} {_cell(sd, '.3f'):>6} {_cell(error, '.1f', ' %'):>11}"
                )
        lines.append(self.verdict)
        if self.model_path:
            lines.append(f"Model: {self.model_path}")
        return lines


def training_result(
    plan: Plan, study: Study, reason: str, on_event: Listener, already: bool = False
) -> TrainingResult:
    """Scores the best model on all scans kept back and writes the report.

    Args:
        plan: of the run.
        study: the data folder.
        reason: how the training ended.
        on_event: hears the progress.
        already: the run was found finished and is only shown; no report is written.
    """
    history = tuple(read_history(plan.files.history)) if plan.files.history.is_file() else ()
    scores, path = None, None
    if plan.files.best.is_file():
        path = plan.files.best
        model = load_model(path, plan.loop.device)
        on_event(Message("Looking at all validation scans with the best model ..."))
        scores = validate(
            make_run_predictor(plan, model.network, plan.loop.device),
            validation_scans(study, plan),
            plan.labels,
        )
    seconds = sum(row["seconds"] for row in history)
    result = TrainingResult(
        name=plan.files.name,
        reason=reason,
        model_path=path,
        epochs_done=len(history),
        epochs=plan.loop.epochs,
        seconds=seconds,
        roi_names=plan.labels.names,
        history=history,
        scores=scores,
        split_kind=plan.split.kind,
        split_text=plan.split.text,
        verdict=verdict(plan, study, scores, path is not None),
        methods=methods_paragraph(plan, study, scores, len(history)),
        already_finished=already,
    )
    if path and not already:
        _write_final_report(plan, study, result)
    return result


def _write_final_report(plan: Plan, study: Study, result: TrainingResult) -> None:
    facts = study.report.facts
    write_report(
        plan.files.report,
        {
            "name": result.name,
            "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "reason": result.reason,
            "epochs_done": result.epochs_done,
            "epochs": result.epochs,
            "seconds": round(result.seconds, 1),
            "device": plan.loop.device,
            "precision": plan.loop.precision,
            "settings": to_table(plan.settings),
            "choices": [{"setting": c.setting, "value": c.value, "reason": c.reason} for c in plan.choices],
            "data": {"summary": study.report.summary, "checksum": study.report.checksum},
            "split": {
                "kind": plan.split.kind,
                "text": plan.split.text,
                "training": [facts[i].name for i in plan.split.train],
                "validation": [facts[i].name for i in plan.split.validation],
            },
            "validation": score_table(plan, result.scores),
            "validation_cases": [
                {
                    "case": c.name,
                    "dice": dict(zip(plan.labels.names, c.dice, strict=True)),
                    "mean_dice": c.mean_dice,
                }
                for c in (result.scores.cases if result.scores else ())
            ],
            # Their sentences name files, and files may be named after patients: what was found, not where.
            "findings": [{"severity": f.severity, "code": f.code} for f in study.report.findings],
            "verdict": result.verdict,
            "methods": result.methods,
            "versions": versions(),
        },
    )


def verdict(plan: Plan, study: Study, scores: Scores | None, has_model: bool) -> str:
    """Returns the scores in plain words."""
    if not has_model:
        return "Training was stopped before it had learned anything, so there is no model yet. Run again to go on."
    if scores is None:
        return "No scan was kept back, so there is no score. Look at predictions on new scans before you trust the model."
    where = {
        "patients": "on patients the model has not seen",
        "cases": "on scans the model has not seen (same patient)",
        "same scan": "same scan: on slices of a scan it has learned from, so it says little about other patients",
    }[plan.split.kind]
    word = "Good" if scores.mean >= GOOD_DICE else "Fair" if scores.mean >= FAIR_DICE else "Weak"
    sentences = [f"{word}: mean Dice {scores.mean:.3f} {where}."]
    for row, dice in zip(study.report.roi_rows, scores.per_roi, strict=True):
        if dice is not None and dice < FAIR_DICE:
            total = sum(len(f.counts) for f in study.report.facts)
            sentences.append(
                f"{row.name} is weak ({dice:.2f}): it appears in {row.slices} of {total} slices."
            )
    return " ".join(sentences)


def methods_paragraph(plan: Plan, study: Study, scores: Scores | None, epochs_done: int) -> str:
    """Returns a paragraph for a paper's Methods section, with the numbers of this run."""
    loop = plan.loop
    grid = (
        f"slices fitted into {plan.network.input_shape[0]} × {plan.network.input_shape[1]} pixels"
        if plan.window is None
        else f"patches of {' × '.join(map(str, plan.window))} voxels"
    )
    text = (
        f"A {plan.network.dimension} {plan.network.title} was trained with AutoSeg Workbench {__version__} (PyTorch) on "
        f"{study.report.summary}. Grey values: {plan.preprocessing.intensity.text}; {grid}. "
        f"Training took {epochs_done} epochs of {plan.steps_per_epoch} steps of {loop.batch_size} images with AdamW "
        f"(learning rate {loop.learning_rate:g}, cosine schedule), {loop.loss.replace('_', ' + ')} loss and random rotation, "
        f"scaling, elastic and intensity augmentation. {plan.split.text}"
    )
    if scores:
        rois = ", ".join(
            f"{name} {dice:.3f}"
            for name, dice in zip(plan.labels.names, scores.per_roi, strict=True)
            if dice is not None
        )
        text += f" Mean Dice on validation was {scores.mean:.3f} ({rois}), computed on the scans' own pixels."
    return text


def progress_line(event: EpochDone, seconds: float, history: list[dict[str, Any]]) -> str:
    """Returns "Completed epochs:   10/500 | Dice loss: 0.631 | Mean dice score: 0.369 | Time elapsed: ...".

    Dice loss runs from 0 (best) to 1. The mean Dice score is that of the last look at the validation scans; without any, it
    is 1 - Dice loss of the training images, and the line says so.
    """
    loss = event.row["train_loss"]
    seen = [row["val_dice"] for row in history if row["val_dice"] is not None]
    score = (
        f"Mean dice score: {seen[-1]:.3f}" if seen else f"Mean dice score (training images): {1 - loss:.3f}"
    )
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (
        f"Completed epochs: {event.epoch:>4}/{event.epochs} | Dice loss: {loss:.3f} | {score} | "
        f"Time elapsed: {hours} hrs {minutes} mins {left} secs"
    )


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit
