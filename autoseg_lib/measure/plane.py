"""One slice: shape and grey values of all its ROIs, looking only at the part of the picture that holds them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.geometry import FloatArray
from autoseg_lib.measure.boundary import outline_lengths_mm
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
    row, column = (values != 0).nonzero()
    if not row.size:
        return {}
    height, width = values.shape
    found = values[row, column]
    # Pixels in order of label: each ROI is one stretch, its rows rising. One or two bytes are sorted by counting.
    order = np.argsort(found, kind="stable")
    row, column, found = row[order], column[order], found[order]
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
    pictures = [None if picture is None else picture[row, column] for picture in (grey, fat)]
    greys = measure_grey_values(found.astype(np.intp), pictures[0], pictures[1], window, count + 1)
    result: dict[int, dict[str, Any]] = {}
    regions: list[npt.NDArray[np.uint8]] = []
    names = ("intensity_mean", "intensity_sd", "in_window_percent", "fat_fraction_percent")
    figures = [
        _known(values) for values in (greys.mean, greys.deviation, greys.in_window_percent, greys.fat_percent)
    ]
    boxes = zip(top.tolist(), bottom.tolist(), left.tolist(), right.tolist(), strict=True)
    for number, (value, (y0, y1, x0, x1)) in enumerate(zip(there.tolist(), boxes, strict=True)):
        regions.append((values[y0:y1, x0:x1] == value).view(np.uint8))
        edge = y0 == 0 or x0 == 0 or y1 == height or x1 == width
        result[value] = {
            "centroid_row": float(rows[number]),
            "centroid_column": float(columns[number]),
            **{name: figure[value] for name, figure in zip(names, figures, strict=True)},
            "touches_border": "yes" if edge else "no",
            **_shape(regions[-1], plane, y0, x0),
        }
    if plane is not None:
        for columns_of_roi, length in zip(result.values(), outline_lengths_mm(regions, plane), strict=True):
            columns_of_roi["perimeter_mm"] = length
    return result


def _known(values: FloatArray) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _shape(inside: npt.NDArray[np.uint8], plane: InPlane | None, top: int, left: int) -> dict[str, Any]:
    """Measures the shape of one ROI, cut out at (top, left)."""
    contours = outer_contours(inside)
    share = largest_part(inside) if len(contours) > 1 else 1.0
    columns: dict[str, Any] = {"components": len(contours), "largest_component_percent": 100 * share}
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
    return columns


def largest_part(inside: npt.NDArray[np.uint8]) -> float:
    """Returns the share of an ROI's pixels, 0 to 1, in the largest of its parts (8 neighbours)."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]  # the first is what lies around
    return float(sizes.max() / sizes.sum())
