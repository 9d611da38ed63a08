"""Random changes of 2D slices, with or without their neighbours as further channels. The only home of albumentations."""

from __future__ import annotations

import os

# albumentations asks its server for a newer version when imported; nothing here goes to the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import numpy.typing as npt
from albumentations.augmentations.geometric.functional import remap

from autoseg_lib.augment.intensity import apply_draw, draw_channels
from autoseg_lib.augment.plan import BEND_CELLS, BEND_REACH, AugmentPlan, SeedKey, generator, swap_labels

FloatPixels = npt.NDArray[np.float32]

# Bending is drawn at the corners of few cells, made smooth at so many times their number, and from there on to all pixels
# along straight lines: as smooth to the eye as cubic all the way, and several times quicker.
_SMOOTH_STEPS = 4


def augment_slice(
    image: FloatPixels,
    mask: npt.NDArray[np.uint8],
    plan: AugmentPlan,
    seed_key: SeedKey,
    *,
    groups: int = 1,
) -> tuple[FloatPixels, npt.NDArray[np.uint8]]:
    """Returns a slice and its labels, changed at random but alike.

    Args:
        image: (row, column) normalised grey values; or (channel, row, column), all channels moved alike.
        mask: (row, column) label values; only the nearest pixel's value is ever taken.
        plan: how strongly.
        seed_key: (seed, epoch, index); the same key gives the same result, whatever was called before.
        groups: images the channels belong to, in equal parts (a slice and its neighbours are of one); the grey values of each
            are changed by themselves.
    """
    random = generator(seed_key)
    flips, moves, bends = random.random(3) < plan.probability
    maps = _draw_maps(mask.shape, plan, random, bool(moves), bool(bends))
    intensity = draw_channels(plan, random, seed_key, groups)
    channels = image[None] if image.ndim == 2 else image
    if flips and plan.mirrors and plan.mirror_axis is not None:
        channels = np.ascontiguousarray(np.flip(channels, plan.mirror_axis + 1))
        mask = np.ascontiguousarray(swap_labels(np.flip(mask, plan.mirror_axis), plan.mirror_pairs))
    if maps is not None:
        moved = np.empty(channels.shape, np.float32)
        for group, results in zip(np.split(channels, groups), np.split(moved, groups), strict=True):
            fill = float(group.min())
            for channel, result in zip(group, results, strict=True):
                result[:] = remap(channel, *maps, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT, fill)
        channels, mask = moved, remap(mask, *maps, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, 0)
    changed = [
        apply_draw(group, draw, planes=True)
        for group, draw in zip(np.split(channels, groups), intensity, strict=True)
    ]
    return (changed[0] if groups == 1 else np.concatenate(changed)).reshape(image.shape), mask


def _draw_maps(
    shape: tuple[int, ...], plan: AugmentPlan, random: np.random.Generator, moves: bool, bends: bool
) -> tuple[FloatPixels, FloatPixels] | None:
    """Draws where each pixel of the result comes from: its (column, row) maps; None if none moves."""
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
    map_x = sine * y + np.float32((columns - 1) / 2 + shift_x) + cosine * x
    map_y = cosine * y + np.float32((rows - 1) / 2 + shift_y) - sine * x
    if bends:
        reach = plan.elastic * BEND_REACH / BEND_CELLS
        map_x += _smooth(bend[1] * np.float32(reach * columns), (columns, rows))
        map_y += _smooth(bend[0] * np.float32(reach * rows), (columns, rows))
    return map_x, map_y


def _smooth(corners: FloatPixels, size: tuple[int, int]) -> FloatPixels:
    fine = (BEND_CELLS + 1) * _SMOOTH_STEPS
    smooth = cv2.resize(corners, (fine, fine), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)
