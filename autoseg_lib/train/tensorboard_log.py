"""The history of a run as logs that TensorBoard reads, for those who use it; NAME_history.csv holds the same numbers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg_lib.errors import SettingsError
from autoseg_lib.events import EpochDone, Event, Listener, Message, TrainingStarted, TrainingStopped

# Column of the history → name of the curve; "val_dice_ROI" becomes "dice/ROI".
_CURVES = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "val_dice": "dice/mean",
    "learning_rate": "learning_rate",
    "seconds": "seconds_per_epoch",
}


def writer_class() -> Any:
    """Returns the class that writes event files.

    Raises:
        SettingsError: neither tensorboard nor tensorboardX is installed.
    """
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return importlib.import_module(module).SummaryWriter
        except ImportError:
            continue
    raise SettingsError(
        "tensorboard = True: the package tensorboard is not installed. Install it with "
        'pip install "autoseg-workbench[tensorboard]", or set tensorboard = False.'
    )


class TensorboardLog:
    """Hears the events of a training, writes its scalars, and passes every event on.

    A run that goes on writes its whole history anew, so that no step is there twice and none is missing, whatever happened
    to the process before.
    """

    def __init__(self, folder: Path, on_event: Listener) -> None:
        """Args:
        folder: NAME_tensorboard in the models' folder; made if missing.
        on_event: hears every event after this one.
        """
        self._folder, self._on_event = folder, on_event
        self._class = writer_class()
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        try:
            if isinstance(event, TrainingStarted):
                self._begin(event)
            elif isinstance(event, EpochDone) and self._writer is not None:
                self._write(event.row)
                self._writer.flush()
            elif isinstance(event, TrainingStopped) and self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._writer = None
            text = f"The logs for TensorBoard cannot be written ({error.strerror or error}); training goes on without them."
            self._on_event(Message(text, "warning"))
        self._on_event(event)

    def _begin(self, event: TrainingStarted) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        # With purge_step a TensorBoard that is open forgets what it has read of the files before.
        self._writer = self._class(log_dir=str(self._folder), purge_step=0)
        for row in event.history:
            self._write(row)
        self._writer.flush()

    def _write(self, row: Mapping[str, Any]) -> None:
        for column, value in row.items():
            name = _CURVES.get(column) or (
                f"dice/{column.removeprefix('val_dice_')}" if column.startswith("val_dice_") else ""
            )
            if name and value is not None:
                self._writer.add_scalar(name, float(value), int(row["epoch"]))
