"""Losses by name; all compare logits with label values and are smallest where they agree."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoseg_lib.errors import SettingsError
from autoseg_lib.losses.pixels import boundary, cross_entropy, focal
from autoseg_lib.losses.regions import dice, generalized_dice, roi_sums, tversky

Tensor = torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """What a loss is made of: a comparison of whole ROIs, and terms added pixel by pixel.

    Attributes:
        title: for tables and a paper's Methods section.
        region: from the ROIs' sums (see ``roi_sums``) to one number from 0 to 1.
        power: exponent of the probabilities in the denominators; 2: Milletari et al. 2016.
        pixels: from (log probability of the true label, label values) to one number each.
    """

    title: str
    region: Callable[[Tensor], Tensor]
    power: int
    pixels: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()


RECIPES: dict[str, Recipe] = {
    "dice": Recipe("Dice loss with squared denominators", dice, 2),
    "dice_ce": Recipe("Dice loss with squared denominators and cross-entropy", dice, 2, (cross_entropy,)),
    "dice_focal": Recipe("Dice loss with squared denominators and focal loss", dice, 2, (focal,)),
    "generalized_dice": Recipe("generalized Dice loss", generalized_dice, 1),
    "tversky": Recipe("Tversky loss", tversky, 1),
    "dice_boundary": Recipe(
        "Dice loss with squared denominators, cross-entropy and boundary loss",
        dice,
        2,
        (cross_entropy, boundary),
    ),
}
LOSSES: tuple[str, ...] = tuple(RECIPES)
DEFAULT_LOSS = "dice_ce"


class SegmentationLoss(nn.Module):
    """A loss over one or several outputs of a network.

    MONAI's classes are not used: they make a one-hot copy of every label, take no notice of which ROIs were
    drawn in which sample, and keep the sums of the Dice to themselves, so that several processes could not
    add them up. The tests compare with them where they mean the same.

    Attributes:
        output_weights: weight of each output, the first at full resolution.
        ignore_unlabelled: whether an ROI that was not drawn in a sample takes no part in it.
        worst: largest value of the Dice part (two stages: 2).
        across_processes: adds up the ROIs' sums over all processes of a run; must pass gradients through.
            Nothing, with one process.
    """

    def __init__(self, recipe: Recipe, output_weights: Sequence[float], ignore_unlabelled: bool) -> None:
        """Args: see build_loss."""
        super().__init__()
        self.recipe = recipe
        self.output_weights = tuple(float(weight) for weight in output_weights)
        self.ignore_unlabelled = ignore_unlabelled
        self.worst = float(sum(self.output_weights))
        self.across_processes: Callable[[Tensor], Tensor] = _as_they_are

    def forward(
        self, logits: Tensor | Sequence[Tensor], target: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        """Returns the loss, one number; see ``parts``."""
        return self.parts(logits, target, drawn)[0]

    def parts(
        self, logits: Tensor | Sequence[Tensor], target: Tensor, drawn: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns (loss, its Dice part from 0, best, to ``worst``).

        Args:
            logits: (batch, classes, ...) of any floating type, computed in float32; or a list of outputs, the
                one at full resolution first, the others at most as large.
            target: (batch, 1, ...) label values.
            drawn: (batch, at least classes) whether a label value was drawn in the sample's scan; only looked
                at with ``ignore_unlabelled``. None: the sample's own label tells.

        Raises:
            ValueError: there are more or fewer outputs than weights.
        """
        if isinstance(logits, Tensor):
            return self._one(logits, target, drawn)
        if len(logits) != len(self.output_weights):
            raise ValueError(f"the network gave {len(logits)} outputs for {len(self.output_weights)} weights")
        if self.ignore_unlabelled and drawn is None:
            drawn = drawn_values(target, logits[0].shape[1])
        pairs = [self._one(output, fitted(target, output), drawn) for output in logits]
        loss, dice_part = (
            torch.stack(
                [weight * part for weight, part in zip(self.output_weights, column, strict=True)]
            ).sum()
            for column in zip(*pairs, strict=True)
        )
        return loss, dice_part

    def _one(self, logits: Tensor, target: Tensor, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
        # Classes as whole planes one after the other: every sum below is then over neighbouring numbers.
        logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
        target = target.long()
        if self.ignore_unlabelled:
            logits = without_undrawn(
                logits, drawn_values(target, logits.shape[1]) if drawn is None else drawn
            )
        log_probabilities = torch.log_softmax(logits, dim=1)
        sums = roi_sums(log_probabilities.exp(), target, self.recipe.power)
        sums = self.across_processes(sums)
        loss = self.recipe.region(sums)
        dice_part = loss if self.recipe.region is dice else dice(sums)
        if self.recipe.pixels:
            log_true = log_probabilities.gather(1, target)
            for term in self.recipe.pixels:
                loss = loss + term(log_true, target)
        return loss, dice_part


def build_loss(
    name: str, *, output_weights: Sequence[float] = (1.0,), ignore_unlabelled: bool = False
) -> SegmentationLoss:
    """Returns the loss of that name.

    Args:
        name: one of LOSSES.
        output_weights: weight of each of the network's outputs; they add up to 1 for deep supervision, and to
            the number of stages for a network of several stages.
        ignore_unlabelled: an ROI that was not drawn in a sample takes no part in it: its logits there get no
            gradient, and the other classes do not compete with it.

    Raises:
        SettingsError: the name is not known; the message lists the accepted ones.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(str(name).lower(), LOSSES, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise SettingsError(f'loss = "{name}" is not known.{hint} Accepted: {", ".join(LOSSES)}.')
    return SegmentationLoss(RECIPES[name], output_weights, ignore_unlabelled)


def drawn_values(target: Tensor, classes: int) -> Tensor:
    """Returns (batch, classes): whether each label value occurs in a sample; background always does.

    Args:
        target: (batch, 1, ...) label values.
        classes: label values, background included.
    """
    flat = target.flatten(1)
    drawn = torch.stack([(flat == value).any(dim=1) for value in range(classes)], dim=1)
    drawn[:, 0] = True
    return drawn


def without_undrawn(logits: Tensor, drawn: Tensor) -> Tensor:
    """Returns the logits with those of ROIs that a sample does not show so low that they take no part.

    Args:
        logits: (batch, classes, ...), float32.
        drawn: (batch, at least classes).
    """
    present = drawn[:, : logits.shape[1]].to(logits.device, torch.bool)
    present = present.reshape(*present.shape, *(1,) * (logits.ndim - 2))
    return logits.masked_fill(~present, torch.finfo(logits.dtype).min)


def fitted(target: Tensor, output: Tensor) -> Tensor:
    """Returns the label values on the grid of a coarser output: those of the nearest pixels.

    Args:
        target: (batch, 1, ...) label values.
        output: (batch, classes, ...).
    """
    for axis in range(2, target.ndim):
        size, wanted = target.shape[axis], output.shape[axis]
        if size != wanted:
            # The middle of a coarse pixel, in fine pixels.
            nearest = ((torch.arange(wanted, device=target.device) + 0.5) * (size / wanted)).long()
            target = target.index_select(axis, nearest)
    return target


def _as_they_are(sums: Tensor) -> Tensor:
    return sums
