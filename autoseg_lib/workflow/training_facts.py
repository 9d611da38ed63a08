"""What the training scans were like, for the model file: ranges over all of them, see measure/training_facts.py."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from autoseg_lib.data.doctor.facts import KEPT_PERCENTILES, CaseFacts, RoiFacts
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM, Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.scan_facts import BRIGHT, DARK, MIDDLE, grey_numbers
from autoseg_lib.measure.training_facts import WHOLE_SHARE
from autoseg_lib.measure.volumes import why_no_volume
from autoseg_lib.preprocess.pipeline import plane_of

# Fewer steps from slice to slice than this say nothing of how large a step may be.
FEWEST_STEPS = 30


# A model is saved many times in a training, always with the same facts.
@functools.lru_cache(maxsize=1)
def known_training_facts(facts: tuple[CaseFacts, ...], labels: LabelTable) -> dict[str, Any]:
    """Returns ``training_facts``, worked out once for the same study."""
    return training_facts(facts, labels)


def training_facts(facts: Sequence[CaseFacts], labels: LabelTable) -> dict[str, Any]:
    """Returns the ranges as a table for JSON; what cannot be told is left out.

    Args:
        facts: of the data check.
        labels: the ROIs.
    """
    grids = [f.geometry for f in facts]
    sized = [g for g in grids if g.spacing_known]
    placed = [g for g in sized if g.positions_known and g.shape_zyx[0] > 1]
    planes = {plane_of(g) for g in grids}
    table: dict[str, Any] = {
        "pixel_mm": _span(max(g.spacing_zyx_mm[1:]) for g in sized),
        "slice_mm": _span(g.spacing_zyx_mm[0] for g in placed),
        "field_mm": _span(
            max(n * s for n, s in zip(g.shape_zyx[1:], g.spacing_zyx_mm[1:], strict=True)) for g in sized
        ),
        "planes": [] if None in planes else sorted(str(plane) for plane in planes),
        "grey": _grey(facts),
        "rois": {label.name: _roi(facts, label.value) for label in labels},
    }
    return {key: value for key, value in table.items() if value is not None}


def _span(values: Iterable[float], digits: int = 4) -> list[float] | None:
    found = list(values)
    return [round(min(found), digits), round(max(found), digits)] if found else None


def _grey(facts: Sequence[CaseFacts]) -> dict[str, Any]:
    places = [KEPT_PERCENTILES.index(percent) for percent in (DARK, MIDDLE, BRIGHT)]
    every = []
    for one in facts:
        percentiles = [
            (s.percentiles[places[0]], s.percentiles[places[1]], s.percentiles[places[2]]) for s in one.slices
        ]
        every.append(grey_numbers(percentiles, one.roi_grey_values))
    names = ["middle", "inside"]
    # Numbers mean the same in every scan only where all are CT.
    if all(f.modality == "CT" for f in facts):
        names.append("inside_level")
    return {name: span for name in names if (span := _span(n[name] for n in every if name in n)) is not None}


def _roi(facts: Sequence[CaseFacts], value: int) -> dict[str, Any]:
    scans = [(f.geometry, [s.rois.get(value) for s in f.slices]) for f in facts]
    with_it = [(g, rois) for g, rois in scans if any(rois)]
    if not with_it:
        return {}
    drawn = [roi for _, rois in with_it for roi in rois if roi is not None]
    several = [rois for _, rois in with_it if len(rois) > 1]
    steps = [pair for g, rois in with_it for pair in _pairs(g, rois)]
    table = {
        "volume_ml": _span(v for g, rois in with_it if (v := _volume_ml(g, rois)) is not None),
        "found_share": len(with_it) / len(facts),
        "border_share": sum(roi.touches_border for roi in drawn) / len(drawn),
        "pieces_share": sum(roi.largest_part < WHOLE_SHARE for roi in drawn) / len(drawn),
        "end_share": _share(bool(rois[0] or rois[-1]) for rois in several),
        "gap_share": _share(_has_gap(rois) for rois in several),
        "step": max(step for step, _ in steps) if len(steps) >= FEWEST_STEPS else None,
        "shift_mm": max(shift for _, shift in steps) if len(steps) >= FEWEST_STEPS else None,
    }
    return {
        key: round(number, 4) if isinstance(number, float) else number
        for key, number in table.items()
        if number is not None
    }


def _share(answers: Iterable[bool]) -> float | None:
    each = list(answers)
    return sum(each) / len(each) if each else None


def _has_gap(rois: Sequence[RoiFacts | None]) -> bool:
    found = [k for k, roi in enumerate(rois) if roi is not None]
    return found[-1] - found[0] + 1 > len(found)


def _volume_ml(geometry: Geometry, rois: Sequence[RoiFacts | None]) -> float | None:
    if why_no_volume(geometry):
        return None
    pixels = np.array([0 if roi is None else roi.pixels for roi in rois])
    return float(pixels @ geometry.slice_extents_mm) * geometry.pixel_area_mm2 / 1000


def _pairs(geometry: Geometry, rois: Sequence[RoiFacts | None]) -> list[tuple[float, float]]:
    """For neighbours that both show the ROI: change of its radius per mm, and way of the middle of its box in mm."""
    if why_no_volume(geometry):
        return []
    found = []
    area_mm2, (_, row_mm, column_mm) = geometry.pixel_area_mm2, geometry.spacing_zyx_mm
    gaps = np.abs(np.diff(geometry.positions_mm)).tolist()
    for k, gap in enumerate(gaps):
        one, other = rois[k], rois[k + 1]
        if one is None or other is None or gap < SAME_PLACE_TOLERANCE_MM:
            continue
        radii = [math.sqrt(roi.pixels * area_mm2 / math.pi) for roi in (one, other)]
        down = (other.box[0] + other.box[2] - one.box[0] - one.box[2]) / 2
        right = (other.box[1] + other.box[3] - one.box[1] - one.box[3]) / 2
        found.append((abs(radii[1] - radii[0]) / gap, math.hypot(down * row_mm, right * column_mm)))
    return found
