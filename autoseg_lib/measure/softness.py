"""By how much areas and volumes may be off, as the model itself sees it: the scale that errors are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

# Beside the soft band, an error of the outline by this share of a pixel on its whole length is always reckoned with; the length
# is taken as that of a circle. It keeps bars of models that are too sure of themselves from shrinking to nothing.
OUTLINE_PIXELS = 0.25

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class SoftCounts(Protocol):
    """Pixels of the scan's own grid that are likely (probability at least 0.25) and surely (0.75) an ROI; see infer/soft.py."""

    @property
    def likely(self) -> Counts:
        """(slices, ROIs) pixels."""

    @property
    def sure(self) -> Counts:
        """(slices, ROIs) pixels."""


@dataclass(frozen=True)
class Scales:
    """What an error is compared with, for each ROI of one scan, in mm² (pixels) and mm³.

    Attributes:
        area: (slices, ROIs) the band in which the boundary may lie.
        possible: (slices, ROIs) whether anything of the ROI is found or likely on the slice.
        volume, mean_area: (ROIs,) the same for the scan; volume is None where the scan has none.
    """

    area: Floats
    possible: npt.NDArray[np.bool_]
    volume: Floats | None
    mean_area: Floats


def scales_of(
    found: Counts, soft: SoftCounts, pixel_area: float, pixel_mm: float, extents_mm: Floats | None
) -> Scales:
    """Returns the scales of one scan.

    Args:
        found: (slices, ROIs) pixels of the answer.
        soft: likely and sure pixels of it; post-processing may have left less, or filled in more.
        pixel_area: of one pixel, in mm² (1 to reckon in pixels).
        pixel_mm: side of a pixel of the scans calibrated on.
        extents_mm: (slices,) what each slice stands for along the normal; None without a volume.
    """
    outer, inner = np.maximum(soft.likely, found), np.minimum(soft.sure, found)
    outline = OUTLINE_PIXELS * pixel_mm * 2 * np.sqrt(np.pi * outer * pixel_area)
    area = (outer - inner) * pixel_area + outline
    slices = np.maximum((found > 0).sum(axis=0), 1)
    volume = None if extents_mm is None else (area * extents_mm[:, None]).sum(axis=0)
    return Scales(area, outer > 0, volume, area.sum(axis=0) / slices)
