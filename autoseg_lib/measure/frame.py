"""Where the pixels of a scan lie in mm, for measuring: uneven slices, tilted stacks and skewed pixels included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoseg_lib.geometry import FloatArray, Geometry


@dataclass(frozen=True, eq=False)
class InPlane:
    """The pixels of a slice in mm.

    Attributes:
        steps: (2, 2) from (row, column) steps to mm in the slice's own plane; its rows are the steps of one row and one
            column. They need not be at right angles.
    """

    steps: FloatArray

    @cached_property
    def inverse(self) -> FloatArray:
        """(2, 2) from mm back to (row, column) steps."""
        return np.asarray(np.linalg.inv(self.steps), dtype=np.float64)

    @cached_property
    def metric(self) -> FloatArray:
        """(2, 2) (A Aᵀ)⁻¹ of the steps A: lengths of slopes that are given per step."""
        return np.asarray(np.linalg.inv(self.steps @ self.steps.T), dtype=np.float64)

    @cached_property
    def pixel_mm2(self) -> float:
        """Area of a pixel."""
        return abs(float(np.linalg.det(self.steps)))

    @cached_property
    def lengths_mm(self) -> tuple[float, float]:
        """Length of a step of one row and of one column."""
        rows, columns = np.linalg.norm(self.steps, axis=1)
        return float(rows), float(columns)


@dataclass(frozen=True, eq=False)
class Frame:
    """The steps of a grid in mm.

    Attributes:
        plane: the pixels of a slice.
        steps: (3, 3) the same in the patient: what one mm along the normal, one row and one column move a point.
            The first is not parallel to the normal where the stack is tilted.
        starts: (slices, 3) centre of the first pixel of each slice.
    """

    plane: InPlane
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
        return cls(InPlane(plane), np.stack([rise, row, column]), starts)

    def points_xyz_mm(self, index_zyx: FloatArray) -> FloatArray:
        """Returns the (n, 3) points of (n, 3) pixels; slices are whole numbers."""
        index = np.asarray(index_zyx, dtype=np.float64)
        start = self.starts[index[:, 0].astype(np.intp)]
        return np.asarray(start + index[:, 1:] @ self.steps[1:], dtype=np.float64)
