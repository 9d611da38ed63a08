"""What a label file's pixels are marked with, as whole numbers: grey values, colours and planes of a one-hot stack.

A grey value is itself. A colour is ``2**24 + 0xRRGGBB``; a colour with equal parts is its grey value, so that a grey
picture saved as RGB gives the same codes. Plane k of a one-hot stack is ``2**25 + k``. No ROI number comes near these, so a
code that nobody mapped can never be taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

FIRST_COLOUR = 1 << 24
_FIRST_PLANE = 1 << 25
_COLOUR = re.compile(r"#([0-9A-Fa-f]{6})")
_PLANE = re.compile(r"plane\s*(\d{1,3})", re.IGNORECASE)


def pack_colours(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Returns the (row, column) codes of a (row, column, 3) picture of 8 bits."""
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    colour = (red << 16) + (green << 8) + blue + np.uint32(FIRST_COLOUR)
    return np.where((red == green) & (green == blue), red, colour)


def pack_planes(planes: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Returns the (row, column) codes of (plane, row, column) that do not overlap; 0 where no plane is set."""
    numbers = np.arange(1, len(planes) + 1, dtype=np.uint32) + np.uint32(_FIRST_PLANE)
    return np.einsum("p,pyx->yx", numbers, planes.astype(np.uint32))


def is_mark(code: int) -> bool:
    """Whether a code is a colour or a plane, which can only become an ROI by a map."""
    return code >= FIRST_COLOUR


def is_plane(code: int) -> bool:
    """Whether a code is a plane of a one-hot stack."""
    return code > _FIRST_PLANE


def code_key(code: int) -> int | str:
    """Returns a code as it is written in ``label_map``: 63, "#FF0000" or "plane 2"."""
    if is_plane(code):
        return f"plane {code - _FIRST_PLANE}"
    return f"#{code - FIRST_COLOUR:06X}" if is_mark(code) else int(code)


def code_of(key: int | str) -> int | None:
    """Returns the code that a key of ``label_map`` stands for; None where the key is the name of an ROI."""
    if not isinstance(key, str):
        return int(key)
    if found := _COLOUR.fullmatch(key.strip()):
        red, green, blue = bytes.fromhex(found[1])
        return red if red == green == blue else FIRST_COLOUR + int(found[1], 16)
    if found := _PLANE.fullmatch(key.strip()):
        return _FIRST_PLANE + int(found[1])
    return int(key) if key.strip().isdecimal() else None


def codes_text(codes: Iterable[int], shown: int = 12) -> str:
    """Returns codes for a sentence: ``0, 63, #FF0000 and 3 more``."""
    listed = [str(code_key(int(code))) for code in sorted(codes)]
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
