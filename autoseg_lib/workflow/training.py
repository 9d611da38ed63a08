"""Steps "Model training" and "Training performance": plan, prepare the data, train, say how good the model is."""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from autoseg_lib.data.split import Split
from autoseg_lib.errors import AutosegError, ModelError, SettingsError, counted
from autoseg_lib.events import EpochDone, Event, Listener, Message, Progress, StopFlag, nobody
from autoseg_lib.networks.model_file import save_model
from autoseg_lib.networks.out_of_memory import OutOfMemoryError
from autoseg_lib.networks.registry import number_of_weights
from autoseg_lib.settings import AUTO, TrainSettings, to_table
from autoseg_lib.system import versions
from autoseg_lib.train.checkpoint import is_there, load_newest
from autoseg_lib.train.distributed import ALONE, Team
from autoseg_lib.train.files import write_yaml
from autoseg_lib.train.loop import Trainer, epochs_in_all, judged_epoch_of, schedule_from, wants_more
from autoseg_lib.train.machine import Machine, find_machine
from autoseg_lib.train.planning import (
    Plan,
    check_dimension,
    choose_dimension,
    default_name,
    make_plan,
    with_looks,
)
from autoseg_lib.train.schedule import Schedule
from autoseg_lib.train.smaller import plan_smaller
from autoseg_lib.train.tensorboard_log import TensorboardLog, writer_class
from autoseg_lib.train.validate import Scores, ValidationScan
from autoseg_lib.workflow.checking import Study, model_folder
from autoseg_lib.workflow.model_metadata import model_metadata
from autoseg_lib.workflow.plan_table import choice_lines, short_text
from autoseg_lib.workflow.progress_line import progress_line
from autoseg_lib.workflow.training_data import TrainSet, prepare_data, validation_set
from autoseg_lib.workflow.training_result import TrainingResult, training_result
from autoseg_lib.workflow.training_start import initial_network, make_trainer, starting_text
from autoseg_lib.workflow.training_time import (
    Speed,
    expected_seconds,
    measure_speed,
    seconds_after_last_step,
    seconds_with_looks,
    seconds_within_limit,
    with_speed,
)

# Settings that may change between two sittings of one run: they change where and how long, not what is learned.
FREE_TO_CHANGE = (
    "main_dir",
    "model_filename",
    "model_dir",
    "epochs",
    "time_limit_minutes",
    "print_checkpoint",
    "save_checkpoint",
    "num_workers",
    "precision",
    "resume",
    "start_from",
    "pretrained",
    "early_stopping",
    "cache",
    "tensorboard",
    "learning_curve",
)


@dataclass(frozen=True)
class PreparedTraining:
    """All that training needs, ready to start.

    Attributes:
        plan: what is done, and why.
        state: "new", "continue" (an interrupted run goes on) or "finished" (a finished run is shown).
        found: a sentence on the run that was found; "" for a new one.
        summary: one line: network, epochs, time, where it is saved.
        minutes: expected minutes from here to the end.
        train_set: the training samples.
        validation: scans looked at while training.
    """

    study: Study
    plan: Plan
    state: str
    found: str
    summary: str
    minutes: float
    train_set: TrainSet = field(repr=False)
    validation: Sequence[ValidationScan] = field(repr=False)
    network: nn.Module = field(repr=False)
    checkpoint: dict[str, Any] | None = field(default=None, repr=False)
    speed: Speed | None = field(default=None, repr=False)

    def lines(self) -> list[str]:
        """Returns the choices and the summary as text lines."""
        lines = [*self.table_lines(), self.plan.split.text]
        if self.found:
            lines.append(self.found)
        lines.append(self.summary)
        return lines

    def table_lines(self) -> list[str]:
        """Returns what the data are like and the choices as text lines."""
        return [*self.plan.fingerprint.lines(), *choice_lines(self.plan.choices)]


# --- before -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundRun:
    """A run as it is planned, and what there is of it already; see PreparedTraining."""

    plan: Plan
    state: str
    found: str
    checkpoint: dict[str, Any] | None = field(repr=False)
    previous: dict[str, Any] | None = field(repr=False)


def find_run(
    study: Study,
    project_dir: Path,
    machine: Machine,
    *,
    split: Split | None = None,
    like: dict[str, Any] | None = None,
    more_epochs: int = 0,
) -> FoundRun:
    """Plans a run and looks whether it has begun, or is finished, without reading the scans; see prepare_training."""
    settings, folder = study.settings, model_folder(study.settings.model_dir, project_dir)
    dimension = settings.dimension if settings.dimension != AUTO else choose_dimension(study.report.facts)[0]
    check_dimension(dimension, study.report.facts)
    name = _name(settings, dimension)
    checkpoint = _find_checkpoint(settings, folder, name)
    previous, pace = like, None
    if checkpoint:
        previous, pace = (
            {**checkpoint["settings"], "model_filename": name},
            _pace_for_epochs(settings, checkpoint),
        )
    if previous and pace:
        previous = {key: value for key, value in previous.items() if key != "epochs"}
    plan = make_plan(settings, study.report, machine, folder, previous, pace, split)
    if checkpoint:
        _require_same(settings, checkpoint, study, plan)
        plan = with_looks(plan, _looks_of(checkpoint, settings, plan))
    if checkpoint and more_epochs:
        plan, checkpoint = _with_more_epochs(plan, checkpoint, more_epochs)
    state, found = _state_of(checkpoint, plan)
    return FoundRun(plan, state, found, checkpoint, previous)


def prepare_training(
    study: Study,
    project_dir: Path,
    on_event: Listener = nobody,
    machine: Machine | None = None,
    *,
    split: Split | None = None,
    like: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    speed: Speed | None = None,
    more_epochs: int = 0,
) -> PreparedTraining:
    """Plans the training and reads the data into memory, or finds the run that is to be continued.

    Args:
        study: a checked data folder without errors.
        project_dir: where trained_model/ is when ``model_dir`` is "auto".
        on_event: hears the progress.
        machine: the computer; None looks.
        split: what to learn from and what to keep back, where that is decided already (folds).
        like: settings as used by another run that a new run should take over wherever "auto" leaves it open.
        clock: gives seconds; what the computer's speed is measured with.
        speed: as measured for a run of the same kind; None measures it.
        more_epochs: a run that is there goes on for so many epochs from where it stands, whatever the settings say; it stays
            so long when it is interrupted and goes on with the same settings.

    Raises:
        DataError: the data check found errors.
        SettingsError: settings that do not work, or that differ from those of the run of the same name.
        ModelError: the resume file or the model to start from cannot be used.
    """
    study.require_sound()
    if study.settings.tensorboard:
        writer_class()  # a package that is missing is said here, before anything takes time
    machine = machine or find_machine()
    run = find_run(study, project_dir, machine, split=split, like=like, more_epochs=more_epochs)
    plan, checkpoint = run.plan, run.checkpoint
    train_set, validation = prepare_data(study, plan, on_event)
    begun = checkpoint is not None
    network = initial_network(plan, on_event, resumed=begun)
    minutes = 0.0
    if run.state != "finished":
        on_event(Progress("Measuring how quick this computer is", 0, 1))
        if speed is None:
            speed = measure_speed(plan, network, train_set, validation, clock=clock)
            network = initial_network(plan, resumed=begun)  # the timed one has learned already
        if checkpoint is None:
            plan = _plan_in_time(run, speed, study, machine, split)
            validation = validation_set(study, plan)
        plan = with_speed(plan, speed)
        minutes = _minutes_left(plan, speed, checkpoint)
        on_event(Progress("Measuring how quick this computer is", 1, 1))
    state, found = _state_of(checkpoint, plan)
    return PreparedTraining(
        study=study,
        plan=plan,
        state=state,
        found=found,
        summary=_summary(plan, network, minutes, state, _epochs(plan, checkpoint)),
        minutes=minutes,
        train_set=train_set,
        validation=validation,
        network=network,
        checkpoint=checkpoint,
        speed=speed,
    )


def _plan_in_time(run: FoundRun, speed: Speed, study: Study, machine: Machine, split: Split | None) -> Plan:
    """The plan of a new run, now that this computer's speed is known: a time limit decides the epochs left to us."""
    return make_plan(
        study.settings,
        study.report,
        machine,
        run.plan.files.folder,
        run.previous,
        seconds_with_looks(speed),
        split,
        seconds_after_last_step(run.plan, speed),
    )


def _minutes_left(plan: Plan, speed: Speed, checkpoint: dict[str, Any] | None) -> float:
    """Expected minutes from here to the end of the training."""
    state: dict[str, Any] = checkpoint["state"] if checkpoint else {"steps_done": 0, "elapsed_seconds": 0.0}
    schedule = plan.loop.schedule or Schedule(0, plan.steps_per_epoch)
    if checkpoint:
        schedule = schedule_from(state, plan.loop, plan.steps_per_epoch)
        plan = replace(plan, loop=replace(plan.loop, time_limit_seconds=schedule.time_limit_seconds))
    seconds = expected_seconds(plan, speed, max(0, schedule.total_steps - int(state["steps_done"])))
    return min(seconds, seconds_within_limit(plan, state["elapsed_seconds"])) / 60


def _with_more_epochs(plan: Plan, checkpoint: dict[str, Any], epochs: int) -> tuple[Plan, dict[str, Any]]:
    """A run that goes on for so many epochs from where it stands. Its schedule knows of them, the settings do not."""
    state = dict(checkpoint["state"])
    schedule = schedule_from(state, plan.loop, plan.steps_per_epoch)
    total = state["steps_done"] + epochs * plan.steps_per_epoch
    # No time limit: these epochs are wanted, however long they take.
    schedule.change(state["steps_done"], total, None, total)
    asked = [plan.loop.epochs, plan.loop.time_limit_seconds]
    state.update(schedule=schedule.to_dict(), asked=asked, finished="")
    settings, loop = replace(plan.settings, early_stopping=False), replace(plan.loop, early_stopping=False)
    return replace(plan, settings=settings, loop=loop), {**checkpoint, "state": state}


def _name(settings: TrainSettings, dimension: str) -> str:
    """The run's name; one that goes on from a file that is named keeps that file's where no other is given."""
    if settings.model_filename != AUTO:
        return settings.model_filename
    stem = Path(settings.resume).stem.removesuffix(".previous") if isinstance(settings.resume, str) else ""
    return stem.removesuffix("_last") if stem.endswith("_last") else default_name(settings, dimension)


def _pace_for_epochs(settings: TrainSettings, checkpoint: dict[str, Any]) -> float | None:
    """Seconds per step where the epochs are ours to choose once more: they were what another time limit held."""
    then, now = checkpoint["settings"].get("time_limit_minutes"), settings.time_limit_minutes
    given = checkpoint.get("given", {}).get("epochs")
    if settings.epochs != AUTO or given != AUTO or not then or not now or math.isclose(then, now):
        return None
    return Schedule.from_dict(checkpoint["state"]["schedule"]).seconds_per_step


def _find_checkpoint(settings: TrainSettings, folder: Path, name: str) -> dict[str, Any] | None:
    """Reads the resume file the settings point to, if there is one to go on with; "remark" says if it is not the newest."""
    if settings.resume is False:
        return None
    last = folder / f"{name}_last.ckpt"
    if isinstance(settings.resume, str) and settings.resume != AUTO:
        other = Path(settings.resume).expanduser()
        if other.resolve() != last.resolve():
            return _begun_from(other, last)
    elif settings.resume is not True and not is_there(last):
        return None
    checkpoint, remark = load_newest(last)
    return {**checkpoint, "remark": remark}


def _looks_of(checkpoint: dict[str, Any], settings: TrainSettings, plan: Plan) -> list[float] | None:
    """The looks a run was begun with. Scans kept back that were not learned from yet may be kept back to the end after all."""
    looks = checkpoint.get("looks")
    to_the_end = settings.validation_fraction != AUTO or plan.loop.early_stopping
    if looks and to_the_end and not checkpoint["state"].get("judged_epoch"):
        return [*looks[:2], 0.0]
    return list(looks) if looks else None


def _begun_from(other: Path, last: Path) -> dict[str, Any]:
    """What a run goes on from that begins where another one of another name stands; its own file once it has begun."""
    origin = str(other.resolve())
    if is_there(last):
        with contextlib.suppress(ModelError):
            checkpoint, remark = load_newest(last)
            if checkpoint.get("begun_from") == origin:
                return {**checkpoint, "remark": remark}
    checkpoint, remark = load_newest(other)
    return {**checkpoint, "remark": remark, "begun_from": origin, "elsewhere": True}


def _require_same(settings: TrainSettings, checkpoint: dict[str, Any], study: Study, plan: Plan) -> None:
    """Refuses to go on with other settings or data than the run was started with."""
    before = checkpoint["settings"]
    differences = []
    for name, given in to_table(settings).items():
        if name in FREE_TO_CHANGE or given == AUTO or name not in before:
            continue
        if name == "augment_params" and isinstance(given, dict):
            given = {**before[name], **given}
        # Given alike, but memory ran out and the run went on with less.
        if given != before[name] and given != checkpoint.get("given", {}).get(name):
            differences.append(f"{name}: {short_text(before[name])} then, {short_text(given)} now")
    if checkpoint["checksum"] != study.report.checksum:
        differences.append("the images or labels in the data folder have changed")
    if settings.validation_fraction != AUTO and checkpoint["state"].get("judged_epoch"):
        differences.append(
            f"validation_fraction: auto then, {settings.validation_fraction:g} now; the scans kept back have been learned from "
            f"since epoch {checkpoint['state']['judged_epoch']}"
        )
    if list(plan.labels.names) != list(before["labels_list"]) and settings.labels_list == AUTO:
        differences.append("the ROIs in the label files have changed")
    if differences:
        lines = "\n".join(f"  - {text}" for text in differences)
        raise SettingsError(
            f"a run named '{plan.files.name}' exists already, made with other settings or data:\n{lines}\n"
            "Give this one a new model_filename, or set resume = False to start over (the earlier files are set aside)."
        )


def _state_of(checkpoint: dict[str, Any] | None, plan: Plan) -> tuple[str, str]:
    if checkpoint is None:
        return "new", ""
    state = checkpoint["state"]
    when = datetime.datetime.fromisoformat(checkpoint["saved"]).strftime("%d %B %Y, %H:%M")
    if not wants_more(state, plan.loop):
        return "finished", (
            f"The run '{plan.files.name}' of {when} is finished ({counted(state['epoch'], 'epoch')}): it is shown, not trained again. "
            "To train another model give a new model_filename; to start over set resume = False."
        )
    remark = f"{checkpoint['remark']} " if checkpoint["remark"] else ""
    return "continue", (
        f"{remark}Found a run at epoch {state['epoch']} of {_epochs(plan, checkpoint)} from {when}: continuing. To start over set "
        "resume = False."
    )


def _epochs(plan: Plan, checkpoint: dict[str, Any] | None) -> int:
    """Epochs of the whole run, those that were added on the way included."""
    if checkpoint is None:
        return plan.loop.epochs
    return epochs_in_all(checkpoint["state"], plan.loop, plan.steps_per_epoch)


def _summary(plan: Plan, network: nn.Module, minutes: float, state: str, epochs: int) -> str:
    weights = number_of_weights(network)
    size = f"{weights / 1e6:.1f} M weights"
    time_text = "under a minute" if minutes < 1 else f"about {minutes:.0f} min"
    when = f"{time_text} {'left ' if state == 'continue' else ''}on this computer"
    title = f"{plan.network.dimension} {plan.network.title}"
    passes = "a pass" if epochs == 1 else "passes"
    steps = f"{counted(epochs, 'epoch')} ({passes} over your data) of {counted(plan.steps_per_epoch, 'step')}"
    often = "every epoch" if plan.loop.save_every == 1 else f"every {plan.loop.save_every} epochs"
    folder = plan.files.folder.name
    line = f"{title}, {size} · {steps} · {when} · saved {often} to {folder}/"
    start = starting_text(plan) if state == "new" else ""
    return f"{line}\n{start}" if start else line


# --- training ---------------------------------------------------------------------------------------------------------


class HurriedStop(AutosegError):  # noqa: N818 - no error: the run goes on later
    """A run was saved because this process is about to be ended."""


def train(
    prepared: PreparedTraining,
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
    team: Team = ALONE,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Trains, or goes on with an interrupted run, or shows a finished one.

    Args:
        prepared: see prepare_training.
        on_event: hears the progress; also gets the line for every ``print_checkpoint`` epochs.
        stop: set to save and end; of several processes any one's counts.
        team: the processes that train together; the first one writes the files and finds the result.
        clock: gives seconds; what the time limit is kept by.

    Raises:
        ModelError: training became unstable or memory ran out.
        ExportError: files cannot be written.
        HurriedStop: it was stopped in a hurry (``stop.in_a_hurry``); all is saved, nothing was looked at.
    """
    plan, study = prepared.plan, prepared.study
    if prepared.state == "finished" and prepared.checkpoint:
        state, epochs = prepared.checkpoint["state"], _epochs(plan, prepared.checkpoint)
        reason, judged = state["finished"], judged_epoch_of(state)
        return team.first_does(
            lambda: training_result(
                plan, study, reason, on_event, already=True, epochs=epochs, judged_epoch=judged
            )
        )
    team.first_does(lambda: _begin_files(prepared, on_event))
    if plan.settings.tensorboard and team.is_first:
        on_event = TensorboardLog(plan.files.tensorboard, on_event)
    stop = stop or StopFlag()
    while True:
        trainer = _trainer_of(prepared, team, clock)
        try:
            reason = trainer.fit(_with_progress_lines(on_event, plan, trainer), stop)
            break
        except OutOfMemoryError:
            smaller = plan_smaller(prepared.plan) if team.world == 1 else None
            if smaller is None:
                raise
            state = {**copy.deepcopy(trainer.snapshot()), "parts": smaller.loop.parts}
        del trainer  # and what it holds of the memory
        prepared = _on_less(prepared, smaller, state, on_event)
    plan = prepared.plan
    if trainer.hurried:
        raise HurriedStop(
            f"Saved after {trainer.state.epoch} of {counted(trainer.epochs, 'epoch')}. Start the same training again to go on."
        )
    worst, epochs, judged = trainer.loss.worst, trainer.epochs, judged_epoch_of(vars(trainer.state))
    return team.first_does(
        lambda: training_result(
            plan, study, reason, on_event, worst_loss=worst, epochs=epochs, judged_epoch=judged
        )
    )


def _trainer_of(prepared: PreparedTraining, team: Team, clock: Callable[[], float]) -> Trainer:
    """The trainer, where the run stands."""
    plan, study = prepared.plan, prepared.study
    before = prepared.checkpoint or {}
    extra = {
        "settings": to_table(plan.settings),
        "given": before.get("given") or to_table(study.settings),
        "checksum": study.report.checksum,
        "looks": [plan.loop.validate_every, plan.validation_scans, plan.loop.learn_all_from],
        "begun_from": before.get("begun_from", ""),
        "versions": versions(),
    }
    save = functools.partial(_save_model, plan, study)
    trainer = make_trainer(
        plan, prepared.network, prepared.train_set, prepared.validation, save, extra, team, clock
    )
    if prepared.checkpoint:
        trainer.restore(prepared.checkpoint["state"])
    return trainer


def _on_less(
    prepared: PreparedTraining, smaller: Plan, state: dict[str, Any], on_event: Listener
) -> PreparedTraining:
    """The same run where it stands, on smaller images or patches, after memory ran out."""
    shape = " × ".join(map(str, smaller.network.input_shape))
    what = "images" if smaller.window is None else "patches"
    text = f"Memory ran out even with one at a time: going on with {what} of {shape}. What was learned so far is kept."
    on_event(Message(text, "warning"))
    train_set, validation = prepare_data(prepared.study, smaller, on_event)
    return replace(
        prepared,
        plan=smaller,
        network=initial_network(smaller, on_event, resumed=True),
        train_set=train_set,
        validation=validation,
        checkpoint={**(prepared.checkpoint or {}), "state": state},
    )


def _begin_files(prepared: PreparedTraining, on_event: Listener) -> None:
    """Sets the files of an earlier run aside, where this one does not go on with them."""
    plan, checkpoint = prepared.plan, prepared.checkpoint or {}
    if prepared.state == "new" or checkpoint.get("elsewhere"):
        aside = plan.files.set_aside()
        if aside:
            on_event(Message(f"The files of an earlier run of this name were set aside in '{aside.name}'."))
        write_yaml(plan.files.settings, to_table(plan.settings))


def _with_progress_lines(on_event: Listener, plan: Plan, trainer: Trainer) -> Listener:
    """Adds the text line of the field's notebooks every ``print_checkpoint`` epochs."""

    def listener(event: Event) -> None:
        on_event(event)
        if isinstance(event, EpochDone) and (
            event.epoch % plan.settings.print_checkpoint == 0 or event.epoch in (1, event.epochs)
        ):
            line = progress_line(event, trainer.elapsed(), trainer.state.history, trainer.loss.worst)
            on_event(Message(line))

    return listener


def _save_model(
    plan: Plan, study: Study, path: Path, network: nn.Module, epoch: int, scores: Scores | None
) -> None:
    save_model(path, network, model_metadata(plan, study, epoch, scores))
