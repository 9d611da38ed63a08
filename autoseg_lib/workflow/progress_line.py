"""The text line that the field's notebooks print every so many epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg_lib.events import EpochDone


def progress_line(
    event: EpochDone, seconds: float, history: Sequence[Mapping[str, Any]], worst_loss: float = 1.0
) -> str:
    """Returns "Completed epochs:   10/500 | Dice loss: 0.631 | Mean dice score: 0.369 | Time elapsed: ...".

    Dice loss runs from 0 (best) to 1. With a network of two stages both are added up, so it runs to 2, and the line says so.
    The mean Dice score is that of the last look at the validation scans; if that was after an earlier epoch, or there was none
    and it is 1 - Dice loss of the training images, the line says so.

    Args:
        event: of the epoch.
        seconds: trained so far.
        history: rows of NAME_history.csv.
        worst_loss: largest value of the Dice loss.
    """
    loss = event.row["train_loss"]
    seen = [row for row in history if row.get("val_dice") is not None]
    if seen:
        score = f"Mean dice score: {seen[-1]['val_dice']:.3f}"
        if seen[-1]["epoch"] != event.epoch:
            score += f" (of epoch {seen[-1]['epoch']:.0f})"
    else:
        score = f"Mean dice score (training images): {1 - loss / worst_loss:.3f}"
    scale = "" if worst_loss == 1 else f" (0 best, {worst_loss:g} worst)"
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (
        f"Completed epochs: {event.epoch:>4}/{event.epochs} | Dice loss: {loss:.3f}{scale} | {score} | "
        f"Time elapsed: {hours} hrs {minutes} mins {left} secs"
    )
