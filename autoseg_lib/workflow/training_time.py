"""How long a training takes on this computer: measured before it starts, on the real data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from torch.utils.data import default_collate

from autoseg_lib.errors import counted
from autoseg_lib.events import nobody
from autoseg_lib.train.choosing import Choice
from autoseg_lib.train.defaults import MEASURING_SECONDS, MEASURING_SHARE, SHARE_OF_LOOKS
from autoseg_lib.train.loop import Trainer
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import ValidationScan, score_case
from autoseg_lib.workflow.training_data import TrainSet
from autoseg_lib.workflow.training_start import make_trainer

# The first step sets up the arithmetic; it is not timed. With so many timed steps the median is steady.
ENOUGH_STEPS = 40
# Of a short run no more than this share is timed, but so many steps at least.
TIMED_SHARE, FEWEST_STEPS = 0.1, 3
# Share of the time for measuring that goes into steps.
STEPS_SHARE = 0.6
# The last look also measures distances and keeps the answer; it predicts as segmenting does, in 3D the mirrored scan too.
FINAL_LOOK_COST, MIRRORED_LOOK_COST = 1.5, 2.5
# Saving the model, the state and the report at the end, starting the loop.
SAVING_SECONDS = 1.0
# Share of the run that goes into what is not measured: files, the live view, the work of an epoch's end.
UNSEEN_SHARE = 0.03


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        step_seconds: one training step, its data included.
        data_seconds: of these, preparing the images.
        look_seconds: looking at one validation scan; 0 where there is none.
        steps: how many steps were timed.
    """

    step_seconds: float
    data_seconds: float
    look_seconds: float
    steps: int

    @property
    def text(self) -> str:
        """One line for the table of choices."""
        look = f"; looking at a scan kept back takes {self.look_seconds:.2f} s" if self.look_seconds else ""
        return (
            f"median of {counted(self.steps, 'step')}, {self.data_seconds:.2f} s of it preparing images{look}"
        )


def measure_speed(
    plan: Plan,
    network: nn.Module,
    train_set: TrainSet,
    validation: Sequence[ValidationScan],
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Times some steps and one look at a validation scan; changes the network's weights.

    Args:
        plan: of the run.
        network: will have learned a little.
        train_set: the real data.
        validation: scans looked at while training.
        seconds: how long measuring may take; None: as the defaults say. One step is always timed.
        clock: gives seconds.
    """
    seconds = measuring_seconds(plan) if seconds is None else seconds
    begun = clock()
    trainer = make_trainer(
        replace(plan, loop=replace(plan.loop, num_workers=0)), network, train_set, (), None, {}
    )
    data, whole = _time_steps(trainer, plan, train_set, begun + STEPS_SHARE * seconds, clock)
    step, prepare = float(np.median(whole)), float(np.median(data))
    # Whole scans can take minutes on this computer: what they cost is then worked out from the pixels alone.
    look = plan.scan_steps * step
    if look < begun + seconds - clock():
        look = _time_look(trainer, plan, validation, seconds, clock)
    if plan.loop.num_workers:  # helper processes prepare images while the device computes
        step = max(step - prepare, prepare / plan.loop.num_workers)
    return Speed(step, prepare, look, len(whole))


def measuring_seconds(plan: Plan) -> float:
    """Returns how long measuring may take."""
    limit = plan.loop.time_limit_seconds
    return MEASURING_SECONDS if limit is None else min(MEASURING_SECONDS, MEASURING_SHARE * limit)


def _time_steps(
    trainer: Trainer, plan: Plan, train_set: TrainSet, until: float, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of preparing a batch, and of the whole step, for each timed step."""
    data, whole = [], []
    trainer.network.train()
    batch, samples = plan.loop.batch_size, len(train_set)
    total = plan.loop.schedule.total_steps if plan.loop.schedule else ENOUGH_STEPS
    enough = int(np.clip(TIMED_SHARE * total, FEWEST_STEPS, ENOUGH_STEPS))
    for number in range(enough + 1):
        started = clock()
        keys = [(0, (number * batch + i) % samples) for i in range(batch)]
        images = default_collate([train_set[key] for key in keys])
        prepared = clock()
        trainer.train_step(images, nobody)
        done = clock()
        if number > 0 or done > until:
            data.append(prepared - started)
            whole.append(done - started)
        if done > until:
            break
    return data, whole


def _time_look(
    trainer: Trainer,
    plan: Plan,
    validation: Sequence[ValidationScan],
    seconds: float,
    clock: Callable[[], float],
) -> float:
    """Seconds of looking at one scan; the second time where the first, which sets up the arithmetic, was quick."""
    if not validation:
        return 0.0
    took = math.inf
    for _ in range(2):
        started = clock()
        score_case(trainer.predictor, validation[len(validation) // 2], plan.labels)
        took = min(took, clock() - started)
        if took > seconds / 5:
            break
    return took


def seconds_after_last_step(plan: Plan, speed: Speed) -> float:
    """Expected time for the last look, then at every scan kept back, and for saving."""
    return SAVING_SECONDS + speed.look_seconds * _last_looks(plan)


def _last_looks(plan: Plan) -> float:
    """Looks at one scan that are left after the last step: those of the last epoch, then thorough ones at all."""
    mirrored = plan.window is not None and plan.augmentation.mirrors
    of_last_epoch = 0 if plan.loop.learn_all_from else plan.validation_scans
    return of_last_epoch + (MIRRORED_LOOK_COST if mirrored else FINAL_LOOK_COST) * len(plan.split.validation)


def expected_seconds(plan: Plan, speed: Speed, steps_left: int) -> float:
    """Expected time from here to the end of the training, everything included."""
    # Once the scans kept back are learned from, too, they are not looked at.
    epochs = steps_left / plan.steps_per_epoch * (plan.loop.learn_all_from or 1.0)
    looks = math.ceil(epochs / plan.loop.validate_every)
    learning = steps_left * speed.step_seconds + looks * plan.validation_scans * speed.look_seconds
    return learning * (1 + UNSEEN_SHARE) + seconds_after_last_step(plan, speed)


def seconds_with_looks(speed: Speed) -> float:
    """Returns the seconds that a step takes with its share of all else, for planning how many fit into a time limit."""
    return speed.step_seconds * (1 + SHARE_OF_LOOKS + UNSEEN_SHARE)


def with_speed(plan: Plan, speed: Speed) -> Plan:
    """Returns the plan with what was measured among its lines, and with the time that the end of the run needs."""
    value = f"{speed.step_seconds:.2f} s a step"
    line = Choice("speed", value, value, speed.text)
    loop = replace(
        plan.loop,
        reserve_seconds=seconds_after_last_step(plan, speed),
        last_looks=_last_looks(plan),
        last_seconds=SAVING_SECONDS,
    )
    lines = [line, *_long_last_look(replace(plan, loop=loop))]
    return replace(plan, choices=(*plan.choices, *lines), loop=loop)


def seconds_within_limit(plan: Plan, elapsed_seconds: float) -> float:
    """Returns the longest that a run can take from now on, by its time limit; infinite without one.

    Half of the limit is for learning, however long the last look at the scans kept back takes.
    """
    limit, reserve = plan.loop.time_limit_seconds, plan.loop.reserve_seconds
    if limit is None:
        return math.inf
    learning = max(0.0, max(0.5 * limit, limit - reserve) - elapsed_seconds)
    return learning + reserve


def _long_last_look(plan: Plan) -> list[Choice]:
    limit, reserve = plan.loop.time_limit_seconds, plan.loop.reserve_seconds
    if limit is None or reserve <= 0.5 * limit:
        return []
    value = f"about {counted(round(reserve / 60), 'minute')}"
    reason = "more than half the time limit, which it will exceed: a smaller validation_fraction shortens it"
    return [Choice("last look", value, value, reason)]
