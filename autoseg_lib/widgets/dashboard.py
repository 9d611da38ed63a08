"""The live view of a training: time left, curves, Dice per ROI, the worst slice, and the button that stops and keeps."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

import psutil
from markupsafe import Markup

from autoseg_lib.events import (
    EpochDone,
    Event,
    Message,
    Progress,
    StepDone,
    StopFlag,
    TrainingStarted,
    TrainingStopped,
    ValidationCase,
)
from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.figures import curves
from autoseg_lib.viz.html import note_html, render, table_html
from autoseg_lib.widgets.display import Spot, has_widgets
from autoseg_lib.widgets.pictures import beside, encode_jpg
from autoseg_lib.widgets.progress import bar_html, time_text

# The curves are redrawn at most once a second, and drawing may take at most a tenth of the time.
_CURVES_SECONDS = 1.0
_CURVES_SHARE = 0.1

_ENDINGS = {
    "finished": "Training is finished",
    "time limit": "The time limit is reached: saved and ended",
    "stopped": "Stopped and kept: run this cell again to go on",
}


class TrainingDashboard:
    """A View of a training. ``lines`` holds the text lines, to be copied."""

    def __init__(self, labels: LabelTable | None = None) -> None:
        self.lines: list[str] = []
        self._spot = Spot()
        self._live = has_widgets()
        self._labels = labels or LabelTable([])
        self._history: list[dict[str, Any]] = []
        self._epoch, self._epochs, self._first = 0, 0, 0
        self._step, self._steps = 0, 0
        self._seconds_left: float | None = None
        self._left_at = self._started = time.monotonic()
        self._stage = "Getting ready ..."
        self._share = 0.0
        self._ending, self._reason = False, ""
        self._curves_png, self._worst_jpg, self._worst_text = b"", b"", ""
        self._curves_due, self._curves_changed = 0.0, False
        self._widgets: dict[str, Any] = {}

    # --- View ---------------------------------------------------------------------------------------------------------

    def begin(self, stop: StopFlag) -> None:
        """Shows the dashboard."""
        if not self._live:
            return
        import ipywidgets as W

        def clicked(_: Any) -> None:
            stop.set()
            self.stopping()

        button = W.Button(
            description="Stop and keep", icon="stop", tooltip="saves what has been learned so far and ends"
        )
        button.on_click(clicked)
        picture = {
            "format": "png",
            "layout": W.Layout(max_width="100%", display="none", align_self="flex-start"),
        }
        parts = {
            "bar": W.HTML(layout=W.Layout(width="560px", max_width="100%")),
            "stop": button,
            "curves": W.Image(**picture),
            "table": W.HTML(),
            "worst": W.Image(**{**picture, "format": "jpeg"}),
            "worst_text": W.HTML(),
            "memory": W.HTML(),
            "log": W.HTML(),
        }
        self._widgets = parts
        top = W.HBox([parts["bar"], button], layout=W.Layout(flex_flow="row wrap", align_items="center"))
        hardest = W.VBox([parts["worst_text"], parts["worst"]], layout=W.Layout(margin="0 0 0 16px"))
        middle = W.HBox([parts["table"], hardest], layout=W.Layout(flex_flow="row wrap"))
        below = W.VBox([parts["memory"], parts["log"]])
        self._spot.show_widget(
            W.VBox([top, parts["curves"], middle, below]), html=note_html("info", self._stage)
        )
        self.refresh()

    def show(self, event: Event) -> None:
        """Takes in one event."""
        if isinstance(event, Progress):
            self._stage = f"{event.stage}: {event.done} of {event.total}"
            self._share = event.done / event.total if event.total else 0.0
        elif isinstance(event, TrainingStarted):
            self._labels = LabelTable(event.roi_names)
            self._epochs, self._epoch, self._first = event.epochs, event.first_epoch, event.first_epoch
            self._steps, self._history = event.steps_per_epoch, [dict(row) for row in event.history]
            self._started, self._curves_changed = time.monotonic(), bool(self._history)
        elif isinstance(event, StepDone):
            self._step = event.step
        elif isinstance(event, EpochDone):
            self._epoch, self._epochs, self._step = event.epoch, event.epochs, 0
            self._history.append(dict(event.row))
            self._seconds_left, self._left_at, self._curves_changed = (
                event.seconds_left,
                time.monotonic(),
                True,
            )
        elif isinstance(event, ValidationCase):
            self._take_worst(event)
        elif isinstance(event, Message):
            self._say(event.text)
        elif isinstance(event, TrainingStopped):
            self._reason = event.reason

    def refresh(self) -> None:
        """Redraws what has changed; the curves at most once a second."""
        if not self._widgets:
            return
        self._set("bar", str(bar_html(self._done_share(), self._bar_text())))
        self._set("memory", self._memory_text())
        self._set(
            "log", str(render("log.html.j2", lines=list(reversed(self.lines[-200:])))) if self.lines else ""
        )
        now = time.monotonic()
        if self._curves_changed and now >= self._curves_due:
            self._draw_curves()
            self._curves_due = time.monotonic() + max(
                _CURVES_SECONDS, (time.monotonic() - now) / _CURVES_SHARE
            )
        if self._worst_jpg:
            self._set("worst", self._worst_jpg)
            self._set("worst_text", self._worst_text)

    def stopping(self) -> None:
        """Says that the run is being saved."""
        self._ending = True
        if self._widgets:
            self._widgets["stop"].disabled = True
            self._widgets["stop"].description = "Stopping ..."
        self.refresh()

    def end(self, error: BaseException | None) -> None:
        """Replaces the live view by a still one, which stays in the saved notebook."""
        if self._widgets:
            if self._curves_changed:
                self._draw_curves()
            for widget in self._widgets.values():
                widget.close()
            self._widgets = {}
        parts = []
        if error is None and self._epochs:
            parts.append(note_html("good" if self._epoch else "info", self._end_text()))
        if self._curves_png:
            data = base64.b64encode(self._curves_png).decode("ascii")
            parts.append(render("picture.html.j2", data=data, alt="curves of the training", width_px=None))
        if self.lines:
            parts.append(render("log.html.j2", lines=self.lines))
        if self._live:
            self._spot.show_html(Markup("").join(parts), plain="\n".join(self.lines))

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        self.lines.append(line)
        if not self._live:
            from IPython.display import display

            display({"text/plain": line}, raw=True)

    def _set(self, name: str, value: Any) -> None:
        widget = self._widgets[name]
        if widget.value != value:
            widget.value = value
            if widget.layout.display == "none":
                widget.layout.display = ""

    def _done_share(self) -> float:
        if not self._epochs:
            return self._share
        return (self._epoch + (self._step / self._steps if self._steps else 0.0)) / self._epochs

    def _bar_text(self) -> str:
        if self._ending and not self._reason:
            return "Stopping: finishing this step and saving ..."
        if self._reason:
            return "Looking at the validation scans with the best model ..."
        if not self._epochs:
            return self._stage
        text = f"Epoch (one pass over your data) {min(self._epoch + 1, self._epochs)} of {self._epochs}"
        left = self._time_left()
        return text + (f" · about {time_text(left)} left" if left is not None else "")

    def _time_left(self) -> float | None:
        since = time.monotonic() - self._left_at
        if self._seconds_left is not None:
            return max(1.0, self._seconds_left - since)
        done = self._done_share() - self._first / max(1, self._epochs)
        if self._step < 3 or done <= 0:
            return None
        return (time.monotonic() - self._started) / done * (1 - self._done_share())

    def _memory_text(self) -> str:
        used = psutil.Process().memory_info().rss / 1e9
        free = psutil.virtual_memory().available / 1e9
        return (
            '<span style="color:var(--jp-ui-font-color2,#777);font-size:12px">'
            f"Memory: {used:.1f} GB used by this notebook, {free:.1f} GB free on this computer</span>"
        )

    def _draw_curves(self) -> None:
        self._curves_changed = False
        if not self._history:
            return
        self._curves_png = curves(self._history, self._labels)
        if self._widgets:
            self._set("curves", self._curves_png)
            self._set("table", str(self._table()))

    def _table(self) -> Markup | str:
        rows = [row for row in self._history if row.get("val_dice") is not None]
        if not rows:
            return ""
        last = rows[-1]
        best = {name: max(_numbers(rows, f"val_dice_{name}"), default=None) for name in self._labels.names}
        cells = [
            (name, _three(last.get(f"val_dice_{name}")), _three(best[name])) for name in self._labels.names
        ]
        cells.append(
            ("mean", _three(last["val_dice"]), _three(max(_numbers(rows, "val_dice"), default=None)))
        )
        return table_html(
            cells,
            ("ROI", "Dice", "best"),
            colors=[*(label.color for label in self._labels), None],
            strong_last=1,
        )

    def _take_worst(self, event: ValidationCase) -> None:
        if not self._live:
            return
        self._worst_jpg = encode_jpg(
            beside(event.image, [event.truth, event.prediction], self._labels, longest=220)
        )
        self._worst_text = str(
            render(
                "caption.html.j2",
                text=f"Hardest validation scan: {event.case}, slice {event.slice_number}, Dice {event.dice:.3f} "
                "(left: your label, right: the model)",
            )
        )

    def _end_text(self) -> str:
        done = _ENDINGS.get(self._reason, "Ended")
        spent = time_text(sum(row.get("seconds") or 0.0 for row in self._history))
        return f"{done} · {self._epoch} of {self._epochs} epochs (passes over your data) in {spent}."


def _numbers(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
