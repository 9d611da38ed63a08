"""What tells a run folder, and which files of it this software wrote: never scans, never removed by mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Any of these means that the folder holds results.
RESULT_FILES = (
    "csa_results.csv",
    "measurements.csv",
    "volumes.csv",
    "run_report.json",
    "report.html",
    "results.xlsx",
)

# Which files of the folder this software wrote, case by case: what "continue" skips and "overwrite" may remove.
RECORD_FILE = "run_files.json"

# While a run goes on: what each process has finished, scan by scan, until the tables are put together.
PARTS_FOLDER, PART_SUFFIX = ".autoseg_parts", ".done.json"

# What segmenting makes in the folder of a case.
MASK_FOLDER, OVERLAY_FOLDER, SEGMENTATION_NAME = "masks", "overlays", "segmentation"

_MARKS = (RECORD_FILE, "run_report.json")


def read_record(output: Path) -> dict[str, dict[str, Any]]:
    """Returns what ``RunFolder.cases`` remembered of a run folder, with what a run that was interrupted has finished.

    Empty where there is no record.
    """
    path = output / RECORD_FILE
    cases: dict[str, dict[str, Any]] = {}
    if path.is_file():
        try:
            table = json.loads(path.read_text(encoding="utf-8"))["cases"]
            cases = {str(name): _case(case) for name, case in table.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A record that cannot be read only means that no case counts as done.
            cases = {}
    return cases | {
        name: _case(part["record"]) for name, part in read_parts(output).items() if part["record"]
    }


def _case(table: Any) -> dict[str, Any]:
    return {
        "files": [str(item) for item in table["files"]],
        "complete": bool(table["complete"]),
        "key": str(table["key"]),
    }


def read_parts(output: Path) -> dict[str, dict[str, Any]]:
    """Returns what processes have left of single cases: case → {"record", "report", "failed", "owner", ...}.

    Parts that cannot be read are as if they were not there.
    """
    folder, parts = output / PARTS_FOLDER, {}
    if not folder.is_dir():
        return {}
    for path in sorted(folder.glob(f"*{PART_SUFFIX}")):
        part = read_part(path)
        if part is not None:
            parts[str(part["case"])] = part
    return parts


def read_part(path: Path) -> dict[str, Any] | None:
    """Returns one part; None where there is none, or it is damaged."""
    try:
        part = json.loads(path.read_text(encoding="utf-8"))
        if part["record"]:
            _case(part["record"])
        return {**part, "case": str(part["case"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_run_folder(folder: Path) -> bool:
    """Whether results of segmenting or measuring lie in a folder."""
    return any((folder / name).is_file() for name in _MARKS)


def own_results(files: Sequence[Path], top: Path) -> set[Path]:
    """Returns those of ``files`` that are results of this software: masks, overlays, volumes and tables of a run.

    Scans that somebody keeps in a run folder are not among them.

    Args:
        files: files of any kind.
        top: the folder they were looked for in; a run folder up to two levels above it counts too.
    """
    known: dict[Path, set[str] | None] = {}

    def recorded(folder: Path) -> set[str] | None:
        if folder not in known:
            known[folder] = _recorded(folder) if is_run_folder(folder) else None
        return known[folder]

    # Looked up once a folder: there may be tens of thousands of files.
    runs: dict[Path, list[tuple[tuple[str, ...], set[str]]]] = {}
    for place in {file.parent for file in files}:
        steps = place.relative_to(top).parts
        inside = [top.joinpath(*steps[:count]) for count in range(len(steps) + 1)]
        whole = top.resolve().joinpath(*steps)
        above = [(run, whole) for run in top.resolve().parents[:2]]
        runs[place] = [
            (path.relative_to(run).parts, record)
            for run, path in [*((run, place) for run in inside), *above]
            if (record := recorded(run)) is not None
        ]
    return {
        file
        for file in files
        for parts, record in runs[file.parent]
        if "/".join((*parts, file.name)) in record or _is_result((*parts, file.name))
    }


def _recorded(folder: Path) -> set[str]:
    return {item for case in read_record(folder).values() for item in case["files"]}


def _is_result(parts: tuple[str, ...]) -> bool:
    """Whether a path below a run folder is where results go; a run that was interrupted has no record of them."""
    if len(parts) == 1:
        return parts[0] in (*RESULT_FILES, RECORD_FILE)
    return parts[1] in (MASK_FOLDER, OVERLAY_FOLDER) or (
        len(parts) == 2 and (parts[1].split(".")[0] == SEGMENTATION_NAME or parts[1] == "animation.html")
    )
