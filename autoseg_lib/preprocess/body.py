"""Where the body is: everything brighter than the air around it, in a few large parts, without holes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.volume import Volume

# Halfway between air (-1000 HU) and water (0 HU): the usual threshold for the skin in CT.
CT_THRESHOLD_HU = -500.0
# Grey values counted in so many steps for Otsu's threshold.
_STEPS = 256
# Two legs, or arms beside the trunk, are parts of their own: of a cross-section of 600 cm² an arm of 80 cm² is more than a tenth.
# Cables, folds of a blanket and noise are far less. A part too many only widens the crop; one left out would be lost.
SMALLEST_PART = 0.1

BoolPixels = npt.NDArray[np.bool_]


def body_mask(volume: Volume, *, planes: bool, threshold: float | None = None) -> BoolPixels:
    """Returns the body outline: pixels above the threshold, the large connected parts, holes filled.

    Args:
        volume: the scan.
        planes: 2D: each slice by itself; else the scan as a whole (holes are filled slice by slice even so, because lungs and
            airways open to the outside at the last slice).
        threshold: in the image's own units; None: -500 HU for CT, else Otsu's threshold of the scan.

    Returns:
        (slice, row, column) bool; all False where nothing is brighter than the threshold.
    """
    pixels = _finite(volume.array)
    level = threshold_of(pixels, volume.modality) if threshold is None else threshold
    bright = pixels > level
    if not planes:
        bright = large_components(bright)
    for plane in bright:
        if planes:
            plane[:] = large_components(plane)
        plane[:] = ndimage.binary_fill_holes(plane)
    return bright


def threshold_of(pixels: npt.NDArray[np.floating], modality: str) -> float:
    """Returns the grey value between air and body: fixed in CT, Otsu's (1979) elsewhere."""
    if modality.upper() == "CT":
        return CT_THRESHOLD_HU
    low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return high
    counts, edges = np.histogram(pixels, _STEPS, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = pixels.size - below
    sum_below = np.cumsum(counts * middles)[:-1]
    sum_all = float((counts * middles).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sum_below / below - (sum_all - sum_below) / above) ** 2 * below * above
    # Several steps in a row are equally good where no pixel has a value between: the middle one is taken.
    between = np.nan_to_num(between)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best].mean())


def large_components(mask: BoolPixels) -> BoolPixels:
    """Returns the connected parts (neighbours share a side) of at least ``SMALLEST_PART`` of the largest one's pixels."""
    parts, count = ndimage.label(mask)
    if count <= 1:
        return mask.copy()
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= SMALLEST_PART * sizes.max())[parts] & mask)


def _finite(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    pixels = array.astype(np.float32)
    finite = np.isfinite(pixels)
    if not finite.all():
        pixels[~finite] = pixels[finite].min() if finite.any() else 0.0
    return pixels
