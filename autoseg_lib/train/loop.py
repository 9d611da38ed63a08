"""The training loop, to be read in one sitting: fit → epoch → step → validate → save.

All randomness comes from (seed, epoch, step), and the learning rate from the step and stored decisions, so a run that was
interrupted, even in the middle of an epoch, goes on to the same weights that it would have reached without the interruption.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from autoseg_lib.data.dataset import KeyedBatches
from autoseg_lib.data.loading import Batch, BatchStream
from autoseg_lib.events import (
    EpochDone,
    Listener,
    Message,
    StepDone,
    StopFlag,
    TrainingStarted,
    TrainingStopped,
    ValidationCase,
)
from autoseg_lib.infer.predictor import Predictor, Stopped
from autoseg_lib.losses.registry import SegmentationLoss, build_loss
from autoseg_lib.networks.out_of_memory import is_out_of_memory
from autoseg_lib.train.averaging import WeightAverage
from autoseg_lib.train.best_model import BestModel
from autoseg_lib.train.checkpoint import is_sound, save_checkpoint
from autoseg_lib.train.distributed import ALONE, Team
from autoseg_lib.train.files import RunFiles, write_history
from autoseg_lib.train.keeping import Keeper
from autoseg_lib.train.optimizers import build_optimizer
from autoseg_lib.train.schedule import Schedule
from autoseg_lib.train.step import Learner
from autoseg_lib.train.validate import CaseScore, Scores, ValidationScan, validate

# The resume file is written so often that at most about this much work can be lost, twice that where writing is slow ...
MOST_LOST_SECONDS = 60.0
# ... and after every epoch, but where epochs are short no more than this share of the time goes into writing it.
SAVING_SHARE = 0.05
# A run with a time limit looks at the clock after every epoch and after this share of its steps.
REPLAN_SHARE = 0.02
# A run that ended at its time limit goes on when the new limit leaves it at least so much more.
LEAST_MORE_SHARE, LEAST_MORE_SECONDS = 0.05, 30.0


@dataclass(frozen=True)
class LoopPlan:
    """Everything the loop needs to know; made by ``autoseg_lib.train.planning``."""

    epochs: int
    batch_size: int
    learning_rate: float
    loss: str
    seed: int
    num_workers: int
    precision: str
    device: str
    save_every: int
    validate_every: int
    time_limit_seconds: float | None
    # Seconds the work after the last step is expected to take; training ends so much before the limit.
    reserve_seconds: float = 0.0
    # That work again, as looks at one scan and the seconds of all else: looks while training tell how long one takes.
    last_looks: float = 0.0
    last_seconds: float = 0.0
    # The weights at the end are the model, whatever the scans kept back say: their scores stay untouched by any choice.
    keep_last: bool = False
    # The scans kept back are learned from, too, from this share of the run on; 0: never.
    learn_all_from: float = 0.0
    # How the steps are planned at the start; the state of a run keeps its own copy, which changes.
    schedule: Schedule | None = None
    # The batch goes through the network in so many parts, one after the other, to keep to the memory (same result).
    parts: int = 1
    # End when validation has not become better for long.
    early_stopping: bool = False
    # Fewest images the network can learn from at a time.
    smallest_part: int = 1
    optimizer: str = "adamw"


@dataclass
class State:
    """Where a run stands; all of it is in the resume file."""

    epoch: int = 0
    step: int = 0
    steps_done: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    # What the schedule was made for: [epochs, time limit].
    asked: list[Any] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    parts: int = 1
    bad_steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    network: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    # The best model's weights: written again should its file be missing, or hold what a stop looked at in between. From the
    # judged epoch on those of the judged model.
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_scores: list[dict[str, Any]] = field(default_factory=list)
    best_replaced: bool = False
    # Epochs that were done when the scans kept back began to be learned from, too; 0: not yet, or never.
    judged_epoch: int = 0
    judged_step: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: str = ""


class Trainer:
    """One training run: a network, its data, and where the run stands."""

    def __init__(
        self,
        plan: LoopPlan,
        network: nn.Module,
        predictor: Predictor,
        train_set: Dataset[dict[str, torch.Tensor]],
        validation: Sequence[ValidationScan],
        files: RunFiles,
        labels: Any,
        save_model: Any,
        checkpoint_extra: dict[str, Any],
        *,
        loss: SegmentationLoss | None = None,
        before_epoch: Callable[[int, nn.Module], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        team: Team = ALONE,
    ) -> None:
        """Args:
        plan: sizes and limits.
        network: freshly built (or fine-tuned from) network; trained in place.
        predictor: how scans are predicted; its network is replaced by the averaged one.
        train_set: gives {"image", "label"} for a key (epoch, index).
        validation: scans kept back.
        files: where to write.
        labels: the ROIs.
        save_model: ``save_model(path, network, epoch, scores)`` writes a model file.
        checkpoint_extra: settings and checksums that go into the resume file beside the state.
        loss: what is made small; None: the plan's, for a network with one output.
        before_epoch: called with (epoch from 0, network) before the first step of an epoch; may freeze layers.
        clock: gives seconds; what time limits and speeds are measured with.
        team: the processes that train together. The first looks at the scans kept back, writes and speaks; all see each
            other's gradients and follow the same decisions.
        """
        self.team = team
        self.plan, self.files, self.labels, self.clock = plan, files, labels, clock
        self.validation, self.save_model, self.extra = validation, save_model, checkpoint_extra
        self.before_epoch = before_epoch
        team.share(plan.batch_size)
        length, everything = len(train_set), getattr(train_set, "everything", None)  # type: ignore[arg-type]
        self.batches = KeyedBatches(length, plan.batch_size, plan.seed, team.rank, team.world, everything)
        self.loader = BatchStream(train_set, self.batches, plan.num_workers, pin_memory=plan.device == "cuda")
        self.fabric = team.fabric(plan.device, plan.precision)
        memory_format = torch.channels_last if predictor.window is None else torch.channels_last_3d
        network = network.to(memory_format=memory_format)
        self.mean = WeightAverage(network, self.fabric.device)
        network = team.with_shared_statistics(network)
        self.network, self.optimizer = self.fabric.setup(
            network, build_optimizer(network, plan.optimizer, plan.learning_rate)
        )
        self.loss = loss or build_loss(plan.loss)
        self.loss.across_processes = team.sum
        self.learner = Learner(
            self.fabric,
            self.network,
            self.optimizer,
            self.loss,
            memory_format,
            plan.smallest_part,
            plan.parts,
            team=team,
        )
        self.predictor = replace(predictor, network=self.mean.network, device=self.fabric.device)
        self.state, self.choice = State(asked=[plan.epochs, plan.time_limit_seconds]), BestModel()
        self.schedule = self._planned_schedule()
        self.keeper = Keeper()
        self.last_scores: Scores | None = None
        self.scan_seconds: float | None = None
        self.started = self.epoch_started = self.saved = self.clock()
        self.saving_seconds, self.last_is_sound = 0.0, False
        # Whether the run was stopped with no time left for anything but saving.
        self.hurried = False

    # --- the run ------------------------------------------------------------------------------------------------------

    def fit(self, on_event: Listener, stop: StopFlag) -> str:
        """Trains until the planned steps are done, the time is up, nothing is gained any more, or ``stop`` is set.

        Returns:
            "finished", "time limit", "early" or "stopped".

        Raises:
            ModelError: training became unstable, or memory is too small.
            ExportError: at the end, files could not be written.
        """
        state = self.state
        state.finished = ""
        self.started = self.clock() - state.elapsed_seconds
        self.saved = self.clock()
        if self.team.is_first:
            self.files.remove_leftovers()
            self._put_best_in_place(on_event)
            self._put_judged_in_place(on_event)
        on_event(
            TrainingStarted(
                self.epochs,
                state.epoch,
                len(self.batches),
                tuple(self.labels.names),
                tuple(state.history),
                self.loss.worst,
            )
        )
        while True:
            reason = self._learn(on_event, stop)
            if not self._take_more_epochs(on_event, stop) or reason == "stopped":
                break
        self.hurried = reason == "stopped" and self.team.any(stop.in_a_hurry)
        if self.team.is_first:
            self._end(reason, on_event, stop)
        on_event(TrainingStopped(reason, state.epoch))
        return reason

    def _learn(self, on_event: Listener, stop: StopFlag) -> str:
        """Goes through epoch after epoch; returns why it ended."""
        batches = self._begin_batches(on_event)
        reason = self._reason_to_end()
        try:
            while not reason:
                reason = self._train_epoch(batches, on_event, stop)
                if reason != "stopped":
                    self._replan()
                    reason = reason or self._reason_to_end()
                    reason = self._finish_together(reason, on_event, stop)
                if self.state.judged_epoch and self.batches.all_from is None:
                    batches.close()  # type: ignore[attr-defined]
                    batches = self._begin_batches(on_event)
        except Stopped:
            reason = "stopped"
        finally:
            batches.close()  # type: ignore[attr-defined]
        return reason

    def _begin_batches(self, on_event: Listener) -> Iterator[Batch]:
        """The batches from where the run stands."""
        state = self.state
        self.batches.all_from = state.judged_epoch or None
        return self.loader.begin(state.epoch, state.step, on_event)

    def _train_epoch(self, batches: Iterator[Batch], on_event: Listener, stop: StopFlag) -> str:
        """Goes through the training data once (or what is left of it). Returns "" or why the run ends."""
        state, steps = self.state, len(self.batches)
        self.epoch_started = self.clock() - state.epoch_seconds
        self.network.train()
        if self.before_epoch:  # after train(): it may keep layers as they are
            self.before_epoch(state.epoch, self.network)
        while state.step < steps:
            if self.team.any(stop.is_set()):
                return "stopped"
            self._take_more_epochs(on_event, stop)
            if reason := self._reason_to_end():
                return reason
            asked = self.clock()
            batch = next(batches)
            came = self.clock()
            loss = self.train_step(batch, on_event)
            state.step += 1
            state.steps_done += 1
            state.loss_sum += loss
            state.epoch_seconds = self.clock() - self.epoch_started
            images = batch["image"].shape[0]
            on_event(
                StepDone(state.epoch + 1, state.step, steps, loss, images, self.clock() - asked, came - asked)
            )
            self._between_steps(on_event)
        return ""

    def train_step(self, batch: Batch, on_event: Listener) -> float:
        """One optimiser step; returns its Dice loss, 0 best."""
        state = self.state
        others = (self.team.rank,) if self.team.rank else ()
        seed = _mix(self.plan.seed, state.epoch, state.step, *others)
        with self.team.noticing():
            loss = self.learner.step(batch, self.learning_rate(), seed, on_event)
        if not self.learner.bad_steps:
            self.mean.update(self.network, state.steps_done)
        return loss

    def _finish_together(self, reason: str, on_event: Listener, stop: StopFlag) -> str:
        """Ends an epoch in all processes; what the first one finds and decides holds for the others."""
        all_next = not reason and self._learns_all_next()
        if self.team.is_first:
            try:
                reason = self._finish_epoch(reason, on_event, stop, all_next)
            except Stopped:
                reason = "stopped"
        elif self.state.step:
            self.state.epoch, self.state.step = self.state.epoch + 1, 0
            if all_next:
                self._begin_to_learn_all()
        return self.team.from_first(reason)

    def _learns_all_next(self) -> bool:
        """Whether the scans kept back have told what they can, and are learned from, too, from the next epoch on."""
        state, share = self.state, self.plan.learn_all_from
        if not share or state.judged_epoch or not state.step:
            return False
        return self.schedule.progress(state.steps_done) >= share

    def _begin_to_learn_all(self) -> None:
        self.state.judged_epoch, self.state.judged_step = self.state.epoch, self.state.steps_done

    def _finish_epoch(self, reason: str, on_event: Listener, stop: StopFlag, all_next: bool) -> str:
        """Validates if it is time to, writes the history line and the files. Returns "" or why the run ends."""
        state, plan = self.state, self.plan
        if state.step == 0:
            return reason
        epoch = state.epoch + 1
        scores = None
        if reason or all_next or epoch == 1 or epoch % plan.validate_every == 0:
            scores = self._look(stop)
        row: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": state.loss_sum / state.step,
            # On the scale of the training loss, which adds up the stages of a network that has two.
            "val_loss": scores.loss * self.loss.worst if scores else None,
            "val_dice": scores.mean if scores else None,
            "learning_rate": self.learning_rate(),
            # With the look at the scans kept back: the rows add up to what a clock on the wall shows.
            "seconds": self.clock() - self.epoch_started,
        }
        for number, name in enumerate(self.labels.names):
            row[f"val_dice_{name}"] = scores.per_roi[number] if scores else None
        state.history.append(row)
        state.epoch, state.step, state.loss_sum, state.epoch_seconds = epoch, 0, 0.0, 0.0
        if scores:
            self._choose(scores, on_event)
            on_event(_worst_case(scores))
            reason = reason or self._gains_nothing(on_event)
        self._keep_history(on_event)
        if all_next and scores and not reason:
            self._begin_to_learn_all()
            state.best, state.best_scores = self._average_now(), scores.to_plain()
            self._keep_best(state.best, epoch, scores, on_event)
            self._put_judged_in_place(on_event)
            on_event(Message(_learns_all_text(epoch)))
        elif epoch % plan.save_every == 0 and not reason:
            self._keep_model(epoch, scores, on_event)
        self._save_state(on_event)
        on_event(EpochDone(epoch, self.epochs, dict(row), self.seconds_left()))
        return reason

    def _end(self, reason: str, on_event: Listener, stop: StopFlag) -> None:
        """Looks at the validation scans once more if anything was learned since, and saves the last models.

        In a hurry the resume file is all that is saved.
        """
        state, stopped = self.state, reason == "stopped"
        self._save_state(on_event, always=True)
        if state.steps_done and not self.hurried:
            if self.choice.seen_step != state.steps_done and (scores := self._look(None)):
                self._choose(scores, on_event, only_now=stopped)
            # Once the scans kept back are learned from, no model but the judged one has scores.
            scores = None if state.judged_epoch else self.last_scores
            # The model after these epochs may be there: a stop within the next one must not change it.
            there = stopped and self.files.at_epoch(state.epoch).is_file()
            if state.epoch > 0 and not there and state.epoch != state.judged_epoch:
                self._keep_model(state.epoch, scores, on_event, later=True)
            if judged_epoch_of(vars(state)) or not (self.choice.best_epoch or self.validation):
                self._keep_best(self._average_now(), state.epoch, None, on_event)
        if not stopped:
            # Not before: a run that is killed above comes back here and saves what is missing.
            state.finished = reason
            self._save_state(on_event, always=True)
        self.keeper.finish(on_event, stop)

    # --- validating and choosing --------------------------------------------------------------------------------------

    def _look(self, stop: StopFlag | None) -> Scores | None:
        """Scores the scans kept back; fewer slices or windows at a time where the memory is too small.

        None without any, and once they are learned from.
        """
        if not self.validation or self.state.judged_epoch:
            return None
        while True:
            try:
                begun = self.clock()
                scores = validate(self.predictor, self.validation, self.labels, stop)
                self.scan_seconds = (self.clock() - begun) / len(self.validation)
                return scores
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.predictor.batch_size == 1:
                    raise
            self.predictor = replace(self.predictor, batch_size=1)

    def _choose(self, scores: Scores, on_event: Listener, only_now: bool = False) -> None:
        """Keeps the model if it is the best so far.

        With ``only_now`` the file alone is changed, not what the run goes on from: a stop must not leave a trace in it.
        """
        state = self.state
        self.last_scores = scores
        choice = BestModel.from_dict(self.choice.to_dict()) if only_now else self.choice
        if not choice.look(scores.mean, state.epoch, state.steps_done) and not self.plan.keep_last:
            return
        weights = self._average_now()
        if only_now:
            state.best_replaced = True
            self._save_state(on_event, always=True)
        else:
            state.best, state.best_scores = weights, scores.to_plain()
        self._keep_best(weights, state.epoch, scores, on_event)

    def _gains_nothing(self, on_event: Listener) -> str:
        state, choice = self.state, self.choice
        if not self.plan.early_stopping or not choice.is_over(state.steps_done, self.schedule.total_steps):
            return ""
        since = (state.steps_done - choice.gained_step) // len(self.batches)
        on_event(
            Message(
                f"The validation scans have not come out better for {since} epochs (best: mean Dice {choice.best_dice:.3f} at epoch "
                f"{choice.best_epoch}), so training ends here. early_stopping = False trains all {self.epochs} epochs."
            )
        )
        return "early"

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """Epochs of the whole run as planned now; a last one that is cut short counts."""
        left = max(0, self.schedule.total_steps - self.state.steps_done)
        return self.state.epoch + math.ceil((self.state.step + left) / len(self.batches))

    def _planned_schedule(self) -> Schedule:
        if self.plan.schedule:
            return Schedule.from_dict(self.plan.schedule.to_dict())  # a copy: it changes as the run goes on
        steps = len(self.batches)
        total = self.plan.epochs * steps
        return Schedule(total, steps, self.plan.time_limit_seconds, total)

    def learning_rate(self) -> float:
        """Size of the next step."""
        return self.schedule.learning_rate(self.state.steps_done, self.plan.learning_rate)

    def elapsed(self) -> float:
        """Seconds trained so far, over all sittings."""
        return self.clock() - self.started

    def _common_seconds(self) -> float:
        """Seconds trained so far by the first process's clock: what all decide by must be the same."""
        return self.team.from_first(self.elapsed())

    def seconds_left(self) -> float:
        """Expected seconds to the end."""
        steps, limit = self.state.steps_done, self.schedule.time_limit_seconds
        pace = self.schedule.seconds_per_step or self.elapsed() / max(1, steps)
        left = (self.schedule.total_steps - steps) * pace
        return max(0.0, left if limit is None else min(left, limit - self.elapsed()))

    def _reserve(self) -> float:
        """Seconds that the work after the last step will take, by the first process's clock; at most half the limit."""
        limit, planned = self.schedule.time_limit_seconds or math.inf, self.plan
        seconds = planned.reserve_seconds
        if self.scan_seconds is not None and planned.last_looks:
            seconds = planned.last_seconds + planned.last_looks * self.scan_seconds
        return self.team.from_first(min(seconds, 0.5 * limit))

    def _reason_to_end(self) -> str:
        """Returns "", "finished" or "time limit". One step is always done."""
        state, schedule, limit = self.state, self.schedule, self.schedule.time_limit_seconds
        if state.steps_done >= schedule.total_steps:
            shortened = schedule.most_steps is not None and schedule.total_steps < schedule.most_steps
            return "time limit" if limit and shortened else "finished"
        if limit and state.steps_done and self._common_seconds() >= limit - self._reserve():
            return "time limit"
        return ""

    def _replan(self) -> None:
        limit = self.schedule.time_limit_seconds
        if limit:
            self.schedule.replan(self.state.steps_done, self._common_seconds(), self._reserve())

    def _take_more_epochs(self, on_event: Listener, stop: StopFlag) -> bool:
        more = stop.take_more_epochs()
        if more:
            self.schedule.extend(self.state.steps_done, more * len(self.batches))
            self.state.finished = ""
            on_event(Message(f"{more} more epochs: {self.epochs} in all."))
            # What somebody asked for is not lost, even if the next moment ends the run.
            self._save_state(on_event, always=True)
        return bool(more)

    def _between_steps(self, on_event: Listener) -> None:
        share = max(1, round(REPLAN_SHARE * self.schedule.total_steps))
        if self.state.steps_done % share == 0:
            self._replan()
        pause = min(max(MOST_LOST_SECONDS, self.saving_seconds / SAVING_SHARE), 2 * MOST_LOST_SECONDS)
        if self.clock() - self.saved >= pause:
            self._save_state(on_event)

    # --- saving -------------------------------------------------------------------------------------------------------

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what the resume file holds."""
        self.state = State(**{key: state[key] for key in State.__dataclass_fields__ if key in state})
        self.network.load_state_dict(self.state.network)
        self.mean.network.load_state_dict(self.state.average)
        self.optimizer.load_state_dict(self.state.optimizer)
        if self.state.scaler:  # none where it was learned in another number format so far
            self.fabric.strategy.precision.load_state_dict(self.state.scaler)
        self.choice = BestModel.from_dict(self.state.choice)
        self.schedule = schedule_from(state, self.plan, len(self.batches))
        self.learner.parts, self.learner.bad_steps = self.state.parts, self.state.bad_steps
        asked = [self.plan.epochs, self.plan.time_limit_seconds]
        if self.state.asked != asked:
            self.state.asked, self.state.finished = asked, ""

    def _save_state(self, on_event: Listener, always: bool = False) -> None:
        """Writes NAME_last.ckpt, and what could not be written before."""
        if not self.team.is_first:
            return
        self.keeper.try_again(on_event)
        started = self.clock()
        if not always and started - self.saved < min(self.saving_seconds / SAVING_SHARE, MOST_LOST_SECONDS):
            return
        self.keeper.keep(self.files.last, self._write_state, on_event)
        self.saved = self.clock()
        self.saving_seconds = self.saved - started

    def snapshot(self) -> dict[str, Any]:
        """Returns what ``restore`` takes; the tensors are the run's own and change as it goes on."""
        state = self.state
        state.elapsed_seconds = self.elapsed()
        state.network = self.network.state_dict()
        state.average = self.mean.network.state_dict()
        state.optimizer = self.optimizer.state_dict()
        state.scaler = self.fabric.strategy.precision.state_dict()
        state.schedule, state.choice = self.schedule.to_dict(), self.choice.to_dict()
        state.parts, state.bad_steps = self.learner.parts, self.learner.bad_steps
        return dict(state.__dict__)

    def _write_state(self) -> None:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        # A damaged file must not take the place of the sound one before it.
        sound = self.last_is_sound or is_sound(self.files.last)
        content = {**self.extra, "saved": now, "state": self.snapshot()}
        save_checkpoint(self.files.last, content, keep_previous=sound)
        self.last_is_sound = True

    def _keep_history(self, on_event: Listener) -> None:
        path = self.files.history
        self.keeper.keep(path, lambda: write_history(path, self.state.history, self.labels), on_event)

    def _keep_model(self, epoch: int, scores: Scores | None, on_event: Listener, later: bool = False) -> None:
        path = self.files.at_epoch(epoch)
        self.keeper.keep(
            path, lambda: self.save_model(path, self.mean.network, epoch, scores), on_event, later=later
        )

    def _keep_best(
        self, weights: dict[str, torch.Tensor], epoch: int, scores: Scores | None, on_event: Listener
    ) -> None:
        path, network = self.files.best, _Weights(weights)
        self.keeper.keep(path, lambda: self.save_model(path, network, epoch, scores), on_event)

    def _put_best_in_place(self, on_event: Listener) -> None:
        """After a stop the file of the best model may hold what the stop looked at: the run's own best comes back."""
        state = self.state
        if state.best and (state.best_replaced or not self.files.best.is_file()):
            scores = Scores.from_plain(state.best_scores)
            self._keep_best(state.best, state.judged_epoch or self.choice.best_epoch, scores, on_event)
        state.best_replaced = False

    def _put_judged_in_place(self, on_event: Listener) -> None:
        """The model that the scans kept back have judged is what their scores are of: its file is written again if missing."""
        state = self.state
        path = self.files.at_epoch(state.judged_epoch)
        if not state.judged_epoch or path.is_file():
            return
        network, scores = _Weights(state.best), Scores.from_plain(state.best_scores)
        epoch = state.judged_epoch
        self.keeper.keep(path, lambda: self.save_model(path, network, epoch, scores), on_event, later=True)

    def _average_now(self) -> dict[str, torch.Tensor]:
        return {
            name: tensor.detach().cpu().clone() for name, tensor in self.mean.network.state_dict().items()
        }


class _Weights:
    """Weights that are saved like a network's."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self._weights = weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights."""
        return self._weights


def schedule_from(state: Mapping[str, Any], plan: LoopPlan, steps_per_epoch: int) -> Schedule:
    """Returns the schedule of a run that goes on; the user may ask for other epochs or another time limit than before.

    Args:
        state: of its resume file.
        plan: as it is asked for now.
        steps_per_epoch: optimiser steps in one pass over the data.
    """
    schedule, done = Schedule.from_dict(state["schedule"]), state["steps_done"]
    if state["asked"] == [plan.epochs, plan.time_limit_seconds]:
        return schedule
    total = done + max(0, (plan.epochs - state["epoch"]) * steps_per_epoch - state["step"])
    most = None if plan.schedule and plan.schedule.most_steps is None else total
    if plan.time_limit_seconds and schedule.seconds_per_step:
        seconds = plan.time_limit_seconds - state["elapsed_seconds"] - plan.reserve_seconds
        fitting = done + max(0, int(seconds / schedule.seconds_per_step))
        total = fitting if most is None else min(most, fitting)
    schedule.change(done, total, plan.time_limit_seconds, most)
    return schedule


def epochs_in_all(state: Mapping[str, Any], plan: LoopPlan, steps_per_epoch: int) -> int:
    """Returns the epochs of a run that goes on, those done and those added on the way included; see schedule_from."""
    left = max(0, schedule_from(state, plan, steps_per_epoch).total_steps - state["steps_done"])
    return int(state["epoch"] + math.ceil((state["step"] + left) / steps_per_epoch))


def judged_epoch_of(state: Mapping[str, Any]) -> int:
    """Returns the epoch whose model the scans kept back have judged, where any step has learned from them since; else 0.

    Args:
        state: of a run, as its resume file holds it.
    """
    epoch = int(state.get("judged_epoch", 0))
    return epoch if epoch and state["steps_done"] > state["judged_step"] else 0


def wants_more(state: Mapping[str, Any], plan: LoopPlan) -> bool:
    """Whether a plan asks a run that stands at ``state`` (of its resume file) to go on."""
    limit = plan.time_limit_seconds
    if not state["finished"]:
        return True
    epochs_before, limit_before = state["asked"]
    more_epochs = plan.epochs > state["epoch"]
    more_time = (
        limit is None or limit > state["elapsed_seconds"] * (1 + LEAST_MORE_SHARE) + LEAST_MORE_SECONDS
    )
    if state["finished"] == "time limit":
        return more_epochs and more_time
    if state["finished"] == "early" and not plan.early_stopping:
        return more_epochs
    longer = limit_before is not None and more_time and (limit is None or limit > limit_before)
    return more_epochs and (plan.epochs > epochs_before or longer)


def _learns_all_text(epoch: int) -> str:
    return (
        f"The scans kept back have judged the model of epoch {epoch}. From here on it learns from them, too: with so few patients "
        "each one counts."
    )


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _worst_case(scores: Scores) -> ValidationCase:
    worst: CaseScore = min(scores.cases, key=lambda case: case.mean_dice)
    return ValidationCase(
        worst.name, worst.slice_index + 1, worst.mean_dice, worst.image, worst.truth, worst.prediction
    )
