"""The grid a network works on for a scan: axes turned, room added, slices fitted or voxels brought to one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import DISPLAY_ORIENTATION, Geometry

# The 3D network's axes: slices towards Superior, rows towards Posterior, columns towards Left.
ORIENTATION_3D = "SPL"

# Voxels that differ by less than this share from the wanted size stay as they are: a wish of 0.938 mm must
# not blur a scan of 0.9375 mm. Scans of one protocol differ by less; over 100 voxels it moves nothing by more
# than one.
SAME_SPACING_TOLERANCE = 0.01

_PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}
_WORLD_AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}


def plane_of(geometry: Geometry) -> str | None:
    """Returns the plane closest to the slices ("axial", "coronal", "sagittal"); None where it is unknown."""
    return _PLANES[geometry.closest_world_axes[0]] if geometry.orientation_known else None


def runs_backwards(geometry: Geometry) -> bool:
    """Returns whether a scan's slices follow each other against the direction they have elsewhere.

    Axial slices usually go from the feet to the head, but a file may hold them the other way round. A network that
    sees neighbouring slices has to find the upper one always on the same side. False where directions are unknown.
    """
    plane = plane_of(geometry)
    return plane is not None and geometry.orientation_code[0] != DISPLAY_ORIENTATION[plane][0]


def turned(geometry: Geometry, orientation: str, *, slices_stay: bool) -> Geometry:
    """Returns the scan's grid with its axes turned as the network wants them, pixels untouched.

    Args:
        geometry: the scan's.
        orientation: "auto", "own" or a code such as "SPL".
        slices_stay: 2D: slices keep their order, and rows and columns of other planes are never mixed with them.

    Raises:
        GeometryError: a code is asked for, and the scan does not say how it lies or lies in another plane.
    """
    plane = plane_of(geometry)
    if orientation == "own" or (orientation == "auto" and plane is None):
        return geometry
    if plane is None:
        raise GeometryError(
            f'orientation = "{orientation}": the files do not say how the scan lies in the patient. Use files that do, or '
            'orientation = "auto".'
        )
    if not slices_stay:
        return geometry.oriented(ORIENTATION_3D if orientation == "auto" else orientation)
    code = DISPLAY_ORIENTATION[plane] if orientation == "auto" else orientation
    if _WORLD_AXES[code[0]] != geometry.closest_world_axes[0]:
        wanted = _PLANES[_WORLD_AXES[code[0]]]
        raise GeometryError(
            f'orientation = "{orientation}" is for {wanted} slices; these are {plane}. Set slice_axis = "{wanted}", or '
            'orientation = "auto".'
        )
    return geometry.oriented(geometry.orientation_code[0] + code[1:])


def padded(geometry: Geometry, margin_mm: float, *, slices_stay: bool) -> Geometry:
    """Returns the grid with at least ``margin_mm`` more on every side, in whole pixels.

    Raises:
        GeometryError: the size of a pixel is unknown.
    """
    if margin_mm <= 0:
        return geometry
    if not geometry.spacing_known or not (slices_stay or geometry.positions_known):
        raise GeometryError(
            f"pad: margin_mm = {margin_mm:g}, and the scan has no pixel spacing. Fill in fov and matrix_size (from the scan "
            "protocol) in Settings, or leave the margin out."
        )
    room = np.ceil(margin_mm / np.array(geometry.spacing_zyx_mm) - 1e-6).astype(int)
    if slices_stay:
        room[0] = 0
    return geometry.cropped_or_padded(room.tolist(), (np.array(geometry.shape_zyx) + 2 * room).tolist())


def fitted(geometry: Geometry, shape: tuple[int, int], how: str = "fit") -> Geometry:
    """Returns the grid of ``shape`` into which a slice just fits, centred.

    Args:
        geometry: the turned scan's.
        shape: rows and columns.
        how: "fit": square pixels, the longer side in mm fills the shape; "stretch": both sides do; "own": pixels stay.

    Raises:
        GeometryError: "own", and the slice is larger than the shape.
    """
    size = np.array(geometry.shape_zyx[1:], dtype=np.float64)
    spacing = np.array(geometry.spacing_zyx_mm[1:])
    wanted = np.array(shape, dtype=np.float64)
    if how == "own" and (size > wanted).any():
        raise GeometryError(
            f'resize = "own": the slices have {size[0]:g} × {size[1]:g} pixels, and the network takes {shape[0]} × {shape[1]}. '
            'Crop them, or use resize = "fit".'
        )
    step = float((size * spacing / wanted).max()) / spacing
    if how != "fit":
        step = np.ones(2) if how == "own" else size / wanted
    step = np.where(np.isclose(step, 1.0, rtol=1e-6, atol=0), 1.0, step)
    first = (size - 1) / 2 - step * (wanted - 1) / 2
    # Pixels that keep their size also keep their places: half a pixel off centre is better than blurring
    # them.
    first = np.where(step == 1.0, np.ceil(first), first)
    affine = geometry.affine.copy()
    affine[:3, 3] += geometry.affine[:3, 1:3] @ first
    affine[:3, 1:3] *= step
    return replace(geometry, shape_zyx=(geometry.shape_zyx[0], int(shape[0]), int(shape[1])), affine=affine)


def with_voxels(geometry: Geometry, spacing_zyx_mm: tuple[float, float, float] | None) -> Geometry:
    """Returns the grid of a turned scan at right angles, with voxels of one size (None: its own).

    Raises:
        GeometryError: a voxel size is asked for and the scan has none.
    """
    # The network never sees a tilted gantry's shear: anatomy has one shape, however it was scanned.
    straight = geometry.straightened()
    if spacing_zyx_mm is None:
        return straight
    if not geometry.spacing_known:
        raise GeometryError(
            "the scan has no pixel spacing, and this 3D network works on voxels of "
            f"{mm_text(spacing_zyx_mm)}. Fill in fov and matrix_size (from the scan protocol) "
            "in Settings."
        )
    if not geometry.positions_known:
        single = geometry.shape_zyx[0] == 1
        what = "the scan is a single slice" if single else "the distances between the slices are unknown"
        raise GeometryError(
            f"{what}, and this 3D network works on voxels of "
            f"{mm_text(spacing_zyx_mm)}. Use a 2D model, or scans with slice positions."
        )
    own = straight.spacing_zyx_mm
    wanted = [
        step if abs(wish / step - 1) < SAME_SPACING_TOLERANCE else wish
        for wish, step in zip(spacing_zyx_mm, own, strict=True)
    ]
    return straight.respaced(wanted)


def mm_text(spacing: Sequence[float]) -> str:
    """Returns "3 × 1 × 1 mm"."""
    return " × ".join(f"{step:g}" for step in spacing) + " mm"
