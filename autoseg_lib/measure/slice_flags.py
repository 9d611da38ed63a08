"""Reasons to look at one ROI on one slice again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM, Geometry
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.softness import UNSURE_ABOVE, Counts, Floats, softness
from autoseg_lib.measure.training_facts import WHOLE_SHARE, RoiRanges

# What was seen in fewer training scans (slices) than this share is unusual.
UNUSUAL_SHARE = 0.05

# A step from slice to slice is implausible where it is this much larger than the largest of the training scans.
STEP_FACTOR = 1.5


def slice_flags(
    rows: Sequence[SliceMeasurement],
    geometry: Geometry,
    training: RoiRanges,
    soft: tuple[Counts, Counts] | None,
    unsure_above: float | None,
) -> list[list[str]]:
    """Returns the reasons for each slice of one ROI.

    Args:
        rows: of this ROI, one for each slice.
        geometry: the scan's own grid.
        training: what the ROI was like in the training scans.
        soft: (slices,) likely and sure pixels; None where there are none.
        unsure_above: calibrated limit of the softness; None: UNSURE_ABOVE.
    """
    reasons: list[list[str]] = [[] for _ in rows]
    if soft is not None:
        _unsure(reasons, rows, softness(*soft), UNSURE_ABOVE if unsure_above is None else unsure_above)
    if (training.border_share or 0.0) < UNUSUAL_SHARE:
        for reason, row in zip(reasons, rows, strict=True):
            if row.touches_border == "yes":
                reason.append("touches the edge of the image: a part of it may lie outside")
    if training.pieces_share is not None and training.pieces_share < UNUSUAL_SHARE:
        for reason, row in zip(reasons, rows, strict=True):
            largest = row.largest_component_percent
            if largest is not None and largest < 100 * WHOLE_SHARE:
                reason.append(
                    f"lies in {row.components} pieces, the largest holds {largest:.0f} % of it; in the training scans it is one"
                )
    if geometry.has_one_image_per_position:
        if (training.gap_share or 0.0) < UNUSUAL_SHARE:
            _missing(reasons, rows)
        if geometry.spacing_known and geometry.positions_known:
            _jumps(reasons, rows, geometry, training)
    return reasons


def _unsure(reasons: list[list[str]], rows: Sequence[SliceMeasurement], values: Floats, limit: float) -> None:
    for reason, row, value in zip(reasons, rows, values, strict=True):
        if row.pixels and value > limit:
            wide = ""
            if row.area_mm2_low is not None and row.area_mm2_high is not None:
                wide = f" ({row.area_mm2_low:.1f} to {row.area_mm2_high:.1f} mm²)"
            reason.append(f"the error bar is wide{wide}: the model is unsure of the outline")


def _missing(reasons: list[list[str]], rows: Sequence[SliceMeasurement]) -> None:
    found = [k for k, row in enumerate(rows) if row.pixels]
    for before, after in pairwise(found):
        for k in range(before + 1, after):
            numbers = f"{rows[before].slice_number} and {rows[after].slice_number}"
            reasons[k].append(f"missing here, but found on slices {numbers}")


def _jumps(
    reasons: list[list[str]], rows: Sequence[SliceMeasurement], geometry: Geometry, training: RoiRanges
) -> None:
    """Marks, of two neighbours that differ implausibly, the one that fits its other neighbour less."""
    radii = [math.sqrt((row.area_mm2 or 0.0) / math.pi) for row in rows]
    gaps = np.abs(np.diff(geometry.positions_mm))
    for k, gap in enumerate(gaps):
        if not (rows[k].pixels and rows[k + 1].pixels) or gap < SAME_PLACE_TOLERANCE_MM:
            continue
        change = abs(radii[k + 1] - radii[k])
        shift = _shift_mm(rows[k], rows[k + 1], float(gap))
        odd, other = (
            (k, k + 1) if _strangeness(radii, k, k - 1) > _strangeness(radii, k + 1, k + 2) else (k + 1, k)
        )
        if training.step is not None and change > STEP_FACTOR * training.step * gap:
            _once(
                reasons[odd],
                f"implausible jump: {rows[odd].area_mm2:.1f} mm² here, {rows[other].area_mm2:.1f} mm² on slice "
                f"{rows[other].slice_number}, {gap:.1f} mm away",
            )
            continue
        # Circles of both areas, moved as far as in any training scan, do not meet.
        reach = radii[k] + radii[k + 1] + STEP_FACTOR * (training.shift_mm or 0.0)
        if training.shift_mm is not None and shift is not None and shift > reach:
            _once(
                reasons[odd], f"lies {shift:.0f} mm away from where it is on slice {rows[other].slice_number}"
            )


def _once(reasons: list[str], text: str) -> None:
    """A slice that fits neither neighbour is told of once."""
    if not any(reason.startswith(text.split()[0]) for reason in reasons):
        reasons.append(text)


def _strangeness(radii: Sequence[float], k: int, neighbour: int) -> float:
    """How much a slice differs from its neighbour on the far side; 0 where there is none or it does not show the ROI."""
    there = 0 <= neighbour < len(radii) and radii[neighbour] > 0
    return abs(radii[k] - radii[neighbour]) if there else 0.0


def _shift_mm(row: SliceMeasurement, following: SliceMeasurement, gap: float) -> float | None:
    """How far the middle moves within the plane."""
    ends = [(each.centroid_x_mm, each.centroid_y_mm, each.centroid_z_mm) for each in (row, following)]
    if any(value is None for point in ends for value in point):
        return None
    way = np.array(ends[0], dtype=float) - np.array(ends[1], dtype=float)
    return math.sqrt(max(0.0, float(way @ way) - gap**2))
