"""A corrected copy of a data folder beside the folder itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.fixing import FixLog, apply_fixes, without_dots
from autoseg_lib.events import Listener, nobody
from autoseg_lib.io.volume_files import stem_of
from autoseg_lib.workflow.checking import Study, check_study


def correct_study(study: Study, findings: Sequence[Finding], on_event: Listener = nobody) -> FixLog:
    """Writes a copy of the study's data folder with the fixes of ``findings``; the folder itself is not touched.

    Args:
        study: a data folder that has been looked at.
        findings: those of its findings that are to be put right.
        on_event: hears the progress.

    Raises:
        ExportError: the copy cannot be written.
    """
    folder = free_folder(Path(study.settings.main_dir).expanduser())
    return apply_fixes(findings, study.settings, study.pairing, folder, on_event)


def correct_and_check(study: Study, folder: Path, on_event: Listener = nobody) -> tuple[FixLog, Study]:
    """Writes a corrected copy with all fixes and checks it again.

    Args:
        study: a data folder that has been looked at.
        folder: a new or empty folder for the copy.
        on_event: hears the progress.

    Raises:
        ExportError: the folder is not free, or the copy cannot be written.
    """
    log = apply_fixes(study.report.findings, study.settings, study.pairing, folder, on_event)
    settings = replace(study.settings, main_dir=str(log.folder))
    return log, check_study(settings, on_event)


def free_folder(data: Path) -> Path:
    """Returns a folder beside the data that does not exist yet: NAME_corrected, NAME_corrected_2, ..."""
    data = without_dots(data)
    base = f"{stem_of(data) if data.is_file() else data.name}_corrected"
    folder, number = data.with_name(base), 2
    while folder.exists():
        folder, number = data.with_name(f"{base}_{number}"), number + 1
    return folder
