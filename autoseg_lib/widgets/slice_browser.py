"""Scrolling through segmented scans: picture, outlines, opacity, ROIs on and off, brightness, play."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import ipywidgets as W
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from autoseg_lib.errors import AutosegError
from autoseg_lib.labels import Label, LabelTable
from autoseg_lib.viz.html import note_html, render
from autoseg_lib.viz.overlay import FILL_ALPHA, grey_range, picture
from autoseg_lib.viz.view import SliceView, slice_view
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.widgets.pictures import encode_jpg, grid

# Longest side of the picture: with its controls beside it, it fits a 13-inch screen without scrolling.
_PICTURE_PX = 480
# Of each of two pictures side by side.
_BESIDE_PX = 250
# 500 slices of 512 × 512 with 6 ROIs: 17 ms and 50 kB a step on two slow cores; at 90 it was 74 kB, and nobody sees more.
_QUALITY = 82
# More ROIs than this scroll in a box of their own.
_MOST_TOGGLES = 9


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
        kinds = self._kinds
        return min((i for i, n in enumerate(kinds) if n == max(kinds)), key=lambda i: abs(i - middle))

    @cached_property
    def _kinds(self) -> list[int]:
        """Returns for each slice how many different values it holds; np.unique would sort every pixel."""
        if self.mask is None:
            return [1] * self.volume.array.shape[0]
        return [int(np.count_nonzero(np.bincount(plane.ravel()))) for plane in self.mask.array]

    @cached_property
    def spans(self) -> list[tuple[float, float, bool]]:
        """(first, last, whether they hold an ROI) of neighbouring slices, half a slice wider at each end, for the strip."""
        filled = [kinds > 1 for kinds in self._kinds]
        edges = [0, *(i for i in range(1, len(filled)) if filled[i] != filled[i - 1]), len(filled)]
        last = max(len(filled) - 1, 1)
        return [
            (max(0, first - 0.5), min(last, end - 0.5) if len(filled) > 1 else 1, filled[first])
            for first, end in pairwise(edges)
        ]

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


@dataclass(frozen=True, eq=False)
class LaterCase:
    """A scan that is read when somebody chooses it: of many scans only one lies in memory.

    Attributes:
        name: of the case.
        read: returns the scan.
    """

    name: str
    read: Callable[[], BrowserCase] = field(repr=False)


class SliceBrowser:
    """The widget. ``widget`` is what to show, ``html`` stands for it where widgets cannot be drawn.

    Attributes:
        image: the picture; another widget may show it, too.
        on_slice: called with (place of the scan, index of the slice) whenever the picture is drawn anew.
    """

    def __init__(self, cases: Sequence[BrowserCase | LaterCase], labels: LabelTable) -> None:
        """Args:
        cases: at least one.
        labels: names and colours of the ROIs.
        """
        self._cases, self._labels = list(cases), labels
        self._read: tuple[int, BrowserCase] | None = None
        self.on_slice: Callable[[int, int], None] | None = None
        self._quiet = False
        self.image = W.Image(format="jpeg", layout=W.Layout(max_width="100%", align_self="flex-start"))
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
        self._next = W.Button(description="Next flagged slice", icon="flag", layout=W.Layout(width="180px"))
        self._next.on_click(self._to_next_flag)
        height = None if len(labels) <= _MOST_TOGGLES else "330px"
        toggles = W.VBox(
            [self._toggle_row(i) for i in range(len(labels))],
            layout=W.Layout(max_height=height, overflow="auto" if height else None),
        )
        controls = W.VBox(
            [self._case, self._alpha, self._window, toggles, self._next],
            layout=W.Layout(min_width="300px", padding="0 0 0 16px"),
        )
        # The strip of ticks lies right below the slider, so that both mean the same slice.
        scroll = W.HBox([self._play, W.VBox([self._slice, self._strip])])
        left = W.VBox([self.image, scroll, self._caption])
        self.widget = W.HBox([left, controls], layout=W.Layout(flex_flow="row wrap"))
        self._case_changed()

    def _toggle_row(self, index: int) -> Any:
        dot = f'<div style="width:12px;height:12px;margin:8px 6px 0 0;border-radius:3px;background:{self._labels[index].color}"></div>'
        return W.HBox([W.HTML(dot), self._toggles[index]])

    @property
    def case(self) -> BrowserCase:
        """The scan shown now."""
        return self._at(self._case.value or 0)

    def _at(self, place: int) -> BrowserCase:
        case = self._cases[place]
        if isinstance(case, BrowserCase):
            return case
        if self._read is None or self._read[0] != place:
            self._read = None  # the one before makes room first
            self._read = place, case.read()
        return self._read[1]

    def show(self, place: int, index: int) -> None:
        """Shows a slice.

        Args:
            place: of the scan, in the order that the browser was given them.
            index: of the slice, from 0.
        """
        if self._case.value != place:
            self._case.value = place
        self._slice.value = index + 1

    @property
    def shown(self) -> tuple[int, int]:
        """(place of the scan, index of the slice) shown now."""
        return self._case.value or 0, self._slice.value - 1

    @property
    def visible(self) -> list[Label]:
        """ROIs that are switched on."""
        return [label for label, box in zip(self._labels, self._toggles, strict=True) if box.value]

    def _to_next_flag(self, _: Any) -> None:
        case = self._readable()
        flagged = sorted(case.flagged) if case is not None else []
        after = [index for index in flagged if index > self._slice.value - 1] or flagged
        if after:
            self._slice.value = after[0] + 1

    @property
    def html(self) -> Markup:
        """A picture of the first scan's fullest slice, for saved notebooks and front ends without widgets."""
        case = self._at(0)
        data = base64.b64encode(encode_jpg(case.draw(case.first_slice, self._labels))).decode("ascii")
        text = f"{case.name}, slice {case.first_slice + 1} of {case.volume.array.shape[0]}"
        return render("browser.html.j2", data=data, text=text, labels=self._labels)

    def _case_changed(self, change: Any = None) -> None:
        if self._quiet:
            return
        try:
            case = self.case
        except AutosegError as error:
            if change is None:
                raise
            self._go_back(change["old"], str(error))
            return
        self._quiet = True
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
        ticks = sorted(case.flagged.items())
        self._strip.value = str(render("browser_strip.html.j2", count=count, spans=case.spans, ticks=ticks))
        self._next.layout.display = "" if case.flagged else "none"
        self._quiet = False
        self._draw()

    def _go_back(self, place: int, said: str) -> None:
        """Goes back to the scan whose picture still stands there, and says why the other one is not shown."""
        # Quietly: where both scans are gone, each would send the browser back to the other without end.
        self._quiet = True
        self._case.value = place
        self._quiet = False
        if self._readable() is not None:
            self._caption.value = str(note_html("error", said))

    def _readable(self) -> BrowserCase | None:
        """Returns the chosen scan; None where it cannot be read any more, which is said below the picture."""
        try:
            return self.case
        except AutosegError as error:
            self._caption.value = str(note_html("error", str(error)))
            return None

    def _draw(self, change: Any = None) -> None:
        if self._quiet or (case := self._readable()) is None:
            return
        index = min(self._slice.value, case.volume.array.shape[0]) - 1
        hidden = [
            label.value for label, box in zip(self._labels, self._toggles, strict=True) if not box.value
        ]
        low, high = self._window.value
        limits = (low, high) if high > low else (low, low + 1)
        rgb = case.draw(index, self._labels, hidden=hidden, alpha=self._alpha.value / 100, limits=limits)
        self.image.value = encode_jpg(rgb, _QUALITY)
        name = case.slice_names[index] if index < len(case.slice_names) else ""
        self._caption.value = str(
            render(
                "browser_caption.html.j2",
                number=index + 1,
                count=case.volume.array.shape[0],
                name=name,
                flagged=len(case.flagged),
                reason=case.flagged.get(index, ""),
                compared=case.truth is not None,
            )
        )
        if self.on_slice is not None:
            self.on_slice(self._case.value or 0, index)
