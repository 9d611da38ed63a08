"""One band of an undecimated wavelet transform. Coefficients come from PyWavelets (extra "filters")."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.errors import ModelError
from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing
from autoseg_lib.preprocess.operations import Operation, Parameter

# Orthogonal and near-symmetric families of PyWavelets with short kernels.
FAMILIES = ("haar", "db2", "db3", "db4", "sym4", "coif1", "bior2.2")
_MOST_LEVELS = 6

WAVELET = Operation(
    "wavelet",
    "before",
    "One band of an undecimated wavelet transform within the slice. H: detail, L: what remains, first down the rows, then "
    'along the columns. Needs the optional packages of the extra "filters".',
    (
        Parameter("band", "choice", "which band", "HH", choices=("LL", "LH", "HL", "HH")),
        Parameter(
            "scale_mm",
            "number",
            "size of the detail; the level with the nearest power of two of pixels is taken",
            4.0,
            unit="mm",
            low=0,
            high=200,
            above=True,
        ),
        Parameter("family", "choice", "which wavelet", "haar", choices=FAMILIES),
    ),
    {"filter": "wavelet", "band": "HL", "scale_mm": 4.0, "family": "haar"},
    source="Mallat 1989; Holschneider et al. 1989 (undecimated)",
)


def wavelet(
    pixels: FloatPixels, spacing_zyx_mm: Spacing, planes: bool, *, band: str, scale_mm: float, family: str
) -> FloatPixels:
    """Returns one band, slice by slice; beyond the edge the image is mirrored.

    Args:
        pixels: (slice, row, column).
        spacing_zyx_mm: distances of slices, rows, columns.
        planes: not used: bands are those within slices.
        band: letters for rows and columns.
        scale_mm: size of the detail.
        family: PyWavelets' name.

    Raises:
        ModelError: PyWavelets is not installed.
    """
    wanted = _pywavelets().Wavelet(family)
    # Both kernels of unit gain: a constant image stays what it is, band after band.
    kernels = {"L": np.array(wanted.dec_lo) / math.sqrt(2), "H": np.array(wanted.dec_hi) / math.sqrt(2)}
    last = level_of(scale_mm, math.sqrt(spacing_zyx_mm[1] * spacing_zyx_mm[2]))
    values = pixels.astype(np.float64)
    for level in range(1, last + 1):
        letters = band if level == last else "LL"
        for axis, letter in ((1, letters[0]), (2, letters[1])):
            values = _filtered(values, kernels[letter], axis, 2 ** (level - 1))
    return np.asarray(values, dtype=np.float32)


def level_of(scale_mm: float, spacing_mm: float) -> int:
    """Returns the level whose detail, 2 to the power of the level pixels, comes nearest to ``scale_mm``."""
    return int(np.clip(round(math.log2(max(scale_mm / spacing_mm, 1e-6))), 1, _MOST_LEVELS))


def _filtered(
    values: npt.NDArray[np.float64], kernel: npt.NDArray[np.float64], axis: int, step: int
) -> npt.NDArray[np.float64]:
    taps = np.zeros((len(kernel) - 1) * step + 1)
    taps[::step] = kernel
    # Centred on the tap that PyWavelets' stationary transform is centred on (len // 2 steps in); even kernels have no middle.
    middle = len(kernel) // 2 * step
    padded = np.pad(
        values, [(len(taps), len(taps)) if a == axis else (0, 0) for a in range(3)], mode="symmetric"
    )
    full = ndimage.convolve1d(padded, taps, axis=axis, mode="nearest", origin=0)
    # scipy's convolution gives the sum over j of taps[j] * values[n + c - j], c the middle of all taps.
    start = len(taps) + middle - len(taps) // 2
    part = [slice(None)] * 3
    part[axis] = slice(start, start + values.shape[axis])
    return np.asarray(full[tuple(part)], dtype=np.float64)


def _pywavelets() -> Any:
    try:
        import pywt
    except ImportError:
        raise ModelError(
            "the filter 'wavelet' needs PyWavelets, which is not installed. Install the optional packages once: "
            'python -m pip install "autoseg-workbench[filters]", or leave this channel out.'
        ) from None
    return pywt
