"""A training small enough for tests of the loop: squares to find in noise, a network of two layers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.utils.data import Dataset, get_worker_info

from autoseg_lib.events import Event
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.io.files import atomic_write
from autoseg_lib.labels import LabelTable
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.train.files import RunFiles
from autoseg_lib.train.loop import LoopPlan, Trainer

PLAN = LoopPlan(
    epochs=4,
    batch_size=4,
    learning_rate=0.01,
    loss="dice_ce",
    seed=0,
    num_workers=0,
    precision="32",
    device="cpu",
    save_every=2,
    validate_every=1,
    time_limit_seconds=None,
)


class Squares(Dataset[dict[str, torch.Tensor]]):
    """A bright square in noise; the sample depends on (epoch, index) alone.

    Attributes:
        dies: a helper process ends at this index as if it had been killed; None: never.
    """

    def __init__(self, length: int = 10, dies: int | None = None) -> None:
        self.length, self.dies = length, dies

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        if key[1] == self.dies and get_worker_info() is not None:
            os._exit(9)
        rng = np.random.default_rng([7, *key])
        row, column = rng.integers(0, 10, 2)
        label = np.zeros((1, 16, 16), np.uint8)
        label[0, row : row + 6, column : column + 6] = 1
        image = rng.normal(0, 0.5, (1, 16, 16)).astype(np.float32) + label
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


class Small(nn.Module):
    """Two layers with everything that has a state: weights, running statistics, dropout.

    Attributes:
        most: memory is too small for more images than these at a time: torch is asked for more than any computer has.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most = most
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 2, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.most is not None and image.shape[0] > self.most:
            torch.empty(2**50)
        return self.layers(image)


def save_small(path: Path, network: Any, epoch: int, scores: Any) -> None:
    """Saves the weights; stands in for a model file."""
    content = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    atomic_write(path, lambda target: target.write_bytes(content) and None)


def tiny_trainer(
    folder: Path,
    *,
    network: nn.Module | None = None,
    data: Dataset[dict[str, torch.Tensor]] | None = None,
    clock: Callable[[], float] = time.monotonic,
    **plan: Any,
) -> Trainer:
    """Returns a trainer without validation scans whose files lie in ``folder``."""
    torch.manual_seed(0)
    network = network or Small()
    predictor = Predictor(network, Preprocessing("2D", input_shape=(16, 16)), 2, torch.device("cpu"))
    return Trainer(
        plan=replace(PLAN, **plan),
        network=network,
        predictor=predictor,
        train_set=data or Squares(),
        validation=(),
        files=RunFiles(folder, "tiny"),
        labels=LabelTable(["square"]),
        save_model=save_small,
        checkpoint_extra={"settings": {}},
        clock=clock,
    )


def texts(events: list[Event]) -> list[str]:
    """Returns what was said."""
    return [event.text for event in events if hasattr(event, "text")]


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
