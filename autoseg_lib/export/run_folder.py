"""The folder of one run: made, protected from being overwritten, and remembered case by case."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg_lib.errors import ExportError, SettingsError
from autoseg_lib.io.files import safe_name, write_text
from autoseg_lib.io.run_record import PARTS_FOLDER, RECORD_FILE, RESULT_FILES, read_record

__all__ = [
    "RECORD_FILE",
    "RESULT_FILES",
    "RunFolder",
    "next_free_name",
    "open_run",
    "read_record",
    "safe_name",
    "unique_names",
]

MODES = ("new", "continue", "overwrite")


@dataclass
class RunFolder:
    """A folder that results go into.

    Attributes:
        path: the folder.
        cases: case name → {"files": [...], "complete": bool, "key": str} of what was written so far.
    """

    path: Path
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def csa_results(self) -> Path:
        """Wide table of areas."""
        return self.path / "csa_results.csv"

    @property
    def measurements(self) -> Path:
        """Tidy table of areas."""
        return self.path / "measurements.csv"

    @property
    def volumes(self) -> Path:
        """Table of volumes."""
        return self.path / "volumes.csv"

    @property
    def workbook(self) -> Path:
        """All tables in one Excel file, written on request."""
        return self.path / "results.xlsx"

    @property
    def dossier(self) -> Path:
        """Page to look through the run and sign it off."""
        return self.path / "report.html"

    @property
    def report(self) -> Path:
        """JSON report of the run."""
        return self.path / "run_report.json"

    def begin_case(self, name: str) -> Path:
        """Makes the sub-folder of a case and returns it.

        Raises:
            ExportError: the folder cannot be made.
        """
        folder = self.path / safe_name(name)
        make_folder(folder)
        self.cases[name] = {"files": [], "complete": False, "key": ""}
        return folder

    def remember_case(self, name: str, files: Iterable[Path], key: str = "") -> dict[str, Any]:
        """Remembers that a case is complete, without writing it down.

        Args:
            name: the case.
            files: everything that was written for it.
            key: whatever must be equal for the result to be the same (checksums of input and model), for
                "continue".

        Returns:
            what is remembered.
        """
        relative = sorted(path.relative_to(self.path).as_posix() for path in files)
        self.cases[name] = {"files": relative, "complete": True, "key": key}
        return self.cases[name]

    def save(self) -> None:
        """Writes down what is remembered.

        Raises:
            ExportError: it cannot be written.
        """
        text = json.dumps({"cases": dict(self.cases)}, indent=1, ensure_ascii=False)
        write_text(self.path / RECORD_FILE, text)


def open_run(
    output: Path, mode: str = "new", *, inputs: Iterable[Path] = (), tables_only: bool = False
) -> RunFolder:
    """Returns the run folder ``output``, made if missing.

    Args:
        output: the run folder itself.
        mode: "new" refuses a folder that holds results; "continue" keeps what is there; "overwrite" removes what this
            software wrote there and nothing else.
        inputs: the files that are going to be read; none of them is ever removed.
        tables_only: whether "overwrite" replaces the tables and the report alone and leaves the cases (masks, overlays)
            as they are. Nothing is removed then: each of the four files is replaced when the new one is complete.

    Raises:
        ExportError: the folder holds results and mode is "new", "overwrite" would remove one of ``inputs``, or the
            folder cannot be made or written to.
        SettingsError: the mode is unknown.
    """
    if mode not in MODES:
        raise SettingsError(f"mode = '{mode}': expected one of {', '.join(MODES)}.")
    if output.exists() and not output.is_dir():
        raise ExportError(
            f"output '{output}': found a file of that name, expected a folder. Choose another name."
        )
    found = [name for name in (*RESULT_FILES, RECORD_FILE) if (output / name).exists()]
    if found and mode == "new":
        raise ExportError(
            f"output '{output}': the folder holds results already ({found[0]}), and nothing is ever "
            "overwritten unasked. "
            "Choose another folder, or add --continue to go on or --overwrite to replace them."
        )
    run = RunFolder(output, read_record(output))
    if mode == "overwrite":
        _refuse_to_remove(inputs, run, tables_only)
    make_folder(output)
    _check_writable(output)
    if mode == "overwrite" and not tables_only:
        _remove_results(run)
    return run


def next_free_name(predictions_dir: Path, name: str) -> Path:
    """Returns ``predictions_dir/name``, or name_2, name_3 ... where that exists already.

    Args:
        predictions_dir: folder of the runs.
        name: wanted name; characters that a file name cannot have become "_".
    """
    base = safe_name(name)
    candidate, number = predictions_dir / base, 1
    while candidate.exists():
        number += 1
        candidate = predictions_dir / f"{base}_{number}"
    return candidate


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns safe file names, all different even where upper and lower case are the same (Windows, macOS).

    The second use of a name gets "_2" and so on.
    """
    used: set[str] = set()
    result = []
    for name in names:
        base = safe_name(name)
        candidate, number = base, 1
        while candidate.lower() in used:
            number += 1
            candidate = f"{base}_{number}"
        used.add(candidate.lower())
        result.append(candidate)
    return tuple(result)


def _written_files(run: RunFolder, tables_only: bool) -> list[Path]:
    """Returns the files that "overwrite" removes or replaces."""
    root = run.path.resolve()
    tables = [run.path / name for name in RESULT_FILES]
    if tables_only:
        return tables
    recorded = [run.path / item for case in run.cases.values() for item in case["files"]]
    # A record edited by hand must not reach outside the run folder.
    return [path for path in recorded if root in path.resolve().parents] + tables + [run.path / RECORD_FILE]


def _refuse_to_remove(inputs: Iterable[Path], run: RunFolder, tables_only: bool) -> None:
    ours = {path.resolve() for path in _written_files(run, tables_only)}
    lost = [path for path in inputs if path.resolve() in ours]
    if lost:
        raise ExportError(
            f"output '{run.path}': overwriting it would remove '{lost[0].name}', which is to be read. Choose another "
            "folder for the results."
        )


def _remove_results(run: RunFolder) -> None:
    folders: set[Path] = set()
    try:
        for path in _written_files(run, tables_only=False):
            if not path.is_file():
                continue
            path.unlink()
            folders.update(parent for parent in path.parents if run.path in parent.parents)
        for folder in sorted(folders, key=lambda item: len(item.parts), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        if (run.path / PARTS_FOLDER).is_dir():
            shutil.rmtree(run.path / PARTS_FOLDER)
    except OSError as error:
        raise ExportError(
            f"output '{run.path}': an earlier result could not be removed ({error.strerror}). "
            "Close programs that have it open, or choose another folder."
        ) from error
    run.cases.clear()


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents; one that exists is fine.

    Raises:
        ExportError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"output '{folder}': the folder could not be made ({error.strerror}). Choose a folder that "
            "you may write to."
        ) from error


def _check_writable(folder: Path) -> None:
    # A name of its own: several processes may begin at the same moment.
    probe = folder / f".autoseg_write_test_{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ExportError(
            f"output '{folder}': no file can be written there ({error.strerror}). Choose a folder that "
            "you may write to."
        ) from error
