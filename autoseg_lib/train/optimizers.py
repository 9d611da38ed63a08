"""The optimiser: Muon for the networks' convolutions, AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) takes the momentum of each weight matrix and brings it to the
nearest matrix whose singular values are all alike, so that no direction of the weights learns much faster than another. On
hippocampus_msd the same network needs about half the steps of AdamW for the same Dice (docs/learning.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn

from autoseg_lib.errors import SettingsError

# Name in Settings → name in a sentence.
OPTIMIZER_TITLES = {"muon": "Muon (AdamW for norms, biases and the last layer)", "adamw": "AdamW"}
OPTIMIZERS: tuple[str, ...] = tuple(OPTIMIZER_TITLES)

WEIGHT_DECAY = 1e-4

# Weights of the quintic of the Newton-Schulz iteration and its number of rounds: Jordan et al. 2024. They bring singular values
# to between 0.7 and 1.2, which is as good as 1 here and takes fewest rounds.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_MOMENTUM = 0.95
# Makes a step as long as AdamW's usual one, so that both use learning rates of one size (Liu et al. 2025, arXiv:2502.16982).
_ADAM_LENGTH = 0.2
# AdamW's means: the second is shorter than its default of 0.999, for runs of a few hundred steps.
_BETAS, _EPSILON = (0.9, 0.99), 1e-8


def build_optimizer(network: nn.Module, name: str, learning_rate: float) -> torch.optim.Optimizer:
    """Returns the optimiser of that name for all weights of a network that learn.

    Args:
        network: its parameters are adjusted.
        name: one of OPTIMIZERS.
        learning_rate: size of the steps.

    Raises:
        SettingsError: the name is not known; the message lists the accepted ones.
    """
    check_optimizer(name)
    parameters = [p for p in network.parameters() if p.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=WEIGHT_DECAY)
    outputs = _output_layers(network)
    matrices = [p for p in parameters if _is_matrix(p) and id(p) not in outputs]
    chosen = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in chosen]
    return Muon(matrices, others, lr=learning_rate)


def check_optimizer(name: str) -> None:
    """Refuses a name that is not known.

    Raises:
        SettingsError: the message lists the accepted ones.
    """
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(str(name).lower(), OPTIMIZERS, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise SettingsError(f'optimizer = "{name}" is not known.{hint} Accepted: {", ".join(OPTIMIZERS)}.')


def _is_matrix(weight: torch.Tensor) -> bool:
    """Whether rows and columns of a weight mean something: not the case for norms, biases and one-channel filters."""
    return weight.ndim >= 2 and weight.shape[0] > 1 and weight[0].numel() > 1 and weight.shape[1] > 1


def _output_layers(network: nn.Module) -> set[int]:
    """The last convolution: its rows are classes, which learn better with AdamW (as the heads of language models do)."""
    last = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.Linear)][-1:]
    return {id(m.weight) for m in last}


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, AdamW for all other weights, in one optimiser with one learning rate."""

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        others: Iterable[torch.Tensor],
        lr: float,
        weight_decay: float = WEIGHT_DECAY,
    ) -> None:
        """Args:
        matrices: weights (out, in, ...) to adjust along orthogonal directions.
        others: weights for AdamW.
        lr: size of the steps.
        weight_decay: share by which weights shrink, times ``lr``.
        """
        groups = [{"params": list(matrices), "kind": "muon"}, {"params": list(others), "kind": "adamw"}]
        super().__init__(
            [group for group in groups if group["params"]], {"lr": lr, "weight_decay": weight_decay}
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Adjusts the weights by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            adjust = _step_muon if group["kind"] == "muon" else _step_adamw
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    adjust(weight, weight.grad, self.state[weight], group["lr"])
        return loss


def _step_muon(weight: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], rate: float) -> None:
    momentum = state.setdefault("momentum", torch.zeros_like(weight))
    momentum.lerp_(gradient, 1 - _MOMENTUM)
    ahead = gradient.lerp(momentum, _MOMENTUM)  # Nesterov
    rows = ahead.reshape(ahead.shape[0], -1)
    length = _ADAM_LENGTH * max(rows.shape) ** 0.5
    weight.add_(orthogonalised(rows).reshape(weight.shape).to(weight.dtype), alpha=-rate * length)


def _step_adamw(weight: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], rate: float) -> None:
    if not state:
        state["step"] = 0
        state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - _BETAS[0])
    state["square"].lerp_(gradient * gradient, 1 - _BETAS[1])
    mean = state["mean"] / (1 - _BETAS[0] ** state["step"])
    square = state["square"] / (1 - _BETAS[1] ** state["step"])
    weight.addcdiv_(mean, square.sqrt_().add_(_EPSILON), value=-rate)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the matrix with all its singular values brought close to 1 (to between 0.7 and 1.2).

    All rounds are done on the small square matrix X Xᵀ, so that a wide matrix is multiplied only twice.

    Args:
        matrix: (rows, columns).
    """
    a, b, c = _QUINTIC
    wide = matrix.float()
    turned = wide.shape[0] > wide.shape[1]
    if turned:
        wide = wide.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    total = torch.eye(gram.shape[0], device=gram.device)
    for _ in range(_ROUNDS):
        step = b * gram + c * (gram @ gram)
        step.diagonal().add_(a)
        total = step @ total
        gram = step @ gram @ step
    result = total @ wide
    return result.T if turned else result
