"""What a header may announce: checked against the size of the file before any memory is taken.

A header of a few bytes can speak of terabytes, by damage or on purpose; believing it stops the computer.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath

import psutil

from autoseg_lib.errors import DataError

# Deflate (PNG, gzip, zlib) makes data at most 1032 times smaller: 258 bytes in 2 bits. Source: RFC 1951, 3.2.5;
# zlib.net/zlib_tech.html, "Maximum Compression Factor".
DEFLATE_RATIO = 1032
# LZW of TIFF: codes of 12 bits at most, each for at most 4096 bytes (TIFF 6.0, section 13): 2731 times, rounded up.
LZW_RATIO = 2800
# The widest medical pictures are stitched radiographs and mammograms of some 30 million pixels; twice that is allowed.
MOST_PIXELS = 8192 * 8192
# So much is there on every computer that can run the rest.
_ALWAYS_FITS = 16 << 20

# Memory that is left to everything else on the computer.
_SPARE_BYTES = 256 * 1024 * 1024


def size_text(count: float) -> str:
    """Returns a number of bytes for a sentence: "12 kB", "1.3 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}".replace(",", " ")
    return f"{count:.0f} bytes"


def check_announced(name: str, what: str, needed: int, stored: int, ratio: float = 1.0) -> None:
    """Refuses a file that cannot hold what its header announces, or that is too large for this computer's memory.

    Args:
        name: the file's name, for the message.
        what: what the header announces, in words: "30000 × 30000 × 30000 voxels".
        needed: bytes of the pixels, unpacked.
        stored: bytes that the file has for them.
        ratio: how many times smaller its compression can make them at best.

    Raises:
        DataError: it is so.
    """
    if needed > stored * ratio + ratio:
        raise DataError(
            f"'{name}': its header announces {what} ({size_text(needed)}), but the file holds only {size_text(stored)}. "
            "It is cut off, damaged, or made to fill the memory, so it was not opened. Copy or export it again."
        )
    check_memory(name, what, needed)


def check_memory(name: str, what: str, needed: int) -> None:
    """Refuses what is too large for this computer's memory.

    Args:
        name: the file's name, for the message.
        what: what would be read, in words.
        needed: bytes.

    Raises:
        DataError: it does not fit into what is free now.
    """
    if needed <= _ALWAYS_FITS:
        return  # asking the system for each slice of a scan takes longer than unpacking a small one
    free = psutil.virtual_memory().available
    if needed > max(0, free - _SPARE_BYTES):
        raise DataError(
            f"'{name}': its {what} need {size_text(needed)} of memory, and this computer has {size_text(free)} free. "
            "Close other programs, or use a computer with more memory."
        )


def check_picture_size(name: str, rows: int, columns: int) -> None:
    """Refuses a picture larger than any medical one.

    Raises:
        DataError: it has more than MOST_PIXELS pixels.
    """
    if rows * columns > MOST_PIXELS:
        side = math.isqrt(MOST_PIXELS)
        raise DataError(
            f"'{name}': found {rows} × {columns} pixels; pictures up to {side} × {side} pixels are read. "
            "It is damaged or no medical image; export it again, or at a smaller size."
        )


def is_inside(name: str) -> bool:
    """Whether a file name that a header gives stays in the header's own folder, on every operating system."""
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(name)
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            return False
    return "\0" not in name


def is_regular(path: Path) -> bool:
    """Whether a path is a plain file: no folder, device or pipe, which could be read for ever; never raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def is_there(path: Path) -> bool:
    """Whether a path is a plain file or a folder; never raises."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False
