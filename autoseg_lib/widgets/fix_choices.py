"""The fixes of a data check as choices to tick: each says which files it changes, and many of one kind are one choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.data.discover import LABEL_FOLDERS, LAYOUT_FOLDERS
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.errors import name_list
from autoseg_lib.io.files import natural_key

_MOST_NAMED = 2
# Folders whose names say nothing of the scan.
_LAYOUT = {*LAYOUT_FOLDERS, *LABEL_FOLDERS}


@dataclass(frozen=True)
class FixChoice:
    """One box to tick.

    Attributes:
        text: what would be done, to which files.
        findings: what would be put right.
    """

    text: str
    findings: tuple[Finding, ...]


def fix_choices(findings: Sequence[Finding]) -> list[FixChoice]:
    """Returns the choices in the order of the findings; those without a fix are passed over.

    Fixes that do the same are one choice, as long as no two of them change the same file: then it may matter which is done.
    """
    groups: dict[tuple[str, bool], list[list[Finding]]] = {}
    ordered: list[list[Finding]] = []
    for finding in findings:
        if finding.fix is None:
            continue
        same = groups.setdefault((finding.fix.text, finding.fix.sure), [])
        files = set(_files(finding))
        group = next((g for g in same if not any(files & set(_files(other)) for other in g)), None)
        if group is None:
            group = []
            same.append(group)
            ordered.append(group)
        group.append(finding)
    return [FixChoice(_text(group), tuple(group)) for group in ordered]


def _text(findings: Sequence[Finding]) -> str:
    fix = findings[0].fix
    text = fix.text if fix is not None else ""
    look = " (please look at the result)" if fix is not None and not fix.sure else ""
    names = _names(findings)
    if names and not (len(findings) == 1 and "'" in text):
        times = f", {len(findings)} times" if len(findings) > 1 else ""
        text += f"{times}: {name_list(names, _MOST_NAMED)}"
    return text + look


def _names(findings: Sequence[Finding]) -> list[str]:
    """Returns what to call the files by, in their natural order: of several findings one name each."""
    names = []
    for finding in findings:
        files = _files(finding)
        own = list(finding.files) or [file.name for file in files]
        names += [_with_folder(name, files) for name in (own if len(findings) == 1 else own[:1])]
    return sorted(dict.fromkeys(names), key=natural_key)


def _with_folder(name: str, files: Sequence[Path]) -> str:
    """Returns "scan_1/001.png" for "001.png": in folders of scans the same names come again and again."""
    folders = {file.parent.name for file in files if file.name == name}
    (folder,) = folders if len(folders) == 1 else ("",)
    return f"{folder}/{name}" if folder and folder.lower() not in _LAYOUT else name


def _files(finding: Finding) -> list[Path]:
    actions = finding.fix.actions if finding.fix is not None else ()
    return [file for action in actions for file in action.files]
