"""The tables of a run as one Excel workbook, a sheet per table; numbers stay numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg_lib.errors import SettingsError
from autoseg_lib.export.tables import csa_table, table_of
from autoseg_lib.io.files import atomic_write
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement

WORKBOOK_NAME = "results.xlsx"

# A sheet is a header and rows.
Sheet = tuple[Sequence[str], Iterable[Sequence[Any]]]

# ECMA-376 (Office Open XML): sheet names of up to 31 characters without these; no control characters in cells; 1 048 576
# rows.
_LONGEST_NAME = 31
_NOT_IN_NAMES = re.compile(r"[\[\]:*?/\\]")
_NOT_IN_CELLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MOST_ROWS = 1_048_576


def run_sheets(
    measurements: Sequence[SliceMeasurement], volumes: Sequence[VolumeMeasurement]
) -> dict[str, Sheet]:
    """Returns the tables of a run under the names of their CSV files: csa_results, measurements, volumes."""
    return {
        "csa_results": csa_table(measurements),
        "measurements": table_of(SliceMeasurement, measurements),
        "volumes": table_of(VolumeMeasurement, volumes),
    }


def require_workbooks() -> None:
    """Refuses workbooks where the package that writes them is missing; worth asking before the work begins.

    Raises:
        SettingsError: openpyxl is not installed.
    """
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise SettingsError(
            "xlsx: the package openpyxl is not installed, so no workbook can be written. Install it with "
            'pip install "autoseg-workbench[excel]", or leave xlsx out; the CSV files open in Excel too.'
        ) from None


def write_workbook(path: Path, tables: Mapping[str, Sheet]) -> None:
    """Writes a workbook with one sheet per table; the header row stays in sight, unknown values are empty cells.

    Texts are never run as formulas. A table longer than a sheet can be goes on in a further sheet ("measurements 2").

    Args:
        path: the .xlsx file.
        tables: sheet name → (header, rows).

    Raises:
        SettingsError: openpyxl is not installed.
        ExportError: the file cannot be written.
    """
    require_workbooks()
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    book = openpyxl.Workbook(write_only=True)
    bold = Font(bold=True)

    def cells(sheet: Any, values: Sequence[Any], font: Font | None = None) -> list[Any]:
        result: list[Any] = []
        for value in values:
            if isinstance(value, str):
                cell = WriteOnlyCell(sheet, _NOT_IN_CELLS.sub(" ", value))
                # Without this a name that begins with "=" would be a formula, and one like "1/2" may become a date.
                cell.data_type = "s"
                if font:
                    cell.font = font
                result.append(cell)
            else:
                result.append(None if value is None or value != value else value)
        return result

    for name, (header, rows) in tables.items():
        sheet, used = None, 0
        for row in rows:
            if sheet is None or used == _MOST_ROWS:
                sheet, used = _sheet(book, name), 1
                sheet.append(cells(sheet, header, bold))
            sheet.append(cells(sheet, row))
            used += 1
        if sheet is None:
            sheet = _sheet(book, name)
            sheet.append(cells(sheet, header, bold))
    atomic_write(path, book.save)


def _sheet(book: Any, name: str) -> Any:
    base = _NOT_IN_NAMES.sub("_", name)[:_LONGEST_NAME] or "table"
    title, number = base, 1
    while title.lower() in {known.lower() for known in book.sheetnames}:
        number += 1
        title = f"{base[: _LONGEST_NAME - len(str(number)) - 1]} {number}"
    sheet = book.create_sheet(title)
    sheet.freeze_panes = "A2"
    return sheet
