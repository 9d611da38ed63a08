"""Compares two masks on one grid, ROI by ROI: every number of the table of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autoseg_lib.evaluate.table import EvaluationRow
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.measure.diameters import longest_in_plane, longest_in_space_mm, outer_contours
from autoseg_lib.measure.frame import Frame
from autoseg_lib.measure.volumes import why_no_volume
from autoseg_lib.metrics.contours import count_contours, relative_error
from autoseg_lib.metrics.overlap import Binary, dice
from autoseg_lib.metrics.surface import surface_distances, why_no_distances
from autoseg_lib.volume import Mask

# An ROI as compared: its name, its value in the reference, its value in the prediction.
RoiPair = tuple[str, int, int]


def compare_masks(reference: Mask, prediction: Mask, rois: list[RoiPair], case: str) -> list[EvaluationRow]:
    """Compares two masks on the same grid.

    Args:
        reference: label values held to be right.
        prediction: label values to judge, same grid.
        rois: (name, value in the reference, value in the prediction).
        case: name of the case.

    Returns:
        One row per ROI; what cannot be told is None and ``note`` says why (docs/metrics.md has the table).

    Raises:
        GeometryError: the shapes differ.
    """
    grid = _Grid.of(reference.geometry)
    return [_row(grid, case, roi, reference.array == roi[1], prediction.array == roi[2]) for roi in rois]


@dataclass(frozen=True)
class _Grid:
    """What a grid lets one measure.

    Attributes:
        geometry: the grid.
        no_volume, no_distance: why there are no volumes and no distances in mm, "" where there are.
        pixel_ml: (slices,) volume of one pixel of each slice; None without volumes.
        pixel_mm2: area of a pixel; None where the pixel spacing is unknown.
        frame: where the pixels lie; None where the pixel spacing is unknown.
    """

    geometry: Geometry
    no_volume: str
    no_distance: str
    pixel_ml: FloatArray | None
    pixel_mm2: float | None
    frame: Frame | None

    @classmethod
    def of(cls, geometry: Geometry) -> _Grid:
        no_volume = why_no_volume(geometry)
        pixel_ml = None if no_volume else geometry.slice_extents_mm * geometry.pixel_area_mm2 / 1000
        known = geometry.spacing_known
        return cls(
            geometry,
            no_volume,
            why_no_distances(geometry),
            pixel_ml,
            geometry.pixel_area_mm2 if known else None,
            Frame.of(geometry) if known else None,
        )

    def volume_ml(self, mask: Binary) -> float | None:
        return None if self.pixel_ml is None else float(mask.sum(axis=(1, 2)) @ self.pixel_ml)


def _row(grid: _Grid, case: str, roi: RoiPair, ours: Binary, theirs: Binary) -> EvaluationRow:
    name, value, _ = roi
    overlap = dice(ours, theirs)  # first: it refuses masks of different sizes
    distances = None if grid.no_distance else surface_distances(ours, theirs, grid.geometry)
    counts = count_contours(ours, theirs)
    present = bool(counts.reference or counts.prediction)
    only_one = bool(counts.reference) != bool(counts.prediction)
    volumes = grid.volume_ml(ours), grid.volume_ml(theirs)
    missed = grid.volume_ml(ours & ~theirs) if present else None
    in_plane = _in_plane_mm(ours, grid), _in_plane_mm(theirs, grid)
    in_space = _in_space_mm(ours, grid), _in_space_mm(theirs, grid)
    mm2 = grid.pixel_mm2
    # A contour is counted in pixels; where these are not square, as if they were, of the same area.
    side = None if mm2 is None else float(np.sqrt(mm2))
    # Nothing of an ROI that the other side has lies within 1 mm of it; with neither there is nothing to tell.
    nothing_close = 0.0 if only_one and not grid.no_distance else None
    return EvaluationRow(
        case=case,
        label=value,
        roi=name,
        dice=overlap,
        hd95_mm=distances.hd95_mm if distances else None,
        surface_dice_1mm=distances.surface_dice() if distances else nothing_close,
        mean_surface_distance_mm=distances.mean_mm if distances else None,
        volume_reference_ml=volumes[0],
        volume_prediction_ml=volumes[1],
        volume_difference_percent=_percent(*volumes),
        voxels_reference=counts.reference,
        voxels_prediction=counts.prediction,
        note=grid.no_distance or grid.no_volume,
        area_difference_mm2=_times(counts.mean_area_difference, mm2),
        area_difference_percent=counts.area_difference_percent,
        applied_path_length_mm=_times(counts.path, side) if present else None,
        applied_path_length_pixels=counts.path if present else None,
        false_negative_length_mm=_times(counts.false_negative_path, side) if present else None,
        false_negative_volume_ml=missed,
        diameter_reference_mm=in_plane[0],
        diameter_prediction_mm=in_plane[1],
        recist_error=relative_error(*in_plane),
        diameter_3d_error=relative_error(*in_space),
        relative_volume_error=relative_error(*volumes),
    )


def _times(count: float | None, unit: float | None) -> float | None:
    return None if count is None or unit is None else count * unit


def _percent(reference: float | None, prediction: float | None) -> float | None:
    if not reference or prediction is None:
        return None
    return 100 * (prediction - reference) / reference


def _in_plane_mm(mask: Binary, grid: _Grid) -> float | None:
    """Returns the longest diameter on any slice, 0 for an absent ROI; None where the pixel spacing is unknown."""
    if grid.frame is None:
        return None
    found = [
        longest_in_plane(outer_contours(mask[index].astype(np.uint8)), grid.frame.plane)
        for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    ]
    return max((one.longest_mm for one in found if one is not None), default=0.0)


def _in_space_mm(mask: Binary, grid: _Grid) -> float | None:
    """Returns the longest diameter of any part in space, 0 for an absent ROI; None where distances are unknown."""
    if grid.frame is None or grid.no_distance:
        return None
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return 0.0
    parts, number = ndimage.label(mask[box[0]], structure=np.ones((3, 3, 3)))
    return longest_in_space_mm(parts, number, [part.start for part in box[0]], grid.frame)
