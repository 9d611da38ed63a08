"""The CSV files of a run: wide areas for papers, tidy rows for statistics, volumes.

All are UTF-8 with a comma and a point, one header row. A value that cannot be told (no pixel spacing) is an
empty cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from autoseg_lib.errors import DataError
from autoseg_lib.io.csv_files import read_csv, write_csv
from autoseg_lib.measure.areas import SliceMeasurement, mean_and_std
from autoseg_lib.measure.volumes import VolumeMeasurement

Row = TypeVar("Row", SliceMeasurement, VolumeMeasurement)


def csa_table(
    measurements: Sequence[SliceMeasurement], *, with_case: bool | None = None
) -> tuple[list[str], list[list[str | float | None]]]:
    """Arranges areas as in csa_results.csv: one row per slice, then ``mean`` and ``std`` (n - 1), one column
    per ROI.

    An absent ROI counts 0.0. Mean and std are over all slices of the scan.

    Args:
        measurements: rows of ``measure_slices``, of one scan or several.
        with_case: whether a leading column names the scan; None: only with several scans.

    Returns:
        header (``case`` where asked, ``slice``, ROI names) and rows with areas in mm², None where unknown.
    """
    rois = list(
        dict.fromkeys((row.label, row.roi) for row in sorted(measurements, key=lambda row: row.label))
    )
    cases: dict[str, dict[int, dict[tuple[int, str], float | None]]] = {}
    for row in measurements:
        slices = cases.setdefault(row.case, {})
        slices.setdefault(row.slice_number, {})[row.label, row.roi] = row.area_mm2
    leading = len(cases) > 1 if with_case is None else with_case
    header = (["case"] if leading else []) + ["slice"] + [name for _, name in rois]
    table: list[list[str | float | None]] = []
    for case, slices in cases.items():
        start: list[str | float | None] = [case] if leading else []
        numbers = sorted(slices)
        for number in numbers:
            table.append([*start, f"slice number {number}", *(slices[number].get(roi) for roi in rois)])
        summary = [mean_and_std(slices[number].get(roi) for number in numbers) for roi in rois]
        table.append([*start, "mean", *(mean for mean, _ in summary)])
        table.append([*start, "std", *(std for _, std in summary)])
    return header, table


def write_csa_results(path: Path, measurements: Sequence[SliceMeasurement]) -> None:
    """Writes csa_results.csv (see ``csa_table``).

    Raises:
        ExportError: the file cannot be written.
    """
    header, rows = csa_table(measurements)
    write_csv(path, header, rows)


def write_measurements(path: Path, rows: Sequence[SliceMeasurement]) -> None:
    """Writes measurements.csv: one row per slice and ROI.

    Raises:
        ExportError: the file cannot be written.
    """
    _write_rows(path, SliceMeasurement, rows)


def write_volumes(path: Path, rows: Sequence[VolumeMeasurement]) -> None:
    """Writes volumes.csv: one row per scan and ROI.

    Raises:
        ExportError: the file cannot be written.
    """
    _write_rows(path, VolumeMeasurement, rows)


def read_measurements(path: Path) -> list[SliceMeasurement]:
    """Reads measurements.csv back, for going on with a run and for comparing.

    Raises:
        DataError: the file is missing columns or holds no numbers where they belong.
    """
    return [SliceMeasurement(**row) for row in _read_rows(path, SliceMeasurement)]


def read_volumes(path: Path) -> list[VolumeMeasurement]:
    """Reads volumes.csv back.

    Raises:
        DataError: the file is missing columns or holds no numbers where they belong.
    """
    return [VolumeMeasurement(**row) for row in _read_rows(path, VolumeMeasurement)]


def table_of(kind: type[Row], rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns rows as header and cells: the columns are the fields."""
    names = [item.name for item in dataclasses.fields(kind)]
    return names, [[getattr(row, name) for name in names] for row in rows]


def _write_rows(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    write_csv(path, *table_of(kind, rows))


def _read_rows(path: Path, kind: type[Row]) -> list[dict[str, Any]]:
    fields = dataclasses.fields(kind)
    header, lines = read_csv(path, own=True)
    missing = sorted({item.name for item in fields if item.default is dataclasses.MISSING} - set(header))
    if missing:
        raise DataError(
            f"'{path.name}': the columns {', '.join(missing)} are missing. Give the file as the workbench "
            "wrote it."
        )
    known = [item for item in fields if item.name in header]
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append({item.name: _value(line[item.name], str(item.type)) for item in known})
        except ValueError as error:
            raise DataError(
                f"'{path.name}' line {number}: found no number where one is expected ({error}). "
                "Give the file as the workbench wrote it."
            ) from None
    return rows


def _value(text: str, kind: str) -> str | int | float | None:
    if kind == "str":
        return text
    if not text and "None" in kind:
        return None
    return int(text) if kind.startswith("int") else float(text)
