"""Where pixels lie in the patient: one small class, one convention.

Arrays are ``(slice, row, column)``. The world is DICOM's LPS (x to the patient's Left, y to Posterior, z to Superior) in mm.
``affine @ (slice, row, column, 1)`` gives the centre of a pixel. RAS appears only where NIfTI is read or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError

FloatArray = npt.NDArray[np.float64]

# Positions in headers are decimal text of up to 16 characters; scanners round to 1e-3 mm or so. Two grids whose corners
# agree to a hundredth of a millimetre are the same grid (highdicom uses the same tolerance for frame positions).
SAME_PLACE_TOLERANCE_MM = 0.01

# Slice distances that differ by less than this share of their median count as even. DICOM itself gives no number;
# dicom2nifti and dcm2niix warn in the range 1-5 %.
EVEN_SPACING_TOLERANCE = 0.02

# A stack tilted by less than this is straight but for rounding: over 30 cm it wanders by a quarter of a millimetre, less
# than a pixel.
STRAIGHT_DEGREES = 0.05

# The direction in which an axis grows, as letters: (positive, negative) for x, y, z of LPS.
_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))

# How radiology shows each plane: directions in which (slice, row, column) grow. Each triple is right-handed in the
# DICOM sense: the slice direction is row direction × column direction of the image plane.
DISPLAY_ORIENTATION = {"axial": "SPL", "coronal": "PIL", "sagittal": "RIP"}


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a scan.

    Attributes:
        shape_zyx: number of slices, rows, columns.
        affine: (4, 4) from array index (slice, row, column, 1) to LPS point (x, y, z, 1) in mm. May be sheared
            (tilted gantry): the slice step need not be parallel to the slice normal.
        slice_positions_mm: position of each slice along the normal, in order, where the slices are not evenly spaced
            (gaps, several images at one position); None where the affine says it all.
        spacing_known: whether rows and columns have a size in mm (a photo has none).
        positions_known: whether the distances between slices are known.
        orientation_known: whether the directions are the patient's (so that left and right mean something).
    """

    shape_zyx: tuple[int, int, int]
    affine: FloatArray = field(repr=False)
    slice_positions_mm: tuple[float, ...] | None = None
    spacing_known: bool = True
    positions_known: bool = True
    orientation_known: bool = True

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape_zyx", tuple(int(n) for n in self.shape_zyx))
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"an affine must be 4 x 4 finite numbers, found {affine.tolist()}.")
        if len(self.shape_zyx) != 3 or min(self.shape_zyx) < 1:
            raise GeometryError(f"a grid needs three sizes of at least 1, found {self.shape_zyx}.")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise GeometryError(
                "the grid's axes lie in one plane or have no length; the header's geometry is broken."
            )
        if self.slice_positions_mm is not None:
            positions = tuple(float(p) for p in self.slice_positions_mm)
            object.__setattr__(self, "slice_positions_mm", positions)
            steps = np.diff(positions)
            if len(positions) != self.shape_zyx[0] or (np.any(steps < 0) and np.any(steps > 0)):
                raise GeometryError("slice positions must be in order along the normal, one for each slice.")

    @classmethod
    def from_spacing(
        cls,
        shape_zyx: Sequence[int],
        spacing_zyx_mm: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        spacing_known: bool = False,
        positions_known: bool = False,
        orientation_known: bool = False,
    ) -> Geometry:
        """Returns a grid along the axes (slice to S, row to P, column to L), first pixel at the origin.

        Args:
            shape_zyx: slices, rows, columns.
            spacing_zyx_mm: distances of slices, rows, columns; 1.0 stands for "one pixel" where unknown.
            spacing_known: whether the in-plane spacing is in mm.
            positions_known: whether the slice spacing is in mm.
            orientation_known: whether the axes are the patient's.
        """
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing_zyx_mm, 1.0
        shape = (int(shape_zyx[0]), int(shape_zyx[1]), int(shape_zyx[2]))
        return cls(shape, affine, None, spacing_known, positions_known, orientation_known)

    # --- sizes and directions -------------------------------------------------------------------------------------

    @cached_property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Distances between neighbouring slices (along the normal), rows and columns. The slice distance is the mean one."""
        matrix = self.affine[:3, :3]
        rows, columns = np.linalg.norm(matrix[:, 1]), np.linalg.norm(matrix[:, 2])
        return abs(float(matrix[:, 0] @ self.normal_xyz)), float(rows), float(columns)

    @cached_property
    def normal_xyz(self) -> FloatArray:
        """(3,) unit normal of the slices: column direction × row direction in array terms, as DICOM defines it."""
        # DICOM's "row direction" is the direction in which the column index grows.
        normal: FloatArray = np.cross(self.affine[:3, 2], self.affine[:3, 1])
        length = np.linalg.norm(normal)
        if length < 1e-12:
            raise GeometryError("rows and columns point the same way; the header's orientation is broken.")
        return np.asarray(normal / length, dtype=np.float64)

    @property
    def origin_xyz_mm(self) -> FloatArray:
        """(3,) centre of the first pixel of the first slice."""
        return self.affine[:3, 3]

    @property
    def pixel_area_mm2(self) -> float:
        """Area of one pixel, the parallelogram its row and column step span. Meaningful only where ``spacing_known``."""
        return float(np.linalg.norm(np.cross(self.affine[:3, 1], self.affine[:3, 2])))

    @property
    def is_even(self) -> bool:
        """Whether the affine alone places every slice."""
        return self.slice_positions_mm is None

    @property
    def has_one_image_per_position(self) -> bool:
        """False for cine and dynamic series, where a volume has no meaning."""
        if self.slice_positions_mm is None:
            return True
        gaps = np.abs(np.diff(self.slice_positions_mm))
        return gaps.size == 0 or float(gaps.min()) > SAME_PLACE_TOLERANCE_MM

    @property
    def shear_degrees(self) -> float:
        """Angle between the slice step and the slice normal; above 0 with a tilted gantry."""
        step = self.affine[:3, 0]
        cosine = float(abs(step @ self.normal_xyz) / np.linalg.norm(step))
        return float(np.degrees(np.arccos(min(1.0, cosine))))

    @property
    def positions_mm(self) -> FloatArray:
        """(slices,) position of each slice along the normal."""
        if self.slice_positions_mm is not None:
            return np.array(self.slice_positions_mm)
        step = float(self.affine[:3, 0] @ self.normal_xyz)
        first = float(self.origin_xyz_mm @ self.normal_xyz)
        return first + step * np.arange(self.shape_zyx[0], dtype=np.float64)

    @property
    def slice_extents_mm(self) -> FloatArray:
        """(slices,) how much of the normal each slice stands for: half the way to each neighbour.

        The first and last slice reach as far outwards as inwards, so that an even series gives its spacing everywhere.
        """
        count = self.shape_zyx[0]
        if count == 1 or self.slice_positions_mm is None:
            return np.full(count, self.spacing_zyx_mm[0])
        gaps = np.abs(np.diff(self.positions_mm))
        before, after = np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]])
        return (before + after) / 2

    @cached_property
    def orientation_code(self) -> str:
        """Three letters: the patient direction in which slice, row and column indices grow, e.g. "SPL" for axial."""
        letters = [""] * 3
        for axis, world in enumerate(self.closest_world_axes):
            positive = self.affine[world, axis] > 0
            letters[axis] = _LETTERS[world][0 if positive else 1]
        return "".join(letters)

    @cached_property
    def closest_world_axes(self) -> tuple[int, int, int]:
        """For slice, row, column: the world axis (0 = x, 1 = y, 2 = z) that each lies closest to, each used once."""
        unit = np.abs(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0))
        best, best_sum = (2, 1, 0), -1.0
        for choice in ((2, 1, 0), (2, 0, 1), (1, 2, 0), (0, 2, 1), (1, 0, 2), (0, 1, 2)):
            total = sum(unit[world, axis] for axis, world in enumerate(choice))
            if total > best_sum + 1e-9:
                best, best_sum = choice, total
        return best

    # --- points ---------------------------------------------------------------------------------------------------

    def index_to_point(self, index_zyx: npt.ArrayLike) -> FloatArray:
        """Returns the (..., 3) LPS points in mm of (..., 3) array indices. Needs an even grid.

        Raises:
            GeometryError: the slices are not evenly spaced.
        """
        self._require_even("places points between slices")
        index = np.asarray(index_zyx, dtype=np.float64)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def point_to_index(self, point_xyz_mm: npt.ArrayLike) -> FloatArray:
        """Returns the (..., 3) array indices (fractions allowed) of (..., 3) LPS points in mm; exact inverse of index_to_point."""
        self._require_even("looks up points")
        point = np.asarray(point_xyz_mm, dtype=np.float64)
        return (point - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def _require_even(self, what: str) -> None:
        if not self.is_even:
            raise GeometryError(
                f"this step {what}, which needs evenly spaced slices; found distances of {self.spacing_text}. "
                "Use a 2D model for this scan, or export the complete series."
            )

    @property
    def spacing_text(self) -> str:
        """Slice distances for a sentence: "2.00 mm" or "2.00 to 6.00 mm"."""
        if self.slice_positions_mm is None or self.shape_zyx[0] < 2:
            return f"{self.spacing_zyx_mm[0]:.2f} mm"
        gaps = np.abs(np.diff(self.positions_mm))
        return f"{gaps.min():.2f} to {gaps.max():.2f} mm"

    # --- other grids ----------------------------------------------------------------------------------------------

    def permuted(self, axes: Sequence[int], flips: Sequence[bool] = (False, False, False)) -> Geometry:
        """Returns the grid of ``array.transpose(axes)`` followed by flipping where ``flips`` is True.

        Raises:
            GeometryError: an unevenly spaced slice axis would become a row or column axis.
        """
        if not self.is_even and axes[0] != 0:
            self._require_even("turns slices into rows or columns")
        shape = (self.shape_zyx[axes[0]], self.shape_zyx[axes[1]], self.shape_zyx[axes[2]])
        affine = np.eye(4)
        affine[:3, :3] = self.affine[:3, [axes[0], axes[1], axes[2]]]
        affine[:3, 3] = self.affine[:3, 3]
        for axis, flip in enumerate(flips):
            if flip:
                affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
                affine[:3, axis] *= -1
        positions = self.slice_positions_mm
        if positions is not None:
            # Positions are measured along the normal, which turns round with each swap or flip within the plane.
            turned = Geometry(shape, affine).normal_xyz @ self.normal_xyz < 0
            values = [-p for p in positions] if turned else list(positions)
            positions = tuple(reversed(values)) if flips[0] else tuple(values)
        return replace(self, shape_zyx=shape, affine=affine, slice_positions_mm=positions)

    def oriented(self, code: str) -> Geometry:
        """Returns the same grid points, axes permuted and flipped so that they grow towards ``code`` (e.g. "SPL").

        Raises:
            GeometryError: the code is not three letters that name each patient axis once.
        """
        axes, flips = self.steps_to(code)
        return self.permuted(axes, flips)

    def steps_to(self, code: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """Returns (axes, flips) that turn this grid's array towards ``code``."""
        worlds, positives = [], []
        for letter in code:
            for world, (positive, negative) in enumerate(_LETTERS):
                if letter in (positive, negative):
                    worlds.append(world)
                    positives.append(letter == positive)
        if len(code) != 3 or sorted(worlds) != [0, 1, 2]:
            raise GeometryError(f"an orientation needs one letter of L/R, P/A and S/I each, found '{code}'.")
        own = self.closest_world_axes
        axes = (own.index(worlds[0]), own.index(worlds[1]), own.index(worlds[2]))
        grows = [self.affine[world, axis] > 0 for world, axis in zip(worlds, axes, strict=True)]
        flips = (grows[0] != positives[0], grows[1] != positives[1], grows[2] != positives[2])
        return axes, flips

    def cropped_or_padded(self, before_zyx: Sequence[int], shape_zyx: Sequence[int]) -> Geometry:
        """Returns the grid that starts ``before_zyx`` pixels earlier (negative: later) and has ``shape_zyx``.

        Raises:
            GeometryError: slices would be added to or taken from an unevenly spaced series.
        """
        shape = (int(shape_zyx[0]), int(shape_zyx[1]), int(shape_zyx[2]))
        if not self.is_even and (before_zyx[0] != 0 or shape[0] != self.shape_zyx[0]):
            self._require_even("crops or pads slices")
        affine = self.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ np.asarray(before_zyx, dtype=np.float64)
        return replace(self, shape_zyx=shape, affine=affine)

    def slices(self, start: int, stop: int) -> Geometry:
        """Returns the grid of the slices start .. stop - 1, evenly spaced or not.

        Raises:
            GeometryError: there are no such slices.
        """
        if not 0 <= start < stop <= self.shape_zyx[0]:
            raise GeometryError(f"slices {start} to {stop} were asked for; there are {self.shape_zyx[0]}.")
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, 0] * start
        positions = None if self.slice_positions_mm is None else self.slice_positions_mm[start:stop]
        return replace(
            self, shape_zyx=(stop - start, *self.shape_zyx[1:]), affine=affine, slice_positions_mm=positions
        )

    def boxed(self, box: tuple[slice, slice, slice]) -> Geometry:
        """Returns the grid of ``array[box]``; slices without step, evenly spaced or not.

        Raises:
            GeometryError: the box is empty.
        """
        ranges = [part.indices(size) for part, size in zip(box, self.shape_zyx, strict=True)]
        if any(step != 1 or last <= first for first, last, step in ranges):
            raise GeometryError(f"an index box within {self.shape_zyx} is expected, found {box}.")
        (z0, z1, _), (y0, y1, _), (x0, x1, _) = ranges
        part = self if (z0, z1) == (0, self.shape_zyx[0]) else self.slices(z0, z1)
        if (y0, y1, x0, x1) == (0, self.shape_zyx[1], 0, self.shape_zyx[2]):
            return part
        return part.cropped_or_padded((0, -y0, -x0), (z1 - z0, y1 - y0, x1 - x0))

    def respaced(self, spacing_zyx_mm: Sequence[float]) -> Geometry:
        """Returns a grid over the same space with other spacing: same directions, same centre.

        The number of pixels is rounded so that the covered length changes by less than half a new pixel.
        """
        old = np.array(self.spacing_zyx_mm)
        ratio = np.asarray(spacing_zyx_mm, dtype=np.float64) / old
        shape = np.maximum(1, np.round(np.array(self.shape_zyx) / ratio)).astype(int)
        if not np.isclose(ratio[0], 1.0):
            self._require_even("changes the slice distance")
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * ratio
        # The centre of the covered block stays where it is.
        centre = self.affine[:3, :3] @ ((np.array(self.shape_zyx) - 1) / 2) + self.affine[:3, 3]
        affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
        return replace(self, shape_zyx=(int(shape[0]), int(shape[1]), int(shape[2])), affine=affine)

    def straightened(self) -> Geometry:
        """Returns a grid at right angles over the space of a tilted (sheared) one: same slices, rows and columns wide enough.

        A tilted gantry moves each slice a little further within its plane. The new grid's slices lie in the same planes
        at the same distance, straight above each other; it has as many more rows and columns as the slices wander. A
        grid tilted by less than STRAIGHT_DEGREES is returned as it is.

        Raises:
            GeometryError: the slices are not evenly spaced.
        """
        if self.shape_zyx[0] == 1 or self.shear_degrees < STRAIGHT_DEGREES:
            return self
        self._require_even("straightens tilted slices")
        step = self.affine[:3, 0]
        straight = self.normal_xyz * (step @ self.normal_xyz)
        in_plane = self.affine[:3, 1:3]
        wander = np.linalg.lstsq(in_plane, (step - straight) * (self.shape_zyx[0] - 1), rcond=None)[0]
        before = np.floor(np.minimum(0, wander) + 1e-6)
        size = np.array(self.shape_zyx[1:]) + np.ceil(np.maximum(0, wander) - 1e-6) - before
        affine = self.affine.copy()
        affine[:3, 0] = straight
        affine[:3, 3] += in_plane @ before
        return replace(self, shape_zyx=(self.shape_zyx[0], int(size[0]), int(size[1])), affine=affine)

    def is_same_grid(self, other: Geometry, tolerance_mm: float = SAME_PLACE_TOLERANCE_MM) -> bool:
        """Whether both grids have the same shape and place every pixel at the same point, within ``tolerance_mm``."""
        if self.shape_zyx != other.shape_zyx:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape_zyx], indexing="ij")).reshape(3, -1).T
        mine = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        theirs = corners @ other.affine[:3, :3].T + other.affine[:3, 3]
        if float(np.abs(mine - theirs).max()) > tolerance_mm:
            return False
        return bool(np.allclose(self.positions_mm, other.positions_mm, atol=tolerance_mm))
