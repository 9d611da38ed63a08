"""What a run is made of: the network it starts from, its predictor, its trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoseg_lib.events import Listener, nobody
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.losses.registry import build_loss
from autoseg_lib.networks.pretrained import fetch_encoder_weights
from autoseg_lib.networks.registry import build_network, output_weights, window_multiple
from autoseg_lib.train.distributed import ALONE, Team
from autoseg_lib.train.loop import Trainer
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.starting import FrozenEncoder, read_start, start_network, start_sentence


def initial_network(plan: Plan, on_event: Listener = nobody, *, resumed: bool = False) -> nn.Module:
    """Returns the network of a run with the weights it starts from.

    Args:
        plan: the run.
        on_event: hears the progress of fetching pretrained weights.
        resumed: the weights come from the resume file; nothing else is read or fetched.

    Raises:
        ModelError: the model to start from does not suit, or pretrained weights cannot be had.
    """
    torch.manual_seed(plan.loop.seed)
    if resumed:
        return build_network(plan.network)
    if plan.settings.start_from:
        network = build_network(plan.network)
        start = read_start(Path(plan.settings.start_from).expanduser())
        start_network(start, network, plan.network, plan.labels.names)
        return network
    if plan.settings.pretrained:
        fetch_encoder_weights(plan.network, on_event)
    return build_network(plan.network, pretrained=plan.settings.pretrained)


def starting_text(plan: Plan) -> str:
    """Returns a sentence on what a new run starts from; "" for fresh weights."""
    if plan.settings.start_from:
        return start_sentence(read_start(Path(plan.settings.start_from).expanduser()), plan.labels.names)
    if plan.settings.pretrained:
        return f"Starts from an encoder ({plan.network.encoder}) that was trained on everyday photographs."
    return ""


def make_run_predictor(plan: Plan, network: nn.Module, device: str) -> Predictor:
    """Returns how scans are predicted in this run."""
    return Predictor(
        network=network,
        preprocessing=plan.preprocessing,
        classes=len(plan.labels) + 1,
        device=torch.device(device),
        window=plan.window,
        half_precision=plan.loop.precision != "32",
        half=plan.loop.precision,
        neighbours=plan.network.neighbours,
        window_multiple=window_multiple(plan.network),
    )


def make_trainer(
    plan: Plan,
    network: nn.Module,
    train_set: Any,
    validation: Any,
    save: Any,
    extra: Any,
    team: Team = ALONE,
    clock: Callable[[], float] = time.monotonic,
) -> Trainer:
    """Returns the trainer of a run; see Trainer."""
    return Trainer(
        plan=plan.loop,
        network=network,
        predictor=make_run_predictor(plan, network, plan.loop.device),
        train_set=train_set,
        validation=validation,
        files=plan.files,
        labels=plan.labels,
        save_model=save,
        checkpoint_extra=extra,
        team=team,
        clock=clock,
        loss=build_loss(
            plan.loop.loss,
            output_weights=output_weights(plan.network),
            ignore_unlabelled=plan.settings.ignore_unlabelled,
        ),
        before_epoch=_freezing(plan, network),
    )


def _freezing(plan: Plan, network: nn.Module) -> FrozenEncoder | None:
    epochs = plan.settings.freeze_encoder_epochs
    if not isinstance(epochs, int) or epochs == 0:
        return None
    return FrozenEncoder(network, plan.network, epochs)
