"""Plots: curves of a training, areas along a scan. White ground, so that they can go into a paper as they are."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement

# Screen pixels per inch; sizes below are chosen so that a figure fits beside a table on a 13-inch screen.
_DPI = 100
_FONT = 8
# A legend with more entries than this would cover the curves.
_MOST_IN_LEGEND = 12


def curves(history: Sequence[Mapping[str, Any]], labels: LabelTable) -> bytes:
    """Draws Dice loss, and Dice per ROI on the validation scans, over the epochs.

    Args:
        history: one mapping per epoch with the columns of NAME_history.csv; None where an epoch was not validated.
        labels: the ROIs, whose colours the curves have.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(5.6, 2.7), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _line(left, history, "train_loss", color="#0072B2", label="training")
    _line(left, history, "val_loss", color="#D55E00", label="validation", marker="o")
    _finish(left, "Dice loss (0 is best)")
    for label in labels:
        _line(right, history, f"val_dice_{label.name}", color=label.color, label=label.name, linewidth=1.2)
    _line(right, history, "val_dice", color="#333333", label="mean", linewidth=2.0)
    _finish(right, "Dice on validation scans", legend=len(labels) < _MOST_IN_LEGEND)
    right.set_ylim(0, 1.02)
    return _png(figure)


def area_plot(rows: Sequence[SliceMeasurement], labels: LabelTable, case: str = "") -> bytes:
    """Draws the area of each ROI along a scan.

    Args:
        rows: measurements of one case. The horizontal axis is the position along the scan where all are known, else
            the slice number.
        labels: the ROIs, whose colours the lines have.
        case: name of the scan, for the title.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(8.2, 3.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    positions = [row.slice_position_mm for row in rows]
    known = all(p is not None for p in positions) and len(set(positions)) == len(
        {r.slice_number for r in rows}
    )
    for label in labels:
        own = [row for row in rows if row.label == label.value and row.area_mm2 is not None]
        across: list[Any] = [row.slice_position_mm if known else row.slice_number for row in own]
        areas: list[Any] = [row.area_mm2 for row in own]
        axes.plot(across, areas, "o-", color=label.color, label=label.name, markersize=3)
    axes.set_xlabel("position along the scan, mm" if known else "slice number", fontsize=_FONT)
    axes.set_ylabel("area, mm²", fontsize=_FONT)
    axes.set_ylim(bottom=0)
    axes.set_title(case, fontsize=_FONT + 1, loc="left")
    axes.tick_params(labelsize=_FONT)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=_FONT, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _png(figure)


def _line(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    if points:
        if len(points) > 1:
            style["marker"] = style.get("marker") if len(points) < 30 else None
        else:
            style["marker"] = "o"
        axes.plot(*zip(*points, strict=True), markersize=3, **{"linewidth": 1.5, **style})


def _finish(axes: Axes, title: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=_FONT + 1, loc="left")
    axes.set_xlabel("epoch", fontsize=_FONT)
    axes.tick_params(labelsize=_FONT)
    axes.grid(alpha=0.25)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend and axes.lines:
        axes.legend(fontsize=_FONT - 1, frameon=False)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
