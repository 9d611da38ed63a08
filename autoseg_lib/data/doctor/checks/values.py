"""Findings on the label values: which ones there are, and which are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from autoseg_lib.data.doctor.context import Context, is_swapped
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Finding, Fix, Sample
from autoseg_lib.data.doctor.fixes import label_files, leave_out_samples, map_values
from autoseg_lib.data.label_map import codes_message, look_like_codes, propose_map, several_colours
from autoseg_lib.errors import name_list
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM
from autoseg_lib.io.label_codes import code_key, codes_text
from autoseg_lib.settings import MOST_LABELS


def check_label_values(context: Context) -> Iterable[Finding]:
    """Values outside 0..num_labels, or, where num_labels is auto, values that cannot be ROI numbers."""
    if context.odd_values and not context.declared:
        yield from _few_odd(context, context.odd_values, len(context.labels))
    elif not context.declared or (
        look_like_codes(context.values) and max(context.values) > len(context.labels)
    ):
        yield from _no_roi_numbers(context)
    else:
        yield from _outside_range(context)


def _few_odd(context: Context, odd: Sequence[Sample], expected: int) -> Iterable[Finding]:
    """A few labels hold other values than all the rest."""
    by_values: dict[tuple[int, ...], list[Sample]] = {}
    for sample in odd:
        by_values.setdefault(_values_of(context, sample), []).append(sample)
    for values, samples in by_values.items():
        names = _names(context, samples)
        which = f"label '{names[0]}'" if len(names) == 1 else f"labels {name_list(names)}"
        yield Finding(
            "error",
            "label_values",
            f"{which}: found the values {codes_text(values, 8)}; all other labels hold the values 0 to {expected}. "
            f"Correct the file{'s' if len(names) > 1 else ''}{_or_map(values, expected)}.",
            tuple(names),
            tuple(samples),
            _odd_fix(context, samples, values, expected),
        )


def _or_map(values: Iterable[int], expected: int) -> str:
    """What to set where the odd values are ROIs of their own, with gaps between the numbers."""
    odd = sorted(value for value in values if value > expected)
    if not odd or odd[-1] > MOST_LABELS:
        return ""
    mapping = ", ".join(f"{value}: {expected + 1 + n}" for n, value in enumerate(odd))
    return f"; if {'this is an ROI' if len(odd) == 1 else 'these are ROIs'} that only few labels show, set label_map = {{{mapping}}}"


def _odd_fix(context: Context, samples: Sequence[Sample], values: Iterable[int], expected: int) -> Fix:
    """Where as many ROI numbers are missing as there are odd values, these get them in order; else the images are left out."""
    marks = {value for value in values if value > 0}
    odd = sorted(value for value in marks if value > expected)
    missing = [number for number in range(1, expected + 1) if number not in marks]
    if len(odd) != len(missing):
        return leave_out_samples(context, samples, "its label holds values that are no ROI numbers")
    numbers: dict[int | str, int] = {
        code_key(mark): number for mark, number in zip(odd, missing, strict=True)
    }
    return map_values(label_files(context, samples), numbers, sure=expected == 1)


def _values_of(context: Context, sample: Sample) -> tuple[int, ...]:
    case = context.case(sample.case)
    slices = case.slices if sample.slice_index is None else (case.slices[sample.slice_index],)
    return tuple(sorted({value for item in slices for value in item.counts}))


def _names(context: Context, samples: Iterable[Sample]) -> list[str]:
    return [
        sample.case
        if sample.slice_index is None
        else context.case(sample.case).slices[sample.slice_index].label_name
        for sample in samples
    ]


def _no_roi_numbers(context: Context) -> Iterable[Finding]:
    share = _share(context)
    text = codes_message(context.values, share)
    if not text:
        return
    proposed = propose_map(context.values, share)
    fix = None
    if proposed and not several_colours(context.values):
        files = label_files(context, (Sample(case.name) for case in context.facts))
        fix = map_values(files, proposed, sure=len(proposed) == 1)
    yield Finding("error", "label_values", text, fix=fix, details={"label_map": proposed} if proposed else {})


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
        if any(value > expected for value in item.counts) and not is_swapped(item):
            shown = item.label_name if len(case.slices) == 1 or case.has_slice_names else case.name
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
            (samples := tuple(sample for items in found.values() for sample in items)),
            _odd_fix(context, samples, values, expected),
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
    """Labels where nothing is drawn: normal at the ends of a scan, said all the same."""
    slices = [
        (case, index) for case, index, item in context.slices() if item.is_empty and case.has_slice_names
    ]
    total = sum(len(case.slices) for case in context.facts if case.has_slice_names)
    names = [case.shown_name(index) for case, index in slices]
    if 0 < len(slices) < total:
        yield Finding(
            "warning",
            "empty_labels",
            f"{len(slices)} of {total} labels ({100 * len(slices) / total:.0f} %) are empty (nothing drawn): {name_list(names)}. "
            "That is right only where no ROI is visible.",
            tuple(names),
            tuple(Sample(case.name, index) for case, index in slices),
        )
    volumes = [case for case in context.facts if not case.has_slice_names]
    empty = [case.name for case in volumes if not case.values - {0}]
    if 0 < len(empty) < len(volumes):
        samples = tuple(Sample(name) for name in empty)
        yield Finding(
            "warning",
            "empty_labels",
            f"{len(empty)} of {len(volumes)} label volumes ({100 * len(empty) / len(volumes):.0f} %) are empty (nothing drawn): "
            f"{name_list(empty)}. Draw the ROIs, or leave the scans out.",
            tuple(empty),
            samples,
            leave_out_samples(context, samples, "nothing is drawn in its label"),
        )


# A ROI missing on at most this many slices in a row between slices that show it is more likely forgotten than absent.
MOST_GAP_SLICES = 2

# ... when the slices beside the gap show it at least this large, as a share of its median size in the scan: a structure that
# ends and begins again gets small before.
GAP_NEIGHBOUR_SHARE = 0.5


def check_roi_gaps(context: Context) -> Iterable[Finding]:
    """ROIs that are missing on a slice although the slices beside it (or other images at its position) have them."""
    missing: dict[int, list[Sample]] = {}
    for case in context.facts:
        if len(case.slices) > 2:
            for value, indices in missing_between(case).items():
                missing.setdefault(value, []).extend(Sample(case.name, index) for index in indices)
    for value, samples in sorted(missing.items()):
        if value > len(context.labels):
            continue
        names = [context.case(s.case).shown_name(s.slice_index or 0) for s in samples]
        which = "a slice" if len(samples) == 1 else f"{len(samples)} slices"
        yield Finding(
            "warning",
            "roi_gap",
            f"'{context.labels[value - 1].name}' is missing on {which} where the slices beside it, or other images at the same "
            f"position, have it: {name_list(names)}. Draw it there, or leave these slices out: the network learns that it is "
            "not there.",
            tuple(names),
            tuple(samples),
        )


def missing_between(case: CaseFacts) -> dict[int, list[int]]:
    """Returns value → indices of the slices of a scan where an ROI is missing that its neighbours have."""
    places = _places(case)
    result: dict[int, list[int]] = {}
    for value in sorted(case.values - {0}):
        sizes = [[case.slices[i].counts.get(value, 0) for i in place] for place in places]
        large = GAP_NEIGHBOUR_SHARE * float(np.median([n for place in sizes for n in place if n]))
        shown = [max(place) >= large for place in sizes]
        absent = {
            i
            for place, pixels in zip(places, sizes, strict=True)
            for i, n in zip(place, pixels, strict=True)
            if not n and max(pixels)
        }
        gone = [max(place) == 0 for place in sizes]
        for start in range(1, len(places)):
            if not gone[start] or gone[start - 1]:
                continue
            stop = next((k for k in range(start, len(places)) if not gone[k]), len(places))
            if stop < len(places) and stop - start <= MOST_GAP_SLICES and shown[start - 1] and shown[stop]:
                absent |= {i for k in range(start, stop) for i in places[k]}
        if absent:
            result[value] = sorted(absent)
    return result


def _places(case: CaseFacts) -> list[list[int]]:
    """Indices of the slices that lie at one position, position by position."""
    positions = case.geometry.positions_mm
    places: list[list[int]] = []
    for index in range(len(case.slices)):
        same = places and abs(positions[index] - positions[places[-1][-1]]) <= SAME_PLACE_TOLERANCE_MM
        if same:
            places[-1].append(index)
        else:
            places.append([index])
    return places
