"""The mean over a neighbourhood."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing, window_px
from autoseg_lib.preprocess.operations import Operation, Parameter

MEAN = Operation(
    "mean",
    "before",
    "The mean over a box of size_mm: coarse structure without noise.",
    (Parameter("size_mm", "number", "side of the box", 5.0, unit="mm", low=0, high=200, above=True),),
    {"filter": "mean", "size_mm": 5.0},
)


def mean(pixels: FloatPixels, spacing_zyx_mm: Spacing, planes: bool, *, size_mm: float) -> FloatPixels:
    """Returns the mean over a box; beyond the edge the edge's value goes on.

    Args:
        pixels: (slice, row, column).
        spacing_zyx_mm: distances of slices, rows, columns.
        planes: whether each slice is filtered by itself.
        size_mm: side of the box; the nearest odd number of pixels is taken.
    """
    # Sums in double precision: running sums of many float32 values drift.
    result = ndimage.uniform_filter(
        pixels.astype(np.float64), window_px(size_mm, spacing_zyx_mm, planes), mode="nearest"
    )
    return np.asarray(result, dtype=np.float32)
