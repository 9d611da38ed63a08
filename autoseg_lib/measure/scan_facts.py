"""What flags need to know of a scan beside its measurements: its grid, its modality, and what its grey values are like.

Grey values of MR mean nothing across scans, so they are compared by where they lie between the scan's own dark and bright ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.geometry import Geometry
from autoseg_lib.volume import Mask, Volume

# Dark end, middle and bright end of a slice, in percent.
DARK, MIDDLE, BRIGHT = 5, 50, 95
# Percentiles are taken from at most about this many pixels of a slice, as in the data check.
_MOST_PIXELS = 40_000
# Pixels of ROIs looked at; their median does not need more.
_MOST_ROI_PIXELS = 200_000


@dataclass(frozen=True)
class ScanFacts:
    """A scan as the flags see it.

    Attributes:
        geometry: its own grid.
        modality: DICOM's word, "" where unknown.
        grey: numbers on its grey values, see grey_numbers.
    """

    geometry: Geometry
    modality: str = ""
    grey: Mapping[str, float] = field(default_factory=dict)


def scan_facts(volume: Volume, mask: Mask) -> ScanFacts:
    """Returns what flags need to know of a scan and the answer for it.

    Args:
        volume: the scan.
        mask: the answer, on the same grid.
    """
    percentiles = [_percentiles(plane) for plane in volume.array]
    inside = volume.array[mask.array > 0]
    step = max(1, inside.size // _MOST_ROI_PIXELS)
    return ScanFacts(volume.geometry, volume.modality, grey_numbers(percentiles, inside[::step]))


def grey_numbers(
    percentiles: Sequence[tuple[float, float, float]], inside: npt.NDArray[Any] | None
) -> dict[str, float]:
    """Returns what grey values are like.

    Args:
        percentiles: of each slice its grey values at DARK, MIDDLE and BRIGHT percent.
        inside: grey values of pixels in ROIs; None or empty where there are none.

    Returns:
        "middle": where the middle grey value lies between dark (0) and bright (1); "inside": where that of the ROIs lies;
        "inside_level": the ROIs' middle grey value itself (for CT, where numbers mean the same everywhere). What cannot be
        told is left out.
    """
    dark, middle, bright = np.median(np.array(percentiles, dtype=np.float64).reshape(-1, 3), axis=0)
    numbers: dict[str, float] = {}
    values = np.asarray([] if inside is None else inside, dtype=np.float64)
    values = values[np.isfinite(values)]
    if bright > dark:
        numbers["middle"] = float((middle - dark) / (bright - dark))
        if values.size:
            numbers["inside"] = float((np.median(values) - dark) / (bright - dark))
    if values.size:
        numbers["inside_level"] = float(np.median(values))
    return numbers


def _percentiles(plane: npt.NDArray[Any]) -> tuple[float, float, float]:
    step = max(1, int((plane.size / _MOST_PIXELS) ** 0.5))
    some = plane[::step, ::step]
    if some.dtype.kind == "f":
        some = some[np.isfinite(some)]
    if not some.size:
        return 0.0, 0.0, 0.0
    low, middle, high = np.percentile(some, (DARK, MIDDLE, BRIGHT))
    return float(low), float(middle), float(high)
