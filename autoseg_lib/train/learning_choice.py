"""How the network learns: loss, step size, how many steps, helper processes."""

from __future__ import annotations

import math

import numpy as np

from autoseg_lib.errors import counted
from autoseg_lib.losses.registry import DEFAULT_LOSS, build_loss
from autoseg_lib.networks.registry import NetworkSpec, default_loss
from autoseg_lib.train import defaults
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.loop import LoopPlan
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.optimizers import check_optimizer
from autoseg_lib.train.schedule import Schedule


def choose_learning(
    chooser: Chooser,
    dimension: str,
    machine: Machine,
    spec: NetworkSpec,
    batch: int,
    samples: int,
    seconds_per_step: float | None,
    reserve_seconds: float,
) -> LoopPlan:
    settings, steps = chooser.settings, math.ceil(samples / batch)
    limit = None if settings.time_limit_minutes is None else 60 * settings.time_limit_minutes
    schedule = _choose_epochs(chooser, dimension, batch, steps, limit, seconds_per_step, reserve_seconds)
    epochs = schedule.epochs
    loss = chooser.choose("loss", *_loss(dimension, spec.name))
    build_loss(loss)  # an unknown name is refused here, before anything takes time
    optimizer = chooser.choose("optimizer", *_optimizer(spec.name))
    check_optimizer(optimizer)
    rate = chooser.choose(
        "learning_rate", defaults.LEARNING_RATE[optimizer][dimension], "works with this optimiser and network"
    )
    workers = chooser.choose("num_workers", *_workers(machine))
    early = chooser.choose(
        "early_stopping", False, "steps become ever smaller until the planned end, which learns the most"
    )
    chooser.choose(
        "folds", 1, "one model; folds = 5 trains five, used together, and takes five times as long"
    )
    chooser.choose("print_checkpoint", *_every(epochs, 20, "about 20 lines in all"))
    save_every = chooser.choose("save_checkpoint", *_every(epochs, 5, "5 times in all"))
    return LoopPlan(
        epochs=chooser.values["epochs"],
        batch_size=batch,
        learning_rate=rate,
        loss=loss,
        seed=settings.seed,
        num_workers=workers,
        precision=chooser.values["precision"],
        device=machine.device,
        save_every=save_every,
        validate_every=1,
        time_limit_seconds=limit,
        schedule=schedule,
        early_stopping=early,
        optimizer=optimizer,
    )


def _every(epochs: int, times: int, reason: str) -> tuple[int, str]:
    every = max(1, round(epochs / times))
    return every, reason if every > 1 else "every epoch"


def _optimizer(name: str) -> tuple[str, str]:
    # Measured with the light U-Net only (docs/learning.md). With an encoder of 14 million weights a step of Muon takes longer
    # than learning from four small images: 649 against 239 ms.
    if name == "light_unet":
        return "muon", "the light U-Net learns in about half the steps of AdamW"
    return "adamw", "the field's standard"


def _choose_epochs(
    chooser: Chooser,
    dimension: str,
    batch: int,
    steps: int,
    limit: float | None,
    seconds_per_step: float | None,
    reserve_seconds: float,
) -> Schedule:
    fitting = None
    if limit and seconds_per_step:
        fitting = max(1, int(max(0.5 * limit, limit - reserve_seconds) / seconds_per_step))
        auto = math.ceil(fitting / steps)
        reason = f"what {_minutes(limit / 60)} at {seconds_per_step:.2f} s a step"
    else:
        target = defaults.STEPS[dimension]
        auto = int(np.clip(round(target / steps), defaults.FEWEST_EPOCHS, defaults.MOST_EPOCHS))
        reason = f"about {target} training steps of {counted(batch, 'image')}"
    ours = chooser.is_open("epochs")
    epochs = int(chooser.choose("epochs", auto, reason))
    total = epochs * steps if fitting is None else fitting if ours else min(fitting, epochs * steps)
    return Schedule(total, steps, limit, most_steps=None if ours and limit else epochs * steps)


def _minutes(minutes: float) -> str:
    return "1 minute holds" if f"{minutes:g}" == "1" else f"{minutes:g} minutes hold"


def _loss(dimension: str, name: str) -> tuple[str, str]:
    own = default_loss(dimension, name)
    if own:
        return own, f"what {name} was made for"
    return DEFAULT_LOSS, "Dice and cross-entropy together learn more steadily than Dice alone"


def _workers(machine: Machine) -> tuple[int, str]:
    if machine.device != "cuda":
        return 0, "images are prepared in between: the cores are busy with training anyway"
    return max(0, min(4, machine.cores - 1)), "so that the GPU does not wait"
