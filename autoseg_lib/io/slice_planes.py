"""The planes of a scan's slices: which slice a point lies on, and where on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM, FloatArray, Geometry

# The same as a share of the pixel size, for scans finer than a clinical one (micro-CT: slices 0.009 mm apart).
_SAME_PLACE_SHARE = 0.1


class SlicePlanes:
    """Slices as planes in space; even, uneven, tilted (sheared) and single ones alike.

    Attributes:
        positions_mm: (slices,) position of each along the normal.
        gaps_mm: (slices,) distance of each to its nearest neighbour; how deep the slice is where there is none.
    """

    def __init__(self, geometry: Geometry, origins_xyz_mm: npt.ArrayLike | None = None) -> None:
        """Args:
            geometry: the scan's grid.
            origins_xyz_mm: (slices, 3) centre of each slice's first pixel, for slices that are shifted against each other
                within their planes (a Geometry has no word for that); None takes them from the grid.

        Raises:
            GeometryError: there is not one origin for each slice.
        """
        self.shape = (geometry.shape_zyx[1], geometry.shape_zyx[2])
        self._count = geometry.shape_zyx[0]
        self._normal = geometry.normal_xyz
        self._same_place = min(SAME_PLACE_TOLERANCE_MM, _SAME_PLACE_SHARE * min(geometry.spacing_zyx_mm[1:]))
        matrix = geometry.affine[:3, :3]
        if origins_xyz_mm is None:
            self.positions_mm = geometry.positions_mm
            along = self._normal * float(matrix[:, 0] @ self._normal)
            beside = matrix[:, 0] - along
            steps = np.arange(self._count)[:, np.newaxis]
            depth = (self.positions_mm - self.positions_mm[0])[:, np.newaxis]
            origins = geometry.origin_xyz_mm + steps * beside + depth * self._normal
        else:
            origins = np.asarray(origins_xyz_mm, dtype=np.float64)
            if origins.shape != (self._count, 3) or not np.isfinite(origins).all():
                raise GeometryError(f"found {origins.shape} origins for {self._count} slices.")
            self.positions_mm = origins @ self._normal
        self._to_plane = np.linalg.inv(np.column_stack([matrix[:, 1], matrix[:, 2], self._normal]))[:2]
        self._origins = origins @ self._to_plane.T  # (slices, 2), in rows and columns
        self.gaps_mm = self._gaps(geometry.spacing_zyx_mm[0])

    def _gaps(self, depth_mm: float) -> FloatArray:
        places = np.unique(self.positions_mm)
        places = places[np.concatenate([[True], np.diff(places) > self._same_place])]
        if len(places) == 1:
            return np.full(self._count, depth_mm)
        steps = np.diff(places)
        nearest = np.minimum(np.concatenate([[np.inf], steps]), np.concatenate([steps, [np.inf]]))
        found = np.clip(np.searchsorted(places, self.positions_mm + self._same_place) - 1, 0, None)
        return np.asarray(nearest[found], dtype=np.float64)

    def along(self, points_xyz_mm: FloatArray) -> FloatArray:
        """Returns the positions (points,) of points (points, 3) along the normal of the slices."""
        return np.asarray(points_xyz_mm @ self._normal, dtype=np.float64)

    def in_plane(self, points_xyz_mm: FloatArray, index: int) -> FloatArray:
        """Returns (points, 2) row and column, fractions allowed, of points (points, 3) as seen on one slice."""
        return np.asarray(points_xyz_mm @ self._to_plane.T - self._origins[index], dtype=np.float64)

    def nearest(self, position_mm: float) -> npt.NDArray[np.intp]:
        """Returns the slices nearest to a position along the normal; several where they share one place."""
        distance = np.abs(self.positions_mm - position_mm)
        return np.flatnonzero(distance <= distance.min() + self._same_place)

    def is_beyond(self, position_mm: float) -> bool:
        """Whether a position lies above the first or below the last slice by more than half a slice."""
        low, high = int(np.argmin(self.positions_mm)), int(np.argmax(self.positions_mm))
        return (
            position_mm < self.positions_mm[low] - self.gaps_mm[low] / 2
            or position_mm > self.positions_mm[high] + self.gaps_mm[high] / 2
        )
