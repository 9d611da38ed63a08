"""Longest diameters, in the plane with their perpendicular (as RECIST 1.1 measures a lesion) and in space.

Lines run from pixel centre to pixel centre, as in ITK's Feret diameter; both ends lie in one part that hangs together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from autoseg_lib.geometry import FloatArray
from autoseg_lib.measure.frame import Frame, InPlane

# Two lines as long as each other but for rounding: the one with the longer perpendicular counts.
_SAME_LENGTH = 1 - 1e-9
# More points than this go through their convex hull first; up to the larger number all pairs are compared at once (64 MB).
_FEW_POINTS = 100
_MANY_POINTS = 4000


@dataclass(frozen=True)
class Diameters:
    """The longest line of an ROI on a slice, and the longest at right angles to it.

    Attributes:
        longest_mm: length of the longest line between two pixel centres.
        perpendicular_mm: longest line at right angles to it inside the convex outline of that part.
        ends: (2, 2) row and column of its ends.
        perpendicular_ends: (2, 2) likewise; one end lies between two pixels as a rule.
    """

    longest_mm: float
    perpendicular_mm: float
    ends: FloatArray
    perpendicular_ends: FloatArray


def outer_contours(inside: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.int32]]:
    """Returns the outer contour of every part that hangs together (8 neighbours), each (points, 2) as column, row."""
    contours, tree = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return []
    parents = np.asarray(tree).reshape(-1, 4)[:, 3]
    return [
        np.asarray(line, np.int32).reshape(-1, 2)
        for line, parent in zip(contours, parents, strict=True)
        if parent < 0
    ]


def longest_in_plane(contours: Sequence[npt.NDArray[np.int32]], plane: InPlane) -> Diameters | None:
    """Returns the longest diameter over all parts of an ROI on one slice; None where there is no part.

    Args:
        contours: the outer contours of its parts (``outer_contours``).
        plane: the pixels in mm.
    """
    best: Diameters | None = None
    for contour in contours:
        # A part whose box is too small for a longer line is not looked at: noise can be hundreds of specks.
        if best is not None:
            columns, rows = (contour.max(axis=0) - contour.min(axis=0)).tolist()
            if rows * plane.lengths_mm[0] + columns * plane.lengths_mm[1] <= best.longest_mm:
                continue
        found = _of_hull(cv2.convexHull(contour).reshape(-1, 2)[:, ::-1].astype(np.float64), plane)
        if best is None or found.longest_mm > best.longest_mm:
            best = found
    return best


def _of_hull(hull: FloatArray, plane: InPlane) -> Diameters:
    """Returns the diameters of a convex outline of (row, column) corners in order."""
    points = hull @ plane.steps
    x, y = points[:, 0], points[:, 1]
    squared = np.subtract.outer(x, x) ** 2 + np.subtract.outer(y, y) ** 2
    longest = float(squared.max())
    if longest == 0:
        return Diameters(0.0, 0.0, hull[[0, 0]], hull[[0, 0]])
    first, second = np.nonzero(squared >= longest * _SAME_LENGTH)
    best: tuple[float, FloatArray, list[int]] | None = None
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if i < j:
            width, ends = _perpendicular(points, points[j] - points[i])
            if best is None or width > best[0]:
                best = (width, ends, [i, j])
    if best is None:
        return Diameters(0.0, 0.0, hull[[0, 0]], hull[[0, 0]])
    return Diameters(float(np.sqrt(longest)), best[0], hull[best[2]], best[1] @ plane.inverse)


def _perpendicular(points: FloatArray, direction: FloatArray) -> tuple[float, FloatArray]:
    """Returns the longest chord of a convex outline at right angles to ``direction``, and its ends.

    The chord's length changes linearly between two corners, so the longest one starts at a corner.
    """
    along = direction / np.sqrt(direction @ direction)
    across = np.array([-along[1], along[0]])
    place, height = points @ along, points @ across
    start, turn = int(place.argmin()), int(place.argmax())
    # The two sides of the outline between its ends, both from the lower end to the upper.
    count = len(points)
    one = np.arange(start, turn + 1 + (count if turn < start else 0)) % count
    other = np.arange(start + (count if start < turn else 0), turn - 1, -1) % count
    on_one = np.interp(place, place[one], height[one])
    on_other = np.interp(place, place[other], height[other])
    apart = np.abs(on_one - on_other)
    # Between parallel sides all chords are as long: the one nearest the middle is shown.
    off_middle = np.abs(place - (place[start] + place[turn]) / 2)
    widest = int(np.where(apart >= apart.max() * _SAME_LENGTH, off_middle, np.inf).argmin())
    ends = np.array([[on_one[widest]], [on_other[widest]]])
    return float(apart[widest]), place[widest] * along + ends * across


def ends_text(ends: FloatArray) -> str:
    """Returns ends as "row,column row,column", to a tenth of a pixel, the upper (then left) one first."""
    (first, second) = sorted(ends.tolist())
    return f"{_tenth(first[0])},{_tenth(first[1])} {_tenth(second[0])},{_tenth(second[1])}"


def _tenth(value: float) -> str:
    text = f"{value + 1e-9:.1f}"
    return text[:-2] if text.endswith(".0") else text


def longest_in_space_mm(
    parts: npt.NDArray[np.integer], number: int, start_zyx: Sequence[int], frame: Frame
) -> float:
    """Returns the longest line between two pixel centres of one part of an ROI, in space.

    Args:
        parts: (slices, rows, columns) number of each part from 1, 0 outside, as ``ndimage.label`` gives them.
        number: how many parts there are.
        start_zyx: index of the array's first pixel in the scan.
        frame: where the scan's pixels lie.
    """
    best = 0.0
    boxes = ndimage.find_objects(parts, number)
    reaches = []
    for value, box in enumerate(boxes, start=1):
        low = [part.start + first for part, first in zip(box, start_zyx, strict=True)]
        high = [part.stop - 1 + first for part, first in zip(box, start_zyx, strict=True)]
        corners = np.array(
            [[z, y, x] for z in (low[0], high[0]) for y in (low[1], high[1]) for x in (low[2], high[2])]
        )
        placed = frame.points_xyz_mm(corners.astype(np.float64))
        reaches.append((_longest(placed), value, box, low))
    for reach, value, box, low in sorted(reaches, key=lambda item: -item[0]):
        if reach <= best:
            break
        best = max(best, _longest(frame.points_xyz_mm(_row_ends(parts[box] == value) + np.array(low))))
    return best


def _row_ends(inside: npt.NDArray[np.bool_]) -> FloatArray:
    """Returns the (n, 3) first and last pixel of every row: no other pixel can end a longest line."""
    z, y = np.nonzero(inside.any(axis=2))
    rows = inside[z, y]
    first, last = rows.argmax(axis=1), inside.shape[2] - 1 - rows[:, ::-1].argmax(axis=1)
    wide = last > first
    ends = [np.stack([z, y, first], axis=1), np.stack([z[wide], y[wide], last[wide]], axis=1)]
    return np.concatenate(ends).astype(np.float64)


def _longest(points: FloatArray) -> float:
    if len(points) > _FEW_POINTS:
        # All in one plane or on one line, it has no hull: then all points are compared below.
        with suppress(QhullError):
            points = points[ConvexHull(points).vertices]
    if len(points) <= _MANY_POINTS:
        return float(pdist(points).max(initial=0.0))
    return max(float(np.sqrt(((points - point) ** 2).sum(axis=1).max())) for point in points)
