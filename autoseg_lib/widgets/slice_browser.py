"""Scrolling through segmented scans: picture, outlines, opacity, ROIs on and off, brightness, play."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ipywidgets as W
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.html import render
from autoseg_lib.viz.overlay import FILL_ALPHA, grey_range, picture
from autoseg_lib.viz.view import SliceView, slice_view
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.widgets.pictures import encode_jpg, grid

# Longest side of the picture: with its controls beside it, it fits a 13-inch screen without scrolling.
_PICTURE_PX = 480
# Of each of two pictures side by side.
_BESIDE_PX = 250


@dataclass(frozen=True, eq=False)
class BrowserCase:
    """One scan to scroll through.

    Attributes:
        name: of the case.
        volume: the scan, on its own grid.
        mask: its label values on the same grid, or None.
        slice_names: one a slice.
        flagged: array index of a slice → why one should look at it.
        truth: label values to compare with, drawn to the left; None: one picture.
    """

    name: str
    volume: Volume = field(repr=False)
    mask: Mask | None = field(repr=False)
    slice_names: Sequence[str] = ()
    flagged: Mapping[int, str] = field(default_factory=dict)
    truth: Mask | None = field(default=None, repr=False)

    @cached_property
    def view(self) -> SliceView:
        """How its slices are turned for display."""
        return slice_view(self.volume.geometry)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Values shown as black and white at first."""
        return grey_range(self.volume.array, self.volume.modality)

    @property
    def first_slice(self) -> int:
        """Index of the slice to open with: of those that hold the most ROIs the one nearest the middle."""
        middle = self.volume.array.shape[0] // 2
        if self.mask is None:
            return middle
        kinds = [np.unique(plane).size for plane in self.mask.array]
        return min((i for i, n in enumerate(kinds) if n == max(kinds)), key=lambda i: abs(i - middle))

    def draw(
        self,
        index: int,
        labels: LabelTable,
        *,
        hidden: Sequence[int] = (),
        alpha: float = FILL_ALPHA,
        limits: tuple[float, float] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Returns the picture of one slice as (height, width, 3)."""
        masks = [self.mask] if self.truth is None else [self.truth, self.mask]
        drawn = []
        for mask in masks:
            values = None if mask is None else mask.array[index]
            if values is not None and hidden:
                values = np.where(np.isin(values, hidden), 0, values)
            drawn.append(
                picture(
                    self.volume.array[index],
                    values,
                    labels,
                    self.view,
                    modality=self.volume.modality,
                    limits=limits or self.range,
                    longest=_PICTURE_PX if len(masks) == 1 else _BESIDE_PX,
                    alpha=alpha,
                )
            )
        return drawn[0] if len(drawn) == 1 else grid([drawn])


class SliceBrowser:
    """The widget. ``widget`` is what to show, ``html`` stands for it where widgets cannot be drawn."""

    def __init__(self, cases: Sequence[BrowserCase], labels: LabelTable) -> None:
        """Args:
        cases: at least one.
        labels: names and colours of the ROIs.
        """
        self._cases, self._labels = list(cases), labels
        self._quiet = False
        self._image = W.Image(format="jpeg", layout=W.Layout(max_width="100%", align_self="flex-start"))
        self._strip = W.HTML()
        self._caption = W.HTML()
        self._case = W.Dropdown(
            options=[(case.name, index) for index, case in enumerate(self._cases)],
            description="Scan",
            layout=W.Layout(width="280px", display="" if len(self._cases) > 1 else "none"),
        )
        self._slice = W.IntSlider(min=1, max=1, readout=False, layout=W.Layout(width="350px"))
        self._play = W.Play(min=1, max=1, interval=250, layout=W.Layout(width="auto"))
        W.jslink((self._play, "value"), (self._slice, "value"))
        self._alpha = W.IntSlider(
            value=round(FILL_ALPHA * 100),
            min=0,
            max=100,
            description="Fill %",
            layout=W.Layout(width="280px"),
        )
        self._window = W.FloatRangeSlider(
            description="Brightness",
            readout_format=".0f",
            layout=W.Layout(width="280px"),
            continuous_update=True,
        )
        self._toggles = [
            W.Checkbox(value=True, description=label.name, indent=False, layout=W.Layout(width="auto"))
            for label in labels
        ]
        self._case.observe(self._case_changed, "value")
        for control in (self._slice, self._alpha, self._window, *self._toggles):
            control.observe(self._draw, "value")
        controls = W.VBox(
            [self._case, self._alpha, self._window, *(self._toggle_row(i) for i in range(len(labels)))],
            layout=W.Layout(min_width="300px", padding="0 0 0 16px"),
        )
        # The strip of ticks lies right below the slider, so that both mean the same slice.
        scroll = W.HBox([self._play, W.VBox([self._slice, self._strip])])
        left = W.VBox([self._image, scroll, self._caption])
        self.widget = W.HBox([left, controls], layout=W.Layout(flex_flow="row wrap"))
        self._case_changed()

    def _toggle_row(self, index: int) -> Any:
        dot = f'<div style="width:12px;height:12px;margin:8px 6px 0 0;border-radius:3px;background:{self._labels[index].color}"></div>'
        return W.HBox([W.HTML(dot), self._toggles[index]])

    @property
    def case(self) -> BrowserCase:
        """The scan shown now."""
        return self._cases[self._case.value or 0]

    @property
    def html(self) -> Markup:
        """A picture of the first scan's fullest slice, for saved notebooks and front ends without widgets."""
        case = self._cases[0]
        data = base64.b64encode(encode_jpg(case.draw(case.first_slice, self._labels))).decode("ascii")
        text = f"{case.name}, slice {case.first_slice + 1} of {case.volume.array.shape[0]}"
        return render("browser.html.j2", data=data, text=text, labels=self._labels)

    def _case_changed(self, change: Any = None) -> None:
        case, self._quiet = self.case, True
        count = case.volume.array.shape[0]
        low, high = case.range
        pixels = case.volume.array
        bottom, top = float(np.nanmin(pixels)), float(np.nanmax(pixels))
        bottom, top = min(bottom, low), max(top, high)
        # min and max move apart before they close in, so that they never cross.
        self._window.min, self._window.max = min(bottom, self._window.min), max(top, self._window.max)
        self._window.value = (low, high)
        self._window.min, self._window.max = bottom, top
        self._window.step = max((top - bottom) / 200, 1e-6)
        self._slice.max = self._play.max = count
        self._slice.value = case.first_slice + 1
        self._quiet = False
        self._draw()

    def _draw(self, change: Any = None) -> None:
        if self._quiet:
            return
        case, index = self.case, min(self._slice.value, self.case.volume.array.shape[0]) - 1
        hidden = [
            label.value for label, box in zip(self._labels, self._toggles, strict=True) if not box.value
        ]
        low, high = self._window.value
        limits = (low, high) if high > low else (low, low + 1)
        rgb = case.draw(index, self._labels, hidden=hidden, alpha=self._alpha.value / 100, limits=limits)
        self._image.value = encode_jpg(rgb)
        self._strip.value = str(self._strip_html(index))
        name = case.slice_names[index] if index < len(case.slice_names) else ""
        self._caption.value = str(
            render(
                "browser_caption.html.j2",
                number=index + 1,
                count=case.volume.array.shape[0],
                name=name,
                flagged=sorted(case.flagged),
                reason=case.flagged.get(index, ""),
                compared=case.truth is not None,
            )
        )

    def _strip_html(self, index: int) -> Markup:
        case = self.case
        count = case.volume.array.shape[0]
        filled = [case.mask is not None and bool(case.mask.array[number].any()) for number in range(count)]
        ticks = [
            {"flag": case.flagged.get(number, ""), "filled": filled[number], "now": number == index}
            for number in range(count)
        ]
        return render("browser_strip.html.j2", ticks=ticks)
