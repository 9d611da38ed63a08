"""The area of each ROI along the scan; a click in it shows that slice in the slice browser, and beside the plot.

The click needs no script of our own: a slider as large as the axes lies over the picture, its handle is the cursor. So it works
wherever ipywidgets do, by mouse, finger and arrow keys, and stays in step with the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as W
from markupsafe import Markup

from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.viz.figures import AXES_PX, PLOT_PX, area_plot_by_slice
from autoseg_lib.viz.html import legend_html, render
from autoseg_lib.widgets.slice_browser import SliceBrowser

# Of the slice beside the plot: both fit a 13-inch screen.
_BESIDE_PX = 232


class AreaPlot:
    """The widget. It follows the slice browser, and the browser follows it."""

    def __init__(
        self,
        cases: Sequence[tuple[str, Sequence[SliceMeasurement]]],
        labels: LabelTable,
        browser: SliceBrowser,
    ) -> None:
        """Args:
        cases: (name, rows of measurements.csv) of the browser's scans, in its order.
        labels: the ROIs.
        browser: shows the slices.
        """
        self._cases, self._labels, self._browser = list(cases), labels, browser
        self._place, self._quiet = -1, False
        self._drawn: tuple[int, list[int]] | None = None
        width, height = PLOT_PX
        left, top, across, down = AXES_PX
        self._head, self._said = W.HTML(), W.HTML()
        self._plot = W.Image(
            format="png", layout=W.Layout(width=f"{width}px", height=f"{height}px", margin="0")
        )
        self._cursor = W.IntSlider(
            min=1,
            max=2,
            readout=False,
            layout=W.Layout(
                width=f"{across}px",
                height=f"{down}px",
                margin=f"-{height - top}px 0 {height - top - down}px {left}px",
            ),
        )
        self._cursor.add_class("as-over")
        self._cursor.observe(self._moved, "value")
        style = W.HTML(
            str(render("area_plot.html.j2", width=across, height=down)), layout=W.Layout(display="none")
        )
        over = W.VBox(
            [self._plot, self._cursor],
            layout=W.Layout(width=f"{width}px", overflow="hidden", flex="0 0 auto"),
        )
        over.add_class("as-plot")
        # The browser's own picture, shown a second time: it may have been scrolled out of sight.
        beside = W.VBox(
            [browser.image, self._said],
            # Margins of the widgets stand out by a few pixels; boxes would show a bar to scroll by them.
            layout=W.Layout(width=f"{_BESIDE_PX}px", padding="0 0 0 12px", overflow="visible"),
        )
        row = W.HBox([over, beside], layout=W.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.widget = W.VBox([style, self._head, row])
        browser.on_slice = self._follow
        self._follow(*browser.shown)

    def _moved(self, _: Any) -> None:
        if not self._quiet:
            self._browser.show(self._place, self._cursor.value - 1)

    def _follow(self, place: int, index: int) -> None:
        name, rows = self._cases[place]
        # What is set here must not be taken for a click.
        self._quiet = True
        if place != self._place:
            self._place = place
            count = max((row.slice_number for row in rows), default=1)
            self._cursor.max = max(count, 2)
            self._cursor.layout.visibility = "visible" if count > 1 else "hidden"
            hint = "click in the plot to see that slice; ROIs switched off above are left out"
            bands = "; bands: 90 % intervals" if any(row.area_mm2_low is not None for row in rows) else ""
            ticks = "; ▲ flagged slices" if any(row.flag for row in rows) else ""
            text = f"Areas along {name} ({hint}{bands}{ticks})"
            self._head.value = str(
                render("caption.html.j2", text=text) + Markup("<br>") + legend_html(self._labels)
            )
        visible = self._browser.visible
        if self._drawn != (place, [label.value for label in visible]):
            # A large ROI presses the others flat: switched off in the browser, it leaves the plot, too.
            self._drawn = place, [label.value for label in visible]
            self._plot.value = area_plot_by_slice(rows, visible)
        self._cursor.value = index + 1
        self._quiet = False
        found = [row for row in rows if row.slice_number == index + 1 and row.pixels]
        areas = [
            (row.roi, f"{row.pixels} pixels" if row.area_mm2 is None else f"{row.area_mm2:.1f} mm²")
            for row in found
        ]
        self._said.value = str(render("area_plot_slice.html.j2", number=index + 1, areas=areas))
