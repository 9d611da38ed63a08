"""Loading one scan: its pixels with the slice axis first, and the exact way back onto the file's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.beside import frame_of, onto_grid
from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.naming import image_stem
from autoseg_lib.errors import DataError
from autoseg_lib.geometry import DISPLAY_ORIENTATION, Geometry
from autoseg_lib.io import raster
from autoseg_lib.io.dicom_series import DicomSeries, read_series
from autoseg_lib.io.volume_files import read_volume_file
from autoseg_lib.settings import SegmentSettings, TrainSettings
from autoseg_lib.volume import Mask, Volume, reorient, reorient_like

# A spacing counts as clearly the largest when it is more than this many times the others.
THICK_SLICE_RATIO = 1.5

_PLANE_OF_WORLD_AXIS = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class SpacingOverride:
    """Pixel size from the settings, used only where the files carry none.

    Attributes:
        fov: field of view in mm, one number or (rows, columns) direction.
        matrix_size: pixels over that field, one number or (rows, columns).
        spacing_mm: pixel size: one number, (row, column), or (slice, row, column).
    """

    fov: float | Sequence[float] | None = None
    matrix_size: int | Sequence[int] | None = None
    spacing_mm: float | Sequence[float] | str | None = None

    @classmethod
    def from_settings(cls, settings: TrainSettings | SegmentSettings) -> SpacingOverride:
        """Takes fov, matrix_size and spacing_mm from the settings."""
        return cls(settings.fov, settings.matrix_size, settings.spacing_mm)

    def spacing(self) -> tuple[tuple[float, float] | None, float | None, str]:
        """Returns ((row, column) mm or None, slice distance or None, where they come from)."""
        if self.spacing_mm is not None and self.spacing_mm != "auto" and not isinstance(self.spacing_mm, str):
            values = [float(v) for v in np.atleast_1d(np.asarray(self.spacing_mm, dtype=float))]
            source = "spacing_mm in Settings"
            if len(values) == 1:
                return (values[0], values[0]), None, source
            return (values[-2], values[-1]), values[0] if len(values) == 3 else None, source
        if self.fov is not None and self.matrix_size is not None:
            fov = np.broadcast_to(np.asarray(self.fov, dtype=float), (2,))
            matrix = np.broadcast_to(np.asarray(self.matrix_size, dtype=float), (2,))
            return (
                (float(fov[0] / matrix[0]), float(fov[1] / matrix[1])),
                None,
                "fov / matrix_size in Settings",
            )
        return None, None, ""


@dataclass(frozen=True)
class Scan:
    """A loaded scan.

    Attributes:
        name: name of the case.
        volume: pixels, slice axis first.
        source_geometry: the file's own grid; differs from the volume's only where axes were turned.
        slice_names: one per slice of ``volume``.
        slice_files: file name per slice, "" where slices have none.
        kind: "dicom", "volume" or "raster".
        patient: the patient's key.
        warnings: sentences for the user.
        series: the DICOM series it comes from, None for other files.
        region: a mask that comes with the scan and says which part of it to work on, on the volume's grid; None: all of it.
    """

    name: str
    volume: Volume
    source_geometry: Geometry
    slice_names: tuple[str, ...] = field(repr=False)
    slice_files: tuple[str, ...] = field(repr=False)
    kind: str
    patient: str
    warnings: tuple[str, ...] = ()
    series: DicomSeries | None = field(default=None, repr=False)
    region: Mask | None = field(default=None, repr=False)

    @property
    def is_turned(self) -> bool:
        """Whether the volume's axes differ from the file's."""
        return not self.volume.geometry.is_same_grid(self.source_geometry)


def load_scan(
    source: ImageSource, *, slice_axis: str = "auto", override: SpacingOverride | None = None
) -> Scan:
    """Reads a scan.

    DICOM series keep their own slices unless ``slice_axis`` asks for others. Volume files are sliced along the axis of
    clearly largest spacing, else the one nearest head–feet, and turned the way radiology shows that plane.

    Args:
        source: from ``discover``.
        slice_axis: "auto", "axial", "coronal" or "sagittal".
        override: pixel size from the settings, used only where the files carry none, and said.

    Raises:
        DataError: a file is damaged, or the slices cannot be turned as asked.
    """
    notes = list(source.warnings)
    volume = _read(source)
    volume = _with_spacing(volume, source, override, notes)
    own = volume.geometry
    volume = _sliced(volume, source.name, source.kind, slice_axis, notes)
    count = volume.array.shape[0]
    keeps = source.kind != "volume" and volume.geometry.is_same_grid(own)
    names = source.slice_names if keeps else tuple(f"slice_{number:04d}" for number in range(1, count + 1))
    files = _shown_files(source) if keeps else ("",) * count
    volume = volume.with_others(
        [
            _beside(other, number, volume, source, override, notes)
            for number, other in enumerate(source.others, start=2)
        ]
    )
    return Scan(
        source.name, volume, own, names, files, source.kind, source.patient, tuple(notes), source.series
    )


def _beside(
    other: ImageSource,
    number: int,
    volume: Volume,
    source: ImageSource,
    override: SpacingOverride | None,
    notes: list[str],
) -> Volume:
    """An image beside the scan, on the grid that the scan was turned to."""
    heard: list[str] = []
    image = _with_spacing(_read(other), other, override, heard)
    if image.geometry.orientation_known and volume.geometry.orientation_known and image.geometry.is_even:
        image = reorient(image, volume.geometry.orientation_code)
    notes += [f"image {number}: {text}" for text in (*other.warnings, *heard)]
    frames = (frame_of(source), frame_of(other))
    return onto_grid(image, volume.geometry, number=number, name=source.name, frames=frames, notes=notes)


def scan_of(name: str, volume: Volume, slice_axis: str = "auto", *, own_slices: bool = False) -> Scan:
    """Returns a volume that no file of images stands behind as a scan, sliced as ``load_scan`` slices a volume file.

    Args:
        name: name of the case.
        volume: its pixels.
        slice_axis: as in ``load_scan``.
        own_slices: whether its slices are the scan's own, as those of a DICOM series are.

    Raises:
        DataError: the slices cannot be turned as asked.
    """
    notes: list[str] = []
    kind = "dicom" if own_slices else "volume"
    turned = _sliced(volume, name, kind, slice_axis, notes)
    count = turned.array.shape[0]
    names = tuple(f"slice_{number:04d}" for number in range(1, count + 1))
    return Scan(name, turned, volume.geometry, names, ("",) * count, kind, name, tuple(notes))


def _sliced(volume: Volume, name: str, kind: str, slice_axis: str, notes: list[str]) -> Volume:
    """Turns the axes so that the slices are those to be shown and measured."""
    own = volume.geometry
    plane = _plane(own, kind, slice_axis, notes)
    if plane is None:
        return volume
    if not own.is_even and _PLANE_OF_WORLD_AXIS[own.closest_world_axes[0]] != plane:
        raise DataError(
            f"'{name}': {plane} slices were asked for, but its own slices lie {own.spacing_text} apart; only "
            'evenly spaced slices can be turned. Leave slice_axis = "auto" for this scan.'
        )
    return reorient(volume, DISPLAY_ORIENTATION[plane])


def mask_to_source(mask: Mask, scan: Scan) -> Mask:
    """Turns a mask on ``scan.volume``'s grid back onto the file's own grid, exactly.

    Raises:
        GeometryError: the mask is not on the scan's grid.
    """
    return reorient_like(mask, scan.source_geometry) if scan.is_turned else mask


def _read(source: ImageSource) -> Volume:
    if source.series is not None:
        return read_series(source.series)
    if source.kind == "volume":
        return read_volume_file(source.files[0])
    array: npt.NDArray[Any] | None = None
    for index, picture in enumerate(raster.in_threads(raster.read_image, source.files)):
        if array is None:
            array = np.empty((len(source.files), *picture.shape), picture.dtype)
        if picture.shape != array.shape[1:]:
            raise DataError(
                f"'{source.name}': '{source.files[index].name}' is {_size(picture)}, '{source.files[0].name}' is "
                f"{_size(array[0])}; the "
                "slices of one scan need one size. Put pictures of other scans into folders of their own."
            )
        if picture.dtype != array.dtype:
            array = array.astype(np.promote_types(array.dtype, picture.dtype), copy=False)
        array[index] = picture
    if array is None:
        raise DataError(f"'{source.name}': it has no pictures.")
    return Volume(array, Geometry.from_spacing(array.shape))


def _size(array: Any) -> str:
    return f"{array.shape[0]}×{array.shape[1]}"


def _shown_files(source: ImageSource) -> tuple[str, ...]:
    """Returns the slices' file names; none where the slices' own names were replaced because they tell the patient."""
    kept = all(
        file.name.startswith(name) or name.startswith(image_stem(file))
        for file, name in zip(source.files, source.slice_names, strict=True)
    )
    return tuple(file.name for file in source.files) if kept else ("",) * len(source.files)


# --- pixel size from the settings -------------------------------------------------------------------------------------


def _with_spacing(
    volume: Volume, source: ImageSource, override: SpacingOverride | None, notes: list[str]
) -> Volume:
    geometry = volume.geometry
    in_plane, distance, origin = (override or SpacingOverride()).spacing()
    needs_distance = not geometry.positions_known and distance is not None
    if (geometry.spacing_known or in_plane is None) and not needs_distance:
        return volume
    affine = geometry.affine.copy()
    changes: dict[str, Any] = {}
    if not geometry.spacing_known and in_plane is not None:
        for axis, size in ((1, in_plane[0]), (2, in_plane[1])):
            affine[:3, axis] *= size / np.linalg.norm(affine[:3, axis])
        changes["spacing_known"] = True
        notes[:] = [note for note in notes if "sizes in mm are unknown" not in note]
        notes.append(
            f"the file has no pixel spacing; {in_plane[0]:g} × {in_plane[1]:g} mm is used ({origin})."
        )
        _check_matrix(geometry, override, notes)
    if needs_distance and distance is not None:
        affine[:3, 0] *= distance / np.linalg.norm(affine[:3, 0])
        changes["positions_known"] = True
        notes.append(f"the file has no slice positions; {distance:g} mm between slices is used ({origin}).")
    spacing_source = volume.spacing_source or (origin if changes.get("spacing_known") else "")
    return replace(
        volume, geometry=replace(geometry, affine=affine, **changes), spacing_source=spacing_source
    )


def _check_matrix(geometry: Geometry, override: SpacingOverride | None, notes: list[str]) -> None:
    if override is None or override.matrix_size is None or override.fov is None:
        return
    matrix = tuple(int(n) for n in np.broadcast_to(np.asarray(override.matrix_size), (2,)))
    if matrix != geometry.shape_zyx[1:]:
        rows, columns = geometry.shape_zyx[1:]
        notes.append(
            f"matrix_size is {matrix[0]}×{matrix[1]}, the image has {rows}×{columns} pixels. If the scanner enlarged the "
            "image to fill the field of view, set matrix_size to the image's own size, or areas are wrong."
        )


# --- which way to slice -----------------------------------------------------------------------------------------------


def shown_orientation(geometry: Geometry) -> str:
    """Returns the directions that a volume file on this grid is turned to when it is loaded: its slices are what
    slice_0001, slice_0002, ... are numbered along."""
    return DISPLAY_ORIENTATION[_plane(geometry, "volume", "auto", []) or "axial"]


def _plane(geometry: Geometry, kind: str, slice_axis: str, notes: list[str]) -> str | None:
    """Returns the plane to turn to, or None to leave the slices as they are."""
    own = _PLANE_OF_WORLD_AXIS[geometry.closest_world_axes[0]]
    if slice_axis != "auto":
        if kind == "volume":
            return slice_axis
        if kind == "raster" or not geometry.orientation_known or not geometry.positions_known:
            notes.append(
                f"slice_axis = {slice_axis} was not applied: the files do not say how they lie in the patient."
            )
            return None
        return None if own == slice_axis else slice_axis
    if kind != "volume":
        return None
    spacing = np.array(geometry.spacing_zyx_mm)
    # Volume files have straight axes, so the norm of a column is the spacing along it.
    spacing[0] = np.linalg.norm(geometry.affine[:3, 0])
    axis = int(np.argmax(spacing))
    others = [spacing[other] for other in range(3) if other != axis]
    if spacing[axis] > THICK_SLICE_RATIO * max(others):
        plane = _PLANE_OF_WORLD_AXIS[geometry.closest_world_axes[axis]]
        notes.append(f"sliced along its thick slices: {plane}, {spacing[axis]:.2f} mm apart.")
        return plane
    notes.append("sliced axially (along head–feet); slice_axis chooses another direction.")
    return "axial"
