"""Plots as PNG: the curves of a training, and areas along a scan. Readable on light and on dark pages."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autoseg_lib.labels import Label, LabelTable

# A grey with the same contrast to white and to black: the background is left transparent.
_GREY = "#7F7F7F"
# Okabe and Ito's vermilion, as on the slider of the slice browser.
FLAG_COLOR = "#D55E00"
_TRAIN, _VALIDATION = "#0072B2", "#D55E00"

# More ROIs than this make a legend longer than the plot.
_MOST_IN_LEGEND = 12

_DPI = 110


class AreaRow(Protocol):
    """What is needed of a row of measurements.csv."""

    @property
    def slice_number(self) -> int: ...
    @property
    def slice_position_mm(self) -> float | None: ...
    @property
    def label(self) -> int: ...
    @property
    def pixels(self) -> int: ...
    @property
    def area_mm2(self) -> float | None: ...
    @property
    def area_mm2_low(self) -> float | None: ...
    @property
    def area_mm2_high(self) -> float | None: ...
    @property
    def flag(self) -> str: ...


def curves(history: Sequence[Mapping[str, Any]], labels: LabelTable, worst_loss: float = 1.0) -> bytes:
    """Draws the loss of training and validation, and the Dice of each ROI on the validation scans.

    Args:
        history: one table per epoch, keys as in NAME_history.csv; missing or None where an epoch was not
            validated.
        labels: the ROIs.
        worst_loss: largest value of the training loss; it is drawn as a share of it, to compare with validation.

    Returns:
        A PNG file.
    """
    figure = _figure(9.0, 3.1)
    left, right = figure.subplots(1, 2)
    epochs, losses = _points(history, "train_loss")
    _line(left, epochs, [loss / worst_loss for loss in losses], label="training", color=_TRAIN)
    _line(left, *_points(history, "val_loss"), label="validation", color=_VALIDATION)
    half = "" if worst_loss == 1 else f"; training loss divided by {worst_loss:g}"
    _dress(left, f"Dice loss (0 best, 1 worst{half})", "epoch (pass over your data)")
    if len(left.lines) > 1:
        _legend(left)
    for label in labels:
        _line(right, *_points(history, f"val_dice_{label.name}"), label=label.name, color=label.color)
    if len(labels) != 1:
        _line(right, *_points(history, "val_dice"), label="mean", color=_GREY, style="--")
    _dress(right, "Dice on validation scans (1 best)", "epoch (pass over your data)")
    right.set_ylim(-0.02, 1.02)
    if 0 < len(right.lines) <= _MOST_IN_LEGEND:
        _legend(right, outside=True)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        # The same epochs left and right, though the validation scans are not looked at after each.
        axes.set_xlim(0, max(2.0, 1.02 * max((row["epoch"] for row in history), default=0)))
    return _png(figure)


# Width and height of the plot by slice number on the page, and where its axes lie in it: left, top, width, height. The
# notebook lays a slider over the axes, so both must agree to the pixel.
PLOT_PX = (600, 250)
AXES_PX = (60, 24, 528, 178)


def area_plot(measurements: Sequence[AreaRow], labels: LabelTable) -> bytes:
    """Draws the area of each ROI along one scan, over slice positions where known, else over slice numbers.

    Where there are 90 % intervals they are bands; flagged slices are ticks below.

    Args:
        measurements: rows of one case.
        labels: the ROIs.

    Returns:
        A PNG file. Without pixel spacing the axis counts pixels.
    """
    positions = [row.slice_position_mm for row in measurements]
    # Several images at one position would draw a zigzag.
    numbers = {row.slice_number for row in measurements}
    placed = None not in positions and len(set(positions)) == len(numbers)
    figure = _figure(8.0, 3.2)
    axes = figure.subplots()
    _areas(axes, measurements, labels, placed)
    if not placed:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(labels) <= _MOST_IN_LEGEND:
        _legend(axes, outside=True)
    return _png(figure)


def area_plot_by_slice(measurements: Sequence[AreaRow], labels: Sequence[Label]) -> bytes:
    """Draws the same over slice numbers, without legend, the axes exactly at ``AXES_PX`` of a picture of ``PLOT_PX``.

    The first slice lies at the left end of the axes and the last one at the right end.

    Args:
        measurements: rows of one case.
        labels: the ROIs to draw.

    Returns:
        A PNG file of twice as many pixels, for fine screens.
    """
    width, height = PLOT_PX
    left, top, across, down = AXES_PX
    figure = _figure(width / 100, height / 100, dpi=200, layout="none")
    axes = figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))
    _areas(axes, measurements, labels, placed=False)
    numbers = [row.slice_number for row in measurements] or [1]
    axes.set_xlim(min(numbers), max(numbers) if max(numbers) > min(numbers) else min(numbers) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def _areas(axes: Axes, measurements: Sequence[AreaRow], labels: Sequence[Label], placed: bool) -> None:
    in_mm2 = all(row.area_mm2 is not None for row in measurements)

    def place(row: AreaRow) -> float:
        return float(row.slice_position_mm or 0.0) if placed else row.slice_number

    for label in labels:
        rows = sorted((row for row in measurements if row.label == label.value), key=place)
        y = [float(row.area_mm2 or 0.0) if in_mm2 else row.pixels for row in rows]
        _line(axes, [place(row) for row in rows], y, label=label.name, color=label.color)
        known = [
            (place(row), row.area_mm2_low, row.area_mm2_high)
            for row in rows
            if in_mm2 and row.area_mm2_low is not None and row.area_mm2_high is not None
        ]
        if known:
            x, low, high = zip(*known, strict=True)
            axes.fill_between(x, low, high, color=label.color, alpha=0.2, linewidth=0)
    flagged = sorted({place(row) for row in measurements if row.flag})
    if flagged:
        below = axes.get_xaxis_transform()
        axes.plot(
            flagged, [0] * len(flagged), "^", color=FLAG_COLOR, markersize=5, transform=below, clip_on=False
        )
    _dress(
        axes, f"Area ({'mm²' if in_mm2 else 'pixels'})", "slice position (mm)" if placed else "slice number"
    )
    axes.set_ylim(bottom=0)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    known = [(float(row["epoch"]), float(row[key])) for row in history if row.get(key) is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _line(
    axes: Axes, x: Sequence[float], y: Sequence[float], *, label: str, color: str, style: str = "-"
) -> None:
    if x:
        # Few points would be invisible as a line alone.
        marker = "o" if len(x) <= 30 else ""
        axes.plot(x, y, style, color=color, label=label, linewidth=1.8, marker=marker, markersize=3.5)


def _figure(width: float, height: float, dpi: float = _DPI, layout: Any = "constrained") -> Figure:
    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    return figure


def _dress(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_GREY)
    axes.set_xlabel(below, fontsize=9, color=_GREY)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_GREY, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)
    axes.grid(axis="y", color=_GREY, alpha=0.25, linewidth=0.7)


def _legend(axes: Axes, *, outside: bool = False) -> None:
    place: dict[str, Any] = (
        {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if outside else {"loc": "upper right"}
    )
    axes.legend(fontsize=8, frameon=False, labelcolor=_GREY, **place)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
