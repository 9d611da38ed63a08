"""The lab notebooks' network and loop: two-stage pyramid V-Net, Adam, loss 2 - Dice of stage 1 - Dice of stage 2."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import torch
from monai.losses import DiceLoss

from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.networks.registry import NetworkSpec, build_network
from peers.plain_loop import Recipe
from peers.smp_unet import SIDE, slice_batches

BATCH = 4
LEARNING_RATE = 1e-3
DROPOUT = 0.3


def recipe(cases: Sequence[PreparedCase], classes: int, seed: int) -> Recipe:
    """Returns the network and how it learns from prepared slices of 256 × 256.

    Raises:
        SettingsError: this version has no such network.
    """
    spec = NetworkSpec("2D", "pyramid_vnet", classes, (SIDE, SIDE), dropout=DROPOUT)
    torch.manual_seed(seed)
    network = build_network(spec).to(memory_format=torch.channels_last)
    dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
    change = albumentations.Affine(scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), rotate=(-10, 10), p=0.5)
    change.set_random_seed(seed)
    return Recipe(
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=LEARNING_RATE),
        # Each stage's Dice loss is 1 - Dice: 0 best, 2 worst.
        loss=lambda stages, label: sum((dice(stage.float(), label) for stage in stages), torch.zeros(())),
        batches=slice_batches(cases, BATCH, seed, change),
        bf16=False,
    )
