"""Looks at the headers of pictures and arrays before they are decoded: a small file can speak of, or hide, terabytes."""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

from autoseg_lib.errors import DataError
from autoseg_lib.io.limits import DEFLATE_RATIO, LZW_RATIO, check_announced, check_memory, check_picture_size

# Pillow knows some forty formats by content, whatever the name says; one (EPS) starts another program. These are pictures.
PICTURE_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "GIF", "TIFF")

# How many times smaller a TIFF's compression can make the pixels at best (TIFF's numbers: 1 none, 5 LZW, 8 and 32946 deflate,
# 32773 PackBits, 7 JPEG, 2 to 4 fax).
_TIFF_RATIOS = {
    1: 1.0,
    5: LZW_RATIO,
    8: DEFLATE_RATIO,
    32946: DEFLATE_RATIO,
    32773: 64,
    7: 2000,
    2: 2000,
    3: 2000,
    4: 2000,
}
# tifffile writes a line on the screen for each odd tag; what matters is said in our messages.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
_TIFF_DEFLATE = (8, 32946)
# What a strip or tile may unpack to without a closer look.
_HARMLESS_BYTES = 64_000_000
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def read_bytes(path: Path, what: str) -> bytes:
    """Returns the bytes of a picture or .npy file whose header announces nothing absurd.

    Args:
        path: the file.
        what: "image" or "label", for messages.

    Raises:
        DataError: the header announces more than the file or the memory can hold, or what the file is not allowed to be.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        raise DataError(f"{what} '{path.name}': it is not there, or no file. Check the path.")
    check_memory(path.name, "bytes", path.stat().st_size)
    data = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix == ".npy":
        _check_npy(path.name, data, what)
    elif suffix in (".tif", ".tiff"):
        _check_tiff(path.name, data)
    elif data:
        _check_picture(path.name, data, what)
    return data


@contextmanager
def open_tiff(source: Path | io.BytesIO) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF whose chain of pages comes to an end; what the library has to say goes to no log.

    Raises:
        ValueError: the pages go round in a circle, or on outside the file.
        Exception: whatever tifffile raises for a damaged file.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
        _walk_pages(stream)
        stream.seek(0)
        with tifffile.TiffFile(stream, name="picture") as tiff:
            yield tiff


# Each page begins with the number of its entries, and ends with the place of the next page. TIFF 6.0, section 2; BigTIFF
# (byte 2 is 43) has wider numbers: (struct letter of the place, of the number of entries, bytes of an entry).
_TIFF_WIDTHS = {42: ("I", "H", 12), 43: ("Q", "Q", 20)}


def _walk_pages(stream: BinaryIO) -> None:
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    kind = struct.unpack(order + "H", start[2:4])[0] if order and len(start) == 16 else 0
    if kind not in _TIFF_WIDTHS:
        return  # tifffile says what it is instead
    place, number, entry = _TIFF_WIDTHS[kind]
    place, number = f"{order}{place}", f"{order}{number}"
    (offset,) = struct.unpack_from(place, start, 4 if kind == 42 else 8)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise ValueError("its pages go round in a circle")
        seen.add(offset)
        stream.seek(offset)
        head = stream.read(struct.calcsize(number))
        if len(head) < struct.calcsize(number):
            raise ValueError("a page lies outside the file")
        stream.seek(struct.unpack(number, head)[0] * entry, io.SEEK_CUR)
        following = stream.read(struct.calcsize(place))
        if len(following) < struct.calcsize(place):
            return  # cut off after the last page
        (offset,) = struct.unpack(place, following)


def _check_npy(name: str, data: bytes, what: str) -> None:
    if data[:2] == b"PK":
        raise DataError(
            f"{what} '{name}': found an archive of arrays, expected one array. Save it with numpy.save."
        )
    if data[:6] != np.lib.format.MAGIC_PREFIX:
        return  # reading it tells what it is instead
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, _, kind = read(stream)
        needed = math.prod(int(size) for size in shape) * kind.itemsize
    except Exception as error:  # the header is a line of Python, and anything can be wrong with it
        raise DataError(
            f"'{name}': it is not an .npy file of numbers or is cut off. Save it again."
        ) from error
    if min(shape, default=0) < 0:
        raise DataError(f"'{name}': its header gives the shape {shape}, which is no array. Save it again.")
    if not kind.hasobject:
        check_announced(name, " × ".join(map(str, shape)) + " values", needed, len(data) - stream.tell())


def _check_picture(name: str, data: bytes, what: str) -> None:
    if data[:8] == _PNG_START and len(data) >= 26:
        columns, rows, depth, colour = struct.unpack(">IIBB", data[16:26])
        check_picture_size(name, rows, columns)
        row_bytes = 1 + math.ceil(columns * _PNG_CHANNELS.get(colour, 1) * depth / 8)
        check_announced(name, f"{rows} × {columns} pixels", rows * row_bytes, len(data), DEFLATE_RATIO)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
                rows, columns = picture.height, picture.width
    except Image.DecompressionBombError:
        rows = columns = 1 << 20
    except Exception as error:  # decoders raise anything on damaged files
        raise DataError(
            f"{what} '{name}': it cannot be read as a picture (unknown format). Copy or save it again."
        ) from error
    check_picture_size(name, rows, columns)


def _check_tiff(name: str, data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_tiff(io.BytesIO(data)) as tiff:
                series = tiff.series[0]
                page = series.keyframe
                shape, kind = series.shape, series.dtype
                rows, columns, compression = page.imagelength, page.imagewidth, int(page.compression)
                needed = math.prod(int(size) for size in shape) * kind.itemsize
                segments = []
                if compression in _TIFF_DEFLATE:
                    tile = math.prod(page.chunks) * kind.itemsize
                    segments = [
                        (offset, count, tile)
                        for part in series.pages
                        if part is not None
                        for offset, count in zip(part.dataoffsets, part.databytecounts, strict=False)
                    ]
    except Exception:  # noqa: BLE001  # decoders raise anything on damaged files; decoding tells what is wrong
        return
    check_picture_size(name, rows, columns)
    if compression not in _TIFF_RATIOS:
        raise DataError(
            f"'{name}': found a TIFF with compression {compression}, which is not read. Save it without compression."
        )
    check_announced(
        name, " × ".join(map(str, shape)) + " pixels", needed, len(data), _TIFF_RATIOS[compression]
    )
    for offset, count, expected in segments:
        if count * DEFLATE_RATIO > max(expected, _HARMLESS_BYTES) and _unpacks_to_more(
            data[offset : offset + count], expected
        ):
            raise DataError(
                f"'{name}': its pixels unpack to more than its header announces. It is damaged, or made to fill the memory, "
                "so it was not opened. Save it again."
            )


def _unpacks_to_more(packed: bytes, expected: int) -> bool:
    """Whether deflated bytes unpack to more than ``expected`` bytes; unpacks no more than that."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, expected)
        # Something is left over where another byte comes out.
        return len(unpacker.decompress(unpacker.unconsumed_tail, 1)) > 0
    except zlib.error:
        return False  # reading it tells that it is damaged
