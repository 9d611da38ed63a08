"""What is done to a scan before the network sees it, and how the network's answer gets back onto the scan's
own grid.

2D: each slice is turned as radiology shows it (where the patient's directions are known), scaled alike in
    rows and columns
until its longer side fills ``input_shape``, centred and padded. Slices are neither moved nor mixed, so gaps
between them do not matter. 3D: the axes are turned to Superior, Posterior, Left and the voxels brought to one
size.

All of it is data: one section of the model file, whose keys are listed in ``schema`` and docs/pipeline.md.

The way back is one resampling of the probabilities per ROI, then the likeliest ROI: areas and volumes are
measured on the scan's own pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, GeometryError, ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.preprocess.channels import Channel
from autoseg_lib.preprocess.crop import crop_box
from autoseg_lib.preprocess.entry_points import call_step, require_step
from autoseg_lib.preprocess.filters.table import FILTERS, apply_filter
from autoseg_lib.preprocess.intensity import IntensityPlan, apply_intensity
from autoseg_lib.preprocess.network_grid import (
    ORIENTATION_3D,
    SAME_SPACING_TOLERANCE,
    fitted,
    padded,
    plane_of,
    runs_backwards,
    turned,
    with_voxels,
)
from autoseg_lib.preprocess.resample import Order, index_map, resample, resample_index
from autoseg_lib.preprocess.schema import (
    COARSEST_MM,
    FINEST_MM,
    MOST_NEIGHBOURS,
    MOST_PIXELS,
    check_section,
    clashes,
)
from autoseg_lib.preprocess.way_back import Labels, WayBack
from autoseg_lib.volume import Box, Mask, Volume

__all__ = [
    "ORIENTATION_3D",
    "SAME_SPACING_TOLERANCE",
    "Preprocessing",
    "lay_back",
    "plane_of",
    "runs_backwards",
]

FloatPixels = npt.NDArray[np.float32]

# The keys that every model file has had from the start; the others are written only where they say something.
FIRST_KEYS = ("dimension", "intensity", "input_shape", "spacing_zyx_mm")


@dataclass(frozen=True)
class Preprocessing:
    """All that turns a scan into network input; kept in the model file.

    Attributes:
        dimension: "2D" or "3D".
        intensity: how grey values are normalised.
        input_shape: 2D: (rows, columns) of the network's image.
        spacing_zyx_mm: 3D: voxel size along S, P, L; None leaves each scan's own.
        steps: a lab's own steps on the grey values, before all else: tables {"step", "name", "options"}.
        crop: which part of the scan is worked on, see ``crop.CROP``; None: all of it.
        orientation: "auto", "own" or a code such as "SPL".
        pad: room around the scan and what fills it, see ``schema.PAD``; None: none.
        resize: 2D: "fit", "stretch" or "own".
        resampling: how grey values between pixels are found.
        channels: what the network sees, see ``channels``.
        neighbours: 2D: slices on each side that are channels beside the slice itself.
    """

    dimension: Literal["2D", "3D"]
    intensity: IntensityPlan = field(default_factory=lambda: IntensityPlan("percentile"))
    input_shape: tuple[int, int] | None = None
    spacing_zyx_mm: tuple[float, float, float] | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    crop: Mapping[str, Any] | None = None
    orientation: str = "auto"
    pad: Mapping[str, Any] | None = None
    resize: str = "fit"
    resampling: Order = "linear"
    channels: tuple[Channel, ...] = (Channel(),)
    neighbours: int = 0

    def __post_init__(self) -> None:
        if self.dimension not in ("2D", "3D"):
            raise ModelError(f'preprocessing: expected the dimension "2D" or "3D", found {self.dimension!r}.')
        shape, spacing = self.input_shape, self.spacing_zyx_mm
        if shape is None and self.dimension == "2D":
            raise ModelError("preprocessing: 2D needs an input_shape of rows and columns, found None.")
        if shape is not None and (len(shape) != 2 or not 1 <= min(shape) <= max(shape) <= MOST_PIXELS):
            raise ModelError(f"preprocessing: 2D needs an input_shape of rows and columns, found {shape}.")
        if spacing is not None and (
            len(spacing) != 3 or not FINEST_MM <= min(spacing) <= max(spacing) <= COARSEST_MM
        ):
            raise ModelError(
                f"preprocessing: expected three voxel sizes above 0 mm, at most {COARSEST_MM:g} mm, found {spacing}."
            )
        if not 0 <= self.neighbours <= MOST_NEIGHBOURS or not self.channels:
            raise ModelError(
                f"preprocessing: found {self.neighbours} neighbouring slices and {len(self.channels)} channels; up to "
                f"{MOST_NEIGHBOURS} and at least one are expected."
            )
        if shape is not None:
            object.__setattr__(self, "input_shape", (int(shape[0]), int(shape[1])))
        if spacing is not None:
            object.__setattr__(self, "spacing_zyx_mm", tuple(float(step) for step in spacing))

    def to_dict(self, *, full: bool = False) -> dict[str, Any]:
        """Returns a table for JSON.

        Args:
            full: also the keys that say nothing (for reading and editing). Files without them can be read by older software.
        """
        table = {
            "dimension": self.dimension,
            "steps": [dict(step) for step in self.steps],
            "crop": None if self.crop is None else dict(self.crop),
            "orientation": self.orientation,
            "intensity": self.intensity.to_dict(),
            "pad": None if self.pad is None else dict(self.pad),
            "resize": self.resize,
            "input_shape": list(self.input_shape) if self.input_shape else None,
            "spacing_zyx_mm": list(self.spacing_zyx_mm) if self.spacing_zyx_mm else None,
            "resampling": self.resampling,
            "channels": [] if self.channels == (Channel(),) else [item.to_dict() for item in self.channels],
            "neighbours": self.neighbours,
        }
        silent: dict[str, Any] = {"steps": [], "crop": None, "orientation": "auto", "pad": None, "resize": "fit", "resampling": "linear", "channels": [], "neighbours": 0}  # fmt: skip
        return {key: value for key, value in table.items() if full or silent.get(key, ...) != value}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Preprocessing:
        """Returns the preprocessing that ``to_dict`` wrote, or an edited one; keys that are missing have their defaults.

        Raises:
            ModelError: keys or values are wrong; all of them at once.
        """
        try:
            checked, problems = check_section(table)
            problems = problems or clashes(checked)
            if problems:
                listed = "".join(f"\n  - {problem}" for problem in problems)
                raise ModelError(f"preprocessing: the model's settings are incomplete or wrong:{listed}")
            tuples = {
                key: None if checked[key] is None else tuple(checked[key])
                for key in ("input_shape", "spacing_zyx_mm", "steps")
            }
            intensity = IntensityPlan.from_dict(checked["intensity"])
            channels = checked["channels"] or (Channel(),)
            return cls(**{**checked, **tuples, "intensity": intensity, "channels": channels})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"preprocessing: the model's settings are incomplete ({error}).") from None

    @property
    def images(self) -> int:
        """How many images of a patient the network sees."""
        return 1 + max(channel.image for channel in self.channels)

    def require_steps(self) -> None:
        """Makes sure that a lab's own steps are installed.

        Raises:
            ModelError: one is not; the message names it.
        """
        for step in self.steps:
            require_step(str(step["name"]))

    # --- there ----------------------------------------------------------------------------------------------

    def start(self, volume: Volume, region: Mask | None = None) -> tuple[Volume, Box | None]:
        """Returns the part of a scan that is worked on, and its index box; None: all of it.

        This comes first, once for a whole scan: a lab's own steps, then the crop. The labels found on the part's own grid get
        back by ``lay_back``.

        Args:
            volume: the scan.
            region: for a crop to a mask: what to keep, on the scan's grid.

        Raises:
            DataError, GeometryError: see ``crop.crop_box``; or the scan lacks images that the network sees.
            ModelError: a step is not installed or failed.
        """
        if len(volume.images) < self.images:
            raise DataError(
                f"the model sees {self.images} images of a patient, and the scan has {len(volume.images)}. Give the others too: "
                "a CSV manifest with the columns image, image_2, ..."
            )
        if self.steps:
            images = [self._stepped(image) for image in volume.images]
            volume = images[0].with_others(images[1:])
        box = self.crop_box(volume, region)
        return (volume, None) if box is None else (volume.cut(box), box)

    def _stepped(self, image: Volume) -> Volume:
        # Copies, there and back: a step may write into what it was given, or keep what it gave.
        pixels = np.array(image.array, dtype=np.float32)
        for step in self.steps:
            found = np.asarray(
                call_step(str(step["name"]), pixels, image.geometry.spacing_zyx_mm, **step["options"])
            )
            if found.shape != image.array.shape or found.dtype.kind not in "fiu":
                raise ModelError(
                    f"the step '{step['name']}' gave {found.dtype} of the shape {found.shape}; numbers of the shape "
                    f"{image.array.shape} are expected. Correct the package that offers it."
                )
            pixels = np.array(found, dtype=np.float32)
        return image.with_array(pixels)

    def crop_box(self, volume: Volume, region: Mask | None = None) -> Box | None:
        """Returns the index box of the scan that is worked on; None: all of it. See ``start``."""
        if self.crop is None:
            return None
        return crop_box(volume, self.crop, region, planes=self.dimension == "2D")

    def turned_geometry(self, geometry: Geometry) -> Geometry:
        """Returns the scan's grid with its axes turned as the network wants them, pixels untouched.

        Raises:
            GeometryError: 3D and the slices are not evenly spaced; or see ``network_grid.turned``.
        """
        if self.dimension == "3D" and not geometry.is_even:
            raise GeometryError(
                f"a 3D network needs evenly spaced slices; found distances of {geometry.spacing_text}. "
                "Use a 2D model for this scan, or export the complete series."
            )
        return turned(geometry, self.orientation, slices_stay=self.dimension == "2D")

    def network_geometry(self, geometry: Geometry) -> Geometry:
        """Returns the grid the network works on for a scan (or the part of it that ``start`` left) on ``geometry``.

        Raises:
            GeometryError: 3D and the slices are unevenly spaced, or a voxel size is asked for and the scan
                has none.
        """
        axes = self.turned_geometry(geometry)
        margin = 0.0 if self.pad is None else float(self.pad["margin_mm"])
        if self.dimension == "2D" and self.input_shape is not None:
            return fitted(padded(axes, margin, slices_stay=True), self.input_shape, self.resize)
        return padded(with_voxels(axes, self.spacing_zyx_mm), margin, slices_stay=False)

    def prepare_channels(self, volume: Volume) -> tuple[FloatPixels, Geometry]:
        """Returns the scan as network input: (channel, slice, row, column) float32, and the network's grid.

        The scan is what ``start`` left of it. In 2D with neighbouring slices the network's channels are, for each
        channel here, the slices in the order of ``neighbour_order``.

        Raises:
            GeometryError: see network_geometry.
        """
        target = self.network_geometry(volume.geometry)
        result = np.empty((len(self.channels), *target.shape_zyx), np.float32)
        for channel, pixels in zip(self.channels, result, strict=True):
            self._fill(pixels, volume.images[channel.image], channel, target)
        return result, target

    def prepare(self, volume: Volume) -> Volume:
        """Returns the first channel of the network input: float32 pixels on ``network_geometry(volume.geometry)``.

        Raises:
            GeometryError: see network_geometry.
        """
        target = self.network_geometry(volume.geometry)
        pixels = np.empty(target.shape_zyx, np.float32)
        self._fill(pixels, volume.images[self.channels[0].image], self.channels[0], target)
        return volume.with_array(pixels, target)

    def _fill(self, result: FloatPixels, image: Volume, channel: Channel, target: Geometry) -> None:
        """Writes one channel: normalised, then resampled; a filter works on resampled grey values before they are normalised."""
        if channel.filter:
            _require_mm(channel, image.geometry)
        plan = channel.plan(self.intensity)
        if self.dimension == "3D":
            self._fill_part(result, image.array, image.geometry, target, channel, plan)
            return
        matrix = index_map(image.geometry, target)
        for k in range(target.shape_zyx[0]):
            part = slice(k, k + 1)
            self._fill_slice(result[part], image.array[part], matrix, target, channel, plan)

    def _fill_part(
        self,
        result: FloatPixels,
        array: npt.NDArray[Any],
        source: Geometry,
        target: Geometry,
        channel: Channel,
        plan: IntensityPlan,
    ) -> None:
        """3D: the whole volume."""
        if not channel.filter:
            normal = apply_intensity(array, plan, per_slice=False)
            fill = None if self.pad is None or self.pad["fill"] == "edge" else float(normal.min())
            result[:] = resample(Volume(normal, source), target, order=self.resampling, fill=fill).array
            return
        matrix = index_map(source, target)
        moved = resample_index(_finite(array), matrix, target.shape_zyx, order=self.resampling, fill=None)
        answer = apply_filter(moved, target.spacing_zyx_mm, channel.filter, channel.parameters, planes=False)
        self._normalised(result, answer, matrix, array.shape, plan)

    def _fill_slice(
        self,
        result: FloatPixels,
        array: npt.NDArray[Any],
        matrix: npt.NDArray[np.float64],
        target: Geometry,
        channel: Channel,
        plan: IntensityPlan,
    ) -> None:
        """2D: one slice."""
        shape = (1, *target.shape_zyx[1:])
        if not channel.filter:
            normal = apply_intensity(array, plan, per_slice=True)
            # Padding takes the slice's darkest value: air in MR, below the window in CT.
            edge = self.pad is not None and self.pad["fill"] == "edge"
            fill = None if edge else float(normal.min())
            result[:] = resample_index(normal, matrix, shape, order=self.resampling, fill=fill)
            return
        # The image goes on beyond its edge, so that the edge itself is no edge to the filter.
        moved = resample_index(_finite(array), matrix, shape, order=self.resampling, fill=None)
        answer = apply_filter(moved, target.spacing_zyx_mm, channel.filter, channel.parameters, planes=True)
        self._normalised(result, answer, matrix, array.shape, plan)

    def _normalised(
        self,
        result: FloatPixels,
        answer: FloatPixels,
        matrix: npt.NDArray[np.float64],
        source_shape: tuple[int, ...],
        plan: IntensityPlan,
    ) -> None:
        """Writes a filter's answer, normalised by what lies inside the scan; around it its darkest value."""
        inside = _inside(matrix, source_shape, answer.shape)
        part = apply_intensity(answer[inside], plan, per_slice=self.dimension == "2D")
        result[:] = part.min()
        result[inside] = part

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


def lay_back(labels: Labels, box: Box | None, shape_zyx: tuple[int, int, int]) -> Labels:
    """Returns the labels found in a part of a scan on the scan's own grid; what was cropped away is background.

    Args:
        labels: on the part's own grid.
        box: from ``Preprocessing.start``.
        shape_zyx: shape of the scan.
    """
    if box is None:
        return labels
    whole = np.zeros(shape_zyx, labels.dtype)
    whole[box] = labels
    return whole


def _require_mm(channel: Channel, geometry: Geometry) -> None:
    sizes = [p.name for p in FILTERS[channel.filter].operation.parameters if p.unit == "mm"]
    if not geometry.spacing_known and any(channel.parameters[name] for name in sizes):
        raise GeometryError(
            f"the channel '{channel.text}' is given in mm, and the scan has no pixel spacing. Fill in fov and matrix_size (from "
            "the scan protocol) in Settings."
        )


def _finite(array: npt.NDArray[Any]) -> FloatPixels:
    pixels = array.astype(np.float32)
    finite = np.isfinite(pixels)
    if not finite.all():
        pixels[~finite] = pixels[finite].min() if finite.any() else 0.0
    return pixels


def _inside(
    matrix: npt.NDArray[np.float64], source_shape: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    """The index box of the network's grid that the scan covers."""
    ends = [(-0.5, n - 0.5) for n in source_shape]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
    back = np.linalg.inv(matrix)
    index = back[:3, :3] @ corners + back[:3, 3:]
    low = np.clip(np.ceil(index.min(axis=1) - 1e-6).astype(int), 0, None)
    high = np.minimum(np.floor(index.max(axis=1) + 1e-6).astype(int) + 1, shape)
    z, y, x = (slice(int(a), max(int(a) + 1, int(b))) for a, b in zip(low, high, strict=True))
    return z, y, x
