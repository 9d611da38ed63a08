"""A 2D network with its weights laid out for bfloat16 on a processor."""

from __future__ import annotations

import copy

import torch
from torch import nn

# Kinds of their own may do arithmetic with their weights, as those that standardise them.
_PLAIN = (nn.Conv2d, nn.ConvTranspose2d)


def with_half_weights(network: nn.Module) -> nn.Module:
    """Returns a copy whose plain convolutions hold their weights in bfloat16, channels last.

    Automatic mixed precision rounds them in the same way, but anew for every batch: for a single slice that is a quarter of the
    time. In 3D, where weights are few beside the voxels, nothing was gained.
    """
    half = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in half.modules():
        if type(module) in _PLAIN:
            module.weight.data = module.weight.data.to(torch.bfloat16)
    return half
