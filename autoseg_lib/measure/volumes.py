"""Volumes of the ROIs: the area of each slice times the part of the scan that the slice stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import count_pixels
from autoseg_lib.measure.body import measure_body
from autoseg_lib.measure.pairs import compare_sides
from autoseg_lib.volume import Mask


@dataclass(frozen=True)
class VolumeMeasurement:
    """One row of volumes.csv: one ROI of one scan.

    Attributes:
        case: name of the scan.
        label: label value.
        roi: name of the ROI.
        voxels: pixels of the ROI on all slices.
        volume_mm3: sum over slices of area × extent of the slice along the normal; None where it cannot be
            told.
        volume_ml: the same in millilitres.
        slices: slices on which the ROI occurs.
        max_area_mm2: largest area on one slice; None where the pixel spacing is unknown, 0 for an absent ROI.
        max_area_slice: number of that slice, from 1; None for an absent ROI.
        mean_area_mm2: mean area over the slices on which the ROI occurs; None where there is none or no
            spacing.
        note: why there is no volume, "" where there is one.
        volume_ml_low: lower end of the 90 % interval of the volume.
        volume_ml_high: its upper end.
        volume_trapezoid_ml: volume by the trapezoidal rule between the slices' centres.
        mean_area_mm2_low: lower end of the 90 % interval of the mean area.
        mean_area_mm2_high: its upper end.
        length_mm: length along the ROI's own axis.
        surface_area_mm2: area of the ROI's surface.
        diameter_3d_mm: longest straight line between two pixels of the ROI.
        components: parts that hang together (26 neighbours).
        volume_difference_ml: left minus right, for ROIs named as the two sides of one structure.
        asymmetry_percent: that difference as a share of the mean of both.
        flag: reasons not to trust this row, joined by "; ".
    """

    case: str
    label: int
    roi: str
    voxels: int
    volume_mm3: float | None
    volume_ml: float | None
    slices: int
    max_area_mm2: float | None
    max_area_slice: int | None
    mean_area_mm2: float | None = None
    note: str = ""
    volume_ml_low: float | None = None
    volume_ml_high: float | None = None
    volume_trapezoid_ml: float | None = None
    mean_area_mm2_low: float | None = None
    mean_area_mm2_high: float | None = None
    length_mm: float | None = None
    surface_area_mm2: float | None = None
    diameter_3d_mm: float | None = None
    components: int | None = None
    volume_difference_ml: float | None = None
    asymmetry_percent: float | None = None
    flag: str = ""


def why_no_volume(geometry: Geometry) -> str:
    """Returns the reason why a scan on this grid has no volume, "" where it has one."""
    if not geometry.spacing_known:
        return "the pixel spacing is unknown"
    if not geometry.positions_known:
        if geometry.shape_zyx[0] == 1:
            return "a single slice has no distance to a neighbour"
        return "the distance between slices is unknown"
    if not geometry.has_one_image_per_position:
        return "the series has several images at one position (cine or dynamic)"
    return ""


def measure_volumes(
    mask: Mask, labels: LabelTable, *, case: str, pairs: Iterable[tuple[int, int]] | None = None
) -> list[VolumeMeasurement]:
    """Measures the volume of every ROI on the scan's own grid.

    Each slice counts for half the way to both neighbours (``Geometry.slice_extents_mm``), by slice positions,
    never by
    slice thickness.

    Args:
        mask: label values on the scan's own grid, (slices, rows, columns).
        labels: names of the ROIs.
        case: name of the scan.
        pairs: label values of the two sides of a structure as (left, right); None: as the names of the ROIs tell.

    Returns:
        One row per ROI in label order. Where a volume has no meaning it is None and ``note`` says why.

    Raises:
        DataError: the mask holds values without a name.
    """
    geometry = mask.geometry
    counts = count_pixels(mask, labels, case)
    note = why_no_volume(geometry)
    pixel_area_mm2 = geometry.pixel_area_mm2 if geometry.spacing_known else None
    boxes = _boxes(mask, counts)
    rows = []
    for column, label in enumerate(labels):
        pixels = counts[:, column]
        slices, largest = int((pixels > 0).sum()), int(pixels.argmax())
        volume_mm3 = None if note else float(pixels @ geometry.slice_extents_mm) * geometry.pixel_area_mm2
        body = measure_body(mask, label.value, boxes[label.value], has_volume=not note)
        rows.append(
            VolumeMeasurement(
                case=case,
                label=label.value,
                roi=label.name,
                voxels=int(pixels.sum()),
                volume_mm3=volume_mm3,
                volume_ml=None if volume_mm3 is None else volume_mm3 / 1000,
                slices=slices,
                max_area_mm2=None if pixel_area_mm2 is None else int(pixels[largest]) * pixel_area_mm2,
                max_area_slice=largest + 1 if slices else None,
                mean_area_mm2=(
                    float(pixels.sum()) / slices * pixel_area_mm2
                    if slices and pixel_area_mm2 is not None
                    else None
                ),
                note=note,
                volume_trapezoid_ml=None if note else _trapezoid_ml(pixels, geometry),
                length_mm=body.length_mm,
                surface_area_mm2=body.surface_area_mm2,
                diameter_3d_mm=body.diameter_mm,
                components=body.components,
            )
        )
    pairs = labels.left_right_pairs if pairs is None else pairs
    sides = compare_sides(pairs, {row.label: row.volume_ml for row in rows})
    return [
        replace(row, volume_difference_ml=sides[row.label][0], asymmetry_percent=sides[row.label][1])
        if row.label in sides
        else row
        for row in rows
    ]


def _boxes(mask: Mask, counts: npt.NDArray[np.int64]) -> dict[int, tuple[slice, slice, slice] | None]:
    """Returns label value → the part of the array that holds it, None where it is absent.

    Looked for slice by slice: the whole array is never held in another type.
    """
    low = np.full((counts.shape[1], 2), np.iinfo(np.int64).max)
    high = np.zeros((counts.shape[1], 2), np.int64)
    for index in np.flatnonzero(counts.any(axis=1)):
        for number, box in enumerate(ndimage.find_objects(mask.array[index], counts.shape[1])):
            if box is not None:
                low[number] = np.minimum(low[number], [part.start for part in box])
                high[number] = np.maximum(high[number], [part.stop for part in box])
    boxes: dict[int, tuple[slice, slice, slice] | None] = {}
    for number in range(counts.shape[1]):
        own = np.flatnonzero(counts[:, number])
        boxes[number + 1] = (
            (
                slice(int(own[0]), int(own[-1]) + 1),
                slice(int(low[number, 0]), int(high[number, 0])),
                slice(int(low[number, 1]), int(high[number, 1])),
            )
            if own.size
            else None
        )
    return boxes


def _trapezoid_ml(pixels: npt.NDArray[np.int64], geometry: Geometry) -> float | None:
    """Returns the volume between the first and the last slice that have the ROI, by the trapezoidal rule."""
    own = np.flatnonzero(pixels)
    if own.size == 0:
        return 0.0
    if own.size < 2:
        return None
    part = slice(own[0], own[-1] + 1)
    gaps = np.abs(np.diff(geometry.positions_mm[part]))
    areas = pixels[part] * geometry.pixel_area_mm2
    return float(gaps @ (areas[:-1] + areas[1:]) / 2) / 1000
