"""NAME_report.json: what was trained on what, how, and how well it did."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg_lib.settings import to_table
from autoseg_lib.system import versions
from autoseg_lib.train.files import write_report
from autoseg_lib.train.planning import Plan
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.model_metadata import rounded, score_table

if TYPE_CHECKING:
    from autoseg_lib.workflow.training_result import TrainingResult


def write_final_report(plan: Plan, study: Study, result: TrainingResult) -> None:
    """Writes the report of a run that has ended."""
    write_report(plan.files.report, report_values(plan, study, result))


def is_reported(path: Path, result: TrainingResult) -> bool:
    """Whether the report is there and tells how this run ended; one of an earlier sitting may have been left."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (found.get("reason"), found.get("epochs_done")) == (result.reason, result.epochs_done)


def report_values(plan: Plan, study: Study, result: TrainingResult) -> dict[str, Any]:
    """Returns the report as plain values."""
    facts = study.report.facts
    return {
        "name": result.name,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "reason": result.reason,
        "epochs_done": result.epochs_done,
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
        "device": plan.loop.device,
        "precision": plan.loop.precision,
        "settings": to_table(plan.settings),
        "fingerprint": plan.fingerprint.to_dict(),
        "choices": [{"setting": c.setting, "value": c.value, "reason": c.reason} for c in plan.choices],
        "data": {"summary": study.report.summary, "checksum": study.report.checksum},
        "split": {
            "kind": plan.split.kind,
            "text": plan.split.text,
            "training": [facts[i].name for i in plan.split.train],
            "validation": [facts[i].name for i in plan.split.validation],
        },
        "validation": {**score_table(plan, result.scores), **_more_scores(result)},
        # The scores are of the model of that epoch, where the scans kept back were learned from after it.
        "judged_epoch": result.judged_epoch or None,
        "validation_cases": [
            {
                "case": c.name,
                "dice": dict(zip(plan.labels.names, c.dice, strict=True)),
                "mean_dice": c.mean_dice,
                "hd95_mm": {
                    name: rounded(value, 2) for name, value in zip(plan.labels.names, c.hd95_mm, strict=True)
                },
            }
            for c in (result.scores.cases if result.scores else ())
        ],
        # Sentences on findings name files, and files may be named after patients: what was found, not where.
        "findings": [{"severity": f.severity, "code": f.code} for f in study.report.findings],
        "verdict": result.verdict,
        "error_bars": result.error_bars,
        "segmenting": result.segmenting,
        "reasons": [{"code": a.code, "applies": a.applies, "advice": a.advice} for a in result.answers],
        "methods": result.methods,
        "versions": versions(),
    }


def _more_scores(result: TrainingResult) -> dict[str, Any]:
    if result.scores is None or result.means is None:
        return {}
    each, whole = result.means
    return {
        "hd95_mm": {
            name: rounded(value, 2)
            for name, value in zip(result.roi_names, result.scores.hd95_per_roi, strict=True)
        },
        "dice_interval_95": {
            name: [rounded(score.low), rounded(score.high)]
            for name, score in zip((*result.roi_names, "mean"), (*each, whole), strict=True)
        },
    }
