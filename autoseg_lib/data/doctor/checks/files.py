"""Findings on files: what pairing and reading have already told, and files that lie in each other's place."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autoseg_lib.data.cases import PairingIssue, TrainingCase
from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample, Severity
from autoseg_lib.data.doctor.fixes import case_files, leave_out, rename_labels
from autoseg_lib.data.doctor.names import names_beside
from autoseg_lib.data.other_grid import LABEL_GRID_TOLERANCE_MM
from autoseg_lib.errors import AutosegError, counted, name_list
from autoseg_lib.io.segments import is_segment_file
from autoseg_lib.io.volume_files import is_volume_file, read_label_file
from autoseg_lib.settings import AUTO

# What pairing tells that leaving files out puts right, with the words for it.
_LEAVE_OUT = {
    "image_orphan": ("image", "no label of its name"),
    "label_orphan": ("label", "no image of its name"),
    "unreadable": ("damaged file", "it cannot be read"),
    "skipped": ("file", "no image"),
    "label_skipped": ("file", "no label file"),
}

# Notes on how a volume was sliced are no cause for worry.
_NOTES = ("sliced ",)


def check_pairing(context: Context) -> Iterable[Finding]:
    """Orphans, near misses, doubled names, series left out: everything that pairing by name tells."""
    for issue in context.pairing.issues:
        severity: Severity = "error" if issue.severity == "error" else "warning"
        yield Finding(severity, issue.code, issue.text, issue.files, fix=_pairing_fix(issue))


def _pairing_fix(issue: PairingIssue) -> Fix | None:
    if issue.partners:
        return rename_labels(issue.partners)
    if issue.code in _LEAVE_OUT and issue.paths:
        what, reason = _LEAVE_OUT[issue.code]
        return leave_out(issue.paths, counted(len(issue.paths), what), reason)
    return None


def check_unreadable(context: Context) -> Iterable[Finding]:
    """Cases with files that cannot be read, or whose image and label do not fit together."""
    elsewhere = _foreign_labels(context) if context.unreadable else {}
    return [
        finding for finding in context.unreadable if not any(s.case in elsewhere for s in finding.samples)
    ]


def check_swapped_files(context: Context) -> Iterable[Finding]:
    """Label files that lie among the images while the image lies among the labels."""
    by_case: dict[str, list[Sample]] = {}
    for sample in sorted(context.swapped_files, key=lambda s: (s.case, s.slice_index or 0)):
        by_case.setdefault(sample.case, []).append(sample)
    samples = [sample for found in by_case.values() for sample in found]
    if not samples:
        return
    pairs = []
    for sample in samples:
        item = context.case(sample.case).slices[sample.slice_index or 0]
        if item.image_file is not None and item.label_file is not None:
            pairs.append((item.image_file, item.label_file))
    pairs = list(dict.fromkeys(pairs))
    names = [label.name for _, label in pairs]
    everything = "all images and labels seem" if len(samples) == context.slice_count else None
    which = everything or f"the images and labels of {name_list(names)} seem"
    fix = Fix(
        f"Let {counted(len(pairs), 'image')} and label change places",
        tuple(FixAction("swap_image_label", pair) for pair in pairs),
        sure=False,
    )
    yield Finding(
        "error",
        "swapped_files",
        f"{which} to have changed places: the images hold few values, as labels do, and the labels many, as images do. "
        "Put each into the other's folder.",
        tuple(names),
        tuple(samples),
        fix,
    )


def check_foreign_labels(context: Context) -> Iterable[Finding]:
    """Label volumes that lie on the slices of another scan than the one they are named after."""
    owners = _foreign_labels(context)
    for name, owner in owners.items():
        label, other = context.training_case(name).label_volume, context.training_case(owner).label_volume
        if label is None:
            continue
        exchanged = owners.get(owner) == name
        if exchanged and other is not None:
            fix = Fix("Let the two labels change places", (FixAction("swap_labels", (label, other)),))
        else:
            fix = leave_out(
                case_files(context, name), "the scan with its label", "its label is another scan's"
            )
        if exchanged and name > owner:
            continue  # told with the other one
        yield Finding(
            "error",
            "foreign_label",
            f"label '{label.name}' lies on the slices of the scan '{owner}', not on those of '{name}'"
            f"{', and the other way round' if exchanged else ''}. Give each label the name of its own scan.",
            (label.name,),
            (Sample(name), Sample(owner)) if exchanged else (Sample(name),),
            fix,
        )


def _foreign_labels(context: Context) -> dict[str, str]:
    """Case → the other case on whose grid its label lies."""
    owners = {}
    for case in context.pairing.cases:
        if case.label_volume is not None and _is_elsewhere(context, case):
            owner = _owner(context, case.label_volume, case.name)
            # Drawn on another series of the same patient it is right: reading has put it onto this one and said so.
            alike = owner and context.has(case.name) and case.patient == context.training_case(owner).patient
            if owner and not alike:
                owners[case.name] = owner
    return owners


def _is_elsewhere(context: Context, case: TrainingCase) -> bool:
    """Whether reading has told that the label lies on another grid, or does not fit at all."""
    if any(finding.samples == (Sample(case.name),) for finding in context.unreadable):
        return case.name in context.geometries  # of a damaged scan nobody knows the grid
    return context.has(case.name) and any(
        "another grid" in text for text in context.case(case.name).load_warnings
    )


def _owner(context: Context, label: Path, name: str) -> str:
    """The one scan on whose grid a label lies exactly, "" where there is none or several."""
    if not is_volume_file(label) or is_segment_file(label):
        return ""
    try:
        geometry = read_label_file(label).geometry
        found = [
            scan
            for scan, grid in context.geometries.items()
            if grid.orientation_known
            and geometry.orientation_known
            and geometry.oriented(grid.orientation_code).is_same_grid(grid, LABEL_GRID_TOLERANCE_MM)
        ]
    except AutosegError:
        return ""
    return found[0] if len(found) == 1 and found[0] != name else ""


def check_names(context: Context) -> Iterable[Finding]:
    """Where the ROIs' names come from when nobody set them."""
    if (
        context.settings.labels_list == AUTO
        and context.labels.has_given_names
        and not context.pairing.roi_names
    ):
        _, source = names_beside(context.settings.main_dir)
        if source:
            yield Finding("fine", "names", f"the ROIs' names are those of {source} in the data folder")


def check_assumptions(context: Context) -> Iterable[Finding]:
    """What reading had to assume, one finding for each different sentence."""
    by_text: dict[str, list[str]] = {}
    for facts in context.facts:
        for text in facts.load_warnings:
            by_text.setdefault(text, []).append(facts.name)
    for text, names in by_text.items():
        where = "" if all(name in text for name in names) else f" ({name_list(names)})"
        severity: Severity = "fine" if text.startswith(_NOTES) else "warning"
        yield Finding(
            severity, "reading", f"{text}{where}", tuple(names), tuple(Sample(name) for name in names)
        )
