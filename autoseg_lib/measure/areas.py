"""Areas of the ROIs on each slice, on the scan's own pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.axis import roi_axis
from autoseg_lib.measure.frame import Frame
from autoseg_lib.measure.grey_values import check_images
from autoseg_lib.measure.plane import measure_plane
from autoseg_lib.volume import Mask, Volume


@dataclass(frozen=True)
class SliceMeasurement:
    """One row of measurements.csv: one ROI on one slice.

    Attributes:
        case: name of the scan.
        slice_number: from 1, along the scan's normal.
        slice_file: name of the image file the slice comes from, "" for volumes.
        slice_position_mm: where the slice lies along the normal; None where unknown.
        label: label value.
        roi: name of the ROI.
        pixels: pixels of the ROI on this slice.
        area_mm2: pixels × row spacing × column spacing; None where the pixel spacing is unknown.
        slice_name: base name of the slice's mask file.

    The columns from here on are explained, with formulas, in docs/measurements.md. None, or "", is a value that
    was not measured or cannot be told.

    Attributes:
        area_mm2_low: lower end of the 90 % interval of the area.
        area_mm2_high: its upper end.
        perimeter_mm: length of all outlines, those of holes included.
        centroid_row: mean row of the ROI's pixels, from 0 at the centre of the first row.
        centroid_column: mean column, likewise.
        centroid_x_mm: the same point in the patient, x towards the left.
        centroid_y_mm: y towards posterior.
        centroid_z_mm: z towards superior.
        intensity_mean: mean grey value (HU for CT).
        intensity_sd: its standard deviation over the pixels (n - 1).
        in_window_percent: share of pixels whose grey value lies in ``tissue_window``.
        fat_fraction_percent: mean of fat / (fat + water) over the pixels of a Dixon pair.
        diameter_mm: longest straight line between two pixels of one component.
        diameter_perpendicular_mm: longest line at right angles to it in that component.
        diameter_ends: its ends, "row,column row,column", from 0.
        diameter_perpendicular_ends: likewise.
        components: parts that hang together (8 neighbours).
        largest_component_percent: share of the pixels in the largest of them.
        touches_border: "yes" where the ROI reaches the edge of the picture, else "no"; "" for an absent ROI.
        obliquity_degrees: angle between the ROI's own axis and the slice's normal.
        area_orthogonal_mm2: area × cosine of that angle.
        flag: reasons not to trust this row, joined by "; ".
    """

    case: str
    slice_number: int
    slice_file: str
    slice_position_mm: float | None
    label: int
    roi: str
    pixels: int
    area_mm2: float | None
    slice_name: str = ""
    area_mm2_low: float | None = None
    area_mm2_high: float | None = None
    perimeter_mm: float | None = None
    centroid_row: float | None = None
    centroid_column: float | None = None
    centroid_x_mm: float | None = None
    centroid_y_mm: float | None = None
    centroid_z_mm: float | None = None
    intensity_mean: float | None = None
    intensity_sd: float | None = None
    in_window_percent: float | None = None
    fat_fraction_percent: float | None = None
    diameter_mm: float | None = None
    diameter_perpendicular_mm: float | None = None
    diameter_ends: str = ""
    diameter_perpendicular_ends: str = ""
    components: int | None = None
    largest_component_percent: float | None = None
    touches_border: str = ""
    obliquity_degrees: float | None = None
    area_orthogonal_mm2: float | None = None
    flag: str = ""


# Whole numbers up to this one are exact as float32.
_EXACT_IN_FLOAT32 = 2**24
# Values that a pixel of one byte can have.
_BYTES = 256


def count_pixels(mask: Mask, labels: LabelTable, case: str = "") -> npt.NDArray[np.int64]:
    """Returns (slices, ROIs) numbers of pixels, ROIs in label order.

    Raises:
        DataError: the mask holds values that ``labels`` does not name.
    """
    counts = np.zeros((mask.array.shape[0], max(len(labels) + 1, _BYTES)), dtype=np.int64)
    unknown: set[int] = set()
    for plane, found in zip(mask.array, counts, strict=True):
        if plane.dtype == np.uint8:
            _count_bytes(plane, found[:_BYTES])
        else:
            drawn = plane[plane > 0]
            named = drawn <= len(labels)
            found += np.bincount(drawn[named], minlength=len(found))
            unknown.update(np.unique(drawn[~named]).tolist())
    unknown.update((np.flatnonzero(counts[:, len(labels) + 1 :].any(axis=0)) + len(labels) + 1).tolist())
    if unknown:
        where = f"mask of '{case}'" if case else "mask"
        raise DataError(
            f"{where}: found the label values {_some(unknown)}, which no ROI has; "
            f"with {len(labels)} ROI{'s' if len(labels) != 1 else ''} the values 0 to {len(labels)} are expected. Name all ROIs, or "
            "correct the mask."
        )
    return counts[:, 1 : len(labels) + 1]


def _count_bytes(plane: npt.NDArray[np.uint8], counts: npt.NDArray[np.int64]) -> None:
    """Writes into ``counts`` (256,) how often each value above 0 occurs; what it says of the background is not to be used."""
    # Eight pixels at a time: most of a slice is background, and finding that out is quicker than counting it.
    flat = np.ascontiguousarray(plane).ravel()
    whole = flat.size // 8 * 8
    words = flat[:whole].view(np.uint64)
    drawn = words[words != 0].view(np.uint8)
    if whole < flat.size:
        drawn = np.concatenate((drawn, flat[whole:]))
    if 0 < drawn.size < _EXACT_IN_FLOAT32:  # OpenCV counts faster, in float32
        counts[:] = cv2.calcHist([drawn.reshape(1, -1)], [0], None, [_BYTES], [0, _BYTES]).ravel()
    else:
        counts[:] = np.bincount(drawn, minlength=_BYTES)


def _some(values: set[int], shown: int = 8) -> str:
    first = ", ".join(map(str, sorted(values)[:shown]))
    return first if len(values) <= shown else f"{first} and {len(values) - shown} more"


def measure_slices(
    mask: Mask,
    labels: LabelTable,
    *,
    case: str,
    slice_names: Sequence[str] = (),
    slice_files: Sequence[str] = (),
    image: Volume | None = None,
    tissue_window: Sequence[float] | None = None,
    fat_image: Volume | None = None,
) -> list[SliceMeasurement]:
    """Measures every ROI on every slice; an ROI that is absent gets a row with area 0.

    Args:
        mask: label values on the scan's own grid, (slices, rows, columns).
        labels: names of the ROIs.
        case: name of the scan.
        slice_names: base names of the slices, one each, or none.
        slice_files: names of the image files, one each, or none.
        image: the scan on the mask's grid, for grey values (the water image of a Dixon pair).
        tissue_window: lowest and highest grey value that count for ``in_window_percent``, both included.
        fat_image: the fat image of a Dixon pair on the same grid.

    Returns:
        Rows slice by slice, ROIs in label order. ``area_mm2`` is None where the pixel spacing is unknown; see
        docs/measurements.md for every column.

    Raises:
        DataError: the mask holds values without a name, the names do not fit the number of slices, or an image lies on
            another grid.
        SettingsError: the window ends before it begins.
    """
    geometry, number = mask.geometry, mask.array.shape[0]
    for names in (slice_names, slice_files):
        if names and len(names) != number:
            raise DataError(
                f"'{case}': found {number} slices, but {len(names)} names for them. One name each is "
                "expected."
            )
    window = None if tissue_window is None else (float(tissue_window[0]), float(tissue_window[1]))
    check_images(mask, image, fat_image, window, case)
    counts = count_pixels(mask, labels, case)
    positions = positions_or_none(geometry)
    plane = Frame.of(geometry).plane if geometry.spacing_known else None
    pixel_area_mm2 = geometry.pixel_area_mm2

    def measured(index: int) -> dict[int, dict[str, Any]]:
        grey, fat = (None if volume is None else volume.array[index] for volume in (image, fat_image))
        return measure_plane(mask.array[index], len(labels), plane, grey, fat, window)

    # One after the other: the work is made of many short calls, and threads that take turns lose more than they gain.
    found = [measured(index) for index in range(number)]
    _add_places(found, geometry, pixel_area_mm2, counts)
    rows = []
    for index in range(number):
        for column, label in enumerate(labels):
            pixels = int(counts[index, column])
            rows.append(
                SliceMeasurement(
                    case=case,
                    slice_number=index + 1,
                    slice_file=slice_files[index] if slice_files else "",
                    slice_position_mm=None if positions is None else float(positions[index]),
                    label=label.value,
                    roi=label.name,
                    pixels=pixels,
                    area_mm2=pixels * pixel_area_mm2 if geometry.spacing_known else None,
                    slice_name=slice_names[index] if slice_names else "",
                    **found[index].get(label.value, _ABSENT),
                )
            )
    return rows


# What is known of an ROI that is not on the slice.
_ABSENT: dict[str, Any] = {"components": 0}


def _add_places(
    found: list[dict[int, dict[str, Any]]],
    geometry: Geometry,
    pixel_area_mm2: float,
    counts: npt.NDArray[np.int64],
) -> None:
    """Adds where the centres lie in the patient, and how obliquely each ROI is cut.

    Args:
        found: for each slice, label value → columns; changed in place.
        geometry: the scan's grid.
        pixel_area_mm2: area of a pixel.
        counts: (slices, ROIs) pixels.
    """
    if not geometry.spacing_known or positions_or_none(geometry) is None:
        return
    frame = Frame.of(geometry)
    for value in range(1, counts.shape[1] + 1):
        slices = np.flatnonzero(counts[:, value - 1])
        if not slices.size:
            continue
        own = [found[index][value] for index in slices]
        centres = [(columns["centroid_row"], columns["centroid_column"]) for columns in own]
        points = frame.points_xyz_mm(np.column_stack([slices, centres]))
        axis = roi_axis(geometry, points, slices)
        if geometry.orientation_known:
            for columns, (x, y, z) in zip(own, points.tolist(), strict=True):
                columns |= {"centroid_x_mm": x, "centroid_y_mm": y, "centroid_z_mm": z}
        if axis is not None:
            angles = axis.obliquity_degrees[slices - axis.first]
            areas = counts[slices, value - 1] * pixel_area_mm2 * np.cos(np.radians(angles))
            for columns, angle, area in zip(own, angles.tolist(), areas.tolist(), strict=True):
                columns |= {"obliquity_degrees": angle, "area_orthogonal_mm2": area}


def positions_or_none(geometry: Geometry) -> FloatArray | None:
    """Returns the slices' positions along the normal; a single slice has one where the file places it."""
    placed = geometry.shape_zyx[0] == 1 and geometry.orientation_known and bool(geometry.origin_xyz_mm.any())
    return geometry.positions_mm if geometry.positions_known or placed else None


def mean_and_std(areas_mm2: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Returns mean and standard deviation (n - 1) over slices; an absent ROI counts 0.0.

    None where an area is unknown or there are too few slices (none for the mean, fewer than two for the
    deviation).
    """
    values = list(areas_mm2)
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None
