"""All filters by name.

They work on the network's grid, not the scan's own: there a slice is turned as radiology shows it, so that "down the rows" means
the same in every scan; in 3D voxels have one size in all scans; and each is worked out once on as many pixels as the network
sees. Sizes are in mm all the same. Detail finer than the network's pixels is not seen by the network either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg_lib.preprocess.filters.edges import LOG, SOBEL, log, sobel
from autoseg_lib.preprocess.filters.gabor import GABOR, gabor, gabor_problems
from autoseg_lib.preprocess.filters.haralick import HARALICK, haralick, haralick_problems
from autoseg_lib.preprocess.filters.laws import LAWS, laws
from autoseg_lib.preprocess.filters.sizes import FloatPixels, Spacing
from autoseg_lib.preprocess.filters.smoothing import MEAN, mean
from autoseg_lib.preprocess.filters.wavelet import WAVELET, wavelet
from autoseg_lib.preprocess.operations import Operation


@dataclass(frozen=True)
class Filter:
    """A filter.

    Attributes:
        operation: what it accepts.
        apply: (pixels, spacing_zyx_mm, planes, **parameters) → pixels of the same shape, float32.
        main: the parameter meant by a number or word behind the filter's name ("log 2 mm", "laws E5L5").
        problems: what is wrong with checked parameters taken together, one sentence each, without its end.
    """

    operation: Operation
    apply: Callable[..., FloatPixels]
    main: str
    problems: Callable[[Mapping[str, Any]], list[str]] = lambda _: []


FILTERS: dict[str, Filter] = {
    "mean": Filter(MEAN, mean, "size_mm"),
    "sobel": Filter(SOBEL, sobel, "sigma_mm"),
    "log": Filter(LOG, log, "sigma_mm"),
    "gabor": Filter(GABOR, gabor, "wavelength_mm", gabor_problems),
    "laws": Filter(LAWS, laws, "kernel"),
    "wavelet": Filter(WAVELET, wavelet, "band"),
    "haralick": Filter(HARALICK, haralick, "feature", haralick_problems),
}


def apply_filter(
    pixels: FloatPixels, spacing_zyx_mm: Spacing, name: str, parameters: Mapping[str, Any], *, planes: bool
) -> FloatPixels:
    """Returns the filter's answer.

    Args:
        pixels: (slice, row, column) grey values, finite.
        spacing_zyx_mm: distances of slices, rows, columns; 1.0 stands for "one pixel" where unknown.
        name: a key of FILTERS.
        parameters: checked ones, complete.
        planes: 2D: each slice by itself.
    """
    found = FILTERS[name].apply(np.asarray(pixels, np.float32), spacing_zyx_mm, planes, **parameters)
    return np.asarray(found, dtype=np.float32)
