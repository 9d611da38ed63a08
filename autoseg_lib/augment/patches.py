"""Cutting 3D patches from a volume, and random changes of them, in one resampling.

The patch is sampled from the whole volume: what turns into view at its corners is the neighbouring tissue,
not padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.augment.intensity import apply_draw, draw_channels
from autoseg_lib.augment.mosaic import Mosaic
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

# Half the cells of a slice: a patch is smaller.
_CELLS = BEND_CELLS // 2


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
    fill: float | Sequence[float] = 0.0,
) -> tuple[FloatPixels, LabelPixels]:
    """Returns a patch of the volume and its labels, changed at random but alike.

    Args:
        image: (slice, row, column) normalised grey values of the whole volume, float16 or float32; or (channel, slice, row,
            column): all channels are moved alike, the grey values of each are changed by themselves.
        mask: its label values; only the nearest pixel's value is ever taken.
        first_zyx: index of the patch's first pixel; may lie outside.
        shape_zyx: size of the patch.
        plan: how strongly; None: the patch is only cut.
        seed_key: (seed, epoch, index); the same key gives the same result, whatever was called before.
        fill: grey value outside the volume, or one for each channel.
    """
    channels = image[None] if image.ndim == 3 else image
    fills = [fill] * len(channels) if isinstance(fill, float | int) else list(fill)
    if plan is None:
        return _cut_channels(channels, first_zyx, shape_zyx, fills, image.ndim), cut_patch(
            mask, first_zyx, shape_zyx, 0
        )
    random = generator(seed_key)
    flips, moves, bends = random.random(3) < plan.probability
    grid = _draw_grid(first_zyx, shape_zyx, plan, random, bool(moves), bool(bends))
    intensity = draw_channels(plan, random, seed_key, len(channels))
    if grid is None:
        pixels = _cut_channels(channels, first_zyx, shape_zyx, fills, 4)
        labels = cut_patch(mask, first_zyx, shape_zyx, 0)
    else:
        pixels, labels = _sampled(channels, mask, grid, fills)
    if flips and plan.mirrors and plan.mirror_axis is not None:
        pixels = np.ascontiguousarray(np.flip(pixels, plan.mirror_axis + 1))
        labels = np.ascontiguousarray(swap_labels(np.flip(labels, plan.mirror_axis), plan.mirror_pairs))
    changed = [apply_draw(channel, draw) for channel, draw in zip(pixels, intensity, strict=True)]
    return (changed[0] if image.ndim == 3 else np.stack(changed)), labels


def _cut_channels(
    channels: npt.NDArray[Any],
    first_zyx: Sequence[int],
    shape_zyx: Sequence[int],
    fills: Sequence[float],
    ndim: int,
) -> FloatPixels:
    patches = [
        cut_patch(channel, first_zyx, shape_zyx, fill) for channel, fill in zip(channels, fills, strict=True)
    ]
    return (patches[0] if ndim == 3 else np.stack(patches)).astype(np.float32, copy=False)


def _draw_grid(
    first_zyx: Sequence[int],
    shape_zyx: Sequence[int],
    plan: AugmentPlan,
    random: np.random.Generator,
    moves: bool,
    bends: bool,
) -> FloatPixels | None:
    """Draws where each voxel of the patch comes from: (3, z, y, x) indices; None for a plain cut."""
    turns = random.uniform(-1, 1, 3) * np.radians(plan.rotation_degrees)
    size = random.uniform(-1, 1)
    shift = random.uniform(-1, 1, 3)
    bend = random.uniform(-1, 1, (3, _CELLS + 1, _CELLS + 1, _CELLS + 1))
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
    reach = plan.elastic * BEND_REACH / _CELLS * shape * bends
    reach[thick] = 0.0 if flat else reach[thick]
    # The grid is linear between the corners of the bending cells, and so is the turn: both are worked out at
    # the corners and filled in between, one axis after the other.
    corners = np.stack(np.meshgrid(*(_corner_places(n) for n in shape_zyx), indexing="ij"))
    grid = np.einsum("ij,jzyx->izyx", matrix, corners, optimize=False)
    grid += (bend * reach[:, None, None, None]) + middle[:, None, None, None]
    grid = grid.astype(np.float32)
    for axis in (3, 2, 1):
        grid = _filled_in(grid, axis, int(shape[axis - 1]))
    return grid


def _corner_places(size: int) -> npt.NDArray[np.float64]:
    """Where the corners of the cells lie along an axis, counted from the patch's middle."""
    return np.linspace(-(size - 1) / 2, (size - 1) / 2, _CELLS + 1)


def _filled_in(values: FloatPixels, axis: int, size: int) -> FloatPixels:
    """Returns ``size`` values along an axis, on straight lines between those given, the ends included."""
    place = np.linspace(0, _CELLS, size)
    cell = np.minimum(place.astype(np.int64), _CELLS - 1)
    shape = [1] * values.ndim
    shape[axis] = size
    share = (place - cell).astype(np.float32).reshape(shape)
    filled = np.take(np.diff(values, axis=axis), cell, axis=axis)
    filled *= share
    filled += np.take(values, cell, axis=axis)
    return filled


def _turn(axis: int, angle: float) -> npt.NDArray[np.float64]:
    """(3, 3) turn about one array axis."""
    a, b = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def _sampled(
    channels: npt.NDArray[Any], mask: LabelPixels, grid: FloatPixels, fills: Sequence[float]
) -> tuple[FloatPixels, LabelPixels]:
    """The volume at the grid's indices: the channels between their voxels, the mask at the nearest one."""
    low = np.maximum(0, np.floor(grid.min(axis=(1, 2, 3))).astype(int))
    high = np.minimum(mask.shape, np.ceil(grid.max(axis=(1, 2, 3))).astype(int) + 1)
    if (high <= low).any():
        empty = np.empty((len(channels), *grid.shape[1:]), np.float32)
        empty[:] = np.array(fills, np.float32)[:, None, None, None]
        return empty, np.zeros(grid.shape[1:], np.uint8)
    # Only the part in reach is copied.
    near = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid -= low.astype(np.float32)[:, None, None, None]
    mosaic = Mosaic(mask[near].shape, grid)
    pixels = np.empty((len(channels), *grid.shape[1:]), np.float32)
    for channel, fill, result in zip(channels, fills, pixels, strict=True):
        result[:] = mosaic.between(channel[near], fill)
    return pixels, mosaic.nearest(mask[near])
