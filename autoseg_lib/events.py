"""What long work tells whoever is watching, and how the watcher asks it to stop.

The library emits events; a progress bar on the terminal, a dashboard in the notebook or nobody listens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of everything that long work reports."""


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``total`` units of the work named ``stage`` are done; ``detail`` says what is in hand.

    ``seconds_left`` is how long the rest will take, where the work itself knows better than who counts the units.
    """

    stage: str
    done: int
    total: int
    detail: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class Message(Event):
    """A sentence for the user. ``level`` is "info" or "warning"."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class TrainingStarted(Event):
    """Training is about to begin or to go on.

    Attributes:
        epochs: planned epochs.
        first_epoch: epochs already done (0 for a new run).
        steps_per_epoch: optimiser steps in one epoch.
        roi_names: names of the ROIs, in label order.
        history: one dict per epoch already done, keys as in NAME_history.csv.
        worst_loss: largest value the Dice loss can have: 1, or 2 with a network of two stages.
    """

    epochs: int
    first_epoch: int
    steps_per_epoch: int
    roi_names: tuple[str, ...]
    history: tuple[dict[str, Any], ...] = ()
    worst_loss: float = 1.0


@dataclass(frozen=True)
class FoldStarted(Event):
    """The next events belong to training ``fold`` (from 1) of ``folds``; comes before its TrainingStarted."""

    fold: int
    folds: int


@dataclass(frozen=True)
class PlanChanged(Event):
    """A training that goes on was planned anew: ``text`` is what is said of it before it starts."""

    text: str


@dataclass(frozen=True)
class StepDone(Event):
    """One optimiser step is done (``step`` of ``steps`` in ``epoch``, counted from 1).

    Attributes:
        images: slices or patches in it.
        seconds: it took, waiting for data included.
        wait_seconds: of these, spent waiting for data.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    images: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class EpochDone(Event):
    """One epoch is done. ``row`` has the columns of NAME_history.csv."""

    epoch: int
    epochs: int
    row: dict[str, Any]
    seconds_left: float


@dataclass(frozen=True)
class ValidationCase(Event):
    """The worst validation slice of this epoch, to look at.

    Attributes:
        case: name of the scan.
        slice_number: number of the slice, from 1.
        dice: mean Dice of the case.
        image: (row, column) float image.
        truth: (row, column) label values.
        prediction: (row, column) label values.
    """

    case: str
    slice_number: int
    dice: float
    image: Any = field(repr=False)
    truth: Any = field(repr=False)
    prediction: Any = field(repr=False)


@dataclass(frozen=True)
class TrainingStopped(Event):
    """Training has ended: ``reason`` is "finished", "early" (no longer getting better), "stopped" or "time limit"."""

    reason: str
    epochs_done: int


Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """A listener that ignores every event."""


class StopFlag:
    """Set by a button or an interrupt; long work asks it between two steps. Safe across threads.

    Attributes:
        in_a_hurry: the work is about to be ended from outside: save, and leave out whatever can be done later.
    """

    def __init__(self) -> None:
        self.in_a_hurry = False
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._more_epochs = 0

    def set(self) -> None:
        """Asks the work to save and end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether the work was asked to end."""
        return self._event.is_set()

    def ask_more_epochs(self, count: int = 10) -> None:
        """Asks a training to go on for ``count`` epochs longer than planned."""
        with self._lock:
            self._more_epochs += count

    def take_more_epochs(self) -> int:
        """Returns how many more epochs were asked for since the last call."""
        with self._lock:
            count, self._more_epochs = self._more_epochs, 0
            return count
