"""How much memory a training step takes, worked out before the first one."""

from __future__ import annotations

import functools
import json
import math

import torch
from torch import nn

from autoseg_lib.errors import ModelError
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.system import GB

# Weights, gradients, two moments of AdamW, the running mean: five numbers of 32 bits each.
BYTES_PER_WEIGHT = 5 * 4
# What is kept for the way back: the outputs of every layer. On top come their gradients, of which only those of a few
# layers live at a time, and work space. Rather too much than too little: a run that is too large is made smaller anyway.
OVERHEAD = 1.6
# Bytes per number kept: mixed precision keeps half of them in 16 bits and the inputs of normalisation in 32.
BYTES_KEPT = {"32": 4.0, "bf16": 3.0, "16": 3.0}
# What training takes beside: reading and changing images; on a GPU the driver's own memory.
FIXED_GB = {"cpu": 0.6, "gpu": 0.8}

# These hand on what they are given, or change it in place.
_KEEP_NOTHING = (
    nn.Identity,
    nn.Flatten,
    nn.Dropout,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.Sequential,
    nn.ModuleList,
)


def step_gb(spec: NetworkSpec, images: int, precision: str, kind: str) -> float | None:
    """Returns the memory that a training step takes with ``images`` at a time, in GB; None where it cannot be told.

    Args:
        spec: the network, its input size with it.
        images: images (or patches) that go through it together.
        precision: "32", "bf16" or "16".
        kind: "cpu" or "gpu".
    """
    counts = _numbers(json.dumps(spec.to_dict(), sort_keys=True))
    if counts is None:
        return None
    weights, kept = counts
    pixels = math.prod(spec.input_shape)
    # The loss keeps logits, probabilities and the labels as planes, in 32 bits.
    loss = 4 * spec.out_channels * pixels * 4
    variable = (kept * BYTES_KEPT[precision] + loss) * images * OVERHEAD
    return FIXED_GB[kind] + (weights * BYTES_PER_WEIGHT + variable) / GB


def images_that_fit(
    spec: NetworkSpec, batch: int, precision: str, kind: str, available_gb: float | None, smallest: int
) -> int:
    """Returns how many images of a batch can go through together; halved until they fit, at least ``smallest``."""
    images = batch
    while available_gb is not None and images > smallest:
        needed = step_gb(spec, images, precision, kind)
        if needed is None or needed <= available_gb:
            break
        images = max(smallest, images // 2)
    return images


@functools.lru_cache(maxsize=256)
def _numbers(spec_json: str) -> tuple[int, float] | None:
    """Weights of a network, and numbers that it keeps per image; found by going through it without any memory."""
    spec = NetworkSpec.from_dict(json.loads(spec_json))
    kept = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal kept
        if isinstance(output, torch.Tensor) and not getattr(module, "inplace", False):
            kept += output.numel()

    images = 2  # some networks normalise over the batch
    try:
        with torch.device("meta"):
            network = build_network(spec).train()
            for module in network.modules():
                if not any(True for _ in module.children()) and not isinstance(module, _KEEP_NOTHING):
                    module.register_forward_hook(count)
            network(torch.empty(images, spec.in_channels, *spec.input_shape))
    except (RuntimeError, NotImplementedError, ModelError, TypeError, ValueError):
        return None  # a network that looks at numbers on its way cannot be followed without them
    return sum(p.numel() for p in network.parameters()), kept / images
