"""CSV files: UTF-8, comma, point, one header row; an unknown value is an empty cell."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autoseg_lib.errors import DataError
from autoseg_lib.io.files import atomic_write

# Areas, volumes and positions keep four decimals: far below the size of a pixel, and short enough to read.
_DECIMALS = 4


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table atomically; floats with at most four decimals, None as an empty cell.

    Raises:
        ExportError: the file cannot be written.
    """
    lines = [[_cell(value) for value in row] for row in rows]

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(lines)

    atomic_write(path, write)


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the header and the rows (column → text) of a CSV file with commas or semicolons.

    Raises:
        DataError: the file is no text, or cannot be opened.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(f"'{path.name}': it cannot be read ({reason}). Save it as CSV in UTF-8.") from None
    lines = text.splitlines()
    first = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=";" if first.count(";") > first.count(",") else ",")
    rows = [{key: value or "" for key, value in row.items() if isinstance(key, str)} for row in reader]
    return [name for name in reader.fieldnames or () if name], rows


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(round(float(value), _DECIMALS) + 0.0)  # + 0.0 turns -0.0 into 0.0
    return value
