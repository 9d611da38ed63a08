"""Findings on single images: pixels without a number, images of one grey value."""

from __future__ import annotations

from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.data.doctor.fixes import leave_out_samples
from autoseg_lib.errors import name_list


def check_nan(context: Context) -> Iterable[Finding]:
    """NaN and infinite pixels."""
    for case in context.facts:
        if case.bad_pixels:
            samples = tuple(Sample(case.name, i) for i, item in enumerate(case.slices) if item.bad_pixels)
            yield Finding(
                "error",
                "nan",
                f"'{case.name}': found {case.bad_pixels} pixels without a number (NaN or infinite); every pixel needs one. "
                "Export the image again, or leave it out.",
                (case.name,),
                samples,
                leave_out_samples(context, samples, "it has pixels without a number"),
            )


def check_constant(context: Context) -> Iterable[Finding]:
    """Images of one single grey value."""
    for case in context.facts:
        flat = [index for index, item in enumerate(case.slices) if item.is_constant]
        if not flat:
            continue
        names = [case.slices[index].name for index in flat]
        everything = len(flat) == len(case.slices)
        # What is drawn on nothing is wrong; nothing drawn on nothing is padding.
        drawn = any(not case.slices[index].is_empty for index in flat)
        samples = tuple(Sample(case.name, index) for index in flat)
        what = "the image is" if everything else f"{len(flat)} slices are"
        yield Finding(
            "error" if everything and (drawn or len(flat) > 1) else "warning",
            "constant",
            f"'{case.name}': {what} one single grey value ({name_list(names)}). Export it again, or leave it out.",
            (case.name,),
            samples,
            # A volume keeps its empty slices: they are padding, and without them it would be another volume.
            leave_out_samples(context, samples, "it is of one single grey value")
            if everything or case.kind != "volume"
            else None,
        )
