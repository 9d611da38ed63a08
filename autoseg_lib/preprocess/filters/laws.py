"""Laws' texture energy: level, edge, spot, wave and ripple along rows and columns."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing, window_px
from autoseg_lib.preprocess.operations import Operation, Parameter

# Laws 1980, each divided by the sum of its absolute values, so that answers stay on the image's scale.
KERNELS = {
    "L5": (1, 4, 6, 4, 1),
    "E5": (-1, -2, 0, 2, 1),
    "S5": (-1, 0, 2, 0, -1),
    "W5": (-1, 2, 0, -2, 1),
    "R5": (1, -4, 6, -4, 1),
}

LAWS = Operation(
    "laws",
    "before",
    "Laws' texture energy within the slice: the image is filtered by one kernel down the rows and one along the columns, and "
    "the other way round; the mean size of both answers over a window is returned.",
    (
        Parameter(
            "kernel",
            "choice",
            "first down the rows, then along the columns: L level, E edge, S spot, W wave, R ripple",
            "E5L5",
            choices=tuple(a + b for a in KERNELS for b in KERNELS if a + b != "L5L5"),
        ),
        Parameter(
            "step_mm",
            "number",
            "distance between the kernel's five places; null: neighbouring pixels",
            None,
            unit="mm",
            low=0,
            high=50,
            above=True,
            optional=True,
        ),
        Parameter("size_mm", "number", "side of the window", 10.0, unit="mm", low=0, high=200, above=True),
    ),
    {"filter": "laws", "kernel": "E5L5", "step_mm": None, "size_mm": 10.0},
    source="Laws 1980, Proc. SPIE 238",
)


def laws(
    pixels: FloatPixels,
    spacing_zyx_mm: Spacing,
    planes: bool,
    *,
    kernel: str,
    step_mm: float | None,
    size_mm: float,
) -> FloatPixels:
    """Returns the texture energy, slice by slice.

    Args:
        pixels: (slice, row, column).
        spacing_zyx_mm: distances of slices, rows, columns.
        planes: not used: textures are looked for within slices.
        kernel: two names of KERNELS, e.g. "E5L5".
        step_mm: distance between the kernel's places, rounded to whole pixels.
        size_mm: side of the window of the mean.
    """
    first, second = kernel[:2], kernel[2:]
    values = pixels.astype(np.float64)
    answer = np.abs(_filtered(values, first, second, spacing_zyx_mm, step_mm))
    if first != second:
        answer = (answer + np.abs(_filtered(values, second, first, spacing_zyx_mm, step_mm))) / 2
    window = window_px(size_mm, spacing_zyx_mm, planes=True)
    return np.asarray(ndimage.uniform_filter(answer, window, mode="nearest"), dtype=np.float32)


def _filtered(
    values: np.ndarray, down: str, along: str, spacing_zyx_mm: Spacing, step_mm: float | None
) -> np.ndarray:
    for axis, name in ((1, down), (2, along)):
        step = 1 if step_mm is None else max(1, round(step_mm / spacing_zyx_mm[axis]))
        taps = np.zeros(4 * step + 1)
        taps[::step] = np.array(KERNELS[name]) / np.abs(KERNELS[name]).sum()
        values = ndimage.correlate1d(values, taps, axis=axis, mode="nearest")
    return values
