"""The table of docs/reading.md as data, and what the program does and says about a path, to compare with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.data.discover import discover
from autoseg_lib.data.scan import Scan, load_scan
from autoseg_lib.errors import DataError
from tests.helpers.real_data import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "reading.md"


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    section: str
    done: str
    message: str

    def is_said_in(self, texts: list[str]) -> bool:
        """Whether the row's sentence is among the texts; "..." stands for anything."""
        if not self.message:
            return True
        pattern = ".*".join(re.escape(part) for part in self.message.split("..."))
        return any(re.search(pattern, text) for text in texts)


def policy_rows() -> dict[str, Row]:
    """The rows of docs/reading.md by id."""
    rows: dict[str, Row] = {}
    section = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        cells = [cell.strip() for cell in line.strip().strip("|").split(" |")]
        name = re.fullmatch(r"`([a-z0-9-]+)`", cells[0])
        if name and len(cells) >= 4:
            assert name[1] not in rows, f"two rows are called {name[1]}"
            rows[name[1]] = Row(section, cells[2], cells[3].strip("`"))
    return rows


@dataclass(frozen=True)
class Outcome:
    """What the program did with a path.

    Attributes:
        done: "read", "read, said" or "refused".
        scans: what was loaded.
        texts: all that was said: warnings, notes, reasons of files left out, the error.
    """

    done: str
    scans: tuple[Scan, ...]
    texts: list[str]

    @property
    def scan(self) -> Scan:
        """The only scan."""
        (scan,) = self.scans
        return scan


def look(path: Path) -> Outcome:
    """Finds and loads all scans of a path, as segmenting does."""
    try:
        found = discover(path)
    except DataError as error:
        return Outcome("refused", (), [str(error)])
    texts = [*found.notes, *(item.reason for item in found.skipped)]
    scans, errors = [], []
    for source in found.sources:
        try:
            scans.append(load_scan(source))
        except DataError as error:
            errors.append(str(error))
        else:
            texts += scans[-1].warnings
    if errors:
        return Outcome("refused", tuple(scans), [*texts, *errors])
    return Outcome("read, said" if texts else "read", tuple(scans), texts)


Case = Callable[[Path], Outcome]
CASES: dict[str, Case] = {}


def row(name: str) -> Callable[[Case], Case]:
    """Registers the test of one row."""

    def register(case: Case) -> Case:
        assert name not in CASES, name
        CASES[name] = case
        return case

    return register
