"""The data check: every fault that would cost a night of training is found first, all at once.

One pass reads each case and keeps a few facts (``CaseFacts``); each check is one small function over these facts. To add
one: write the function, add it to ``CHECKS``, test it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.masks import load_case
from autoseg_lib.data.pairing import Pairing, TrainingCase
from autoseg_lib.data.scan import Scan, SpacingOverride
from autoseg_lib.errors import AutosegError, name_list
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.preprocess.intensity import foreground_values
from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.volume import Mask


@dataclass(frozen=True)
class Finding:
    """One thing the data check has to say.

    Attributes:
        severity: "error" (training would be wasted or wrong) or "warning".
        code: short name of the check, for programs.
        text: the sentence for the user.
        files: names of the files it is about.
    """

    severity: str
    code: str
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseFacts:
    """What the checks need to know of one case. Areas and counts are per slice."""

    name: str
    patient: str
    modality: str
    geometry: Geometry
    slice_names: tuple[str, ...]
    counts: tuple[dict[int, int], ...]
    nan_pixels: int
    constant_slices: tuple[str, ...]
    checksum: str
    load_warnings: tuple[str, ...] = ()
    roi_grey_values: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def values(self) -> set[int]:
        """All label values in the case, 0 included."""
        return set().union(*self.counts) if self.counts else set()


@dataclass(frozen=True)
class RoiRow:
    """One line of the ROI table. ``median_area_mm2`` is None where the pixel size is unknown."""

    value: int
    name: str
    color: str
    slices: int
    cases: int
    median_area_mm2: float | None
    median_area_pixels: float
    share_percent: float


@dataclass(frozen=True)
class CheckReport:
    """Result of the data check.

    Attributes:
        summary: one line with the counts and the geometry.
        findings: errors first, then warnings.
        roi_rows: one line for each ROI.
        labels: the ROIs' values and names.
        facts: what was found for each case that could be read.
        usable: index of each readable case in ``Pairing.cases``.
        checksum: of all pixels and label values, to tell whether data changed between two runs.
    """

    summary: str
    findings: tuple[Finding, ...]
    roi_rows: tuple[RoiRow, ...]
    labels: LabelTable
    facts: tuple[CaseFacts, ...] = field(repr=False)
    usable: tuple[int, ...] = ()
    checksum: str = ""

    @property
    def has_errors(self) -> bool:
        """Whether training must not start."""
        return any(finding.severity == "error" for finding in self.findings)

    def lines(self) -> list[str]:
        """Returns the report as text lines, as shown in a terminal."""
        lines = [self.summary]
        if self.roi_rows:
            lines.append(f"{'value':>5}  {'ROI':<32} {'slices':>6}  {'median area':>14}  {'pixels':>8}")
        for row in self.roi_rows:
            area = (
                f"{row.median_area_pixels:.0f} px"
                if row.median_area_mm2 is None
                else f"{row.median_area_mm2:.1f} mm²"
            )
            lines.append(
                f"{row.value:>5}  {row.name:<32} {row.slices:>6}  {area:>14}  {row.share_percent:>7.2f}%"
            )
        marks = {"error": "✘", "warning": "⚠"}
        lines += [f"{marks[finding.severity]} {finding.text}" for finding in self.findings]
        if not self.findings:
            lines.append("✔ No problems found.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for ``--json``."""
        return {
            "summary": self.summary,
            "errors": [_finding_dict(f) for f in self.findings if f.severity == "error"],
            "warnings": [_finding_dict(f) for f in self.findings if f.severity == "warning"],
            "rois": [row.__dict__ for row in self.roi_rows],
            "cases": len(self.facts),
            "patients": len({facts.patient for facts in self.facts}),
            "slices": sum(len(facts.counts) for facts in self.facts),
        }


def _finding_dict(finding: Finding) -> dict[str, Any]:
    return {"code": finding.code, "text": finding.text, "files": list(finding.files)}


@dataclass(frozen=True)
class _Context:
    settings: TrainSettings
    facts: tuple[CaseFacts, ...]
    labels: LabelTable

    @property
    def declared(self) -> bool:
        """Whether the user said how many ROIs there are."""
        return self.settings.labels_list != AUTO or self.settings.num_labels != AUTO


def check_data(pairing: Pairing, settings: TrainSettings, on_event: Listener = nobody) -> CheckReport:
    """Reads every case once and runs all checks.

    Args:
        pairing: images and labels matched by name.
        settings: the training settings; ``num_labels``, ``labels_list``, ``dimension``, spacing settings are used.
        on_event: hears the progress.
    """
    findings = [Finding(issue.severity, issue.code, issue.text, issue.files) for issue in pairing.issues]
    facts: list[CaseFacts] = []
    usable: list[int] = []
    for number, case in enumerate(pairing.cases):
        on_event(Progress("Data check", number, len(pairing.cases), case.name))
        try:
            facts.append(gather_facts(case, settings))
            usable.append(number)
        except AutosegError as error:
            # A case may have several faulty files, one line each.
            findings += [
                Finding("error", "unreadable", text, (case.name,)) for text in str(error).split("\n")
            ]
        except Exception as error:  # noqa: BLE001 - one odd file must not hide what is found in the others
            text = f"'{case.name}': it cannot be read ({type(error).__name__}: {error}). Export it again, or leave it out."
            findings.append(Finding("error", "unreadable", text, (case.name,)))
    on_event(Progress("Data check", len(pairing.cases), len(pairing.cases)))

    labels = find_labels(settings, facts)
    context = _Context(settings, tuple(facts), labels)
    for check in CHECKS:
        findings += check(context)
    findings.sort(key=lambda finding: finding.severity != "error")
    digest = hashlib.sha256("".join(sorted(f.name + f.checksum for f in facts)).encode("utf-8"))
    return CheckReport(
        summary=_summary(pairing, facts),
        findings=tuple(findings),
        roi_rows=_roi_rows(facts, labels),
        labels=labels,
        facts=tuple(facts),
        usable=tuple(usable),
        checksum=digest.hexdigest(),
    )


def load_training_case(case: TrainingCase, settings: TrainSettings) -> tuple[Scan, Mask, tuple[str, ...]]:
    """Reads image and label of one case as the settings say; also returns what was assumed on the way.

    Raises:
        DataError: a file cannot be read, or image and label do not fit together.
    """
    count = None
    if settings.labels_list != AUTO:
        count = len(settings.labels_list)
    elif settings.num_labels != AUTO:
        count = settings.num_labels
    return load_case(
        case,
        num_labels=count,
        slice_axis=settings.slice_axis,
        override=SpacingOverride.from_settings(settings),
    )


def gather_facts(case: TrainingCase, settings: TrainSettings) -> CaseFacts:
    """Reads one case and returns what the checks need.

    Raises:
        DataError: see load_training_case.
    """
    scan, mask, warnings = load_training_case(case, settings)
    image = scan.volume.array
    counts = []
    for plane in mask.array:
        values, pixels = np.unique(plane, return_counts=True)
        counts.append({int(v): int(n) for v, n in zip(values, pixels, strict=True)})
    bad = 0 if image.dtype.kind in "ui" else int(np.count_nonzero(~np.isfinite(image)))
    constant = [
        name
        for name, plane in zip(scan.slice_names, image, strict=True)
        if plane.size > 1 and plane.min() == plane.max()
    ]
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes())
    digest.update(np.ascontiguousarray(mask.array).tobytes())
    return CaseFacts(
        name=case.name,
        patient=case.patient,
        modality=scan.volume.modality,
        geometry=scan.volume.geometry,
        slice_names=scan.slice_names,
        counts=tuple(counts),
        nan_pixels=bad,
        constant_slices=tuple(constant),
        checksum=digest.hexdigest(),
        load_warnings=tuple(dict.fromkeys((*scan.warnings, *warnings))),
        roi_grey_values=foreground_values(scan.volume, mask),
    )


def find_labels(settings: TrainSettings, facts: Sequence[CaseFacts]) -> LabelTable:
    """Returns the ROIs: the names given, else as many numbered ones as the label files hold."""
    if settings.labels_list != AUTO:
        return LabelTable(settings.labels_list)
    if settings.num_labels != AUTO:
        return LabelTable.numbered(settings.num_labels)
    values = set().union(*(f.values for f in facts)) if facts else set()
    highest = max(values, default=0)
    # Codes such as 0 and 255 are no count of ROIs; the check below says so.
    return LabelTable.numbered(highest if highest <= 2 * len(values) else 0)


# --- the checks -------------------------------------------------------------------------------------------------------


def check_label_values(context: _Context) -> Iterable[Finding]:
    """Values outside 0..num_labels, or, where num_labels is auto, values that cannot be ROI numbers."""
    expected = len(context.labels)
    everything = sorted(set().union(*(f.values for f in context.facts)) if context.facts else set())
    positive = [value for value in everything if value > 0]
    if not context.declared:
        if positive and len(positive) < max(positive):
            if len(positive) == 1 and max(positive) > 2:
                yield Finding(
                    "error",
                    "label_values",
                    f"the label files hold the values {_values(everything)}: one ROI, marked with {max(positive)}. ROIs are "
                    f"expected to be numbered 1, 2, 3, ... Save the labels with 1 in place of {max(positive)}.",
                )
                return
            missing = [v for v in range(1, min(max(positive), 255)) if v not in positive]
            yield Finding(
                "error",
                "label_values",
                f"the label files hold the values {_values(everything)}; ROIs are expected to be numbered 1, 2, 3, ... without "
                f"gaps (no label holds {_values(missing)}). Renumber the labels, or, if the gap is meant, set num_labels = "
                f"{max(positive)}.",
            )
        return
    by_values: dict[tuple[int, ...], list[str]] = {}
    for facts in context.facts:
        for name, count in zip(facts.slice_names, facts.counts, strict=True):
            if any(value > expected for value in count):
                shown = name if len(facts.counts) == 1 or _has_slice_files(facts) else facts.name
                names = by_values.setdefault(tuple(sorted(count)), [])
                if shown not in names:
                    names.append(shown)
    for values, names in by_values.items():
        which = f"label '{names[0]}'" if len(names) == 1 else f"labels {name_list(names)}"
        yield Finding(
            "error",
            "label_values",
            f"{which}: found the values {_values(values)}; with num_labels = {expected} the values 0 to {expected} are "
            f"expected. Correct the file{'s' if len(names) > 1 else ''}, or set num_labels = {max(values)}.",
            tuple(names),
        )


def check_missing_rois(context: _Context) -> Iterable[Finding]:
    """ROIs that no label holds; nothing at all drawn."""
    found = set().union(*(f.values for f in context.facts)) if context.facts else set()
    if context.facts and not found - {0}:
        yield Finding(
            "error",
            "no_roi",
            "no ROI is drawn in any label file: all pixels are 0 (background). Check that these are the label files.",
        )
        return
    absent = [label for label in context.labels if label.value not in found]
    if absent and context.declared and context.facts:
        names = ", ".join(f"'{label.name}' (value {label.value})" for label in absent)
        yield Finding(
            "error",
            "missing_roi",
            f"found in no label: {names}. Every ROI that is named needs to be drawn at least once. "
            "Draw them, or take them out of labels_list (and lower num_labels).",
        )


def check_empty_labels(context: _Context) -> Iterable[Finding]:
    """Slices where nothing is drawn: normal at the ends of a scan, said all the same."""
    empty = [
        f"{facts.name}/{name}"
        for facts in context.facts
        for name, count in zip(facts.slice_names, facts.counts, strict=True)
        if set(count) <= {0}
    ]
    total = sum(len(facts.counts) for facts in context.facts)
    if empty and len(empty) < total and any(_has_slice_files(f) for f in context.facts):
        yield Finding(
            "warning",
            "empty_labels",
            f"{len(empty)} of {total} labels are empty (nothing drawn): {name_list(empty)}. That is right only where no ROI is visible.",
            tuple(empty),
        )


def check_pixels(context: _Context) -> Iterable[Finding]:
    """NaN and infinite pixels, constant images."""
    for facts in context.facts:
        if facts.nan_pixels:
            yield Finding(
                "error",
                "nan",
                f"'{facts.name}': found {facts.nan_pixels} pixels without a number (NaN or infinite); every pixel needs one. "
                "Export the image again, or leave it out.",
                (facts.name,),
            )
        if facts.constant_slices:
            all_of_it = len(facts.constant_slices) == len(facts.counts)
            yield Finding(
                "error" if all_of_it else "warning",
                "constant",
                f"'{facts.name}': {'the image is' if all_of_it else f'{len(facts.constant_slices)} slices are'} one single grey "
                f"value ({name_list(list(facts.constant_slices))}). Export it again, or leave it out.",
                (facts.name,),
            )


def check_spacing(context: _Context) -> Iterable[Finding]:
    """Pixel spacing missing or zero; uneven slices for 3D."""
    unknown = [facts.name for facts in context.facts if not facts.geometry.spacing_known]
    if unknown:
        yield Finding(
            "warning",
            "spacing",
            f"{len(unknown)} of {len(context.facts)} scans have no pixel spacing ({name_list(unknown)}): they can be used for "
            "training, but areas in mm² stay unknown. Fill in fov and matrix_size (from the scan protocol), or spacing_mm.",
            tuple(unknown),
        )
    if context.settings.dimension != "3D":
        return
    uneven = [facts for facts in context.facts if not facts.geometry.is_even]
    for facts in uneven:
        what = (
            f"its slices lie {facts.geometry.spacing_text} apart"
            if facts.geometry.has_one_image_per_position
            else "it has several images at one position (a cine or dynamic series)"
        )
        yield Finding(
            "error",
            "uneven_slices",
            f"'{facts.name}': {what}; 3D training needs evenly spaced slices. "
            'Complete the series, leave the scan out, or set dimension = "2D".',
            (facts.name,),
        )


def check_patients(context: _Context) -> Iterable[Finding]:
    """One patient only: the scores will look better than they are."""
    patients = {facts.patient for facts in context.facts}
    volumes = [facts for facts in context.facts if len(facts.counts) > 1]
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


def check_unknown_patients(context: _Context) -> Iterable[Finding]:
    """Pictures that do not say whose they are: slices of one patient may land on both sides of the split."""
    pictures = [f for f in context.facts if len(f.counts) == 1 and not f.modality]
    if len(pictures) < 2 or len({f.patient for f in pictures}) < len(pictures):
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


def check_modalities(context: _Context) -> Iterable[Finding]:
    """CT and MR mixed."""
    counts = Counter(facts.modality for facts in context.facts if facts.modality)
    if len(counts) > 1:
        text = ", ".join(f"{count} {modality}" for modality, count in counts.most_common())
        yield Finding(
            "warning",
            "modalities",
            f"the scans are of different kinds ({text}). One model for one kind works best.",
        )


def check_assumptions(context: _Context) -> Iterable[Finding]:
    """What reading had to assume, one finding for each different sentence."""
    by_text: dict[str, list[str]] = {}
    for facts in context.facts:
        for text in facts.load_warnings:
            by_text.setdefault(text, []).append(facts.name)
    for text, names in by_text.items():
        where = "" if all(name in text for name in names) else f" ({name_list(names)})"
        yield Finding("warning", "reading", f"{text}{where}", tuple(names))


CHECKS: tuple[Callable[[_Context], Iterable[Finding]], ...] = (
    check_label_values,
    check_missing_rois,
    check_pixels,
    check_spacing,
    check_empty_labels,
    check_patients,
    check_unknown_patients,
    check_modalities,
    check_assumptions,
)


# --- words and tables -------------------------------------------------------------------------------------------------


def _values(values: Iterable[int]) -> str:
    items = list(values)
    text = ", ".join(str(value) for value in items[:8])
    return text if len(items) <= 8 else f"{text}, ... ({len(items)} different values)"


def _has_slice_files(facts: CaseFacts) -> bool:
    return not facts.slice_names[0].startswith("slice_0001")


def _summary(pairing: Pairing, facts: Sequence[CaseFacts]) -> str:
    patients = len({f.patient for f in facts})
    parts = [
        f"{pairing.images} images",
        f"{pairing.labels} labels",
        f"{pairing.pairs} pairs",
        f"{patients} patient{'s' if patients != 1 else ''}",
    ]
    modalities = sorted({f.modality for f in facts if f.modality})
    if modalities:
        parts.append("/".join(modalities))
    if facts:
        slices = sum(len(f.counts) for f in facts)
        if slices != pairing.pairs:
            parts.append(f"{slices} slices")
        parts.append(
            _range(
                [f.geometry.shape_zyx[1] for f in facts],
                "{:.0f}",
                " × ",
                [f.geometry.shape_zyx[2] for f in facts],
            )
        )
        known = [f for f in facts if f.geometry.spacing_known]
        if known:
            rows = [f.geometry.spacing_zyx_mm[1] for f in known]
            columns = [f.geometry.spacing_zyx_mm[2] for f in known]
            same = all(abs(r - c) < 1e-3 for r, c in zip(rows, columns, strict=True))
            parts.append((_range(rows, "{:.2f}") if same else _range(rows, "{:.2f}", " × ", columns)) + " mm")
        stacked = [
            f
            for f in facts
            if f.geometry.positions_known and f.geometry.has_one_image_per_position and len(f.counts) > 1
        ]
        if stacked:
            parts.append(
                _range([f.geometry.spacing_zyx_mm[0] for f in stacked], "{:.1f}") + " mm between slices"
            )
    return ", ".join(parts)


def _range(first: Sequence[float], form: str, sign: str = "", second: Sequence[float] | None = None) -> str:
    def one(values: Sequence[float]) -> str:
        low, high = form.format(min(values)), form.format(max(values))
        return low if low == high else f"{low}–{high}"

    return one(first) if second is None else f"{one(first)}{sign}{one(second)}"


def _roi_rows(facts: Sequence[CaseFacts], labels: LabelTable) -> tuple[RoiRow, ...]:
    total = sum(sum(count.values()) for f in facts for count in f.counts)
    rows = []
    for label in labels:
        pixels, areas, cases = [], [], 0
        for f in facts:
            found = [count[label.value] for count in f.counts if label.value in count]
            cases += bool(found)
            pixels += found
            if f.geometry.spacing_known:
                areas += [n * f.geometry.pixel_area_mm2 for n in found]
        complete = bool(areas) and len(areas) == len(pixels)
        rows.append(
            RoiRow(
                value=label.value,
                name=label.name,
                color=label.color,
                slices=len(pixels),
                cases=cases,
                median_area_mm2=round(float(np.median(areas)), 1) if complete else None,
                median_area_pixels=float(np.median(pixels)) if pixels else 0.0,
                share_percent=round(100 * sum(pixels) / total, 3) if total else 0.0,
            )
        )
    return tuple(rows)
