"""Training in the notebook: the live view, and going on after the cell has ended, into the same outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from autoseg_lib.events import Listener, StopFlag
from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.html import note_html
from autoseg_lib.widgets.dashboard import TrainingDashboard
from autoseg_lib.widgets.display import Spot
from autoseg_lib.widgets.running import run_in_thread
from autoseg_lib.widgets.trouble import trouble_html
from autoseg_lib.workflow.training_result import TrainingResult

# Trains: (on_event, stop) -> result.
Work = Callable[[Listener, StopFlag], TrainingResult]
# Makes the work that trains so many epochs longer than the result: (result, epochs) -> work.
Longer = Callable[[TrainingResult, int], Work]


class LiveTraining:
    """A training whose outputs can be filled again when it goes on.

    Attributes:
        result: of the last training; None before its end.
    """

    def __init__(self, labels: LabelTable, longer: Longer | None = None, *, can_extend: bool = True) -> None:
        """Args:
        labels: the ROIs.
        longer: how to train on after the end; None: that is not offered.
        can_extend: whether more epochs than planned may be asked for.
        """
        self._trouble = Spot()
        self._longer = longer
        self._view = TrainingDashboard(labels, self.go_on if longer else None, can_extend=can_extend)
        self._followers: dict[str, Callable[[TrainingResult], None]] = {}
        self._busy = False
        self._task: Any = None
        self.result: TrainingResult | None = None

    async def run(self, work: Work) -> TrainingResult:
        """Trains, shows how it goes on, and offers to go on at the end.

        Raises:
            AutosegError: it could not be done.
        """
        self._busy = True
        try:
            result = await run_in_thread(work, self._view)
        finally:
            self._busy = False
        self.result = result
        if result.already_finished and result.history:
            self._view.show_still(result.history, result.worst_loss)
        self._view.offer_more(result.reason)
        for follow in self._followers.values():
            follow(result)
        return result

    def go_on(self, epochs: int) -> None:
        """Trains on for so many epochs, outside of any cell; what goes wrong is shown where the training is."""
        if self._busy or self.result is None or self._longer is None:
            return
        self._busy = True
        self._task = asyncio.get_running_loop().create_task(self._go_on(self._longer(self.result, epochs)))

    async def _go_on(self, work: Work) -> None:
        self._trouble.show_html("")
        try:
            await self.run(work)
        except Exception as error:  # noqa: BLE001 - no cell is there that could fail; it is shown instead
            self._trouble.show_html(trouble_html(error))

    def show_plan(self, text: str) -> None:
        """Shows what is planned, above the training; it is renewed when more is asked for."""
        self._view.show_plan(text)

    def say(self, text: str) -> None:
        """Shows a note above the training."""
        self._trouble.show_html(note_html("info", text), plain=text)

    def follow(self, name: str, show: Callable[[TrainingResult], None]) -> None:
        """Calls ``show`` with each further result; one follower for each name."""
        self._followers[name] = show
