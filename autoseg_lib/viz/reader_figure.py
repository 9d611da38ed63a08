"""One picture: how well a model agrees with the readers, beside how well the readers agree with each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe–Ito: the model in vermillion, readers in blue.
_MODEL, _READERS = "#D55E00", "#0072B2"
_DPI = 150
# Points of one column lie side by side within this share of the distance to the next ROI.
_SPREAD = 0.12


@dataclass(frozen=True)
class Agreement:
    """One ROI.

    Attributes:
        roi: its name.
        model: one value per case and reader.
        readers: one value per case and pair of readers.
    """

    roi: str
    model: Sequence[float]
    readers: Sequence[float]


def reader_figure(
    dice: Sequence[Agreement], area_percent: Sequence[Agreement], *, kind: str = "png"
) -> bytes:
    """Returns the figure: Dice at the top, area differences below, one column per ROI.

    Args:
        dice: Dice per ROI.
        area_percent: area difference in percent per ROI.
        kind: "png" or "svg".
    """
    figure = Figure(figsize=(max(4.5, 1.6 * len(dice) + 2.0), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _draw(upper, dice, "Dice")
    _draw(lower, area_percent, "Area difference (%)")
    lower.set_ylim(bottom=0)
    lower.set_xticks(range(len(dice)), [item.roi for item in dice], rotation=0 if len(dice) < 5 else 45)
    upper.legend(loc="best", frameon=False)
    buffer = io.BytesIO()
    # Without a date, the same data give the same bytes.
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _draw(axes: Axes, items: Sequence[Agreement], title: str) -> None:
    for number, item in enumerate(items):
        for shift, values, colour, text in (
            (-0.2, item.model, _MODEL, "model and a reader"),
            (0.2, item.readers, _READERS, "two readers"),
        ):
            if not len(values):
                continue
            across = number + shift + np.linspace(-_SPREAD, _SPREAD, len(values))
            axes.plot(
                across,
                values,
                "o",
                markersize=3.5,
                alpha=0.5,
                color=colour,
                label=text if number == 0 else None,
            )
            low, middle, high = np.percentile(values, (25, 50, 75))
            axes.plot([number + shift] * 2, [low, high], color=colour, linewidth=3, alpha=0.7)
            axes.plot(number + shift, middle, "D", color=colour, markeredgecolor="white", markersize=7)
    axes.set_ylabel(title)
    axes.set_xlim(-0.6, len(items) - 0.4)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
