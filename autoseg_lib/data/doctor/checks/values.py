"""Findings on the label values: which ones there are, and which are missing."""

from __future__ import annotations

from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.errors import name_list


def check_label_values(context: Context) -> Iterable[Finding]:
    """Values outside 0..num_labels, or, where num_labels is auto, values that cannot be ROI numbers."""
    if context.declared:
        yield from _outside_range(context)
    else:
        yield from _no_roi_numbers(context)


def _no_roi_numbers(context: Context) -> Iterable[Finding]:
    positive = [value for value in context.values if value > 0]
    if not positive or len(positive) == max(positive):
        return
    if len(positive) == 1 and max(positive) > 2:
        yield Finding(
            "error",
            "label_values",
            f"the label files hold the values {values_text(context.values)}: one ROI, marked with {max(positive)}. ROIs are "
            f"expected to be numbered 1, 2, 3, ... Save the labels with 1 in place of {max(positive)}.",
        )
        return
    missing = [v for v in range(1, min(max(positive), 255)) if v not in positive]
    yield Finding(
        "error",
        "label_values",
        f"the label files hold the values {values_text(context.values)}; ROIs are expected to be numbered 1, 2, 3, ... without "
        f"gaps (no label holds {values_text(missing)}). Renumber the labels, or, if the gap is meant, set num_labels = "
        f"{max(positive)}.",
    )


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
            f"{which}: found the values {values_text(values)}; with num_labels = {expected} the values 0 to {expected} are "
            f"expected. Correct the file{'s' if len(names) > 1 else ''}, or set num_labels = {max(values)}.",
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


def values_text(values: Iterable[int]) -> str:
    """Returns "0, 1, 2", cut short after eight values."""
    items = list(values)
    text = ", ".join(str(value) for value in items[:8])
    return text if len(items) <= 8 else f"{text}, ... ({len(items)} different values)"
