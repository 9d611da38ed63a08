"""What a trained network has learned, taken over by one for other ROIs: all but the rows of ROIs it does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autoseg_lib.errors import ModelError
from autoseg_lib.networks.registry import NetworkSpec
from autoseg_lib.networks.shapes import growth_per_class

Weights = Mapping[str, torch.Tensor]


def matching_rois(known: Sequence[str], wanted: Sequence[str]) -> dict[int, int]:
    """Returns index in ``wanted`` → index in ``known`` of the ROIs of the same name (capitals do not matter)."""
    places = {name.strip().casefold(): index for index, name in enumerate(known)}
    return {
        index: places[name.strip().casefold()]
        for index, name in enumerate(wanted)
        if name.strip().casefold() in places
    }


def take_over(
    network: nn.Module, spec: NetworkSpec, rois: Sequence[str], learned: Weights, known: Sequence[str]
) -> None:
    """Copies what was learned into a fresh network.

    Weights that do not depend on the ROIs are copied as they are. Of those that do (the last layer, as a rule), the rows
    of the background and of ROIs of the same name are copied; the other rows stay fresh. Extra outputs of deep
    supervision that only one of the two has are left out or stay fresh.

    Args:
        network: built from ``spec``; changed in place.
        spec: its description.
        rois: its ROIs, in order.
        learned: the weights of the trained network.
        known: the ROIs of the trained network, in order.

    Raises:
        ModelError: the networks differ in more than their ROIs.
    """
    growth, state = growth_per_class(spec), network.state_dict()
    # Class 0 is the background for both.
    classes = {0: 0} | {new + 1: old + 1 for new, old in matching_rois(known, rois).items()}
    counts = (len(rois) + 1, len(known) + 1)
    for name, fresh in state.items():
        if name not in learned:
            if name not in growth:
                raise _differ(name)
            continue
        old = learned[name]
        if name not in growth:
            if old.shape != fresh.shape:
                raise _differ(name)
            fresh.copy_(old)
        else:
            _copy_rows(name, fresh, old, growth[name], classes, counts)
    for name in learned:
        if name not in state and counts[1] not in learned[name].shape:
            raise _differ(name)


def _copy_rows(
    name: str,
    fresh: torch.Tensor,
    old: torch.Tensor,
    growth: Sequence[int],
    classes: Mapping[int, int],
    counts: tuple[int, int],
) -> None:
    """Copies the part of a weight that belongs to ROIs which both networks know."""
    if old.ndim != fresh.ndim:
        raise _differ(name)
    part = old
    places = []
    for axis, step in enumerate(growth):
        rest = fresh.shape[axis] - step * counts[0]
        if old.shape[axis] != step * counts[1] + rest:
            raise _differ(name)
        # ``step`` neighbours along the axis belong to a class; what follows the last class belongs to none.
        pairs = [(new * step + n, was * step + n) for new, was in classes.items() for n in range(step)]
        pairs += [(counts[0] * step + n, counts[1] * step + n) for n in range(rest)]
        places.append(torch.tensor([new for new, _ in pairs], device=fresh.device))
        part = part.index_select(axis, torch.tensor([was for _, was in pairs], device=old.device))
    fresh[tuple(torch.meshgrid(*places, indexing="ij"))] = part.to(fresh)


def _differ(name: str) -> ModelError:
    return ModelError(f"the networks differ in their sizes (at {name})")
