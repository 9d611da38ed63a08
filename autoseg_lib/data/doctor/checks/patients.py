"""Findings on whose scans these are: scores on kept-back scans tell little when patients are mixed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.errors import name_list

# One patient goes by two or three names by mistake; a header that more patients carry is a placeholder ("ANONYMOUS").
MOST_NAMES = 3


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
    """Files that do not say whose they are: scans of one patient may land on both sides of the split."""
    guessed = [case for case in context.facts if case.kind != "dicom" and not case.header_patient]
    if len(guessed) < 2 or len({case.patient for case in guessed}) < len(guessed):
        return
    if any(case.patient != case.name for case in guessed) and not context.settings.patient_pattern:
        return  # folders or a manifest tell them
    what = "images" if all(len(case.slices) == 1 for case in guessed) else "scans"
    first = guessed[0].name
    if context.settings.patient_pattern:
        yield Finding(
            "warning",
            "unknown_patients",
            f"patient_pattern = '{context.settings.patient_pattern}' finds {len(guessed)} patients in {len(guessed)} {what} "
            f"('{first}', ...). If several {what} are of one patient, it should match only the part of the name that "
            "they share; otherwise the scores will look better than they are.",
        )
    else:
        yield Finding(
            "warning",
            "unknown_patients",
            f"{len(guessed)} {what} do not say whose they are ('{first}', ...), so each counts as a patient of its "
            "own. If several are of one patient, the scores will look better than they are: set patient_pattern, e.g. "
            r'"^[^_]+" for the part of the name before the first "_".',
        )


def check_patient_conflicts(context: Context) -> Iterable[Finding]:
    """Scans whose headers name one patient (or one examination) but that count as several patients."""
    for attribute, what in (("header_patient", "patient"), ("header_study", "examination")):
        by_header: dict[str, list[int]] = defaultdict(list)
        for number, case in enumerate(context.facts):
            key = getattr(case, attribute)
            if key:
                by_header[key].append(number)
        shared = {
            key for key, members in by_header.items() if len({context.facts[i].patient for i in members}) > 1
        }
        for key, members in by_header.items():
            if key not in shared:
                continue
            patients = {context.facts[i].patient for i in members}
            # Most headers tell the patients apart, and this one is no placeholder that many of them carry.
            certain = len(shared) <= len(by_header) / 2 and len(patients) <= MOST_NAMES
            names = [context.facts[i].name for i in members]
            sides = {i in context.split.validation for i in members}
            split = (
                " As things stand, some would be learned from and others kept back to test on."
                if len(sides) == 2
                else ""
            )
            yield Finding(
                "error" if certain and len(sides) == 2 else "warning",
                "patient_conflict",
                f"{name_list(names)}: their headers name one {what}, but they count as {len(patients)} patients.{split} Give them one "
                "name in the manifest's column patient.",
                tuple(names),
                tuple(Sample(name) for name in names),
                details={"same": what},
            )
            return
