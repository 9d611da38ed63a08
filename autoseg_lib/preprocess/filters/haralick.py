"""Haralick's texture features of the grey-level co-occurrence matrix of the window around each pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError
from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing, radius_px
from autoseg_lib.preprocess.operations import Operation, Parameter

FEATURES = ("contrast", "dissimilarity", "homogeneity", "energy", "entropy", "correlation")
# Grey levels are laid between these percentiles of the slice, so that one bright pixel does not use them all up.
_PERCENTILES = (0.5, 99.5)

HARALICK = Operation(
    "haralick",
    "before",
    "A feature of the grey-level co-occurrence matrix of the window around each pixel, within the slice; pairs in four "
    "directions are counted together, both ways round. energy and entropy take the longest.",
    (
        Parameter("feature", "choice", "which feature", "contrast", choices=FEATURES),
        Parameter("size_mm", "number", "side of the window", 10.0, unit="mm", low=0, high=100, above=True),
        Parameter(
            "distance_mm",
            "number",
            "distance of the two pixels of a pair; null: neighbouring pixels",
            None,
            unit="mm",
            low=0,
            high=50,
            above=True,
            optional=True,
        ),
        Parameter("levels", "whole", "grey levels that are told apart", 8, low=2, high=32),
    ),
    {"filter": "haralick", "feature": "contrast", "size_mm": 10.0, "distance_mm": None, "levels": 8},
    source="Haralick, Shanmugam and Dinstein 1973",
)

Levels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def haralick_problems(parameters: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with parameters that are each fine by themselves."""
    size, distance = parameters["size_mm"], parameters["distance_mm"]
    if distance is not None and distance > size:
        return [
            f"distance_mm = {distance:g} is larger than size_mm = {size:g}, so no pair of pixels lies in the window; "
            "make the distance smaller or the window larger"
        ]
    return []


def haralick(
    pixels: FloatPixels,
    spacing_zyx_mm: Spacing,
    planes: bool,
    *,
    feature: str,
    size_mm: float,
    distance_mm: float | None,
    levels: int,
) -> FloatPixels:
    """Returns the feature for each pixel, slice by slice; at the edge the window is what lies inside the image.

    Args:
        pixels: (slice, row, column).
        spacing_zyx_mm: distances of slices, rows, columns.
        planes: whether grey levels are laid over each slice by itself (2D) or over the scan.
        feature: one of FEATURES.
        size_mm: side of the window.
        distance_mm: distance of the pixels of a pair.
        levels: number of grey levels.

    Raises:
        GeometryError: on this grid no pair of pixels so far apart lies in the window.
    """
    down, right = (radius_px(size_mm, step, 1) for step in spacing_zyx_mm[1:])
    far = [1 if distance_mm is None else max(1, round(distance_mm / step)) for step in spacing_zyx_mm[1:]]
    offsets = [(0, far[1]), (far[0], far[1]), (far[0], 0), (far[0], -far[1])]
    if far[0] > 2 * down and far[1] > 2 * right:
        rows, columns = spacing_zyx_mm[1:]
        raise GeometryError(
            f"haralick: on pixels of {rows:.3g} × {columns:.3g} mm a window of size_mm = {size_mm:g} holds no two pixels that are "
            f"distance_mm = {distance_mm:g} apart. Make the distance smaller or the window larger."
        )
    result = np.empty(pixels.shape, np.float32)
    whole = None if planes else _range(pixels)
    for plane, answer in zip(pixels, result, strict=True):
        grey = quantised(plane, *(whole or _range(plane)), levels)
        answer[:] = _feature(grey, (down, right), offsets, feature, levels)
    return result


def quantised(plane: npt.NDArray[np.floating], low: float, high: float, levels: int) -> Levels:
    """Returns grey levels from 0 to levels - 1, of equal width between ``low`` and ``high``."""
    if high <= low:
        return np.zeros(plane.shape, np.int64)
    share = (plane.astype(np.float64) - low) / (high - low)
    return np.clip((share * levels).astype(np.int64), 0, levels - 1)


def _range(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _feature(
    grey: Levels, radii: tuple[int, int], offsets: list[tuple[int, int]], feature: str, levels: int
) -> Values:
    def total(value_of: Callable[[Levels, Levels], Values]) -> Values:
        """The sum over all pairs in the window, for each pixel."""
        return np.sum([_pair_sum(grey, radii, offset, value_of) for offset in offsets], axis=0)

    pairs = np.maximum(total(lambda a, b: np.ones(a.shape)), 1)
    simple: dict[str, Callable[[Levels, Levels], Values]] = {
        "contrast": lambda a, b: np.square(a - b, dtype=np.float64),
        "dissimilarity": lambda a, b: np.abs(a - b).astype(np.float64),
        "homogeneity": lambda a, b: np.asarray(1.0 / (1.0 + (a - b) ** 2), dtype=np.float64),
    }
    if feature in simple:
        return np.asarray(total(simple[feature]) / pairs)
    if feature == "correlation":
        mean = total(lambda a, b: (a + b) / 2.0) / pairs
        square = total(lambda a, b: (a**2 + b**2) / 2.0) / pairs
        product = total(lambda a, b: (a * b).astype(np.float64)) / pairs
        variance = square - mean**2
        flat = variance < 1e-12  # all of one level: scikit-image calls that a correlation of 1
        return np.where(flat, 1.0, (product - mean**2) / np.where(flat, 1.0, variance))
    result = np.zeros(grey.shape)
    present = np.unique(grey)
    for index, a in enumerate(present):
        for b in present[index:]:
            hits = total(lambda p, q, a=a, b=b: (((p == a) & (q == b)) | ((p == b) & (q == a))).astype(float))  # type: ignore[misc]
            # Counted both ways round: two equal entries of the matrix where the levels differ.
            share = hits / pairs / (1 if a == b else 2)
            times = 1 if a == b else 2
            if feature == "energy":
                result += times * share**2
            else:
                result -= times * share * np.log2(np.maximum(share, 1e-300)) * (share > 0)
    return np.sqrt(result) if feature == "energy" else result


def _pair_sum(
    grey: Levels,
    radii: tuple[int, int],
    offset: tuple[int, int],
    value_of: Callable[[Levels, Levels], Values],
) -> Values:
    """For each pixel: the sum of value_of(pixel, partner) over the pairs that lie in its window."""
    (rows, columns), (dy, dx) = grey.shape, offset
    values = np.zeros(grey.shape)
    if dy < rows and abs(dx) < columns:
        here = grey[: rows - dy, max(0, -dx) : columns - max(0, dx)]
        there = grey[dy:, max(0, dx) : columns - max(0, -dx)]
        values[: rows - dy, max(0, -dx) : columns - max(0, dx)] = value_of(here, there)
    # The first pixel of a pair may lie anywhere in the window from which its partner is still inside.
    low = (-radii[0], -radii[1] + max(0, -dx))
    high = (radii[0] - dy, radii[1] - max(0, dx))
    return _box_sum(values, low, high)


def _box_sum(values: Values, low: tuple[int, int], high: tuple[int, int]) -> Values:
    """For each pixel (y, x): the sum over rows y + low[0] .. y + high[0] and columns x + low[1] .. x + high[1]."""
    if high[0] < low[0] or high[1] < low[1]:
        return np.zeros(values.shape)
    # Beyond the edge there is nothing to add up.
    pads = [(max(0, -a), max(0, b)) for a, b in zip(low, high, strict=True)]
    sums = cv2.integral(np.pad(values, pads), sdepth=cv2.CV_64F)
    rows, columns = (
        [slice(place + pad[0], place + pad[0] + size) for place in (a, b + 1)]
        for a, b, pad, size in zip(low, high, pads, values.shape, strict=True)
    )
    return np.asarray(
        sums[rows[1], columns[1]]
        - sums[rows[0], columns[1]]
        - sums[rows[1], columns[0]]
        + sums[rows[0], columns[0]],
        dtype=np.float64,
    )
