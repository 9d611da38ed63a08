"""How long a training takes on this computer: measured before it starts."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from autoseg_lib.data.dataset import PatchDataset, SliceDataset
from autoseg_lib.events import nobody
from autoseg_lib.train.planning import Plan
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.training_start import make_trainer

# Steps that are timed before training to say how long it will take; the first is left out (it sets up the kernels).
TIMED_STEPS = 3


def time_steps(plan: Plan, network: nn.Module, train_set: SliceDataset | PatchDataset) -> float:
    """Seconds of one training step on this computer, measured on the real data."""
    quick = replace(plan, loop=replace(plan.loop, num_workers=0))
    trainer = make_trainer(quick, network, train_set, (), None, {})
    trainer.network.train()
    seconds = []
    batches = iter(trainer.loader)
    for _ in range(TIMED_STEPS):
        clock = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        trainer.train_step(batch, nobody)
        seconds.append(time.perf_counter() - clock)
    return float(np.median(seconds[1:] or seconds))


def seconds_per_step_of(checkpoint: dict[str, Any]) -> float:
    state = checkpoint["state"]
    return float(state["elapsed_seconds"]) / max(1, int(state["steps_done"]))


def reserve_seconds(plan: Plan, seconds_per_step: float, study: Study) -> float:
    """Expected time for the last validation on all kept-back scans and for saving."""
    # Predicting costs about a third of a training step for as many images, each scan about its slices or windows.
    if plan.window is None:
        images = sum(len(study.report.facts[i].counts) for i in plan.split.validation)
    else:
        images = 4 * len(plan.split.validation)
    return min(120.0, 2.0 + images / plan.loop.batch_size * seconds_per_step * 0.5)
