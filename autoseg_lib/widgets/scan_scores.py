"""The worst and best validation scans to scroll through: your label, the model's answer, where they differ most."""

from __future__ import annotations

import numpy as np

from autoseg_lib.labels import LabelTable
from autoseg_lib.widgets.display import Spot, has_widgets
from autoseg_lib.workflow.final_scores import ShownScan
from autoseg_lib.workflow.training_result import TrainingResult


def most_wrong(scan: ShownScan) -> dict[int, str]:
    """Returns the slice with the most wrong pixels → what to say of it; nothing where none is wrong."""
    wrong = np.count_nonzero(scan.truth.array != scan.answer.array, axis=(1, 2))
    return {int(np.argmax(wrong)): "label and model differ most here"} if wrong.any() else {}


def show_scans(run: TrainingResult, spot: Spot) -> None:
    """Fills ``spot`` with a browser of the scans; with nothing where there are none, or no widgets.

    Args:
        run: of the training.
        spot: place in a cell's output.
    """
    if not run.shown or not has_widgets():
        spot.show_html("")
        return
    from autoseg_lib.widgets.slice_browser import BrowserCase, SliceBrowser  # needs ipywidgets

    cases = [
        BrowserCase(
            f"Dice {scan.dice:.3f} · {scan.name}",
            scan.volume,
            scan.answer,
            scan.slice_names,
            most_wrong(scan),
            truth=scan.truth,
        )
        for scan in run.shown
    ]
    browser = SliceBrowser(cases, LabelTable(run.roi_names))
    spot.show_widget(browser.widget, browser.html)
