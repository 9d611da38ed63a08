"""Findings on files: what pairing and reading have already told."""

from __future__ import annotations

from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding, Sample, Severity
from autoseg_lib.errors import name_list


def check_pairing(context: Context) -> Iterable[Finding]:
    """Orphans, near misses, doubled names, series left out: everything that pairing by name tells."""
    for issue in context.pairing.issues:
        severity: Severity = "error" if issue.severity == "error" else "warning"
        yield Finding(severity, issue.code, issue.text, issue.files)


def check_unreadable(context: Context) -> Iterable[Finding]:
    """Cases with files that cannot be read, or whose image and label do not fit together."""
    return context.unreadable


def check_assumptions(context: Context) -> Iterable[Finding]:
    """What reading had to assume, one finding for each different sentence."""
    by_text: dict[str, list[str]] = {}
    for facts in context.facts:
        for text in facts.load_warnings:
            by_text.setdefault(text, []).append(facts.name)
    for text, names in by_text.items():
        where = "" if all(name in text for name in names) else f" ({name_list(names)})"
        yield Finding(
            "warning", "reading", f"{text}{where}", tuple(names), tuple(Sample(name) for name in names)
        )
