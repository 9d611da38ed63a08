"""The frames of a DICOM segmentation as numbers, whatever way they are stored.

Single bits are packed without regard to where a frame or row begins (DICOM PS3.5, 8.1.1), so a frame may begin in the
middle of a byte. Some encodings of single bits are outside what pydicom decodes (RLE, deflated frames); they are taken
apart here. Sizes come from the header and are checked against the file before anything is allocated.
"""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_values import integer_of
from autoseg_lib.io.limits import check_picture_size

_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_RLE = "1.2.840.10008.1.2.5"
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.20")
# JPEG 2000's SIZ marker gives width and height at these bytes of the codestream (ISO 15444-1, A.5.1).
_J2K_START = b"\xff\x4f\xff\x51"
# An RLE header is 64 bytes: the number of segments and where each begins (DICOM PS3.5, G.5).
_RLE_HEADER = 64


class SegFrames:
    """Reads frames one at a time.

    Attributes:
        name: the file's name.
        rows, columns: size of each frame.
        count: number of frames.
        bits: bits per pixel, 1, 8 or 16.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        """Args:
            path: the file, for messages.
            dataset: the file, read; its transfer syntax known.

        Raises:
            DataError: sizes are missing or do not fit the file.
        """
        self.name, self._dataset = path.name, dataset
        self.rows, self.columns = integer_of(dataset, "Rows") or 0, integer_of(dataset, "Columns") or 0
        self.count = max(1, integer_of(dataset, "NumberOfFrames") or 1)
        self.bits = integer_of(dataset, "BitsAllocated") or 0
        if self.rows < 1 or self.columns < 1 or self.bits not in (1, 8, 16):
            raise DataError(
                f"'{self.name}': found {self.rows} × {self.columns} pixels of {self.bits} bits, which is no segmentation. "
                "The file is damaged; export it again."
            )
        check_picture_size(self.name, self.rows, self.columns)
        self._syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
        element: Any = dataset.get_item(_PIXEL_DATA) if _PIXEL_DATA in dataset else None
        raw = getattr(element, "value", None)
        if not isinstance(raw, bytes) or not raw:
            raise DataError(f"'{self.name}': it holds no pixels. Export it again.")
        self._words = str(element.VR or "OW") == "OW"
        self._encoded: list[bytes] = []
        self._raw = b""
        # Compressed pixels are a sequence of items; their length is never known beforehand (DICOM PS3.5, A.4).
        if getattr(element, "length", 0) == _UNDEFINED or getattr(element, "is_undefined_length", False):
            self._encoded = list(generate_frames(raw, number_of_frames=self.count))
            held = len(self._encoded)
        else:
            self._raw = _words_turned(raw) if self._syntax == _BIG_ENDIAN and self._words else raw
            held = len(raw) * 8 // (self.rows * self.columns * self.bits)
        if held < self.count:
            raise DataError(
                f"'{self.name}': found {held} complete frames, its header says {self.count}; the file ends early or is "
                "damaged. Copy or export it again."
            )

    def read(self, index: int) -> npt.NDArray[np.unsignedinteger]:
        """Returns the (row, column) stored values of one frame, from 0.

        Raises:
            DataError: it cannot be decoded.
        """
        return self._decoded(index) if self._encoded else self._plain(index)

    def _plain(self, index: int) -> npt.NDArray[np.unsignedinteger]:
        pixels = self.rows * self.columns
        if self.bits == 1:
            return self._from_bits(self._raw, index * pixels)
        # Big-endian data were turned round word by word: bytes are in order now, and words are little-endian.
        big = self._syntax == _BIG_ENDIAN and not self._words
        kind = "u1" if self.bits == 8 else ">u2" if big else "<u2"
        size = pixels * self.bits // 8
        found = np.frombuffer(self._raw, dtype=kind, count=pixels, offset=index * size)
        return found.reshape(self.rows, self.columns).astype(found.dtype.newbyteorder("="))

    def _from_bits(self, packed: bytes, first: int) -> npt.NDArray[np.unsignedinteger]:
        pixels = self.rows * self.columns
        start, skip = divmod(first, 8)
        part = np.frombuffer(packed, dtype=np.uint8, count=math.ceil((skip + pixels) / 8), offset=start)
        bits = np.unpackbits(part, bitorder="little")[skip : skip + pixels]
        return bits.reshape(self.rows, self.columns)

    def _decoded(self, index: int) -> npt.NDArray[np.unsignedinteger]:
        encoded = self._encoded[index]
        needed = math.ceil(self.rows * self.columns * self.bits / 8)
        try:
            if self._syntax == _DEFLATED_FRAMES:
                return self._unpacked(_inflated(encoded, needed))
            if self._syntax == _RLE and self.bits == 1:
                return self._unpacked(_run_lengths(encoded, self.rows * self.columns))
            if self._syntax in _JPEG_2000:
                self._check_j2k(encoded)
            return self._by_pydicom(index)
        except DataError:
            raise
        except Exception as error:  # decoders raise anything
            raise DataError(
                f"'{self.name}': frame {index + 1} cannot be decoded ({type(error).__name__}). The file is damaged or uses a "
                "compression that is not supported. Export it again, uncompressed."
            ) from error

    def _unpacked(self, data: bytes) -> npt.NDArray[np.unsignedinteger]:
        """Returns a frame from its own bytes: single bits, or one or two bytes for each pixel."""
        pixels = self.rows * self.columns
        if self.bits == 1 and len(data) < pixels:
            if len(data) * 8 < pixels:
                raise ValueError("too short")
            return self._from_bits(data, 0)
        kind = "u1" if self.bits <= 8 else "<u2"
        found = np.frombuffer(data, dtype=kind, count=pixels)
        return found.reshape(self.rows, self.columns).astype(found.dtype.newbyteorder("="))

    def _by_pydicom(self, index: int) -> npt.NDArray[np.unsignedinteger]:
        # Decoders log to the root of pydicom; the DataError says all a user can act on.
        logger = logging.getLogger("pydicom")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array, _ = get_decoder(self._syntax).as_array(self._dataset, index=index, raw=True)
        finally:
            logger.setLevel(level)
        array = np.asarray(array)
        if array.shape != (self.rows, self.columns):
            raise ValueError("another size")
        return array.astype(np.uint8 if self.bits <= 8 else np.uint16)

    def _check_j2k(self, encoded: bytes) -> None:
        """Refuses a picture whose own size is not the header's, before a decoder allocates it."""
        start = encoded.find(_J2K_START, 0, 1024)
        if start < 0 or len(encoded) < start + 24:
            raise ValueError("no picture")
        width, height, left, top = (
            int.from_bytes(encoded[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)
        )
        if (height - top, width - left) != (self.rows, self.columns):
            raise ValueError("another size")


def _words_turned(raw: bytes) -> bytes:
    """Returns big-endian 16-bit words as little-endian ones."""
    even = raw if len(raw) % 2 == 0 else raw + b"\0"
    return np.frombuffer(even, dtype=">u2").astype("<u2").tobytes()


def _inflated(encoded: bytes, needed: int) -> bytes:
    """Returns a deflated frame of a known size; what would follow is not looked at."""
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):  # without a header as the standard says, or with one
        try:
            return zlib.decompressobj(window).decompress(encoded, needed)
        except zlib.error:
            continue
    raise ValueError("not deflated")


def _run_lengths(encoded: bytes, most: int) -> bytes:
    """Returns the bytes of the one segment of an RLE frame (DICOM PS3.5, G.3), no more than ``most``."""
    if len(encoded) < _RLE_HEADER or int.from_bytes(encoded[:4], "little") != 1:
        raise ValueError("not one segment")
    place = int.from_bytes(encoded[4:8], "little")
    out = bytearray()
    while place < len(encoded) and len(out) < most:
        control = encoded[place]
        if control < 128:
            out += encoded[place + 1 : place + 2 + control]
            place += control + 2
        elif control > 128:
            out += encoded[place + 1 : place + 2] * (257 - control)
            place += 2
        else:
            place += 1
    return bytes(out[:most])
