"""Which labels do not fit their images, and what would make them fit.

The small pictures of all samples go through ``fit`` (how should each label look, judging by the others?) and ``planted``
(how suspicious is each label as stored?). For each label accused, every explanation is then tried on: turned, renumbered,
taken from another slice, changed places with another label. The one that makes it fit is offered; where none does, the
label is shown as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Sample
from autoseg_lib.data.doctor.fit import Fitter, FloatArray, UInt8Array, Unit, fitted
from autoseg_lib.data.doctor.local_fit import WholeSet, whole_set_transform
from autoseg_lib.data.doctor.planted import Judge, Verdicts, judge_labels, possible_transforms
from autoseg_lib.data.doctor.runs import Run, shifted_runs
from autoseg_lib.data.doctor.transforms import transformed
from autoseg_lib.data.doctor.whole_scans import ScanFault, whole_scan_faults

# With fewer samples there is nothing to compare with.
FEWEST_UNITS = 16
# Only the most frequent ROIs are looked at: time and memory grow with their number.
MOST_ROIS = 8
# Slices of a volume that are looked at, evenly spread, and the longest side of their pictures.
_VOLUME_SLICES = 9
_SMALLEST_SIDE = 12
# All slices together have at most about this many pixels; larger sets are looked at in smaller pictures.
_MOST_PIXELS = 10_000_000
# Rounds of fitting, each without the labels that looked wrong in the one before; a set with no more than this share of
# them needs no further round.
_ROUNDS = 3
_FEW = (0.12, 0.2, 1.0)
# Larger regions around the ROIs than this (pixels of a slice) are looked at in smaller pictures.
_REGION_PIXELS = 4096
# A simple explanation (turned, renumbered) is taken before one that needs other labels, unless that fits better by this much.
_MUCH_BETTER = 3.0
# Another explanation must lower the score by this much.
_BETTER = 2.0
_SHIFTS = (-1, 1, -2, 2, -3, 3)
# Where too little could be planted to set a limit it is infinite, which no score can be.
_HIGHEST_SCORE = 10.0


@dataclass(frozen=True)
class Suspect:
    """A label that does not fit its image.

    Attributes:
        sample: the slice, or the case for label volumes.
        score: about the logarithm of the odds that it is wrong.
        kind: "transform", "renumber", "shift", "swap" or "unlike".
        transform: what makes it fit.
        mapping: stored ROI value → ROI value that fits.
        slices: the label drawn on slice i fits slice i + slices.
        partner: the sample it changed places with.
        scan: for a run of shifted labels, all samples of the scan in order; for a fault of much of a scan, all that share it.
    """

    sample: Sample
    score: float
    kind: str = "unlike"
    transform: str = ""
    mapping: Mapping[int, int] = field(default_factory=dict)
    slices: int = 0
    partner: Sample | None = None
    scan: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """What comparing all labels with their images gave.

    Attributes:
        suspects: labels that do not fit, most suspicious first.
        whole_set: how all labels are turned, None where they lie right.
        scores: for each sample looked at, how suspicious its label is (above 0: more likely wrong than right).
        limit: score above which a label is a suspect.
        power: share of planted faults that were found, 0 to 1.
    """

    suspects: tuple[Suspect, ...] = ()
    whole_set: WholeSet | None = None
    scores: Mapping[Sample, float] = field(default_factory=dict, repr=False)
    limit: float = float("inf")
    power: float = 0.0


def compare_labels(facts: Sequence[CaseFacts], faulty: Collection[Sample] = ()) -> Agreement:
    """Compares all labels with their images.

    Args:
        facts: of all cases that could be read.
        faulty: slices already known to be wrong in another way; they are not looked at.
    """
    values = _frequent_values(facts, faulty)
    samples, units = _units(facts, values, faulty)
    if len(units) < FEWEST_UNITS or not values:
        return Agreement()
    fitter = _fitter(units, len(values))
    whole_set = whole_set_transform(fitter)
    if whole_set is not None:
        turned = [replace(unit, label=transformed(unit.label, whole_set.transform)) for unit in fitter.units]
        fitter = Fitter(turned, len(values))
    weights = np.ones(len(units), np.float32)
    for number in range(_ROUNDS):
        fit = fitter.fit(weights)
        verdicts = judge_labels(fitter, fit, weights, seed=number)
        weights = verdicts.weights
        if float(weights.mean()) > 1 - _FEW[number]:
            break
    accused = [int(index) for index in np.flatnonzero(verdicts.scores > verdicts.limit)]
    suspects = _Explainer(fitter, verdicts, samples, values).explain(accused)
    suspects = _with_runs(
        suspects, shifted_runs(fitter, verdicts, _scans(samples, fitter)), verdicts, samples
    )
    suspects = _with_scans(suspects, whole_scan_faults(fitter, fit, weights), verdicts, samples, values)
    return Agreement(
        tuple(sorted(suspects, key=lambda item: -item.score)),
        whole_set,
        dict(zip(samples, verdicts.scores.tolist(), strict=True)),
        verdicts.limit,
        verdicts.power,
    )


def _scans(samples: Sequence[Sample], fitter: Fitter) -> list[list[int]]:
    """Returns which units follow each other: slices of one case, or pictures whose names differ in their last number."""
    found: dict[str, list[int]] = defaultdict(list)
    sizes = Counter(sample.case for sample in samples)
    for index, sample in enumerate(samples):
        if len(fitter.labels[index]) == 1:
            name = sample.case
            found[name if sizes[name] > 1 else name.rstrip("0123456789") + "#"].append(index)
    return list(found.values())


def _with_runs(
    suspects: Sequence[Suspect], runs: Sequence[Run], verdicts: Verdicts, samples: Sequence[Sample]
) -> list[Suspect]:
    """Adds runs of shifted labels; labels that something else explains keep that."""
    found = {suspect.sample: suspect for suspect in suspects}
    for run in runs:
        scan = tuple(samples[index] for index in run.scan)
        for index in run.members:
            sample = samples[index]
            if sample not in found or found[sample].kind in ("unlike", "shift"):
                score = float(verdicts.scores[index])
                found[sample] = Suspect(sample, score, "shift", slices=run.slices, scan=scan)
    return list(found.values())


def _with_scans(
    suspects: Sequence[Suspect],
    faults: Sequence[ScanFault],
    verdicts: Verdicts,
    samples: Sequence[Sample],
    values: Sequence[int],
) -> list[Suspect]:
    """Adds labels that are wrong with much of their scan; among them the right ones looked odd, and are cleared."""
    found = {suspect.sample: suspect for suspect in suspects}
    for fault in faults:
        for index in fault.cleared:
            found.pop(samples[index], None)
        for place, index in enumerate(fault.members):
            found[samples[index]] = Suspect(
                samples[index],
                max(float(verdicts.scores[index]), min(verdicts.limit, _HIGHEST_SCORE)),
                fault.kind,
                fault.transform,
                {values[old - 1]: values[new - 1] for old, new in fault.mapping.items()},
                fault.slices,
                samples[fault.partners[place]] if fault.partners else None,
                tuple(samples[member] for member in fault.members),
            )
    return list(found.values())


def _fitter(units: Sequence[Unit], rois: int) -> Fitter:
    """Returns the fitter; pictures are made smaller where ROIs fill most of them, as fine detail then matters less."""
    fitter = Fitter(units, rois)
    largest = max(label[0].size for label in fitter.labels)
    if largest <= _REGION_PIXELS:
        return fitter
    return Fitter([_smaller(unit, (_REGION_PIXELS / largest) ** 0.5) for unit in units], rois)


class _Explainer:
    """Tries explanations on for accused labels."""

    def __init__(
        self, fitter: Fitter, verdicts: Verdicts, samples: Sequence[Sample], values: Sequence[int]
    ) -> None:
        self._fitter, self._verdicts, self._samples, self._values = fitter, verdicts, samples, values
        self._members: dict[str, list[int]] = defaultdict(list)
        for index, unit in enumerate(fitter.units):
            self._members[unit.group].append(index)

    def explain(self, accused: Sequence[int]) -> list[Suspect]:
        """Returns a suspect for each accused unit."""
        partners = self._partners(accused)
        found = []
        for index in accused:
            best = self._alone(index)
            swapped = partners.get(index)
            loose = best.kind in ("unlike", "shift")
            if swapped is not None and (loose or swapped[1] < best.score - _MUCH_BETTER):
                best = replace(best, kind="swap", score=swapped[1], partner=self._samples[swapped[0]])
                best = replace(best, transform="", mapping={}, slices=0)
            found.append(replace(best, score=float(self._verdicts.scores[index])))
        return self._runs(found)

    def _score(self, index: int, label: UInt8Array) -> float:
        judge = self._judge(index)
        return self._verdicts.model.score(index, judge.measures(label))

    def _judge(self, index: int) -> Judge:
        return self._verdicts.judges[index]

    def _alone(self, index: int) -> Suspect:
        """Returns the best explanation that needs no other label to be wrong; ``score`` is the score it leads to."""
        label = self._fitter.labels[index]
        start = Suspect(self._samples[index], float(self._verdicts.scores[index]))
        tried: list[tuple[float, Suspect]] = []
        for name in possible_transforms(label):
            tried.append(
                (
                    self._score(index, transformed(label, name)),
                    replace(start, kind="transform", transform=name),
                )
            )
        mapping = self._judge(index).likelier_numbers(label)
        if mapping:
            table = np.arange(256, dtype=np.uint8)
            for old, new in mapping.items():
                table[old] = new
            named = {self._values[old - 1]: self._values[new - 1] for old, new in mapping.items()}
            tried.append((self._score(index, table[label]), replace(start, kind="renumber", mapping=named)))
        allowed = min(self._verdicts.limit, start.score - _BETTER, 0.0)
        good = [(score, suspect) for score, suspect in tried if score < allowed]
        if not good:
            # A neighbour's label nearly always fits well: it explains only what nothing simpler does.
            tried = [
                (self._score(index, other), replace(start, kind="shift", slices=shift))
                for shift, other in self._shifted(index)
            ]
            good = [(score, suspect) for score, suspect in tried if score < allowed]
        if not good:
            return start
        score, suspect = min(good, key=lambda item: item[0])
        return replace(suspect, score=score)

    def _shifted(self, index: int) -> list[tuple[int, UInt8Array]]:
        """Returns (slices, label) of the labels near by: the label of slice i - slices, tried on slice i."""
        label = self._fitter.labels[index]
        if len(label) > 1:
            return []
        members = self._members[self._fitter.units[index].group]
        here = members.index(index)
        near = []
        for shift in _SHIFTS:
            if 0 <= here - shift < len(members):
                other = self._fitter.labels[members[here - shift]]
                if other.shape == label.shape:
                    near.append((shift, other))
        return near

    def _partners(self, accused: Sequence[int]) -> dict[int, tuple[int, float]]:
        """Returns for accused labels the accused label they changed places with, and the score that leads to."""
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index in accused:
            same_size[self._fitter.labels[index].shape].append(index)
        found: dict[int, tuple[int, float]] = {}
        for members in same_size.values():
            if len(members) < 2:
                continue
            gain = self._likelihood_gain(members)
            both = gain + gain.T
            pairs = [
                (float(both[a, b]), a, b)
                for a in range(len(members))
                for b in range(a + 1, len(members))
                if gain[a, b] > 0 and gain[b, a] > 0
            ]
            # Only the most likely pairs are looked at closely.
            for _, a, b in sorted(pairs, reverse=True)[: 4 * len(members)]:
                first, second = members[a], members[b]
                if first in found or second in found:
                    continue
                after = [
                    self._score(first, self._fitter.labels[second]),
                    self._score(second, self._fitter.labels[first]),
                ]
                if max(after) < self._verdicts.limit and all(
                    score < self._verdicts.scores[index] - _BETTER
                    for score, index in zip(after, (first, second), strict=True)
                ):
                    found[first], found[second] = (second, after[0]), (first, after[1])
        return found

    def _likelihood_gain(self, members: Sequence[int]) -> FloatArray:
        """Returns (image, label) how much likelier another label is than the stored one."""
        odds = [self._judge(index).log_odds() for index in members]
        flat = np.stack([item.reshape(-1, item.shape[-1]) for item in odds])
        table = np.zeros((len(members), len(members)), np.float32)
        for column, index in enumerate(members):
            label = self._fitter.labels[index].ravel()
            inside = np.flatnonzero(label)
            table[:, column] = flat[:, inside, label[inside] - 1].sum(axis=1)
        return table - np.diag(table)[:, None]

    def _runs(self, suspects: list[Suspect]) -> list[Suspect]:
        """Shifts count only where neighbours agree; a single one is a label unlike the others."""
        votes = Counter((item.sample.case, item.slices) for item in suspects if item.kind == "shift")
        return [
            replace(item, kind="unlike", slices=0)
            if item.kind == "shift" and votes[item.sample.case, item.slices] < 2
            else item
            for item in suspects
        ]


def _frequent_values(facts: Sequence[CaseFacts], faulty: Collection[Sample]) -> list[int]:
    """Returns the label values on most slices, in order."""
    counts = Counter(
        value
        for case in facts
        for k, item in enumerate(case.slices)
        for value in item.rois
        if value < 65536 and Sample(case.name, k) not in faulty
    )
    return sorted(value for value, _ in counts.most_common(MOST_ROIS))


def _units(
    facts: Sequence[CaseFacts], values: Sequence[int], faulty: Collection[Sample]
) -> tuple[list[Sample], list[Unit]]:
    """Returns what is judged as one: a label file with the slices it is for."""
    number: Callable[[UInt8Array], UInt8Array] = _numbered(values)
    samples: list[Sample] = []
    units: list[Unit] = []
    for case in facts:
        usable = [
            k
            for k, item in enumerate(case.slices)
            if not item.is_constant
            and Sample(case.name, k) not in faulty
            and min(item.small_image.shape[:2]) >= _SMALLEST_SIDE
        ]
        if not usable:
            continue
        files = {case.slices[k].label_file for k in usable}
        if len(files) == 1 and len(case.slices) > 1:
            chosen = [usable[k] for k in _spread(len(usable), _VOLUME_SLICES)]
            images = np.stack([case.slices[k].small_image for k in chosen])
            labels = np.stack([number(case.slices[k].small_label) for k in chosen])
            samples.append(Sample(case.name))
            units.append(Unit(images, labels, case.name))
            continue
        for k in usable:
            item = case.slices[k]
            samples.append(Sample(case.name, k))
            units.append(Unit(item.small_image[None], number(item.small_label)[None], case.name))
    pixels = sum(unit.image.size for unit in units)
    if pixels > _MOST_PIXELS:
        units = [_smaller(unit, (_MOST_PIXELS / pixels) ** 0.5) for unit in units]
    return samples, units


def _spread(count: int, most: int) -> list[int]:
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, most)).round()})


def _numbered(values: Sequence[int]) -> Callable[[UInt8Array], UInt8Array]:
    """Returns what writes 1, 2, ... for the given values and 0 for all others."""
    table = np.zeros(65536, np.uint8)
    for number, value in enumerate(values, start=1):
        table[value] = number

    def write(label: UInt8Array) -> UInt8Array:
        plain = np.where(label < 65536, label, 0)
        numbered: UInt8Array = table[plain.astype(np.intp)]
        return numbered

    return write


def _smaller(unit: Unit, scale: float) -> Unit:
    slices, rows, columns = unit.image.shape
    shape = (slices, max(_SMALLEST_SIDE, round(rows * scale)), max(_SMALLEST_SIDE, round(columns * scale)))
    image = np.stack(
        [cv2.resize(plane, (shape[2], shape[1]), interpolation=cv2.INTER_AREA) for plane in unit.image]
    )
    return Unit(image, fitted(unit.label, shape), unit.group)
