"""What is known of a run from its files alone: to look at it while it trains elsewhere, or after the kernel was restarted."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg_lib.errors import ModelError, counted, name_list
from autoseg_lib.train.files import RunFiles, read_history
from autoseg_lib.workflow.folds_history import FoldsTable, read_folds_table

_ENDING = "_history.csv"
# So many lines of the history are shown as text.
_LINES = 12


@dataclass(frozen=True)
class RunHistory:
    """A run that exists.

    Attributes:
        name: of the model.
        rows: one dict per epoch, columns of NAME_history.csv.
        roi_names: in label order.
        written: when the last epoch ended.
        files: of the run.
        folds: where it is a training with folds, which has no rows of its own; None otherwise.
    """

    name: str
    rows: tuple[dict[str, Any], ...] = field(repr=False)
    roi_names: tuple[str, ...]
    written: datetime.datetime
    files: RunFiles = field(repr=False)
    folds: FoldsTable | None = None

    @property
    def worst_loss(self) -> float:
        """Largest value of the training loss."""
        # Only drawing asks for it; the table of a history is there without the seconds that these take to import.
        from autoseg_lib.networks.model_file import read_metadata
        from autoseg_lib.networks.registry import NetworkSpec, output_weights

        try:
            return float(
                sum(output_weights(NetworkSpec.from_dict(read_metadata(self.files.best)["network"])))
            )
        except (ModelError, KeyError, OSError):
            return 1.0  # no model yet: all networks but one have this

    @property
    def headline(self) -> str:
        """One sentence: epochs, time, best Dice."""
        if self.folds is not None:
            return self.folds.headline
        minutes = sum(row["seconds"] or 0.0 for row in self.rows) / 60
        text = f"Run '{self.name}': {counted(len(self.rows), 'epoch')} in {minutes:.1f} minutes, the last on {self.written:%d %B %Y, %H:%M}."
        seen = [(row["val_dice"], row["epoch"]) for row in self.rows if row.get("val_dice") is not None]
        if seen:
            best, epoch = max(seen)
            text += (
                f" Mean Dice on validation scans: {seen[-1][0]:.3f}, best {best:.3f} at epoch {epoch:.0f}."
            )
        return text

    def lines(self) -> list[str]:
        """Returns the headline and the latest epochs with a look at the validation scans as text lines."""
        if self.folds is not None:
            return self.folds.lines()
        seen = [row for row in self.rows if row.get("val_dice") is not None] or list(self.rows)
        lines = [self.headline, f"{'epoch':>6} {'Dice loss':>10} {'mean Dice':>10}  Dice of each ROI"]
        for row in seen[-_LINES:]:
            rois = ", ".join(f"{name} {_number(row.get(f'val_dice_{name}'))}" for name in self.roi_names)
            lines.append(
                f"{row['epoch']:>6.0f} {_number(row['train_loss']):>10} {_number(row.get('val_dice')):>10}  {rois}"
            )
        return lines


def find_history(folder: Path, name: str = "") -> RunHistory:
    """Reads the history of a run.

    Args:
        folder: the models' folder.
        name: of the model, also as NAME_best or NAME_history.csv; "" is the run that was trained last.

    Raises:
        ModelError: there is no such run; the message names those there are.
    """
    files = sorted(folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
    names = [path.name.removesuffix(_ENDING) for path in files]
    wanted = Path(name).name
    for ending in (_ENDING, ".safetensors", "_best"):
        wanted = wanted.removesuffix(ending)
    if f"{wanted}_fold1" in names and wanted not in names:
        return _history_of_folds(RunFiles(folder, wanted))
    if not names or (wanted and wanted not in names):
        there = f" There are: {name_list(names)}." if names else " No run was trained there yet."
        what = f"no run named '{wanted}'" if wanted else "no run"
        raise ModelError(f"'{folder}': found {what}.{there}")
    run = RunFiles(folder, wanted or names[0])
    try:
        rows = tuple(read_history(run.history))
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"'{run.history.name}' cannot be read ({error}). It is written anew after the next epoch."
        ) from None
    columns = list(rows[0]) if rows else []
    return RunHistory(
        name=run.name,
        rows=rows,
        roi_names=tuple(c.removeprefix("val_dice_") for c in columns if c.startswith("val_dice_")),
        written=datetime.datetime.fromtimestamp(run.history.stat().st_mtime).astimezone(),
        files=run,
    )


def _history_of_folds(run: RunFiles) -> RunHistory:
    table = read_folds_table(run)
    newest = run.folds if run.folds.is_file() else RunFiles(run.folder, f"{run.name}_fold1").history
    written = datetime.datetime.fromtimestamp(newest.stat().st_mtime).astimezone()
    return RunHistory(run.name, (), table.roi_names, written, run, table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
