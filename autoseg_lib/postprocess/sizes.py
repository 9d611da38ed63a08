"""Sizes and distances of parts of a mask in mm, from the scan's own grid; refused where the grid does not know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import STRAIGHT_DEGREES, Geometry

Labels = npt.NDArray[np.unsignedinteger]
Where = npt.NDArray[np.bool_]
Per = Literal["scan", "slice"]
Box = tuple[slice, slice, slice]

# Rounding of decimal text in headers must not decide whether a pixel is 2.0 mm away: far below any pixel's size.
_ROUNDING_MM = 1e-6


def why_no_mm2(geometry: Geometry) -> str:
    """Returns why areas and distances within slices are unknown; "" where they are known."""
    return "" if geometry.spacing_known else "the scan has no pixel spacing"


def why_no_mm3(geometry: Geometry) -> str:
    """Returns why volumes are unknown; "" where they are known."""
    if not geometry.spacing_known:
        return "the scan has no pixel spacing"
    if not geometry.has_one_image_per_position:
        return "the scan has several images at one position"
    return "" if geometry.positions_known else "the distances between the slices are unknown"


def require_mm(geometry: Geometry, per: Per, step: str, option: str) -> None:
    """Refuses a step in mm where the scan does not know its millimetres.

    Args:
        geometry: the scan's own grid.
        per: "slice" needs the spacing of rows and columns, "scan" the distances of the slices, too.
        step: name of the step, for the message.
        option: the step's option that is in mm.

    Raises:
        GeometryError: they are unknown.
    """
    reason = why_no_mm2(geometry) if per == "slice" else why_no_mm3(geometry)
    if not reason:
        return
    advice = "Take the step out of the post-processing for this scan"
    if not geometry.spacing_known:
        advice = "Fill in fov and matrix_size (from the scan protocol) in Settings, or take the step out"
    elif per == "scan":
        advice += ', or let it work slice by slice (per = "slice", or a size in mm²)'
    raise GeometryError(f"post-processing step '{step}': {option} is in mm, and {reason}. {advice}.")


def pixel_sizes(geometry: Geometry, per: Per) -> tuple[npt.NDArray[np.float64], str]:
    """Returns what a pixel of each slice counts, and the unit of it.

    Args:
        geometry: the scan's own grid.
        per: "slice" counts areas, "scan" volumes.

    Returns:
        (slices,) mm² or mm³; ones, and "pixels", where these are unknown.
    """
    count = geometry.shape_zyx[0]
    if per == "slice" and not why_no_mm2(geometry):
        return np.full(count, geometry.pixel_area_mm2), "mm²"
    if per == "scan" and not why_no_mm3(geometry):
        return geometry.slice_extents_mm * geometry.pixel_area_mm2, "mm³"
    return np.ones(count), "pixels"


def size_text(size: float, unit: str) -> str:
    """Returns "2.1 ml", "31 mm³", "12.5 mm²" or "7 pixels"."""
    if unit == "mm³":
        return f"{size / 1000:.1f} ml" if size >= 100 else f"{size:.3g} mm³"
    if unit == "mm²":
        return f"{size:.1f} mm²"
    return f"{size:.0f} {'pixel' if round(size) == 1 else 'pixels'}"


def box_of(where: Where) -> Box | None:
    """Returns the smallest box that holds all True pixels; None without any."""
    ends: list[slice] = []
    for axis in range(3):
        hits = np.flatnonzero(where.any(axis=tuple(other for other in range(3) if other != axis)))
        if hits.size == 0:
            return None
        ends.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return ends[0], ends[1], ends[2]


def grown_box(box: Box, reach: Sequence[int], shape: Sequence[int]) -> Box:
    """Returns a box with ``reach`` more pixels on each side, within the scan."""
    ends = [
        slice(max(0, side.start - more), min(size, side.stop + more))
        for side, more, size in zip(box, reach, shape, strict=True)
    ]
    return ends[0], ends[1], ends[2]


def require_straight(geometry: Geometry, per: Per, step: str) -> None:
    """Refuses to work in mm across slices that a tilted gantry has moved against each other.

    Raises:
        GeometryError: the slices are tilted.
    """
    if per == "scan" and geometry.shape_zyx[0] > 1 and geometry.shear_degrees > STRAIGHT_DEGREES:
        raise GeometryError(
            f"post-processing step '{step}': the scan's gantry was tilted by {geometry.shear_degrees:.1f} degrees, so its slices "
            'do not lie straight above each other. Let the step work slice by slice (per = "slice"), or take it out.'
        )


def near(where: Where, margin_mm: float, geometry: Geometry, per: Per) -> Where:
    """Returns which pixels lie within ``margin_mm`` of a True pixel, centre to centre.

    Slices may be unevenly spaced: within each slice distances are worked out exactly, and those to other slices from the
    slices' positions.

    Args:
        where: (slice, row, column).
        margin_mm: 0 gives ``where`` back.
        geometry: the scan's own grid, straight where ``per`` is "scan" (see require_straight).
        per: "slice" looks within each slice alone.
    """
    if margin_mm <= 0:
        return where.copy()
    from scipy import ndimage

    box = box_of(where)
    result = np.zeros_like(where)
    if box is None:
        return result
    rows, columns = geometry.spacing_zyx_mm[1:]
    reach = (0, int(np.ceil(margin_mm / rows)), int(np.ceil(margin_mm / columns)))
    _, in_rows, in_columns = grown_box(box, reach, where.shape)
    positions, limit = geometry.positions_mm, (margin_mm + _ROUNDING_MM) ** 2
    for k in range(box[0].start, box[0].stop):
        if not where[k].any():
            continue
        part = where[k, in_rows, in_columns]
        squared = ndimage.distance_transform_edt(~part, sampling=(rows, columns)) ** 2
        steps = (positions - positions[k]) ** 2
        others = [k] if per == "slice" else np.flatnonzero(steps <= limit)
        for other in others:
            result[other, in_rows, in_columns] |= squared + steps[other] <= limit
    return result
