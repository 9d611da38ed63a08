"""What came out of a training with folds: the cross-validated table, and one model file that holds all networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autoseg_lib.data.split import Split
from autoseg_lib.errors import counted
from autoseg_lib.events import Listener, Message
from autoseg_lib.measure.calibration import Calibration, CalibrationScan
from autoseg_lib.metrics.bootstrap import MeanScore
from autoseg_lib.networks.joining import join_models
from autoseg_lib.networks.model_file import load_model, read_metadata, save_model
from autoseg_lib.networks.registry import number_of_weights
from autoseg_lib.postprocess.pipeline import Postprocessing
from autoseg_lib.train.files import RunFiles, read_history, write_report
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import CaseScore, Scores
from autoseg_lib.workflow.calibrating import calibrate_folds, error_bars_text
from autoseg_lib.workflow.calibration_file import read_calibration_scans
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.final_scores import EXTREMES, ShownScan, extremes, final_scores, mean_with_interval
from autoseg_lib.workflow.fold_scores import write_fold_scores
from autoseg_lib.workflow.kept_answers import KeptAnswers
from autoseg_lib.workflow.methods_text import methods_paragraph
from autoseg_lib.workflow.model_choice import segmenting_predictor
from autoseg_lib.workflow.model_metadata import model_metadata, rounded
from autoseg_lib.workflow.postprocessing_scores import Postprocessed, with_postprocessing
from autoseg_lib.workflow.reasons import reasons
from autoseg_lib.workflow.situation import situation_of
from autoseg_lib.workflow.training_data import validation_scans
from autoseg_lib.workflow.training_report import report_values
from autoseg_lib.workflow.training_result import TrainingResult
from autoseg_lib.workflow.verdict import ENDINGS, verdict, verdict_of


@dataclass(frozen=True)
class FoldDone:
    """A fold that has a model.

    Attributes:
        plan: of its run.
        reason: how its training ended.
        cases: scores of the scans it kept back.
        history: rows of its NAME_history.csv.
        shown: its worst and best scans; empty where they were looked at in an earlier sitting.
        worst_loss: largest value of the training loss.
    """

    plan: Plan
    reason: str
    cases: tuple[CaseScore, ...] = field(repr=False)
    history: tuple[dict[str, Any], ...] = field(repr=False)
    shown: tuple[ShownScan, ...] = field(default=(), repr=False)
    worst_loss: float = 1.0

    @classmethod
    def from_result(cls, plan: Plan, result: TrainingResult) -> FoldDone:
        """A fold that was trained, or shown again, in this sitting."""
        cases = result.scores.cases if result.scores else ()
        return cls(plan, result.reason, cases, result.history, result.shown, result.worst_loss)

    @classmethod
    def from_files(cls, plan: Plan, reason: str, cases: tuple[CaseScore, ...]) -> FoldDone:
        """A fold that was done in an earlier sitting."""
        return cls(plan, reason, cases, tuple(read_history(plan.files.history)))

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return float(sum(row["seconds"] for row in self.history))


@dataclass(frozen=True)
class FoldLine:
    """One fold in the table of folds."""

    number: int
    scans: int
    mean_dice: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class FoldsResult(TrainingResult):
    """A training with folds that has ended: scores are those of all scans, each by the network that has not seen it.

    Attributes:
        folds: how many were asked for.
        fold_lines: those that have a model, one line each.
    """

    folds: int = 0
    fold_lines: tuple[FoldLine, ...] = ()

    @property
    def headline(self) -> str:
        """How many folds are done, and how long they took."""
        done = ENDINGS.get(self.reason, "Training has ended")
        count = f"{len(self.fold_lines)} of {self.folds} folds" if self.reason != "stopped" else self._so_far
        return f"{done}: {count}, {counted(self.epochs_done, 'epoch')} each, {self.seconds / 60:.1f} minutes of training in all."

    @property
    def best_cases(self) -> tuple[CaseScore, ...]:
        """The up to three best scans that there are pictures of, best first."""
        return tuple(case for case in super().best_cases if case.image.size)

    @property
    def worst_cases(self) -> tuple[CaseScore, ...]:
        """The up to three worst scans that there are pictures of, worst first."""
        return tuple(case for case in super().worst_cases if case.image.size)

    @property
    def _so_far(self) -> str:
        return f"{len(self.fold_lines)} of {self.folds} folds have a model"

    def interval_table(self) -> list[tuple[str, str, str, str, str]]:
        """Returns one row for each ROI and one for their mean: name, Dice, sd, 95 % interval, number of scans."""
        if self.means is None:
            return []
        each, whole = self.means
        names = (*self.roi_names, "mean")
        return [
            (name, _three(score.mean), _three(score.sd), interval_text(score), str(score.cases))
            for name, score in zip(names, (*each, whole), strict=True)
        ]

    def lines(self) -> list[str]:
        """Returns the result as text lines."""
        lines = [self.headline]
        lines += [
            f"  fold {line.number}: mean Dice {line.mean_dice:.3f} on {counted(line.scans, 'scan')}, {counted(line.epochs, 'epoch')} in "
            f"{line.seconds / 60:.1f} minutes of training"
            for line in self.fold_lines
        ]
        if self.means:
            lines.append(f"{'ROI':<32} {'Dice':>6} {'sd':>6} {'95 % interval':>16} {'scans':>6}")
            lines += [
                f"{name:<32} {dice:>6} {sd:>6} {interval:>16} {scans:>6}"
                for name, dice, sd, interval, scans in self.interval_table()
            ]
        lines += [
            text
            for text in (
                self.split_text,
                self.verdict,
                self.segmenting,
                self.error_bars,
                self.ending,
                self.outlook,
            )
            if text
        ]
        lines += [f"- {a.question} {a.found} {a.advice}" for a in self.answers if a.applies]
        if self.model_path:
            lines.append(f"Model: {self.model_path}")
        return lines


def interval_text(score: MeanScore) -> str:
    """Returns "0.871 to 0.902", or nothing where there are too few patients."""
    if score.low is None or score.high is None:
        return ""
    return f"{score.low:.3f} to {score.high:.3f}"


def put_together(
    study: Study,
    files: RunFiles,
    splits: Sequence[Split],
    done: Mapping[int, FoldDone],
    *,
    all_done: bool,
    already: bool,
    on_event: Listener,
) -> FoldsResult:
    """Makes the table and the model of all folds that have one, and writes their files.

    Args:
        study: the data folder.
        files: of the model that all folds make together.
        splits: of all folds.
        done: number → fold with a model.
        all_done: whether the training is complete; otherwise it can go on.
        already: nothing was trained in this sitting; no file is written but those that are missing.
        on_event: hears the progress.

    Raises:
        ModelError: the folds' networks cannot be used together.
        ExportError: a file cannot be written.
    """
    if not done:
        return _nothing_yet(study, files, splits)
    plan = _whole_plan(study, files, splits, done)
    done, shown = _with_pictures(study, done, on_event)
    missing = not files.best.is_file()
    known = read_metadata(files.best) if already and not missing else None
    post = postprocessed_folds(plan, done, shown, known)
    done, shown = _with_cases(done, post.scores), post.shown
    scores = Scores(tuple(case for fold in done.values() for case in fold.cases)) if _scored(done) else None
    order = [i for number in done for i in splits[number - 1].validation] if scores else []
    facts = study.report.facts
    means = mean_with_interval(scores, [facts[i].patient for i in order]) if scores else None
    lines = tuple(_line(number, fold) for number, fold in done.items())
    seconds = sum(fold.seconds for fold in done.values())
    reason = _reason(done, all_done)
    calibration = _calibration(plan, done)
    if missing or not already:
        more = {"calibration": calibration.to_dict(), **post.metadata()}
        weights = _save_joined(plan, study, scores, means, lines, done, len(splits), more)
    else:
        weights = number_of_weights(load_model(files.best).network)
    history = _mean_history([fold.history for fold in done.values()])
    worst_loss = max(fold.worst_loss for fold in done.values())
    first = next(iter(done.values())).plan
    result = FoldsResult(
        name=files.name,
        reason=reason,
        model_path=files.best,
        epochs_done=max(line.epochs for line in lines),
        epochs=max(plan.loop.epochs, *(line.epochs for line in lines)),
        seconds=seconds,
        roi_names=plan.labels.names,
        history=history,
        scores=scores,
        split_kind=plan.split.kind,
        split_text=plan.split.text,
        verdict=verdict_of(plan, study, scores),
        methods=methods_paragraph(
            plan,
            study,
            scores,
            means,
            weights=weights // len(done),
            epochs_done=max(line.epochs for line in lines),
            seconds=seconds,
            reason=reason,
        ),
        already_finished=already,
        ending=_speed_text(len(done)),
        answers=reasons(situation_of(first, study, scores, history, reason, worst_loss)),
        means=means,
        shown=shown,
        worst_loss=worst_loss,
        folds=len(splits),
        fold_lines=lines,
        error_bars=error_bars_text(calibration),
        segmenting=post.text,
    )
    if not already:
        write_fold_scores(files.folds, {n: fold.cases for n, fold in done.items()}, plan.labels)
    if missing or not already:
        write_report(files.report, {**report_values(plan, study, result), **_report_of_folds(result, done)})
    return result


def _calibration(plan: Plan, done: Mapping[int, FoldDone]) -> Calibration:
    """Error bars from the scans of all folds, each predicted by the network that has not seen it."""
    scored = [(fold.plan.files, Scores(fold.cases)) for fold in done.values() if fold.cases]
    return calibrate_folds(scored, plan.labels.names, plan.split.kind)


def postprocessed_folds(
    plan: Plan,
    done: Mapping[int, FoldDone],
    shown: tuple[ShownScan, ...],
    known: Mapping[str, Any] | None,
) -> Postprocessed:
    """Finds, over the scans of all folds, the post-processing that helps, and scores their answers with it.

    Args:
        plan: of the model that all folds make together.
        done: folds with a model.
        shown: scans to scroll through.
        known: metadata of the joined model, where it is there already and only shown.
    """
    kept, counts = KeptAnswers(), dict[str, CalibrationScan]()
    cases = tuple(case for fold in done.values() for case in fold.cases)
    scores = Scores(cases) if cases else None
    for fold in done.values():
        answers = KeptAnswers.load(fold.plan.files.answers)
        if answers is None and known is None and fold.cases:
            text = f"Post-processing was not tried: '{fold.plan.files.answers.name}', the answers of a fold, is not there any more."
            return Postprocessed(Postprocessing(), text, scores, shown)
        kept.join(answers or KeptAnswers())
        for scan in read_calibration_scans(fold.plan.files.calibration, plan.labels.names) or ():
            # Patients are numbered in each file by itself.
            counts[scan.name] = replace(scan, patient=f"{fold.plan.files.name} {scan.patient}")
    return with_postprocessing(scores, shown, kept, plan.labels, known=known, counts=counts)


def _with_cases(done: Mapping[int, FoldDone], scores: Scores | None) -> dict[int, FoldDone]:
    """The folds with new scores of their scans, which are in the same order."""
    cases = iter(scores.cases if scores else ())
    return {n: replace(fold, cases=tuple(next(cases) for _ in fold.cases)) for n, fold in done.items()}


def _scored(done: Mapping[int, FoldDone]) -> bool:
    return any(fold.cases for fold in done.values())


def _reason(done: Mapping[int, FoldDone], all_done: bool) -> str:
    if not all_done:
        return "stopped"
    reasons_there = [fold.reason for fold in done.values()]
    return "time limit" if "time limit" in reasons_there else "finished"


def _line(number: int, fold: FoldDone) -> FoldLine:
    mean = Scores(fold.cases).mean if fold.cases else float("nan")
    return FoldLine(number, len(fold.cases), mean, len(fold.history), fold.seconds)


def _whole_plan(study: Study, files: RunFiles, splits: Sequence[Split], done: Mapping[int, FoldDone]) -> Plan:
    """The first fold's plan, told of the model that all make together."""
    first = next(iter(done.values())).plan
    everything = tuple(range(len(study.report.facts)))
    text = (
        f"By cross-validation with {len(splits)} folds, each scan was judged by the network that had not learned from it or from "
        "any other scan of its patient; the scans kept back chose nothing, not even the best epoch."
    )
    if splits[0].kind == "cases":
        text = (
            f"By cross-validation with {len(splits)} folds over the scans of one patient, each scan was judged by the network that "
            "had not learned from it. The scores say nothing about other patients."
        )
    if len(done) < len(splits):
        text += f" So far {len(done)} of the {len(splits)} folds are in these numbers."
    settings = replace(
        first.settings,
        model_filename=files.name,
        time_limit_minutes=study.settings.time_limit_minutes,
        resume=study.settings.resume,
    )
    split = Split(everything, everything, splits[0].kind, text)
    return replace(first, files=files, settings=settings, split=split)


def _speed_text(members: int) -> str:
    if members == 1:
        return ""
    return (
        f"The model file holds all {members} networks; they answer together (the mean of their probabilities), which usually "
        f"finds a little more than one alone. Segmenting takes about {members} times as long as with one."
    )


def _save_joined(
    plan: Plan,
    study: Study,
    scores: Scores | None,
    means: tuple[list[MeanScore], MeanScore] | None,
    lines: Sequence[FoldLine],
    done: Mapping[int, FoldDone],
    folds: int,
    more: Mapping[str, Any],
) -> int:
    """Writes NAME_best.safetensors with the networks of all folds; returns the number of their weights."""
    joined = join_models([load_model(fold.plan.files.best) for fold in done.values()])
    metadata = model_metadata(plan, study, max(line.epochs for line in lines), scores)
    metadata["network"] = joined.spec.to_dict()
    metadata["validation"] |= {"cross_validated": True, "folds": folds, **_intervals(plan, means)}
    metadata["folds"] = [_fold_table(line) for line in lines]
    metadata |= more
    save_model(plan.files.best, joined.network, metadata)
    return number_of_weights(joined.network)


def _intervals(plan: Plan, means: tuple[list[MeanScore], MeanScore] | None) -> dict[str, Any]:
    if means is None:
        return {}
    each, whole = means
    names = (*plan.labels.names, "mean")
    return {
        "dice_interval_95": {
            name: [rounded(score.low), rounded(score.high)]
            for name, score in zip(names, (*each, whole), strict=True)
        }
    }


def _fold_table(line: FoldLine) -> dict[str, Any]:
    return {
        "fold": line.number,
        "scans": line.scans,
        "mean_dice": rounded(line.mean_dice),
        "epochs": line.epochs,
        "seconds": round(line.seconds, 1),
    }


def _report_of_folds(result: FoldsResult, done: Mapping[int, FoldDone]) -> dict[str, Any]:
    return {
        "folds": result.folds,
        "members": len(done),
        "fold_runs": [
            {
                **_fold_table(line),
                "model": done[line.number].plan.files.best.name,
                "reason": done[line.number].reason,
                "validation": [case.name for case in done[line.number].cases],
            }
            for line in result.fold_lines
        ],
        "cross_validation": [
            {
                "roi": name,
                "dice": rounded(score.mean),
                "dice_sd": rounded(score.sd),
                "dice_low_95": rounded(score.low),
                "dice_high_95": rounded(score.high),
                "scans": score.cases,
                "patients": score.patients,
            }
            for name, score in zip(
                (*result.roi_names, "mean"),
                (*result.means[0], result.means[1]) if result.means else (),
                strict=False,
            )
        ],
    }


def _mean_history(histories: Sequence[Sequence[dict[str, Any]]]) -> tuple[dict[str, Any], ...]:
    """One row per epoch that every fold has gone through: the mean over the folds, seconds summed up."""
    rows = []
    for group in zip(*histories, strict=False):
        row = {key: _mean([one.get(key) for one in group]) for key in group[0]}
        rows.append({**row, "epoch": int(group[0]["epoch"]), "seconds": sum(one["seconds"] for one in group)})
    return tuple(rows)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _with_pictures(
    study: Study, done: Mapping[int, FoldDone], on_event: Listener
) -> tuple[dict[int, FoldDone], tuple[ShownScan, ...]]:
    """Adds what is missing to see of the worst and best scans: those scored in an earlier sitting are predicted once more."""
    ordered = sorted((case for fold in done.values() for case in fold.cases), key=lambda case: case.mean_dice)
    wanted = {case.name for case in (*ordered[:EXTREMES], *ordered[-EXTREMES:]) if not case.image.size}
    facts = study.report.facts
    complete: dict[int, FoldDone] = {}
    for number, fold in done.items():
        again = tuple(i for i in fold.plan.split.validation if facts[i].name in wanted)
        if again:
            on_event(Message(f"Looking once more at the best and worst scans of fold {number} ..."))
            fold = _look_again(study, fold, again, on_event)
        complete[number] = fold
    return complete, tuple(extremes([scan for fold in complete.values() for scan in fold.shown]))


def _look_again(study: Study, fold: FoldDone, again: tuple[int, ...], on_event: Listener) -> FoldDone:
    part = replace(fold.plan, split=replace(fold.plan.split, validation=again))
    model = load_model(part.files.best, part.loop.device)
    scores, shown = final_scores(
        segmenting_predictor(model), validation_scans(study, part), part.labels, on_event, len(again)
    )
    seen = {case.name: case for case in (scores.cases if scores else ())}
    # The scores stay those of the file: a table does not change because somebody looked again.
    cases = tuple(
        replace(
            case,
            slice_index=seen[case.name].slice_index,
            image=seen[case.name].image,
            truth=seen[case.name].truth,
            prediction=seen[case.name].prediction,
        )
        if case.name in seen
        else case
        for case in fold.cases
    )
    return replace(fold, cases=cases, shown=shown)


def _nothing_yet(study: Study, files: RunFiles, splits: Sequence[Split]) -> FoldsResult:
    return FoldsResult(
        name=files.name,
        reason="stopped",
        model_path=None,
        epochs_done=0,
        epochs=0,
        seconds=0.0,
        roi_names=study.labels.names,
        history=(),
        scores=None,
        split_kind=splits[0].kind,
        split_text="",
        verdict=verdict(splits[0].kind, None, (), 0, has_model=False),
        methods="",
        folds=len(splits),
    )


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
