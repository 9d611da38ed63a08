"""A corrected copy of a data folder beside the folder itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.fixing import FixLog, apply_fixes, without_dots
from autoseg_lib.data.doctor.report import MARKS, CheckReport
from autoseg_lib.errors import name_list
from autoseg_lib.events import Listener, nobody
from autoseg_lib.io.volume_files import stem_of
from autoseg_lib.workflow.checking import Study, check_study

# Files named for each kind of change, and kinds listed; the log has them all.
_MOST_NAMED = 2
_MOST_KINDS = 8


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


def correction_lines(before: CheckReport, log: FixLog, after: CheckReport) -> list[str]:
    """Returns what was done and what is left, as text lines; what ``before`` said already is not said again.

    Args:
        before: of the data folder, whose findings were shown.
        log: of the corrected copy.
        after: of the copy.
    """
    lines = [log.sentence]
    done: dict[str, list[str]] = {}
    for change in log.changes:
        look = "" if change.sure else " (please look)"
        done.setdefault(change.what + look, []).append("/".join(PurePosixPath(change.file).parts[-2:]))
    kinds = list(done.items())
    lines += [
        f"  {what}: {name_list(list(dict.fromkeys(names)), _MOST_NAMED)}"
        for what, names in kinds[:_MOST_KINDS]
    ]
    if len(kinds) > _MOST_KINDS:
        lines.append(f"  and {len(kinds) - _MOST_KINDS} more kinds of changes, see {log.log_file.name}")
    lines += [f"could not be done: {text}" for text in log.failed]
    said = {(finding.severity, finding.text) for finding in before.findings}
    new = [finding for finding in after.findings if (finding.severity, finding.text) not in said]
    same = [finding for finding in after.findings if (finding.severity, finding.text) in said]
    lines += ["", f"The copy, checked again: {after.summary}"]
    lines += [f"{MARKS[finding.severity]} {finding.text}" for finding in new]
    if same:
        stops = sum(finding.severity == "error" for finding in same)
        counts = [
            f"{stops} {MARKS['error']}" if stops else "",
            f"{len(same) - stops} {MARKS['warning']}" if len(same) > stops else "",
        ]
        what = "1 finding above is" if len(same) == 1 else f"{len(same)} findings above are"
        lines.append(
            f"{what} still there ({' and '.join(filter(None, counts))}): look at the files, only you can know what is right."
        )
    if not after.findings:
        lines.append("✔ No problems found.")
    return lines


def free_folder(data: Path) -> Path:
    """Returns a folder beside the data that does not exist yet: NAME_corrected, NAME_corrected_2, ..."""
    data = without_dots(data)
    base = f"{stem_of(data) if data.is_file() else data.name}_corrected"
    folder, number = data.with_name(base), 2
    while folder.exists():
        folder, number = data.with_name(f"{base}_{number}"), number + 1
    return folder
