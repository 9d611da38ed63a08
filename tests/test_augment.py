"""Augmentation: alike for image and mask, the same for the same key, and honest about left and right."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from autoseg_lib.augment.patches import augment_patch, cut_patch
from autoseg_lib.augment.plan import AugmentPlan, flips_allowed, swap_channels, swap_labels
from autoseg_lib.augment.slices import augment_slice
from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Mask, Volume
from tests.helpers.phantoms import two_sided_body

SIDED = LabelTable(["kidney left", "kidney right", "spine"])
STILL = {
    "rotation_degrees": 0.0, "scale": 0.0, "shift": 0.0, "elastic": 0.0,
    "brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "noise": 0.0, "blur": 0.0,
}  # fmt: skip
EVERYTHING = AugmentPlan(
    probability=1.0, rotation_degrees=30, elastic=1.0, mirror_axis=1, mirror_pairs=((1, 2),)
)


def rules(dimension: str = "2D", plane: str | None = "axial", labels: LabelTable = SIDED, known: bool = True):
    return flips_allowed(labels, orientation_known=known, plane=plane, dimension=dimension)


# --- left and right ------------------------------------------------------------------------------------------


def test_where_mirroring_is_allowed() -> None:
    assert (rules().axis, rules().pairs) == (1, ((1, 2),))
    assert "kidney left / kidney right change places" in rules().reason
    assert rules(plane="coronal").axis == 1
    assert rules(plane="sagittal").axis is None
    assert rules(plane=None).axis is None
    assert rules("3D", None).axis == 2
    assert rules(labels=LabelTable(["liver"])).axis == 1
    assert rules(labels=LabelTable(["liver"])).pairs == ()
    for off in (
        rules(known=False),
        rules(labels=LabelTable.numbered(3)),
        rules(labels=LabelTable(["psoas left"])),
    ):
        assert off.axis is None and off.reason.startswith("no mirroring: ")


@pytest.mark.parametrize("code", ["SPL", "SAR", "IPR", "SLP", "PIL", "ASR", "LAS", "RIP"])
def test_two_sided_phantom_in_2d(code: str) -> None:
    """From a scan stored in any orientation: after mirroring, the brighter organ still has the left one's label."""
    image, label = two_sided_body((6, 32, 48))
    grid = Geometry.from_spacing(
        image.shape, (1.5, 1.5, 1), spacing_known=True, positions_known=True, orientation_known=True
    )
    turned = grid.oriented(code)
    axes, flips = grid.steps_to(code)
    flip = tuple(slice(None, None, -1) if f else slice(None) for f in flips)
    scan = Volume(image.transpose(axes)[flip], turned)
    mask = Mask(label.transpose(axes)[flip], turned)
    plane = {"S": "axial", "I": "axial", "P": "coronal", "A": "coronal", "L": "sagittal", "R": "sagittal"}[
        code[0]
    ]
    pipeline = Preprocessing("2D", input_shape=(48, 48))
    pixels, values = pipeline.prepare(scan).array, pipeline.prepare_mask(mask).array
    allowed = rules(plane=plane)
    plan = replace(AugmentPlan.from_settings(STILL, allowed), probability=1.0)
    assert plan.mirrors == (plane != "sagittal")
    k = next(k for k in range(len(values)) if {1, 2} <= set(np.unique(values[k])) or plane == "sagittal")
    mirrored, mirrored_values = augment_slice(pixels[k], values[k], plan, (0, 0, 0))
    if plane == "sagittal":
        np.testing.assert_array_equal(mirrored, pixels[k])
        return
    assert not np.array_equal(mirrored, pixels[k])
    # Left is on the right of the picture, before and after.
    for shown in (values[k], mirrored_values):
        assert np.nonzero(shown == 1)[1].mean() > 24 > np.nonzero(shown == 2)[1].mean()
    # What is seen there did change sides: the mirrored picture's left organ looks like the right one did.
    before, after = pixels[k], mirrored
    assert after[mirrored_values == 1].mean() == pytest.approx(before[values[k] == 2].mean(), abs=1e-5)
    assert after[mirrored_values == 2].mean() == pytest.approx(before[values[k] == 1].mean(), abs=1e-5)
    np.testing.assert_array_equal(np.flip(mirrored_values == 3, 1), values[k] == 3)


def test_two_sided_phantom_in_3d() -> None:
    image, label = two_sided_body((8, 24, 32))
    plan = replace(AugmentPlan.from_settings(STILL, rules("3D", None)), probability=1.0)
    pixels, values = augment_patch(image, label, (0, 0, 0), image.shape, plan, (0, 0, 0))
    np.testing.assert_array_equal(pixels, image[:, :, ::-1])
    columns = np.indices(label.shape)[2]
    for shown in (label, values):
        assert columns[shown == 1].mean() > 15.5 > columns[shown == 2].mean()
    assert set(pixels[values == 1]) == {3.0} and set(pixels[values == 2]) == {5.0}


def test_no_mirroring_when_sides_are_unknown() -> None:
    image, label = two_sided_body((1, 32, 32))
    for off in (rules(known=False), rules(labels=LabelTable.numbered(3))):
        plan = replace(AugmentPlan.from_settings(STILL, off), probability=1.0)
        for index in range(10):
            pixels, values = augment_slice(image[0], label[0], plan, (0, 0, index))
            np.testing.assert_array_equal(pixels, image[0])
            np.testing.assert_array_equal(values, label[0])
    plan = AugmentPlan.from_settings({**STILL, "flip": False, "probability": 1.0}, rules())
    np.testing.assert_array_equal(augment_slice(image[0], label[0], plan, (0, 0, 0))[0], image[0])


def test_swapping() -> None:
    np.testing.assert_array_equal(swap_labels(np.array([0, 1, 2, 3, 4]), ((1, 4), (2, 3))), [0, 4, 3, 2, 1])
    assert swap_channels(4, ((1, 3),)) == [0, 3, 2, 1]
    # Undoing a mirrored prediction: the channel of "left" must again tell of the left.
    probabilities = np.zeros((3, 1, 4))
    probabilities[1, 0, 3] = probabilities[2, 0, 0] = 1  # left organ at the right end
    seen_mirrored = probabilities[[0, 2, 1]][..., ::-1]  # what a perfect network says of the mirrored picture
    np.testing.assert_array_equal(seen_mirrored[..., ::-1][swap_channels(3, ((1, 2),))], probabilities)


# --- image and mask together ---------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(12))
def test_image_and_mask_move_together_2d(index: int) -> None:
    """An image that is its own mask: wherever both are not at an edge they must still agree."""
    label = np.zeros((96, 96), np.uint8)
    label[20:50, 30:70], label[60:80, 20:40] = 1, 2
    plan = replace(EVERYTHING, noise=0.0, blur=0.0, gamma=0.0, brightness=0.0, contrast=0.0, mirror_pairs=())
    image, moved = augment_slice(label.astype(np.float32), label, plan, (1, 2, index))
    assert image.dtype == np.float32 and moved.dtype == np.uint8
    assert set(np.unique(moved)) <= {0, 1, 2}
    sharp = np.abs(image - np.round(image)) < 0.01
    assert sharp.mean() > 0.8
    assert (np.round(image)[sharp] != moved[sharp]).mean() < 0.02
    assert (moved != label).mean() > 0.01


@pytest.mark.parametrize("index", range(6))
def test_image_and_mask_move_together_3d(index: int) -> None:
    label = np.zeros((30, 44, 36), np.uint8)
    label[8:22, 10:30, 9:28] = 1
    plan = replace(EVERYTHING, noise=0.0, blur=0.0, gamma=0.0, brightness=0.0, contrast=0.0, mirror_pairs=())
    image, moved = augment_patch(
        label.astype(np.float16), label, (2, 3, 1), (24, 32, 24), plan, (1, 2, index)
    )
    assert image.shape == moved.shape == (24, 32, 24)
    assert set(np.unique(moved)) == {0, 1}
    assert ((image > 0.5) != (moved == 1)).mean() < 0.02


def test_a_turned_patch_shows_what_lies_beside_it() -> None:
    """Turned corners hold the neighbouring tissue: a patch in the middle of a constant volume stays constant."""
    volume = np.full((40, 40, 40), 3.0, np.float32)
    volume[0, 0, 0] = -1
    plan = AugmentPlan(
        probability=1.0, rotation_degrees=45, brightness=0, contrast=0, gamma=0, noise=0, blur=0
    )
    for index in range(5):
        patch, _ = augment_patch(
            volume, np.zeros(volume.shape, np.uint8), (13, 13, 13), (14, 14, 14), plan, (0, 0, index), -1
        )
        np.testing.assert_allclose(patch, 3.0, atol=1e-5)


def test_flat_voxels_are_turned_in_their_plane_only() -> None:
    volume = np.repeat(np.arange(12, dtype=np.float32)[:, None, None], 40, axis=1).repeat(40, axis=2)
    quiet = {key: 0.0 for key in STILL if key not in ("rotation_degrees", "elastic")}
    plan = replace(AugmentPlan(**quiet), probability=1.0, rotation_degrees=45, spacing_zyx_mm=(5, 1, 1))
    patch, _ = augment_patch(
        volume, np.zeros(volume.shape, np.uint8), (2, 10, 10), (8, 20, 20), plan, (0, 0, 1)
    )
    np.testing.assert_allclose(patch, volume[2:10, 10:30, 10:30], atol=1e-5)


def test_cutting_beyond_the_edge_fills() -> None:
    volume = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    patch = cut_patch(volume, (-1, 1, 2), (3, 3, 3), -9)
    np.testing.assert_array_equal(patch[1:, :2, 0], volume[:2, 1:, 2])
    assert (patch[0] == -9).all() and (patch[:, 2] == -9).all() and (patch[:, :, 1:] == -9).all()
    assert (cut_patch(volume, (9, 0, 0), (2, 2, 2), 0) == 0).all()


# --- randomness ----------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_key_alone() -> None:
    image, label = two_sided_body((1, 64, 64))
    key = (7, 3, 11)
    first = augment_slice(image[0], label[0], EVERYTHING, key)
    for other in range(5):
        np.random.seed(other)
        augment_slice(image[0], label[0], EVERYTHING, (7, 3, other))
    again = augment_slice(image[0], label[0], EVERYTHING, key)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for near in ((8, 3, 11), (7, 4, 11), (7, 3, 12), (3, 7, 11)):
        assert not np.array_equal(first[0], augment_slice(image[0], label[0], EVERYTHING, near)[0])
    body, values = two_sided_body((12, 24, 24))
    a, b = (augment_patch(body, values, (0, 0, 0), (8, 16, 16), EVERYTHING, key) for _ in range(2))
    np.testing.assert_array_equal(a[0], b[0])


def test_the_number_of_threads_changes_nothing() -> None:
    image, label = two_sided_body((24, 96, 96))
    before = cv2.getNumThreads()
    results = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            results.append(
                [augment_slice(image[5], label[5], EVERYTHING, (0, 0, index)) for index in range(4)]
                + [
                    augment_patch(image, label, (2, 8, 8), (20, 80, 80), EVERYTHING, (0, 0, index))
                    for index in range(2)
                ]
            )
    finally:
        cv2.setNumThreads(before)
    for (one, mask), (other, other_mask) in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(mask, other_mask)


def test_the_input_is_never_changed() -> None:
    image, label = two_sided_body((1, 64, 64))
    image_before, label_before = image.copy(), label.copy()
    for index in range(20):
        augment_slice(image[0], label[0], EVERYTHING, (0, 0, index))
        augment_patch(image, label, (0, 0, 0), (1, 32, 32), EVERYTHING, (0, 0, index))
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(label, label_before)


def test_nothing_happens_at_probability_0() -> None:
    image, label = two_sided_body((1, 64, 64))
    plan = AugmentPlan.from_settings({"probability": 0.0}, rules())
    assert not plan.mirrors
    pixels, values = augment_slice(image[0], label[0], plan, (0, 0, 0))
    np.testing.assert_array_equal(pixels, image[0])
    np.testing.assert_array_equal(values, label[0])


def test_strong_bending_does_not_fold() -> None:
    """A ramp still rises along each line: bending moves tissue, it does not turn it inside out."""
    ramp = np.tile(np.arange(128, dtype=np.float32), (128, 1))
    quiet = dict.fromkeys(STILL, 0.0)
    plan = replace(AugmentPlan(**quiet), probability=1.0, elastic=1.0)
    for index in range(10):
        bent, _ = augment_slice(ramp, np.zeros((128, 128), np.uint8), plan, (0, 0, index))
        assert np.diff(bent[20:-20, 20:-20], axis=1).min() > 0


def test_settings_and_json() -> None:
    plan = AugmentPlan.from_settings(
        {"rotation_degrees": 5, "flip": True}, rules("3D", None), (4.0, 1.0, 1.0)
    )
    assert (plan.rotation_degrees, plan.scale, plan.mirror_axis) == (5, AugmentPlan().scale, 2)
    assert AugmentPlan.from_settings("auto", rules()) == AugmentPlan(mirror_axis=1, mirror_pairs=((1, 2),))
    assert AugmentPlan.from_dict(plan.to_dict()) == plan
    with pytest.raises(ModelError, match=r"augmentation: .*unknown magic"):
        AugmentPlan.from_dict({"magic": 1})
