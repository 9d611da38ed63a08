"""A label volume on another grid than its scan's: placed by position where both know theirs, refused otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg_lib.errors import DataError
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.preprocess.resample import index_map, resample
from autoseg_lib.volume import Mask

# Programs round the header's numbers when they save; a tenth of a millimetre is well below a pixel.
LABEL_GRID_TOLERANCE_MM = 0.1

# Labelled pixels looked at to tell how much lies outside of a scan: the share is then known to about 0.5 %.
_LOOKED_AT = 50_000


def onto_scan(label: Mask, target: Geometry, name: str, scan: str, notes: list[str]) -> Mask:
    """Returns a label on the grid of its scan: each pixel takes the nearest label value.

    Args:
        label: on its own grid.
        target: the scan's grid.
        name: the label's, for messages.
        scan: the scan's.
        notes: what was done is added here.

    Raises:
        DataError: one of the two does not know its place, or they do not overlap.
    """
    own = label.geometry
    sizes = f"label '{name}' has {size_text(own.shape_zyx)} voxels, image '{scan}' has {size_text(target.shape_zyx)}"
    for geometry, what in ((own, f"label '{name}'"), (target, f"image '{scan}'")):
        if not _is_placed(geometry):
            raise DataError(
                f"{sizes}, and {what} does not say where it lies in the patient. They must lie on the same grid; save the "
                "label on the image's own grid."
            )
    if _is_default(own):
        raise DataError(
            f"{sizes}, and the label's header holds no place (1 mm pixels from 0, 0, 0, as programs write that lose the "
            "header). They must lie on the same grid; save the label on the image's own grid."
        )
    outside = _share_outside(label, target)
    if not _overlap(own, target) or outside >= 1:
        raise DataError(
            f"label '{name}' and image '{scan}' lie in different places and do not overlap: {grid_text(own)}, and "
            f"{grid_text(target)}. Choose the label of this scan, or save it on the image's own grid."
        )
    mask = resample(label, target)
    lost = f" {100 * outside:.1f} % of what is drawn lies outside of the scan." if outside > 0 else ""
    notes.append(
        f"label '{name}' lies on another grid ({grid_text(own)}) than its scan ({grid_text(target)}); it was placed by "
        f"position, each pixel taking the nearest label value.{lost}"
    )
    return mask


def same_frame(first: Geometry, second: Geometry) -> bool:
    """Whether two grids that know their place overlap."""
    return _overlap(first, second)


def covering_grid(first: Geometry, second: Geometry) -> Geometry:
    """Returns the grid of ``first``, extended by whole pixels until it covers ``second``.

    Raises:
        GeometryError: one of them is unevenly spaced.
    """
    corners = _corners(second.shape_zyx) @ index_map(first, second).T
    # A tenth of a pixel beyond an edge is rounding of the headers.
    low = np.minimum(0, np.ceil(corners[:, :3].min(axis=0) - 0.1 - 1e-6)).astype(int)
    high = np.maximum(
        np.array(first.shape_zyx) - 1, np.floor(corners[:, :3].max(axis=0) + 0.1 + 1e-6)
    ).astype(int)
    return first.cropped_or_padded([int(n) for n in -low], [int(n) for n in high - low + 1])


def size_text(shape: Sequence[int]) -> str:
    """Returns "20 × 256 × 256"."""
    return " × ".join(str(n) for n in shape)


def grid_text(geometry: Geometry) -> str:
    """Returns a grid in words: "20 × 256 × 256 voxels of 4 × 0.94 × 0.94 mm"."""
    spacing = " × ".join(f"{value:.3g}" for value in geometry.spacing_zyx_mm)
    return f"{size_text(geometry.shape_zyx)} voxels of {spacing} mm"


def on_grid_text(geometry: Geometry) -> str:
    """Returns a grid with its place: "256 × 256 × 20 pixels of 0.94 × 0.94 × 4 mm from (-120.0, -80.0, 35.5)"."""
    size = " × ".join(str(n) for n in geometry.shape_zyx[::-1])
    spacing = " × ".join(f"{n:.3g}" for n in geometry.spacing_zyx_mm[::-1])
    origin = ", ".join(f"{n:.1f}" for n in geometry.origin_xyz_mm)
    return f"{size} pixels of {spacing} mm from ({origin})"


def has_places(*geometries: Geometry) -> bool:
    """Whether each grid says where it lies, and none is what a program writes that lost the header."""
    return all(_is_placed(geometry) and not _is_default(geometry) for geometry in geometries)


def _is_placed(geometry: Geometry) -> bool:
    return geometry.spacing_known and geometry.positions_known and geometry.orientation_known


def _is_default(geometry: Geometry) -> bool:
    """Whether a grid is what a program writes that knows nothing: 1 mm along the axes from the origin."""
    straight = np.sort(np.abs(geometry.affine[:3, :3]), axis=0)
    return bool(np.allclose(straight, [[0] * 3, [0] * 3, [1] * 3]) and not geometry.origin_xyz_mm.any())


def _corners(shape: Sequence[int]) -> FloatArray:
    """(8, 4) indices of the corner pixels."""
    grid = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), dtype=np.float64).reshape(3, -1)
    return np.vstack([grid, np.ones(8)]).T


def _overlap(first: Geometry, second: Geometry) -> bool:
    """Whether the boxes of two grids meet, seen along the axes of the first."""
    corners = (_corners(second.shape_zyx) @ (np.linalg.inv(first.affine) @ second.affine).T)[:, :3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    return bool(np.all(high > -0.5) and np.all(low < np.array(first.shape_zyx) - 0.5))


def _share_outside(label: Mask, target: Geometry) -> float:
    """Returns the share of the labelled pixels whose centres lie outside of ``target``; 0 where nothing is drawn."""
    drawn = np.flatnonzero(label.array)
    if not drawn.size:
        return 0.0
    drawn = drawn[:: max(1, drawn.size // _LOOKED_AT)]
    index = np.stack([*np.unravel_index(drawn, label.array.shape), np.ones(drawn.size)], axis=-1)
    places = (index @ (np.linalg.inv(target.affine) @ label.geometry.affine).T)[:, :3]
    inside = np.all((places >= -0.5) & (places <= np.array(target.shape_zyx) - 0.5), axis=1)
    return float(1 - inside.mean())
