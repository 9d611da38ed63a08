"""Which scans are kept back for validation: whole patients where there are several, else the best that can be
had.

The scores mean what the split allows: on other patients they tell how the model does on a new patient; on
slices of the same scan they only tell whether it has learned this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np

from autoseg_lib.errors import DataError, counted

DEFAULT_VALIDATION_FRACTION = 0.2

# From this many patients on a tenth is enough to judge by, but never fewer than error bars can be calibrated on
# (measure/calibration.py, FEWEST_PATIENTS). Smaller studies keep a fifth: with them every scan to learn from counts more.
MANY_PATIENTS, SHARE_OF_MANY, FEWEST_OF_MANY = 100, 0.1, 20

# With fewer patients than this, one kept back is a fifth or more of what there is, and its score alone tells little: it is
# learned from, too, from this share of the training on. Till then it is as unseen as any.
FEW_PATIENTS, LEARN_ALL_FROM = 6, 0.5

# Slices left out beside the block that is kept back, as a share of the scan: neighbours look almost the same.
# At least one, at most three.
_GAP_SHARE, _LARGEST_GAP = 0.05, 3

T = TypeVar("T")


class SplittableCase(Protocol):
    """What a case must tell to be split."""

    @property
    def name(self) -> str:
        """Name of the scan."""

    @property
    def patient(self) -> str:
        """Something that is equal for scans of one patient."""


@dataclass(frozen=True)
class Split:
    """Training and validation cases, as indices into the list of cases.

    Attributes:
        train: cases to learn from.
        validation: cases kept back; with kind "same scan" of one case, that same case.
        kind: "patients" (other patients), "cases" (other scans of the same patient), "same scan" (a block of
            slices of the same scan), "none" (nothing kept back).
        text: a sentence for the report.
        train_slices: with one single case: its slices to learn from; None: all.
        validation_slices: with one single case: its slices kept back; None: all.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    kind: Literal["patients", "cases", "same scan", "none"]
    text: str
    train_slices: tuple[int, ...] | None = None
    validation_slices: tuple[int, ...] | None = None


def split_cases(
    cases: Sequence[SplittableCase],
    fraction: float = DEFAULT_VALIDATION_FRACTION,
    seed: int = 0,
    *,
    slice_counts: Sequence[int] | None = None,
    with_roi: Sequence[bool] | None = None,
) -> Split:
    """Splits cases into training and validation; the same input gives the same split.

    Args:
        cases: the cases, in a fixed order.
        fraction: share kept back; 0 keeps nothing back. At least one patient (case, slice) is kept back
            otherwise.
        seed: start of the random choice.
        slice_counts: slices of each case. Needed to split within one scan; single-slice cases of one patient
            are taken as the slices of one scan, in their order.
        with_roi: for each slice of the one scan (or each single-slice case), whether it shows an ROI: the
            block kept back is chosen among those that show ROIs as often as the rest.
    """
    count = len(cases)
    everything = tuple(range(count))
    if fraction <= 0 or count == 0:
        return Split(everything, (), "none", "Nothing is kept back for validation.")
    random = np.random.default_rng([seed, 7])  # apart from the other uses of the same seed
    patients = sorted({case.patient for case in cases})
    if len(patients) > 1:
        kept = set(_choose(patients, fraction, random))
        validation = tuple(i for i in everything if cases[i].patient in kept)
        train = tuple(i for i in everything if cases[i].patient not in kept)
        text = (
            f"{counted(len(validation), 'scan')} of {counted(len(kept), 'patient')} kept back for validation; "
            f"{counted(len(train), 'scan')} of {counted(len(patients) - len(kept), 'patient')} to learn from."
        )
        return Split(train, validation, "patients", text)
    sizes = list(slice_counts) if slice_counts is not None else [1] * count
    if count > 1 and max(sizes) > 1:
        kept_cases = set(_choose(list(everything), fraction, random))
        validation = tuple(i for i in everything if i in kept_cases)
        train = tuple(i for i in everything if i not in kept_cases)
        text = (
            f"All scans are of one patient: {counted(len(validation), 'scan')} kept back for validation. "
            "The scores tell how the model does on other scans of this patient, not on other patients."
        )
        return Split(train, validation, "cases", text)
    slices = sizes[0] if count == 1 else count
    train_part, kept_part = _block(slices, fraction, with_roi, random)
    if not kept_part:
        text = (
            f"Only {counted(slices, 'slice')}: nothing can be kept back, so there are no validation scores."
        )
        return Split(everything, (), "none", text)
    text = (
        f"One patient only: slices {kept_part[0] + 1} to {kept_part[-1] + 1} kept back for "
        "validation, with a gap beside them. The scores are for the same scan and say little about other "
        "patients."
    )
    if count == 1:
        return Split((0,), (0,), "same scan", text, train_part, kept_part)
    return Split(train_part, kept_part, "same scan", text)


def split_folds(
    cases: Sequence[SplittableCase], folds: int, seed: int = 0, *, slice_counts: Sequence[int] | None = None
) -> tuple[Split, ...]:
    """Splits cases into ``folds`` parts of about equal size; each part is kept back once while the others are learned from.

    All scans of a patient are in one part. Scans of one single patient are divided scan by scan; slices of one scan are
    never divided, because each slice would be judged by its neighbours.

    Args:
        cases: the cases, in a fixed order.
        folds: number of parts, at least 2.
        seed: start of the random choice.
        slice_counts: slices of each case; with one everywhere, the cases of one patient are taken as slices of one scan.

    Raises:
        DataError: there are fewer patients (scans) than folds.
    """
    patients = sorted({case.patient for case in cases})
    of_one = len(patients) == 1
    units = [case.name if of_one else case.patient for case in cases]
    single_slices = slice_counts is not None and max(slice_counts, default=0) <= 1
    names = sorted(set(units))
    if of_one and (len(cases) == 1 or single_slices):
        raise DataError(
            f"folds = {folds}: all slices are of one scan, and each would be judged by its neighbours. At least {folds} patients "
            "are expected. Set folds = 1 to keep one block of slices back, or add scans of other patients."
        )
    if len(names) < folds:
        what = "scan" if of_one else "patient"
        fewer = f"Set folds = {len(names)}" + (", or folds = 1 for one split" if len(names) > 2 else "")
        raise DataError(
            f"folds = {folds}: found {counted(len(names), what)}; each fold keeps at least one {what} back. "
            f"{fewer if len(names) > 1 else 'Set folds = 1'}, or add scans."
        )
    random = np.random.default_rng([seed, 11])  # apart from the other uses of the same seed
    shuffled = [names[i] for i in random.permutation(len(names))]
    size = {name: units.count(name) for name in names}
    parts: list[set[str]] = [set() for _ in range(folds)]
    # The largest first, each to the part that is smallest so far: the parts come out as equal as whole patients allow.
    for name in sorted(shuffled, key=lambda n: -size[n]):
        min(parts, key=lambda part: sum(size[n] for n in part)).add(name)
    return tuple(_fold(units, part, number, folds, of_one) for number, part in enumerate(parts, start=1))


def _fold(units: Sequence[str], kept: set[str], number: int, folds: int, of_one: bool) -> Split:
    validation = tuple(i for i, unit in enumerate(units) if unit in kept)
    train = tuple(i for i, unit in enumerate(units) if unit not in kept)
    patients = "" if of_one else f" of {counted(len(kept), 'patient')}"
    text = (
        f"Fold {number} of {folds}: {counted(len(validation), 'scan')}{patients} kept back, "
        f"{counted(len(train), 'scan')} to learn from."
    )
    if of_one:
        text += " All scans are of one patient: the scores say nothing about other patients."
    return Split(train, validation, "cases" if of_one else "patients", text)


def validation_share(patients: int) -> float:
    """Returns the share to keep back where the user did not say."""
    if patients < MANY_PATIENTS:
        return DEFAULT_VALIDATION_FRACTION
    return max(SHARE_OF_MANY, round(FEWEST_OF_MANY / patients, 4))


def validation_reason(patients: int) -> str:
    """Returns why that share, for the plan."""
    who = counted(patients, "patient")
    if patients >= MANY_PATIENTS:
        return f"{who}; at least {FEWEST_OF_MANY} are kept back, so that areas and volumes get error bars"
    if patients >= FEWEST_OF_MANY and validation_share(patients) * patients < FEWEST_OF_MANY - 0.5:
        return f"{who}; error bars need {FEWEST_OF_MANY} kept back, which would leave too few to learn from: folds = 5 gives both"
    return who


def learns_all(split: Split, patients: int) -> bool:
    """Returns whether the scans kept back are learned from, too, late in the training, where the user leaves it to us."""
    return split.kind == "patients" and patients < FEW_PATIENTS


def runs(indices: Sequence[int]) -> list[range]:
    """Returns increasing indices as unbroken runs, e.g. to cut a 3D scan into the parts to learn from."""
    parts: list[range] = []
    for index in indices:
        if parts and parts[-1].stop == index:
            parts[-1] = range(parts[-1].start, index + 1)
        else:
            parts.append(range(index, index + 1))
    return parts


def _choose(items: list[T], fraction: float, random: np.random.Generator) -> list[T]:
    number = min(max(1, round(fraction * len(items))), len(items) - 1)
    return [items[i] for i in random.permutation(len(items))[:number]]


def _block(
    count: int, fraction: float, with_roi: Sequence[bool] | None, random: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """An unbroken block of slices kept back, and the others without the gap beside it."""
    gap = max(1, min(_LARGEST_GAP, round(_GAP_SHARE * count)))
    size = max(1, round(fraction * count))
    size = min(size, count - gap - 1)
    if size < 1:
        return tuple(range(count)), ()
    shows = np.ones(count) if with_roi is None else np.asarray(with_roi, dtype=float)
    shown = np.convolve(shows, np.ones(size), mode="valid")
    # Ends of a scan often show nothing: only blocks that show ROIs at least as often as the scan does.
    fitting = np.flatnonzero(shown >= min(shown.max(), shows.mean() * size))
    start = int(random.choice(fitting))
    kept = tuple(range(start, start + size))
    train = tuple(k for k in range(count) if k < start - gap or k >= start + size + gap)
    return (train, kept) if train else (tuple(range(count)), ())
