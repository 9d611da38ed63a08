"""The pixels of DICOM slices, as numbers with slope and intercept applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_decode import Wanted, quiet, unpack
from autoseg_lib.io.dicom_headers import truncated_text
from autoseg_lib.io.dicom_storage import BIG_ENDIAN, DEFLATED, PLAIN
from autoseg_lib.io.limits import check_memory
from autoseg_lib.io.slice_header import SliceHeader

_INT16 = np.iinfo(np.int16)
_RLE = "1.2.840.10008.1.2.5"
# Encodings that keep every bit of a stored value, unused ones too; the others keep the value alone.
_KEEPS_ALL_BITS = (*PLAIN, BIG_ENDIAN, DEFLATED, _RLE)
_VIDEO = "1.2.840.10008.1.2.4.10"  # MPEG-2, MPEG-4 and HEVC: .100 to .108
_STANDARD = "1.2.840.10008.1.2"


def read_pixels(headers: Sequence[SliceHeader]) -> npt.NDArray[Any]:
    """Reads the slices.

    Slope and intercept (or the modality table) are applied slice by slice: HU for CT. MONOCHROME1 images that are not
    CT are turned round so that bright means a large number.

    Returns:
        (slice, row, column) int16 where that is exact, else float32.

    Raises:
        DataError: a file is cut off, cannot be decoded, is in colour, or holds many slices tiled in one picture; or there
            is no memory for it.
    """
    for header in headers:
        text = why_refused(header)
        if text:
            raise DataError(text)
    first = headers[0]
    shape = (len(headers), first.rows, first.columns)
    fractions = any(not float(header.slope).is_integer() for header in headers)
    needed = math.prod(shape) * (4 if fractions else 2)
    check_memory(first.path.name, f"series of {len(headers)} slices of {first.rows}×{first.columns}", needed)
    array: npt.NDArray[Any] = np.empty(shape, dtype=np.float32 if fractions else np.int16)
    packed = []
    for index, header in enumerate(headers):
        if header.pixels.offset is None or header.pixels.has_modality_lut:
            packed.append(index)
        elif not _read_in_place(header, array[index]):
            array = _put(array, index, _values(header, _read_plain(header)))
    wanted = [
        Wanted(h.path, h.frame or 0, h.rows, h.columns, h.pixels.has_modality_lut, h.pixels.transfer_syntax)
        for h in (headers[index] for index in packed)
    ]
    with quiet():
        for number, stored in unpack(wanted):
            header = headers[packed[number]]
            array = _put(array, packed[number], _values(header, stored))
    return array


def why_refused(header: SliceHeader) -> str:
    """Returns the sentence with which a slice's pixels are refused, "" where its header gives no reason to."""
    name, pixels = header.path.name, header.pixels
    if pixels.missing_bytes:
        return f"'{name}': {truncated_text(pixels)}."
    if pixels.samples_per_pixel != 1 or pixels.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return (
            f"'{name}': found a colour picture ({pixels.photometric}), expected grey values. "
            "Export the original images, not screenshots or colour maps."
        )
    if "MOSAIC" in header.image_type:
        return (
            f"'{name}': found a mosaic (many slices tiled in one picture), expected one slice per picture. "
            "Convert the series with dcm2niix and use the .nii.gz file."
        )
    if pixels.bits_allocated not in (1, 8, 16, 32, 64):
        return (
            f"'{name}': found {pixels.bits_allocated} bits per pixel, expected 8, 16 or 32. Export it again."
        )
    if not pixels.transfer_syntax.startswith(_STANDARD):
        return (
            f"'{name}': its pixels are stored in a manufacturer's own way (private transfer syntax), which only their "
            "software reads. Export it again as uncompressed DICOM (Explicit VR Little Endian)."
        )
    if pixels.transfer_syntax.startswith(_VIDEO):
        return f"'{name}': found a video, expected images. Export the single images."
    return ""


def same_pixels(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices hold the same values; False where one cannot be read."""
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    try:
        return np.array_equal(read_pixels([one])[0], read_pixels([other])[0])
    except DataError:
        return False


def _put(array: npt.NDArray[Any], index: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Stores one slice; the whole array changes to float32 with the first slice that needs it."""
    if array.dtype == np.int16 and values.dtype != np.int16:
        array = array.astype(np.float32)
    array[index] = values
    return array


# --- stored values ------------------------------------------------------------------------------------------------------


def _read_in_place(header: SliceHeader, target: npt.NDArray[Any]) -> bool:
    """Reads a plain 16-bit slice where it belongs, without a copy; returns False where that is not exact.

    Args:
        header: the slice.
        target: (row, column) part of the volume, filled.
    """
    pixels = header.pixels
    usual = pixels.bits_allocated == 16 and target.dtype == np.dtype("<i2") and not _is_turned_round(header)
    if not (usual and float(header.slope).is_integer() and float(header.intercept).is_integer()):
        return False
    stored = target.view("<i2" if pixels.signed else "<u2")
    _fill(header, stored)
    _clean(stored, header)
    low, high = _ends(stored, header)
    if low < _INT16.min or high > _INT16.max:
        return False
    # Wrapping arithmetic modulo 2**16 is exact here because both ends fit.
    if header.slope != 1:
        target *= np.array(int(header.slope)).astype(np.int16)
    if header.intercept != 0:
        target += np.array(int(header.intercept)).astype(np.int16)
    return True


def _read_plain(header: SliceHeader) -> npt.NDArray[Any]:
    """Returns (row, column) stored values of a file whose pixels lie there as they are."""
    pixels = header.pixels
    if pixels.bits_allocated == 1:
        return _read_bits(header)
    kind = f"<{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}"
    raw = np.empty((header.rows, header.columns), dtype=kind)
    _fill(header, raw)
    _clean(raw, header)
    return raw


def _fill(header: SliceHeader, raw: npt.NDArray[Any]) -> None:
    start = (header.pixels.offset or 0) + (header.frame or 0) * raw.nbytes
    with header.path.open("rb", buffering=0) as stream:
        stream.seek(start)
        data = raw.data.cast("B")
        done = 0
        while done < len(data):
            count = stream.readinto(data[done:])
            if not count:
                raise DataError(
                    f"'{header.path.name}': the file has become shorter while it was read. Copy it again."
                )
            done += count


def _read_bits(header: SliceHeader) -> npt.NDArray[Any]:
    """Returns pixels of one bit each; frames follow each other without a gap (PS3.5 8.1.1)."""
    count = header.rows * header.columns
    first = (header.frame or 0) * count
    with header.path.open("rb") as stream:
        stream.seek((header.pixels.offset or 0) + first // 8)
        data = np.frombuffer(stream.read((first % 8 + count + 7) // 8), np.uint8)
    bits = np.unpackbits(data, bitorder="little")[first % 8 : first % 8 + count]
    return bits.reshape(header.rows, header.columns)


def _clean(raw: npt.NDArray[Any], header: SliceHeader) -> None:
    """Removes what old scanners hide in unused bits (overlays), and moves the value to the low bits, in place."""
    pixels = header.pixels
    spare = pixels.bits_allocated - pixels.bits_stored
    if (
        spare > 0
        and pixels.transfer_syntax in _KEEPS_ALL_BITS
        and raw.dtype.itemsize * 8 == pixels.bits_allocated
    ):
        # Shifting up drops the bits above the value; shifting down again drops those below it and restores the sign.
        raw <<= pixels.bits_allocated - 1 - pixels.high_bit
        raw >>= spare


# --- numbers that mean something ----------------------------------------------------------------------------------------


def _is_turned_round(header: SliceHeader) -> bool:
    return header.pixels.photometric == "MONOCHROME1" and header.modality != "CT"


def _values(header: SliceHeader, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns (row, column) int16 where exact, else float32."""
    pixels = header.pixels
    if pixels.has_modality_lut:
        return _fitted(stored, 1.0, 0.0)
    if pixels.offset is None and stored.dtype.kind in "iu":
        stored = stored.copy() if not stored.flags.writeable else stored
        _clean(stored, header)
    if _is_turned_round(header) and stored.dtype.kind in "iu":
        low, high = _range(header)
        stored = (low + high) - stored.astype(np.int64)
    return _fitted(stored, header.slope, header.intercept)


def _range(header: SliceHeader) -> tuple[int, int]:
    bits = header.pixels.bits_stored
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if header.pixels.signed else (0, (1 << bits) - 1)


def _ends(stored: npt.NDArray[Any], header: SliceHeader) -> tuple[int, int]:
    """Returns the smallest and largest value after slope and intercept, both whole numbers."""
    slope, intercept = int(header.slope), int(header.intercept)
    ends = int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept
    return min(ends), max(ends)


def _fitted(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    if float(slope).is_integer() and float(intercept).is_integer() and stored.dtype.kind in "iu":
        ends = [
            int(stored.min()) * int(slope) + int(intercept),
            int(stored.max()) * int(slope) + int(intercept),
        ]
        if min(ends) >= _INT16.min and max(ends) <= _INT16.max:
            if slope == 1 and intercept == 0:
                return stored.astype(np.int16, copy=False)
            values = stored.astype(np.int16)
            if slope != 1:
                values *= np.array(int(slope)).astype(np.int16)
            values += np.array(int(intercept)).astype(np.int16)
            return values
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
