"""Sizes in mm on a grid of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatPixels = npt.NDArray[np.float32]
Spacing = Sequence[float]


def axes_of(planes: bool) -> tuple[int, ...]:
    """Returns the array axes a filter works along: rows and columns, in 3D the slices too."""
    return (1, 2) if planes else (0, 1, 2)


def radius_px(size_mm: float, step_mm: float, smallest: int = 0) -> int:
    """Returns how many pixels a window of ``size_mm`` reaches to either side: 2 * radius + 1 pixels come nearest to it."""
    return max(smallest, round((size_mm / step_mm - 1) / 2))


def window_px(size_mm: float, spacing_zyx_mm: Spacing, planes: bool) -> tuple[int, int, int]:
    """Returns an odd number of slices, rows and columns for a window of ``size_mm``.

    At least 3 rows and columns, so that a window finer than the pixels still does something; slices may stay 1.
    """
    z = 0 if planes else radius_px(size_mm, spacing_zyx_mm[0])
    y, x = (radius_px(size_mm, step, 1) for step in spacing_zyx_mm[1:])
    return 2 * z + 1, 2 * y + 1, 2 * x + 1
