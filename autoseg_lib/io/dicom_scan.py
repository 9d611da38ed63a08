"""A quick look at a DICOM header: only the elements that are asked for, only files of the usual kind.

pydicom needs one to three milliseconds a header, this a tenth of it, which counts in folders of thousands of files. It
reads little-endian files with a "DICM" mark whose wanted elements are plain values. All else (big-endian, deflated, no
mark, wanted sequences, letters outside the file's simple character set, anything irregular) it leaves to pydicom by
returning None, so that there is one tolerant reader, not two.

Source: DICOM PS3.5, 7.1 (data elements) and 7.5 (sequences); PS3.10, 7.1 (file meta information).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword

# The length that says "until the end mark".
UNDEFINED = 0xFFFFFFFF

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_TAGS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
_IMPLICIT, _EXPLICIT, _BIG, _DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))

# Value representations whose length takes four bytes (PS3.5 table 7.1-1).
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_NUMBERS = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FD": "d", b"FL": "f"}
_TEXTS = {b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UI"}
_ONE_TEXT = {b"LT", b"ST"}
_CHARACTER_SETS = {"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}

# Headers are a few thousand bytes; those with a picture or a scanner's private data inside go up to some megabytes.
_FIRST_READ, _LARGEST = 16384, 1 << 23
_DEEPEST = 16


class _UnusualError(Exception):
    """Raised inside this module for a file that is left to pydicom."""


@dataclass(frozen=True)
class QuickHeader:
    """The wanted elements of one file.

    Attributes:
        values: by keyword; text, a list of texts, a number or a list of numbers.
        transfer_syntax: UID of the encoding.
        kind: "PixelData", "FloatPixelData" or "DoubleFloatPixelData".
        offset: byte where the pixels' bytes begin.
        length: their length, UNDEFINED where they are in fragments.
        mosaic_tiles: images that a Siemens scanner tiled in one picture, 0 where it does not say.
    """

    values: dict[str, Any]
    transfer_syntax: str
    kind: str
    offset: int
    length: int
    mosaic_tiles: int = 0

    def get(self, keyword: str, default: Any = None) -> Any:
        """Returns a value by keyword, as a pydicom dataset does."""
        return self.values.get(keyword, default)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.values


class QuickScanner:
    """Reads the elements with given keywords, unless one of the sequences is there that only pydicom shall read."""

    def __init__(self, keywords: Iterable[str], left_to_pydicom: Iterable[str]) -> None:
        self._wanted: dict[int, tuple[str, bytes]] = {}
        for keyword in keywords:
            tag = tag_for_keyword(keyword)
            if tag is not None:
                self._wanted[int(tag)] = (keyword, dictionary_VR(tag)[:2].encode())
        self._unusual = {tag for keyword in left_to_pydicom if (tag := tag_for_keyword(keyword)) is not None}

    def read(self, stream: BinaryIO) -> QuickHeader | None:
        """Returns the header of an open file, or None where pydicom has to read it."""
        try:
            return self._read(stream)
        except (_UnusualError, struct.error, UnicodeDecodeError, ValueError, IndexError):
            return None

    def dataset_start(self, stream: BinaryIO) -> tuple[int, str]:
        """Returns where the dataset of an open file begins, and its transfer syntax; (0, "") where that is not plain."""
        try:
            source = _Source(stream, os.fstat(stream.fileno()).st_size)
            return self._meta(source) if source.take(128, 4) == b"DICM" else (0, "")
        except (_UnusualError, struct.error, UnicodeDecodeError):
            return 0, ""

    def _read(self, stream: BinaryIO) -> QuickHeader:
        size = os.fstat(stream.fileno()).st_size
        source = _Source(stream, size)
        if source.take(128, 4) != b"DICM":
            raise _UnusualError
        position, syntax = self._meta(source)
        if syntax in (_BIG, _DEFLATED) or not syntax.startswith("1.2.840.10008.1.2"):
            raise _UnusualError
        return self._dataset(source, position, syntax)

    def _meta(self, source: _Source) -> tuple[int, str]:
        """Returns where the dataset begins, and the transfer syntax."""
        position, syntax = 132, ""
        while source.take(position, 2) == b"\x02\x00":
            tag, _, start, length = _element(source, position, explicit=True)
            if length == UNDEFINED:
                raise _UnusualError
            if tag == 0x00020010:
                syntax = source.take(start, length).rstrip(b"\0 ").decode("ascii")
            position = start + length
        return position, syntax

    def _dataset(self, source: _Source, position: int, syntax: str) -> QuickHeader:
        explicit = syntax != _IMPLICIT
        raw: dict[int, tuple[bytes, bytes]] = {}
        before, siemens, tiles = 0, False, 0
        wanted, unusual = self._wanted, self._unusual
        while True:
            tag, vr, start, length = _element(source, position, explicit)
            if tag in _PIXEL_TAGS:
                values = _values(raw, wanted)
                return QuickHeader(values, syntax, _PIXEL_TAGS[tag], start, length, tiles)
            if tag <= before or tag > 0x7FE00010 or tag in unusual:
                raise _UnusualError
            before = tag
            if length == UNDEFINED:
                if tag in wanted:
                    raise _UnusualError
                position = _skip(source, start, explicit, 0)
                continue
            if tag in wanted:
                raw[tag] = (vr or wanted[tag][1], source.take(start, length))
            elif tag >> 16 == 0x0019:
                # NumberOfImagesInMosaic stands in Siemens' private group for MR.
                if tag == 0x00190010:
                    siemens = source.take(start, length).startswith(b"SIEMENS MR HEADER")
                elif tag == 0x0019100A and siemens and length == 2:
                    tiles = int.from_bytes(source.take(start, length), "little")
            position = start + length


class _Source:
    """The beginning of a file, read on demand."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        stream.seek(0)
        self.buffer = stream.read(_FIRST_READ)

    def need(self, end: int) -> None:
        """Makes sure that the bytes before ``end`` are there."""
        if end <= len(self.buffer):
            return
        if end > min(self._size, _LARGEST):
            raise _UnusualError
        more = max(end, 2 * len(self.buffer)) - len(self.buffer)
        self.buffer += self._stream.read(more)
        if end > len(self.buffer):
            raise _UnusualError

    def take(self, start: int, length: int) -> bytes:
        """Returns bytes of the file."""
        self.need(start + length)
        return self.buffer[start : start + length]


_EXPLICIT_HEAD, _IMPLICIT_HEAD, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")


def _element(source: _Source, position: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Returns (tag, value representation, start of the value, its length)."""
    if position + 12 > len(source.buffer):
        source.need(position + 12)
    buffer = source.buffer
    if not explicit:
        group, number, length = _IMPLICIT_HEAD.unpack_from(buffer, position)
        return group << 16 | number, b"", position + 8, length
    group, number, vr, length = _EXPLICIT_HEAD.unpack_from(buffer, position)
    if group == 0xFFFE:  # items and end marks have no value representation
        return group << 16 | number, b"", position + 8, _LENGTH.unpack_from(buffer, position + 4)[0]
    if vr in _LONG:
        return group << 16 | number, vr, position + 12, _LENGTH.unpack_from(buffer, position + 8)[0]
    if not (vr.isalpha() and vr.isupper()):
        raise _UnusualError
    return group << 16 | number, vr, position + 8, length


def _skip(source: _Source, position: int, explicit: bool, depth: int) -> int:
    """Returns where a sequence of undefined length ends that begins at ``position``."""
    if depth > _DEEPEST:
        raise _UnusualError
    while True:
        tag, _, start, length = _element(source, position, explicit=False)
        if tag == _SEQUENCE_END:
            return start
        if tag != _ITEM:
            raise _UnusualError
        position = start + length
        if length == UNDEFINED:
            position = start
            while True:
                inner, vr, start, length = _element(source, position, explicit)
                if inner == _ITEM_END:
                    position = start
                    break
                if length == UNDEFINED:
                    if vr == b"UN":  # what is inside is written another way (PS3.5 6.2.2)
                        raise _UnusualError
                    position = _skip(source, start, explicit, depth + 1)
                else:
                    position = start + length


def _values(raw: dict[int, tuple[bytes, bytes]], wanted: dict[int, tuple[str, bytes]]) -> dict[str, Any]:
    character_set = raw.get(0x00080005, (b"CS", b""))[1].decode("ascii").strip("\0 ")
    encoding = _CHARACTER_SETS.get(character_set)
    values: dict[str, Any] = {}
    for tag, (vr, data) in raw.items():
        if vr in _NUMBERS:
            letter = _NUMBERS[vr]
            numbers = struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)
            values[wanted[tag][0]] = numbers[0] if len(numbers) == 1 else list(numbers)
        elif vr in _TEXTS:
            if not data.isascii() and encoding is None:
                raise _UnusualError
            text = data.decode(encoding or "ascii").strip("\0 ")
            several = "\\" in text and vr not in _ONE_TEXT
            values[wanted[tag][0]] = [part.strip("\0 ") for part in text.split("\\")] if several else text
        else:
            raise _UnusualError
    return values
