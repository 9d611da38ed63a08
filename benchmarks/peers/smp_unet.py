"""A plain loop around segmentation-models-pytorch: U-Net with ResNet-18, light affine and brightness changes, AdamW,
Dice + cross-entropy, bfloat16. Nothing pretrained, as for all competitors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from autoseg_lib.data.packed import PreparedCase
from peers.plain_loop import Batch, Recipe, endless_order

SIDE = 256
BATCH = 4
LEARNING_RATE = 1e-3

Change = Callable[..., dict[str, np.ndarray]]


def recipe(cases: Sequence[PreparedCase], classes: int, seed: int) -> Recipe:
    """Returns the network and how it learns from prepared slices of 256 × 256."""
    torch.manual_seed(seed)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=classes)
    network = network.to(memory_format=torch.channels_last)
    dice = smp.losses.DiceLoss("multiclass", classes=list(range(1, classes)))
    cross_entropy = nn.CrossEntropyLoss()
    change = albumentations.Compose(
        [
            albumentations.Affine(scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), rotate=(-10, 10), p=0.5),
            albumentations.RandomBrightnessContrast(0.1, 0.1, brightness_by_max=False, p=0.5),
        ],
        seed=seed,
    )
    return Recipe(
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE),
        loss=lambda logits, label: dice(logits, label[:, 0]) + cross_entropy(logits, label[:, 0]),
        batches=slice_batches(cases, BATCH, seed, change),
        bf16=True,
    )


def slice_batches(cases: Sequence[PreparedCase], batch: int, seed: int, change: Change) -> Iterator[Batch]:
    """Yields changed slices of all scans, at random."""
    slices = [(case, number) for case in cases for number in range(case.image.shape[0])]
    for chosen in endless_order(len(slices), batch, seed):
        samples = [change(image=case.image[n], mask=case.label[n]) for case, n in (slices[i] for i in chosen)]
        image = torch.from_numpy(np.stack([sample["image"] for sample in samples]))[:, None]
        label = torch.from_numpy(np.stack([sample["mask"] for sample in samples]))[:, None]
        yield image.contiguous(memory_format=torch.channels_last), label.long()
