"""Left against right, for ROIs named as the two sides of one structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def compare_sides(
    pairs: Iterable[tuple[int, int]], volumes_ml: Mapping[int, float | None]
) -> dict[int, tuple[float, float | None]]:
    """Returns label value → (left minus right in ml, asymmetry index in %), the same for both sides of a pair.

    The index is 100 × (L - R) / ((L + R) / 2): 0 for equal sides, above 0 where the left one is larger, ±200 where one
    side is missing; None where both are. A pair without volumes is left out.

    Args:
        pairs: label values as (left, right), see ``LabelTable.left_right_pairs``.
        volumes_ml: label value → volume, None where it cannot be told.
    """
    found: dict[int, tuple[float, float | None]] = {}
    for left, right in pairs:
        ours, theirs = volumes_ml.get(left), volumes_ml.get(right)
        if ours is None or theirs is None:
            continue
        both = ours + theirs
        index = 200 * (ours - theirs) / both if both > 0 else None
        found[left] = found[right] = (ours - theirs, index)
    return found
