"""From pixels to closed contours along their edges: the exact way back of ``io.contours``.

Corners lie half-way between pixel centres, so every reader that asks whether a centre lies inside gets the same pixels
again, however it rounds. A hole is reached by a keyhole (a channel that runs in and out on one line), which is what
DICOM PS3.3, C.8.8.6.3 describes for CLOSED_PLANAR contours, and what readers with and without an even-odd rule across
contours understand alike. Pixels that touch at a corner only are contours of their own.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from autoseg_lib.geometry import FloatArray

_Points = npt.NDArray[np.int64]
# Steps (row, column) of the four ways along a pixel's edge, each with the pixel on its right.
_RIGHT, _DOWN, _LEFT, _UP = range(4)


def trace(pixels: npt.NDArray[np.bool_]) -> list[FloatArray]:
    """Returns closed contours around the pixels of one slice.

    Args:
        pixels: (row, column), True inside.

    Returns:
        One (points, 2) array of row and column per connected part (edge to edge), corners only, clockwise as the slice is
        shown; whole numbers are pixel centres, so that corners end in .5. Not closed by a repeated first point.
    """
    if not pixels.any():
        return []
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    padded = np.pad(pixels[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    loops = _loops(padded)
    outer = [loop for loop in loops if _turns_right(loop)]
    holes = [_from_first_corner(loop) for loop in loops if not _turns_right(loop)]
    # From the top left, so that what a channel to the left meets is a contour that comes earlier.
    holes.sort(key=lambda loop: (int(loop[0, 0]), int(loop[0, 1])))
    found = _with_keyholes(outer, holes, padded) if holes else outer
    # Corner (1, 1) of the padded pixels is the outer corner of the first pixel, half a pixel before its centre.
    return [loop + np.array([top - 1.5, left - 1.5]) for loop in found]


def _loops(padded: npt.NDArray[np.bool_]) -> list[_Points]:
    """Returns the corners of all boundaries, pixels always on the right-hand side."""
    width = padded.shape[1] + 1
    starts, ends = _edges(padded)
    following: list[dict[int, int]] = []
    count = 0
    for begin in starts:
        codes = (begin[:, 0] * width + begin[:, 1]).tolist()
        following.append(dict(zip(codes, range(count, count + len(codes)), strict=True)))
        count += len(codes)
    # The next edge at each end: to the right where there is one, so that parts that touch at a corner stay apart.
    after: list[int] = []
    for way, end in enumerate(ends):
        first, second = following[(way + 1) % 4], following[(way - 1) % 4]
        for code in (end[:, 0] * width + end[:, 1]).tolist():
            edge = first.get(code)
            after.append(second[code] if edge is None else edge)
    corners = np.concatenate(starts)
    done = bytearray(count)
    loops = []
    for begin_at in range(count):
        if done[begin_at]:
            continue
        chain, edge = [], begin_at
        while not done[edge]:
            done[edge] = 1
            chain.append(edge)
            edge = after[edge]
        loops.append(corners[chain])
    return loops


def _edges(padded: npt.NDArray[np.bool_]) -> tuple[list[_Points], list[_Points]]:
    """Returns the straight edges between pixels and background: starts and ends (edges, 2), by way."""
    values = padded.astype(np.int8)
    down = np.diff(values, axis=0)  # +1: background above, pixel below
    across = np.diff(values, axis=1).T
    starts: list[_Points] = [np.empty((0, 2), np.int64)] * 4
    ends = list(starts)
    for way, steps, sign, turned in (
        (_RIGHT, down, 1, False),
        (_LEFT, down, -1, False),
        (_UP, across, 1, True),
        (_DOWN, across, -1, True),
    ):
        first, last = _runs(steps == sign)
        if turned:
            first, last = first[:, ::-1], last[:, ::-1]
        forward = way in (_RIGHT, _DOWN)
        starts[way], ends[way] = (first, last) if forward else (last, first)
    return starts, ends


def _runs(hit: npt.NDArray[np.bool_]) -> tuple[_Points, _Points]:
    """Returns the lattice points where each run along a line begins and ends."""
    change = np.diff(np.pad(hit, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    first, last = np.argwhere(change == 1), np.argwhere(change == -1)
    first[:, 0] += 1
    last[:, 0] += 1
    return first, last


def _turns_right(loop: _Points) -> bool:
    """Whether a loop runs clockwise (row downwards): around pixels, not around a hole."""
    row, column = loop[:, 0], loop[:, 1]
    # Edges are level or upright, so only the upright ones count (Green's theorem).
    return int((column[:-1] * np.diff(row)).sum() + column[-1] * (row[0] - row[-1])) > 0


def _from_first_corner(loop: _Points) -> _Points:
    """Returns the loop beginning at its leftmost corner in its top row."""
    first = int(np.lexsort((loop[:, 1], loop[:, 0]))[0])
    return np.roll(loop, -first, axis=0)


# --- keyholes ---------------------------------------------------------------------------------------------------------


def _with_keyholes(
    outer: list[_Points], holes: list[_Points], padded: npt.NDArray[np.bool_]
) -> list[FloatArray]:
    """Joins each hole to the contour that a channel to its left meets."""
    loops = [*outer, *holes]
    edges = _upward_edges(loops)
    channels: dict[int, dict[int, list[tuple[int, int, int]]]] = defaultdict(lambda: defaultdict(list))
    for number, hole in enumerate(holes, start=len(outer)):
        row, column = int(hole[0, 0]), int(hole[0, 1])
        # Lattice row r runs between the pixel rows r - 1 and r.
        inside = padded[row - 1, :column] & padded[row, :column]
        met = int(np.flatnonzero(~inside)[-1]) + 1
        at = np.flatnonzero((edges[:, 0] == met) & (edges[:, 1] <= row) & (edges[:, 2] >= row))
        # The hole itself never is at the left of its first corner.
        _, _, _, owner, place = edges[at[0]].tolist()
        channels[owner][place].append((row, met, number))
    return [_joined(loops, number, channels) for number in range(len(outer))]


def _upward_edges(loops: list[_Points]) -> _Points:
    """Returns (column, first row, last row, loop, place in the loop) of edges with a pixel to their right."""
    found = []
    for number, loop in enumerate(loops):
        stop = np.roll(loop, -1, axis=0)
        places = np.flatnonzero((loop[:, 1] == stop[:, 1]) & (stop[:, 0] < loop[:, 0]))
        part = np.column_stack([loop[places, 1], stop[places, 0], loop[places, 0]])
        found.append(np.column_stack([part, np.full(len(places), number), places]))
    return np.concatenate(found)


def _joined(
    loops: list[_Points], first: int, channels: dict[int, dict[int, list[tuple[int, int, int]]]]
) -> FloatArray:
    """Walks along a loop and, wherever a channel leaves it, out to the hole, round it and back."""
    points: list[tuple[int, int]] = []
    # What is still to be walked, the next last: a point, or (loop, place) to go on from.
    waiting: list[tuple[str, int, int]] = [("loop", first, 0)]
    while waiting:
        kind, one, other = waiting.pop()
        if kind == "point":
            _append(points, (one, other))
            continue
        loop = loops[one]
        if other == len(loop):
            # Back at where the walk round this loop began.
            _append(points, (int(loop[0, 0]), int(loop[0, 1])))
            continue
        _append(points, (int(loop[other, 0]), int(loop[other, 1])))
        waiting.append(("loop", one, other + 1))
        # The edge leads upwards: the lowest channel comes first, so it is put on top.
        for row, column, hole in sorted(channels.get(one, {}).get(other, [])):
            waiting += [("point", row, column), ("loop", hole, 0), ("point", row, column)]
    if len(points) > 1 and points[0] == points[-1]:
        points.pop()
    return np.array(points, dtype=np.float64)


def _append(points: list[tuple[int, int]], point: tuple[int, int]) -> None:
    if not points or points[-1] != point:
        points.append(point)
