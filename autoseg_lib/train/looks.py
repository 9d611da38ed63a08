"""How often the scans kept back are looked at while training: as often as it costs little.

It is worked out from pixels, not from measured times, so that the same data and settings give the same run everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.errors import counted
from autoseg_lib.infer.predictor import DEFAULT_OVERLAP
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.train.defaults import (
    FEWEST_LOOKS,
    FEWEST_SCANS,
    LEARNING_COST,
    LOOKS_PER_RUN,
    SCANS_PER_LOOK,
    SCORING_COST,
    SHARE_OF_LOOKS,
)
from autoseg_lib.train.grids import Shape, shapes_on_grid


@dataclass(frozen=True)
class Looks:
    """When and at how much.

    Attributes:
        every: epochs from one look to the next.
        scans: scans looked at each time (at the end all of them are).
        share: share of the run that it is expected to take.
        kept: scans kept back.
    """

    every: int
    scans: int
    share: float
    kept: int

    @property
    def text(self) -> str:
        """Why, in one line."""
        time = f"about {100 * self.share:.0f} % of the time"
        if self.scans == self.kept:
            return f"{counted(self.kept, 'scan')} kept back, {time}"
        return f"looked at while training: {self.scans} of {counted(self.kept, 'scan')} kept back, {time}; all of them at the end"


def plan_looks(scan_steps: float, scans: int, total_steps: int, steps_per_epoch: int) -> Looks:
    """Decides how often to look, and at how many scans.

    Args:
        scan_steps: what looking at one scan costs, in training steps.
        scans: scans kept back.
        total_steps: of the run.
        steps_per_epoch: steps of one pass.
    """
    epochs = max(1, math.ceil(total_steps / steps_per_epoch))
    if scans == 0:
        return Looks(max(1, round(epochs / LOOKS_PER_RUN)), 0, 0.0, 0)
    affordable = SHARE_OF_LOOKS * total_steps / scan_steps  # scans in the whole run
    most = min(scans, SCANS_PER_LOOK)
    chosen = int(np.clip(affordable / FEWEST_LOOKS, min(most, FEWEST_SCANS), most))
    if affordable < 2 * chosen:  # even two looks at so many scans take too long
        chosen = max(1, int(affordable / 2))
    looks = float(np.clip(affordable / chosen, 1, LOOKS_PER_RUN))
    every = max(1, math.ceil(epochs / looks - 0.5))
    return Looks(every, chosen, math.ceil(epochs / every) * chosen * scan_steps / total_steps, scans)


def scan_cost(
    facts: Sequence[CaseFacts],
    preprocessing: Preprocessing,
    window: Shape | None,
    classes: int,
    batch_pixels: int,
) -> float:
    """Returns what looking at one scan costs, in training steps.

    Args:
        facts: the scans kept back.
        preprocessing: the network's grid.
        window: 3D: size of the windows; None in 2D.
        classes: label values, background included.
        batch_pixels: pixels of one training step.
    """
    own = float(np.mean([math.prod(f.geometry.shape_zyx) for f in facts]))
    if window is None:
        shape = preprocessing.input_shape or (1, 1)
        predicted = float(np.mean([len(f.counts) for f in facts])) * math.prod(shape)
    else:
        shapes = shapes_on_grid(facts, preprocessing.spacing_zyx_mm)
        predicted = float(np.mean([_windows(shape, window) for shape in shapes])) * math.prod(window)
    # Each class is brought back by itself; the background of a few classes is the most of it.
    scored = SCORING_COST * own * min(classes, 4) / 2
    return (predicted + scored) / (LEARNING_COST * batch_pixels)


def _windows(shape: Shape, window: Shape) -> int:
    count = 1
    for length, size in zip(shape, window, strict=True):
        step = max(1, int(size * (1 - DEFAULT_OVERLAP)))
        count *= max(1, math.ceil((length - size) / step) + 1)
    return count
