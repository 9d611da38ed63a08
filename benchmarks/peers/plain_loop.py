"""The plain training loop of most tutorials: a constant learning rate, no validation, the last weights are the result.

A constant rate makes one run serve all budgets: what it is after 2 minutes does not depend on how long it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from common import Clock
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """A network and how it learns.

    Attributes:
        network: gives logits, or a list of them in training mode.
        optimizer: of its weights.
        loss: of the network's answer and the (batch, 1, ...) label values.
        batches: endless.
        bf16: whether arithmetic is done in bfloat16.
        window: 3D: window it is used with; None in 2D.
        note: for the table.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    batches: Iterator[Batch]
    bf16: bool
    window: tuple[int, int, int] | None = None
    note: str = ""


def train(
    recipe: Recipe, clock: Clock, minutes: Sequence[float], on_mark: Callable[[float, int], None]
) -> None:
    """Trains until the last budget is used up.

    Args:
        recipe: what is trained.
        clock: counts from now on.
        minutes: budgets, rising.
        on_mark: called with (budget, steps so far) when one is used up; its time is not counted.
    """
    began, steps = clock(), 0
    for budget in sorted(minutes):
        while clock() - began < 60 * budget:
            _step(recipe)
            steps += 1
        with clock.paused():
            recipe.network.eval()
            on_mark(budget, steps)


def _step(recipe: Recipe) -> None:
    recipe.network.train()
    image, label = next(recipe.batches)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        loss = recipe.loss(recipe.network(image), label)
    recipe.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    recipe.optimizer.step()


def endless_order(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Yields ``batch`` indices at a time, everything once before anything comes again."""
    random = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        for _ in range(math.ceil(max(0, batch - len(waiting)) / count)):
            waiting += torch.randperm(count, generator=random).tolist()
        yield waiting[:batch]
        waiting = waiting[batch:]
