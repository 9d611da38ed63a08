"""Edges and blobs: gradient magnitude (Sobel), Laplacian of Gaussian."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing, axes_of
from autoseg_lib.preprocess.operations import Operation, Parameter

# Below so many pixels a sampled Gaussian's second derivative no longer sums to 0; a plain second difference is then exact.
_SMALLEST_SIGMA_PX = 0.6

SOBEL = Operation(
    "sobel",
    "before",
    "Gradient magnitude by Sobel's kernels, in grey values per mm: where one tissue ends and another begins.",
    (Parameter("sigma_mm", "number", "Gaussian blur before it; 0: none", 0.0, unit="mm", low=0, high=100),),
    {"filter": "sobel", "sigma_mm": 0.0},
    source="Sobel and Feldman 1968",
)

LOG = Operation(
    "log",
    "before",
    "Laplacian of a Gaussian, times sigma²: blobs of about sigma·√2 in radius (3D: √3); bright ones negative.",
    (
        Parameter(
            "sigma_mm",
            "number",
            "standard deviation of the Gaussian",
            2.0,
            unit="mm",
            low=0,
            high=100,
            above=True,
        ),
    ),
    {"filter": "log", "sigma_mm": 2.0},
    source="Marr and Hildreth 1980; scale normalisation: Lindeberg 1998",
)


def sobel(
    pixels: FloatPixels, spacing_zyx_mm: Spacing, planes: bool, *, sigma_mm: float = 0.0
) -> FloatPixels:
    """Returns the length of the gradient in grey values per mm; see ``mean`` for the other arguments.

    Args:
        pixels: (slice, row, column).
        spacing_zyx_mm: distances of slices, rows, columns.
        planes: whether each slice is filtered by itself.
        sigma_mm: blur before it.
    """
    axes = axes_of(planes)
    values = pixels.astype(np.float64)
    if sigma_mm > 0:
        values = _derived(values, spacing_zyx_mm, axes, sigma_mm, {})
    total = np.zeros(pixels.shape)
    for axis in axes:
        if pixels.shape[axis] == 1:
            continue
        slope = ndimage.correlate1d(values, [-0.5, 0.0, 0.5], axis=axis, mode="nearest")
        for other in axes:
            if other != axis:
                slope = ndimage.correlate1d(slope, [0.25, 0.5, 0.25], axis=other, mode="nearest")
        total += (slope / spacing_zyx_mm[axis]) ** 2
    return np.sqrt(total).astype(np.float32)


def log(pixels: FloatPixels, spacing_zyx_mm: Spacing, planes: bool, *, sigma_mm: float) -> FloatPixels:
    """Returns the Laplacian of a Gaussian times sigma²; see ``sobel`` for the arguments."""
    axes = axes_of(planes)
    values = pixels.astype(np.float64)
    total = np.zeros(pixels.shape)
    for axis in axes:
        if pixels.shape[axis] > 1:
            total += _derived(values, spacing_zyx_mm, axes, sigma_mm, {axis: 2})
    return np.asarray(total * sigma_mm**2, dtype=np.float32)


def _derived(
    values: npt.NDArray[np.float64],
    spacing_zyx_mm: Spacing,
    axes: tuple[int, ...],
    sigma_mm: float,
    orders: dict[int, int],
) -> npt.NDArray[np.float64]:
    """Blurs along ``axes``; along those in ``orders`` the second derivative (per mm²) is taken as well."""
    for axis in axes:
        sigma = sigma_mm / spacing_zyx_mm[axis]
        order = orders.get(axis, 0)
        if sigma >= _SMALLEST_SIGMA_PX:
            values = ndimage.gaussian_filter1d(values, sigma, axis=axis, order=order, mode="nearest")
        elif order == 2:
            values = ndimage.correlate1d(values, [1.0, -2.0, 1.0], axis=axis, mode="nearest")
        if order == 2:
            values = values / spacing_zyx_mm[axis] ** 2
    return values
