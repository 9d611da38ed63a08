"""Which ROI of one side is which of the other: by name where both sides name them, else by label value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoseg_lib.data.label_map import codes_message, look_like_codes, propose_map
from autoseg_lib.errors import DataError
from autoseg_lib.evaluate.compare import RoiPair
from autoseg_lib.evaluate.names import RoiNames
from autoseg_lib.evaluate.pairs import MaskPair
from autoseg_lib.io.label_codes import is_mark
from autoseg_lib.io.segments import same_name


@dataclass
class Side:
    """What was found of one side: its values, their share of all pixels, whether numbers (not names) mark its ROIs."""

    word: str
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def values(self) -> set[int]:
        """Values found, 0 left out."""
        return {value for value in self.counts if value}

    @property
    def share(self) -> dict[int, float]:
        """Value → share of all pixels."""
        total = sum(self.counts.values()) or 1
        return {value: count / total for value, count in self.counts.items()}


def choose_rois(
    names: tuple[RoiNames, RoiNames],
    found: tuple[Side, Side],
    pairs: Sequence[MaskPair],
    mapped: tuple[bool, bool] = (False, False),
) -> tuple[Callable[[MaskPair], tuple[list[RoiPair], list[str]]], list[str]]:
    """Decides how ROIs are matched: by name where both sides name them, else by label value.

    Args:
        names: of each side.
        found: values of each side.
        pairs: what is compared.
        mapped: whether the user gave numbers for the names of each side.

    Returns:
        What to compare of a pair (its ROIs, and the names that only one side has), and sentences for the user.
    """
    notes: list[str] = []
    _refuse_codes(found)
    named = [
        bool(side.general or side.by_case or (pairs and all(pair.in_files[number] for pair in pairs)))
        for number, side in enumerate(names)
    ]
    single = [_only_value(*item) for item in zip(names, found, named, strict=True)]
    alias: dict[int, int] = {}
    if not all(named) and None not in single and single[0] != single[1]:
        alias = {int(single[0] or 0): int(single[1] or 0)}
        notes.append(
            f"Each side has one ROI, with the value {single[0]} in the reference and {single[1]} in the "
            "prediction; "
            "they are taken to be the same."
        )
    elif not all(named):
        _refuse_strangers(found, named)
        who = (
            "Neither side names its ROIs"
            if not any(named)
            else f"The {'prediction' if named[0] else 'reference'} names no ROIs"
        )
        notes.append(f"{who}: equal label values are taken to be the same ROI.")
        for side, word, given in zip(names, ("reference", "prediction"), mapped, strict=True):
            if len(side.in_files) > 1 and not side.general and not given:
                # Nobody said these numbers: they are the order of the names.
                numbers = [f"{value} = '{name}'" for value, name in sorted(side.in_files.items())]
                notes.append(
                    f"The ROIs that the {word} names were numbered in the order of their names ({', '.join(numbers[:12])}). If the "
                    "numbers of the other side mean other ROIs, give --labels with the names in the order of these numbers."
                )

    def rois_of(pair: MaskPair) -> tuple[list[RoiPair], list[str]]:
        ours, theirs = (side.of(pair.name, inside) for side, inside in zip(names, pair.in_files, strict=True))
        if ours and theirs:
            by_name = {same_name(name): value for value, name in theirs.items()}
            rois = [(n, v, by_name[same_name(n)]) for v, n in sorted(ours.items()) if same_name(n) in by_name]
            both = {same_name(name) for name, _, _ in rois}
            return rois, [n for n in (*ours.values(), *theirs.values()) if same_name(n) not in both]
        back = {value: key for key, value in alias.items()}
        if ours:
            return [(name, value, alias.get(value, value)) for value, name in sorted(ours.items())], []
        if theirs:
            return [(name, back.get(value, value), value) for value, name in sorted(theirs.items())], []
        values = set(alias) if alias else found[0].values | found[1].values
        return [(f"ROI {value}", value, alias.get(value, value)) for value in sorted(values)], []

    return rois_of, notes


def _only_value(names: RoiNames, found: Side, named: bool) -> int | None:
    """Returns the value of a side's only ROI, None where it has several."""
    values = set(names.in_files or names.general) if named else found.values
    return next(iter(values)) if len(values) == 1 and not names.by_case else None


def _refuse_codes(found: tuple[Side, Side]) -> None:
    """Refuses colours and planes that nobody mapped, and masks that mark what is around the ROI.

    Raises:
        DataError: with the map to give.
    """
    for side in found:
        proposed = propose_map(side.counts, side.share)
        if any(is_mark(value) for value in side.values) or (proposed or {}).get(0) == 1:
            raise DataError(
                f"{side.word}: {codes_message(side.counts, side.share, option=_option(side.word))}"
            )


def _refuse_strangers(found: tuple[Side, Side], named: Sequence[bool]) -> None:
    """Refuses codes on one side that the other side has none of: every comparison would say that nothing agrees.

    Raises:
        DataError: with the map to give.
    """
    for side, other, is_named in zip(found, found[::-1], named, strict=True):
        if not is_named and other.values and look_like_codes(side.values) and not side.values & other.values:
            raise DataError(
                f"{side.word}: {codes_message(side.counts, side.share, option=_option(side.word))}"
            )


def _option(word: str) -> str:
    return f"--{word}-map"
