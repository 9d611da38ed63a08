"""One series in several folders: put together where its slices make one stack, and only there.

DICOMDIR media and some archives deal the files of a series out to folders. But folders may just as well be somebody's
own division, copies, or scans that an anonymiser gave one UID; those stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoseg_lib.io.slice_header import SliceHeader

Slices = list[SliceHeader]

# Slices from two folders that lie closer than this share of the usual distance are no neighbours of one stack.
_CLOSEST = 0.5
# Origins of one stack lie on a straight line (tilted or not); scans placed anew differ by more than this.
_BESIDE_MM = 1.0


def join_folders(parts: Sequence[Slices], alike: Callable[[SliceHeader, SliceHeader], bool]) -> list[Slices]:
    """Returns the slices of one SeriesInstanceUID with folders put together that make one stack.

    Args:
        parts: slices that are known to belong together, each part in one folder.
        alike: whether two slices have the same matrix, directions and spacing.
    """
    clusters: list[list[Slices]] = []
    for part in parts:
        home = next((c for c in clusters if alike(c[0][0], part[0])), None)
        if home is None:
            clusters.append([part])
        else:
            home.append(part)
    joined: list[Slices] = []
    for cluster in clusters:
        whole = [header for part in cluster for header in part]
        joined += [whole] if len(cluster) > 1 and _make_one_stack(cluster) else cluster
    return joined


def _make_one_stack(parts: Sequence[Slices]) -> bool:
    headers = [header for part in parts for header in part]
    images = {(header.sop_uid, header.frame) for header in headers}
    if len(images) < len(headers) or any(not header.sop_uid for header in headers):
        return False
    origin = {(header.study_uid, header.patient_key, header.frame_of_reference_uid) for header in headers}
    if len(origin) > 1:
        return False
    first = headers[0]
    if first.orientation is None or any(header.position_xyz_mm is None for header in headers):
        return False
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    points = np.array([header.position_xyz_mm for header in headers], dtype=np.float64)
    along = points @ normal
    folder = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    between = np.diff(folder[order]) != 0
    # Several images at one place (cine) within a folder say nothing of the distance between slices.
    steps = gaps[between | (gaps > 0)]
    if float(gaps[between].min()) <= _CLOSEST * float(np.median(steps)) or float(np.median(steps)) <= 0:
        return False
    beside = points @ np.stack([row, column], axis=1)
    line = np.polynomial.polynomial.polyfit(along, beside, 1)
    return bool(np.abs(beside - (line[0] + np.outer(along, line[1]))).max() <= _BESIDE_MM)
