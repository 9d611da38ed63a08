"""A list of scans through the network: read ahead, written behind, shared with other processes, done once each."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import AutosegError, ExportError, OutOfSpaceError
from autoseg_lib.events import Event, Listener, Message, Progress, StopFlag
from autoseg_lib.export.run_folder import RunFolder
from autoseg_lib.infer.prediction import Prediction
from autoseg_lib.infer.predictor import Stopped
from autoseg_lib.io.run_record import read_record
from autoseg_lib.workflow.case_parts import CaseParts
from autoseg_lib.workflow.claims import Claims
from autoseg_lib.workflow.reading_ahead import Overlap
from autoseg_lib.workflow.run_rows import RunRows
from autoseg_lib.workflow.segment_case import CaseResult, CaseSegmenter

_log = logging.getLogger(__name__)

# How often a process with nothing left to do looks whether the others are done, or gone.
_WAIT_SECONDS = 1.0


@dataclass
class _Case:
    """One scan on its way: what is known of it so far."""

    name: str
    key: str = ""
    clock: float = 0.0
    scan: Scan | None = field(default=None, repr=False)
    answer: Prediction | None = field(default=None, repr=False)
    result: CaseResult | None = field(default=None, repr=False)
    failed: str = ""
    elsewhere: bool = False


class Cohort:
    """All scans of a run.

    Attributes:
        cases: results, by name of the scan.
        failures: reasons, by name of the scan.
        stopped_after: number of scans seen to before the user stopped; None where nobody did.
    """

    def __init__(
        self,
        segmenter: CaseSegmenter,
        run: RunFolder,
        sources: dict[str, ImageSource],
        rows: RunRows,
        claims: Claims,
        parts: CaseParts,
        on_event: Listener,
        stop: StopFlag,
        now_and_then: Callable[[], str],
    ) -> None:
        """Args:
        segmenter: does a single scan.
        run: the run folder.
        sources: name → scan.
        rows: the tables.
        claims: who works on what.
        parts: what is finished.
        on_event: hears the progress, in the thread that calls ``go``.
        stop: asked between batches.
        now_and_then: called after each scan that was done here, in the thread that writes; returns what has to be said, or "".
        """
        self.cases: dict[str, CaseResult] = {}
        self.failures: dict[str, str] = {}
        self.stopped_after: int | None = None
        self._segmenter, self._run, self._sources, self._rows = segmenter, run, sources, rows
        self._claims, self._parts = claims, parts
        self._on_event, self._stop, self._now_and_then = on_event, stop, now_and_then
        self._said: queue.Queue[Event] = queue.Queue()
        self._began, self._wall = time.monotonic(), claims.now()
        self._handled = self._worked = 0
        self._record_time = -1
        self._overlap: Overlap[tuple[str, str], _Case, _Case] = Overlap(
            self._read, self._work, self._write, between=self._between
        )

    def go(self) -> None:
        """Sees to all scans.

        Raises:
            OutOfSpaceError: the disk is full; what was done before is complete.
            ExportError: another process segments into the folder with another model or other settings.
        """
        with contextlib.suppress(Stopped):
            self._overlap.run(self._items())
        if self._stop.is_set() and self._handled < len(self._sources):
            self.stopped_after = self._handled
        else:
            self._on_event(Progress("Scans", len(self._sources), len(self._sources)))

    # --- which scan is next (in the reading thread) -----------------------------------------------------------------------

    def _items(self) -> Iterator[tuple[str, str]]:
        """Gives name and state of each scan; those that other processes have come last, done by them or left to us."""
        left, told = list(self._sources), False
        while left and not self._overlap.ending.is_set():
            waiting = []
            for name in left:
                if self._overlap.ending.is_set():
                    return
                state = self._state(name)
                if not state and not self._claims.take(name):
                    waiting.append(name)
                    continue
                if not state and (state := self._state(name)):  # done between the two looks
                    self._claims.release(name)
                yield name, state
            left = waiting
            if left and not told:
                told = True
                what = "1 scan is" if len(left) == 1 else f"{len(left)} scans are"
                self._said.put(Message(f"{what} being done by other processes; waiting for them."))
            if left:
                self._overlap.ending.wait(_WAIT_SECONDS)

    def _state(self, name: str) -> str:
        """Returns "done", "failed", or "" for a scan that nobody has finished."""
        part = self._parts.get(name)
        if part is not None and part["record"]:
            if not self._parts.is_of_this_run(part) and self._is_new(part):
                raise ExportError(
                    f"output '{self._run.path}': another process segments into it with another model or other settings. Choose "
                    "another folder."
                )
            self._run.cases[name] = part["record"]
        elif part is not None and self._is_new(part):
            return "failed"
        else:
            self._look_at_record()
        known = self._run.cases.get(name)
        if known is None or not known["complete"]:
            return ""
        if not all((self._run.path / item).is_file() for item in known["files"]):
            return ""
        if not self._is_new(part) and known["key"] != self._key(name):
            return ""
        return "done" if part is not None or self._rows.has(name) else ""

    def _is_new(self, part: dict[str, Any] | None) -> bool:
        """Whether a part is of a process that works, or worked, beside this one."""
        if part is None:
            return False
        if self._claims.is_alive(str(part.get("owner"))):
            return True
        try:
            made = (self._parts.folder / f"{part['case']}.done.json").stat().st_mtime
        except OSError:
            return True
        return made >= self._wall

    def _look_at_record(self) -> None:
        """Another process may have put the tables together in the meantime."""
        try:
            changed = (self._run.path / "run_files.json").stat().st_mtime_ns
        except OSError:
            return
        if changed != self._record_time:
            if self._record_time != -1:
                self._run.cases.update(read_record(self._run.path))
                self._rows.read_again()
            self._record_time = changed

    def _key(self, name: str) -> str:
        try:
            return self._segmenter.key(self._sources[name])
        except OSError:
            return ""  # its turn will come, and its fault be told

    # --- the three steps ----------------------------------------------------------------------------------------------------

    def _read(self, item: tuple[str, str]) -> _Case:
        name, state = item
        case = _Case(name, clock=time.monotonic(), elsewhere=bool(state))
        source = self._sources[name]

        def read() -> None:
            if state == "failed":
                part = self._parts.get(name) or {}
                case.failed = str(part.get("failed") or f"'{name}': another process could not segment it.")
            elif state == "done":
                case.result = self._taken_over(name, source)
            else:
                case.key = self._segmenter.key(source)
                case.scan = self._segmenter.read(name, source)

        self._guarded(case, read)
        return case

    def _taken_over(self, name: str, source: ImageSource) -> CaseResult:
        rows, part = self._parts.rows(name), self._parts.get(name)
        if rows is not None and part is not None and part["report"]:
            self._rows.put(name, *rows, part["report"])
        return self._segmenter.taken_over(
            self._run, name, source, self._rows.of(name), self._rows.report(name)
        )

    def _work(self, case: _Case) -> _Case:
        self._on_event(self._progress(case.name))
        if self._stop.is_set():
            raise Stopped
        if case.scan is not None and not case.failed:
            scan = case.scan

            def answer() -> None:
                case.answer = self._segmenter.answer(scan, self._within(case.name), self._stop)

            self._guarded(case, answer)
            self._worked += 1
        self._handled += 1
        return case

    def _write(self, case: _Case) -> None:
        if case.scan is not None and case.answer is not None and not case.failed:
            self._guarded(case, lambda: self._write_done(case))
        if case.result is not None and not case.failed:
            self.cases[case.name] = case.result
        if case.failed:
            self.failures[case.name] = case.failed
            self._said.put(Message(case.failed, "warning"))
            if not case.elsewhere:
                self._tell_others(case)
        self._claims.release(case.name)
        case.scan = case.answer = None
        if not case.elsewhere and (text := self._now_and_then()):
            self._said.put(Message(text, "warning"))

    def _tell_others(self, case: _Case) -> None:
        """Of a scan that cannot be done; where that cannot be written down, they find out by themselves."""
        try:
            self._parts.put_failed(case.name, case.failed)
        except OutOfSpaceError:
            raise
        except ExportError as error:
            self._said.put(Message(str(error), "warning"))

    def _write_done(self, case: _Case) -> None:
        if case.scan is None or case.answer is None:
            return
        source = self._sources[case.name]
        result, files, report = self._segmenter.finish(self._run, source, case.scan, case.answer, case.clock)
        record = self._run.remember_case(case.name, files, case.key)
        self._rows.put(case.name, result.measurements, result.volumes, report)
        self._parts.put(case.name, record, report, result.measurements, result.volumes)
        case.result = result

    def _guarded(self, case: _Case, step: Callable[[], None]) -> None:
        """One bad scan must not stop a night's work."""
        try:
            step()
        except (Stopped, OutOfSpaceError):
            raise
        except AutosegError as error:
            case.failed = str(error)
        except Exception as error:  # noqa: BLE001 - see above
            _log.debug("segmenting %s failed", case.name, exc_info=True)
            case.failed = f"'{case.name}': it could not be segmented ({type(error).__name__}: {error})."

    # --- progress -------------------------------------------------------------------------------------------------------------

    def _between(self) -> None:
        """In the caller's thread: tells what the others had to say, and looks whether to stop."""
        while not self._said.empty():
            self._on_event(self._said.get())
        if self._stop.is_set():
            self._overlap.ending.set()

    def _progress(self, detail: str) -> Progress:
        left = None
        if self._worked:
            # Of scans that were done already none took time; those of other processes count, they come in between.
            pace = (time.monotonic() - self._began) / self._worked
            left = pace * (len(self._sources) - self._handled)
        return Progress("Scans", self._handled, len(self._sources), detail, left)

    def _within(self, name: str) -> Listener:
        """The progress within a scan, told as what is in hand of the list."""

        def listener(event: Event) -> None:
            if isinstance(event, Progress):
                share = f"{event.stage.lower()} {event.done} of {event.total}"
                self._on_event(self._progress(f"{name} · {share}"))
            else:
                self._on_event(event)
            self._between()

        return listener
