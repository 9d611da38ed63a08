"""How far apart the surfaces of two masks lie, in mm.

A surface is the set of the ROI's own pixels that touch something else through a face (through an edge within
the slice
where there is one slice only); beyond the image counts as something else. Distances go from pixel centre to
the nearest
pixel centre of the other surface, in the scan's true geometry: anisotropic, tilted and unevenly spaced slices
included.
This is the definition of MONAI and of the "boundary" metrics in Maier-Hein et al., "Metrics reloaded" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, generate_binary_structure
from scipy.spatial import cKDTree

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.metrics.overlap import Binary, check_same_shape

# Surfaces closer than this count as agreeing; of the order of the differences between human readers (Nikolov
# et al. 2021
# take 1 mm for small organs).
SURFACE_DICE_TOLERANCE_MM = 1.0

_PERCENTILE = 95


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances of each surface pixel to the other surface.

    Attributes:
        from_reference_mm: (n,) from the reference's surface to the prediction's.
        from_prediction_mm: (m,) from the prediction's surface to the reference's.
    """

    from_reference_mm: FloatArray
    from_prediction_mm: FloatArray

    @property
    def hd95_mm(self) -> float:
        """Larger of the two directed 95th percentiles."""
        return float(
            max(
                np.percentile(self.from_reference_mm, _PERCENTILE),
                np.percentile(self.from_prediction_mm, _PERCENTILE),
            )
        )

    @property
    def hausdorff_mm(self) -> float:
        """Largest distance between the surfaces."""
        return float(max(self.from_reference_mm.max(), self.from_prediction_mm.max()))

    @property
    def mean_mm(self) -> float:
        """Mean over all surface pixels of both (average symmetric surface distance)."""
        total = self.from_reference_mm.sum() + self.from_prediction_mm.sum()
        return float(total / (self.from_reference_mm.size + self.from_prediction_mm.size))

    def surface_dice(self, tolerance_mm: float = SURFACE_DICE_TOLERANCE_MM) -> float:
        """Share of both surfaces that lies within ``tolerance_mm`` of the other."""
        close = (self.from_reference_mm <= tolerance_mm).sum() + (
            self.from_prediction_mm <= tolerance_mm
        ).sum()
        return float(close / (self.from_reference_mm.size + self.from_prediction_mm.size))


def surface(mask: Binary) -> Binary:
    """Returns the surface pixels of a (slices, rows, columns) boolean mask, same shape."""
    if mask.shape[0] == 1:
        return (mask[0] & ~binary_erosion(mask[0], generate_binary_structure(2, 1)))[None]
    return mask & ~binary_erosion(mask, generate_binary_structure(3, 1))


def surface_distances(reference: Binary, prediction: Binary, geometry: Geometry) -> SurfaceDistances | None:
    """Measures the distances between the surfaces of two masks.

    Args:
        reference: (slices, rows, columns) boolean.
        prediction: same shape.
        geometry: the grid of both.

    Returns:
        The distances, or None when one of the masks is empty.

    Raises:
        GeometryError: the shapes differ, or the grid does not say where pixels lie in mm.
    """
    check_same_shape(reference, prediction)
    if why_no_distances(geometry):
        raise GeometryError(f"distances in mm cannot be measured: {why_no_distances(geometry)}.")
    box = _common_box(reference | prediction)
    if box is None or not reference.any() or not prediction.any():
        return None
    first = _points(surface(_cut(reference, box)), box, geometry)
    second = _points(surface(_cut(prediction, box)), box, geometry)
    return SurfaceDistances(cKDTree(second).query(first)[0], cKDTree(first).query(second)[0])


def why_no_distances(geometry: Geometry) -> str:
    """Returns the reason why this grid gives no distances in mm, "" where it does."""
    if not geometry.spacing_known:
        return "the pixel spacing is unknown"
    if geometry.shape_zyx[0] > 1 and not geometry.positions_known:
        return "the distance between slices is unknown"
    if not geometry.has_one_image_per_position:
        return "the series has several images at one position (cine or dynamic)"
    return ""


def _common_box(mask: Binary) -> tuple[slice, slice, slice] | None:
    """The box that holds every True pixel: erosion looks at the ROI only, not at the whole scan."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if hit.size == 0:
            return None
        ranges.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def _cut(mask: Binary, box: tuple[slice, slice, slice]) -> Binary:
    """Cuts to the box with an empty rim, so that the box's edge is a surface exactly where the ROI ends.

    A scan of one slice keeps one slice: there a surface is a contour.
    """
    rim = 0 if mask.shape[0] == 1 else 1
    return np.pad(mask[box], ((rim, rim), (1, 1), (1, 1)))


def _points(mask: Binary, box: tuple[slice, slice, slice], geometry: Geometry) -> FloatArray:
    """Returns (n, 3) points in mm, up to a shift that is the same for both masks."""
    rim = (0 if geometry.shape_zyx[0] == 1 else 1, 1, 1)
    index: npt.NDArray[np.float64] = np.argwhere(mask).astype(np.float64)
    index += [part.start - edge for part, edge in zip(box, rim, strict=True)]
    if geometry.is_even:
        return index @ geometry.affine[:3, :3].T
    positions = geometry.positions_mm[index[:, 0].astype(np.intp)]
    in_plane = index[:, 1:] @ geometry.affine[:3, 1:3].T
    return in_plane + positions[:, None] * geometry.normal_xyz
