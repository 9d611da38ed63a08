"""The losses against their formulas."""

from __future__ import annotations

import pytest
import torch

from autoseg_lib.errors import SettingsError
from autoseg_lib.losses import LOSSES, build_loss

# Two ROIs on 4 pixels. Pixel values: 0, 1, 2, 2.
TARGET = torch.tensor([[[[0, 1], [2, 2]]]], dtype=torch.uint8)


def logits_of(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities.clamp_min(1e-12).log()


def test_squared_dice_by_hand() -> None:
    # Channels (0.5, 0.5, 0) at value 0 and 1; (0, 0.2, 0.8) at both pixels of value 2.
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.2, 0.2], [0.0, 0.0, 0.8, 0.8]]).reshape(1, 3, 2, 2)
    roi_1 = 1 - 2 * 0.5 / (0.25 + 0.25 + 0.04 + 0.04 + 1)
    roi_2 = 1 - 2 * 1.6 / (0.64 + 0.64 + 2)
    dice = build_loss("dice")(logits_of(p), TARGET)
    assert float(dice) == pytest.approx((roi_1 + roi_2) / 2, abs=1e-4)
    cross_entropy = -(torch.tensor([0.5, 0.5, 0.8, 0.8]).log().mean())
    both, part = build_loss("dice_ce").parts(logits_of(p), TARGET)
    assert float(both) == pytest.approx(float(dice + cross_entropy), abs=1e-4)
    assert float(part) == pytest.approx(float(dice), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_right_is_0_and_half_precision_does(name: str) -> None:
    one_hot = torch.nn.functional.one_hot(TARGET[:, 0].long(), 3).permute(0, 3, 1, 2).float()
    loss = build_loss(name)
    assert float(loss(one_hot * 40 - 20, TARGET)) == pytest.approx(0, abs=1e-4)
    assert loss((one_hot * 40 - 20).bfloat16(), TARGET).dtype == torch.float32
    wrong = loss(-(one_hot * 40 - 20), TARGET)
    assert float(wrong) > 0.7


def test_an_roi_missing_in_a_slice_costs_nothing_when_another_shows_it() -> None:
    """Dice over the batch: an empty slice, rightly left empty, does not add a loss of 1."""
    target = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    target[0, 0, :2] = 1
    right = torch.nn.functional.one_hot(target[:, 0].long(), 2).permute(0, 3, 1, 2).float() * 40 - 20
    assert float(build_loss("dice")(right, target)) == pytest.approx(0, abs=1e-4)


def test_works_in_3d() -> None:
    logits = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    build_loss("dice_ce")(logits, torch.randint(0, 3, (2, 1, 4, 5, 6))).backward()
    assert logits.grad is not None


def test_a_wrong_name_lists_the_accepted_ones() -> None:
    with pytest.raises(
        SettingsError, match=r'loss = "dise" is not known. Did you mean "dice"\? Accepted: dice, dice_ce.'
    ):
        build_loss("dise")
