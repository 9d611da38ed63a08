"""From closed contours to pixels: which pixel centres lie inside, by the even-odd rule.

A pixel belongs to a contour when its centre lies inside. A centre exactly on an edge belongs to the side towards growing
row and column only (half-open), so that two contours that share an edge neither overlap nor leave a gap between them.
A keyhole (one contour with a channel that runs in and out on the same line) is a hole by this rule, and contours of one
ROI on one slice are combined by it too (XOR), so that a contour inside another one is a hole: DICOM PS3.3, C.8.8.6.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg_lib.geometry import FloatArray

# Contour points are decimal text, often of numbers that were once held in 32 bits (-42.700000762939 for -42.7). Points
# that differ from a pixel's centre by less than this share of a pixel were meant to lie on it.
_SNAP_PIXELS = 1e-5
# At most so many crossings of edges with rows of pixels are held at a time (three arrays of 8 bytes each).
_CHUNK_CROSSINGS = 1_000_000
# Two contours of one ROI that cross are told from two that merely touch by more than this share of the smaller one.
_TOUCHING_SHARE = 0.05


class ContourPixels(NamedTuple):
    """The pixels inside one contour, in the box that holds them.

    Attributes:
        row, column: where the box begins in the slice.
        pixels: (row, column) of the box, True inside.
    """

    row: int
    column: int
    pixels: npt.NDArray[np.bool_]


class Combined(NamedTuple):
    """What was odd about the contours of one ROI on one slice.

    Attributes:
        repeated: contours that hold the same pixels as another one; each counts once.
        crossing_pixels: pixels where two contours overlap in part; by the even-odd rule these are outside.
    """

    repeated: int
    crossing_pixels: int


def contour_pixels(contour: FloatArray, shape: tuple[int, int]) -> ContourPixels | None:
    """Returns the pixels whose centres lie inside a closed contour, None where there are none.

    Args:
        contour: (points, 2) of row and column in pixels; whole numbers are pixel centres. Closed by itself.
        shape: rows and columns of the slice; what lies outside is cut off.
    """
    rows, columns = shape
    first, last = _edges(contour)
    top = np.clip(np.ceil(first[:, 0]), 0, rows).astype(np.int64)
    bottom = np.clip(np.ceil(last[:, 0]), 0, rows).astype(np.int64)
    used = bottom > top  # level edges, and those above or below the slice, cross no row of centres
    if not used.any():
        return None
    first, last, top, bottom = first[used], last[used], top[used], bottom[used]
    row_0, row_1 = int(top.min()), int(bottom.max())
    across = np.concatenate([first[:, 1], last[:, 1]])
    column_0, column_1 = (int(value) for value in np.clip(np.ceil([across.min(), across.max()]), 0, columns))
    if column_1 <= column_0:
        return None
    width = column_1 - column_0 + 1  # one more column takes the crossings to the right of the box
    turns = np.zeros((row_1 - row_0) * width, dtype=np.uint8)
    total = np.cumsum(bottom - top)
    start = 0
    while start < len(first):
        done = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _CHUNK_CROSSINGS, side="right")))
        part = slice(start, stop)
        row, column = _crossings(first[part], last[part], top[part], bottom[part])
        place = np.clip(np.ceil(column), column_0, column_1).astype(np.int64) - column_0
        place += (row - row_0) * width
        np.bitwise_xor.at(turns, place, 1)
        start = stop
    # Walking along a row, each crossing changes from outside to inside or back.
    inside = np.bitwise_xor.accumulate(turns.reshape(-1, width)[:, :-1], axis=1).view(np.bool_)
    return ContourPixels(row_0, column_0, inside)


def combine(layer: npt.NDArray[np.bool_], found: Sequence[ContourPixels]) -> Combined:
    """Puts the contours of one ROI on one slice together by the even-odd rule.

    The same contour stored twice counts once (it would cancel itself out).

    Args:
        layer: (row, column) of the slice, changed in place.
        found: pixels of each contour.
    """
    repeated = crossing = 0
    kept: list[ContourPixels] = []
    # Boxes of those kept: first and last row, first and last column; a threshold's crumbs can be hundreds.
    boxes = np.zeros((len(found), 4), dtype=np.int64)
    for one in found:
        height, width = one.pixels.shape
        box = (one.row, one.row + height, one.column, one.column + width)
        known = boxes[: len(kept)]
        meets = (
            (known[:, 0] < box[1]) & (known[:, 1] > box[0]) & (known[:, 2] < box[3]) & (known[:, 3] > box[2])
        )
        overlaps = [_overlap(one, kept[index]) for index in np.flatnonzero(meets).tolist()]
        if any(same for same, _ in overlaps):
            repeated += 1
            continue
        crossing += sum(pixels for _, pixels in overlaps)
        boxes[len(kept)] = box
        kept.append(one)
        layer[box[0] : box[1], box[2] : box[3]] ^= one.pixels
    return Combined(repeated, crossing)


def _edges(contour: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the ends (edges, 2) of all edges, each from its smaller to its larger row.

    Both contours at a shared edge see it in one direction then, so that rounding is the same for both.
    """
    nearest = np.round(contour)
    start = np.where(np.abs(contour - nearest) < _SNAP_PIXELS, nearest, contour)
    stop = np.concatenate([start[1:], start[:1]])
    turned = (start[:, 0] > stop[:, 0])[:, np.newaxis]
    return np.where(turned, stop, start), np.where(turned, start, stop)


def _crossings(
    first: FloatArray, last: FloatArray, top: npt.NDArray[np.int64], bottom: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Returns (row, column) of every crossing of an edge with a row of pixel centres."""
    count = bottom - top
    before = np.cumsum(count) - count
    row = np.arange(int(count.sum())) - np.repeat(before - top, count)
    slope = (last[:, 1] - first[:, 1]) / (last[:, 0] - first[:, 0])
    column = np.repeat(first[:, 1], count) + (row - np.repeat(first[:, 0], count)) * np.repeat(slope, count)
    return row, column


def _overlap(one: ContourPixels, other: ContourPixels) -> tuple[bool, int]:
    """Returns whether two contours hold the same pixels, and how many they share where neither holds the other."""
    row, column = max(one.row, other.row), max(one.column, other.column)
    ours = one.pixels[row - one.row :, column - one.column :]
    theirs = other.pixels[row - other.row :, column - other.column :]
    height, width = min(ours.shape[0], theirs.shape[0]), min(ours.shape[1], theirs.shape[1])
    shared = int(np.count_nonzero(ours[:height, :width] & theirs[:height, :width]))
    if not shared:
        return False, 0
    areas = sorted((int(np.count_nonzero(one.pixels)), int(np.count_nonzero(other.pixels))))
    if shared == areas[0] == areas[1]:
        return True, 0
    slack = _TOUCHING_SHARE * areas[0]
    return False, shared if slack < shared < areas[0] - slack else 0
