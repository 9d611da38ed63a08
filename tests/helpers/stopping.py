"""A listener that keeps what it hears and presses Stop after some steps."""

from __future__ import annotations

from autoseg_lib.events import Event, StepDone, StopFlag


class StopAfter:
    """Listens to a training.

    Attributes:
        events: what was heard.
        stop: is set after ``steps`` steps; never where that is None.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps
        self.events: list[Event] = []
        self.stop = StopFlag()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.steps and sum(isinstance(e, StepDone) for e in self.events) >= self.steps:
            self.stop.set()
