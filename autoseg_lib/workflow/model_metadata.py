"""What a model file says of itself."""

from __future__ import annotations

import datetime
from typing import Any

from autoseg_lib import __version__
from autoseg_lib.settings import to_table
from autoseg_lib.system import versions
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import Scores
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.pipeline_editing import POSTPROCESSING, PREPROCESSING
from autoseg_lib.workflow.training_facts import known_training_facts


def model_metadata(plan: Plan, study: Study, epoch: int, scores: Scores | None) -> dict[str, Any]:
    """Returns what a model file says of itself."""
    settings = to_table(plan.settings)
    # A path may name a person or a hospital; the model file travels without it.
    settings = {
        key: value
        for key, value in settings.items()
        if key not in ("main_dir", "model_dir", "start_from", "resume")
    }
    return {
        "autoseg_version": __version__,
        "name": plan.files.name,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "epoch": epoch,
        "settings": settings,
        "labels": list(plan.labels.names),
        "network": plan.network.to_dict(),
        PREPROCESSING: plan.preprocessing.to_dict(),
        "augmentation": plan.augmentation.to_dict(),
        POSTPROCESSING: [],
        "fingerprint": plan.fingerprint.to_dict(),
        "choices": [
            {"setting": c.setting, "value": c.value, "reason": c.reason}
            for c in plan.choices
            if c.setting in settings or not hasattr(plan.settings, c.setting)
        ],
        "validation": score_table(plan, scores),
        "data": {
            "checksum": study.report.checksum,
            "scans": len(study.report.facts),
            "modality": _modality(study),
            "facts": known_training_facts(tuple(study.report.facts), plan.labels),
        },
        "versions": versions(),
    }


def score_table(plan: Plan, scores: Scores | None) -> dict[str, Any]:
    if scores is None:
        return {"split": plan.split.kind, "scans": 0}
    return {
        "split": plan.split.kind,
        "scans": len(scores.cases),
        "mean_dice": round(scores.mean, 4),
        "dice": {n: rounded(v) for n, v in zip(plan.labels.names, scores.per_roi, strict=True)},
        "dice_sd": {n: rounded(v) for n, v in zip(plan.labels.names, scores.sd_per_roi, strict=True)},
        "area_error_percent": {
            n: rounded(v, 2) for n, v in zip(plan.labels.names, scores.area_error_per_roi, strict=True)
        },
    }


def _modality(study: Study) -> str:
    return "/".join(sorted({f.modality for f in study.report.facts if f.modality}))


def rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
