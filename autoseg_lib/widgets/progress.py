"""A bar with a sentence below it: how far the work is and how long it will take."""

from __future__ import annotations

import time
from typing import Any

from markupsafe import Markup

from autoseg_lib.events import Event, Message, Progress, StopFlag
from autoseg_lib.viz.html import css, note_html, render
from autoseg_lib.widgets.display import Spot, has_widgets

# Redrawing more often than this makes front ends flicker.
_REDRAW_SECONDS = 0.4
# Below this share done, the time left is a guess too wild to show.
_LEAST_SHARE = 0.05


def bar_html(share: float, text: str) -> Markup:
    """Returns a progress bar.

    Args:
        share: done, 0 to 1.
        text: the sentence below it.
    """
    return render("bar.html.j2", css=css(), percent=round(100 * min(1.0, max(0.0, share))), text=text)


def time_text(seconds: float) -> str:
    """Returns a duration as one says it: "40 s", "12 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class ProgressBar:
    """Shows Progress and Message events of work that has no dashboard of its own; usable as a listener and as a View.

    Args:
        stop_text: writing on a stop button; "" for none. The button needs a cell that awaits.
        keep_notes: whether messages stay when the work has ended.
    """

    def __init__(self, stop_text: str = "", keep_notes: bool = True) -> None:
        self._keep_notes = keep_notes
        self._bar, self._button_spot, self._stop_text = Spot(), Spot(), stop_text
        self._button: Any = None
        self._last: Progress | None = None
        self._drawn, self._changed = 0.0, False
        self._started, self._stage = time.monotonic(), ""
        self._notes: list[tuple[str, str]] = []
        self._ending = False

    def __call__(self, event: Event) -> None:
        """Shows an event at once, for work in the notebook's own thread."""
        self.show(event)
        self.refresh()

    def begin(self, stop: StopFlag) -> None:
        """Shows the stop button, where there is one."""
        self._notes, self._ending, self._last, self._stage = [], False, None, ""
        if not self._stop_text or not has_widgets():
            return
        import ipywidgets

        self._button = ipywidgets.Button(description=self._stop_text, icon="stop")

        def clicked(_: Any) -> None:
            stop.set()
            self.stopping()

        self._button.on_click(clicked)
        self._button_spot.show_widget(self._button)

    def show(self, event: Event) -> None:
        """Takes in one event."""
        if isinstance(event, Progress):
            if event.stage != self._stage:
                self._stage, self._started = event.stage, time.monotonic()
            self._last, self._changed = event, True
        elif isinstance(event, Message):
            self._notes.append((event.level, event.text))
            self._changed = True

    def refresh(self) -> None:
        """Redraws, at most a few times a second."""
        now = time.monotonic()
        if self._changed and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn, self._changed = now, False
            self._bar.show_html(self._html())

    def stopping(self) -> None:
        """Says that the work is about to end."""
        self._ending, self._changed, self._drawn = True, True, 0.0
        if self._button is not None:
            self._button.disabled = True
        self.refresh()

    def end(self, error: BaseException | None = None) -> None:
        """Takes the bar away; notes stay."""
        if self._button is not None:
            self._button.close()
            self._button_spot.show_html("")
        self._bar.show_html(self._notes_html() if self._keep_notes else "")

    def _notes_html(self) -> Markup:
        kinds = {"warning": "warning", "error": "error"}
        return Markup("").join(note_html(kinds.get(level, "info"), text) for level, text in self._notes[-20:])

    def _html(self) -> Markup:
        if self._last is None:
            return self._notes_html()
        event = self._last
        share = event.done / event.total if event.total else 0.0
        text = f"{event.stage}: {event.done} of {event.total}"
        if event.detail:
            text += f" · {event.detail}"
        if self._ending:
            text += " · stopping ..."
        elif event.seconds_left is not None and share < 1:
            text += f" · about {time_text(event.seconds_left)} left"
        elif _LEAST_SHARE <= share < 1:
            left = (time.monotonic() - self._started) / share * (1 - share)
            text += f" · about {time_text(left)} left"
        return bar_html(share, text) + self._notes_html()
