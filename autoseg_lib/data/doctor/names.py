"""ROI names that lie beside the data: labels.csv, or the labels_list of a settings.yaml."""

from __future__ import annotations

from pathlib import Path

from autoseg_lib.errors import AutosegError
from autoseg_lib.io.csv_files import read_csv
from autoseg_lib.settings import AUTO, read_settings_file

# Files that may tell them.
NAME_FILES = ("labels.csv", "settings.yaml")

_VALUE_COLUMNS = ("value", "label", "key")
_NAME_COLUMNS = ("name", "roi")


def names_beside(main_dir: str) -> tuple[tuple[str, ...], str]:
    """Looks for ROI names in the data folder (beside a manifest).

    Returns:
        (names for the values 1, 2, ..., name of the file they are from); ((), "") where there are none, or they leave gaps.
    """
    data = Path(main_dir).expanduser()
    folder = data.parent if data.is_file() else data
    for name, read in zip(NAME_FILES, (_from_table, _from_settings), strict=True):
        file = folder / name
        try:
            names = read(file) if file.is_file() else ()
        except (AutosegError, OSError):
            continue  # a table or settings for something else
        if names and len(set(names)) == len(names):
            return names, file.name
    return (), ""


def _from_table(file: Path) -> tuple[str, ...]:
    header, rows = read_csv(file)
    columns = {name.strip().lower(): name for name in header}
    value = next((columns[name] for name in _VALUE_COLUMNS if name in columns), None)
    name = next((columns[name] for name in _NAME_COLUMNS if name in columns), None)
    if value is None or name is None:
        return ()
    found = {
        int(row[value]): row[name].strip()
        for row in rows
        if row[value].strip().isdecimal() and int(row[value])
    }
    numbers = sorted(found)
    return (
        tuple(found[n] for n in numbers)
        if numbers == list(range(1, len(numbers) + 1)) and all(found.values())
        else ()
    )


def _from_settings(file: Path) -> tuple[str, ...]:
    names = read_settings_file(file).get("labels_list", AUTO)
    return tuple(str(name).strip() for name in names) if isinstance(names, list) else ()
