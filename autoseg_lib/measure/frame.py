"""Where the pixels of a scan lie in mm, for measuring: uneven slices, tilted stacks and skewed pixels included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg_lib.geometry import FloatArray, Geometry


@dataclass(frozen=True)
class Frame:
    """The steps of a grid in mm.

    Attributes:
        plane: (2, 2) from (row, column) steps to mm in the slice's own plane; rows of the matrix are the steps of
            one row and one column.
        steps: (3, 3) the same in the patient: what one mm along the normal, one row and one column move a point.
            The first is not parallel to the normal where the stack is tilted.
        starts: (slices, 3) centre of the first pixel of each slice.
    """

    plane: FloatArray
    steps: FloatArray
    starts: FloatArray

    @classmethod
    def of(cls, geometry: Geometry) -> Frame:
        """Returns the frame of a grid."""
        row, column = geometry.affine[:3, 1], geometry.affine[:3, 2]
        along = column / np.linalg.norm(column)
        across = row - (row @ along) * along
        plane = np.array(
            [[row @ along, np.linalg.norm(across)], [np.linalg.norm(column), 0.0]], dtype=np.float64
        )
        step = geometry.affine[:3, 0]
        rise = step / (step @ geometry.normal_xyz)
        positions = geometry.positions_mm
        starts = geometry.origin_xyz_mm + (positions - positions[0])[:, None] * rise
        return cls(plane, np.stack([rise, row, column]), starts)

    def points_xyz_mm(self, index_zyx: FloatArray) -> FloatArray:
        """Returns the (n, 3) points of (n, 3) pixels; slices are whole numbers."""
        index = np.asarray(index_zyx, dtype=np.float64)
        start = self.starts[index[:, 0].astype(np.intp)]
        return np.asarray(start + index[:, 1:] @ self.steps[1:], dtype=np.float64)
