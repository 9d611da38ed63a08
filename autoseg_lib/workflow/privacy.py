"""Keeps what a DICOM says of a person out of reports: sentences name files, and files may be named after patients."""

from __future__ import annotations

import re
from collections.abc import Callable

from autoseg_lib.data.discover import Discovery

# Shorter parts of a name are too often parts of other words.
_SHORTEST = 3


def without_identity(found: Discovery) -> Callable[[str], str]:
    """Returns a function that replaces patients' names, IDs and birth dates in a sentence by "***".

    Args:
        found: the scans whose headers say who the patients are.
    """
    told: set[str] = set()
    for source in (*found.sources, *found.left_out):
        for header in source.series.headers if source.series else ():
            told |= {text for text in header.identity if len(text) >= _SHORTEST}
    if not told:
        return lambda text: text
    longest_first = "|".join(re.escape(text) for text in sorted(told, key=len, reverse=True))
    # Whole words only; "_" and digits beside a name separate it as spaces do.
    pattern = re.compile(rf"(?<![^\W\d_])(?:{longest_first})(?![^\W\d_])", re.IGNORECASE)
    return lambda text: pattern.sub("***", text)
