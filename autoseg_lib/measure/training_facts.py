"""What the training scans were like, in ranges: what a new scan is compared with before its numbers are trusted.

The ranges are over all scans of a training set and tell nothing of a single one. They are found by
``workflow/training_facts.py`` and kept in the model file's table "data", under "facts". A model file that lacks one of them,
or all, is used all the same: what is not known is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Range = tuple[float, float]

# An ROI counts as one piece where its largest part holds this share of its pixels: specks beside it are no second piece.
WHOLE_SHARE = 0.9


@dataclass(frozen=True)
class RoiRanges:
    """One ROI in the training scans; None: not known.

    Attributes:
        volume_ml: smallest and largest volume.
        found_share: share of the scans that have it.
        border_share: share of its slices on which it touches the edge of the image.
        pieces_share: share of its slices on which it lies in several pieces, the largest of less than WHOLE_SHARE of it.
        end_share: share of its scans in which it reaches the first or last slice.
        gap_share: share of its scans in which it is missing on a slice between others that have it.
        step: largest change of its radius (of a circle of its area) from slice to slice, in mm per mm of distance.
        shift_mm: largest way of its middle within the plane from one slice to the next.
    """

    volume_ml: Range | None = None
    found_share: float | None = None
    border_share: float | None = None
    pieces_share: float | None = None
    end_share: float | None = None
    gap_share: float | None = None
    step: float | None = None
    shift_mm: float | None = None


@dataclass(frozen=True)
class TrainingFacts:
    """All training scans.

    Attributes:
        dimension: "2D" or "3D"; "" where unknown.
        modality: DICOM's words, joined by "/"; "" where unknown.
        scans: how many there were.
        pixel_mm, slice_mm, field_mm: smallest and largest side of a pixel, distance of slices, side of the image.
        planes: planes of the slices ("axial", ...); empty where the scans did not tell.
        grey: name of a number on grey values (see scan_facts.py) → smallest and largest.
        rois: name → its ranges.
    """

    dimension: str = ""
    modality: str = ""
    scans: int = 0
    pixel_mm: Range | None = None
    slice_mm: Range | None = None
    field_mm: Range | None = None
    planes: tuple[str, ...] = ()
    grey: Mapping[str, Range] = field(default_factory=dict)
    rois: Mapping[str, RoiRanges] = field(default_factory=dict)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> TrainingFacts:
        """Returns the facts of a model file; what an older or damaged file does not tell is left out."""
        data = _table(metadata.get("data"))
        facts, preprocessing = _table(data.get("facts")), _table(metadata.get("preprocessing"))
        planes, scans = facts.get("planes"), data.get("scans")
        return cls(
            dimension=str(preprocessing.get("dimension") or ""),
            modality=str(data.get("modality") or ""),
            scans=scans if isinstance(scans, int) else 0,
            pixel_mm=_range(facts.get("pixel_mm")),
            slice_mm=_range(facts.get("slice_mm")),
            field_mm=_range(facts.get("field_mm")),
            planes=tuple(str(plane) for plane in planes) if isinstance(planes, list) else (),
            grey={
                str(name): limits
                for name, value in _table(facts.get("grey")).items()
                if (limits := _range(value)) is not None
            },
            rois={str(name): _roi(_table(value)) for name, value in _table(facts.get("rois")).items()},
        )


def _roi(table: Mapping[str, Any]) -> RoiRanges:
    numbers = {key: _number(table.get(key)) for key in RoiRanges.__dataclass_fields__ if key != "volume_ml"}
    return RoiRanges(volume_ml=_range(table.get("volume_ml")), **numbers)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if sound else None


def _range(value: Any) -> Range | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = _number(value[0]), _number(value[1])
    return None if low is None or high is None or low > high else (low, high)
