"""Samples depend on (seed, epoch, index) alone, whoever asks for them and how often."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader, StackDataset

from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.data.dataset import KeyedBatches, PatchDataset, SliceDataset
from autoseg_lib.data.loading import one_thread_each
from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.errors import DataError
from tests.helpers.phantoms import two_sided_body

PLAN = AugmentPlan(probability=0.9, mirror_axis=1, mirror_pairs=((1, 2),))


def body(name: str, shape: tuple[int, int, int] = (3, 32, 32)) -> PreparedCase:
    image, label = two_sided_body(shape)
    noise = np.random.default_rng(len(name) + ord(name[0])).normal(size=shape)
    return PreparedCase(name, (image + noise).astype(np.float32), label)


def slices(plan: AugmentPlan | None = PLAN) -> SliceDataset:
    return SliceDataset([body("a"), body("bb", (5, 32, 32))], plan, seed=4)


def patches(plan: AugmentPlan | None = PLAN, **changes) -> PatchDataset:
    cases = [body("a", (8, 24, 28)), body("bb", (14, 20, 26))]
    return PatchDataset(cases, (8, 16, 16), plan, seed=4, length=changes.pop("length", 8), **changes)


def epoch_of(dataset, epoch: int, workers: int) -> list:
    batches = KeyedBatches(len(dataset), 3, seed=4)
    batches.epoch = epoch
    extra = {"worker_init_fn": one_thread_each, "multiprocessing_context": "spawn"} if workers else {}
    return list(DataLoader(dataset, batch_sampler=batches, num_workers=workers, **extra))


def test_the_number_of_workers_changes_nothing() -> None:
    both = StackDataset(slices(), patches())  # one start of the helper processes, which takes seconds
    alone, helped = epoch_of(both, 2, 0), epoch_of(both, 2, 2)
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        for sample, same in zip(one, other, strict=True):
            assert torch.equal(sample["image"], same["image"]) and torch.equal(sample["label"], same["label"])


@pytest.mark.parametrize("dataset", [slices(), patches()], ids=["2D", "3D"])
def test_samples_are_the_same_again_and_differ_from_epoch_to_epoch(dataset) -> None:
    first = dataset[1, 5]
    for other in range(5):
        dataset[0, other]
    again, later = pickle.loads(pickle.dumps(dataset))[1, 5], dataset[2, 5]
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], later["image"])
    assert first["image"].dtype == torch.float32 and first["label"].dtype == torch.uint8
    assert first["image"].shape == first["label"].shape and first["image"].shape[0] == 1


def test_slices_without_changes_are_the_prepared_ones() -> None:
    dataset, case = slices(None), body("bb", (5, 32, 32))
    assert len(dataset) == 8
    np.testing.assert_allclose(dataset[0, 5]["image"][0], case.image[2], atol=0.01)  # kept in half precision
    np.testing.assert_array_equal(dataset[0, 5]["label"][0], case.label[2])
    some = SliceDataset([case], None, 0, slices=[(0, 4), (0, 1)])
    np.testing.assert_array_equal(some[0, 0]["label"][0], case.label[4])
    np.testing.assert_array_equal(some[0, 1]["label"][0], case.label[1])


def test_patches_are_cut_from_where_they_say() -> None:
    dataset = patches(None)
    cases = [body("a", (8, 24, 28)), body("bb", (14, 20, 26))]
    for index in range(8):
        number, (z, y, x) = dataset.place_of(0, index)
        sample = dataset[0, index]
        assert sample["image"].shape == (1, 8, 16, 16)
        np.testing.assert_array_equal(
            sample["label"][0], cases[number].label[z : z + 8, y : y + 16, x : x + 16]
        )


def uneven_cases() -> list[PreparedCase]:
    """ROI 1 has 1 voxel, ROI 2 has 5000, ROI 3 lies only in the second scan; the third shows none."""
    masks = np.zeros((3, 20, 30, 30), np.uint8)
    masks[0, :10, :20, :25], masks[0, 15, 25, 25] = 2, 1
    masks[1, 18, 3, 3] = 3
    return [PreparedCase(str(n), np.zeros((20, 30, 30), np.float32), mask) for n, mask in enumerate(masks)]


def within_chance(count: int, draws: int, share: float) -> bool:
    """Whether a count is one that ``draws`` independent draws give in all but one of 10 000 tries."""
    low, high = stats.binom.interval(0.9999, draws, share)
    return bool(low <= count <= high)


def test_every_roi_is_drawn_equally_often() -> None:
    dataset = PatchDataset(uneven_cases(), (4, 4, 4), None, seed=1, length=900, positive_share=1.0)
    drawn: Counter[int] = Counter()
    for index in range(900):
        values = set(np.unique(dataset[0, index]["label"])) - {0}
        assert len(values) == 1
        drawn.update(values)
    assert all(within_chance(drawn[value], 900, 1 / 3) for value in (1, 2, 3)), drawn


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_the_set_share_of_patches_lies_on_an_roi(share: float) -> None:
    # One voxel in 12 000: a patch of one voxel meets an ROI by chance once in 15 000 draws or so.
    mask = np.zeros((20, 20, 30), np.uint8)
    mask[3, 4, 5] = 1
    case = PreparedCase("a", np.zeros(mask.shape, np.float32), mask)
    dataset = PatchDataset([case], (1, 1, 1), None, seed=3, length=2000, positive_share=share)
    on_roi = sum(dataset.place_of(0, index)[1] == (3, 4, 5) for index in range(2000))
    assert within_chance(on_roi, 2000, share + (1 - share) / 12_000), on_roi


def test_scans_without_any_roi_still_give_patches() -> None:
    cases = [PreparedCase(n, np.zeros((6, 6, 6), np.float32), np.zeros((6, 6, 6), np.uint8)) for n in "ab"]
    dataset = PatchDataset(cases, (4, 4, 4), PLAN, seed=0, length=6, positive_share=1.0)
    assert {dataset.place_of(0, index)[0] for index in range(6)} == {0, 1}
    assert all(not dataset[0, index]["label"].any() for index in range(6))


def test_samples_say_which_rois_were_drawn() -> None:
    """In 2D those of the slice, in 3D those of the whole scan; mirrored, the partners of a pair change places."""
    cases = uneven_cases()
    patch = PatchDataset(cases, (4, 4, 4), None, seed=0, length=20, positive_share=0.0)
    for index in range(20):
        expected = [{0, 1, 2}, {0, 3}, {0}][patch.place_of(0, index)[0]]
        assert set(np.flatnonzero(patch[0, index]["drawn"])) == expected
    slices_of = SliceDataset(cases[:1], None, 0)
    assert set(np.flatnonzero(slices_of[0, 15]["drawn"])) == {0, 1}
    assert set(np.flatnonzero(slices_of[0, 3]["drawn"])) == {0, 2}
    assert set(np.flatnonzero(slices_of[0, 19]["drawn"])) == {0}
    left = np.zeros((1, 16, 16), np.uint8)
    left[0, 4:12, 10:14] = 1
    plan = AugmentPlan(0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, mirror_axis=1, mirror_pairs=((1, 2),))
    mirrored = SliceDataset([PreparedCase("a", left.astype(np.float32), left)], plan, 0)
    seen = set()
    for epoch in range(20):
        sample = mirrored[epoch, 0]
        assert set(np.flatnonzero(sample["drawn"])) == set(np.unique(sample["label"]))
        seen |= set(np.unique(sample["label"]))
    assert seen == {0, 1, 2}


def test_every_case_has_its_turn() -> None:
    cases = [
        PreparedCase(str(n), np.full((6, 6, 6), n, np.float32), np.zeros((6, 6, 6), np.uint8))
        for n in range(5)
    ]
    dataset = PatchDataset(cases, (4, 4, 4), None, seed=0, length=2)
    seen = [float(dataset[epoch, index]["image"].max()) for epoch in range(5) for index in range(2)]
    assert Counter(seen) == {float(n): 2 for n in range(5)}


def test_a_scan_smaller_than_the_patch_is_padded_with_its_darkest_value() -> None:
    image = np.random.default_rng(0).uniform(-2, 3, (3, 4, 4)).astype(np.float16)
    dataset = PatchDataset(
        [PreparedCase("a", image, np.ones((3, 4, 4), np.uint8))], (8, 8, 8), None, 0, length=5
    )
    for index in range(5):
        sample = dataset[0, index]
        assert int(sample["label"].sum()) == 48
        assert float(sample["image"][sample["label"] == 0].max()) == float(image.min())
        np.testing.assert_array_equal(
            sample["image"][sample["label"] == 1].numpy(), image.astype(np.float32).ravel()
        )


def test_the_order_depends_on_seed_and_epoch_alone_and_can_start_in_the_middle() -> None:
    batches = KeyedBatches(50, 8, seed=3)
    first = list(batches)
    keys = [key for batch in first for key in batch]
    assert len(first) == len(batches) == 7 and {len(batch) for batch in first} == {8}
    assert set(keys) == {(0, index) for index in range(50)} and keys[:50] != sorted(keys[:50])
    assert keys[50:] == keys[:6]  # the last batch is filled up from the start
    assert first == list(KeyedBatches(50, 8, seed=3))
    batches.first = 4
    assert list(batches) == first[4:]
    batches.epoch, batches.first = 1, 0
    assert {epoch for batch in batches for epoch, _ in batch} == {1}
    assert [i for batch in batches for _, i in batch] != [i for _, i in keys]


def test_refusals() -> None:
    with pytest.raises(DataError, match="there is no scan to learn from"):
        SliceDataset([], None, 0)
    with pytest.raises(DataError, match="there is no slice to learn from"):
        SliceDataset([body("a")], None, 0, slices=[])
    with pytest.raises(DataError, match="slices of one size are expected"):
        SliceDataset([body("a"), body("b", (3, 40, 40))], None, 0)
    with pytest.raises(DataError, match=r"case 'a': image .* differ in shape"):
        PreparedCase("a", np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 4), np.uint8))
