"""Random changes of 2D slices. The only home of albumentations."""

from __future__ import annotations

import os
from typing import Any

# albumentations asks its server for a newer version when imported; nothing here goes to the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import numpy.typing as npt
from albumentations.augmentations.geometric.distortion import BaseDistortion

from autoseg_lib.augment.intensity import apply_draw, draw_intensity
from autoseg_lib.augment.plan import BEND_CELLS, BEND_REACH, AugmentPlan, SeedKey, generator, swap_labels

FloatPixels = npt.NDArray[np.float32]


class _Remap(BaseDistortion):
    """albumentations' remapping along maps that were drawn before: one resampling for all changes."""

    def __init__(self, map_x: FloatPixels, map_y: FloatPixels, fill: float) -> None:
        super().__init__(
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            keypoint_remapping_method="mask",
            p=1.0,
            border_mode=cv2.BORDER_CONSTANT,
            fill=fill,
            fill_mask=0,
        )
        self.maps = {"map_x": map_x, "map_y": map_y}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return self.maps


def augment_slice(
    image: FloatPixels, mask: npt.NDArray[np.uint8], plan: AugmentPlan, seed_key: SeedKey
) -> tuple[FloatPixels, npt.NDArray[np.uint8]]:
    """Returns a slice and its labels, changed at random but alike.

    Args:
        image: (row, column) normalised grey values.
        mask: (row, column) label values; only the nearest pixel's value is ever taken.
        plan: how strongly.
        seed_key: (seed, epoch, index); the same key gives the same result, whatever was called before.
    """
    random = generator(seed_key)
    flips, moves, bends = random.random(3) < plan.probability
    maps = _draw_maps(image.shape, plan, random, bool(moves), bool(bends))
    intensity = draw_intensity(plan, random)
    if flips and plan.mirrors and plan.mirror_axis is not None:
        image = np.ascontiguousarray(np.flip(image, plan.mirror_axis))
        mask = np.ascontiguousarray(swap_labels(np.flip(mask, plan.mirror_axis), plan.mirror_pairs))
    if maps is not None:
        changed = _Remap(*maps, fill=float(image.min()))(image=image, mask=mask)
        image, mask = changed["image"], changed["mask"]
    return apply_draw(image, intensity), mask


def _draw_maps(
    shape: tuple[int, ...], plan: AugmentPlan, random: np.random.Generator, moves: bool, bends: bool
) -> tuple[FloatPixels, FloatPixels] | None:
    """Draws where each pixel of the result comes from: (column, row) maps; None if none moves."""
    rows, columns = shape[0], shape[1]
    # Everything is drawn whether used or not, so that one setting does not shift the random numbers of the
    # next.
    turn, size, down, right = random.uniform(-1, 1, 4)
    bend = random.uniform(-1, 1, (2, BEND_CELLS + 1, BEND_CELLS + 1)).astype(np.float32)
    moves = moves and bool(plan.rotation_degrees or plan.scale or plan.shift)
    bends = bends and plan.elastic > 0
    if not moves and not bends:
        return None
    y = np.arange(rows, dtype=np.float32)[:, None] - np.float32((rows - 1) / 2)
    x = np.arange(columns, dtype=np.float32)[None, :] - np.float32((columns - 1) / 2)
    angle = np.radians(turn * plan.rotation_degrees) if moves else 0.0
    zoom = 1 + size * plan.scale if moves else 1.0
    cosine, sine = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    shift_y, shift_x = (down * plan.shift * rows, right * plan.shift * columns) if moves else (0.0, 0.0)
    map_y = cosine * y - sine * x + np.float32((rows - 1) / 2 + shift_y)
    map_x = sine * y + cosine * x + np.float32((columns - 1) / 2 + shift_x)
    if bends:
        reach = plan.elastic * BEND_REACH / BEND_CELLS
        map_y += cv2.resize(
            bend[0] * np.float32(reach * rows), (columns, rows), interpolation=cv2.INTER_CUBIC
        )
        map_x += cv2.resize(
            bend[1] * np.float32(reach * columns), (columns, rows), interpolation=cv2.INTER_CUBIC
        )
    return map_x, map_y
