"""Findings on where the pixels lie: spacing and distances between slices."""

from __future__ import annotations

from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.errors import name_list


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
        yield Finding(
            "error",
            "uneven_slices",
            f"'{case.name}': {what}; 3D training needs evenly spaced slices. "
            'Complete the series, leave the scan out, or set dimension = "2D".',
            (case.name,),
            (Sample(case.name),),
        )
