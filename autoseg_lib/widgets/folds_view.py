"""The cross-validated table of a training with folds."""

from __future__ import annotations

from markupsafe import Markup

from autoseg_lib.errors import counted
from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.html import table_html
from autoseg_lib.workflow.folds_result import FoldsResult


def folds_html(run: FoldsResult) -> Markup:
    """Returns mean, spread and interval of each ROI over all scans, and one line for each fold."""
    if not run.fold_lines:
        return Markup("")
    folds = [
        (
            f"fold {line.number}",
            counted(line.scans, "scan"),
            f"{line.mean_dice:.3f}",
            str(line.epochs),
            f"{line.seconds / 60:.1f}",
        )
        for line in run.fold_lines
    ]
    each = table_html(
        folds,
        ("fold", "kept back", "mean Dice", "epochs", "minutes"),
        caption=run.headline,
        numeric=(2, 3, 4),
    )
    table = run.interval_table()
    if not table:
        return each
    labels = LabelTable(run.roi_names)
    return each + table_html(
        table,
        ("ROI", "Dice", "spread over scans (SD)", "95 % interval of the mean", "scans"),
        caption="Cross-validated: every scan by the network that has not seen it. Interval: bootstrap over patients.",
        colors=[*(label.color for label in labels), None],
        numeric=(1, 2, 4),
        strong_last=1,
    )
