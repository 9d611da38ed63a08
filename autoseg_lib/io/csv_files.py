"""CSV files: UTF-8, comma, point, one header row; an unknown value is an empty cell, and no cell is a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autoseg_lib.errors import DataError
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.limits import is_regular, size_text

# A million rows of measurements.csv; a table that somebody gives is hardly larger.
_LARGEST_TABLE = 200_000_000
# Areas, volumes and positions keep four decimals: far below the size of a pixel, and short enough to read.
_DECIMALS = 4


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table atomically; floats with at most four decimals, None as an empty cell, texts that a spreadsheet
    would run as a formula with an apostrophe before them.

    Raises:
        ExportError: the file cannot be written.
    """
    lines = [[_cell(value) for value in row] for row in rows]

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([neutral(name) for name in header])
            writer.writerows(lines)

    atomic_write(path, write)


def read_csv(path: Path, *, own: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the header and the rows (column → text) of a CSV file with commas or semicolons, as ``write_csv`` was given
    them.

    Args:
        path: the file.
        own: it is one that ``write_csv`` wrote: as large as it may be, and with commas. Semicolons show that a spreadsheet has
            saved it since, which may have taken areas for dates.

    Raises:
        DataError: the file is no text, or cannot be opened.
    """
    text = read_table_text(path, most_bytes=None if own else _LARGEST_TABLE)
    first = text.split("\n", 1)[0]
    delimiter = ";" if not own and first.count(";") > first.count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [
            {_as_written(key): _as_written(value or "") for key, value in row.items() if isinstance(key, str)}
            for row in reader
        ]
        return [_as_written(name) for name in reader.fieldnames or () if name], rows
    except csv.Error as error:
        raise DataError(f"'{path.name}': it is no table ({error}). Save it as CSV in UTF-8.") from None


def read_table_text(path: Path, *, other: str | None = None, most_bytes: int | None = _LARGEST_TABLE) -> str:
    """Returns the text of a CSV file.

    Args:
        path: the file.
        other: encoding to take where it is no UTF-8 text; None refuses it.
        most_bytes: larger files are refused; None reads any.

    Raises:
        DataError: it is no text or no plain file, is larger than any table, or cannot be opened.
    """
    try:
        if not is_regular(path):
            raise DataError(f"'{path.name}': it is not there, or no file. Check the path.")
        size = path.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise DataError(
                f"'{path.name}': it holds {size_text(size)}; tables up to {size_text(most_bytes)} are read. Is it a CSV?"
            )
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"'{path.name}': it cannot be opened ({error.strerror}). Check the path and your rights."
        ) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if other is not None:
            return content.decode(other, errors="replace")
        raise DataError(
            f"'{path.name}': it cannot be read (it is no UTF-8 text). Save it as CSV in UTF-8."
        ) from None


def neutral(text: str) -> str:
    """Returns a text that spreadsheets show and never run.

    A cell that begins with = + - @ or a tab or line break is a formula to them, and a formula can start programs or send
    data away; an apostrophe before it makes it text. Names of files and ROIs come from others. Source: OWASP, "CSV
    Injection". Full-width signs count too: some spreadsheets take them for the plain ones.
    """
    text = text.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # a bare \r ends a line for some readers, and is not quoted
    return "'" + text if _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    return text.lstrip(" \u3000")[:1] in _FORMULA_STARTS and _PLAIN_NUMBER.fullmatch(text) is None


_PLAIN_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
# Empty text is in every string, so a tuple.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def _as_written(text: str) -> str:
    """Returns the text that ``neutral`` was given."""
    return text[1:] if text.startswith("'") and neutral(text[1:]) == text else text


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return repr(round(float(value), _DECIMALS) + 0.0)  # + 0.0 turns -0.0 into 0.0
    return neutral(value) if isinstance(value, str) else value
