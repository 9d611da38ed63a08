"""Findings on the label values: which ones there are, and which are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.data.label_map import codes_message, look_like_codes, propose_map
from autoseg_lib.errors import name_list
from autoseg_lib.io.label_codes import codes_text
from autoseg_lib.settings import MOST_LABELS


def check_label_values(context: Context) -> Iterable[Finding]:
    """Values outside 0..num_labels, or, where num_labels is auto, values that cannot be ROI numbers."""
    if not context.declared or (
        look_like_codes(context.values) and max(context.values) > len(context.labels)
    ):
        yield from _no_roi_numbers(context)
    else:
        yield from _outside_range(context)


def _no_roi_numbers(context: Context) -> Iterable[Finding]:
    share = _share(context)
    text = codes_message(context.values, share)
    if not text:
        return
    proposed = propose_map(context.values, share)
    yield Finding("error", "label_values", text, details={"label_map": proposed} if proposed else {})


def _share(context: Context) -> dict[int, float]:
    """Returns value → share of all pixels of all labels."""
    counts: Counter[int] = Counter()
    for _, _, item in context.slices():
        counts.update(item.counts)
    total = sum(counts.values()) or 1
    return {value: count / total for value, count in counts.items()}


def _outside_range(context: Context) -> Iterable[Finding]:
    expected = len(context.labels)
    by_values: dict[tuple[int, ...], dict[str, list[Sample]]] = {}
    for case, index, item in context.slices():
        if any(value > expected for value in item.counts):
            shown = item.name if len(case.slices) == 1 or case.has_slice_names else case.name
            places = by_values.setdefault(tuple(sorted(item.counts)), {})
            places.setdefault(shown, []).append(Sample(case.name, index))
    for values, found in by_values.items():
        names = list(found)
        which = f"label '{names[0]}'" if len(names) == 1 else f"labels {name_list(names)}"
        yield Finding(
            "error",
            "label_values",
            f"{which}: found the values {codes_text(values, 8)}; with num_labels = {expected} the values 0 to {expected} are "
            f"expected. Correct the file{'s' if len(names) > 1 else ''}"
            + (f", or set num_labels = {max(values)}." if max(values) <= MOST_LABELS else "."),
            tuple(names),
            tuple(sample for samples in found.values() for sample in samples),
        )


def check_missing_rois(context: Context) -> Iterable[Finding]:
    """ROIs that no label holds; nothing at all drawn."""
    if not context.facts:
        return
    if not set(context.values) - {0}:
        yield Finding(
            "error",
            "no_roi",
            "no ROI is drawn in any label file: all pixels are 0 (background). Check that these are the label files.",
        )
        return
    absent = [label for label in context.labels if label.value not in context.values]
    if absent and context.declared:
        names = ", ".join(f"'{label.name}' (value {label.value})" for label in absent)
        yield Finding(
            "error",
            "missing_roi",
            f"found in no label: {names}. Every ROI that is named needs to be drawn at least once. "
            "Draw them, or take them out of labels_list (and lower num_labels).",
        )


def check_empty_labels(context: Context) -> Iterable[Finding]:
    """Slices where nothing is drawn: normal at the ends of a scan, said all the same."""
    empty = [(case, index) for case, index, item in context.slices() if item.is_empty]
    if not 0 < len(empty) < context.slice_count or not any(case.has_slice_names for case in context.facts):
        return
    names = [f"{case.name}/{case.slices[index].name}" for case, index in empty]
    yield Finding(
        "warning",
        "empty_labels",
        f"{len(empty)} of {context.slice_count} labels are empty (nothing drawn): {name_list(names)}. "
        "That is right only where no ROI is visible.",
        tuple(names),
        tuple(Sample(case.name, index) for case, index in empty),
    )
