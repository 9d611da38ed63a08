"""The shapes of a network's weights, known without making it: nothing takes memory or time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from autoseg_lib.networks.registry import NetworkSpec, build_network


class _RealNumbers(TorchFunctionMode):
    """Computes the shares of dropped layers, which transformers ask for as plain numbers, also where nothing is real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **({**kwargs, "device": "cpu"} if func is torch.linspace else kwargs))


def weight_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Returns name → shape of everything in the network's state."""
    with torch.device("meta"), _RealNumbers():
        state = build_network(spec).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def growth_per_class(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Returns the weights that depend on the list of ROIs: name → by how much each axis grows with one ROI more."""
    now, more = weight_shapes(spec), weight_shapes(replace(spec, out_channels=spec.out_channels + 1))
    return {
        name: tuple(larger - size for size, larger in zip(shape, more[name], strict=True))
        for name, shape in now.items()
        if more[name] != shape
    }
