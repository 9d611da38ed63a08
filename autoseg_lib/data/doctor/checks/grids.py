"""Findings on where the pixels lie: spacing, distances between slices, directions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.data.doctor.fixes import leave_out_samples, unsure
from autoseg_lib.errors import name_list
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM

# A pixel size this many times the usual one (or its inverse) is told: a choice, far above what one protocol's scans differ by
# (sunnybrook_cardiac: 1.06).
SPACING_FACTOR = 1.5

# A distance this many times the usual one is told as a gap: half-way between no slice missing (1) and one missing (2).
GAP_FACTOR = 1.5

# Slices tilted by more than this against the others are told: a choice between oblique planning (below 45 degrees a slice
# still lies nearest to its own plane) and another of the three planes (90 degrees).
TILT_DEGREES = 50.0

# Fewer scans than this do not tell what is usual.
FEWEST_TO_JUDGE = 4

# Pictures whose numbers mostly go up by one are the slices of a scan; then a jump means one is missing.
CONSECUTIVE_SHARE = 0.8


def check_spacing_known(context: Context) -> Iterable[Finding]:
    """Pixel spacing missing or zero."""
    unknown = [case.name for case in context.facts if not case.geometry.spacing_known]
    if unknown:
        yield Finding(
            "warning",
            "spacing",
            f"{len(unknown)} of {len(context.facts)} scans have no pixel spacing ({name_list(unknown)}): they can be used for "
            "training, but areas in mm² stay unknown. Fill in fov and matrix_size (from the scan protocol), or spacing_mm.",
            tuple(unknown),
        )


def check_even_slices(context: Context) -> Iterable[Finding]:
    """Slices that are not evenly spaced, where 3D training is asked for."""
    if context.settings.dimension != "3D":
        return
    for case in context.facts:
        if case.geometry.is_even:
            continue
        what = (
            f"its slices lie {case.geometry.spacing_text} apart"
            if case.geometry.has_one_image_per_position
            else "it has several images at one position (a cine or dynamic series)"
        )
        samples = (Sample(case.name),)
        yield Finding(
            "error",
            "uneven_slices",
            f"'{case.name}': {what}; 3D training needs evenly spaced slices. "
            'Complete the series, leave the scan out, or set dimension = "2D".',
            (case.name,),
            samples,
            leave_out_samples(context, samples, "its slices are not evenly spaced"),
        )


def check_missing_slices(context: Context) -> Iterable[Finding]:
    """Slices of one scan missing in the middle, by position; for pictures by the numbers in their names."""
    found: dict[str, str] = {}
    for case in context.facts:
        text = _gaps_by_position(case) or _gaps_by_number(case)
        if text:
            found[case.name] = text
    if found:
        names = list(found)
        text = "; ".join(f"'{name}': {what}" for name, what in list(found.items())[:3])
        more = f"; and {len(names) - 3} more scans" if len(names) > 3 else ""
        yield Finding(
            "warning",
            "missing_slices",
            f"slices seem to be missing in the middle of {len(names)} scan{'s' if len(names) > 1 else ''} ({text}{more}). Volumes "
            "count the gap as filled, and 3D needs every slice. Export the complete series, and label it.",
            tuple(names),
            tuple(Sample(name) for name in names),
        )


def _gaps_by_position(case: CaseFacts) -> str:
    if not case.geometry.positions_known or case.geometry.slice_positions_mm is None:
        return ""
    positions = np.sort(np.unique(np.round(case.geometry.positions_mm / SAME_PLACE_TOLERANCE_MM)))
    steps = np.diff(positions * SAME_PLACE_TOLERANCE_MM)
    if steps.size < 2:
        return ""
    usual = float(np.median(steps))
    wide = steps[steps > GAP_FACTOR * usual]
    if wide.size == 0:
        return ""
    missing = int(np.sum(np.round(wide / usual) - 1))
    return f"{max(1, missing)} by their positions, which are usually {usual:.2f} mm apart and up to {wide.max():.2f} mm here"


def _gaps_by_number(case: CaseFacts) -> str:
    if case.kind != "raster" or len(case.slices) < 4:
        return ""
    numbers = [re.findall(r"\d+", name) for name in case.slice_names]
    if not all(numbers):
        return ""
    last = sorted({int(found[-1]) for found in numbers})
    steps = np.diff(last)
    jumps = steps > 1
    if steps.size < 3 or not jumps.any() or np.mean(~jumps) < CONSECUTIVE_SHARE:
        return ""
    place = int(np.flatnonzero(jumps)[0])
    return f"no number {last[place] + 1} in its names"


def check_spacing_outliers(context: Context) -> Iterable[Finding]:
    """Scans whose pixels or slices are of quite another size than usual."""
    cases = [case for case in context.facts if case.geometry.spacing_known]
    planes = [float(np.sqrt(case.geometry.pixel_area_mm2)) for case in cases]
    stacks = [
        case
        for case in cases
        if case.geometry.positions_known and len(case.slices) > 1 and case.geometry.is_even
    ]
    steps = [case.geometry.spacing_zyx_mm[0] for case in stacks]
    for what, members, sizes in (("pixels", cases, planes), ("distances between slices", stacks, steps)):
        odd = _far_off(sizes)
        if not odd:
            continue
        names = [members[i].name for i in odd]
        listed = ", ".join(f"{sizes[i]:.2f}" for i in odd[:5])
        yield Finding(
            "warning",
            "spacing_outlier",
            f"{name_list(names)}: {what} of {listed} mm, where {np.median(sizes):.2f} mm are usual in this study. Check the headers; if "
            "they are right, the network sees these scans at another scale.",
            tuple(names),
            tuple(Sample(name) for name in names),
        )


def _far_off(sizes: Sequence[float]) -> list[int]:
    """Indices of the sizes that differ from the usual one by SPACING_FACTOR, where most do not."""
    if len(sizes) < FEWEST_TO_JUDGE:
        return []
    usual = float(np.median(sizes))
    odd = [i for i, size in enumerate(sizes) if not usual / SPACING_FACTOR < size < usual * SPACING_FACTOR]
    return odd if len(odd) < len(sizes) / 2 else []


def check_orientation(context: Context) -> Iterable[Finding]:
    """Scans whose slices lie in another plane than the others'."""
    cases = [case for case in context.facts if case.geometry.orientation_known]
    if len(cases) < FEWEST_TO_JUDGE:
        return
    normals = np.array([case.geometry.normal_xyz for case in cases])
    # The main axis of all normals, whichever way each points.
    axis = np.linalg.eigh(normals.T @ normals)[1][:, -1]
    tilts = np.degrees(np.arccos(np.clip(np.abs(normals @ axis), 0, 1)))
    odd = [i for i, tilt in enumerate(tilts) if tilt > TILT_DEGREES]
    if 0 < len(odd) < len(cases) / 2:
        names = [cases[i].name for i in odd]
        yield Finding(
            "warning",
            "orientation_outlier",
            f"{name_list(names)}: slices lie in another plane than those of the other scans (up to {max(tilts[i] for i in odd):.0f} "
            "degrees apart). Export the same plane, or leave the scan out.",
            tuple(names),
            tuple(Sample(name) for name in names),
            # They may be meant: long axes beside short ones.
            unsure(
                leave_out_samples(
                    context,
                    [Sample(name) for name in names],
                    "its slices lie in another plane than the others",
                )
            ),
        )


def check_matrix(context: Context) -> Iterable[Finding]:
    """Pictures of quite another size than the others, where no pixel spacing tells whether that is meant."""
    cases = [case for case in context.facts if not case.geometry.spacing_known]
    if len(cases) < FEWEST_TO_JUDGE:
        return
    shapes = Counter(case.geometry.shape_zyx[1:] for case in cases)
    usual, count = shapes.most_common(1)[0]
    odd = [case.name for case in cases if case.geometry.shape_zyx[1:] != usual]
    if odd and count > 0.8 * len(cases):
        yield Finding(
            "warning",
            "matrix_outlier",
            f"{name_list(odd)}: another number of rows and columns than the usual {usual[0]} × {usual[1]}. If they were cut or "
            "enlarged, things in them have another size than in the others.",
            tuple(odd),
            tuple(Sample(name) for name in odd),
        )
