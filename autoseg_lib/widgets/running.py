"""Runs long work in a thread while its notebook cell waits, so that buttons work and the next cell holds back.

A cell that awaits lets clicks through on ipykernel 7 and still keeps "Run All" from going on. Where a front end holds
clicks back (ipykernel 6, Colab), the Interrupt button means the same as the stop button: save, end, keep the result.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Protocol, TypeVar

from autoseg_lib.events import Event, Listener, StopFlag

T = TypeVar("T")

# How often events are handed to the view. Four times a second looks live and costs next to nothing.
_POLL_SECONDS = 0.25


class View(Protocol):
    """Whatever shows how the work goes on. All its methods are called in the notebook's own thread."""

    def begin(self, stop: StopFlag) -> None:
        """The work begins; a stop button sets ``stop``."""

    def show(self, event: Event) -> None:
        """The work reported something."""

    def refresh(self) -> None:
        """A round of events is through: time to redraw, if something changed."""

    def stopping(self) -> None:
        """The user asked to stop; the work is saving."""

    def end(self, error: BaseException | None) -> None:
        """The work has ended, with ``error`` where it failed."""


async def run_in_thread(work: Callable[[Listener, StopFlag], T], view: View) -> T:
    """Runs ``work(on_event, stop)`` in a thread and shows its events in ``view`` until it ends.

    Interrupting the cell sets the stop flag and goes on waiting: the work saves, ends and its result is returned.

    Args:
        work: long work that reports events and asks ``stop`` between steps. It must not touch widgets.
        view: shows the events.

    Returns:
        What ``work`` returns.

    Raises:
        Whatever ``work`` raises.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    stop = StopFlag()
    view.begin(stop)
    task = asyncio.ensure_future(asyncio.to_thread(work, events.put, stop))
    while not task.done():
        try:
            await asyncio.wait({task}, timeout=_POLL_SECONDS)
            _hand_over(events, view)
        except (asyncio.CancelledError, KeyboardInterrupt):
            # The notebook's Interrupt. The thread cannot be broken off, and must not be: it still has to save.
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            stop.set()
            view.stopping()
    _hand_over(events, view)
    error = task.exception()
    view.end(error)
    if error is not None:
        raise error
    return task.result()


def _hand_over(events: queue.SimpleQueue[Event], view: View) -> None:
    while True:
        try:
            view.show(events.get_nowait())
        except queue.Empty:
            break
    view.refresh()
