"""Gabor filters: stripes of one width, whichever way they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing
from autoseg_lib.preprocess.operations import Operation, Parameter

# Sigma as a share of the wavelength for a half-response bandwidth of one octave (Petkov and Kruizinga 1997).
SIGMA_SHARE = 0.56
# A Gaussian is cut off at so many standard deviations.
_REACH = 3.0
# No kernel reaches further than this, whatever a file asks for.
_LARGEST_RADIUS_PX = 64

GABOR = Operation(
    "gabor",
    "before",
    "Size of the answer to stripes wavelength_mm apart, within the slice; of several angles the largest. A wave of "
    "that length and angle gives its own amplitude, a flat image 0.",
    (
        Parameter(
            "wavelength_mm", "number", "distance of two stripes", 8.0, unit="mm", low=0, high=200, above=True
        ),
        Parameter(
            "angles",
            "numbers",
            "directions across the stripes: 0 along a row, 90 along a column",
            (0.0, 45.0, 90.0, 135.0),
            unit="degrees",
            low=-360,
            high=360,
            single=True,
        ),
    ),
    {"filter": "gabor", "wavelength_mm": 8.0, "angles": [0.0, 45.0, 90.0, 135.0]},
    source="Gabor 1946; bandwidth: Petkov and Kruizinga 1997",
)


def gabor_problems(parameters: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with parameters that are each fine by themselves."""
    if np.size(parameters["angles"]) == 0:
        return ["angles = []: at least one direction is expected; leave angles out for the four usual ones"]
    return []


def gabor(
    pixels: FloatPixels,
    spacing_zyx_mm: Spacing,
    planes: bool,
    *,
    wavelength_mm: float,
    angles: float | Sequence[float],
) -> FloatPixels:
    """Returns the largest amplitude over the angles, slice by slice.

    Args:
        pixels: (slice, row, column).
        spacing_zyx_mm: distances of slices, rows, columns.
        planes: not used: stripes are looked for within slices.
        wavelength_mm: distance of two stripes.
        angles: directions across the stripes, in degrees from the row's direction towards the column's.
    """
    from scipy import signal  # takes a second to import

    result = np.zeros(pixels.shape, np.float32)
    for angle in np.atleast_1d(np.asarray(angles, dtype=float)):
        kernel = gabor_kernel(wavelength_mm, float(angle), spacing_zyx_mm[1:])
        down, right = (n // 2 for n in kernel.shape)
        for plane, best in zip(pixels, result, strict=True):
            padded = np.pad(plane, ((down, down), (right, right)), mode="edge")
            # The answer to a wave of amplitude 1 is a half for each of its two directions; 2 makes it 1.
            answer = 2 * np.abs(signal.fftconvolve(padded, kernel, mode="valid"))
            np.maximum(best, answer.astype(np.float32), out=best)
    return result


def gabor_kernel(
    wavelength_mm: float, angle: float, spacing_mm: Sequence[float]
) -> npt.NDArray[np.complex128]:
    """Returns the (row, column) kernel: a wave under a Gaussian of sum 1, without answer to a flat image.

    Args:
        wavelength_mm: of the wave.
        angle: in degrees, from the row's direction towards the column's.
        spacing_mm: of rows and of columns.
    """
    sigma = SIGMA_SHARE * wavelength_mm
    down, right = (min(_LARGEST_RADIUS_PX, max(1, round(_REACH * sigma / step))) for step in spacing_mm)
    y = np.arange(-down, down + 1)[:, None] * spacing_mm[0]
    x = np.arange(-right, right + 1)[None, :] * spacing_mm[1]
    bell = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    bell /= bell.sum()
    turn = np.radians(angle)
    wave = np.exp(2j * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / wavelength_mm)
    kernel = bell * wave
    return np.asarray(kernel - bell * kernel.sum(), dtype=np.complex128)
