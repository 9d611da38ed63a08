"""By how much areas and volumes may be off, as the model itself sees it: the scale that errors are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

# Softness (likely - sure) / (likely + sure) above which a Dice below 0.8 is to be expected: it found most of those slices with
# fewest false alarms for two hippocampus_msd models of 0.5 and 2 minutes (0.255 and 0.275, benchmarks/intervals.py). A model
# with enough scans kept back has a limit for each ROI, calibrated on them.
UNSURE_ABOVE = 0.26

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
    found: Counts, soft: SoftCounts, pixel_area: float, outlines: Floats, extents_mm: Floats | None
) -> Scales:
    """Returns the scales of one scan: its soft band, and the ROI's usual outline one pixel wide.

    Of the forms tried on hippocampus_msd (100 scans; with the slice's own outline, with the change to the next slices, without
    the band) this one gave short intervals that hold alike on slices with much, little and nothing of an ROI.

    Args:
        found: (slices, ROIs) pixels of the answer.
        soft: likely and sure pixels of it; post-processing may have left less, or filled in more.
        pixel_area: of one pixel, in mm² (1 to reckon in pixels).
        outlines: (ROIs,) area of a line one pixel wide around the ROI as it usually is, see outline_of.
        extents_mm: (slices,) what each slice stands for along the normal; None without a volume.
    """
    outer, inner = np.maximum(soft.likely, found), np.minimum(soft.sure, found)
    area = np.where(outer > 0, (outer - inner) * pixel_area + outlines, 0.0)
    slices = np.maximum((found > 0).sum(axis=0), 1)
    volume = None if extents_mm is None else np.asarray(extents_mm @ area)
    return Scales(area, outer > 0, volume, np.asarray(area.sum(axis=0) / slices))


def outline_of(area: float, pixel_side: float) -> float:
    """Returns the area of a line one pixel wide around a circle of this area."""
    return 2 * math.sqrt(math.pi * area) * pixel_side


def softness(likely: Counts, sure: Counts) -> Floats:
    """Returns (likely - sure) / (likely + sure), 0 (certain) to 1; 0 where nothing is likely."""
    return np.asarray((likely - sure) / np.maximum(likely + sure, 1), dtype=np.float64)
