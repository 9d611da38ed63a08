"""What is known of a training with folds from its files alone; it has no history of its own, each fold has one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from autoseg_lib.errors import AutosegError, ModelError, counted
from autoseg_lib.settings import read_settings_file
from autoseg_lib.train.files import RunFiles


@dataclass(frozen=True)
class FoldScore:
    """What the scans of one fold came to, or of all folds (``fold`` 0).

    Attributes:
        fold: from 1; 0 is all together.
        scans: how many it kept back.
        mean_dice: mean over the ROIs.
        dice: of each ROI, in label order; None where it is in no scan.
    """

    fold: int
    scans: int
    mean_dice: float | None
    dice: tuple[float | None, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Fold, scans, mean Dice and that of each ROI as texts."""
        name = str(self.fold) if self.fold else "all"
        return name, str(self.scans), _three(self.mean_dice), *map(_three, self.dice)


@dataclass(frozen=True)
class FoldsTable:
    """The scores in NAME_folds.csv.

    Attributes:
        name: of the model that all folds make together.
        folds: how many were asked for; None where that is not known.
        roi_names: in label order.
        scores: of each fold that is done, then of all; empty before the first one is done.
    """

    name: str
    folds: int | None
    roi_names: tuple[str, ...]
    scores: tuple[FoldScore, ...] = field(repr=False)

    @property
    def headline(self) -> str:
        """One or two sentences: what it is, and how far it is."""
        count = "several folds" if self.folds is None else counted(self.folds, "fold")
        text = f"'{self.name}' is a model of {count}: each has a run and a history of its own, '{self.name}_fold1' and so on."
        if not self.scores:
            return f"{text} No fold is done yet."
        done = len(self.scores) - 1
        far = f"{done} of {self.folds} are done" if self.folds else f"{counted(done, 'fold')} done"
        return f"{text} {far}; each scan was judged by the network that had not seen it."

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of ``FoldScore.cells``."""
        return "fold", "scans", "mean Dice", *self.roi_names

    def lines(self) -> list[str]:
        """Returns the headline and the table as text lines."""
        if not self.scores:
            return [self.headline]
        rows = [self.columns, *(score.cells for score in self.scores)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        table = [
            "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return [self.headline, *table]


def read_folds_table(files: RunFiles) -> FoldsTable:
    """Reads NAME_folds.csv, which may not be there yet.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        folds = read_settings_file(files.settings).get("folds") if files.settings.is_file() else None
    except AutosegError:
        folds = None  # only told
    folds = folds if isinstance(folds, int) and folds > 1 else None
    if not files.folds.is_file():
        return FoldsTable(files.name, folds, (), ())
    try:
        frame = pd.read_csv(
            files.folds, dtype={"case": str, "roi": str}, keep_default_na=False, na_values=[""]
        )
        names = tuple(dict.fromkeys(frame["roi"]))
        parts = [(int(str(number)), part) for number, part in frame.groupby("fold")]
        scores = tuple(_score(number, part, names) for number, part in [*parts, (0, frame)])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"'{files.folds.name}' cannot be read ({error}). Train '{files.name}' again: folds that are done are only scored anew."
        ) from None
    return FoldsTable(files.name, folds, names, scores)


def _score(number: int, part: pd.DataFrame, names: tuple[str, ...]) -> FoldScore:
    means = part.groupby("roi")["dice"].mean()
    dice = tuple(float(means[name]) if pd.notna(means.get(name)) else None for name in names)
    there = [value for value in dice if value is not None]
    return FoldScore(number, part["case"].nunique(), sum(there) / len(there) if there else None, dice)


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
