"""The live view of a training: time left, curves, Dice per ROI, the worst slice, speed and memory, and two buttons."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from autoseg_lib.events import (
    EpochDone,
    Event,
    Message,
    PlanChanged,
    StepDone,
    StopFlag,
    TrainingStarted,
    ValidationCase,
)
from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.figures import curves
from autoseg_lib.viz.html import note_html, render, table_html
from autoseg_lib.widgets.display import Spot, has_widgets
from autoseg_lib.widgets.pictures import beside, encode_jpg
from autoseg_lib.widgets.progress import bar_html
from autoseg_lib.widgets.training_status import TrainingStatus, memory_sentence

# The curves are redrawn at most once a second, and drawing may take at most a twentieth of the time.
_CURVES_SECONDS = 1.0
_CURVES_SHARE = 0.05
# Numbers below the curves change at most so often; faster ones cannot be read.
_NUMBERS_SECONDS = 1.0
# Without widgets a line of numbers comes at most so often.
_LINE_SECONDS = 60.0
# Width of each of the two pictures of the worst slice: beside the table they fit a 13-inch screen.
_WORST_PX = 200
# What the button adds.
MORE_EPOCHS = 10

# Called with the number of epochs to add to a run that has ended (0: only go on).
GoOn = Callable[[int], None]


class TrainingDashboard:
    """A View of a training. ``lines`` holds the text lines, to be copied; ``buttons`` those that are shown."""

    def __init__(
        self, labels: LabelTable | None = None, go_on: GoOn | None = None, *, can_extend: bool = True
    ) -> None:
        """Args:
        labels: the ROIs, where they are known before the training starts.
        go_on: trains on after the end; None: no button for it.
        can_extend: whether more epochs may be asked for; folds must all be trained alike.
        """
        self.lines: list[str] = []
        self.status = TrainingStatus(labels or LabelTable([]))
        self._spot, self._button_spot, self._plan_spot = Spot(), Spot(), Spot()
        self._plan_text, self._added = "", 0
        self._live, self._go_on = has_widgets(), go_on
        self._ending, self._can_extend = False, can_extend
        self._curves_png, self._worst_jpg, self._worst_text = b"", b"", ""
        self._curves_due, self._curves_changed = 0.0, False
        self._numbers_due, self._line_due = 0.0, 0.0
        self._widgets: dict[str, Any] = {}
        self.buttons: tuple[Any, ...] = ()

    # --- View ---------------------------------------------------------------------------------------------------------

    def show_plan(self, text: str) -> None:
        """Shows what is planned, above the dashboard."""
        self._plan_text, self._added = text, 0
        self._plan_spot.show_html(note_html("info", text), plain=text)

    def begin(self, stop: StopFlag) -> None:
        """Shows the dashboard."""
        self._ending = False
        self.status.begin()
        # What an earlier sitting has learned is drawn at once.
        self._curves_changed, self._curves_due = bool(self.status.history), 0.0
        if not self._live:
            return
        import ipywidgets as W

        def picture(kind: str) -> Any:
            # Each with a layout of its own: one that is shared would show an empty picture with the first one that is there.
            layout = W.Layout(max_width="100%", display="none", align_self="flex-start")
            return W.Image(format=kind, layout=layout)

        parts = {
            "bar": W.HTML(layout=W.Layout(width="560px", max_width="100%")),
            "stop": W.Button(
                description="Stop and keep",
                icon="stop",
                tooltip="saves what has been learned so far and ends",
                layout=W.Layout(width="auto"),
            ),
            "more": W.Button(
                description="Ten more epochs",
                icon="plus",
                tooltip="trains ten more epochs (passes over your data) than planned",
                layout=W.Layout(width="auto"),
            ),
            "curves": picture("png"),
            "table": W.HTML(),
            "worst": picture("jpeg"),
            "worst_text": W.HTML(layout=W.Layout(max_width=f"{2 * _WORST_PX}px")),
            "numbers": W.HTML(),
            "log": W.HTML(),
        }
        self._widgets = parts
        parts["stop"].on_click(lambda _: self._ask_stop(stop))
        parts["more"].on_click(lambda _: self._ask_more(stop))
        self.buttons = (parts["stop"], parts["more"]) if self._can_extend else (parts["stop"],)
        top = W.HBox(
            [parts["bar"], *self.buttons],
            layout=W.Layout(flex_flow="row wrap", align_items="center"),
        )
        hardest = W.VBox([parts["worst_text"], parts["worst"]], layout=W.Layout(margin="0 0 0 16px"))
        middle = W.HBox([parts["table"], hardest], layout=W.Layout(flex_flow="row wrap"))
        self._button_spot.show_html("")
        self._spot.show_widget(
            W.VBox([top, parts["numbers"], parts["curves"], middle, parts["log"]]),
            html=note_html("info", self.status.sentence()),
        )
        self.refresh()

    def show(self, event: Event) -> None:
        """Takes in one event."""
        self.status.take(event)
        if isinstance(event, TrainingStarted):
            self._curves_changed = bool(event.history)
        elif isinstance(event, EpochDone):
            self._curves_changed = True
        elif isinstance(event, ValidationCase):
            self._take_worst(event)
        elif isinstance(event, PlanChanged):
            self.show_plan(event.text)
        elif isinstance(event, Message):
            self._say(event.text)
        if isinstance(event, StepDone) and not self._live:
            self._say_numbers()

    def refresh(self) -> None:
        """Redraws what has changed; the curves at most once a second."""
        if not self._widgets:
            return
        now = time.monotonic()
        text = self.status.sentence()
        if self._ending and not self.status.reason:
            text = "Stopping: finishing this step and saving ..."
        self._set("bar", str(bar_html(self.status.share, text)))
        if now >= self._numbers_due:
            self._numbers_due = now + _NUMBERS_SECONDS
            self._set("numbers", str(render("caption.html.j2", text=self._numbers())))
        self._set(
            "log", str(render("log.html.j2", lines=list(reversed(self.lines[-200:])))) if self.lines else ""
        )
        if self._curves_changed and now >= self._curves_due:
            self._draw_curves()
            spent = time.monotonic() - now
            self._curves_due = time.monotonic() + max(_CURVES_SECONDS, spent / _CURVES_SHARE)
        if self._worst_jpg:
            self._set("worst", self._worst_jpg)
            self._set("worst_text", self._worst_text)

    def stopping(self) -> None:
        """Says that the run is being saved."""
        self._ending = True
        if self._widgets:
            self._widgets["stop"].disabled = self._widgets["more"].disabled = True
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
        if error is None and self.status.epochs:
            parts.append(note_html("good" if self.status.epoch else "info", self.status.ending()))
        if self._curves_png:
            data = base64.b64encode(self._curves_png).decode("ascii")
            parts.append(render("picture.html.j2", data=data, alt="curves of the training", width_px=None))
        if self.lines:
            parts.append(render("log.html.j2", lines=self.lines))
        if self._live:
            self._spot.show_html(Markup("").join(parts), plain="\n".join(self.lines))

    def show_still(self, history: Sequence[Mapping[str, Any]], worst_loss: float) -> None:
        """Shows the curves of a run that was found finished, and is not trained now."""
        self.status.history, self.status.worst_loss = [dict(row) for row in history], worst_loss
        self._draw_curves()
        self.end(None)

    def offer_more(self, reason: str) -> None:
        """Shows a button that trains on, below a run that has ended."""
        stopped, go_on = reason == "stopped", self._go_on
        if not self._live or go_on is None or not (stopped or self._can_extend):
            return
        import ipywidgets as W

        button = W.Button(
            description="Go on training" if stopped else "Ten more epochs",
            icon="play" if stopped else "plus",
            tooltip="goes on from here; the cells below are filled again",
            layout=W.Layout(width="auto"),
        )

        def clicked(_: Any) -> None:
            button.disabled = True
            go_on(0 if stopped else MORE_EPOCHS)

        button.on_click(clicked)
        self._button_spot.show_widget(button)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _ask_stop(self, stop: StopFlag) -> None:
        stop.set()
        self.stopping()

    def _ask_more(self, stop: StopFlag) -> None:
        stop.ask_more_epochs(MORE_EPOCHS)
        self.status.add_epochs(MORE_EPOCHS)
        self._added += MORE_EPOCHS
        if self._plan_text:
            text = f"{self._plan_text}\nAsked for since: {self._added} more epochs."
            self._plan_spot.show_html(note_html("info", text), plain=text)
        self.refresh()

    def _say(self, line: str) -> None:
        self.lines.append(line)
        if not self._live:
            from IPython.display import display

            display({"text/plain": line}, raw=True)

    def _numbers(self) -> str:
        return " · ".join(text for text in (self.status.speed(), memory_sentence()) if text)

    def _say_numbers(self) -> None:
        now = time.monotonic()
        if self._line_due == 0.0:
            self._line_due = now + _LINE_SECONDS
        elif now >= self._line_due:
            self._line_due = now + _LINE_SECONDS
            self._say(f"{self.status.sentence()} · {self._numbers()}")

    def _set(self, name: str, value: Any) -> None:
        widget = self._widgets[name]
        if widget.value != value:
            widget.value = value
            if widget.layout.display == "none":
                widget.layout.display = ""

    def _draw_curves(self) -> None:
        self._curves_changed = False
        status = self.status
        if not status.history:
            return
        self._curves_png = curves(status.history, status.labels, status.worst_loss)
        if self._widgets:
            self._set("curves", self._curves_png)
            self._set("table", str(dice_table(status.history, status.labels)))

    def _take_worst(self, event: ValidationCase) -> None:
        if not self._live:
            return
        self._worst_jpg = encode_jpg(
            beside(event.image, [event.truth, event.prediction], self.status.labels, longest=_WORST_PX)
        )
        self._worst_text = str(
            render(
                "caption.html.j2",
                text=f"Hardest validation scan: {event.case}, slice {event.slice_number}, Dice {event.dice:.3f} "
                "(left: your label, right: the model)",
            )
        )


def dice_table(history: Sequence[Mapping[str, Any]], labels: LabelTable) -> Markup:
    """Returns the latest and the best Dice of each ROI on the validation scans; "" before the first look at them."""
    rows = [row for row in history if row.get("val_dice") is not None]
    if not rows:
        return Markup("")
    last = rows[-1]
    cells = [
        (name, _three(last.get(f"val_dice_{name}")), _three(_best(rows, f"val_dice_{name}")))
        for name in labels.names
    ]
    cells.append(("mean", _three(last["val_dice"]), _three(_best(rows, "val_dice"))))
    return table_html(
        cells, ("ROI", "Dice", "best"), colors=[*(label.color for label in labels), None], strong_last=1
    )


def _best(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return max((row[key] for row in rows if row.get(key) is not None), default=None)


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
