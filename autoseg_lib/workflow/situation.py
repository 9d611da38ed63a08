"""The plain values of a run that its verdict and the reasons behind it rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoseg_lib.data.doctor.checks.rois import network_scale
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import Scores
from autoseg_lib.workflow.checking import Study


@dataclass(frozen=True)
class RoiSituation:
    """What is known of one ROI.

    Attributes:
        dice: on the validation scans; None where it was not measured.
        shown: slices (2D) or scans (3D) that show it, of those learned from.
        of: all slices or scans learned from.
        pixels: median size where it is shown, in pixels of a slice (2D) or voxels of a scan (3D) on the network's grid.
    """

    name: str
    dice: float | None
    shown: int
    of: int
    pixels: float


@dataclass(frozen=True)
class Situation:
    """What the answers rest on.

    Attributes:
        dimension: "2D" or "3D".
        patients, scans, slices: learned from; slices are those that show an ROI.
        patients_in_all: those kept back too; 0 where none were.
        split_kind: "patients", "cases", "same scan" or "none".
        history: rows of NAME_history.csv.
        reason: why training ended: "finished", "early", "time limit", "stopped".
        epochs: planned.
        steps: training steps done; None where that is not known.
        worst_loss: largest value of the training loss.
        findings: codes of the data check's findings.
        spacing_known: whether every scan says how large its pixels are.
        case_dice: validation scan → mean Dice.
        scale: resolution of the network's grid as a share of the images' own, per side.
        judged_epoch: epoch whose model the scores are of, where the scans kept back were learned from after it; 0: they never were.
    """

    dimension: str
    patients: int
    scans: int
    slices: int
    split_kind: str
    rois: tuple[RoiSituation, ...]
    history: tuple[Mapping[str, Any], ...] = ()
    reason: str = "finished"
    epochs: int = 0
    worst_loss: float = 1.0
    findings: frozenset[str] = frozenset()
    spacing_known: bool = True
    case_dice: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    patients_in_all: int = 0
    steps: int | None = None
    judged_epoch: int = 0


def situation_of(
    plan: Plan,
    study: Study,
    scores: Scores | None,
    history: Sequence[Mapping[str, Any]],
    reason: str,
    worst_loss: float,
    judged_epoch: int = 0,
) -> Situation:
    """Gathers them.

    Args:
        plan: of the run.
        study: the data folder.
        scores: of the best model on the scans kept back.
        history: rows of NAME_history.csv.
        reason: how training ended.
        worst_loss: largest value of the training loss.
        judged_epoch: epoch whose model the scores are of, where the scans kept back were learned from after it; 0: they never were.
    """
    facts = [study.report.facts[i] for i in plan.split.train]
    kept = None if plan.split.train_slices is None else set(plan.split.train_slices)
    scales = [_pixel_scale(case, plan) for case in facts]
    return Situation(
        dimension=plan.network.dimension,
        patients=len({case.patient for case in facts}),
        patients_in_all=len({case.patient for case in study.report.facts}),
        scans=len(facts),
        steps=len(history) * plan.steps_per_epoch,
        slices=sum(
            not item.is_empty
            for case in facts
            for i, item in enumerate(case.slices)
            if kept is None or i in kept
        ),
        split_kind=plan.split.kind,
        rois=tuple(
            _roi(label.name, label.value, number, facts, scales, plan, scores)
            for number, label in enumerate(plan.labels)
        ),
        history=tuple(history),
        reason=reason,
        epochs=plan.loop.epochs,
        judged_epoch=judged_epoch,
        worst_loss=worst_loss,
        findings=frozenset(finding.code for finding in study.report.findings),
        spacing_known=all(case.geometry.spacing_known for case in study.report.facts),
        case_dice={case.name: case.mean_dice for case in scores.cases} if scores else {},
        scale=float(np.median(scales)) ** (1 / (2 if plan.network.dimension == "2D" else 3)),
    )


def _pixel_scale(case: CaseFacts, plan: Plan) -> float:
    """How many pixels (voxels) of the network's grid one of the scan becomes."""
    if plan.preprocessing.input_shape is not None:
        return network_scale(case, list(plan.preprocessing.input_shape))
    spacing = plan.preprocessing.spacing_zyx_mm
    return 1.0 if spacing is None else float(np.prod(case.geometry.spacing_zyx_mm) / np.prod(spacing))


def _roi(
    name: str,
    value: int,
    number: int,
    facts: Sequence[CaseFacts],
    scales: Sequence[float],
    plan: Plan,
    scores: Scores | None,
) -> RoiSituation:
    sizes: list[float] = []
    of = 0
    for case, scale in zip(facts, scales, strict=True):
        counts = [count.get(value, 0) for count in case.counts]
        units = counts if plan.network.dimension == "2D" else [sum(counts)]
        of += len(units)
        sizes += [scale * count for count in units if count]
    return RoiSituation(
        name=name,
        dice=scores.per_roi[number] if scores else None,
        shown=len(sizes),
        of=of,
        pixels=float(np.median(sizes)) if sizes else 0.0,
    )
