"""What a run is made of: the network it starts from, its predictor, its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoseg_lib.errors import ModelError
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.networks.model_file import load_model
from autoseg_lib.networks.registry import build_network
from autoseg_lib.train.loop import Trainer
from autoseg_lib.train.planning import Plan


def initial_network(plan: Plan) -> nn.Module:
    torch.manual_seed(plan.loop.seed)
    network = build_network(
        plan.network, pretrained=plan.settings.pretrained and plan.settings.start_from is None
    )
    if plan.settings.start_from:
        start = load_model(Path(plan.settings.start_from).expanduser())
        if start.spec.to_dict() | {"input_shape": None, "dropout": None} != plan.network.to_dict() | {
            "input_shape": None,
            "dropout": None,
        }:
            raise ModelError(
                f"start_from: '{start.path.name}' is a {start.spec.dimension} {start.spec.title} for {len(start.labels)} ROIs; "
                f"this training needs a {plan.network.dimension} {plan.network.title} for {len(plan.labels)} ROIs. "
                "Use the same dimension, network, encoder and number of ROIs, or leave start_from empty."
            )
        network.load_state_dict(start.network.state_dict())
    return network


def make_run_predictor(plan: Plan, network: nn.Module, device: str) -> Predictor:
    return Predictor(
        network=network,
        preprocessing=plan.preprocessing,
        classes=len(plan.labels) + 1,
        device=torch.device(device),
        window=plan.window,
        half_precision=plan.loop.precision != "32",
    )


def make_trainer(
    prepared_plan: Plan, network: nn.Module, train_set: Any, validation: Any, save: Any, extra: Any
) -> Trainer:
    return Trainer(
        plan=prepared_plan.loop,
        network=network,
        predictor=make_run_predictor(prepared_plan, network, prepared_plan.loop.device),
        train_set=train_set,
        validation=validation,
        files=prepared_plan.files,
        labels=prepared_plan.labels,
        save_model=save,
        checkpoint_extra=extra,
    )
