"""Flat pictures and arrays: PNG, JPG, TIFF and NPY, as images and as labels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from autoseg_lib.errors import DataError
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.label_codes import pack_colours, pack_planes
from autoseg_lib.io.picture_limits import open_tiff, read_bytes
from autoseg_lib.io.volume_files import as_labels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
LABEL_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Files that can hold all slices of a scan, page by page.
STACK_SUFFIXES = (".tif", ".tiff", ".npy")

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
    pixels = _read(path, "image")
    grey = _one_channel(pixels)
    if grey is None:
        raise DataError(
            f"image '{path.name}': found a colour picture, expected grey values. "
            "Export the original images, or save the picture as grey."
        )
    if grey.dtype.kind not in "iufb":
        raise DataError(f"image '{path.name}': found values of type {grey.dtype}, expected numbers.")
    return grey.astype(np.uint8) if grey.dtype.kind == "b" else grey


def read_label(path: Path, num_labels: int | None = None, codes: Sequence[int] = ()) -> LabelImage:
    """Reads a label slice: the stored values, ROI numbers or codes for them (see ``io.label_codes``).

    Args:
        path: .npy, .png, .tif; a .jpg only where every pixel can be told for sure.
        num_labels: number of ROIs where known; JPG files need it for more than one ROI.
        codes: the grey values that the user says mark ROIs; JPG files are told apart by them.

    Raises:
        DataError: damaged, interpolated, a pickled array, a picture with soft edges, or a JPG that cannot be told apart.
    """
    pixels, note = _read_marks(path)
    name = path.name
    if path.suffix.lower() in (".jpg", ".jpeg"):
        grey = _one_channel(pixels)
        if grey is None:
            raise DataError(
                f"label '{name}': found a JPG in colours, which change when a JPG is saved, so the ROIs cannot be told apart. "
                "Save the label as PNG, with one value or colour per ROI."
            )
        return _jpg_label(path, grey, num_labels, codes)
    if pixels.ndim == 3 and _is_one_hot(pixels):
        return LabelImage(_one_hot(np.moveaxis(pixels, _plane_axis(pixels), 0), path), note)
    if pixels.ndim == 2:
        return LabelImage(as_labels(pixels, name), note)
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    visible, transparent = _visible(pixels, path)
    grey = _one_channel(visible)
    if grey is not None:
        return LabelImage(as_labels(grey, name), note or transparent)
    if visible.dtype.kind in "bui" and int(visible.max()) <= 1:
        return LabelImage(_one_hot(np.moveaxis(visible, 2, 0), path), note or transparent)
    if visible.dtype != np.uint8 or colours != 3:
        raise DataError(
            f"label '{name}': found colours of type {visible.dtype}; expected one value per ROI (0 background, 1, 2, ...), or "
            "colours of 8 bits. Save the label as a grey or indexed PNG, or as .npy."
        )
    packed = pack_colours(visible)
    return LabelImage(packed, note or transparent)


def read_label_stack(path: Path) -> npt.NDArray[np.unsignedinteger]:
    """Reads a label file of several pages: a multi-page TIFF (ImageJ stack), or an .npy of (slice, row, column).

    Returns:
        (page, row, column) stored values, in the file's order.

    Raises:
        DataError: damaged, or no stack of pages.
    """
    data = _bytes_of(path, "label")
    if path.suffix.lower() == ".npy":
        array = _npy_array(path, "label", data)
    else:
        tiff = _decoded(path, "label", lambda: _tiff_of(data))
        _refuse_inverted(tiff, path)
        array = tiff.pages
    if array.ndim != 3 or array.size == 0:
        raise DataError(
            f"label '{path.name}': found the shape {array.shape}, expected pages of rows and columns (page, row, column). "
            "Save one label file per slice."
        )
    return as_labels(array, path.name)


def page_count(path: Path) -> int:
    """Returns how many pages a label file has, from its header; 1 where it is a single picture or cannot be told."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return int(array.shape[0]) if isinstance(array, np.ndarray) and array.ndim == 3 else 1
        if path.suffix.lower() in (".tif", ".tiff"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with open_tiff(path) as tiff:
                    series = tiff.series[0]
                    colour = series.axes.endswith("S")
                    planes = series.shape[:-3] if colour else series.shape[:-2]
                    return int(np.prod(planes, initial=1))
    except Exception:  # noqa: BLE001  # decoders raise anything on damaged files; reading them tells what is wrong
        return 1
    return 1


Read = TypeVar("Read")

# Decoders let go of Python's lock, so that two files are read at a time; more gain little beside the disk. Of a long list, so
# many are in memory at once.
_THREADS, _AT_A_TIME = 2, 16


def in_threads(read: Callable[[Path], Read], files: Sequence[Path]) -> Iterator[Read]:
    """Yields ``read(file)`` for each file in order, reading ahead a little.

    Args:
        read: reads one file; what it raises is raised here, at that file.
        files: the files.
    """
    if len(files) < 4:
        yield from map(read, files)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(files), _AT_A_TIME):
            yield from pool.map(read, files[first : first + _AT_A_TIME])


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
                with open_tiff(path) as tiff:
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
        plane = _npy_array(path, "image", read_bytes(path, "image"))  # says what it is instead
    return int(plane.shape[0]), int(plane.shape[1])


# --- decoding ---------------------------------------------------------------------------------------------------------


_CHANNELS = (1, 2, 3, 4)

# A one-hot stack has one plane per ROI; the settings know at most so many ROIs, and the background.
_MOST_PLANES = 255


def _bytes_of(path: Path, what: str) -> bytes:
    try:
        data = read_bytes(path, what)
    except OSError as error:
        raise DataError(
            f"{what} '{path.name}': it cannot be opened ({error.strerror}). Check the path."
        ) from None
    if not data:
        raise DataError(f"{what} '{path.name}': the file is empty (0 bytes). Copy or save it again.")
    return data


Decoded = TypeVar("Decoded")


def _decoded(path: Path, what: str, decode: Callable[[], Decoded]) -> Decoded:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode()
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  # decoders raise anything on damaged files
        raise DataError(
            f"{what} '{path.name}': it cannot be read as a picture ({_first_line(error)}). Copy or save it again."
        ) from None


def _read(path: Path, what: str) -> npt.NDArray[Any]:
    """Reads an image's pixels: (row, column) or (row, column, channel), as a viewer shows them."""
    data = _bytes_of(path, what)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _plane(_npy_array(path, what, data), path, what)
    if suffix in (".tif", ".tiff"):
        tiff = _decoded(path, what, lambda: _tiff_of(data))
        return _single(tiff.shown(), path, what)
    return _single(_decoded(path, what, lambda: _picture(data, indices=False)), path, what)


def _read_marks(path: Path) -> tuple[npt.NDArray[Any], str | None]:
    """Reads a label's pixels as they are stored, and a sentence for the user."""
    data = _bytes_of(path, "label")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = _npy_array(path, "label", data)
        if array.ndim == 3 and 1 not in array.shape and _is_one_hot(array):
            return array, None
        if array.ndim == 3 and _has_planes(array) and not array.any():
            return array.max(axis=_plane_axis(array)), None  # a one-hot stack with nothing drawn
        return _plane(array, path, "label"), None
    if suffix in (".tif", ".tiff"):
        tiff = _decoded(path, "label", lambda: _tiff_of(data))
        note = _refuse_inverted(tiff, path)
        if tiff.pages.ndim == 3 and not tiff.has_channels and len(tiff.pages) > 1:
            if _is_one_hot(tiff.pages):
                return tiff.pages, note
            if _has_planes(tiff.pages) and not tiff.pages.any():
                return tiff.pages.max(axis=_plane_axis(tiff.pages)), note
            raise DataError(
                f"label '{path.name}': found {len(tiff.pages)} pages, expected one for this slice. Save each slice as a file of "
                "its own, or give the stack the name of its scan's folder."
            )
        return _single(tiff.pages, path, "label"), note
    return _single(_decoded(path, "label", lambda: _picture(data, indices=True)), path, "label"), None


def _single(array: npt.NDArray[Any], path: Path, what: str) -> npt.NDArray[Any]:
    if array.ndim == 3 and array.shape[0] == 1 and array.shape[2] not in _CHANNELS:
        array = array[0]
    if array.ndim == 3 and array.shape[2] in _CHANNELS:
        return array
    if array.ndim != 2:
        raise DataError(
            f"{what} '{path.name}': found the shape {array.shape}, expected one picture. Save each slice as a file of its own."
        )
    return array


# --- one-hot stacks and transparency ----------------------------------------------------------------------------------


def _plane_axis(array: npt.NDArray[Any]) -> int:
    """Returns the axis of the planes of a one-hot stack: the first or last, whichever is shorter."""
    return 0 if array.shape[0] < array.shape[2] else 2


def _has_planes(array: npt.NDArray[Any]) -> bool:
    """Whether an array of three axes has the shape of a one-hot stack: a few planes of more rows and columns."""
    axis = _plane_axis(array)
    if array.dtype.kind not in "buif" or not 2 <= array.shape[axis] <= _MOST_PLANES:
        return False
    # As many planes as rows: slices of a volume, not ROIs.
    return array.shape[axis] < min(size for other, size in enumerate(array.shape) if other != axis)


def _is_one_hot(array: npt.NDArray[Any]) -> bool:
    """Whether an array is several planes of 0 and 1 that do not overlap, something drawn in one of them."""
    if not _has_planes(array):
        return False
    if array.size == 0 or array.min() < 0 or array.max() != 1 or not np.isin(np.unique(array), (0, 1)).all():
        return False
    return int(array.astype(bool).sum(axis=_plane_axis(array)).max()) == 1


def _one_hot(planes: npt.NDArray[Any], path: Path) -> npt.NDArray[np.unsignedinteger]:
    marked = planes.astype(bool)
    overlap = int((marked.sum(axis=0) > 1).sum())
    if overlap:
        raise DataError(
            f"label '{path.name}': found {len(planes)} planes of 0 and 1 that overlap on {overlap} pixels; expected one ROI per "
            "pixel. Save a label with one number per pixel (0 background, 1, 2, ...)."
        )
    return pack_planes(marked)


def _visible(pixels: npt.NDArray[Any], path: Path) -> tuple[npt.NDArray[Any], str | None]:
    """Returns the channels without transparency, 0 where a pixel is wholly transparent, and a sentence for the user."""
    channels = pixels.shape[2]
    if channels not in (2, 4):
        return pixels, None
    alpha, colours = pixels[..., -1], pixels[..., :-1]
    solid = 255 if pixels.dtype == np.uint8 else 65535 if pixels.dtype == np.uint16 else 1
    if np.all(alpha == solid):
        return colours, None
    hidden = alpha == 0
    drawn = np.where(hidden[..., None], 0, colours)
    if not np.all(hidden | (alpha == solid)) or not drawn.any():
        raise DataError(
            f"label '{path.name}': found a picture whose drawing lies in its transparency; expected one value per ROI "
            "(0 background, 1, 2, ...). Save it without transparency, as a grey or indexed PNG."
        )
    return drawn, f"label '{path.name}': its transparent pixels are taken as background."


def _npy_array(path: Path, what: str, data: bytes) -> npt.NDArray[Any]:
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
    return array


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


@dataclass(frozen=True, eq=False)
class _Tiff:
    """A decoded TIFF.

    Attributes:
        pages: stored values, (row, column), (row, column, channel) or (page, row, column).
        has_channels: whether the last axis is colour.
        inverted: whether the file says that 0 is white.
        by_imagej: whether ImageJ or Fiji wrote it.
        palette: (entry, 3) colours of 8 bits for stored values, or None.
    """

    pages: npt.NDArray[Any]
    has_channels: bool
    inverted: bool
    by_imagej: bool
    palette: npt.NDArray[np.uint8] | None

    def shown(self) -> npt.NDArray[Any]:
        """Returns the picture as a viewer shows it: 0 black, colours of a palette applied."""
        if self.palette is not None and self.pages.dtype.kind in "ub":
            return self.palette[self.pages]
        if self.inverted and self.pages.dtype.kind in "ub":
            return ~self.pages
        return self.pages


def _tiff_of(data: bytes) -> _Tiff:
    with open_tiff(io.BytesIO(data)) as tiff:
        page, series = tiff.pages.first, tiff.series[0]
        inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        by_imagej = bool(tiff.is_imagej)
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
        try:
            array, axes = series.asarray(), series.axes
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            # LZW and fax compression: Pillow knows them. It shows 0 as white already, which is undone here.
            array, axes = _pillow_pages(data)
            if inverted and array.dtype.kind in "ub":
                array = ~array
    colour = "S" in axes
    if colour:
        array = np.moveaxis(array, axes.index("S"), -1)
    rows_columns = array.shape[-3:] if colour else array.shape[-2:]
    leading = int(np.prod(array.shape[: array.ndim - len(rows_columns)], initial=1))
    shape = rows_columns if leading == 1 else (leading, *rows_columns)
    return _Tiff(array.reshape(shape), colour, inverted, by_imagej, palette)


def _pillow_pages(data: bytes) -> tuple[npt.NDArray[Any], str]:
    """Reads all pages of a TIFF with Pillow. Returns them with the letters of their axes, as tifffile writes them."""
    pages = []
    with Image.open(io.BytesIO(data)) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            pages.append(np.asarray(picture))
    array = pages[0] if len(pages) == 1 else np.stack(pages)
    letters = "YXS" if pages[0].ndim == 3 else "YX"
    return array, letters if len(pages) == 1 else "I" + letters


def _refuse_inverted(tiff: _Tiff, path: Path) -> str | None:
    """Says how a TIFF whose 0 is white is read; ImageJ calls that an inverting LUT and means the stored values.

    Raises:
        DataError: another program wrote it, so that it is not certain whether black or white is meant.
    """
    if not tiff.inverted:
        return None
    if tiff.by_imagej:
        return (
            f"label '{path.name}': ImageJ saved it with an inverting LUT (shown black on white); its stored values are used, as "
            "ImageJ itself does."
        )
    raise DataError(
        f"label '{path.name}': found a TIFF that calls 0 white, so it is not certain whether its black or its white pixels are "
        "meant. Save it as a grey PNG with 0 for the background."
    )


# Byte positions in a PNG's first chunk (PNG specification, 11.2.2 IHDR).
_PNG_SIGNATURE, _PNG_DEPTH, _PNG_COLOUR = b"\x89PNG\r\n\x1a\n", 24, 25
_PNG_GREY, _PNG_PALETTE = 0, 3


def _picture(data: bytes, indices: bool) -> npt.NDArray[Any]:
    depth = colour = -1
    if data[:8] == _PNG_SIGNATURE and len(data) > _PNG_COLOUR:
        depth, colour = data[_PNG_DEPTH], data[_PNG_COLOUR]
    deep = depth == 16 and colour != _PNG_GREY
    if deep or (colour == _PNG_GREY and depth in (8, 16)):
        # OpenCV is the quicker decoder here, and Pillow would cut colours of 16 bits down to 8.
        array = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if data[-8:-4] == b"IEND"
            else None
        )
        if array is not None and array.ndim == 2:
            return array
        if array is not None and deep:
            return np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        mode = picture.mode
        if deep:
            raise ValueError("damaged or of an unknown kind")
        if mode == "P" and not indices:
            return np.asarray(picture.convert("RGBA" if "transparency" in picture.info else "RGB"))
        if mode in ("CMYK", "YCbCr", "LAB", "HSV", "PA"):
            return np.asarray(picture.convert("RGB"))
        # Mode "1" gives False and True; "P" gives the indices, which are the ROI numbers of an indexed PNG.
        array = np.asarray(picture)
    if indices and colour == _PNG_GREY and depth in (2, 4):
        return array // (255 // (2**depth - 1))  # Pillow spreads the stored values over 0 to 255
    return array


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


def _jpg_label(
    path: Path, grey: npt.NDArray[Any], num_labels: int | None, given: Sequence[int]
) -> LabelImage:
    """Tells the ROIs of a JPG label apart where that is certain.

    The codes are those the user gave; else 0 and 255 for one ROI, or spread evenly: round(255 * k / num_labels). With
    num_labels unknown only 0 and 255 are taken: which ROI a grey of 128 is, one file alone cannot say. Codes that the user
    gave are kept as they are (the map turns them into ROI numbers); others become 0, 1, 2, ...
    """
    count = num_labels or 1
    told = sorted({0, *(code for code in given if 0 < code <= 255)})
    codes = np.array(told if len(told) > 1 else [round(255 * k / count) for k in range(count + 1)])
    meant = codes if len(told) > 1 else np.arange(len(codes))
    found = np.unique(grey)
    if np.diff(codes).min(initial=255) >= _JPG_CODE_DISTANCE:
        nearest = np.abs(found[:, None].astype(int) - codes[None, :]).argmin(axis=1)
        off = np.abs(found.astype(int) - codes[nearest])
        # Raw values 1, 2 lie "near" the background too: a file with only those says nothing.
        lost = bool(nearest.max(initial=0) == 0 and found.max(initial=0) > 0)
        if off.max(initial=0) <= JPG_TOLERANCE and not lost:
            table = np.zeros(256, dtype=np.uint8)
            table[found] = meant[nearest]
            shown = ", ".join(
                f"{code} as {value}" for code, value in zip(codes[1:5], meant[1:5], strict=True)
            )
            more = ", ..." if len(codes) > 5 else ""
            return LabelImage(
                table[grey],
                f"label '{path.name}' is a JPG, which changes values when saved; it could be read here (grey {shown}{more}), "
                "but save labels as PNG.",
            )
    shown = ", ".join(str(value) for value in found[:8]) + (", ..." if len(found) > 8 else "")
    expected = ", ".join(str(code) for code in codes[:8]) + (", ..." if len(codes) > 8 else "")
    unknown = "" if num_labels or len(told) > 1 else " If there are several ROIs, set num_labels."
    raise DataError(
        f"label '{path.name}': the ROIs of this JPG cannot be told apart: found the grey values {shown}; expected only "
        f"values within {JPG_TOLERANCE} of {expected}. Save the labels as PNG or .npy.{unknown}"
    )
