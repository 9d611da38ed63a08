"""Which part of a scan is worked on: an index box of the scan's own grid.

Because the box lies on the scan's own pixels, cutting it out and laying the answer back moves no pixel at all; what lies
outside is background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.preprocess.body import body_mask
from autoseg_lib.preprocess.operations import Operation, Parameter
from autoseg_lib.volume import Box, Mask, Volume

# A pixel that a box only touches at its edge, but for rounding, is not in it.
_EDGE = 1e-6

CROP = Operation(
    "crop",
    "before",
    "Works on a part of the scan only. What is cropped away is background in the result.",
    (
        Parameter(
            "to",
            "choice",
            'what to keep: "body" (the outline: threshold, every part of at least a tenth of the largest, holes filled), "mask" (the box around a mask '
            'that comes with the scan, see `region_masks` above), "centre" (size_mm around the middle), "box" (box_xyz_mm), "all"',
            "all",
            choices=("all", "body", "mask", "centre", "box"),
        ),
        Parameter("margin_mm", "number", "added on every side", 0.0, unit="mm", low=0, high=1000),
        Parameter(
            "slices",
            "wholes",
            "first and last slice to keep, counted from 1; a last one beyond the scan's means the scan's last",
            None,
            low=1,
            high=1_000_000,
            lengths=(2,),
            optional=True,
        ),
        Parameter(
            "size_mm",
            "numbers",
            '"centre": extent along slices, rows and columns; 0 keeps all along that axis',
            None,
            unit="mm",
            low=0,
            high=10_000,
            lengths=(3,),
            optional=True,
        ),
        Parameter(
            "box_xyz_mm",
            "numbers",
            '"box": x from, x to, y from, y to, z from, z to, in the scanner\'s coordinates (x to the left, y to the back, z to '
            "the head)",
            None,
            unit="mm",
            low=-100_000,
            high=100_000,
            lengths=(6,),
            optional=True,
        ),
        Parameter(
            "threshold",
            "number",
            '"body": grey value above which a pixel is body; null: -500 HU for CT, else Otsu\'s threshold',
            None,
            low=-1e9,
            high=1e9,
            optional=True,
        ),
    ),
    {"to": "body", "margin_mm": 10.0},
    inverse="the labels found are laid into an empty mask of the scan's own grid, at the same pixels",
)


def check_crop(table: Mapping[str, Any]) -> list[str]:
    """Returns what does not go together in a checked table; empty where all is well."""
    problems = []
    for key, to in (("size_mm", "centre"), ("box_xyz_mm", "box")):
        if (table["to"] == to) != (table[key] is not None):
            problems.append(f'crop: to = "{to}" and {key} go together; give both or neither.')
    slices, box = table["slices"], table["box_xyz_mm"]
    if slices is not None and slices[0] > slices[1]:
        problems.append(f"crop: slices = {slices}: the first comes after the last.")
    if box is not None and any(box[2 * axis] >= box[2 * axis + 1] for axis in range(3)):
        problems.append(f'crop: box_xyz_mm = {box}: each "from" must be below its "to".')
    return problems


def without_effect(table: Mapping[str, Any] | None, before: Mapping[str, Any] | None = None) -> list[str]:
    """Returns what somebody typed into a crop that changes nothing; empty where all of it counts.

    Args:
        table: a checked table of CROP, or None.
        before: the one it was edited from; what that says already is nobody's mistake now.
    """
    if table is None:
        return []
    to, idle = table["to"], []
    typed = [key for key in ("margin_mm", "threshold") if before is None or table[key] != before[key]]
    if to == "all" and table["margin_mm"] > 0 and "margin_mm" in typed:
        idle.append(
            f'crop: margin_mm = {table["margin_mm"]:g} changes nothing while to = "all" keeps the whole scan. Say what to crop '
            'to, e.g. to = "body", or leave margin_mm out.'
        )
    if to != "body" and table["threshold"] is not None and "threshold" in typed:
        idle.append(
            f'crop: threshold = {table["threshold"]:g} is only for to = "body", and to = "{to}". Give to = "body", or leave '
            "threshold out."
        )
    return idle


def crop_box(
    volume: Volume, table: Mapping[str, Any], region: Mask | None = None, *, planes: bool = False
) -> Box | None:
    """Returns the box to keep; None where that is the whole scan.

    Args:
        volume: the scan.
        table: a checked table of CROP.
        region: the mask of ``to`` = "mask", on the scan's grid; pixels above 0 count.
        planes: 2D: the body outline is looked for in each slice by itself.

    Raises:
        DataError: the crop asks for a mask and there is none, or for slices that the scan does not have.
        GeometryError: the crop asks for mm, and the scan has none; or nothing of the scan is left.
    """
    geometry, to = volume.geometry, table["to"]
    if to in ("centre", "box") or (to != "all" and table["margin_mm"] > 0):
        _require_mm(geometry, table)
    low, high = np.zeros(3, int), np.array(geometry.shape_zyx)
    if to == "body":
        found = _bounds(body_mask(volume, planes=planes, threshold=table["threshold"]))
        low, high = found or (low, high)
    elif to == "mask":
        low, high = _mask_bounds(geometry, region)
    elif to == "centre":
        low, high = _centre(geometry, table["size_mm"])
    elif to == "box":
        low, high = _world_box(geometry, table["box_xyz_mm"])
    if to != "all":
        low, high = _with_margin(geometry, low, high, table["margin_mm"])
    if table["slices"] is not None:
        first, last = table["slices"]
        if first > geometry.shape_zyx[0]:
            raise DataError(
                f"crop: slices = [{first}, {last}], and the scan has {geometry.shape_zyx[0]}. Correct the slice range."
            )
        low[0], high[0] = max(low[0], first - 1), min(high[0], last)
    if (high <= low).any():
        raise GeometryError("crop: nothing of the scan is left. Correct the crop, or leave it out.")
    if not low.any() and (high == geometry.shape_zyx).all():
        return None
    return (
        slice(int(low[0]), int(high[0])),
        slice(int(low[1]), int(high[1])),
        slice(int(low[2]), int(high[2])),
    )


def _require_mm(geometry: Geometry, table: Mapping[str, Any]) -> None:
    across = table["to"] == "centre" and table["size_mm"][0] > 0 and not geometry.positions_known
    if not geometry.spacing_known or across or (table["to"] == "box" and not geometry.orientation_known):
        raise GeometryError(
            "crop: it is given in mm, and the scan has no pixel spacing or place in the scanner. Fill in fov and matrix_size "
            "(from the scan protocol) in Settings, or crop without mm."
        )


def _bounds(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    low, high = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if hits.size == 0:
            return None
        low[axis], high[axis] = hits[0], hits[-1] + 1
    return low, high


def _mask_bounds(geometry: Geometry, region: Mask | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if region is None:
        raise DataError(
            'crop: to = "mask" needs a mask that comes with the scan, and none was given. Give one, or crop to "body".'
        )
    if not region.geometry.is_same_grid(geometry):
        raise GeometryError("crop: the mask to crop to lies on another grid than the scan.")
    found = _bounds(np.asarray(region.array) > 0)
    if found is None:
        raise DataError("crop: the mask to crop to is empty. Draw what to keep, or leave the crop out.")
    return found


def _centre(geometry: Geometry, size_mm: list[float]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    shape = np.array(geometry.shape_zyx)
    size = np.array(size_mm)
    wanted = np.where(size > 0, np.round(size / np.array(geometry.spacing_zyx_mm)), shape)
    count = np.clip(wanted, 1, shape).astype(int)
    low = (shape - count) // 2
    return low, low + count


def _world_box(geometry: Geometry, box: list[float]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The smallest index box that holds all of a box of the scanner's coordinates, as far as the scan reaches."""
    corners = np.array(np.meshgrid(box[0:2], box[2:4], box[4:6], indexing="ij")).reshape(3, -1).T
    index = (corners - geometry.affine[:3, 3]) @ np.linalg.inv(geometry.affine[:3, :3]).T
    if not geometry.is_even:
        # Slices where they really are; rows and columns do not depend on them unless the gantry is tilted.
        along = corners @ geometry.normal_xyz
        inside = np.flatnonzero(
            (geometry.positions_mm >= along.min()) & (geometry.positions_mm <= along.max())
        )
        index[:, 0] = np.resize(inside[[0, -1]] if inside.size else [-1.0, -1.0], len(index))
    shape = np.array(geometry.shape_zyx)
    low = np.clip(np.ceil(index.min(axis=0) - 0.5 + _EDGE).astype(int), 0, shape)
    high = np.clip(np.floor(index.max(axis=0) + 0.5 - _EDGE).astype(int) + 1, 0, shape)
    return low, high


def _with_margin(
    geometry: Geometry, low: npt.NDArray[Any], high: npt.NDArray[Any], margin_mm: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if margin_mm <= 0:
        return low, high
    shape = np.array(geometry.shape_zyx)
    reach = np.ceil(margin_mm / np.array(geometry.spacing_zyx_mm) - 1e-6).astype(int)
    if not geometry.is_even:
        positions = np.abs(geometry.positions_mm - geometry.positions_mm[0])
        before = positions >= positions[low[0]] - margin_mm
        after = positions <= positions[high[0] - 1] + margin_mm
        inside = np.flatnonzero(before & after)
        start, stop = int(inside[0]), int(inside[-1]) + 1
    else:
        start, stop = int(low[0] - reach[0]), int(high[0] + reach[0])
    if not geometry.positions_known:
        start, stop = int(low[0]), int(high[0])
    low, high = np.maximum(0, low - reach), np.minimum(shape, high + reach)
    low[0], high[0] = max(0, start), min(int(shape[0]), stop)
    return low, high
