"""From probabilities on the network's grid to label values on the scan's own grid, piece by piece.

The network's answer comes in parts along the first axis of its grid. Each pixel of the scan gets its likeliest label as soon
as everything it is interpolated from has come, and what nothing waits for any more is forgotten: memory does not grow with
the scan, but for its labels of one byte each. Whether the answer comes in one part or in many changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import FloatArray
from autoseg_lib.preprocess.resample import SLICES_PER_CHUNK, resample_index
from autoseg_lib.volume import Box

Labels = npt.NDArray[np.unsignedinteger]
# First and last + 1 index along slices, rows and columns.
Range = tuple[npt.NDArray[Any], npt.NDArray[Any]]

# A little below 1/C: half-precision probabilities sum to 1 within a few thousandths.
_FLOOR = 0.95


@dataclass(frozen=True)
class OwnGrid:
    """The answer on the scan's own grid.

    Attributes:
        labels: (slice, row, column) label values, uint8 (uint16 above 255 channels).
        counts: for each of the limits asked for, (slices, channels - 1) pixels whose probability is at least the limit.
    """

    labels: Labels = field(repr=False)
    counts: tuple[npt.NDArray[np.int64], ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[OwnGrid]) -> OwnGrid:
        """Returns consecutive slices of a scan as one."""
        counts = zip(*(part.counts for part in parts), strict=True)
        return cls(
            np.concatenate([part.labels for part in parts]), tuple(np.concatenate(each) for each in counts)
        )

    def laid_into(self, shape_zyx: tuple[int, int, int], box: Box) -> OwnGrid:
        """Returns the answer for a part of a scan as one for the whole scan: background outside.

        Args:
            shape_zyx: shape of the whole scan.
            box: where in it the part lies.
        """
        labels = np.zeros(shape_zyx, self.labels.dtype)
        labels[box] = self.labels
        counts = []
        for each in self.counts:
            whole = np.zeros((shape_zyx[0], each.shape[1]), each.dtype)
            whole[box[0]] = each
            counts.append(whole)
        return OwnGrid(labels, tuple(counts))


class WayBack:
    """Takes the network's answer in parts and gives the likeliest labels on the scan's own grid."""

    def __init__(
        self,
        source_shape: Sequence[int],
        matrix: FloatArray,
        shape_zyx: tuple[int, int, int],
        channels: int,
        limits: Sequence[float] = (),
    ) -> None:
        """Args:
        source_shape: shape of the network's grid.
        matrix: (4, 4) from index of the scan's own grid to index of the network's grid.
        shape_zyx: shape of the scan's own grid.
        channels: number of label values, background included.
        limits: probabilities to count the pixels at or above.
        """
        self.matrix, self.shape, self.channels, self.limits = matrix, shape_zyx, channels, tuple(limits)
        self._source_shape = tuple(int(n) for n in source_shape)
        self.labels: Labels = np.zeros(shape_zyx, np.uint8 if channels <= 256 else np.uint16)
        self.counts = tuple(np.zeros((shape_zyx[0], channels - 1), np.int64) for _ in self.limits)
        # Below this probability a channel neither wins nor counts: the largest of C probabilities that sum to 1 is at least
        # 1/C, and an interpolated value reaches a limit only beside a pixel that does.
        self._floor = min([_FLOOR / channels, *(limit * (1 - 1e-3) for limit in self.limits)])
        self._axis = int(np.argmax(np.abs(matrix[0, :3])))
        self._needed = self._rows_needed()
        self._done = np.zeros(shape_zyx[self._axis], bool)
        self._kept: npt.NDArray[Any] | None = None
        self._kept_from = self._taken = 0

    def take(self, part: npt.NDArray[Any]) -> None:
        """Takes the next slices of the network's answer.

        Args:
            part: (channels, slices, rows, columns) probabilities; slices follow those of the part before.

        Raises:
            GeometryError: the part does not belong to the network's grid.
        """
        taken = self._taken + part.shape[1]
        if (
            part.shape[0] != self.channels
            or part.shape[2:] != self._source_shape[1:]
            or taken > self._source_shape[0]
        ):
            raise GeometryError(
                f"the network's answer has the shape {part.shape} from slice {self._taken}; its grid is {self._source_shape}."
            )
        kept = part if self._kept is None else np.concatenate([self._kept, part], axis=1)
        self._taken = taken
        first, last = self._needed
        ready = np.flatnonzero((last < taken) & ~self._done)
        if ready.size:
            for begin in range(int(ready[0]), int(ready[-1]) + 1, SLICES_PER_CHUNK):
                self._work_out(kept, begin, min(begin + SLICES_PER_CHUNK, int(ready[-1]) + 1))
            self._done[ready] = True
        waiting = first[~self._done]
        keep = min(int(waiting.min()), taken) if waiting.size else taken
        # A copy: a view would hold on to the whole part.
        self._kept = kept[:, keep - self._kept_from :].copy() if keep < taken else None
        self._kept_from = keep

    def finish(self) -> OwnGrid:
        """Returns the answer on the scan's own grid.

        Raises:
            GeometryError: parts of the network's answer are missing.
        """
        if not self._done.all():
            raise GeometryError(
                f"the network's answer ends after {self._taken} of {self._source_shape[0]} slices."
            )
        return OwnGrid(self.labels, self.counts)

    def _rows_needed(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """For each index along ``_axis``: first and last slice of the network's grid it is interpolated from."""
        row = self.matrix[0]
        others = [axis for axis in range(3) if axis != self._axis]
        reach = [row[axis] * (self.shape[axis] - 1) for axis in others]
        low, high = sum(min(0.0, r) for r in reach), sum(max(0.0, r) for r in reach)
        place = row[self._axis] * np.arange(self.shape[self._axis]) + row[3]
        last = self._source_shape[0] - 1
        return (
            np.clip(np.floor(place + low - 1e-6), 0, last).astype(int),
            np.clip(np.ceil(place + high + 1e-6), 0, last).astype(int),
        )

    def _work_out(self, kept: npt.NDArray[Any], first: int, last: int) -> None:
        """Labels the scan's pixels with an index of first .. last - 1 along ``_axis``."""
        begin, end = np.zeros(3, int), np.array(self.shape)
        begin[self._axis], end[self._axis] = first, last
        matrix = self.matrix.copy()
        matrix[0, 3] -= self._kept_from
        best = _interpolated(kept[0], matrix, begin, end)
        labels = self.labels[_slices((begin, end))]
        near = _source_range(matrix, begin, end, kept.shape[1:])
        for channel in range(1, self.channels):
            box = _box(kept[channel][_slices(near)] >= self._floor)
            if box is None:
                continue
            part = _target_range(matrix, box[0] + near[0], box[1] + near[0], kept.shape[1:], begin, end)
            if (part[0] >= part[1]).any():
                continue
            values = _interpolated(kept[channel], matrix, *part)
            inside = _slices((part[0] - begin, part[1] - begin))
            np.copyto(labels[inside], channel, where=values > best[inside])
            np.maximum(best[inside], values, out=best[inside])
            for limit, counts in zip(self.limits, self.counts, strict=True):
                counts[part[0][0] : part[1][0], channel - 1] += np.count_nonzero(values >= limit, axis=(1, 2))


def likeliest_labels(
    probabilities: npt.NDArray[Any], matrix: FloatArray, shape_zyx: tuple[int, int, int]
) -> Labels:
    """Returns argmax over channels of the probabilities interpolated at ``matrix @ index``.

    Args:
        probabilities: (channel, slice, row, column).
        matrix: (4, 4) from index of the result to index of the probabilities.
        shape_zyx: shape of the result.
    """
    back = WayBack(probabilities.shape[1:], matrix, shape_zyx, probabilities.shape[0])
    back.take(probabilities)
    return back.finish().labels


def _slices(box: Range) -> tuple[slice, ...]:
    return tuple(slice(int(low), int(high)) for low, high in zip(*box, strict=True))


def _corners(matrix: FloatArray, begin: npt.NDArray[Any], end: npt.NDArray[Any]) -> FloatArray:
    """The eight images of the corners of the index box begin .. end - 1."""
    corners = np.array(np.meshgrid(*zip(begin, end - 1, strict=True), indexing="ij")).reshape(3, -1)
    return matrix[:3, :3] @ corners + matrix[:3, 3:]


def _source_range(
    matrix: FloatArray, begin: npt.NDArray[Any], end: npt.NDArray[Any], shape: tuple[int, ...]
) -> Range:
    """Source indices [low, high) that linear interpolation of the target box begin .. end - 1 can touch."""
    corners = _corners(matrix, begin, end)
    last = np.array(shape) - 1
    low = np.clip(np.floor(corners.min(axis=1) + 1e-6).astype(int), 0, last)
    high = np.clip(np.ceil(corners.max(axis=1) - 1e-6).astype(int), 0, last) + 1
    return low, high


def _target_range(
    matrix: FloatArray,
    low: npt.NDArray[Any],
    high: npt.NDArray[Any],
    shape: tuple[int, ...],
    begin: npt.NDArray[Any],
    end: npt.NDArray[Any],
) -> Range:
    """Target indices within begin .. end - 1 that source pixels low .. high - 1 have a part in."""
    # A pixel at the source's edge also stands for everything beyond the edge.
    far = 1e6
    first: FloatArray = np.where(low == 0, -far, low - 1.0)
    last: FloatArray = np.where(high == np.array(shape), far, high.astype(float))
    inverse: FloatArray = np.linalg.inv(matrix).astype(np.float64)
    corners = _corners(inverse, first, last + 1)
    a = np.maximum(begin, np.floor(np.maximum(corners.min(axis=1), -far)).astype(int))
    b = np.minimum(end, np.ceil(np.minimum(corners.max(axis=1), far)).astype(int) + 1)
    return a, b


def _box(where: npt.NDArray[np.bool_]) -> Range | None:
    """The smallest index box [low, high) that holds all True values; None if there are none."""
    low, high = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(where.any(axis=others))
        if hits.size == 0:
            return None
        low[axis], high[axis] = hits[0], hits[-1] + 1
    return low, high


def _interpolated(
    channel: npt.NDArray[Any], matrix: FloatArray, begin: npt.NDArray[Any], end: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """One channel interpolated on the target box begin .. end - 1; beyond the edge the edge's value holds."""
    low, high = _source_range(matrix, begin, end, channel.shape)
    shifted = matrix.copy()
    shifted[:3, 3] += matrix[:3, :3] @ begin - low
    n = end - begin
    shape = (int(n[0]), int(n[1]), int(n[2]))
    return resample_index(channel[_slices((low, high))], shifted, shape, fill=None, smooth=False)
