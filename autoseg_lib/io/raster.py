"""Flat pictures and arrays: PNG, JPG, TIFF and NPY, as images and as labels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from autoseg_lib.errors import DataError
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.volume_files import as_labels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
LABEL_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff")

# JPEG of good quality changes flat areas by no more than this many grey levels; more means lost edges.
JPG_TOLERANCE = 2
# Codes closer than this cannot be told apart within the tolerance on both sides.
_JPG_CODE_DISTANCE = 2 * JPG_TOLERANCE + 1


@dataclass(frozen=True, eq=False)
class LabelImage:
    """One label slice.

    Attributes:
        array: (row, column) unsigned label values.
        warning: a sentence for the user, or None.
    """

    array: npt.NDArray[np.unsignedinteger] = field(repr=False)
    warning: str | None = None


def read_image(path: Path) -> npt.NDArray[Any]:
    """Reads a picture as (row, column) grey values.

    Raises:
        DataError: damaged, in colour, or not two-dimensional.
    """
    pixels = _read(path, "image", indices=False)
    grey = _one_channel(pixels)
    if grey is None:
        raise DataError(
            f"image '{path.name}': found a colour picture, expected grey values. "
            "Export the original images, or save the picture as grey."
        )
    if grey.dtype.kind not in "iufb":
        raise DataError(f"image '{path.name}': found values of type {grey.dtype}, expected numbers.")
    return grey.astype(np.uint8) if grey.dtype.kind == "b" else grey


def read_label(path: Path, num_labels: int | None = None) -> LabelImage:
    """Reads a label slice: the stored values are the ROI numbers.

    Args:
        path: .npy, .png, .tif; a .jpg only where every pixel can be told for sure.
        num_labels: number of ROIs where known; JPG files need it for more than one ROI.

    Raises:
        DataError: damaged, in colour, interpolated, a pickled array, or a JPG that cannot be told apart.
    """
    pixels = _read(path, "label", indices=True)
    grey = _one_channel(pixels)
    if grey is None:
        raise DataError(
            f"label '{path.name}': found colours; expected one grey value per ROI (0 background, 1, 2, ...). "
            "Save the label as a grey or indexed PNG, or as .npy."
        )
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return _jpg_label(path, grey, num_labels)
    return LabelImage(as_labels(grey, path.name))


def write_mask_png(path: Path, array: npt.NDArray[np.unsignedinteger]) -> None:
    """Writes label values without loss: 8-bit PNG, 16-bit above 255.

    Raises:
        ExportError: it cannot be written.
    """
    kind = np.uint8 if int(array.max(initial=0)) <= 255 else np.uint16
    picture = Image.fromarray(np.ascontiguousarray(array.astype(kind)))
    atomic_write(path, lambda temporary: picture.save(temporary, format="PNG"))


def write_mask_npy(path: Path, array: npt.NDArray[np.unsignedinteger]) -> None:
    """Writes label values as .npy (no pickle).

    Raises:
        ExportError: it cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)

    atomic_write(path, write)


def write_jpg(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    """Writes a (row, column, 3) picture to look at.

    Raises:
        ExportError: it cannot be written.
    """
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    atomic_write(path, lambda temporary: picture.save(temporary, format="JPEG", quality=90))


def picture_size(path: Path) -> tuple[int, int] | None:
    """Returns (rows, columns) from the header alone, None where it cannot be told."""
    try:
        return _header_size(path)
    except DataError:
        return None


def check_picture_header(path: Path) -> None:
    """Checks from the header alone that a file is a picture or an array; its pixels are not looked at.

    Raises:
        DataError: it is none.
    """
    _header_size(path)


def _header_size(path: Path) -> tuple[int, int]:
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise DataError(f"image '{path.name}': the file is empty (0 bytes). Copy or save it again.")
        if suffix == ".npy":
            return _npy_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if suffix in (".tif", ".tiff"):
                with tifffile.TiffFile(path) as tiff:
                    shape = tiff.series[0].shape
                return int(shape[0]), int(shape[1])
            with Image.open(path) as picture:
                return picture.height, picture.width
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  # decoders raise anything on damaged files
        raise DataError(
            f"image '{path.name}': it cannot be read as a picture ({_first_line(error)}). Copy or save it again."
        ) from None


def _npy_size(path: Path) -> tuple[int, int]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        array = None
    if isinstance(array, np.ndarray):
        plane = _plane(array, path, "image")
    else:
        if array is not None:
            array.close()
        plane = _npy(path, "image", path.read_bytes())  # says what it is instead
    return int(plane.shape[0]), int(plane.shape[1])


# --- decoding ---------------------------------------------------------------------------------------------------------


def _read(path: Path, what: str, *, indices: bool) -> npt.NDArray[Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{what} '{path.name}': it cannot be opened ({error.strerror}). Check the path."
        ) from None
    if not data:
        raise DataError(f"{what} '{path.name}': the file is empty (0 bytes). Copy or save it again.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _npy(path, what, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = _tiff(data) if suffix in (".tif", ".tiff") else _picture(data, indices)
    except Exception as error:  # noqa: BLE001  # decoders raise anything on damaged files
        raise DataError(
            f"{what} '{path.name}': it cannot be read as a picture ({_first_line(error)}). Copy or save it again."
        ) from None
    if array.ndim == 3 and array.shape[2] in (1, 2, 3, 4):
        return array
    if array.ndim != 2:
        raise DataError(
            f"{what} '{path.name}': found the shape {array.shape}, expected one picture. Save each slice as a file of its own."
        )
    return array


def _npy(path: Path, what: str, data: bytes) -> npt.NDArray[Any]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{what} '{path.name}': found Python objects instead of numbers; such files can run code, so it was not "
                "opened. Save it again with numpy.save(name, array) from an array of numbers."
            ) from None
        raise DataError(
            f"{what} '{path.name}': it is not an .npy file of numbers or is cut off. Save it again."
        ) from None
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{what} '{path.name}': found an archive of arrays, expected one array. Save it with numpy.save."
        )
    return _plane(array, path, what)


def _plane(array: npt.NDArray[Any], path: Path, what: str) -> npt.NDArray[Any]:
    squeezed = array if array.ndim <= 2 else array.reshape([n for n in array.shape if n != 1] or [1])
    if squeezed.ndim == 3 and squeezed.shape[2] in (3, 4):
        return squeezed
    if squeezed.ndim != 2 or squeezed.size == 0:
        raise DataError(
            f"{what} '{path.name}': found the shape {array.shape}, expected (rows, columns). "
            "Save each slice as a file of its own, or the volume as .nii.gz."
        )
    return squeezed


def _tiff(data: bytes) -> npt.NDArray[Any]:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        array = tiff.asarray()
        return array.squeeze() if array.ndim > 3 or 1 in array.shape[:1] else array


def _picture(data: bytes, indices: bool) -> npt.NDArray[Any]:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        mode = picture.mode
        if mode == "P" and not indices:
            return np.asarray(picture.convert("RGBA" if "transparency" in picture.info else "RGB"))
        if mode in ("CMYK", "YCbCr", "LAB", "HSV", "PA"):
            return np.asarray(picture.convert("RGB"))
        # Mode "1" gives False and True; "P" gives the indices, which are the ROI numbers of an indexed PNG.
        return np.asarray(picture)


def _one_channel(pixels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Returns (row, column) where all colour channels are equal and nothing is transparent, else None."""
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[2]
    colours = 1 if channels <= 2 else 3
    if channels in (2, 4):
        alpha = pixels[..., -1]
        solid = 255 if pixels.dtype == np.uint8 else 65535 if pixels.dtype == np.uint16 else 1
        if not np.all(alpha == solid):
            return None
    first = pixels[..., 0]
    return first if all(np.array_equal(first, pixels[..., c]) for c in range(1, colours)) else None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    # Pillow names the memory buffer it read from, which says nothing to a user.
    return "unknown format" if not text or "BytesIO" in text[0] else text[0][:120].rstrip(".")


# --- JPG labels -------------------------------------------------------------------------------------------------------


def _jpg_label(path: Path, grey: npt.NDArray[Any], num_labels: int | None) -> LabelImage:
    """Tells the ROIs of a JPG label apart where that is certain.

    The codes are 0 and 255 for one ROI, else spread evenly: round(255 * k / num_labels). With num_labels unknown only
    0 and 255 are taken: which ROI a grey of 128 is, one file alone cannot say.
    """
    count = num_labels or 1
    codes = np.array([round(255 * k / count) for k in range(count + 1)])
    found = np.unique(grey)
    if np.diff(codes).min(initial=255) >= _JPG_CODE_DISTANCE:
        nearest = np.abs(found[:, None].astype(int) - codes[None, :]).argmin(axis=1)
        off = np.abs(found.astype(int) - codes[nearest])
        # Raw values 1, 2 lie "near" the background too: a file with only those says nothing.
        lost = bool(nearest.max(initial=0) == 0 and found.max(initial=0) > 0)
        if off.max(initial=0) <= JPG_TOLERANCE and not lost:
            table = np.zeros(256, dtype=np.uint8)
            table[found] = nearest
            return LabelImage(
                table[grey],
                f"label '{path.name}' is a JPG, which changes values when saved; it could be read here, "
                "but save labels as PNG.",
            )
    shown = ", ".join(str(value) for value in found[:8]) + (", ..." if len(found) > 8 else "")
    expected = ", ".join(str(code) for code in codes[:8]) + (", ..." if len(codes) > 8 else "")
    unknown = "" if num_labels else " If there are several ROIs, set num_labels."
    raise DataError(
        f"label '{path.name}': the ROIs of this JPG cannot be told apart: found the grey values {shown}; expected only "
        f"values within {JPG_TOLERANCE} of {expected}. Save the labels as PNG or .npy.{unknown}"
    )
