"""Cross-validation: the same training several times, each time with other patients kept back (``folds`` in Settings).

Each fold is a complete run with its own files, NAME_fold1 ... NAME_fold5, and goes on where it was interrupted; folds that
are done are not trained again. Every scan is judged once, by the network that has not seen it; afterwards the networks answer
together (NAME_best.safetensors). The scans kept back choose nothing, not even the best epoch, so that the scores are fair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.split import Split, split_folds
from autoseg_lib.errors import ExportError, SettingsError
from autoseg_lib.events import FoldStarted, Listener, Message, StopFlag, nobody
from autoseg_lib.settings import AUTO, TrainSettings, read_settings_file, to_table
from autoseg_lib.train.choosing import given_by_others
from autoseg_lib.train.files import RunFiles, write_yaml
from autoseg_lib.train.machine import Machine, find_machine
from autoseg_lib.train.planning import Plan, choose_dimension, default_name
from autoseg_lib.train.validate import CaseScore
from autoseg_lib.workflow.checking import Study, model_folder
from autoseg_lib.workflow.fold_scores import read_fold_scores, write_fold_scores
from autoseg_lib.workflow.folds_result import FoldDone, FoldsResult, put_together
from autoseg_lib.workflow.training import FoundRun, PreparedTraining, find_run, prepare_training, train
from autoseg_lib.workflow.training_time import Speed

# Settings that a later fold does not take over from an earlier one.
_OWN_TO_EACH_FOLD = ("model_filename", "print_checkpoint", "save_checkpoint", "resume", "time_limit_minutes")
# Of the time a fold has, at least so much is for training, however long its scans take to prepare.
_SMALLEST_SHARE = 0.2


def wants_folds(settings: TrainSettings) -> bool:
    """Whether the settings ask for several folds."""
    return settings.folds not in (AUTO, 1)


@dataclass(frozen=True)
class _Known:
    """What is known of a fold before this sitting: its run as planned, without the weights that its resume file holds."""

    plan: Plan
    state: str
    reason: str = ""
    seconds: float = 0.0
    used: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PreparedFolds:
    """All folds, planned, and the next one ready to start. Has what a PreparedTraining has to show.

    Attributes:
        study: the data folder.
        project_dir: where trained_model/ is when ``model_dir`` is "auto".
        machine: the computer.
        files: of the model that all folds make together.
        splits: of each fold.
        number: the fold that is next, from 1; the last one when all are done.
        run: that fold, prepared.
        state: "new", "continue" or "finished", of all folds together.
        found: a sentence on the folds that were found; "" for a new training.
        summary: one line: network, folds, time, where it is saved.
        minutes: expected minutes from here to the end of all folds.
        prepare_seconds: what preparing a fold has taken.
    """

    study: Study
    project_dir: Path
    machine: Machine
    files: RunFiles
    splits: tuple[Split, ...] = field(repr=False)
    known: tuple[_Known, ...] = field(repr=False)
    number: int
    run: PreparedTraining
    state: str
    found: str
    summary: str
    minutes: float
    prepare_seconds: float

    @property
    def plan(self) -> Plan:
        """Of the fold that is next."""
        return self.run.plan

    @property
    def train_set(self) -> Any:
        """Training samples of the fold that is next."""
        return self.run.train_set

    def lines(self) -> list[str]:
        """Returns the choices and the summary as text lines."""
        texts = [split.text for split in self.splits]
        return [*self.run.table_lines(), *texts, *([self.found] if self.found else []), self.summary]


# --- before -----------------------------------------------------------------------------------------------------------


def prepare_folds(
    study: Study,
    project_dir: Path,
    on_event: Listener = nobody,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PreparedFolds:
    """Plans all folds, finds those that are done, and prepares the next one.

    Args:
        study: a checked data folder without errors, with ``folds`` of at least 2 in its settings.
        project_dir: where trained_model/ is when ``model_dir`` is "auto".
        on_event: hears the progress.
        machine: the computer; None looks.
        clock: gives seconds.

    Raises:
        DataError: there are fewer patients than folds, or see prepare_training.
        SettingsError, ModelError: see prepare_training.
    """
    study.require_sound()
    settings = study.settings
    if isinstance(settings.resume, str) and settings.resume != AUTO:
        raise SettingsError(
            f'resume = "{settings.resume}" names one run, and folds = {settings.folds} are {settings.folds} runs. Leave '
            'resume = "auto": every fold goes on where it was interrupted.'
        )
    machine = machine or find_machine()
    facts = study.report.facts
    splits = split_folds(facts, settings.folds, settings.seed, slice_counts=[len(f.counts) for f in facts])
    dimension = settings.dimension if settings.dimension != AUTO else choose_dimension(facts)[0]
    name = settings.model_filename if settings.model_filename != AUTO else default_name(settings, dimension)
    files = RunFiles(model_folder(settings.model_dir, project_dir), name)
    known = _look_at_folds(study, project_dir, machine, files, splits)
    open_folds = [n for n, fold in enumerate(known, start=1) if fold.state != "finished"]
    number = open_folds[0] if open_folds else len(splits)
    started = clock()
    share = _seconds_for(number, known, _limit(study), 0.0, 0.0)
    run = _prepare_fold(study, project_dir, machine, files, splits, known, number, share, on_event, clock)
    prepare_seconds = clock() - started
    state = "finished" if not open_folds else "new" if _untouched(known) else "continue"
    minutes = _minutes_left(run, known, open_folds, _limit(study), prepare_seconds)
    return PreparedFolds(
        study=study,
        project_dir=project_dir,
        machine=machine,
        files=files,
        splits=splits,
        known=known,
        number=number,
        run=run,
        state=state,
        found=_found(files.name, known, number, run),
        summary=_summary(run, len(splits), len(open_folds), minutes, files),
        minutes=minutes,
        prepare_seconds=prepare_seconds,
    )


def _look_at_folds(
    study: Study, project_dir: Path, machine: Machine, files: RunFiles, splits: Sequence[Split]
) -> tuple[_Known, ...]:
    known: list[_Known] = []
    for number, split in enumerate(splits, start=1):
        asked = _fold_study(study, files.name, number, None)
        like = _like(known)
        run = find_run(asked, project_dir, machine, split=split, like=like)
        if run.checkpoint and _limit(study):
            # Whether a fold that its time limit has ended is done depends on the share of the time that it was given.
            limit = _limit_then(run, files, study)
            asked = _fold_study(study, files.name, number, limit)
            run = find_run(asked, project_dir, machine, split=split, like=like)
        known.append(_known(run))
    return tuple(known)


def _known(run: FoundRun) -> _Known:
    if run.checkpoint is None:
        return _Known(run.plan, run.state)
    state = run.checkpoint["state"]
    return _Known(
        run.plan, run.state, state["finished"], float(state["elapsed_seconds"]), run.checkpoint["settings"]
    )


def _limit(study: Study) -> float | None:
    """Seconds for all folds together."""
    minutes = study.settings.time_limit_minutes
    return None if minutes is None else 60.0 * minutes


def _limit_then(run: FoundRun, files: RunFiles, study: Study) -> float | None:
    """Seconds that a fold had, and more where all folds have been given more time since."""
    then = run.checkpoint["settings"].get("time_limit_minutes") if run.checkpoint else None
    whole_then = (
        read_settings_file(files.settings).get("time_limit_minutes") if files.settings.is_file() else None
    )
    if then is None:
        return None
    grown = study.settings.time_limit_minutes / whole_then if whole_then else 1.0
    return float(60.0 * then * grown)


def _fold_study(study: Study, name: str, number: int, seconds: float | None) -> Study:
    settings = study.settings
    begun = settings.resume is True and number > 1
    return replace(
        study,
        settings=replace(
            settings,
            model_filename=f"{name}_fold{number}",
            time_limit_minutes=None if seconds is None else seconds / 60.0,
            # Ending by the score of the scans kept back would let them choose.
            early_stopping=False if settings.early_stopping == AUTO else settings.early_stopping,
            resume=AUTO if begun else settings.resume,
        ),
    )


def _like(known: Sequence[_Known]) -> dict[str, Any] | None:
    """Settings as used by the first fold there is: what was "auto" must become the same in every fold."""
    for fold in known:
        if fold.used is not None:
            left_out: tuple[str, ...] = _OWN_TO_EACH_FOLD
            if fold.used.get("time_limit_minutes") is not None:
                left_out = (*left_out, "epochs")  # as many as the time of this fold holds
            return {key: value for key, value in fold.used.items() if key not in left_out}
    return None


def _prepare_fold(
    study: Study,
    project_dir: Path,
    machine: Machine,
    files: RunFiles,
    splits: Sequence[Split],
    known: Sequence[_Known],
    number: int,
    seconds: float | None,
    on_event: Listener,
    clock: Callable[[], float],
    speed: Speed | None = None,
) -> PreparedTraining:
    asked = _fold_study(study, files.name, number, seconds)
    if known[number - 1].state == "finished" and seconds is not None:
        asked = replace(
            asked,
            settings=replace(
                asked.settings, time_limit_minutes=known[number - 1].plan.settings.time_limit_minutes
            ),
        )
    run = prepare_training(
        asked,
        project_dir,
        on_event,
        machine,
        split=splits[number - 1],
        like=_like(known),
        clock=clock,
        speed=speed,
    )
    given_by = {"model_filename": f"fold {number} of '{files.name}'"}
    if study.settings.early_stopping == AUTO:
        given_by["early_stopping"] = "scans kept back choose nothing, so that the scores are fair"
    given_by["folds"] = (
        "your value: each scan is judged by a network that has not seen it; then all answer together"
    )
    choices = given_by_others(run.plan.choices, given_by)
    return replace(run, plan=replace(run.plan, choices=choices))


def _seconds_for(
    number: int, known: Sequence[_Known], limit: float | None, spent: float, preparing: float
) -> float | None:
    """Seconds fold ``number`` may take in all sittings: what the finished folds have left, shared equally by the others.

    Args:
        number: of the fold.
        known: the folds before this sitting (those done since are "finished").
        limit: seconds for all folds together; None: no limit.
        spent: seconds of this sitting so far.
        preparing: seconds that preparing a fold takes, which its training does not have.
    """
    if limit is None:
        return None
    open_folds = sum(fold.state != "finished" for fold in known) or 1
    finished = sum(fold.seconds for fold in known if fold.state == "finished")
    share = max(0.0, limit - finished - spent) / open_folds
    return max(share - preparing, _SMALLEST_SHARE * share, known[number - 1].seconds + 1.0)


def _untouched(known: Sequence[_Known]) -> bool:
    return all(fold.used is None for fold in known)


def _minutes_left(
    run: PreparedTraining,
    known: Sequence[_Known],
    open_folds: Sequence[int],
    limit: float | None,
    preparing: float,
) -> float:
    """Expected minutes to the end of all folds: of each its training, its looks at scans, and preparing those to come."""
    if not open_folds:
        return 0.0
    if limit is not None:
        return max(0.0, limit - sum(fold.seconds for fold in known)) / 60
    begun = known[open_folds[0] - 1].used is not None
    whole = run.minutes
    if begun and run.checkpoint:
        done = run.checkpoint["state"]["epoch"] / max(1, run.plan.loop.epochs)
        whole = run.minutes / max(1e-3, 1 - done)
    return run.minutes + (whole + preparing / 60) * (len(open_folds) - 1)


def _found(name: str, known: Sequence[_Known], number: int, run: PreparedTraining) -> str:
    done = sum(fold.state == "finished" for fold in known)
    if _untouched(known):
        return ""
    if done == len(known):
        return (
            f"All {done} folds of '{name}' are finished: they are shown, not trained again. To train another model give a new "
            "model_filename; to start over set resume = False."
        )
    here = f", fold {number} stands at epoch {run.checkpoint['state']['epoch']}" if run.checkpoint else ""
    return f"Found a training with folds: {done} of {len(known)} folds are done{here}. Continuing. To start over set resume = False."


def _summary(run: PreparedTraining, folds: int, left: int, minutes: float, files: RunFiles) -> str:
    first = " · ".join(run.summary.split(" · ")[:2])
    time_text = "under a minute" if minutes < 1 else f"about {minutes:.0f} min"
    rest = f"{time_text} for all" if left == folds else f"{time_text} left for {left} of them"
    when = f" · {rest} on this computer" if left else ""
    return f"{folds} folds, each: {first}{when} · saved to {files.folder.name}/"


# --- training ---------------------------------------------------------------------------------------------------------


def train_folds(
    study: Study,
    project_dir: Path,
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FoldsResult:
    """Prepares and trains all folds; see prepare_folds and train_prepared_folds."""
    prepared = prepare_folds(study, project_dir, on_event, clock=clock)
    return train_prepared_folds(prepared, on_event, stop, clock)


def train_prepared_folds(
    prepared: PreparedFolds,
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FoldsResult:
    """Trains the folds that are not done yet, one after the other, and puts them together.

    Args:
        prepared: see prepare_folds.
        on_event: hears the progress.
        stop: set to save and end; run again to go on.
        clock: gives seconds; what the time limit is kept by.

    Raises:
        ModelError: training became unstable or memory ran out, or the folds cannot be used together.
        ExportError: files cannot be written.
    """
    return _Folds(prepared, on_event, stop or StopFlag(), clock).run()


class _Folds:
    def __init__(
        self, prepared: PreparedFolds, on_event: Listener, stop: StopFlag, clock: Callable[[], float]
    ) -> None:
        self.prepared, self.on_event, self.stop, self.clock = prepared, on_event, stop, clock
        # What was known before this sitting, folds done since marked so; the seconds stay those before this sitting.
        self.known = list(prepared.known)
        self.done: dict[int, FoldDone] = {}
        self.stopped: FoldDone | None = None
        self.started = clock()

    def run(self) -> FoldsResult:
        prepared = self.prepared
        self._set_aside()
        scores = self._scores_there()
        for number in range(1, len(prepared.splits) + 1):
            if number in scores:
                self._take_over(number, scores[number])
            elif not self.stop.is_set():
                self._train(number)
        whole = {number: self.done[number] for number in sorted(self.done)}
        return put_together(
            prepared.study,
            prepared.files,
            prepared.splits,
            whole or ({} if self.stopped is None else {prepared.number: self.stopped}),
            all_done=len(whole) == len(prepared.splits),
            already=prepared.state == "finished",
            on_event=self.on_event,
        )

    def _set_aside(self) -> None:
        """A training without folds of the same name, or an earlier one that is started over, keeps its files elsewhere."""
        files = self.prepared.files
        if _untouched(self.known) or files.last.is_file():
            aside = files.set_aside()
            if aside:
                text = f"The files of an earlier run of this name were set aside in '{aside.name}'."
                self.on_event(Message(text))
        own = {
            "model_filename": files.name,
            "time_limit_minutes": self.prepared.study.settings.time_limit_minutes,
        }
        write_yaml(files.settings, {**to_table(self.prepared.plan.settings), **own})

    def _scores_there(self) -> dict[int, tuple[CaseScore, ...]]:
        """Scores of the folds that were done before this sitting."""
        facts = self.prepared.study.report.facts
        finished = {
            number: [facts[i].name for i in split.validation]
            for number, split in enumerate(self.prepared.splits, start=1)
            if self.known[number - 1].state == "finished"
        }
        return read_fold_scores(self.prepared.files.folds, finished, self.prepared.plan.labels)

    def _take_over(self, number: int, cases: tuple[CaseScore, ...]) -> None:
        known = self.known[number - 1]
        self.done[number] = FoldDone.from_files(known.plan, known.reason, cases)
        if self.prepared.state != "finished":
            self.on_event(Message(f"Fold {number} of {len(self.known)} is done already."))

    def _train(self, number: int) -> None:
        prepared = self.prepared
        self.on_event(FoldStarted(number, len(self.known)))
        run = prepared.run if number == prepared.number else self._prepare(number)
        result = train(run, self.on_event, self.stop, clock=self.clock)
        fold = FoldDone.from_result(run.plan, result)
        if result.reason == "stopped":
            self.stopped = fold if result.model_path else None
            # One fold that was stopped is not followed by the next.
            self.stop.set()
            return
        self.done[number] = fold
        self.known[number - 1] = replace(
            self.known[number - 1], state="finished", used=to_table(run.plan.settings)
        )
        self._keep_scores()

    def _keep_scores(self) -> None:
        """Scores that could not be kept are found anew in the next sitting; that must not end the training."""
        scores = {number: fold.cases for number, fold in self.done.items()}
        try:
            write_fold_scores(self.prepared.files.folds, scores, self.prepared.plan.labels)
        except ExportError as error:
            self.on_event(Message(f"{error} Training goes on with the next fold.", "warning"))

    def _prepare(self, number: int) -> PreparedTraining:
        prepared = self.prepared
        spent = self.clock() - self.started
        share = _seconds_for(number, self.known, _limit(prepared.study), spent, prepared.prepare_seconds)
        # The scans of the first fold are still in memory, for the pre-visualization: less is free than there was.
        free = find_machine().ram_available_gb
        machine = replace(prepared.machine, ram_available_gb=min(free, prepared.machine.ram_available_gb))
        return _prepare_fold(
            prepared.study,
            prepared.project_dir,
            machine,
            prepared.files,
            prepared.splits,
            self.known,
            number,
            share,
            self.on_event,
            self.clock,
            prepared.run.speed,
        )
