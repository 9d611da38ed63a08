"""Findings on whose scans these are: scores on kept-back scans tell little when patients are mixed up."""

from __future__ import annotations

from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding


def check_one_patient(context: Context) -> Iterable[Finding]:
    """One patient only: the scores will look better than they are."""
    patients = {case.patient for case in context.facts}
    volumes = [case for case in context.facts if len(case.slices) > 1]
    if len(patients) == 1 and len(volumes) > 1:
        yield Finding(
            "warning",
            "one_patient",
            "all scans are of one patient: whole scans of the same patient are kept back to test on. The scores do not tell how "
            "well the model does on another patient.",
        )
    elif len(patients) == 1:
        yield Finding(
            "warning",
            "one_patient",
            "all scans are of one patient, so none can be kept back to test on: a block of slices is kept back instead, and the "
            "scores will say 'same scan'. They do not tell how well the model does on another patient.",
        )


def check_unknown_patients(context: Context) -> Iterable[Finding]:
    """Pictures that do not say whose they are: slices of one patient may land on both sides of the split."""
    pictures = [case for case in context.facts if len(case.slices) == 1 and not case.modality]
    if len(pictures) < 2 or len({case.patient for case in pictures}) < len(pictures):
        return
    if context.settings.patient_pattern:
        yield Finding(
            "warning",
            "unknown_patients",
            f"patient_pattern = '{context.settings.patient_pattern}' finds {len(pictures)} patients in {len(pictures)} images "
            f"('{pictures[0].name}', ...). If several images are of one patient, it should match only the part of the name that "
            "they share; otherwise the scores will look better than they are.",
        )
    else:
        yield Finding(
            "warning",
            "unknown_patients",
            f"{len(pictures)} images do not say whose they are ('{pictures[0].name}', ...), so each counts as a patient of its "
            "own. If several are of one patient, the scores will look better than they are: set patient_pattern, e.g. "
            r'"^[^_]+" for the part of the name before the first "_".',
        )
