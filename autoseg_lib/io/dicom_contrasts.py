"""Several contrasts in one series: echoes, water and fat, magnitude and phase, each a stack of its own.

Scanners put the images of a dual-echo or Dixon scan into one series, several at each position. Where ImageType or the echo
time parts them into stacks with one image at each position, each stack is a scan: it has a volume, and a network sees one
contrast. Times of a cine or dynamic scan have one ImageType and one echo time, and stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from autoseg_lib.io.dicom_geometry import same_place_mm
from autoseg_lib.io.slice_header import SliceHeader

_WHAT_DIFFERS: tuple[Callable[[SliceHeader], Hashable], ...] = (
    lambda header: header.image_type,
    lambda header: header.echo_time_ms,
    lambda header: (header.image_type, header.echo_time_ms),
)


def by_contrast(headers: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Returns the slices of each contrast; all of them together where contrasts make no complete stacks.

    Args:
        headers: slices of one series that share matrix, directions and spacing.
    """
    whole = list(headers)
    if len(whole) < 4 or _one_image_a_place(whole):
        return [whole]
    for kind in _WHAT_DIFFERS:
        parts: dict[Hashable, list[SliceHeader]] = {}
        for header in whole:
            parts.setdefault(kind(header), []).append(header)
        sizes = {len(part) for part in parts.values()}
        if (
            len(parts) > 1
            and len(sizes) == 1
            and min(sizes) > 1
            and all(map(_one_image_a_place, parts.values()))
        ):
            return list(parts.values())
    return [whole]


def _one_image_a_place(headers: Sequence[SliceHeader]) -> bool:
    first = headers[0]
    if first.orientation is None or any(header.position_xyz_mm is None for header in headers):
        return True
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    along = np.sort(np.array([header.position_xyz_mm for header in headers]) @ normal)
    return bool((np.diff(along) > same_place_mm(first)).all())
