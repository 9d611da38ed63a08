"""Whole volumes: NIfTI, NRRD and MetaImage, with their geometry turned into the project's own (LPS, slices first)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io import nifti
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.limits import check_announced, is_regular
from autoseg_lib.io.volume_headers import HeaderFacts, check_header, data_files, header_facts, packing_ratio
from autoseg_lib.volume import Mask, Volume

# The first that fits is the suffix: ".seg.nrrd" is 3D Slicer's own, and counts as one.
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".seg.nhdr", ".nrrd", ".nhdr", ".mha", ".mhd")


def is_volume_file(path: Path) -> bool:
    """Whether the name is that of a NIfTI, NRRD or MetaImage file."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def stem_of(path: Path) -> str:
    """Returns the base name without the suffix, ".nii.gz" taken off as one."""
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def all_files(path: Path) -> tuple[Path, ...]:
    """Returns a volume file and the files its pixels lie in, where the header is a file of its own (.mhd, .nhdr)."""
    name = path.name.lower()
    if not name.endswith((".mhd", ".nhdr")):
        return (path,)
    return (path, *(file for file in data_files(path) if is_regular(file)))


def read_volume_file(path: Path) -> Volume:
    """Reads an image volume in its file's own axis order.

    Args:
        path: .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd.

    Returns:
        Volume of (k, j, i) as stored, geometry in LPS mm; NaN and infinities are kept (the data check finds them).

    Raises:
        DataError: damaged, not three-dimensional, colour, or with a broken geometry.
    """
    array, geometry, source = _read(path)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return Volume(array, geometry, "", source if geometry.spacing_known else "")


def read_label_file(path: Path) -> Mask:
    """Reads a label volume: whole numbers from 0, as they are.

    Raises:
        DataError: as ``read_volume_file``, or a value is negative or no whole number.
    """
    array, geometry, _ = _read(path)
    return Mask(as_labels(array, path.name), geometry)


def describe_volume_file(path: Path) -> str:
    """Returns the size and spacing from the header alone: "35×51×35, 1.00 × 1.00 × 1.00 mm" (in the file's order)."""
    try:
        size, spacing = _size_and_spacing(path)
    except DataError:
        return "a volume file that cannot be read"
    return f"{'×'.join(map(str, size))}, {' × '.join(f'{value:.2f}' for value in spacing)} mm"


def check_volume_header(path: Path) -> None:
    """Checks from the header alone that a file is a volume that can be read; its pixels are not looked at.

    Raises:
        DataError: damaged, not three-dimensional, or colour.
    """
    _size_and_spacing(path)


def _size_and_spacing(path: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Returns sizes and spacings in the file's own order (i, j, k)."""
    if _is_nifti(path):
        header = nifti.read_header(path)
        nifti.check_kind(header, path.name)
        lengths = np.linalg.norm(header.affine[:3, :3], axis=0)[::-1]
        return header.shape[:3], tuple(float(value) for value in lengths[: len(header.shape)])
    reader, _ = _open(path)
    return tuple(reader.GetSize()[:3]), tuple(reader.GetSpacing()[:3])


def as_labels(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Returns label values as the smallest fitting unsigned integers.

    Raises:
        DataError: a value is negative, not finite or no whole number.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DataError(
                f"label '{name}': found NaN or infinite values, expected whole numbers from 0. Save it again."
            )
        odd = array[array != np.round(array)]
        if odd.size:
            raise DataError(
                f"label '{name}': found the value {odd.flat[0]:.4g}, expected whole numbers from 0. "
                "It was probably resampled with interpolation; use nearest neighbour."
            )
    elif array.dtype.kind not in "iu":
        raise DataError(f"label '{name}': found values of type {array.dtype}, expected whole numbers from 0.")
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if low < 0:
        raise DataError(
            f"label '{name}': found the value {low:g}, expected whole numbers from 0. Correct the file."
        )
    if float(high) > np.iinfo(np.uint32).max:
        raise DataError(f"label '{name}': found the value {high:g}, which is no label. Correct the file.")
    return array.astype(np.uint8 if high <= 255 else np.uint16 if high <= 65535 else np.uint32)


def write_mask_file(path: Path, mask: Mask) -> None:
    """Writes label values with their geometry; the suffix chooses the format.

    Raises:
        GeometryError: the grid cannot be told in this format (uneven slices; a tilted gantry in NRRD or MetaImage).
        ExportError: it cannot be written.
    """
    _write(path, mask.array, mask.geometry)


def write_volume_file(path: Path, volume: Volume) -> None:
    """Writes an image with its geometry; the suffix chooses the format.

    Raises:
        GeometryError: as ``write_mask_file``.
        ExportError: it cannot be written.
    """
    _write(path, volume.array, volume.geometry)


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[npt.NDArray[Any], Geometry, str]:
    if not path.is_file():
        raise DataError(f"'{path}': not found. Check the path.")
    if _is_nifti(path):
        array, header = nifti.read_nifti(path)
        shape = (array.shape[0], array.shape[1], array.shape[2])
        geometry = Geometry(
            shape, header.affine, None, header.spacing_known, header.spacing_known, header.orientation_known
        )
        return array, geometry, "NIfTI header"
    reader, facts = _open(path)
    size = list(reader.GetSize())
    try:
        if len(size) > 3:
            reader.SetExtractSize(size[:3] + [0] * (len(size) - 3))
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(
            f"'{path.name}': its pixels cannot be read ({_reason(error)}). Copy or save it again."
        ) from error
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise DataError(
            f"'{path.name}': found complex numbers, expected plain ones. Save the magnitude image."
        )
    if array.ndim == 2:
        array = array[np.newaxis]
    affine = _affine(image)
    geometry = Geometry(
        (array.shape[0], array.shape[1], array.shape[2]),
        affine,
        None,
        facts.spacing_known,
        facts.spacing_known and image.GetDimension() == 3,
        facts.orientation_known and image.GetDimension() == 3,
    )
    return array, geometry, facts.format_name


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _open(path: Path) -> tuple[sitk.ImageFileReader, HeaderFacts]:
    """Returns a reader that has read the header."""
    # SimpleITK's readers believe what they read: a line that is too long ends the program, a wrong size fills the memory.
    check_header(path)
    facts = header_facts(path)
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(
            f"'{path.name}': it cannot be read as {facts.format_name} ({_reason(error)}). Save it again."
        ) from error
    size = reader.GetSize()
    if reader.GetNumberOfComponents() > 1:
        raise DataError(
            f"'{path.name}': found {reader.GetNumberOfComponents()} values per voxel (colour, vectors or a time series), "
            "expected one. Save one channel as a file of its own."
        )
    if len(size) > 3 and max(size[3:]) > 1:
        raise DataError(
            f"'{path.name}': found {len(size)} dimensions ({' × '.join(map(str, size))}), expected 3. "
            "Split the time points into files of their own."
        )
    _check_size(path, reader)
    return reader, facts


# Bytes of one value by SimpleITK's number for its type.
_VALUE_BYTES = {
    sitk.sitkUInt8: 1, sitk.sitkInt8: 1, sitk.sitkUInt16: 2, sitk.sitkInt16: 2, sitk.sitkUInt32: 4, sitk.sitkInt32: 4,
    sitk.sitkUInt64: 8, sitk.sitkInt64: 8, sitk.sitkFloat32: 4, sitk.sitkFloat64: 8,
}  # fmt: skip
# The widest one, for the types that are refused later.
_WIDEST_BYTES = 16


def _check_size(path: Path, reader: sitk.ImageFileReader) -> None:
    size = reader.GetSize()
    needed = math.prod(size) * _VALUE_BYTES.get(reader.GetPixelID(), _WIDEST_BYTES)
    stored = sum(file.stat().st_size for file in all_files(path))
    shape = " × ".join(str(n) for n in size) + " voxels"
    check_announced(path.name, shape, needed, stored, packing_ratio(path))


def _affine(image: sitk.Image) -> npt.NDArray[np.float64]:
    """Returns the (4, 4) affine from (k, j, i) to LPS; SimpleITK's own order is (i, j, k)."""
    size = image.GetDimension()
    direction = np.eye(3)
    direction[:size, :size] = np.array(image.GetDirection()).reshape(size, size)
    spacing, origin = np.ones(3), np.zeros(3)
    spacing[:size], origin[:size] = image.GetSpacing(), image.GetOrigin()
    affine = np.eye(4)
    affine[:3, :3] = (direction * spacing)[:, ::-1]
    affine[:3, 3] = origin
    return affine


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    if "Unable to determine ImageIO" in text:
        return "unknown format"  # the rest is a path
    return text.split("): ")[-1][:140].rstrip(". !")


# --- writing ----------------------------------------------------------------------------------------------------------

# Columns of a direction matrix closer to right angles than this are written by SimpleITK as they are.
_RIGHT_ANGLE = 1e-4


def _write(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    if not geometry.is_even:
        raise GeometryError(
            f"'{path.name}': the slices lie {geometry.spacing_text} apart; a volume file can only hold even distances, so "
            "it was not written. The masks slice by slice are complete."
        )
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        atomic_write(path, lambda temporary: nifti.write_nifti(temporary, array, geometry))
        return
    spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    direction = (geometry.affine[:3, :3] / spacing)[:, ::-1]
    if np.abs(direction.T @ direction - np.eye(3)).max() > _RIGHT_ANGLE:
        raise GeometryError(
            f"'{path.name}': a tilted stack (gantry tilt) fits into NIfTI only. Choose .nii.gz."
        )
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(value) for value in spacing[::-1]])
    image.SetDirection([float(value) for value in direction.ravel()])
    image.SetOrigin([float(value) for value in geometry.origin_xyz_mm])
    atomic_write(path, _sitk_writer(image))


def _sitk_writer(image: sitk.Image) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(_reason(error)) from error

    return write
