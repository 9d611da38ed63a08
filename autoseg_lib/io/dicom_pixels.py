"""The pixels of DICOM slices, as numbers with slope and intercept applied."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels import apply_modality_lut

from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_headers import open_dicom, truncated_text
from autoseg_lib.io.slice_header import SliceHeader

_INT16 = np.iinfo(np.int16)


def read_pixels(headers: Sequence[SliceHeader]) -> npt.NDArray[Any]:
    """Reads the slices one after the other.

    Slope and intercept (or the modality table) are applied slice by slice: HU for CT. MONOCHROME1 images that are not
    CT are turned round so that bright means a large number.

    Returns:
        (slice, row, column) int16 where that is exact, else float32.

    Raises:
        DataError: a file is cut off, cannot be decoded, is in colour, or holds many slices tiled in one picture.
    """
    for header in headers:
        _refuse(header)
    array = np.empty((len(headers), headers[0].rows, headers[0].columns), dtype=np.int16)
    decoder = _Decoder()
    for index, header in enumerate(headers):
        values = _values(header, decoder)
        if array.dtype == np.int16 and values.dtype != np.int16:
            array = array.astype(np.float32)
        array[index] = values
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
    return ""


def _refuse(header: SliceHeader) -> None:
    text = why_refused(header)
    if text:
        raise DataError(text)


# --- stored values ------------------------------------------------------------------------------------------------------


class _Decoder:
    """Decodes files that need it; keeps the last multi-frame file, whose frames come one after the other."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: npt.NDArray[Any] | None = None
        self._dataset: Any = None

    def stored(self, header: SliceHeader) -> tuple[npt.NDArray[Any], Any]:
        """Returns (row, column) stored values and the file's dataset."""
        if self._path != header.path or self._frames is None:
            # Decoders log to the root of pydicom; the DataError below says all a user can act on.
            logger = logging.getLogger("pydicom")
            level = logger.level
            logger.setLevel(logging.CRITICAL)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._dataset = open_dicom(header.path)
                    self._frames = np.asarray(self._dataset.pixel_array)
            except Exception as error:  # decoders raise anything
                raise DataError(
                    f"'{header.path.name}': its pixels cannot be decoded ({_short(error)}). The file is damaged or "
                    "uses a compression that is not supported. Export it again, uncompressed."
                ) from error
            finally:
                logger.setLevel(level)
            self._path = header.path
        frames = self._frames
        found = frames if header.pixels.frames == 1 else frames[header.frame or 0]
        if found.shape != (header.rows, header.columns):
            raise DataError(
                f"'{header.path.name}': its pixels are {found.shape}, its header says {header.rows}×{header.columns}. "
                "The file is damaged; export it again."
            )
        return found, self._dataset


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(":. ")[:120] if text else type(error).__name__


def _stored(header: SliceHeader, decoder: _Decoder) -> tuple[npt.NDArray[Any], Any]:
    pixels = header.pixels
    if pixels.offset is None or pixels.bits_allocated not in (8, 16, 32) or pixels.has_modality_lut:
        return decoder.stored(header)
    kind = f"<{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}"
    count = header.rows * header.columns
    start = pixels.offset + (header.frame or 0) * count * pixels.bits_allocated // 8
    raw = np.fromfile(header.path, dtype=kind, count=count, offset=start)
    if raw.size != count:
        raise DataError(
            f"'{header.path.name}': the file has become shorter while it was read. Copy it again."
        )
    return _clean(raw, header).reshape(header.rows, header.columns), None


def _clean(raw: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[Any]:
    """Removes what old scanners hide in unused bits (overlays), and moves the value to the low bits."""
    pixels = header.pixels
    spare = pixels.bits_allocated - pixels.bits_stored
    if spare <= 0 or pixels.bits_stored < 1:
        return raw
    above = max(0, pixels.bits_allocated - 1 - pixels.high_bit)
    # Shifting up drops the bits above the value; shifting down again drops those below it and restores the sign.
    return (raw << above) >> spare


# --- numbers that mean something ----------------------------------------------------------------------------------------


def _values(header: SliceHeader, decoder: _Decoder) -> npt.NDArray[Any]:
    """Returns (row, column) int16 where exact, else float32."""
    stored, dataset = _stored(header, decoder)
    if header.pixels.has_modality_lut and dataset is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _fitted(np.asarray(apply_modality_lut(stored, dataset)), 1.0, 0.0)
    if header.pixels.photometric == "MONOCHROME1" and header.modality != "CT":
        low, high = _range(header)
        stored = (low + high) - stored.astype(np.int64)
    return _fitted(stored, header.slope, header.intercept)


def _range(header: SliceHeader) -> tuple[int, int]:
    bits = header.pixels.bits_stored
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if header.pixels.signed else (0, (1 << bits) - 1)


def _fitted(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    whole = float(slope).is_integer() and float(intercept).is_integer() and stored.dtype.kind in "iu"
    if whole and math.isfinite(slope):
        ends = [
            int(stored.min()) * int(slope) + int(intercept),
            int(stored.max()) * int(slope) + int(intercept),
        ]
        if min(ends) >= _INT16.min and max(ends) <= _INT16.max:
            if slope == 1 and intercept == 0:
                return stored.astype(np.int16, copy=False)
            # Wrapping arithmetic modulo 2**16 is exact here because both ends fit.
            values = stored.astype(np.int16)
            if slope != 1:
                values *= np.array(int(slope)).astype(np.int16)
            values += np.array(int(intercept)).astype(np.int16)
            return values
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
