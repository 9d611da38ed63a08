"""Which model of a run is the best, and when learning on is no use.

The rule: each look at the kept-back scans gives a mean Dice over the ROIs. With few scans it jumps up and down by chance, so it
is smoothed: half the new score, half what it was smoothed to before. The model of the look with the highest smoothed score
is kept (of equals the later one): a single lucky look does not win, and one that follows a decline does not either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Weight of the newest score in the smoothed one.
NEW_SHARE = 0.5

# Early stopping: not before this share of the planned steps; only after the smoothed Dice has not risen by LEAST_GAIN for
# PATIENCE_SHARE of the planned steps and FEWEST_LOOKS looks. The learning rate falls to the end of the plan, and most
# runs gain once more as it does: hence so much patience.
NEVER_BEFORE = 0.5
PATIENCE_SHARE = 0.3
FEWEST_LOOKS = 5
LEAST_GAIN = 0.001


@dataclass
class BestModel:
    """What the looks at the kept-back scans have said so far; plain values, part of the resume file.

    Attributes:
        smoothed: smoothed mean Dice at the last look; None before the first.
        best: highest smoothed score.
        best_dice: mean Dice of that look itself.
        best_epoch: its epoch.
        gained: smoothed score at the last look that counted as a gain.
        gained_step: optimiser steps done at that look.
        looks_since: looks after it.
        seen_step: optimiser steps done at the last look.
    """

    smoothed: float | None = None
    best: float = -1.0
    best_dice: float = -1.0
    best_epoch: int = 0
    gained: float = -1.0
    gained_step: int = 0
    looks_since: int = 0
    seen_step: int = -1

    def look(self, dice: float, epoch: int, step: int) -> bool:
        """Takes note of a look; returns whether its model is the best so far.

        Args:
            dice: mean Dice.
            epoch: epochs done.
            step: optimiser steps done.
        """
        smoothed = dice if self.smoothed is None else NEW_SHARE * dice + (1 - NEW_SHARE) * self.smoothed
        self.smoothed, self.seen_step = smoothed, step
        if smoothed > self.gained + LEAST_GAIN:
            self.gained, self.gained_step, self.looks_since = smoothed, step, 0
        else:
            self.looks_since += 1
        if smoothed < self.best:
            return False
        self.best, self.best_dice, self.best_epoch = smoothed, dice, epoch
        return True

    def is_over(self, step: int, total_steps: int) -> bool:
        """Whether early stopping would end the run after ``step`` of ``total_steps``."""
        return (
            step >= NEVER_BEFORE * total_steps
            and step - self.gained_step >= PATIENCE_SHARE * total_steps
            and self.looks_since >= FEWEST_LOOKS
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for the resume file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> BestModel:
        """Returns what ``to_dict`` wrote."""
        return cls(**table)
