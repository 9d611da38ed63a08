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

from autoseg_lib.geometry import FloatArray
from autoseg_lib.measure.frame import Frame

# Two lines as long as each other but for rounding: the one with the longer perpendicular counts.
_SAME_LENGTH = 1 - 1e-9
# Up to so many points all pairs are compared at once (32 MB); more go through their convex hull first.
_FEW_POINTS = 2000


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


def longest_in_plane(contours: Sequence[npt.NDArray[np.int32]], plane: FloatArray) -> Diameters | None:
    """Returns the longest diameter over all parts of an ROI on one slice; None where there is no part.

    Args:
        contours: the outer contours of its parts (``outer_contours``).
        plane: (2, 2) steps of a row and a column in mm.
    """
    best: Diameters | None = None
    for contour in contours:
        extent = contour.max(axis=0) - contour.min(axis=0)
        reach = float(np.abs(extent[::-1]) @ np.linalg.norm(plane, axis=1)) if best else np.inf
        if best is None or reach > best.longest_mm:
            found = _of_hull(cv2.convexHull(contour).reshape(-1, 2)[:, ::-1].astype(np.float64), plane)
            if best is None or found.longest_mm > best.longest_mm:
                best = found
    return best


def _of_hull(hull: FloatArray, plane: FloatArray) -> Diameters:
    """Returns the diameters of a convex outline of (row, column) corners in order."""
    points = hull @ plane
    apart = points[:, None] - points[None]
    squared = np.einsum("ijk,ijk->ij", apart, apart)
    longest = float(squared.max())
    if longest == 0:
        return Diameters(0.0, 0.0, hull[[0, 0]], hull[[0, 0]])
    pairs = [(i, j) for i, j in np.argwhere(squared >= longest * _SAME_LENGTH) if i < j]
    lines = [(_perpendicular(points, points[j] - points[i]), i, j) for i, j in pairs]
    (width, ends), first, second = max(lines, key=lambda line: line[0][0])
    return Diameters(
        float(np.sqrt(longest)), width, hull[[first, second]], np.asarray(ends @ np.linalg.inv(plane))
    )


def _perpendicular(points: FloatArray, direction: FloatArray) -> tuple[float, FloatArray]:
    """Returns the longest chord of a convex outline at right angles to ``direction``, and its ends.

    The chord's length changes linearly between two corners, so the longest one starts at a corner.
    """
    along = direction / np.linalg.norm(direction)
    across = np.array([-along[1], along[0]])
    place, height = points @ along, points @ across
    begin, rise = np.minimum(place, np.roll(place, -1)), np.roll(place, -1) - place
    end = begin + np.abs(rise)
    flat = np.abs(rise) < 1e-7
    share = np.clip((place[:, None] - place[None]) / np.where(flat, 1.0, rise), 0, 1)
    there = height + share * (np.roll(height, -1) - height)
    # Rounding must not push a corner off its own edge; an edge along the chord is met by its neighbours.
    meets = (place[:, None] >= begin - 1e-9) & (place[:, None] <= end + 1e-9) & ~flat
    top = np.where(meets, there, -np.inf).max(axis=1)
    bottom = np.where(meets, there, np.inf).min(axis=1)
    widest = int(np.argmax(top - bottom))
    low, high = float(bottom[widest]), float(top[widest])
    return max(0.0, high - low), place[widest] * along + np.array([[low], [high]]) * across


def ends_text(ends: FloatArray) -> str:
    """Returns ends as "row,column row,column", to a tenth of a pixel."""
    return " ".join(",".join(f"{round(float(value), 1) + 0.0:g}" for value in end) for end in ends)


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
    both = np.concatenate([np.stack([z, y, first], axis=1), np.stack([z, y, last], axis=1)])
    return np.unique(both, axis=0).astype(np.float64)


def _longest(points: FloatArray) -> float:
    if len(points) > _FEW_POINTS:
        # All in one plane or on one line, it has no hull: then all points are compared below.
        with suppress(QhullError):
            points = points[ConvexHull(points).vertices]
    return max(float(np.sqrt(((points - point) ** 2).sum(axis=1).max())) for point in points)
