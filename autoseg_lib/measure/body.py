"""One ROI as a body in space: parts, surface, longest diameter, length along its axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.geometry import Geometry
from autoseg_lib.measure.axis import roi_axis
from autoseg_lib.measure.boundary import surface_area_mm2
from autoseg_lib.measure.diameters import longest_in_space_mm
from autoseg_lib.measure.frame import Frame
from autoseg_lib.volume import Mask

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Body:
    """What is known of an ROI in space; None where it cannot be told.

    Attributes:
        components: parts that hang together (26 neighbours: pixels that touch by a face, an edge or a corner).
        surface_area_mm2: area of the surface.
        diameter_mm: longest straight line between two pixel centres of one part.
        length_mm: length along the axis.
    """

    components: int | None = None
    surface_area_mm2: float | None = None
    diameter_mm: float | None = None
    length_mm: float | None = None


def measure_body(mask: Mask, value: int, box: Box | None, *, has_volume: bool) -> Body:
    """Measures one ROI.

    Args:
        mask: label values on the scan's own grid.
        value: the ROI's label value.
        box: the part of the array that holds the ROI, None for an absent one.
        has_volume: whether the scan has distances in mm in all directions and one image per position.
    """
    if box is None:
        return Body(components=0)
    geometry = mask.geometry
    # Several images at one position are no body: what would hang together are moments, not places.
    if geometry.positions_known and not geometry.has_one_image_per_position:
        return Body()
    inside = (mask.array[box] == value).view(np.uint8)
    parts, number = ndimage.label(inside, np.ones((3, 3, 3), np.uint8))
    if not has_volume:
        return Body(components=number)
    frame, extents = Frame.of(geometry), geometry.slice_extents_mm[box[0]]
    start = [part.start for part in box]
    return Body(
        components=number,
        surface_area_mm2=surface_area_mm2(inside, frame.steps, extents, geometry.spacing_zyx_mm[0]),
        diameter_mm=longest_in_space_mm(parts, number, start, frame),
        length_mm=_length_mm(inside, box, frame, geometry),
    )


def _length_mm(inside: npt.NDArray[np.uint8], box: Box, frame: Frame, geometry: Geometry) -> float | None:
    """Returns the length of the axis: each slice's extent, stretched by how obliquely the axis runs through it."""
    rows = inside.sum(axis=2, dtype=np.int64)
    columns = inside.sum(axis=1, dtype=np.int64)
    pixels = rows.sum(axis=1)
    own = np.flatnonzero(pixels)
    centre_rows = rows[own] @ np.arange(inside.shape[1]) / pixels[own] + box[1].start
    centre_columns = columns[own] @ np.arange(inside.shape[2]) / pixels[own] + box[2].start
    slices = own + box[0].start
    points = frame.points_xyz_mm(np.column_stack([slices, centre_rows, centre_columns]))
    axis = roi_axis(geometry, points, slices)
    return None if axis is None else float(geometry.slice_extents_mm[box[0]] @ axis.stretch)
