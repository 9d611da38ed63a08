"""One slice: shape and grey values of all its ROIs, looking only at the part of the picture that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.geometry import FloatArray
from autoseg_lib.measure.boundary import outline_length_mm
from autoseg_lib.measure.diameters import ends_text, longest_in_plane, outer_contours
from autoseg_lib.measure.grey_values import measure_grey_values

Plane = npt.NDArray[np.generic]


def measure_plane(
    values: npt.NDArray[np.unsignedinteger],
    count: int,
    plane: FloatArray | None,
    grey: Plane | None = None,
    fat: Plane | None = None,
    window: tuple[float, float] | None = None,
) -> dict[int, dict[str, Any]]:
    """Measures the ROIs of one slice.

    Args:
        values: (rows, columns) label values from 0 to ``count``.
        count: number of ROIs.
        plane: (2, 2) steps of a row and a column in mm; None where unknown: lengths stay empty.
        grey: (rows, columns) the picture, or None.
        fat: its fat image, or None.
        window: lowest and highest grey value of the tissue, or None.

    Returns:
        label value → columns of measurements.csv, for the ROIs that are there.
    """
    place = np.flatnonzero(values)
    if not place.size:
        return {}
    height, width = values.shape
    found = values.ravel()[place].astype(np.intp)
    pixels = np.bincount(found, minlength=count + 1)
    row, column = np.divmod(place, width)
    # No pixel at all gives nan, which no ROI that is there has.
    with np.errstate(invalid="ignore"):
        rows = np.bincount(found, row, count + 1) / pixels
        columns = np.bincount(found, column, count + 1) / pixels
    pictures = [None if picture is None else picture.ravel()[place] for picture in (grey, fat)]
    greys = measure_grey_values(found, pictures[0], pictures[1], window, count + 1)
    # The boxes are looked for between the first and the last row that has anything.
    top, bottom = int(row[0]), int(row[-1]) + 1
    result: dict[int, dict[str, Any]] = {}
    for value, box in enumerate(ndimage.find_objects(values[top:bottom], count), start=1):
        if box is None:
            continue
        box = (slice(box[0].start + top, box[0].stop + top), box[1])
        ends_at = (box[0].start, box[1].start, height - box[0].stop, width - box[1].stop)
        result[value] = {
            "centroid_row": float(rows[value]),
            "centroid_column": float(columns[value]),
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


def _shape(inside: npt.NDArray[np.uint8], plane: FloatArray | None, top: int, left: int) -> dict[str, Any]:
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
