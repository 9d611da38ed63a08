"""The rows of a run's tables, of this session and of earlier ones, kept together case by case."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg_lib.errors import DataError, ExportError
from autoseg_lib.export.run_folder import RunFolder
from autoseg_lib.export.tables import (
    read_measurements,
    read_volumes,
    write_csa_results,
    write_measurements,
    write_volumes,
)
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement

# Size, time and number on the disk: what tells one writing of a file from the next.
_State = tuple[int, int, int]


class RunRows:
    """The tables of a run folder: rows of earlier sessions stay until their case is done again.

    Tables that this process wrote last are not read again. Tables that another program has saved in a form that cannot be read
    are kept under another name, and made anew.

    Attributes:
        notes: what has to be said of the tables.
    """

    def __init__(self, run: RunFolder) -> None:
        """Args:
        run: the folder; what it holds already (mode "continue") is read.
        """
        self._run = run
        # One thread reads ahead, another one writes.
        self._lock = threading.RLock()
        self._rows: dict[str, tuple[list[SliceMeasurement], list[VolumeMeasurement]]] = {}
        self._reports: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self._seen: dict[Path, _State] = {}
        self._damage = ""
        self.read_again()

    def read_again(self) -> None:
        """Takes over what another process has put into the tables; what is known here already stays as it is."""
        with self._lock:
            self._read_again()

    def _read_again(self) -> None:
        run = self._run
        if self._changed(run.measurements, run.volumes):
            try:
                self._read_tables()
                self._damage = ""
            except DataError as error:
                self._damage = str(error)
        if self._changed(run.report):
            told = set(self._reports)
            for report in _earlier_reports(run.report):
                if str(report.get("case")) not in told:
                    self._reports[str(report.get("case"))] = report

    def _changed(self, *paths: Path) -> bool:
        """Whether a file is another one than at the last look, or writing."""
        before = [self._seen.get(path) for path in paths]
        self._look_at(*paths)
        return before != [self._seen.get(path) for path in paths]

    def _look_at(self, *paths: Path) -> None:
        for path in paths:
            state = _state(path)
            if state is None:
                self._seen.pop(path, None)
            else:
                self._seen[path] = state

    def _read_tables(self) -> None:
        run, known = self._run, set(self._rows)
        # Both or none: a case with areas and without volumes would count as done.
        rows = read_measurements(run.measurements) if run.measurements.is_file() else []
        volumes = read_volumes(run.volumes) if run.volumes.is_file() else []
        for row in rows:
            if row.case not in known:
                self._rows.setdefault(row.case, ([], []))[0].append(row)
        for volume in volumes:
            if volume.case not in known:
                self._rows.setdefault(volume.case, ([], []))[1].append(volume)

    def cases(self) -> list[str]:
        """Returns the cases that there are rows of, in the order of the tables."""
        with self._lock:
            return list(self._rows)

    def has(self, case: str) -> bool:
        """Whether there are rows of this case."""
        return case in self._rows and bool(self._rows[case][0])

    def of(self, case: str) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
        """Returns the rows of a case."""
        return self._rows.get(case, ([], []))

    def put(
        self,
        case: str,
        measurements: Sequence[SliceMeasurement],
        volumes: Sequence[VolumeMeasurement],
        report: dict[str, Any],
    ) -> None:
        """Adds or replaces a case."""
        with self._lock:
            self._rows[case] = (list(measurements), list(volumes))
            self._reports[case] = report

    def report(self, case: str) -> dict[str, Any]:
        """Returns what run_report.json says of a case; empty where it says nothing."""
        return self._reports.get(case, {})

    def order(self, cases: Sequence[str]) -> None:
        """Puts the cases in this order, others before them, whoever finished first."""
        last = {name: number for number, name in enumerate(cases)}
        with self._lock:
            self._rows = dict(sorted(self._rows.items(), key=lambda item: last.get(item[0], -1)))
            self._reports = dict(sorted(self._reports.items(), key=lambda item: last.get(item[0], -1)))

    def reports(self) -> list[dict[str, Any]]:
        """Returns what run_report.json says of each case."""
        return list(self._reports.values())

    def write(self) -> None:
        """Writes the three tables; with no case done yet there are none to write.

        Raises:
            ExportError: one cannot be written (open in another program, disk full).
        """
        with self._lock:
            both = list(self._rows.values())
        rows = [row for measurements, _ in both for row in measurements]
        run = self._run
        if not rows and (self._damage or not run.measurements.exists()):
            return
        if self._damage:
            self._set_aside()
        write_measurements(run.measurements, rows)
        write_csa_results(run.csa_results, rows)
        write_volumes(run.volumes, [row for _, volumes in both for row in volumes])
        with self._lock:
            self._look_at(run.measurements, run.volumes)

    def _set_aside(self) -> None:
        """Keeps tables that cannot be read: they may hold somebody's work, or scans that are known from nowhere else."""
        kept = []
        for path in (self._run.measurements, self._run.volumes):
            if not path.is_file():
                continue
            aside, number = path.with_name(f"{path.stem}_unreadable.csv"), 1
            while aside.exists():
                number += 1
                aside = path.with_name(f"{path.stem}_unreadable_{number}.csv")
            try:
                path.rename(aside)
            except OSError as error:
                raise ExportError(
                    f"'{path}': it cannot be replaced ({error.strerror or error}). Close the program that has it open."
                ) from error
            kept.append(f"'{aside.name}'")
        self.notes.append(
            f"Another program has saved the tables in a form that cannot be read: {self._damage} What it saved is kept as "
            f"{' and '.join(kept)}, and the tables were made anew."
        )
        self._damage = ""


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _earlier_reports(path: Path) -> list[dict[str, Any]]:
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [case for case in cases if isinstance(case, dict)] if isinstance(cases, list) else []
