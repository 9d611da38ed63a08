"""Findings on single images: pixels without a number, images of one grey value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample
from autoseg_lib.data.doctor.fixes import leave_out_samples
from autoseg_lib.errors import name_list

# With more than this share of its pixels without a number an image is left out.
MOST_BAD_SHARE = 0.5


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
                _nan_fix(context, case, samples),
            )


def _nan_fix(context: Context, case: CaseFacts, samples: Sequence[Sample]) -> Fix:
    """A few such pixels (outside the field of view, say) get a number; with more of them there is not much of an image."""
    bad = sum(case.slices[sample.slice_index or 0].bad_pixels for sample in samples)
    rows, columns = case.geometry.shape_zyx[1:]
    held = len(case.slices) if case.kind == "volume" else len(samples)
    files = tuple(
        dict.fromkeys(
            file
            for sample in samples
            if (file := case.slices[sample.slice_index or 0].image_file) is not None
        )
    )
    if case.kind == "dicom" or not files or bad > MOST_BAD_SHARE * held * rows * columns:
        return leave_out_samples(context, samples, "it has pixels without a number")
    return Fix(
        f"Give the pixels without a number the smallest number in {'the image' if len(files) == 1 else 'each image'}",
        (FixAction("clear_nan", files),),
        sure=False,
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
