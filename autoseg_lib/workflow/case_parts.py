"""What is finished of a run, scan by scan: each process writes parts of its own, and whoever is last puts them together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg_lib.io.files import write_text
from autoseg_lib.io.run_record import PART_SUFFIX, PARTS_FOLDER, read_part, read_parts
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement

_ROWS_SUFFIX = ".rows.json"
Rows = tuple[list[SliceMeasurement], list[VolumeMeasurement]]


class CaseParts:
    """The parts in a run folder."""

    def __init__(self, run: Path, owner: str, run_key: str) -> None:
        """Args:
        run: the run folder.
        owner: token of this process's claims.
        run_key: what must be equal for two processes to work on one list: models and settings.
        """
        self.folder = run / PARTS_FOLDER
        self._run, self._owner, self._run_key = run, owner, run_key

    def put(
        self,
        case: str,
        record: Mapping[str, Any],
        report: Mapping[str, Any],
        measurements: Sequence[SliceMeasurement],
        volumes: Sequence[VolumeMeasurement],
    ) -> None:
        """Writes down a scan that is done. Its files are complete already.

        Raises:
            ExportError: it cannot be written.
        """
        rows = {
            "measurements": [dataclasses.asdict(row) for row in measurements],
            "volumes": [dataclasses.asdict(row) for row in volumes],
        }
        _write(self.folder / f"{case}{_ROWS_SUFFIX}", rows)
        # This file comes last: where it is, the scan is done.
        self._write_part(case, {"record": dict(record), "report": dict(report), "failed": ""})

    def put_failed(self, case: str, reason: str) -> None:
        """Writes down that a scan cannot be done.

        Raises:
            ExportError: it cannot be written.
        """
        self._write_part(case, {"record": None, "report": None, "failed": reason})

    def get(self, case: str) -> dict[str, Any] | None:
        """Returns what is written down of a scan; None where nothing is."""
        return read_part(self.folder / f"{case}{PART_SUFFIX}")

    def all(self) -> dict[str, dict[str, Any]]:
        """Returns everything that is written down, by case."""
        return read_parts(self._run)

    def is_of_this_run(self, part: Mapping[str, Any]) -> bool:
        """Whether a part was made with the same models and settings."""
        return part.get("run_key") == self._run_key

    def rows(self, case: str) -> Rows | None:
        """Returns the rows of a scan; None where they are missing or damaged."""
        try:
            table = json.loads((self.folder / f"{case}{_ROWS_SUFFIX}").read_text(encoding="utf-8"))
            return (
                [SliceMeasurement(**row) for row in table["measurements"]],
                [VolumeMeasurement(**row) for row in table["volumes"]],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, cases: Iterable[str]) -> None:
        """Removes parts that are in the tables now."""
        for case in cases:
            for suffix in (PART_SUFFIX, _ROWS_SUFFIX):
                with contextlib.suppress(OSError):
                    (self.folder / f"{case}{suffix}").unlink()

    def remove_folder(self) -> None:
        """Removes the folder of the parts where nothing is left in it."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _write_part(self, case: str, part: Mapping[str, Any]) -> None:
        whose = {"case": case, "owner": self._owner, "run_key": self._run_key}
        _write(self.folder / f"{case}{PART_SUFFIX}", {**whose, **part})


def _write(path: Path, table: Mapping[str, Any]) -> None:
    # Numbers of numpy become plain ones; every digit of a float is kept.
    text = json.dumps(table, ensure_ascii=False, default=_plain)
    write_text(path, text)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
