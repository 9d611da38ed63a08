"""Cutting 3D patches from a volume, and random changes of them, in one resampling by MONAI.

The patch is sampled from the whole volume: what turns into view at its corners is the neighbouring tissue,
not padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Resample

from autoseg_lib.augment.intensity import apply_draw, draw_intensity
from autoseg_lib.augment.plan import (
    ANISOTROPY_THRESHOLD,
    BEND_CELLS,
    BEND_REACH,
    AugmentPlan,
    SeedKey,
    generator,
    swap_labels,
)

FloatPixels = npt.NDArray[np.float32]
LabelPixels = npt.NDArray[np.uint8]


def cut_patch(
    array: npt.NDArray[Any], first_zyx: Sequence[int], shape_zyx: Sequence[int], fill: float
) -> npt.NDArray[Any]:
    """Returns the patch that starts at ``first_zyx`` (may be negative); ``fill`` outside the volume."""
    patch = np.full(tuple(shape_zyx), fill, dtype=array.dtype)
    source, target = [], []
    for first, size, length in zip(first_zyx, shape_zyx, array.shape, strict=True):
        begin, end = max(0, first), min(length, first + size)
        if end <= begin:
            return patch
        source.append(slice(begin, end))
        target.append(slice(begin - first, end - first))
    patch[tuple(target)] = array[tuple(source)]
    return patch


def augment_patch(
    image: npt.NDArray[Any],
    mask: LabelPixels,
    first_zyx: Sequence[int],
    shape_zyx: Sequence[int],
    plan: AugmentPlan | None,
    seed_key: SeedKey,
    fill: float = 0.0,
) -> tuple[FloatPixels, LabelPixels]:
    """Returns a patch of the volume and its labels, changed at random but alike.

    Args:
        image: (slice, row, column) normalised grey values of the whole volume, float16 or float32.
        mask: its label values; only the nearest pixel's value is ever taken.
        first_zyx: index of the patch's first pixel; may lie outside.
        shape_zyx: size of the patch.
        plan: how strongly; None: the patch is only cut.
        seed_key: (seed, epoch, index); the same key gives the same result, whatever was called before.
        fill: grey value outside the volume.
    """
    if plan is None:
        pixels = cut_patch(image, first_zyx, shape_zyx, fill).astype(np.float32, copy=False)
        return pixels, cut_patch(mask, first_zyx, shape_zyx, 0)
    random = generator(seed_key)
    flips, moves, bends = random.random(3) < plan.probability
    with _one_thread():
        grid = _draw_grid(first_zyx, shape_zyx, plan, random, bool(moves), bool(bends))
        sampled = None if grid is None else _sampled(image, mask, grid, fill)
    intensity = draw_intensity(plan, random)
    if sampled is None:
        pixels = cut_patch(image, first_zyx, shape_zyx, fill).astype(np.float32, copy=False)
        labels = cut_patch(mask, first_zyx, shape_zyx, 0)
    else:
        pixels, labels = sampled
    if flips and plan.mirrors and plan.mirror_axis is not None:
        pixels = np.ascontiguousarray(np.flip(pixels, plan.mirror_axis))
        labels = np.ascontiguousarray(swap_labels(np.flip(labels, plan.mirror_axis), plan.mirror_pairs))
    return apply_draw(pixels, intensity), labels


@contextmanager
def _one_thread() -> Iterator[None]:
    """Works with one thread: on a busy computer, sharing out such small work takes far longer than doing it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draw_grid(
    first_zyx: Sequence[int],
    shape_zyx: Sequence[int],
    plan: AugmentPlan,
    random: np.random.Generator,
    moves: bool,
    bends: bool,
) -> torch.Tensor | None:
    """Draws where each voxel of the patch comes from: (3, z, y, x) indices; None for a plain cut."""
    turns = random.uniform(-1, 1, 3) * np.radians(plan.rotation_degrees)
    size = random.uniform(-1, 1)
    shift = random.uniform(-1, 1, 3)
    bend = random.uniform(-1, 1, (3, BEND_CELLS // 2 + 1, BEND_CELLS // 2 + 1, BEND_CELLS // 2 + 1))
    moves = moves and bool(plan.rotation_degrees or plan.scale or plan.shift)
    bends = bends and plan.elastic > 0
    if not moves and not bends:
        return None
    shape = np.array(shape_zyx)
    middle = np.array(first_zyx) + (shape - 1) / 2
    spacing = np.array(plan.spacing_zyx_mm)
    flat = spacing.max() / spacing.min() > ANISOTROPY_THRESHOLD
    thick = int(spacing.argmax())
    matrix = np.eye(3)
    if moves:
        for axis in range(3):
            if not flat or axis == thick:
                matrix = matrix @ _turn(axis, turns[axis])
        # A turn in mm, between indices: mm → index after, index → mm before.
        matrix = (matrix * spacing[None, :]) / spacing[:, None] / (1 + size * plan.scale)
        middle = middle + shift * plan.shift * shape
    parts = [torch.arange(int(n), dtype=torch.float32) - (int(n) - 1) / 2 for n in shape]
    z, y, x = parts[0][:, None, None], parts[1][None, :, None], parts[2][None, None, :]
    grid = torch.empty((3, *(int(n) for n in shape)), dtype=torch.float32)
    for axis in range(3):
        a, b, c = (float(value) for value in matrix[axis])
        torch.add(a * z + b * y + float(middle[axis]), c * x, out=grid[axis])
    if bends:
        reach = plan.elastic * BEND_REACH / (BEND_CELLS // 2) * shape
        reach[thick] = 0.0 if flat else reach[thick]
        corners = torch.from_numpy((bend * reach[:, None, None, None]).astype(np.float32))[None]
        size_zyx = tuple(int(n) for n in shape)
        grid += torch.nn.functional.interpolate(corners, size_zyx, mode="trilinear", align_corners=True)[0]
    return grid


def _turn(axis: int, angle: float) -> npt.NDArray[np.float64]:
    """(3, 3) turn about one array axis."""
    a, b = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def _sampled(
    image: npt.NDArray[Any], mask: LabelPixels, grid: torch.Tensor, fill: float
) -> tuple[FloatPixels, LabelPixels]:
    """The volume at the grid's indices: the image between its voxels, the mask at the nearest one."""
    low = np.maximum(0, np.floor(grid.amin(dim=(1, 2, 3)).numpy()).astype(int))
    high = np.minimum(image.shape, np.ceil(grid.amax(dim=(1, 2, 3)).numpy()).astype(int) + 1)
    if (high <= low).any():
        return np.full(grid.shape[1:], fill, np.float32), np.zeros(grid.shape[1:], np.uint8)
    # Only the part in reach is copied; a border of one voxel of padding makes the edges fade into ``fill``.
    near = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    pixels = torch.from_numpy(np.pad(image[near].astype(np.float32) - np.float32(fill), 1))
    labels = torch.from_numpy(np.pad(mask[near].astype(np.float32), 1))
    # MONAI counts from the middle of the image.
    offset = torch.from_numpy((low - 1 + (np.array(pixels.shape) - 1) / 2).astype(np.float32))
    centred = grid - offset[:, None, None, None]
    sampler = Resample(padding_mode="zeros", dtype=np.float32)
    sampled = sampler(pixels[None], centred, mode="bilinear")[0].numpy()
    nearest = sampler(labels[None], centred, mode="nearest")[0].numpy()
    return sampled + np.float32(fill), nearest.astype(np.uint8)
