"""One slice: shape and grey values of all its ROIs, looking only at the part of the picture that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.measure.boundary import outline_length_mm
from autoseg_lib.measure.diameters import ends_text, longest_in_plane, outer_contours
from autoseg_lib.measure.frame import InPlane
from autoseg_lib.measure.grey_values import measure_grey_values

Plane = npt.NDArray[np.generic]


def measure_plane(
    values: npt.NDArray[np.unsignedinteger],
    count: int,
    plane: InPlane | None,
    grey: Plane | None = None,
    fat: Plane | None = None,
    window: tuple[float, float] | None = None,
) -> dict[int, dict[str, Any]]:
    """Measures the ROIs of one slice.

    Args:
        values: (rows, columns) label values from 0 to ``count``.
        count: number of ROIs.
        plane: the pixels in mm; None where unknown: lengths stay empty.
        grey: (rows, columns) the picture, or None.
        fat: its fat image, or None.
        window: lowest and highest grey value of the tissue, or None.

    Returns:
        label value → columns of measurements.csv, for the ROIs that are there.
    """
    place = np.flatnonzero(values != 0)
    if not place.size:
        return {}
    height, width = values.shape
    found = values.ravel()[place]
    # Pixels in order of label: each ROI is one stretch, its rows rising. One or two bytes are sorted by counting.
    order = np.argsort(found, kind="stable")
    row, column = np.divmod(place[order], width)
    pixels = np.bincount(found, minlength=count + 1)
    there = np.flatnonzero(pixels)
    starts = np.concatenate([[0], np.cumsum(pixels[there])[:-1]])
    stops = np.concatenate([starts[1:], [len(row)]])
    rows, columns = (
        np.add.reduceat(row, starts) / pixels[there],
        np.add.reduceat(column, starts) / pixels[there],
    )
    left, right = np.minimum.reduceat(column, starts), np.maximum.reduceat(column, starts) + 1
    top, bottom = row[starts], row[stops - 1] + 1
    pictures = [None if picture is None else picture.ravel()[place] for picture in (grey, fat)]
    greys = measure_grey_values(found.astype(np.intp), pictures[0], pictures[1], window, count + 1)
    result: dict[int, dict[str, Any]] = {}
    for number, value in enumerate(there.tolist()):
        box = (slice(int(top[number]), int(bottom[number])), slice(int(left[number]), int(right[number])))
        ends_at = (box[0].start, box[1].start, height - box[0].stop, width - box[1].stop)
        result[value] = {
            "centroid_row": float(rows[number]),
            "centroid_column": float(columns[number]),
            "intensity_mean": _known(greys.mean[value]),
            "intensity_sd": _known(greys.deviation[value]),
            "in_window_percent": _known(greys.in_window_percent[value]),
            "fat_fraction_percent": _known(greys.fat_percent[value]),
            "touches_border": "yes" if 0 in ends_at else "no",
            **_shape((values[box] == value).view(np.uint8), plane, box[0].start, box[1].start),
        }
    return result


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _shape(inside: npt.NDArray[np.uint8], plane: InPlane | None, top: int, left: int) -> dict[str, Any]:
    """Measures the shape of one ROI, cut out at (top, left)."""
    contours = outer_contours(inside)
    columns: dict[str, Any] = {"components": len(contours)}
    if plane is None:
        return columns
    corner = np.array([top, left])
    found = longest_in_plane(contours, plane)
    if found is not None:
        columns |= {
            "diameter_mm": found.longest_mm,
            "diameter_perpendicular_mm": found.perpendicular_mm,
            "diameter_ends": ends_text(found.ends + corner),
            "diameter_perpendicular_ends": ends_text(found.perpendicular_ends + corner),
        }
    return {"perimeter_mm": outline_length_mm(inside, plane), **columns}
