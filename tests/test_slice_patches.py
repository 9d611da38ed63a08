"""Patches of slices: where they lie, that they depend on the key alone, and that pictures and labels stay together."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.data.dataset import SliceDataset
from autoseg_lib.data.doctor.facts import RoiFacts
from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.data.slice_patches import SlicePatches
from autoseg_lib.errors import SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.grids import choose_slice_patch, longest_rois


def squares() -> PreparedCase:
    """One slice of 64 × 64: ROI 1 is a square of 4 × 4 at (10, 10), ROI 2 one of 12 × 12 at (40, 44); grey = label."""
    label = np.zeros((1, 64, 64), np.uint8)
    label[0, 10:14, 10:14] = 1
    label[0, 40:52, 44:56] = 2
    return PreparedCase("squares", label.astype(np.float32), label)


def patches(share: float, plan: AugmentPlan | None = None, size: tuple[int, int] = (16, 24)) -> SlicePatches:
    return SlicePatches(SliceDataset([squares()], plan, seed=3), size, share)


def test_image_and_label_are_cut_alike() -> None:
    dataset = patches(0.5)
    for epoch in range(20):
        sample = dataset[epoch, 0]
        assert sample["image"].shape == sample["label"].shape == (1, 16, 24)
        assert torch.equal(sample["image"], sample["label"].float())


def test_with_a_share_of_1_every_patch_shows_an_roi_and_each_roi_equally_often() -> None:
    dataset = patches(1.0)
    shown = Counter()
    for epoch in range(300):
        label = dataset[epoch, 0]["label"]
        assert label.any()
        # The two squares lie too far apart for one patch.
        shown[int(label.max())] += 1
    # Two equally likely outcomes, 300 draws: 150 ± 3 standard deviations of sqrt(300) / 2 = 8.7.
    assert 124 <= shown[1] <= 176


def test_with_a_share_of_0_patches_lie_anywhere() -> None:
    dataset = patches(0.0, size=(16, 16))
    shown = sum(bool(dataset[epoch, 0]["label"].any()) for epoch in range(300))
    # A patch at (r, c), each of 49 × 49 places equally likely, holds some of ROI 1 for 14 × 14 places (rows 0 to 13) and some
    # of ROI 2 for 24 × 20 (rows 25 to 48, columns 29 to 48): 676 of 2401, or 84 of 300; standard deviation 7.8.
    assert 84 - 24 <= shown <= 84 + 24


def test_a_sample_depends_on_its_key_alone() -> None:
    plan = AugmentPlan(probability=0.9)
    first = patches(0.5, plan)
    wanted = {epoch: first[epoch, 0] for epoch in range(5)}
    again = patches(0.5, plan)
    for epoch in (3, 0, 4, 1):
        assert torch.equal(again[epoch, 0]["image"], wanted[epoch]["image"])
    assert not torch.equal(wanted[0]["image"], wanted[1]["image"])


def test_stored_shows_the_same_place_unchanged() -> None:
    dataset = patches(0.5)
    for epoch in range(10):
        assert torch.equal(dataset.stored(epoch, 0)["label"], dataset[epoch, 0]["label"])


def test_a_patch_as_large_as_the_slice_is_the_slice() -> None:
    dataset = patches(1.0, size=(64, 64))
    assert np.array_equal(dataset[0, 0]["label"][0].numpy(), squares().label[0])


def test_a_slice_without_roi_gives_patches_too() -> None:
    empty = PreparedCase("empty", np.zeros((1, 32, 32), np.float32), np.zeros((1, 32, 32), np.uint8))
    dataset = SlicePatches(SliceDataset([empty], None, seed=3), (16, 16), 1.0)
    assert dataset[0, 0]["label"].shape == (1, 16, 16)


# --- how large --------------------------------------------------------------------------------------------------------


def one_slice(
    *boxes: tuple[int, int, int, int], spacing: tuple[float, float] = (1.0, 1.0)
) -> SimpleNamespace:
    """A checked scan of one slice of 256 × 256 with an ROI in each box."""
    rois = {value: RoiFacts(100, box, False) for value, box in enumerate(boxes, start=1)}
    return SimpleNamespace(
        geometry=Geometry.from_spacing((1, 256, 256), (5.0, *spacing)), slices=[SimpleNamespace(rois=rois)]
    )


def chosen(*facts: SimpleNamespace, image: tuple[int, int] = (256, 256), **settings) -> tuple[int, int]:
    chooser = Chooser(make_settings(TrainSettings, {"main_dir": "x", **settings}), {})
    return choose_slice_patch(chooser, "unet", settings.get("encoder", "resnet18"), 32, facts, image)


def test_the_box_around_all_rois_of_a_slice_counts() -> None:
    # Rows 10 to 50, columns 20 to 120: 100 pixels.
    assert longest_rois([one_slice((10, 20, 30, 40), (30, 100, 50, 120))], (256, 256)) == 100
    # At half the resolution half as many.
    assert longest_rois([one_slice((10, 20, 30, 40), (30, 100, 50, 120))], (128, 128)) == 50
    # Rows 2 mm high, columns 1 mm wide: the slice is 512 × 256 mm, a pixel of the square image 2 mm; 40 rows are 80 mm.
    tall = one_slice((10, 20, 50, 40), spacing=(2.0, 1.0))
    assert longest_rois([tall], (256, 256)) == 40


def test_small_rois_are_learned_from_parts_and_large_ones_from_whole_slices() -> None:
    # 2.5 times 40 pixels are 100: the smallest patch is larger.
    assert chosen(one_slice((100, 100, 140, 140))) == (128, 128)
    # 2.5 times 60 are 150, the next multiple of 32 is 160.
    assert chosen(one_slice((100, 100, 160, 160))) == (160, 160)
    # 2.5 times 100 are more than three quarters of 256.
    assert chosen(one_slice((100, 100, 200, 200))) == (256, 256)
    # Two small ROIs far apart, e.g. left and right, are seen together.
    assert chosen(one_slice((100, 20, 120, 40), (100, 200, 120, 220))) == (256, 256)


def test_networks_that_look_at_the_whole_image_learn_from_whole_slices() -> None:
    assert chosen(one_slice((100, 100, 140, 140)), encoder="mit_b0") == (256, 256)


def test_the_users_patch_is_used_and_refused_where_it_is_larger_than_the_slice() -> None:
    assert chosen(one_slice((100, 100, 140, 140)), patch_size=64) == (64, 64)
    with pytest.raises(SettingsError, match=r"found 320 × 64; input_shape is 256 × 256"):
        chosen(one_slice((100, 100, 140, 140)), patch_size=[320, 64])
