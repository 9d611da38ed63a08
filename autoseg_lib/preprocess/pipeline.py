"""What is done to a scan before the network sees it, and how the network's answer gets back onto the scan's
own grid.

2D: each slice is turned as radiology shows it (where the patient's directions are known), scaled alike in
    rows and columns
until its longer side fills ``input_shape``, centred and padded. Slices are neither moved nor mixed, so gaps
between them do not matter. 3D: the axes are turned to Superior, Posterior, Left and the voxels brought to one
size.

The way back is one resampling of the probabilities per ROI, then the likeliest ROI: areas and volumes are
measured on the scan's own pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError, ModelError
from autoseg_lib.geometry import DISPLAY_ORIENTATION, FloatArray, Geometry
from autoseg_lib.preprocess.intensity import IntensityPlan, apply_intensity
from autoseg_lib.preprocess.resample import SLICES_PER_CHUNK, index_map, resample, resample_index
from autoseg_lib.volume import Mask, Volume

# The 3D network's axes: slices towards Superior, rows towards Posterior, columns towards Left.
ORIENTATION_3D = "SPL"

# Voxels that differ by less than this share from the wanted size stay as they are: a wish of 0.938 mm must
# not blur a scan of 0.9375 mm. Scans of one protocol differ by less; over 100 voxels it moves nothing by more
# than one.
SAME_SPACING_TOLERANCE = 0.01

# A damaged model could ask for a grid that fits into no memory: micro-CT is above the one, a whole body below the other.
_FINEST_MM, _COARSEST_MM, _MOST_PIXELS = 1e-4, 1000.0, 16_384

_PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}

Labels = npt.NDArray[np.unsignedinteger]


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


@dataclass(frozen=True)
class Preprocessing:
    """All that turns a scan into network input; kept in the model file.

    Attributes:
        dimension: "2D" or "3D".
        intensity: how grey values are normalised.
        input_shape: 2D: (rows, columns) of the network's image.
        spacing_zyx_mm: 3D: voxel size along S, P, L; None leaves each scan's own.
    """

    dimension: Literal["2D", "3D"]
    intensity: IntensityPlan = field(default_factory=lambda: IntensityPlan("percentile"))
    input_shape: tuple[int, int] | None = None
    spacing_zyx_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.dimension not in ("2D", "3D"):
            raise ModelError(f'preprocessing: expected the dimension "2D" or "3D", found {self.dimension!r}.')
        shape, spacing = self.input_shape, self.spacing_zyx_mm
        if shape is None and self.dimension == "2D":
            raise ModelError("preprocessing: 2D needs an input_shape of rows and columns, found None.")
        if shape is not None and (len(shape) != 2 or not 1 <= min(shape) <= max(shape) <= _MOST_PIXELS):
            raise ModelError(f"preprocessing: 2D needs an input_shape of rows and columns, found {shape}.")
        if spacing is not None and (
            len(spacing) != 3 or not _FINEST_MM <= min(spacing) <= max(spacing) <= _COARSEST_MM
        ):
            raise ModelError(
                f"preprocessing: expected three voxel sizes above 0 mm, at most {_COARSEST_MM:g} mm, found {spacing}."
            )
        if shape is not None:
            object.__setattr__(self, "input_shape", (int(shape[0]), int(shape[1])))
        if spacing is not None:
            object.__setattr__(self, "spacing_zyx_mm", tuple(float(step) for step in spacing))

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return {
            "dimension": self.dimension,
            "intensity": self.intensity.to_dict(),
            "input_shape": list(self.input_shape) if self.input_shape else None,
            "spacing_zyx_mm": list(self.spacing_zyx_mm) if self.spacing_zyx_mm else None,
        }

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Preprocessing:
        """Returns the preprocessing that ``to_dict`` wrote.

        Raises:
            ModelError: keys or values are missing or wrong.
        """
        try:
            shape, spacing = table["input_shape"], table["spacing_zyx_mm"]
            return cls(
                table["dimension"],
                IntensityPlan.from_dict(table["intensity"]),
                None if shape is None else tuple(shape),
                None if spacing is None else tuple(spacing),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"preprocessing: the model's settings are incomplete ({error}).") from None

    # --- there ----------------------------------------------------------------------------------------------

    def turned_geometry(self, geometry: Geometry) -> Geometry:
        """Returns the scan's grid with its axes turned as the network wants them, pixels untouched.

        Raises:
            GeometryError: 3D and the slices are not evenly spaced.
        """
        if self.dimension == "3D" and not geometry.is_even:
            raise GeometryError(
                f"a 3D network needs evenly spaced slices; found distances of {geometry.spacing_text}. "
                "Use a 2D model for this scan, or export the complete series."
            )
        plane = plane_of(geometry)
        if plane is None:
            return geometry
        if self.dimension == "3D":
            return geometry.oriented(ORIENTATION_3D)
        return geometry.oriented(geometry.orientation_code[0] + DISPLAY_ORIENTATION[plane][1:])

    def network_geometry(self, geometry: Geometry) -> Geometry:
        """Returns the grid the network works on for a scan on ``geometry``.

        Raises:
            GeometryError: 3D and the slices are unevenly spaced, or a voxel size is asked for and the scan
                has none.
        """
        turned = self.turned_geometry(geometry)
        if self.input_shape is not None and self.dimension == "2D":
            return _fitted(turned, self.input_shape)
        # The network never sees a tilted gantry's shear: anatomy has one shape, however it was scanned.
        turned = turned.straightened()
        if self.spacing_zyx_mm is None:
            return turned
        if not geometry.spacing_known:
            raise GeometryError(
                "the scan has no pixel spacing, and this 3D network works on voxels of "
                f"{_mm_text(self.spacing_zyx_mm)}. Fill in fov and matrix_size (from the scan protocol) "
                "in Settings."
            )
        if not geometry.positions_known:
            raise GeometryError(
                "the distances between the slices are unknown, and this 3D network works on voxels of "
                f"{_mm_text(self.spacing_zyx_mm)}. Use a 2D model, or scans with slice positions."
            )
        own = turned.spacing_zyx_mm
        wanted = [
            step if abs(wish / step - 1) < SAME_SPACING_TOLERANCE else wish
            for wish, step in zip(self.spacing_zyx_mm, own, strict=True)
        ]
        return turned.respaced(wanted)

    def prepare(self, volume: Volume) -> Volume:
        """Returns the scan as network input: float32 pixels on ``network_geometry(volume.geometry)``.

        Raises:
            GeometryError: see network_geometry.
        """
        target = self.network_geometry(volume.geometry)
        if self.dimension == "3D":
            normal = apply_intensity(volume.array, self.intensity, per_slice=False)
            return resample(volume.with_array(normal), target, order="linear", fill=None)
        matrix = index_map(volume.geometry, target)
        pixels = np.empty(target.shape_zyx, np.float32)
        for k in range(target.shape_zyx[0]):
            normal = apply_intensity(volume.array[k : k + 1], self.intensity, per_slice=True)
            # Padding takes the slice's darkest value: air in MR, below the window in CT.
            pixels[k : k + 1] = resample_index(
                normal, matrix, (1, *target.shape_zyx[1:]), fill=float(normal.min())
            )
        return volume.with_array(pixels, target)

    def prepare_mask(self, mask: Mask) -> Mask:
        """Returns the labels on the network's grid; each pixel takes the nearest one's value.

        Raises:
            GeometryError: see network_geometry.
        """
        return resample(mask, self.network_geometry(mask.geometry))

    # --- and back -------------------------------------------------------------------------------------------

    def restore(self, probabilities: npt.NDArray[Any], target: Geometry) -> Labels:
        """Returns the likeliest label of each pixel of the scan's own grid.

        Args:
            probabilities: (channel, slice, row, column) on ``network_geometry(target)``, channel 0 the
                background; they sum to 1 over the channels.
            target: the scan's own grid.

        Returns:
            (slice, row, column) labels, uint8 (uint16 above 255 channels).

        Raises:
            GeometryError: the shape is not that of the network's grid for this scan.
        """
        network = self.network_geometry(target)
        if probabilities.ndim != 4 or probabilities.shape[1:] != network.shape_zyx:
            raise GeometryError(
                f"the network's answer has the shape {probabilities.shape}; for this scan "
                f"(channels, {', '.join(str(n) for n in network.shape_zyx)}) is expected."
            )
        return likeliest_labels(probabilities, index_map(network, target), target.shape_zyx)


def _fitted(geometry: Geometry, shape: tuple[int, int]) -> Geometry:
    """The grid of ``shape`` with square pixels into which a slice just fits, centred."""
    size = np.array(geometry.shape_zyx[1:], dtype=np.float64)
    spacing = np.array(geometry.spacing_zyx_mm[1:])
    wanted = np.array(shape, dtype=np.float64)
    step = float((size * spacing / wanted).max()) / spacing
    step = np.where(np.isclose(step, 1.0, rtol=1e-6, atol=0), 1.0, step)
    first = (size - 1) / 2 - step * (wanted - 1) / 2
    # Pixels that keep their size also keep their places: half a pixel off centre is better than blurring
    # them.
    first = np.where(step == 1.0, np.ceil(first), first)
    affine = geometry.affine.copy()
    affine[:3, 3] += geometry.affine[:3, 1:3] @ first
    affine[:3, 1:3] *= step
    return replace(geometry, shape_zyx=(geometry.shape_zyx[0], int(shape[0]), int(shape[1])), affine=affine)


def _mm_text(spacing: tuple[float, float, float]) -> str:
    return " × ".join(f"{step:g}" for step in spacing) + " mm"


def likeliest_labels(
    probabilities: npt.NDArray[Any], matrix: FloatArray, shape_zyx: tuple[int, int, int]
) -> Labels:
    """Returns argmax over channels of the probabilities interpolated at ``matrix @ index``, one channel at a
    time.

    Memory stays bounded: some slices at a time and one channel at a time. Only where a channel can win is it
    worked out: the largest of C probabilities that sum to 1 is at least 1/C, an interpolated value is at
    least that only beside a pixel that is, so the rest of the channel need not be looked at.

    Args:
        probabilities: (channel, slice, row, column).
        matrix: (4, 4) from index of the result to index of the probabilities.
        shape_zyx: shape of the result.
    """
    channels = probabilities.shape[0]
    labels = np.zeros(shape_zyx, np.uint8 if channels <= 256 else np.uint16)
    # A little below 1/C: half-precision probabilities sum to 1 within a few thousandths.
    floor = 0.95 / channels
    for first in range(0, shape_zyx[0], SLICES_PER_CHUNK):
        begin = np.array([first, 0, 0])
        end = np.array([min(first + SLICES_PER_CHUNK, shape_zyx[0]), *shape_zyx[1:]])
        best = _part(probabilities[0], matrix, begin, end)
        chunk = labels[begin[0] : end[0]]
        low, high = _source_range(matrix, begin, end, probabilities.shape[1:])
        near = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        for channel in range(1, channels):
            box = _box(probabilities[channel][near] >= floor)
            if box is None:
                continue
            a, b = _target_range(matrix, box[0] + low, box[1] + low, probabilities.shape[1:], begin, end)
            if (a >= b).any():
                continue
            values = _part(probabilities[channel], matrix, a, b)
            inside = tuple(slice(x - o, y - o) for x, y, o in zip(a, b, begin, strict=True))
            wins = values > best[inside]
            best[inside][wins] = values[wins]
            chunk[inside][wins] = channel
    return labels


def _corners(matrix: FloatArray, begin: npt.NDArray[Any], end: npt.NDArray[Any]) -> FloatArray:
    """The eight images of the corners of the index box begin .. end - 1."""
    corners = np.array(np.meshgrid(*zip(begin, end - 1, strict=True), indexing="ij")).reshape(3, -1)
    return matrix[:3, :3] @ corners + matrix[:3, 3:]


def _source_range(
    matrix: FloatArray, begin: npt.NDArray[Any], end: npt.NDArray[Any], shape: tuple[int, ...]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Source indices [low, high) that linear interpolation of the target box begin .. end - 1 can touch."""
    corners = _corners(matrix, begin, end)
    last = np.array(shape) - 1
    low = np.clip(np.floor(corners.min(axis=1) + 1e-6).astype(int), 0, last)
    high = np.clip(np.ceil(corners.max(axis=1) - 1e-6).astype(int), 0, last) + 1
    return low, high


def _target_range(
    matrix: FloatArray,
    low: npt.NDArray[Any],
    high: npt.NDArray[Any],
    shape: tuple[int, ...],
    begin: npt.NDArray[Any],
    end: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Target indices within begin .. end - 1 that source pixels low .. high - 1 have a part in."""
    # A pixel at the source's edge also stands for everything beyond the edge.
    far = 1e6
    first: FloatArray = np.where(low == 0, -far, low - 1.0)
    last: FloatArray = np.where(high == np.array(shape), far, high.astype(float))
    inverse: FloatArray = np.linalg.inv(matrix).astype(np.float64)
    corners = _corners(inverse, first, last + 1)
    a = np.maximum(begin, np.floor(np.maximum(corners.min(axis=1), -far)).astype(int))
    b = np.minimum(end, np.ceil(np.minimum(corners.max(axis=1), far)).astype(int) + 1)
    return a, b


def _box(where: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """The smallest index box [low, high) that holds all True values; None if there are none."""
    low, high = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(where.any(axis=others))
        if hits.size == 0:
            return None
        low[axis], high[axis] = hits[0], hits[-1] + 1
    return low, high


def _part(
    channel: npt.NDArray[Any], matrix: FloatArray, begin: npt.NDArray[Any], end: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """One channel interpolated on the target box begin .. end - 1; beyond the edge the edge's value holds."""
    low, high = _source_range(matrix, begin, end, channel.shape)
    shifted = matrix.copy()
    shifted[:3, 3] += matrix[:3, :3] @ begin - low
    near = channel[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    n = end - begin
    return resample_index(near, shifted, (int(n[0]), int(n[1]), int(n[2])), fill=None, smooth=False)
