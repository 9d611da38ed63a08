"""The losses against their formulas, worked by hand, and against MONAI's where they mean the same."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from scipy import ndimage

from autoseg_lib.errors import SettingsError
from autoseg_lib.losses.pixels import BORDER_REACH, border_distance
from autoseg_lib.losses.regions import roi_sums
from autoseg_lib.losses.registry import LOSSES, build_loss, fitted

# Two ROIs on 4 pixels. Pixel values: 0, 1, 2, 2.
TARGET = torch.tensor([[[[0, 1], [2, 2]]]], dtype=torch.uint8)
# Channels (0.5, 0.5, 0) at values 0 and 1; (0, 0.2, 0.8) at both pixels of value 2.
SOFT = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.2, 0.2], [0.0, 0.0, 0.8, 0.8]]).reshape(1, 3, 2, 2)

# ROI 1: overlap 0.5, predicted 1.4 (squared 0.58), true 1. ROI 2: overlap 1.6, predicted 1.6 (squared 1.28), true 2.
DICE = 1 - (2 * 0.5 / (0.58 + 1) + 2 * 1.6 / (1.28 + 2)) / 2
CROSS_ENTROPY = -(2 * math.log(0.5) + 2 * math.log(0.8)) / 4
BY_HAND = {
    "dice": DICE,
    "dice_ce": DICE + CROSS_ENTROPY,
    "dice_focal": DICE - (2 * 0.25 * math.log(0.5) + 2 * 0.04 * math.log(0.8)) / 4,
    # Weights 1 / 1² and 1 / 2².
    "generalized_dice": 1 - 2 * (0.5 + 1.6 / 4) / ((1.4 + 1) + (1.6 + 2) / 4),
    # Wrong pixels count 0.3, missed ones 0.7.
    "tversky": 1 - (0.5 / (0.5 + 0.3 * 0.9 + 0.7 * 0.5) + 1.6 / (1.6 + 0.3 * 0 + 0.7 * 0.4)) / 2,
    # Every pixel touches another label: its distance from the border is 0.
    "dice_boundary": DICE + CROSS_ENTROPY,
}


def logits_of(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities.clamp_min(1e-12).log()


def one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(target[:, 0].long(), classes).movedim(-1, 1).float()


@pytest.mark.parametrize("name", LOSSES)
def test_by_hand(name: str) -> None:
    loss, dice_part = build_loss(name).parts(logits_of(SOFT), TARGET)
    assert float(loss) == pytest.approx(BY_HAND[name], abs=1e-5)
    squared = name not in ("generalized_dice", "tversky")
    plain = 1 - (2 * 0.5 / 2.4 + 2 * 1.6 / 3.6) / 2
    assert float(dice_part) == pytest.approx(DICE if squared else plain, abs=1e-5)


def test_the_boundary_term_by_hand() -> None:
    # A row of 12 pixels, the ROI in the last 4: distances from the border's pixels are 7 ... 1, 0 | 0, 1, 2, 3.
    target = torch.zeros(1, 1, 1, 12, dtype=torch.uint8)
    target[..., 8:] = 1
    distance = torch.tensor([5, 5, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3.0]) / 5
    assert torch.allclose(border_distance(target).flatten(), distance)
    # Half sure everywhere: a share of 0.5 is wrong at each pixel.
    extra = build_loss("dice_boundary")(torch.zeros(1, 2, 1, 12), target) - build_loss("dice_ce")(
        torch.zeros(1, 2, 1, 12), target
    )
    assert float(extra) == pytest.approx(0.5 * float(distance.mean()), abs=1e-6)


def test_border_distances_are_those_of_scipy() -> None:
    random = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 1, 14, 18, 16, dtype=torch.uint8)
    target[0, 0, 3:9, 4:12, 5:13], target[0, 0, 6:9, 4:8, 5:9] = 1, 2
    target[1, 0] = (torch.rand(14, 18, 16, generator=random) > 0.995).to(torch.uint8)
    found = border_distance(target)
    for sample, distance in zip(target[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        touching = ndimage.maximum_filter(sample, footprint=ndimage.generate_binary_structure(3, 1)) != sample
        touching |= (
            ndimage.minimum_filter(sample, footprint=ndimage.generate_binary_structure(3, 1)) != sample
        )
        expected = ndimage.distance_transform_edt(~touching).clip(max=BORDER_REACH) / BORDER_REACH
        assert abs(distance - expected).max() < 1e-6
    assert float(border_distance(torch.zeros(1, 1, 4, 4)).min()) == 1  # no border anywhere


def test_the_same_as_monai_where_it_means_the_same() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6, 8, 10), torch.randint(0, 4, (2, 1, 6, 8, 10))
    common = {"include_background": False, "to_onehot_y": True, "softmax": True, "batch": True}
    dice = DiceLoss(squared_pred=True, **common)(logits, target)
    assert float(build_loss("dice")(logits, target)) == pytest.approx(float(dice), abs=1e-5)
    tversky = TverskyLoss(alpha=0.3, beta=0.7, **common)(logits, target)
    assert float(build_loss("tversky")(logits, target)) == pytest.approx(float(tversky), abs=1e-5)
    generalized = GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0, **common)(logits, target)
    assert float(build_loss("generalized_dice")(logits, target)) == pytest.approx(
        float(generalized), abs=1e-5
    )
    # MONAI's mean is over the classes too, of which all but the true one add nothing.
    focal = 4 * FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2)(logits, target)
    assert float(build_loss("dice_focal")(logits, target)) == pytest.approx(float(dice + focal), abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_right_is_0_and_half_precision_does(name: str) -> None:
    right = one_hot(TARGET, 3) * 40 - 20
    loss = build_loss(name)
    assert float(loss(right, TARGET)) == pytest.approx(0, abs=1e-4)
    assert loss(right.bfloat16(), TARGET).dtype == torch.float32
    assert float(loss(-right, TARGET)) > 0.7


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_trained_on(name: str) -> None:
    torch.manual_seed(0)
    target = torch.zeros(2, 1, 8, 16, 16, dtype=torch.uint8)
    target[:, 0, 2:6, 4:9, 3:13], target[:, 0, 2:6, 11:14, 3:13] = 1, 2
    image = target.float() + 0.3 * torch.randn(target.shape)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 1)
    )
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=0.05), build_loss(name)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(network(image), target)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0]
    assert float((network(image).argmax(1, keepdim=True) == target).float().mean()) > 0.85


# --- ROIs that are not there -----------------------------------------------------------------------------------------


def test_an_roi_missing_in_a_slice_costs_nothing_when_another_shows_it() -> None:
    """Dice over the batch: an empty slice, rightly left empty, does not add a loss of 1."""
    target = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    target[0, 0, :2] = 1
    assert float(build_loss("dice")(one_hot(target, 2) * 40 - 20, target)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_an_roi_that_no_sample_shows_has_no_dice(name: str) -> None:
    """Of three ROIs one is in no sample: the Dice is that of the two others, and it stays finite without any."""
    probabilities = torch.cat([SOFT, torch.zeros(1, 1, 2, 2)], dim=1)
    loss = build_loss(name)(logits_of(probabilities), TARGET)
    assert float(loss) == pytest.approx(BY_HAND[name], abs=1e-4)
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss, dice_part = build_loss(name).parts(logits, torch.zeros_like(TARGET))
    loss.backward()
    assert dice_part.item() == 0 and torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_rois_take_no_part(name: str) -> None:
    """The first sample shows ROI 1 alone: ROI 2 is as good as not there, in it but not in the second sample."""
    first = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    target = torch.stack([first, TARGET[0]])
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    loss = build_loss(name, ignore_unlabelled=True)
    loss(logits, target).backward()
    assert (logits.grad[0, 2] == 0).all()
    assert (logits.grad[0, :2] != 0).all() and (logits.grad[1] != 0).all()
    # Whatever the network says of it there changes nothing.
    louder = logits.detach().clone()
    louder[0, 2] += 7
    logits = logits.detach()
    assert float(loss(louder, target)) == float(loss(logits, target))
    assert float(build_loss(name)(louder, target)) != float(build_loss(name)(logits, target))


def test_ignored_rois_by_hand() -> None:
    """Without ROI 2 the other two share its probability: (0.2, 0.6, 0.2) becomes (0.25, 0.75)."""
    target = torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    logits = logits_of(torch.tensor([0.2, 0.6, 0.2]).reshape(1, 3, 1, 1))
    loss, dice_part = build_loss("dice_ce", ignore_unlabelled=True).parts(logits, target)
    assert float(dice_part) == pytest.approx(1 - 2 * 0.75 / (0.75**2 + 1), abs=1e-6)
    assert float(loss - dice_part) == pytest.approx(-math.log(0.75), abs=1e-6)
    # Said to be drawn in the scan, though not in this patch of it: all three compete.
    drawn = torch.tensor([[True, True, True, False]])
    loss, dice_part = build_loss("dice_ce", ignore_unlabelled=True).parts(logits, target, drawn)
    assert float(loss - dice_part) == pytest.approx(-math.log(0.6), abs=1e-6)


# --- several outputs and several processes ---------------------------------------------------------------------------


def test_outputs_are_weighted_and_compared_on_their_own_grid() -> None:
    target = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    target[0, 0, :2, :2] = 1
    right, coarse = one_hot(target, 2) * 40 - 20, torch.zeros(1, 2, 2, 2)
    loss = build_loss("dice_ce", output_weights=(0.75, 0.25))
    value, dice_part = loss.parts([right, coarse], target)
    # The coarse label is one pixel of four; half sure: 2 · 0.5 / (4 · 0.25 + 1).
    assert float(dice_part) == pytest.approx(0.25 * 0.5, abs=1e-4)
    assert float(value) == pytest.approx(0.25 * (0.5 + math.log(2)), abs=1e-4)
    assert loss.worst == 1
    # A single output, as in evaluation mode, counts whole.
    assert float(loss(right, target)) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="the network gave 3 outputs for 2 weights"):
        loss([right, right, right], target)


def test_two_stages_run_from_0_to_2() -> None:
    """2 - mean Dice of stage 1 - mean Dice of stage 2, squared denominators."""
    loss = build_loss("dice", output_weights=(1.0, 1.0))
    right = one_hot(TARGET, 3) * 40 - 20
    assert loss.worst == 2
    assert float(loss([right, right], TARGET)) == pytest.approx(0, abs=1e-4)
    assert float(loss([logits_of(SOFT), right], TARGET)) == pytest.approx(DICE, abs=1e-4)
    wrong = one_hot((TARGET + 1) % 3, 3) * 40 - 20
    assert float(loss([wrong, wrong], TARGET)) == pytest.approx(2, abs=1e-4)


def test_coarser_labels_are_those_of_the_nearest_pixels() -> None:
    target = torch.arange(8).reshape(1, 1, 1, 8)
    assert fitted(target, torch.zeros(1, 2, 1, 4)).flatten().tolist() == [1, 3, 5, 7]
    # 8 pixels for 3: the middles lie at 1.33, 4 and 6.67.
    assert fitted(target, torch.zeros(1, 2, 1, 3)).flatten().tolist() == [1, 4, 6]
    assert fitted(target, torch.zeros(1, 2, 1, 8)) is target


@pytest.mark.parametrize("name", ["dice", "generalized_dice", "tversky"])
def test_sums_of_several_processes_make_one_dice(name: str) -> None:
    """Two halves of a batch, each in a process: with both sums added up, each sees the loss of the whole batch."""
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 1, 5, 5))
    together = build_loss(name)
    whole = float(together(logits, target))
    power = together.recipe.power
    halves = [(logits[:2], target[:2]), (logits[2:], target[2:])]
    others = [roi_sums(torch.softmax(half, 1), labels, power) for half, labels in reversed(halves)]
    for (half, labels), other in zip(halves, others, strict=True):
        loss = build_loss(name)
        loss.across_processes = lambda sums, other=other: sums + other
        assert float(loss(half, labels)) == pytest.approx(whole, abs=1e-6)


def test_works_in_3d_and_whatever_the_memory_format() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 1, 4, 5, 6))
    for name in LOSSES:
        plain = logits.clone().requires_grad_(True)
        last = logits.to(memory_format=torch.channels_last_3d).requires_grad_(True)
        one, other = build_loss(name)(plain, target), build_loss(name)(last, target)
        one.backward()
        other.backward()
        assert float(one) == pytest.approx(float(other), abs=1e-6)
        assert torch.allclose(plain.grad, last.grad, atol=1e-7)


def test_a_wrong_name_lists_the_accepted_ones() -> None:
    with pytest.raises(
        SettingsError,
        match=r'loss = "dise" is not known. Did you mean "dice"\? Accepted: dice, dice_ce, dice_focal, generalized_dice, '
        "tversky, dice_boundary.",
    ):
        build_loss("dise")
