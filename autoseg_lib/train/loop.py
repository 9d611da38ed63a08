"""The training loop, to be read in one sitting: fit → epoch → step → validate → save.

All randomness comes from (seed, epoch, step), so a run that was interrupted, even in the middle of an epoch, goes on to the
same weights that it would have reached without the interruption.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, Dataset

from autoseg_lib.data.dataset import KeyedBatches, one_thread_each
from autoseg_lib.errors import ExportError, ModelError, OutOfSpaceError
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
from autoseg_lib.losses import build_loss
from autoseg_lib.train.files import RunFiles, save_checkpoint, write_history
from autoseg_lib.train.schedule import Schedule
from autoseg_lib.train.validate import CaseScore, Scores, ValidationScan, validate

# Share of the run in which the learning rate rises from 0: keeps the first steps of AdamW from running wild.
WARM_UP_SHARE = 0.03
# The weights that are validated and kept are a running mean over about the last 1 / (1 - decay) steps.
AVERAGE_DECAY = 0.99
WEIGHT_DECAY = 1e-4
# Largest gradient norm; nnU-Net uses 12, MONAI's bundles 1: in between, only outliers are cut.
LARGEST_GRADIENT = 5.0
# After so many steps in a row without a finite loss the run is beyond repair.
MOST_BAD_STEPS = 20
# The resume file is written every epoch, but where epochs are short no more than this share of the time goes into it.
SAVING_SHARE = 0.05


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
    # The weights at the end are the model, whatever the scans kept back say: their scores stay untouched by any choice.
    keep_last: bool = False
    # How the steps are planned at the start; the state of a run keeps its own copy, which changes.
    schedule: Schedule | None = None
    # The batch goes through the network in so many parts, one after the other, to keep to the memory (same result).
    parts: int = 1
    # End when validation has not become better for long.
    early_stopping: bool = False


@dataclass
class State:
    """Where a run stands; all of it is in the resume file."""

    epoch: int = 0
    step: int = 0
    steps_done: int = 0
    loss_sum: float = 0.0
    elapsed_seconds: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    validated_steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    network: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
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
        """
        self.plan, self.files, self.labels = plan, files, labels
        self.validation, self.save_model, self.extra = validation, save_model, checkpoint_extra
        self.state = State()
        self.batches = KeyedBatches(len(train_set), plan.batch_size, plan.seed)  # type: ignore[arg-type]
        self.fabric = _fabric(plan)
        memory_format = torch.channels_last if predictor.window is None else torch.channels_last_3d
        network = network.to(memory_format=memory_format)
        self.average = copy.deepcopy(network).eval().requires_grad_(False).to(self.fabric.device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        self.memory_format = memory_format
        self.loss = build_loss(plan.loss)
        self.predictor = replace(predictor, network=self.average, device=self.fabric.device)
        self.loader = DataLoader(
            train_set,
            batch_sampler=self.batches,
            num_workers=plan.num_workers,
            persistent_workers=plan.num_workers > 0,
            worker_init_fn=one_thread_each if plan.num_workers > 0 else None,
            multiprocessing_context="spawn" if plan.num_workers > 0 else None,
            pin_memory=plan.device == "cuda",
        )
        self.parts = 1
        self.bad_steps = 0
        self.started = time.monotonic()
        self.next_save = -math.inf
        self.last_scores: Scores | None = None

    # --- the run ------------------------------------------------------------------------------------------------------

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what the resume file holds."""
        self.state = State(**{key: state[key] for key in State.__dataclass_fields__})
        self.network.load_state_dict(self.state.network)
        self.average.load_state_dict(self.state.average)
        self.optimizer.load_state_dict(self.state.optimizer)

    def fit(self, on_event: Listener, stop: StopFlag) -> str:
        """Trains until the epochs are done, the time is up or ``stop`` is set.

        Returns:
            "finished", "time limit" or "stopped".

        Raises:
            ModelError: training became unstable.
            ExportError: a file could not be written.
        """
        state, plan = self.state, self.plan
        self.started = time.monotonic() - state.elapsed_seconds
        on_event(
            TrainingStarted(
                plan.epochs, state.epoch, len(self.batches), tuple(self.labels.names), tuple(state.history)
            )
        )
        reason = "finished"
        while state.epoch < plan.epochs:
            epoch_started = time.monotonic()
            ended = self.train_epoch(on_event, stop)
            if ended == "stopped":
                reason = ended
                break
            try:
                self.finish_epoch(time.monotonic() - epoch_started, ended == "time limit", on_event, stop)
            except Stopped:
                reason = "stopped"
            if ended or reason == "stopped":
                reason = ended or reason
                break
        state.finished = "" if reason == "stopped" else reason
        self.keep_what_was_learned()
        self.save_resume_file(always=True)
        on_event(TrainingStopped(reason, state.epoch))
        return reason

    def keep_what_was_learned(self) -> None:
        """Looks at the validation scans once more if anything was learned since, and saves the last models."""
        state = self.state
        if state.steps_done == 0:
            return
        if self.validation and state.validated_steps != state.steps_done:
            self.last_scores = validate(self.predictor, self.validation, self.labels)
            if self.last_scores:
                self._keep_if_best(self.last_scores, state.epoch)
        if state.epoch > 0:
            self.save_model(self.files.at_epoch(state.epoch), self.average, state.epoch, self.last_scores)
        if not self.validation or not self.files.best.exists():
            self.save_model(self.files.best, self.average, state.epoch, self.last_scores)

    def train_epoch(self, on_event: Listener, stop: StopFlag) -> str:
        """Goes through the training data once (or what is left of it). Returns "", "stopped" or "time limit"."""
        state = self.state
        self.batches.epoch, self.batches.first = state.epoch, state.step
        self.network.train()
        for batch in self.loader:
            if stop.is_set():
                return "stopped"
            if self.time_is_up():
                return "time limit"
            loss = self.train_step(batch, on_event)
            state.step += 1
            state.steps_done += 1
            state.loss_sum += loss
            on_event(StepDone(state.epoch + 1, state.step, len(self.batches), loss))
        return ""

    def train_step(self, batch: dict[str, torch.Tensor], on_event: Listener) -> float:
        """One optimiser step; returns its Dice loss (0 best to 1). Out of GPU memory: the batch is split and tried again."""
        while True:
            try:
                return self._step(batch)
            except torch.OutOfMemoryError:
                size = batch["image"].shape[0]
                if self.parts >= size:
                    raise ModelError(
                        "memory ran out even with one image per step. Use a smaller input_shape or patch_size, or a lighter network."
                    ) from None
                self.parts = min(size, self.parts * 2)
                self.optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                on_event(
                    Message(
                        f"Memory ran out at {size} images per step; going on with {math.ceil(size / self.parts)} and adding up "
                        f"{self.parts} steps (same batch). Training takes a little longer.",
                        "warning",
                    )
                )

    def _step(self, batch: dict[str, torch.Tensor]) -> float:
        state = self.state
        torch.manual_seed(_mix(self.plan.seed, state.epoch, state.step))  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        size, dice_loss, finite = batch["image"].shape[0], 0.0, True
        images, labels = batch["image"].chunk(self.parts), batch["label"].chunk(self.parts)
        for image, label in zip(images, labels, strict=True):
            image = self.fabric.to_device(image).contiguous(memory_format=self.memory_format)
            label = self.fabric.to_device(label)
            logits = self.network(image)
            loss, dice = self.loss.parts(logits, label)
            share = image.shape[0] / size
            finite = finite and bool(torch.isfinite(loss))
            self.fabric.backward(loss * share)
            dice_loss += float(dice.detach()) * share
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)
            self.bad_steps += 1
            if self.bad_steps >= MOST_BAD_STEPS:
                raise ModelError(
                    f"training became unstable: {MOST_BAD_STEPS} steps in a row gave no number for the loss. Lower learning_rate "
                    f'(now {self.plan.learning_rate:g}), or set precision = "32". The last good state is kept.'
                )
            return 1.0
        self.bad_steps = 0
        self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=LARGEST_GRADIENT, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()
        return dice_loss

    def finish_epoch(self, seconds: float, last: bool, on_event: Listener, stop: StopFlag) -> None:
        """Validates if it is time to, writes the history line and the files."""
        state, plan = self.state, self.plan
        if state.step == 0:
            return
        epoch = state.epoch + 1
        last = last or epoch == plan.epochs
        scores = None
        if self.validation and (last or epoch == 1 or epoch % plan.validate_every == 0):
            scores = validate(self.predictor, self.validation, self.labels, stop)
        row: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": state.loss_sum / state.step,
            "val_loss": scores.loss if scores else None,
            "val_dice": scores.mean if scores else None,
            "learning_rate": self.learning_rate(),
            "seconds": seconds,
        }
        for number, name in enumerate(self.labels.names):
            row[f"val_dice_{name}"] = scores.per_roi[number] if scores else None
        state.history.append(row)
        state.epoch, state.step, state.loss_sum = epoch, 0, 0.0
        if scores:
            self.last_scores = scores
            self._keep_if_best(scores, epoch)
            on_event(_worst_case(scores))
        self._write_history(on_event)
        if epoch % plan.save_every == 0 and epoch < plan.epochs:
            self.save_model(self.files.at_epoch(epoch), self.average, epoch, scores)
        self.save_resume_file()
        on_event(EpochDone(epoch, plan.epochs, dict(row), self.seconds_left()))

    def _write_history(self, on_event: Listener) -> None:
        """A history that is open in Excel must not end the training; it is written whole after the next epoch."""
        try:
            write_history(self.files.history, self.state.history, self.labels)
        except OutOfSpaceError:
            raise
        except ExportError as error:
            on_event(
                Message(
                    f"{error} Training goes on; the history is written again after the next epoch.", "warning"
                )
            )

    def _keep_if_best(self, scores: Scores, epoch: int) -> None:
        self.state.validated_steps = self.state.steps_done
        if self.plan.keep_last or scores.mean >= self.state.best_dice:
            self.state.best_dice, self.state.best_epoch = scores.mean, epoch
            self.save_model(self.files.best, self.average, epoch, scores)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def progress(self) -> float:
        """How much of the run is done, 0 to 1: by steps, or by time where the time limit comes first."""
        share = self.state.steps_done / (self.plan.epochs * len(self.batches))
        if self.plan.time_limit_seconds:
            share = max(share, self.elapsed() / self._usable_seconds())
        return min(1.0, share)

    def learning_rate(self) -> float:
        """Rises for the first few steps, then falls to 0 along a half cosine (Loshchilov & Hutter 2017)."""
        progress = self.progress()
        rise = min(1.0, (progress + 1e-4) / WARM_UP_SHARE)
        return self.plan.learning_rate * rise * max(1e-3, 0.5 * (1 + math.cos(math.pi * progress)))

    def elapsed(self) -> float:
        """Seconds trained so far, over all sittings."""
        return time.monotonic() - self.started

    def _usable_seconds(self) -> float:
        limit = self.plan.time_limit_seconds or math.inf
        return max(0.5 * limit, limit - self.plan.reserve_seconds)

    def time_is_up(self) -> bool:
        """Whether the time limit is reached, leaving what is needed to validate and save. One step is always done."""
        return self.state.steps_done > 0 and self.elapsed() >= self._usable_seconds()

    def seconds_left(self) -> float:
        """Expected seconds to the end."""
        progress = self.progress()
        by_speed = self.elapsed() * (1 - progress) / progress if progress > 0 else math.nan
        return max(0.0, by_speed)

    def save_resume_file(self, always: bool = False) -> None:
        """Writes NAME_last.ckpt."""
        started = time.monotonic()
        if not always and started < self.next_save:
            return
        self.state.elapsed_seconds = self.elapsed()
        self.state.network = self.network.state_dict()
        self.state.average = self.average.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        save_checkpoint(self.files.last, {**self.extra, "state": dict(self.state.__dict__)})
        self.next_save = time.monotonic() + (time.monotonic() - started) / SAVING_SHARE

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short memory at first, so that the random start is forgotten.
        decay = min(AVERAGE_DECAY, self.state.steps_done / (self.state.steps_done + 10))
        current = self.network.state_dict()
        for name, mean in self.average.state_dict().items():
            value = current[name].detach()
            if mean.dtype.is_floating_point:
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:
                mean.copy_(value)


def _fabric(plan: LoopPlan) -> Fabric:
    # Fabric reports the hardware it found and gives tips for clusters; the notebook has said the first already.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    precision = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[plan.precision]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Fabric(accelerator=plan.device, devices=1, precision=precision)  # type: ignore[arg-type]


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _worst_case(scores: Scores) -> ValidationCase:
    worst: CaseScore = min(scores.cases, key=lambda case: case.mean_dice)
    return ValidationCase(
        worst.name, worst.slice_index + 1, worst.mean_dice, worst.image, worst.truth, worst.prediction
    )
