"""Keeping scans back: patients never on both sides, and an honest word where that cannot be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from autoseg_lib.data.split import runs, split_cases, split_folds
from autoseg_lib.errors import DataError


@dataclass(frozen=True)
class Case:
    name: str
    patient: str


def cases(*patients: str) -> list[Case]:
    return [Case(f"scan_{number}", patient) for number, patient in enumerate(patients)]


def test_patients_are_never_on_both_sides() -> None:
    everyone = cases(*"aabbbcdeefghij")
    for seed in range(20):
        split = split_cases(everyone, 0.2, seed)
        kept = {everyone[i].patient for i in split.validation}
        learned = {everyone[i].patient for i in split.train}
        assert split.kind == "patients" and len(kept) == 2 and not kept & learned
        assert sorted(split.train + split.validation) == list(range(14))
        assert split == split_cases(everyone, 0.2, seed)
    assert len({split_cases(everyone, 0.2, seed).validation for seed in range(20)}) > 5
    assert (
        "of 2 patients kept back for validation" in split.text and "of 8 patients to learn from" in split.text
    )


@pytest.mark.parametrize(("fraction", "kept"), [(0.01, 1), (0.5, 1), (0.9, 2)])
def test_someone_is_kept_back_and_someone_stays(fraction: float, kept: int) -> None:
    split = split_cases(cases("a", "b", "c"), fraction)
    assert len(split.validation) == (kept if fraction != 0.5 else 2)
    assert split.train


def test_one_patient_with_several_scans() -> None:
    split = split_cases(cases(*"aaaaa"), 0.2, slice_counts=[10, 12, 9, 10, 11])
    assert split.kind == "cases" and len(split.validation) == 1 and len(split.train) == 4
    assert "not on other patients" in split.text


def test_one_scan_keeps_a_block_with_a_gap() -> None:
    for seed in range(30):
        split = split_cases(cases("a"), 0.2, seed, slice_counts=[78])
        assert (split.train, split.validation, split.kind) == ((0,), (0,), "same scan")
        kept, train = split.validation_slices, split.train_slices
        assert kept is not None and train is not None
        assert len(kept) == 16 and runs(kept) == [range(kept[0], kept[-1] + 1)]
        # 5 % of 78 slices are 4: at most 3 are left out on each side.
        assert min(abs(a - b) for a in kept for b in train) == 4
        assert len(train) >= 78 - 16 - 6
        assert f"slices {kept[0] + 1} to {kept[-1] + 1} kept back" in split.text and "same scan" in split.text


def test_the_block_shows_rois() -> None:
    shows = [20 <= k < 40 for k in range(100)]
    for seed in range(20):
        split = split_cases(cases("a"), 0.1, seed, slice_counts=[100], with_roi=shows)
        assert split.validation_slices is not None
        # A fifth of the slices show an ROI; so does at least a fifth of the block.
        assert sum(shows[k] for k in split.validation_slices) >= 2


def test_single_slices_of_one_patient_are_one_scan() -> None:
    split = split_cases(cases(*["a"] * 20), 0.2)
    assert split.kind == "same scan" and split.train_slices is None
    assert len(split.validation) == 4 and len(runs(split.validation)) == 1
    assert min(abs(a - b) for a in split.validation for b in split.train) == 2


def test_too_little_or_not_wanted() -> None:
    two = split_cases(cases("a"), 0.2, slice_counts=[2])
    assert two.kind == "none" and two.validation == () and "Only 2 slices" in two.text
    three = split_cases(cases("a"), 0.2, slice_counts=[3])
    assert three.kind == "same scan" and three.train_slices and three.validation_slices
    for split in (split_cases(cases(*"abc"), 0.0), split_cases([], 0.2)):
        assert split.kind == "none" and split.validation == ()


def test_runs() -> None:
    assert runs([0, 1, 2, 7, 8, 10]) == [range(0, 3), range(7, 9), range(10, 11)]
    assert runs([]) == []


# --- folds ------------------------------------------------------------------------------------------------------------


def test_every_patient_is_kept_back_exactly_once() -> None:
    everyone = cases(*"aabbbcdeefghijjjjjk")
    for seed in range(10):
        folds = split_folds(everyone, 5, seed)
        assert sorted(i for fold in folds for i in fold.validation) == list(range(19))
        for number, fold in enumerate(folds, start=1):
            assert sorted(fold.train + fold.validation) == list(range(19))
            kept = {everyone[i].patient for i in fold.validation}
            assert not kept & {everyone[i].patient for i in fold.train}
            assert fold.kind == "patients" and fold.text.startswith(f"Fold {number} of 5: ")
        # 19 scans, the largest patient has 5: whole patients allow parts of 5, 4, 4, 3, 3.
        assert max(len(f.validation) for f in folds) - min(len(f.validation) for f in folds) <= 2
        assert folds == split_folds(everyone, 5, seed)
    assert len({split_folds(everyone, 5, seed) for seed in range(10)}) > 5


def test_equal_patients_make_equal_folds() -> None:
    folds = split_folds(cases(*"abcdefghijklm"), 5)
    assert sorted(len(fold.validation) for fold in folds) == [2, 2, 3, 3, 3]
    assert next(f.text for f in folds if len(f.validation) == 2).endswith(
        "2 scans of 2 patients kept back, 11 scans to learn from."
    )


def test_one_patient_is_divided_by_scans_and_says_so() -> None:
    folds = split_folds(cases(*"aaaa"), 2, slice_counts=[9, 9, 9, 9])
    assert [fold.kind for fold in folds] == ["cases", "cases"]
    assert "nothing about other patients" in folds[0].text


@pytest.mark.parametrize(
    ("patients", "slices", "message"),
    [
        (
            "aabbcc",
            None,
            r"folds = 5: found 3 patients; each fold keeps at least one patient back. Set folds = 3, or folds = 1",
        ),
        ("aab", None, r"found 2 patients; .* Set folds = 2, or add scans"),
        (
            "aaa",
            [9, 9, 9],
            r"folds = 5: found 3 scans; each fold keeps at least one scan back. Set folds = 3",
        ),
        (
            "a",
            [78],
            r"folds = 5: all slices are of one scan, and each would be judged by its neighbours. At least 5 patients",
        ),
        ("aaaaaaa", [1] * 7, r"all slices are of one scan"),
    ],
)
def test_fewer_patients_than_folds(patients: str, slices: list[int] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_folds(cases(*patients), 5, slice_counts=slices)
