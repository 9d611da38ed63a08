"""One way to prepare and to train, whether the settings ask for one run or for several folds."""

from __future__ import annotations

from pathlib import Path

from autoseg_lib.events import Listener, StopFlag, nobody
from autoseg_lib.train.machine import Machine
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.folds import PreparedFolds, prepare_folds, train_prepared_folds, wants_folds
from autoseg_lib.workflow.training import PreparedTraining, prepare_training, train
from autoseg_lib.workflow.training_result import TrainingResult

PreparedRun = PreparedTraining | PreparedFolds


def prepare_run(
    study: Study, project_dir: Path, on_event: Listener = nobody, machine: Machine | None = None
) -> PreparedRun:
    """Plans what the settings ask for; see prepare_training and prepare_folds."""
    if wants_folds(study):
        return prepare_folds(study, project_dir, on_event, machine)
    return prepare_training(study, project_dir, on_event, machine)


def train_run(
    prepared: PreparedRun, on_event: Listener = nobody, stop: StopFlag | None = None
) -> TrainingResult:
    """Trains what was prepared; see train and train_prepared_folds."""
    if isinstance(prepared, PreparedFolds):
        return train_prepared_folds(prepared, on_event, stop)
    return train(prepared, on_event, stop)
