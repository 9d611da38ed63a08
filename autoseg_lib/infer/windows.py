"""A network that sees windows looks at a whole scan: overlapping windows, Gaussian weights, memory for one layer of windows.

Windows are visited layer by layer along the grid's first axis. Once the next layer begins further on, nothing can change the
slices before it any more, so they are handed out and their memory is used again. Window places and weights are those of
MONAI's ``sliding_window_inference(mode="gaussian")`` (weights after nnU-Net, Isensee et al. 2021), and so is the result.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from autoseg_lib.io.scratch import scratch_folder

Shape = tuple[int, int, int]

# Standard deviation of the weights as a share of the window's side (nnU-Net, MONAI).
_SIGMA = 0.125
# Weights are at least this share of the largest one, as MONAI has it: corners of windows at a scan's corners count alone.
_LEAST_WEIGHT = 1e-3
# Slices handed out at a time: 8 of 512 x 512 with 100 classes are 0.8 GB.
_SLICES_AT_A_TIME = 8
# A layer of sums larger than this is kept on the disk: together with the image and the labels it then stays below 4 GB.
MOST_BYTES_IN_MEMORY = 1_500_000_000


@dataclass(frozen=True)
class WindowPlan:
    """How windows lie on a grid.

    Attributes:
        shape: size of the grid, at least the window's.
        window: size of a window.
        starts: for each axis, where windows begin.
    """

    shape: Shape
    window: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(axis) for axis in self.starts)


def plan_windows(shape: Sequence[int], window: Sequence[int], overlap: float) -> WindowPlan:
    """Returns where windows lie.

    Args:
        shape: size of the image; smaller than the window along an axis, it is padded there.
        window: size of a window.
        overlap: share by which neighbours overlap, at least 0 and below 1.
    """
    size = [max(n, w) for n, w in zip(shape, window, strict=True)]
    starts = [tuple(_starts(n, w, overlap)) for n, w in zip(size, window, strict=True)]
    return WindowPlan(
        (size[0], size[1], size[2]),
        (window[0], window[1], window[2]),
        (starts[0], starts[1], starts[2]),
    )


def _starts(size: int, window: int, overlap: float) -> Iterator[int]:
    step = max(1, int(window * (1 - overlap)))
    for start in itertools.count(0, step):
        # The last window ends where the image does.
        yield min(start, size - window)
        if start + window >= size:
            return


def importance(window: Sequence[int]) -> torch.Tensor:
    """Returns the weight of each voxel of a window: a Gaussian around its middle."""
    weights = torch.ones(())
    for side in window:
        place = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(place**2 / (-2 * (_SIGMA * side) ** 2))
    return weights.clamp_min(max(float(weights.min()), _LEAST_WEIGHT))


def windowed(
    image: torch.Tensor,
    window: Shape,
    classes: int,
    answer: Callable[[torch.Tensor], torch.Tensor],
    *,
    overlap: float = 0.5,
    at_a_time: int = 1,
    fill: float | None = None,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[torch.Tensor]:
    """Gives the answer for a whole image, some slices at a time.

    Args:
        image: (channels, slices, rows, columns).
        window: size of the windows.
        classes: channels of the answer.
        answer: gives (N, classes, ...) probabilities of (N, channels, ...) windows.
        overlap: share by which neighbouring windows overlap.
        at_a_time: windows the answer is asked for together.
        fill: value around an image that is smaller than the window; None: its smallest value.
        on_window: hears how many windows of how many are done.

    Yields:
        (classes, some slices, rows, columns) float32, from the first slice to the last.
    """
    shape = image.shape[1:]
    before = [max(0, w - n) // 2 for n, w in zip(shape, window, strict=True)]
    image = _padded(image, window, before, fill)
    plan = plan_windows(shape, window, overlap)
    inside = tuple(slice(b, b + n) for b, n in zip(before[1:], shape[1:], strict=True))
    first, last = before[0], before[0] + shape[0]
    asked = _Asked(answer)
    weights = importance(window)
    done = 0
    with _sums(plan, classes) as (sums, total):
        for z, following in itertools.pairwise((*plan.starts[0], plan.shape[0])):
            places = list(itertools.product(plan.starts[1], plan.starts[2]))
            for begin in range(0, len(places), at_a_time):
                some = places[begin : begin + at_a_time]
                boxes = [
                    tuple(slice(a, a + w) for a, w in zip((z, *place), window, strict=True)) for place in some
                ]
                for box, part in zip(
                    boxes, asked([image[(slice(None), *box)] for box in boxes]), strict=True
                ):
                    here = (slice(None), slice(0, window[0]), *box[1:])
                    sums[here].addcmul_(part, weights)
                    total[here[1:]].add_(weights)
                done += len(some)
                on_window(done, plan.count)
            finished = following - z
            for begin in range(0, finished, _SLICES_AT_A_TIME):
                end = min(begin + _SLICES_AT_A_TIME, finished)
                # Slices that are only padding are left out.
                a, b = max(begin, first - z), min(end, last - z)
                if a < b:
                    yield (sums[:, a:b] / total[a:b])[(slice(None), slice(None), *inside)].contiguous()
            _move_on(sums, total, finished)


class _Asked:
    """Asks for windows; one that holds a single grey value has the answer of any other of that value, which is kept."""

    def __init__(self, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._answer = answer
        self._flat: dict[tuple[float, ...], torch.Tensor] = {}

    def __call__(self, windows: list[torch.Tensor]) -> list[torch.Tensor]:
        values = [_only_value(window) for window in windows]
        known = {value: part for value, part in self._flat.items() if value in values}
        # Of several alike in this batch, one is enough.
        asking = [i for i, value in enumerate(values) if value is None or value not in (*known, *values[:i])]
        parts: dict[int, torch.Tensor] = {}
        if asking:
            answers = self._answer(torch.stack([windows[i] for i in asking])).float().cpu()
            parts = dict(zip(asking, answers, strict=True))
        for i in asking:
            value = values[i]
            if value is not None:
                known[value] = parts[i]
                # One is kept: air around a body. More would take memory.
                self._flat = {value: parts[i].clone()}
        return [parts[i] if value is None else known[value] for i, value in enumerate(values)]


def _only_value(window: torch.Tensor) -> tuple[float, ...] | None:
    """The value of each channel of a window that holds no other; None for all other windows."""
    corner = window[:, :1, :1, :1]
    # Most windows differ within their first row: a quick look saves the long one.
    if not bool((window[:, 0, 0] == corner[:, 0, 0]).all()) or not bool((window == corner).all()):
        return None
    return tuple(float(value) for value in corner.flatten())


def _padded(image: torch.Tensor, window: Shape, before: list[int], fill: float | None) -> torch.Tensor:
    missing = [max(0, w - n) for n, w in zip(image.shape[1:], window, strict=True)]
    if not any(missing):
        return image
    pads = [side for b, m in zip(reversed(before), reversed(missing), strict=True) for side in (b, m - b)]
    if fill is not None or image.shape[0] == 1:
        return functional.pad(image, pads, value=float(image.min()) if fill is None else fill)
    # Channels differ in what is dark.
    return torch.cat([functional.pad(one[None], pads, value=float(one.min())) for one in image])


@contextmanager
def _sums(plan: WindowPlan, classes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Zeros for the weighted answers of one layer of windows, and for the sum of their weights."""
    layer = (plan.window[0], *plan.shape[1:])
    total = torch.zeros(layer)
    if 4 * classes * math.prod(layer) <= MOST_BYTES_IN_MEMORY:
        yield torch.zeros((classes, *layer)), total
        return
    folder = scratch_folder()
    try:
        yield torch.from_numpy(_on_disk(folder / "sums.bin", (classes, *layer))), total
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_disk(path: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.float32]]:
    # A new file is all zeros.
    return np.memmap(path, dtype=np.float32, mode="w+", shape=shape)


def _move_on(sums: torch.Tensor, total: torch.Tensor, finished: int) -> None:
    """Moves what is not finished to the front; zeros behind it."""
    left = total.shape[0] - finished
    for layer in (*sums, total):
        if left > 0:
            layer[:left] = layer[finished:].clone()
        layer[max(left, 0) :].zero_()
