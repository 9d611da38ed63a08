"""The fixes of a data check as choices to tick: each says which files it changes, and many of one kind are one choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.errors import name_list

_MOST_NAMED = 2


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
    """Returns what to call the files by: of several findings one name each; with the folder where names repeat."""
    if len(findings) == 1:
        names = list(findings[0].files) or [file.name for file in _files(findings[0])]
        return list(dict.fromkeys(names))
    names, longer = [], []
    for finding in findings:
        files = _files(finding)
        own = [*finding.files, *(file.name for file in files)]
        names += own[:1]
        longer += [f"{files[0].parent.name}/{files[0].name}"] if files else own[:1]
    return names if len(set(names)) == len(names) else longer


def _files(finding: Finding) -> list[Path]:
    actions = finding.fix.actions if finding.fix is not None else ()
    return [file for action in actions for file in action.files]
