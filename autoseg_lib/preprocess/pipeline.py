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

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError, ModelError
from autoseg_lib.geometry import DISPLAY_ORIENTATION, Geometry
from autoseg_lib.preprocess.intensity import IntensityPlan, apply_intensity
from autoseg_lib.preprocess.resample import index_map, resample, resample_index
from autoseg_lib.preprocess.way_back import Labels, WayBack
from autoseg_lib.volume import Box, Mask, Volume

# The 3D network's axes: slices towards Superior, rows towards Posterior, columns towards Left.
ORIENTATION_3D = "SPL"

# Voxels that differ by less than this share from the wanted size stay as they are: a wish of 0.938 mm must
# not blur a scan of 0.9375 mm. Scans of one protocol differ by less; over 100 voxels it moves nothing by more
# than one.
SAME_SPACING_TOLERANCE = 0.01

# A damaged model could ask for a grid that fits into no memory: micro-CT is above the one, a whole body below the other.
_FINEST_MM, _COARSEST_MM, _MOST_PIXELS = 1e-4, 1000.0, 16_384

_PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}


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

    def prepare_channels(self, volume: Volume) -> tuple[npt.NDArray[np.float32], Geometry]:
        """Returns the scan as network input: (channel, slice, row, column) float32, and the network's grid.

        The scan is what ``crop_box`` left of it (``volume.cut(box)``). In 2D with neighbouring slices the network's
        channels are, for each channel here, the slices in the order of ``neighbour_order``.

        Raises:
            GeometryError: see network_geometry.
        """
        prepared = self.prepare(volume)
        return np.asarray(prepared.array, dtype=np.float32)[None], prepared.geometry

    def crop_box(self, volume: Volume, region: Mask | None = None) -> Box | None:
        """Returns the index box of the scan that is worked on; None: all of it. What lies outside is background.

        The way there is ``volume.cut(box)``; back, the labels found on the part's own grid are laid into zeros at ``box``.

        Args:
            volume: the scan.
            region: for a crop to a mask: what to keep, on the scan's grid.
        """
        return None

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
        back = self.way_back(network, target, probabilities.shape[0])
        back.take(probabilities)
        return back.finish().labels

    def way_back(
        self, network: Geometry, target: Geometry, channels: int, limits: Sequence[float] = ()
    ) -> WayBack:
        """Returns what takes the network's answer in parts and puts it onto the scan's own grid.

        Args:
            network: the grid of the answer, as ``prepare`` gave it.
            target: the scan's own grid.
            channels: number of label values, background included.
            limits: probabilities to count the pixels at or above.

        Raises:
            GeometryError: one grid is unevenly spaced and the slices of the two are not the same ones.
        """
        return WayBack(network.shape_zyx, index_map(network, target), target.shape_zyx, channels, limits)


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
