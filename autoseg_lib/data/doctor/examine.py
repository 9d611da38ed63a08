"""The data doctor's round: one reading of every case, then every check over what it left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.facts import CaseFacts, gather_facts
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.data.doctor.report import CheckReport, roi_table, summary_line
from autoseg_lib.data.doctor.table import CHECKS
from autoseg_lib.data.pairing import Pairing
from autoseg_lib.errors import AutosegError
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.labels import LabelTable
from autoseg_lib.settings import AUTO, TrainSettings


def examine(pairing: Pairing, settings: TrainSettings, on_event: Listener = nobody) -> CheckReport:
    """Reads every case once and runs all checks.

    Args:
        pairing: images and labels matched by name.
        settings: the training settings; ``num_labels``, ``labels_list``, ``dimension``, spacing settings are used.
        on_event: hears the progress.
    """
    facts: list[CaseFacts] = []
    usable: list[int] = []
    unreadable: list[Finding] = []
    for number, case in enumerate(pairing.cases):
        on_event(Progress("Data check", number, len(pairing.cases), case.name))
        try:
            facts.append(gather_facts(case, settings))
            usable.append(number)
        except AutosegError as error:
            # A case may have several faulty files, one line each.
            unreadable += [_unreadable(case.name, text) for text in str(error).split("\n")]
        except Exception as error:  # noqa: BLE001 - one odd file must not hide what is found in the others
            text = f"'{case.name}': it cannot be read ({type(error).__name__}: {error}). Export it again, or leave it out."
            unreadable.append(_unreadable(case.name, text))
    on_event(Progress("Data check", len(pairing.cases), len(pairing.cases)))

    labels = find_labels(settings, facts)
    findings, fine = run_checks(Context(settings, pairing, tuple(facts), labels, tuple(unreadable)))
    digest = hashlib.sha256("".join(sorted(f.name + f.checksum for f in facts)).encode("utf-8"))
    return CheckReport(
        summary=summary_line(pairing, facts),
        findings=findings,
        roi_rows=roi_table(facts, labels),
        labels=labels,
        facts=tuple(facts),
        usable=tuple(usable),
        checksum=digest.hexdigest(),
        fine=fine,
    )


def run_checks(context: Context) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Returns what is wrong or odd, errors first, and what was looked at and found right."""
    findings: list[Finding] = []
    fine: list[Finding] = []
    for check in CHECKS:
        found = list(check.function(context))
        findings += found
        if not found and context.facts:
            fine.append(Finding("fine", check.code, check.title))
    findings.sort(key=lambda finding: finding.severity != "error")
    return tuple(findings), tuple(fine)


def find_labels(settings: TrainSettings, facts: Sequence[CaseFacts]) -> LabelTable:
    """Returns the ROIs: the names given, else as many numbered ones as the label files hold."""
    if settings.labels_list != AUTO:
        return LabelTable(settings.labels_list)
    if settings.num_labels != AUTO:
        return LabelTable.numbered(settings.num_labels)
    values = set().union(*(f.values for f in facts)) if facts else set()
    highest = max(values, default=0)
    # Codes such as 0 and 255 are no count of ROIs; a finding says so.
    return LabelTable.numbered(highest if highest <= 2 * len(values) else 0)


def _unreadable(case: str, text: str) -> Finding:
    return Finding("error", "unreadable", text, (case,), (Sample(case),))
