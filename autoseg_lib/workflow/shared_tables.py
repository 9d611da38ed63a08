"""The tables of a run that several processes may write: one at a time, each with all that is finished so far."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from autoseg_lib.errors import DataError, ExportError, OutOfSpaceError
from autoseg_lib.events import StopFlag
from autoseg_lib.export.run_folder import RunFolder
from autoseg_lib.io.run_record import read_record
from autoseg_lib.workflow.case_parts import CaseParts
from autoseg_lib.workflow.claims import Claims
from autoseg_lib.workflow.run_rows import RunRows

# Tables grow with the run: written at most so often, and for at most a twentieth of the time.
_LEAST_SECONDS, _MOST_SHARE = 30.0, 0.05
# No case has this name: names of cases never begin with a dot.
_LOCK = ".tables"
_WAIT_SECONDS = 0.5


class SharedTables:
    """csa_results.csv, measurements.csv, volumes.csv and the record of a run folder.

    Attributes:
        rows: what goes into the tables, as far as this process knows.
    """

    def __init__(
        self, run: RunFolder, cases: Iterable[str], claims: Claims, parts: CaseParts, stop: StopFlag
    ) -> None:
        """Args:
        run: the run folder.
        cases: names of all scans, in the order of the tables.
        claims: who works on what.
        parts: what is finished.
        stop: ends waiting for another process.
        """
        self.rows = RunRows(run)
        self._run, self._cases, self._claims, self._parts, self._stop = run, list(cases), claims, parts, stop
        # The first scan is in the tables at once, so that one sees early what comes out.
        self._written, self._took = time.monotonic() - _LEAST_SECONDS, 0.0
        self._taken_in: list[str] = []

    def write_now_and_then(self) -> str:
        """Writes the tables while the run goes on, unless they were written a moment ago or another process does.

        A table that is open in Excel must not end the run; the last writing will tell if it still is.

        Returns:
            what has to be said of it; "" where all is well.

        Raises:
            OutOfSpaceError: the disk is full.
        """
        now = time.monotonic()
        if now - self._written < max(_LEAST_SECONDS, self._took / _MOST_SHARE):
            return ""
        if not self._claims.take(_LOCK):
            return ""
        told = len(self.rows.notes)
        try:
            self.write()
        except OutOfSpaceError:
            raise
        except (ExportError, DataError) as error:
            return f"{error} Going on; the tables are written again later."
        finally:
            self._claims.release(_LOCK)
            self._written = time.monotonic()
            self._took = self._written - now
        return " ".join(self.rows.notes[told:])

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Waits until no other process writes the tables; gives whether there is anything that is not in them yet."""
        while not self._claims.take(_LOCK):
            if self._stop.is_set():
                yield False
                return
            time.sleep(_WAIT_SECONDS)
        try:
            yield bool(self._parts.all()) or not self._run.report.exists()
        finally:
            self._claims.release(_LOCK)

    def write(self) -> None:
        """Writes the tables and the record, with what other processes have finished.

        Raises:
            ExportError: one cannot be written (open in another program, disk full).
        """
        self.rows.read_again()
        self._taken_in = []
        for name, part in self._parts.all().items():
            rows = self._parts.rows(name) if part["record"] else None
            if rows is not None:
                self.rows.put(name, *rows, part["report"])
                self._taken_in.append(name)
        self.rows.order(self._cases)
        self.rows.write()
        # The reading thread may add to it in this moment: a new table instead of a changed one.
        self._run.cases = {**read_record(self._run.path), **self._run.cases}
        self._run.save()

    def tidy_up(self) -> None:
        """Removes the parts that are in the tables now; where no other process is at work, everything of the kind."""
        self._parts.remove(self._taken_in)
        if self._claims.is_alone():
            self._parts.remove(self._parts.all())
            self._claims.sweep()
