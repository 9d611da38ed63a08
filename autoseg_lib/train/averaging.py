"""A running mean of the weights: steadier than the latest ones, so it is what is validated and kept."""

from __future__ import annotations

import copy

import torch
from torch import nn

# The mean goes over about the last 1 / (1 - decay) steps.
AVERAGE_DECAY = 0.99
# The memory is shorter at first, so that the random start is forgotten.
_YOUNG_STEPS = 10


class WeightAverage:
    """An exponential moving average of a network's weights and statistics (EMA; Polyak & Juditsky 1992).

    Attributes:
        network: the averaged network, in evaluation mode; it is never trained itself.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """Args:
        network: where to begin.
        device: where the average is kept.
        """
        self.network = copy.deepcopy(network).eval().requires_grad_(False).to(device)
        self._pairs: tuple[nn.Module, list[torch.Tensor], list[torch.Tensor]] | None = None

    @torch.no_grad()
    def update(self, learned: nn.Module, step: int) -> None:
        """Takes over a little of what ``learned`` has become.

        Args:
            learned: network of the same make whose tensors are changed in place from step to step.
            step: optimiser steps done.
        """
        if self._pairs is None or self._pairs[0] is not learned:
            self._pairs = (learned, list(self.network.state_dict().values()), _tensors(learned))
        _, means, values = self._pairs
        weight = 1 - min(AVERAGE_DECAY, step / (step + _YOUNG_STEPS))
        floating = [(m, v) for m, v in zip(means, values, strict=True) if m.dtype.is_floating_point]
        torch._foreach_lerp_([m for m, _ in floating], [v for _, v in floating], weight)
        for mean, value in zip(means, values, strict=True):
            if not mean.dtype.is_floating_point:  # counters
                mean.copy_(value)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in network.state_dict().values()]
