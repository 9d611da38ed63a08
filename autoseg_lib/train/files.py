"""The files of one training run in the models' folder, and how they are written so that none is ever half a file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from autoseg_lib.io.files import atomic_write, remove_unfinished, write_text
from autoseg_lib.labels import LabelTable


def previous_of(path: Path) -> Path:
    """Returns the name of the resume file that was there before: NAME_last.previous.ckpt."""
    return path.with_suffix(f".previous{path.suffix}")


@dataclass(frozen=True)
class RunFiles:
    """Where a run named ``name`` keeps its files below ``folder``."""

    folder: Path
    name: str

    @property
    def last(self) -> Path:
        """All that resuming needs."""
        return self.folder / f"{self.name}_last.ckpt"

    @property
    def previous(self) -> Path:
        """The resume file written before the last one."""
        return previous_of(self.last)

    @property
    def best(self) -> Path:
        """The model that was best on validation."""
        return self.folder / f"{self.name}_best.safetensors"

    @property
    def history(self) -> Path:
        """One line per epoch."""
        return self.folder / f"{self.name}_history.csv"

    @property
    def settings(self) -> Path:
        """The settings as used, "auto" replaced by the chosen values."""
        return self.folder / f"{self.name}_settings.yaml"

    @property
    def report(self) -> Path:
        """What was trained on what, and how well it did."""
        return self.folder / f"{self.name}_report.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of the logs for TensorBoard, where they are wanted."""
        return self.folder / f"{self.name}_tensorboard"

    @property
    def folds(self) -> Path:
        """With folds: each scan's scores by the network that has not seen it."""
        return self.folder / f"{self.name}_folds.csv"

    @property
    def calibration(self) -> Path:
        """What the model found on each slice kept back; error bars are calibrated on it."""
        return self.folder / f"{self.name}_calibration.csv"

    @property
    def answers(self) -> Path:
        """With folds: labels and answers of the scans that this fold kept back, to try post-processing on."""
        return self.folder / f"{self.name}_answers.zip"

    def at_epoch(self, epoch: int) -> Path:
        """The model after ``epoch`` epochs."""
        return self.folder / f"{self.name}_{epoch}.safetensors"

    def existing(self) -> list[Path]:
        """All files of the run that exist."""
        if not self.folder.is_dir():
            return []
        fixed = [self.last, self.previous, self.best, self.history, self.settings, self.report, self.folds]
        fixed += [self.calibration, self.answers]
        return [path for path in fixed if path.is_file()] + self._periodic()

    def dispensable(self) -> list[Path]:
        """What neither segmenting nor going on needs once the run has ended: older states of it."""
        return [path for path in (self.previous,) if path.is_file()] + self._periodic()

    def _periodic(self) -> list[Path]:
        found = [path for path in self.folder.glob("*.safetensors") if self._is_periodic(path)]
        return sorted(found, key=lambda path: (len(path.name), path.name))

    def remove_leftovers(self) -> None:
        """Removes what a process that was killed while it saved has left half written."""
        fixed = {self.last, self.best, self.history, self.settings, self.report}
        remove_unfinished(
            self.folder, lambda name: self.folder / name in fixed or self._is_periodic(self.folder / name)
        )

    def _is_periodic(self, path: Path) -> bool:
        """Whether this is a model of the run that was saved after some epochs: NAME_EPOCH.safetensors."""
        start = f"{self.name}_"
        return (
            path.suffix == ".safetensors"
            and path.stem.startswith(start)
            and path.stem[len(start) :].isdigit()
        )

    def set_aside(self) -> Path | None:
        """Moves the files of an earlier run of this name into a folder of their own; returns it, or None."""
        files = self.existing()
        if not files:
            return None
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        aside = self.folder / f"{self.name}_replaced_{stamp}"
        aside.mkdir(parents=True)
        for path in (*files, *([self.tensorboard] if self.tensorboard.is_dir() else [])):
            path.rename(aside / path.name)
        return aside


def history_columns(labels: LabelTable) -> list[str]:
    """Returns the columns of NAME_history.csv."""
    rois = [f"val_dice_{name}" for name in labels.names]
    return ["epoch", "train_loss", "val_loss", "val_dice", *rois, "learning_rate", "seconds"]


def write_history(path: Path, rows: Sequence[Mapping[str, Any]], labels: LabelTable) -> None:
    """Writes the history as CSV; cells of epochs without validation stay empty."""
    frame = pd.DataFrame(list(rows), columns=history_columns(labels))
    atomic_write(path, lambda target: frame.to_csv(target, index=False, float_format="%.6g"))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a history file, empty cells as None."""
    frame = pd.read_csv(path)
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a settings file."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def write_report(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a report as JSON."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_text(path, text)
