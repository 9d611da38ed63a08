"""Scores with the post-processing that segmenting will do, and what is said of it after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoseg_lib.errors import AutosegError
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.calibration import CalibrationScan
from autoseg_lib.postprocess.pipeline import Postprocessing
from autoseg_lib.train.validate import CaseScore, Scores, rescored
from autoseg_lib.workflow.final_scores import ShownScan
from autoseg_lib.workflow.kept_answers import KeptAnswers
from autoseg_lib.workflow.pipeline_editing import POSTPROCESSING
from autoseg_lib.workflow.postprocessing_choice import propose_postprocessing

# Key of the model file beside "postprocessing": the sentence on why the steps are as they are.
FOUND_KEY = "postprocessing_found"


@dataclass(frozen=True)
class Postprocessed:
    """Scores as segmenting gives them.

    Attributes:
        steps: the post-processing.
        text: one sentence on what was tried and found; "" where nothing was.
        scores: of the answers after it.
        shown: the scans to scroll through, after it.
    """

    steps: Postprocessing
    text: str
    scores: Scores | None = field(repr=False)
    shown: tuple[ShownScan, ...] = field(repr=False)

    def metadata(self) -> dict[str, Any]:
        """Returns what goes into the model file."""
        return {POSTPROCESSING: self.steps.to_list(), FOUND_KEY: self.text}


def with_postprocessing(
    scores: Scores | None,
    shown: tuple[ShownScan, ...],
    kept: KeptAnswers,
    labels: LabelTable,
    *,
    known: Mapping[str, Any] | None = None,
    counts: Mapping[str, CalibrationScan] | None = None,
) -> Postprocessed:
    """Finds the post-processing that helps, and scores the answers once more with it.

    Args:
        scores: of the answers as the model gives them.
        shown: scans to scroll through.
        kept: all answers.
        labels: the ROIs.
        known: metadata of a model whose post-processing was chosen before; it is applied, nothing is tried.
        counts: name → pixel counts for calibrating, for scores that have none with them.
    """
    if known is not None:
        steps, text = _of_metadata(known, labels), str(known.get(FOUND_KEY, ""))
    else:
        steps, text = propose_postprocessing(kept.pairs(), labels)
    after = _apply(steps, scores, shown, kept, labels, counts or {})
    if known is None and steps.steps and _falls(scores, after.scores):
        # Each ROI was judged by itself; where steps of several get into each other's way, none is taken.
        text = "Post-processing was tried on the scans kept back; together the steps that help single ROIs harm another, so none is done."
        return Postprocessed(Postprocessing(), text, scores, shown)
    return replace(after, text=text)


def _of_metadata(metadata: Mapping[str, Any], labels: LabelTable) -> Postprocessing:
    steps = Postprocessing.from_list(metadata.get(POSTPROCESSING) or [])
    steps.check(labels)
    return steps


def _apply(
    steps: Postprocessing,
    scores: Scores | None,
    shown: tuple[ShownScan, ...],
    kept: KeptAnswers,
    labels: LabelTable,
    counts: Mapping[str, CalibrationScan],
) -> Postprocessed:
    if scores is None or not steps.steps:
        return Postprocessed(steps, "", scores, shown)
    cases: list[CaseScore] = []
    by_name = {scan.name: scan for scan in shown}
    for case in scores.cases:
        pair = kept.of(case.name)
        if pair is None:
            cases.append(case)
            continue
        truth, answer = pair
        try:
            answer = steps.apply(answer, labels)[0]
        except (
            AutosegError
        ):  # a step in mm that somebody added, and a scan without: its score stays as it was
            cases.append(case)
            continue
        case = replace(case, counts=case.counts or counts.get(case.name))
        cases.append(rescored(case, truth, answer, labels))
        if case.name in by_name:
            by_name[case.name] = replace(by_name[case.name], answer=answer, dice=cases[-1].mean_dice)
    ordered = sorted(by_name.values(), key=lambda scan: scan.dice)
    return Postprocessed(steps, "", Scores(tuple(cases)), tuple(ordered))


def _falls(before: Scores | None, after: Scores | None) -> bool:
    """Whether the mean Dice of a ROI is lower than before, beyond rounding."""
    if before is None or after is None:
        return False
    return any(
        was is not None and now is not None and now < was - 1e-9
        for was, now in zip(before.per_roi, after.per_roi, strict=True)
    )
