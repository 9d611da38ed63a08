"""The grid of a DICOM series: from ImagePositionPatient and ImageOrientationPatient, and nothing guessed in silence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg_lib.geometry import EVEN_SPACING_TOLERANCE, SAME_PLACE_TOLERANCE_MM, FloatArray, Geometry
from autoseg_lib.io.slice_header import SliceHeader

# Slices may lie beside the straight line through their origins by this much before the stack counts as shifted;
# scanners round positions to 0.001 mm or better, and a tenth of a millimetre is far below a pixel.
_SHIFT_TOLERANCE_MM = 0.1
# A tilt below this is rounding; above, the stack is sheared (gantry tilt).
_TILT_DEGREES = 0.5


# The same as a share of the pixel size, for scans finer than a clinical one (micro-CT: slices 0.009 mm apart).
_SAME_PLACE_SHARE = 0.1


def same_place_mm(header: SliceHeader) -> float:
    """Returns the distance along the normal (mm) up to which images count as lying at one position."""
    if header.pixel_spacing_mm is None:
        return SAME_PLACE_TOLERANCE_MM
    return min(SAME_PLACE_TOLERANCE_MM, _SAME_PLACE_SHARE * min(header.pixel_spacing_mm))


def series_geometry(headers: Sequence[SliceHeader]) -> tuple[Geometry, list[str]]:
    """Returns the grid of sorted slices, and sentences on what is odd about it.

    The slice step is the mean step between the slices' positions, so the shear of a tilted gantry is kept. Where slices
    are uneven, repeated or shifted against each other the positions along the normal are kept one by one. A single slice
    has no distance to a neighbour: its grid is as deep as the header says the slice is, but that is not called known.

    Args:
        headers: slices of one series, sorted along the normal.
    """
    first = headers[0]
    notes: list[str] = []
    spacing_known = first.pixel_spacing_mm is not None
    spacing = first.pixel_spacing_mm or (1.0, 1.0)
    if not spacing_known:
        notes.append(first.spacing_note)
    orientation_known = first.orientation is not None
    cosines = np.array(first.orientation or (1, 0, 0, 0, 1, 0), dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    normal /= np.linalg.norm(normal)
    if not orientation_known:
        notes.append("no image orientation, so left and right are unknown.")
    affine = np.eye(4)
    affine[:3, 1] = cosines[3:] * spacing[0]
    affine[:3, 2] = cosines[:3] * spacing[1]
    positions: tuple[float, ...] | None = None
    given = first.spacing_between_slices_mm or first.slice_thickness_mm
    if first.position_xyz_mm is None or not orientation_known:
        positions_known = False
        affine[:3, 0] = normal * (given or 1.0)
        if len(headers) > 1:
            notes.append(
                "no slice positions, so the order is by image number and distances between slices are unknown."
            )
    else:
        origins = np.array([header.position_xyz_mm for header in headers], dtype=np.float64)
        affine[:3, 3] = origins[0]
        if len(headers) == 1:
            # How thick a slice is, or how far apart the scanner placed others, is no distance to a slice that is here.
            positions_known = False
            affine[:3, 0] = normal * (given or 1.0)
        else:
            positions_known = True
            affine[:3, 0], positions = _steps(origins, normal, given or 1.0, same_place_mm(first), notes)
    shape = (len(headers), first.rows, first.columns)
    geometry = Geometry(shape, affine, positions, spacing_known, positions_known, orientation_known)
    if geometry.shear_degrees > _TILT_DEGREES and geometry.positions_known:
        notes.append(
            f"the slices are tilted by {geometry.shear_degrees:.1f}° against the table (gantry tilt); this is kept."
        )
    return geometry, notes


def _steps(
    origins: FloatArray, normal: FloatArray, fallback_mm: float, same_place: float, notes: list[str]
) -> tuple[FloatArray, tuple[float, ...] | None]:
    """Returns the mean slice step (3,) and the positions along the normal where the step does not say it all."""
    count = len(origins)
    along = origins @ normal
    gaps = np.diff(along)
    step = (origins[-1] - origins[0]) / (count - 1)
    total = float(along[-1] - along[0])
    if total < same_place:  # every image at one place
        notes.append(f"all {count} images lie at one position (cine, dynamic or several echoes).")
        return normal * fallback_mm, tuple(float(value) for value in np.maximum.accumulate(along))
    # What is left when the way along the straight line from the first to the last slice is taken away.
    beside = origins - origins[0] - np.outer((along - along[0]) / total * (count - 1), step)
    median = float(np.median(gaps))
    even = bool(np.all(np.abs(gaps - median) <= EVEN_SPACING_TOLERANCE * abs(median))) and median > same_place
    shifted = float(np.linalg.norm(beside, axis=1).max()) > _SHIFT_TOLERANCE_MM
    if even and not shifted:
        return step, None
    same = gaps <= same_place
    if same.any():
        places = count - int(same.sum())
        notes.append(f"{count} images at {places} positions (cine, dynamic or several echoes).")
    else:
        if not even:
            widest = int(np.argmax(gaps))
            notes.append(
                f"slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart; the widest gap is between slices "
                f"{widest + 1} and {widest + 2}. Slices may be missing."
            )
        if shifted:
            notes.append(
                "the slices are shifted against each other within their planes; each is measured on its own."
            )
    # An in-plane part of the mean step has no meaning in a stack that is not straight.
    straight = normal * (step @ normal) if shifted else step
    return straight, tuple(float(value) for value in np.maximum.accumulate(along))
