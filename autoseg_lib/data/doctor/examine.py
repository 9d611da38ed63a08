"""The data doctor's round: one reading of every case, then every check over what it left behind."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress

from autoseg_lib.data.doctor.context import Context, label_values, usual_rois
from autoseg_lib.data.doctor.facts import CaseFacts, gather_facts, small_side
from autoseg_lib.data.doctor.faulty import diagnose
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.gathering import gathered
from autoseg_lib.data.doctor.names import names_beside
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
    side = small_side(sum(max(1, len(case.source.slice_names)) for case in pairing.cases))
    facts: list[CaseFacts] = []
    usable: list[int] = []
    unreadable: list[Finding] = []
    for number, case in enumerate(pairing.cases):
        on_event(Progress("Data check", number, len(pairing.cases), case.name))
        try:
            facts.append(gather_facts(case, settings, side))
            usable.append(number)
        except Exception as error:  # noqa: BLE001 - one odd file must not hide what is found in the others
            found = diagnose(case, settings, error)
            unreadable += found.findings
            if found.rest is None:
                continue
            with suppress(AutosegError):  # what is at fault has been told
                facts.append(gather_facts(found.rest, settings, side))
                usable.append(number)
    on_event(Progress("Data check", len(pairing.cases), len(pairing.cases)))

    labels = find_labels(settings, facts, pairing.roi_names)
    context = Context(settings, pairing, tuple(facts), labels, tuple(unreadable))
    findings, fine = run_checks(context, on_event)
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
        fit=label_fit(context),
    )


def label_fit(context: Context) -> dict[tuple[str, int], float]:
    """Returns (case, slice index) → how well the label fits its image, 0 to 1, for what could be compared."""
    fit: dict[tuple[str, int], float] = {}
    slices = {case.name: len(case.slices) for case in context.facts}
    for sample, score in context.comparison.scores.items():
        share = 1 / (
            1 + math.exp(min(50.0, max(-50.0, score)))
        )  # the score is about the log odds of being wrong
        indices = range(slices[sample.case]) if sample.slice_index is None else (sample.slice_index,)
        fit.update({(sample.case, index): share for index in indices})
    return fit


def run_checks(
    context: Context, on_event: Listener = nobody
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Returns what is wrong or odd, errors first, and what was looked at and found right."""
    findings: list[Finding] = []
    fine: list[Finding] = []
    for number, check in enumerate(CHECKS):
        on_event(Progress("Comparing labels and images", number, len(CHECKS)))
        found = list(check.function(context))
        findings += [finding for finding in found if finding.severity != "fine"]
        fine += [finding for finding in found if finding.severity == "fine"]
        if not found and context.facts:
            fine.append(Finding("fine", check.code, check.title))
    on_event(Progress("Comparing labels and images", len(CHECKS), len(CHECKS)))
    findings = gathered(findings)
    findings.sort(key=lambda finding: finding.severity != "error")
    return tuple(findings), tuple(fine)


def find_labels(settings: TrainSettings, facts: Sequence[CaseFacts], named: Sequence[str] = ()) -> LabelTable:
    """Returns the ROIs: the names given, those in the label files, those that lie beside the data and fit, else as many
    numbered ones as the label files hold."""
    if settings.labels_list != AUTO:
        return LabelTable(settings.labels_list)
    if named:
        return LabelTable(named)
    if settings.num_labels != AUTO:
        return LabelTable.numbered(settings.num_labels)
    usual, odd = usual_rois(facts)
    values = label_values(facts)
    highest = usual if odd else max(values, default=0)
    names, _ = names_beside(settings.main_dir)
    if names and highest == len(names):
        return LabelTable(names)
    if odd:
        return LabelTable.numbered(usual)
    # Codes such as 0 and 255 are no count of ROIs; a finding says so.
    return LabelTable.numbered(highest if highest <= 2 * len(values) else 0)
