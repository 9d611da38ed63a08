"""One way to prepare and to train, whatever the settings ask for: one run, several folds, a learning curve after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoseg_lib.errors import SettingsError
from autoseg_lib.events import Listener, StopFlag, nobody
from autoseg_lib.settings import TrainSettings
from autoseg_lib.train.machine import Machine
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.folds import PreparedFolds, prepare_folds, train_prepared_folds, wants_folds
from autoseg_lib.workflow.label_more import measure_outlook
from autoseg_lib.workflow.training import PreparedTraining, prepare_training, train
from autoseg_lib.workflow.training_result import TrainingResult

PreparedRun = PreparedTraining | PreparedFolds


def prepare_run(
    study: Study,
    project_dir: Path,
    on_event: Listener = nobody,
    machine: Machine | None = None,
    more_epochs: int = 0,
) -> PreparedRun:
    """Plans what the settings ask for; see prepare_training and prepare_folds (which are not trained longer)."""
    if wants_folds(study.settings):
        return prepare_folds(study, project_dir, on_event, machine)
    return prepare_training(study, project_dir, on_event, machine, more_epochs=more_epochs)


def train_run(
    prepared: PreparedRun,
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
    machine: Machine | None = None,
) -> TrainingResult:
    """Trains what was prepared, see train and train_prepared_folds; with ``learning_curve``, on parts of the scans too."""
    stop = stop or StopFlag()
    study, plan = prepared.study, prepared.plan
    result: TrainingResult
    if isinstance(prepared, PreparedFolds):
        done = train_prepared_folds(prepared, on_event, stop)
        # The parts are compared with one fold: it has learned from as many scans as they are parts of.
        result = done
        plan = plan if prepared.number == 1 else prepared.known[0].plan
        score = done.fold_lines[0].mean_dice if done.fold_lines else None
    else:
        result = train(prepared, on_event, stop)
        score = result.scores.mean if result.scores else None
    if not study.settings.learning_curve or result.reason == "stopped":
        return result
    outlook = measure_outlook(study, plan, score, on_event, stop, machine)
    return replace(result, outlook=outlook.text)


def require_one_run(settings: TrainSettings) -> None:
    """Raises SettingsError where several processes are to train what is not one run."""
    if wants_folds(settings):
        raise SettingsError(
            f"folds = {settings.folds}: several processes train one run together, not folds. Start `autoseg train` without "
            "torchrun (the folds are then trained one after the other), or set folds = 1."
        )
    if settings.learning_curve:
        raise SettingsError(
            "learning_curve = True: several processes train one run together, not a learning curve. Start `autoseg train` "
            "without torchrun, or set learning_curve = False."
        )
