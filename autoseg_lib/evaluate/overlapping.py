"""ROIs that overlap (a tumour lies inside its organ): each is looked at by itself, as a whole, not what others leave of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from autoseg_lib.io.segments import tells_overlap

__all__ = ["one_by_one", "said_as_a_whole", "tells_overlap"]

_Rules = TypeVar("_Rules")
_Loaded = TypeVar("_Loaded")


def one_by_one(
    load: Callable[[_Rules], _Loaded], values: Iterable[int], only: Callable[[int], _Rules]
) -> Iterator[tuple[int, _Loaded]]:
    """Reads a mask again for each ROI, with that ROI alone in it, so that none is cut by another.

    Args:
        load: reads the mask under given rules.
        values: label values of the ROIs.
        only: label value → rules under which nothing but this ROI is painted.

    Yields:
        The label value and what was read.
    """
    for value in values:
        yield value, load(only(value))


def said_as_a_whole(said: Sequence[str], done: str, more: str = "") -> tuple[str, ...]:
    """Returns the sentences without those on who lies on top, and with one that each ROI was looked at by itself.

    Args:
        said: from reading the mask.
        done: "measured" or "compared".
        more: what the user could do.
    """
    others = (text for text in said if not tells_overlap([text]))
    return (*others, f"its ROIs overlap; each was {done} by itself, as a whole{more}")
