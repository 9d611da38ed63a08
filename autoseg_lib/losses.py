"""Losses by name; both compare logits with label values and are smallest where they agree."""

from __future__ import annotations

import difflib

import torch
from monai.losses import DiceLoss
from torch import nn

from autoseg_lib.errors import SettingsError

LOSSES: tuple[str, ...] = ("dice", "dice_ce")
DEFAULT_LOSS = "dice_ce"


class SegmentationLoss(nn.Module):
    """Soft Dice loss with squared denominators (Milletari et al. 2016), alone or with cross-entropy added.

    Dice is computed per ROI over the whole batch, background left out: in 2D many slices lack an ROI, and a
    batch is less often without it than a slice.
    """

    def __init__(self, cross_entropy: bool) -> None:
        """Args:
        cross_entropy: whether the cross-entropy (background included) is added.
        """
        super().__init__()
        self.dice = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, squared_pred=True, batch=True
        )
        self.cross_entropy = nn.CrossEntropyLoss() if cross_entropy else None

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the loss, one number.

        Args:
            logits: (batch, channels, ...) of any floating type; computed in float32.
            target: (batch, 1, ...) label values.
        """
        return self.parts(logits, target)[0]

    def parts(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (loss, its Dice part from 0, best, to 1); the same number twice without cross-entropy."""
        logits, target = logits.float(), target.long()
        dice = self.dice(logits, target)
        if self.cross_entropy is None:
            return dice, dice
        return dice + self.cross_entropy(logits, target[:, 0]), dice


def build_loss(name: str) -> SegmentationLoss:
    """Returns the loss of that name.

    Args:
        name: one of LOSSES.

    Raises:
        SettingsError: the name is not known; the message lists the accepted ones.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(str(name).lower(), LOSSES, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise SettingsError(f'loss = "{name}" is not known.{hint} Accepted: {", ".join(LOSSES)}.')
    return SegmentationLoss(cross_entropy=name == "dice_ce")
