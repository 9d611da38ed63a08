"""Several networks that answer together: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# More networks than this are refused: each is as large and as slow as the first.
MOST_MEMBERS = 20


class Ensemble(nn.Module):
    """Gives logits whose softmax is the mean of its members' softmax.

    All members stay in memory, and each looks at every image: k members need k times the memory of the weights and k times
    the time. Works for every network that gives (batch, classes, ...) logits in evaluation mode, 2D and 3D.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        """Args:
        members: networks with the same classes and the same input size.
        """
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logarithm of the members' mean probabilities.

        Args:
            images: (batch, channels, ...).
        """
        mean: torch.Tensor | None = None
        for member in self.members:
            # In 32 bits, whatever the members compute in: half precision would round small probabilities away.
            share = torch.softmax(member(images).float(), dim=1) / len(self.members)
            mean = share if mean is None else mean + share
        if mean is None:
            raise ValueError("an ensemble needs at least one network")
        # A probability of exactly 0 has no logarithm; the smallest normal number is 0 for every purpose here.
        return torch.log(mean.clamp_min(torch.finfo(torch.float32).tiny))
