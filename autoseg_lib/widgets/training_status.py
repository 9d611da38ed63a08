"""Where a training stands, gathered from its events: how far, how fast, how long still. No widgets here."""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import psutil

from autoseg_lib.events import (
    EpochDone,
    Event,
    FoldStarted,
    Progress,
    StepDone,
    TrainingStarted,
    TrainingStopped,
)
from autoseg_lib.labels import LabelTable
from autoseg_lib.system import GB, find_gpu
from autoseg_lib.widgets.progress import time_text

# Speed is that of the latest steps: enough of them to be steady, few enough to show when something slows down.
_LATEST_STEPS = 50
# Before so many steps the time left is not said: the first ones set things up and are slow.
_FEWEST_STEPS = 3
# From this share of the time spent waiting for data on, more helper processes may make training quicker.
WAITING_SHARE = 0.1


class TrainingStatus:
    """Takes in events and answers what a view wants to show.

    Attributes:
        history: rows of NAME_history.csv so far.
        labels: the ROIs.
        epoch: epochs done.
        epochs: epochs planned.
        reason: how training ended; "" while it goes on.
        worst_loss: largest value of the loss.
    """

    def __init__(self, labels: LabelTable, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        labels: the ROIs.
        clock: gives seconds.
        """
        self._clock = clock
        self.labels, self.history = labels, list[dict[str, Any]]()
        self.epoch, self.epochs, self.reason, self.worst_loss = 0, 0, "", 1.0
        self._step, self._steps, self._first = 0, 0, 0.0
        self._seconds_left: float | None = None
        self._left_at = self._started = clock()
        self._stage, self._stage_share = "Getting ready ...", 0.0
        self._latest: deque[StepDone] = deque(maxlen=_LATEST_STEPS)
        self._fold = ""

    def take(self, event: Event) -> None:
        """Takes in one event."""
        if isinstance(event, Progress):
            self._stage = f"{event.stage}: {event.done} of {event.total}"
            self._stage_share = event.done / event.total if event.total else 0.0
        elif isinstance(event, FoldStarted):
            self._fold = f"Fold {event.fold} of {event.folds}"
        elif isinstance(event, TrainingStarted):
            self._start(event)
        elif isinstance(event, StepDone):
            self._step = event.step
            self._latest.append(event)
        elif isinstance(event, EpochDone):
            self.epoch, self.epochs, self._step = event.epoch, event.epochs, 0
            self.history.append(dict(event.row))
            self._seconds_left, self._left_at = event.seconds_left, self._clock()
        elif isinstance(event, TrainingStopped):
            self.reason = event.reason

    def begin(self) -> None:
        """A sitting begins; what is known of an earlier one stays in ``history``."""
        self.epochs, self.reason, self._stage, self._stage_share = 0, "", "Getting ready ...", 0.0

    def _start(self, event: TrainingStarted) -> None:
        self.labels, self.worst_loss, self.reason = LabelTable(event.roi_names), event.worst_loss, ""
        self.epoch, self.epochs, self._step = event.first_epoch, event.epochs, 0
        self._steps, self.history = event.steps_per_epoch, [dict(row) for row in event.history]
        self._first, self._started, self._seconds_left = self.share, self._clock(), None
        self._latest.clear()

    def add_epochs(self, count: int) -> None:
        """Shows at once what was asked for; the training says at the end of the epoch what became of it."""
        self.epochs += count
        self._seconds_left = None

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        if not self.epochs or self.reason:
            return self._stage_share
        return (self.epoch + (self._step / self._steps if self._steps else 0.0)) / self.epochs

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds to the end; None while it is too early to say."""
        if self._seconds_left is not None:
            return max(1.0, self._seconds_left - (self._clock() - self._left_at))
        done = self.share - self._first
        if len(self._latest) < _FEWEST_STEPS or done <= 0:
            return None
        return (self._clock() - self._started) / done * (1 - self.share)

    @property
    def images_per_second(self) -> float | None:
        """Images (slices, patches) learned from in a second, lately."""
        seconds = sum(step.seconds for step in self._latest)
        images = sum(step.images for step in self._latest)
        return images / seconds if seconds > 0 and images else None

    @property
    def waiting_share(self) -> float | None:
        """Share of the time spent waiting for data, lately."""
        seconds = sum(step.seconds for step in self._latest)
        return sum(step.wait_seconds for step in self._latest) / seconds if seconds > 0 else None

    def sentence(self) -> str:
        """Returns "Fold 2 of 5 · Epoch (one pass over your data) 12 of 500 · about 3 min left, until 14:05"."""
        if self.reason:
            text = self._stage if self._stage_share else "Looking at the validation scans ..."
        elif not self.epochs:
            text = self._stage
        else:
            text = f"Epoch (one pass over your data) {min(self.epoch + 1, self.epochs)} of {self.epochs}"
            left = self.seconds_left
            if left is not None:
                end = datetime.datetime.now() + datetime.timedelta(seconds=left)
                text += f" · about {time_text(left)} left, until {end:%H:%M}"
        return f"{self._fold} · {text}" if self._fold else text

    def speed(self) -> str:
        """Returns "31.2 images per second · 2 % of the time waiting for data"; "" while it is too early to say."""
        rate, waiting = self.images_per_second, self.waiting_share
        if rate is None or waiting is None:
            return ""
        text = f"{rate:.3g} images per second · {100 * waiting:.0f} % of the time waiting for data"
        return text + (" (a larger num_workers may help)" if waiting > WAITING_SHARE else "")

    def ending(self) -> str:
        """Returns what is said of a training that has ended."""
        done = {
            "finished": "Training is finished",
            "early": "Training has ended by itself: it no longer got better",
            "time limit": "The time limit is reached: saved and ended",
            "stopped": "Stopped and kept: run this cell again to go on",
        }.get(self.reason, "Ended")
        spent = time_text(sum(row.get("seconds") or 0.0 for row in self.history))
        return f"{done} · {self.epoch} of {self.epochs} epochs (passes over your data) in {spent}."


def memory_sentence() -> str:
    """Returns what this process and its helpers use of the memory, and of the GPU's where there is one."""
    process = psutil.Process()
    used = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            used += child.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            continue
    free = psutil.virtual_memory().available
    text = f"memory: {used / GB:.1f} GB used, {free / GB:.1f} GB free"
    gpu = find_gpu()
    if gpu is not None and gpu.memory_used_gb is not None and gpu.memory_total_gb is not None:
        text += f" · GPU: {gpu.memory_used_gb:.1f} of {gpu.memory_total_gb:.1f} GB used"
    return text
