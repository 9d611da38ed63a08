"""The changes of our default augmentation, made by albumentations, MONAI and batchgeneratorsv2, as comparable as they come.

Each change has the chance and the strength of ours: turns by up to 15 degrees, sizes of 0.85 to 1.15, shifts by up to 5 %,
bending, blur, gamma, contrast, brightness and noise, each in half of the samples. None mirrors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from math import radians

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import torch

# (image, label) of one sample, in (row, column) or (slice, row, column), grey values from 0 to 1.
Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

TURN, SIZE, SHIFT, CHANCE = 15.0, (0.85, 1.15), 0.05, 0.5


def albumentations_2d() -> Change:
    import albumentations as a

    change = a.Compose(
        [
            a.Affine(
                rotate=(-TURN, TURN), scale=SIZE, translate_percent=(-SHIFT, SHIFT), p=CHANCE, border_mode=0
            ),
            a.GridDistortion(num_steps=8, distort_limit=0.1, p=CHANCE, border_mode=0),
            a.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 0.7), p=CHANCE),
            a.RandomGamma((77, 130), p=CHANCE),
            a.RandomBrightnessContrast(0.1, 0.2, p=CHANCE),
            a.GaussNoise(std_range=(0, 0.05), p=CHANCE),
        ],
        seed=0,
    )

    def both(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        changed = change(image=image, mask=label)
        return changed["image"], changed["mask"]

    return both


def monai(dimensions: int) -> Change:
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandGridDistortiond,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )

    keys, modes = ["image", "label"], ("bilinear", "nearest")
    blur = {f"sigma_{axis}": (0.1, 0.7) for axis in "xyz"[:dimensions]}
    change = Compose(
        [
            RandAffined(
                keys,
                prob=CHANCE,
                rotate_range=[radians(TURN)] * (1 if dimensions == 2 else 3),
                scale_range=[0.15] * dimensions,
                translate_range=[4.0] * dimensions,
                mode=modes,
                padding_mode="zeros",
                cache_grid=False,
            ),
            RandGridDistortiond(
                keys,
                num_cells=8 if dimensions == 2 else 4,
                prob=CHANCE,
                distort_limit=0.1,
                mode=modes,
                padding_mode="zeros",
            ),
            RandGaussianSmoothd(["image"], prob=CHANCE, **blur),
            RandAdjustContrastd(["image"], prob=CHANCE, gamma=(0.77, 1.3)),
            RandScaleIntensityd(["image"], factors=0.2, prob=CHANCE),
            RandShiftIntensityd(["image"], offsets=0.1, prob=CHANCE),
            RandGaussianNoised(["image"], prob=CHANCE, std=0.05),
        ]
    ).set_random_state(seed=0)

    def both(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        changed = change({"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None]})
        return changed["image"][0].numpy(), changed["label"][0].numpy()

    return both


def has_batchgenerators() -> bool:
    """Whether batchgeneratorsv2 is installed (pip install batchgeneratorsv2)."""
    return find_spec("batchgeneratorsv2") is not None


def batchgenerators(shape: tuple[int, ...]) -> Change:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    change = ComposeTransforms(
        [
            SpatialTransform(
                shape,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_elastic_deform=CHANCE,
                elastic_deform_scale=(0.1, 0.2),
                elastic_deform_magnitude=(0, 2),
                p_rotation=CHANCE,
                rotation=(-radians(TURN), radians(TURN)),
                p_scaling=CHANCE,
                scaling=SIZE,
                # Ours takes the nearest label; this is also the quicker one.
                mode_seg="nearest",
            ),
            RandomTransform(GaussianBlurTransform((0.1, 0.7)), CHANCE),
            RandomTransform(GammaTransform((0.77, 1.3), 0, False, 1, 0), CHANCE),
            RandomTransform(ContrastTransform((0.8, 1.2), False, False), CHANCE),
            RandomTransform(MultiplicativeBrightnessTransform((0.9, 1.1), False), CHANCE),
            RandomTransform(GaussianNoiseTransform((0, 0.05)), CHANCE),
        ]
    )

    def both(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        changed = change(
            image=torch.from_numpy(image)[None], segmentation=torch.from_numpy(label)[None].to(torch.int16)
        )
        return changed["image"][0].numpy(), changed["segmentation"][0].numpy()

    return both
