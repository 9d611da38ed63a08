"""Labels that do not fit their images: turned, renumbered, of another slice or sample, or unlike all others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoseg_lib.data.doctor.agreement import Suspect
from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample
from autoseg_lib.data.doctor.fixes import label_files
from autoseg_lib.errors import counted, name_list

_LOOK = "This rests on comparison with the other samples: look at the picture before you change anything."

# A finding that rests on comparison stops training only where it is overwhelming: by chance it is seen once in a hundred
# million sets of which it is not true (normal distribution).
STOP_SIGMAS = 5.6


def check_whole_set_turned(context: Context) -> Iterable[Finding]:
    """All labels turned the same way: then none of them sticks out, but edges and grey values do not match."""
    turned = context.agreement.whole_set
    if turned is None:
        return
    samples = tuple(context.agreement.scores)
    files = label_files(context, samples)
    yield Finding(
        "error" if turned.sigmas >= STOP_SIGMAS else "warning",
        "labels_turned",
        f"all labels seem to be turned against their images: '{turned.transform}' makes them fit much better (it explains "
        f"{100 * turned.gain:.0f} % more of them). This happens where one program writes rows first and another columns. "
        "Look at the pictures, and turn all labels.",
        tuple(file.name for file in files),
        samples,
        Fix(
            f"Turn {counted(len(files), 'label file')}: {turned.transform}",
            (FixAction("transform", files, {"transform": turned.transform}),),
            sure=False,
        ),
        {"transform": turned.transform, "sigmas": round(turned.sigmas, 1)},
    )


def check_turned(context: Context) -> Iterable[Finding]:
    """Single labels that fit when they are turned, one finding for each way of turning."""
    found: dict[str, list[Suspect]] = defaultdict(list)
    for suspect in _of(context, "transform"):
        found[suspect.transform].append(suspect)
    for name, suspects in found.items():
        files, names = _files(context, suspects)
        yield Finding(
            "warning",
            "label_turned",
            f"{_labels(context, suspects)} {_fit(len(names))} '{name}'. {_LOOK}",
            names,
            _samples(suspects),
            Fix(
                f"Turn {counted(len(files), 'label file')}: {name}",
                (FixAction("transform", files, {"transform": name}),),
                sure=False,
            ),
            {"transform": name, **_scores(suspects)},
        )


def check_renumbered(context: Context) -> Iterable[Finding]:
    """Labels whose ROIs are numbered differently than in the other samples; left and right are said by name."""
    pairs = {frozenset(pair) for pair in context.labels.mirror_pairs}
    found: dict[tuple[tuple[int, int], ...], list[Suspect]] = defaultdict(list)
    for suspect in _of(context, "renumber"):
        changes = tuple(sorted((old, new) for old, new in suspect.mapping.items() if old != new))
        found[changes].append(suspect)
    for changes, suspects in found.items():
        files, names = _files(context, suspects)
        sides = all(frozenset(change) in pairs for change in changes)
        what = ", ".join(f"{_roi(context, old)} should be {_roi(context, new)}" for old, new in changes)
        cause = (
            "left and right seem to be exchanged"
            if sides
            else "ROIs seem to be numbered differently than in the other samples"
        )
        yield Finding(
            "warning",
            "sides_swapped" if sides else "roi_numbers",
            f"{_labels(context, suspects)}: {cause} ({what}). {_LOOK}",
            names,
            _samples(suspects),
            Fix(
                f"Renumber {counted(len(files), 'label file')}",
                (FixAction("map_values", files, {"map": dict(changes)}),),
                sure=False,
            ),
            {"map": dict(changes), **_scores(suspects)},
        )


def check_shifted(context: Context) -> Iterable[Finding]:
    """Neighbouring labels that fit some slices further on."""
    found: dict[tuple[str, int], list[Suspect]] = defaultdict(list)
    for suspect in _of(context, "shift"):
        found[_scan_of(suspect), suspect.slices].append(suspect)
    for (_, slices), suspects in found.items():
        _, names = _files(context, suspects)
        case = suspects[0].sample.case
        one_case = all(suspect.sample.case == case for suspect in suspects)
        of_case = f" of '{case}'" if one_case else ""
        yield Finding(
            "warning",
            "label_shifted",
            f"{_labels(context, suspects)}{of_case} seem to belong to other slices: they fit "
            f"{counted(abs(slices), 'slice')} further {'on' if slices > 0 else 'back'}. Check the order of the label files. "
            f"{_LOOK}",
            names,
            _samples(suspects),
            _move(context, suspects, slices) if one_case else None,
            {"slices": slices, **_scores(suspects)},
        )


def _scan_of(suspect: Suspect) -> str:
    return (suspect.scan[0] if suspect.scan else suspect.sample).case


def _move(context: Context, suspects: Sequence[Suspect], slices: int) -> Fix:
    case = suspects[0].sample.case
    indices = sorted(item.sample.slice_index or 0 for item in suspects)
    count = len(context.case(case).slices)
    first = max(0, min(indices[0], indices[0] - slices))
    last = min(count - 1, max(indices[-1], indices[-1] - slices))
    files = label_files(context, [Sample(case, index) for index in range(first, last + 1)])
    return Fix(
        f"Move {counted(len(files), 'label file')} by {slices:+d}",
        (FixAction("shift", files, {"slices": slices}),),
        sure=False,
    )


def check_exchanged(context: Context) -> Iterable[Finding]:
    """Labels that fit each other's images: two slices, or two scans slice by slice."""
    done: set[Sample] = set()
    pairs: dict[tuple[str, str], list[Suspect]] = defaultdict(list)
    for suspect in _of(context, "swap"):
        if suspect.partner is None or suspect.sample in done:
            continue
        done.update((suspect.sample, suspect.partner))
        if len(label_files(context, (suspect.sample, suspect.partner))) == 2:
            pairs[suspect.sample.case, suspect.partner.case].append(suspect)
    for (one, other), suspects in pairs.items():
        if one == other or len(suspects) == 1:
            for suspect in suspects:
                yield _exchanged(context, [suspect])
        else:
            yield _exchanged(context, suspects, f"the labels of '{one}' and '{other}'")


def _exchanged(context: Context, suspects: Sequence[Suspect], what: str = "") -> Finding:
    places = [sample for item in suspects for sample in (item.sample, item.partner) if sample is not None]
    shown = [_shown(context, sample) for sample in places]
    what = what or f"labels '{shown[0]}' and '{shown[1]}'"
    each = [label_files(context, (a, b)) for a, b in zip(places[::2], places[1::2], strict=True)]
    return Finding(
        "warning",
        "label_swapped",
        f"{what} seem to have changed places: each fits the other's image better. {_LOOK}",
        tuple(file.name for files in each for file in files),
        tuple(places),
        Fix(
            "Let the two labels change places"
            if len(each) == 1
            else f"Let {2 * len(each)} labels change places",
            tuple(FixAction("swap_labels", files) for files in each),
            sure=False,
        ),
        _scores(suspects),
    )


def check_unlike(context: Context) -> Iterable[Finding]:
    """Labels that do not fit their image, and nothing tried makes them fit."""
    suspects = _of(context, "unlike")
    if not suspects:
        return
    _, names = _files(context, suspects)
    yield Finding(
        "warning",
        "label_unlike",
        f"{_labels(context, suspects)} {'does' if len(names) == 1 else 'do'} not look like the others would let one expect (another "
        "sample's label, another slice's, carelessly drawn, or a rare anatomy). Look at "
        f"{'this one' if len(names) == 1 else 'these'}.",
        names,
        _samples(suspects),
        details=_scores(suspects),
    )


def _of(context: Context, kind: str) -> list[Suspect]:
    return [suspect for suspect in context.agreement.suspects if suspect.kind == kind]


def _files(context: Context, suspects: Sequence[Suspect]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    files = label_files(context, [suspect.sample for suspect in suspects])
    return files, tuple(file.name for file in files)


def _samples(suspects: Sequence[Suspect]) -> tuple[Sample, ...]:
    return tuple(suspect.sample for suspect in suspects)


def _scores(suspects: Sequence[Suspect]) -> dict[str, object]:
    return {"scores": [round(suspect.score, 1) for suspect in suspects]}


def _labels(context: Context, suspects: Sequence[Suspect]) -> str:
    names = list(dict.fromkeys(_shown(context, suspect.sample) for suspect in suspects))
    return f"label '{names[0]}'" if len(names) == 1 else f"{len(names)} labels ({name_list(names)})"


def _shown(context: Context, sample: Sample) -> str:
    """Returns the name of a label file, with its scan where that has a file for each slice: many scans have an IM_0001."""
    files = label_files(context, (sample,))
    name = files[0].name if files else sample.case
    own_folder = sample.slice_index is not None and len(context.case(sample.case).slices) > 1
    return f"{sample.case}/{name}" if own_folder else name


def _fit(count: int) -> str:
    return (
        "does not fit its image, but it does after"
        if count == 1
        else "do not fit their images, but they do after"
    )


def _roi(context: Context, value: int) -> str:
    names = {label.value: label.name for label in context.labels}
    return f"{value} ('{names[value]}')" if value in names else str(value)
