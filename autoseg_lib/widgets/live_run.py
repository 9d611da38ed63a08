"""Segmenting in the notebook: progress, slice browser, and doing it again for a folder that is selected later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from autoseg_lib.errors import AutosegError, counted
from autoseg_lib.events import Event, Listener, StopFlag
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.viz.html import note_html
from autoseg_lib.widgets.display import Spot, has_widgets
from autoseg_lib.widgets.progress import ProgressBar
from autoseg_lib.widgets.running import run_in_thread
from autoseg_lib.widgets.trouble import trouble_html
from autoseg_lib.widgets.views import failures_html
from autoseg_lib.workflow.segment_case import CaseResult
from autoseg_lib.workflow.segmenting import SegmentResult

# Segments the folder: (folder, on_event, stop) -> result.
Work = Callable[[Path, Listener, StopFlag], SegmentResult]


class LiveRun:
    """A segmentation whose outputs can be filled again.

    Attributes:
        result: of the last run; None before and after a failure.
        browser: the slice browser that shows it; None where there are no widgets or no scans.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._bar = ProgressBar("Stop", keep_notes=False)
        self._head, self._browser = Spot(), Spot()
        self._followers: dict[str, Callable[[SegmentResult], None]] = {}
        self._stop: StopFlag | None = None
        self._next: Path | None = None
        self._busy = False
        self._task: Any = None
        self.result: SegmentResult | None = None
        self.browser: Any = None
        for spot in (self._head, self._browser):
            spot.show_html("")

    async def run(self, folder: Path) -> SegmentResult:
        """Segments a folder and shows it.

        Raises:
            AutosegError: it could not be done at all.
        """
        self._busy, self.result, self.browser = True, None, None
        self._browser.show_html("")
        self._head.show_html(note_html("info", f"Segmenting {folder}"))
        try:
            result = await run_in_thread(
                lambda on_event, stop: self._work(folder, on_event, stop), _Watcher(self, self._bar)
            )
        except Exception:
            self._head.show_html("")
            raise
        finally:
            self._busy = False
        self.result = result
        self._show(result, folder)
        for follow in self._followers.values():
            follow(result)
        return result

    def select(self, folder: Path) -> None:
        """Segments another folder into the same outputs; a run that is still going on is stopped first."""
        self._next = folder
        if self._busy:
            if self._stop is not None:
                self._stop.set()
            return
        self._task = asyncio.get_running_loop().create_task(self.run_selected())

    async def run_selected(self) -> None:
        """Works through what was selected; errors are shown where the result would be."""
        while self._next is not None:
            folder, self._next = self._next, None
            try:
                await self.run(folder)
            except Exception as error:  # noqa: BLE001 - no cell is there that could fail; it is shown instead
                self._head.show_html(trouble_html(error))

    def follow(self, name: str, show: Callable[[SegmentResult], None]) -> None:
        """Calls ``show`` with each new result, and with the one there is; one follower for each name."""
        self._followers[name] = show
        if self.result is not None:
            show(self.result)

    def _show(self, result: SegmentResult, folder: Path) -> None:
        done = [case for case in result.cases if case.already_done]
        text = f"{counted(len(result.cases), 'scan')} segmented from {folder}"
        if done and len(done) == len(result.cases):
            text = f"{counted(len(done), 'scan')} from {folder}: done before with this model, so shown and not done again"
        head = note_html("good" if result.cases else "warning", text) + failures_html(result)
        self._head.show_html(head)
        if not result.cases or not has_widgets():
            return
        from autoseg_lib.widgets.slice_browser import LaterCase, SliceBrowser  # needs ipywidgets

        cases = [LaterCase(case.name, partial(_browser_case, case)) for case in result.cases]
        try:
            self.browser = SliceBrowser(cases, result.labels)
        except AutosegError as error:
            self._head.show_html(head + trouble_html(error))
            return
        self._browser.show_widget(self.browser.widget, self.browser.html)


class _Watcher:
    """Hands the work's events to the bar and keeps its stop flag."""

    def __init__(self, run: LiveRun, bar: ProgressBar) -> None:
        self._run, self._bar = run, bar

    def begin(self, stop: StopFlag) -> None:
        self._run._stop = stop
        self._bar.begin(stop)

    def show(self, event: Event) -> None:
        self._bar.show(event)

    def refresh(self) -> None:
        self._bar.refresh()

    def stopping(self) -> None:
        self._bar.stopping()

    def end(self, error: BaseException | None) -> None:
        self._bar.end(error)


def _browser_case(case: CaseResult) -> Any:
    from autoseg_lib.widgets.slice_browser import BrowserCase  # needs ipywidgets

    scan, mask = case.look()
    return BrowserCase(case.name, scan.volume, mask, scan.slice_names, flagged_slices(case.measurements))


def flagged_slices(measurements: Iterable[SliceMeasurement]) -> dict[int, str]:
    """Returns index of the slice, from 0 → its reasons, each once with the ROIs that it is about."""
    found: dict[int, dict[str, list[str]]] = {}
    for row in measurements:
        for reason in filter(None, row.flag.split("; ")):
            found.setdefault(row.slice_number - 1, {}).setdefault(reason, []).append(row.roi)
    return {
        index: "; ".join(f"{', '.join(rois)}: {reason}" for reason, rois in reasons.items())
        for index, reasons in found.items()
    }
