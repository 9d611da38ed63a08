"""What came out of a training: its history, the scores of the best model, what they mean and what would make them better."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg_lib.errors import counted
from autoseg_lib.events import Listener
from autoseg_lib.metrics.bootstrap import MeanScore
from autoseg_lib.networks.registry import output_weights
from autoseg_lib.train.files import read_history
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import CaseScore, Scores
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.final_scores import EXTREMES, ShownScan, mean_with_interval
from autoseg_lib.workflow.last_look import last_look
from autoseg_lib.workflow.methods_text import methods_paragraph
from autoseg_lib.workflow.reasons import Answer, reasons
from autoseg_lib.workflow.situation import situation_of
from autoseg_lib.workflow.training_report import is_reported, write_final_report
from autoseg_lib.workflow.verdict import ENDINGS, ending, verdict_of


@dataclass(frozen=True)
class TrainingResult:
    """A run that has ended.

    Attributes:
        name: the model's name.
        reason: "finished", "early", "time limit", "stopped".
        model_path: the best model; None where not one epoch was done.
        history: one dict per epoch, columns of NAME_history.csv.
        scores: of the best model on all scans kept back; None without any.
        split_kind: what the scores stand for: "patients", "cases", "same scan" or "none".
        already_finished: the run was found finished and only shown.
        ending: why it ended before its time; "" where it went through to its planned end.
        answers: possible reasons for low scores, answered from the data; those that apply first.
        means: mean Dice with spread and interval of each ROI and of all; None without scores.
        shown: the worst and best scans to scroll through, worst first.
        worst_loss: largest value of the training loss.
        outlook: what more labelled scans would bring, one sentence; "" where it was not asked for.
        error_bars: whether areas and volumes will get error bars, one sentence.
        segmenting: what will be done beside the network when segmenting, and why; the scores are after it.
        judged_epoch: epoch whose model the scores are of, where the scans kept back were learned from after it; 0: they never were.
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
    ending: str = ""
    answers: tuple[Answer, ...] = field(default=(), repr=False)
    means: tuple[list[MeanScore], MeanScore] | None = field(default=None, repr=False)
    shown: tuple[ShownScan, ...] = field(default=(), repr=False)
    worst_loss: float = 1.0
    outlook: str = ""
    error_bars: str = ""
    segmenting: str = ""
    judged_epoch: int = 0

    @property
    def best_cases(self) -> tuple[CaseScore, ...]:
        """The up to three best validation scans, best first."""
        return tuple(sorted(self.scores.cases, key=lambda c: -c.mean_dice)[:EXTREMES]) if self.scores else ()

    @property
    def worst_cases(self) -> tuple[CaseScore, ...]:
        """The up to three worst validation scans, worst first."""
        return tuple(sorted(self.scores.cases, key=lambda c: c.mean_dice)[:EXTREMES]) if self.scores else ()

    @property
    def headline(self) -> str:
        """How it ended, after how many epochs and how long."""
        done = ENDINGS.get(self.reason, "Training has ended")
        return f"{done}: {self.epochs_done} of {counted(self.epochs, 'epoch')} in {self.seconds / 60:.1f} minutes."

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Returns one row for each ROI and one for their mean: name, Dice, its spread, HD95, area difference."""
        if self.scores is None or self.means is None:
            return []
        each, whole = self.means
        rows = [
            (name, _cell(score.mean, ".3f"), _cell(score.sd, ".3f"), _cell(hd95, ".1f"), _cell(error, ".1f"))
            for name, score, hd95, error in zip(
                self.roi_names, each, self.scores.hd95_per_roi, self.scores.area_error_per_roi, strict=True
            )
        ]
        return [*rows, ("mean", _cell(whole.mean, ".3f"), _cell(whole.sd, ".3f"), "", "")]

    @property
    def interval(self) -> str:
        """The 95 % interval of the mean Dice as a sentence; "" where there are too few patients for one."""
        whole = self.means[1] if self.means else None
        if whole is None or whole.low is None or whole.high is None:
            return ""
        return (
            f"For patients like these the mean Dice lies between {whole.low:.3f} and {whole.high:.3f} (95 % interval from the "
            f"differences between {whole.patients} patients)."
        )

    def lines(self) -> list[str]:
        """Returns the result as text lines."""
        lines = [self.headline]
        if self.ending:
            lines.append(self.ending)
        if self.scores:
            lines.append(f"{'ROI':<32} {'Dice':>6} {'sd':>6} {'HD95 mm':>8} {'area difference %':>18}")
            lines += [
                f"{name:<32} {dice:>6} {sd:>6} {hd95:>8} {error:>18}"
                for name, dice, sd, hd95, error in self.table()
            ]
        said = (self.interval, self.verdict, self.segmenting, self.error_bars, self.outlook)
        lines += [text for text in said if text]
        lines += [f"- {a.question} {a.found} {a.advice}" for a in self.answers if a.applies]
        if self.model_path:
            lines.append(f"Model: {self.model_path}")
        return lines


def training_result(
    plan: Plan,
    study: Study,
    reason: str,
    on_event: Listener,
    already: bool = False,
    *,
    worst_loss: float | None = None,
    epochs: int = 0,
    judged_epoch: int = 0,
) -> TrainingResult:
    """Scores the best model on all scans kept back and writes the report.

    Args:
        plan: of the run.
        study: the data folder.
        reason: how the training ended.
        on_event: hears the progress.
        already: the run was found finished and is only shown; no report is written where there is one of it.
        worst_loss: largest value of the training loss; None: as the plan's network has it.
        epochs: of the whole run, where some were added on the way; 0: as planned.
        judged_epoch: see last_look.
    """
    if worst_loss is None:
        worst_loss = sum(output_weights(plan.network))
    history = tuple(read_history(plan.files.history)) if plan.files.history.is_file() else ()
    look = last_look(plan, study, on_event, already, judged_epoch)
    scores, path = look.scores, look.path
    facts = study.report.facts
    means = mean_with_interval(scores, [facts[i].patient for i in plan.split.validation]) if scores else None
    seconds = sum(row["seconds"] for row in history)
    # A run that its time limit has ended was planned longer; one that was trained longer may be so by fewer epochs.
    planned = plan.loop.epochs if reason == "time limit" else 0
    epochs = max(planned, epochs or plan.loop.epochs, len(history))
    result = TrainingResult(
        name=plan.files.name,
        reason=reason,
        model_path=path,
        epochs_done=len(history),
        epochs=epochs,
        seconds=seconds,
        roi_names=plan.labels.names,
        history=history,
        scores=scores,
        split_kind=plan.split.kind,
        split_text=plan.split.text,
        verdict=verdict_of(plan, study, scores, has_model=path is not None, judged_epoch=judged_epoch),
        methods=methods_paragraph(
            plan,
            study,
            scores,
            means,
            weights=look.weights,
            epochs_done=len(history),
            seconds=seconds,
            epochs=epochs,
            reason=reason,
            judged_epoch=judged_epoch,
        ),
        already_finished=already,
        ending=ending(reason, history, epochs),
        answers=reasons(situation_of(plan, study, scores, history, reason, worst_loss, judged_epoch))
        if path
        else (),
        means=means,
        shown=look.shown,
        worst_loss=worst_loss,
        error_bars=look.error_bars,
        segmenting=" ".join(look.found),
        judged_epoch=judged_epoch,
    )
    # The process may have been killed between the end of the training and the report.
    if path and not (already and is_reported(plan.files.report, result)):
        write_final_report(plan, study, result)
    return result


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
