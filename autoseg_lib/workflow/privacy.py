"""Keeps what a DICOM says of a person out of reports: sentences name files, and files may be named after patients."""

from __future__ import annotations

import re
from collections.abc import Callable

from autoseg_lib.data.discover import Discovery
from autoseg_lib.io.identity import tells_identity

# Shorter parts of a name are too often parts of other words.
_SHORTEST = 3
HIDDEN = "***"


def identities(found: Discovery) -> frozenset[str]:
    """Returns what the headers of all scans say of their patients (names, IDs, birth dates)."""
    told: set[str] = set()
    for source in (*found.sources, *found.left_out):
        for header in source.series.headers if source.series else ():
            told |= header.identity
    return frozenset(told)


def without_identity(found: Discovery) -> Callable[[str], str]:
    """Returns a function that replaces patients' names, IDs and birth dates in a sentence by "***".

    Args:
        found: the scans whose headers say who the patients are.
    """
    return hiding(identities(found))


def hiding(told: frozenset[str]) -> Callable[[str], str]:
    """Returns a function that replaces texts that tell who somebody is by "***" in a sentence.

    Args:
        told: names, IDs and birth dates, lower-case.
    """
    # Words that stand for nobody ("example", "study") tell nothing, whoever's name they are part of.
    literal = [
        text
        for text in sorted(told, key=len, reverse=True)
        if len(text) >= _SHORTEST and tells_identity(text, [text])
    ]
    # Whole words only; "_" and digits beside a name separate it as spaces do.
    pattern = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(map(re.escape, literal))})(?![^\W\d_])", re.IGNORECASE)

    def hide(text: str) -> str:
        if not told:
            return text
        # A file name, alone or in quotes, is judged as a whole: accents, short names, dates in any order.
        if " " not in text and tells_identity(text, told):
            return HIDDEN
        text = re.sub(r"'([^']+)'", lambda m: f"'{HIDDEN}'" if tells_identity(m[1], told) else m[0], text)
        return pattern.sub(HIDDEN, text) if literal else text

    return hide
