"""The best model looks at all scans kept back once more: scores, and what they teach goes into the model file.

A region finder that pays comes first, tried with the model as training left it; then the one thorough look, with it; then the
post-processing that helps, and the calibration of the error bars. So scores and error bars are of what segmenting does. The
region finder is judged without post-processing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from autoseg_lib.errors import counted
from autoseg_lib.events import Listener, Message
from autoseg_lib.infer.region_choice import TRIAL_FAILED, propose_region_finder
from autoseg_lib.networks.model_file import LoadedModel, load_model
from autoseg_lib.networks.registry import number_of_weights
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import Scores, ValidationScan
from autoseg_lib.workflow.calibrating import calibrate_scores, error_bars_text, keep_calibration
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.final_scores import ShownScan, final_scores
from autoseg_lib.workflow.kept_answers import KeptAnswers, keep_answers
from autoseg_lib.workflow.model_choice import segmenting_predictor
from autoseg_lib.workflow.pipeline_editing import POSTPROCESSING, REGION_FINDER
from autoseg_lib.workflow.postprocessing_scores import FOUND_KEY, with_postprocessing
from autoseg_lib.workflow.training_data import read_validation_scan, validation_scans

# Key of the sentence on the region finder in the model file.
REGION_TEXT = "region_finder_found"
# Keys of what the scans kept back tell of a model.
_FOUND = ("validation", POSTPROCESSING, FOUND_KEY, REGION_FINDER, REGION_TEXT)
# Key of the epoch whose model the scans kept back have judged, where they were learned from after it.
JUDGED_EPOCH = "judged_epoch"
# A scan of fewer windows than this is looked at as quickly as its region could be found.
FEWEST_WINDOWS = 8


@dataclass(frozen=True)
class LastLook:
    """What the best model does on the scans kept back.

    Attributes:
        path: the model file; None where not one epoch was done.
        scores: on all scans kept back, after post-processing; None without any.
        shown: the worst and best scans, worst first.
        weights: number of weights.
        error_bars: whether areas and volumes will get error bars, one sentence.
        found: what will be done when segmenting (post-processing, region finder), and why, one sentence each.
    """

    path: Path | None = None
    scores: Scores | None = None
    shown: tuple[ShownScan, ...] = field(default=(), repr=False)
    weights: int = 0
    error_bars: str = ""
    found: tuple[str, ...] = ()


def last_look(plan: Plan, study: Study, on_event: Listener, already: bool, judged_epoch: int = 0) -> LastLook:
    """Scores the best model and completes its file.

    Args:
        plan: of the run.
        study: the data folder.
        on_event: hears the progress.
        already: the run was found finished and is only shown; what its file tells already is not found anew.
        judged_epoch: epoch after which the run learned from the scans kept back, too: they judge the model of that epoch; 0:
            they were never learned from.

    Raises:
        ModelError, ExportError: the model file cannot be read or written.
    """
    path = plan.files.best
    if not path.is_file():
        return LastLook()
    final = load_model(path, plan.loop.device)
    model = _judged_model(final, plan, judged_epoch, on_event) if judged_epoch else final
    if model is None:
        return LastLook(path, weights=number_of_weights(final.network))
    # Of folds the scans kept back choose nothing: the model is that of the last epoch.
    which = "trained model" if plan.loop.keep_last else "best model"
    if judged_epoch:
        which = f"model of epoch {judged_epoch}"
    told = already and "calibration" in final.metadata
    if told:  # nothing is found anew, and the judged model's file may not tell what was
        model = replace(model, metadata={**model.metadata, **_found_in(final)})
    if not plan.loop.keep_last and not told:
        model = with_region_finder(model, plan, study, on_event)
    on_event(Message(f"Looking at all validation scans with the {which} ..."))
    kept, found = KeptAnswers(), []
    scores, shown = final_scores(
        segmenting_predictor(model),
        validation_scans(study, plan),
        plan.labels,
        on_event,
        len(plan.split.validation),
        keep=kept,
    )
    if plan.loop.keep_last:
        # Folds decide together (folds_result.py): the scans that one of them kept back choose nothing.
        keep_answers(plan.files.answers, kept, on_event)
    else:
        known = final.metadata if told else None
        after = with_postprocessing(scores, shown, kept, plan.labels, known=known)
        scores, shown = after.scores, after.shown
        model = replace(model, metadata={**model.metadata, **after.metadata()})
        found = [after.text, str(model.metadata.get(REGION_TEXT) or "")]
    looked = f": mean Dice {scores.mean:.3f}" if scores else ", there are none"
    on_event(Message(f"Looked at {counted(len(scores.cases) if scores else 0, 'validation scan')}{looked}."))
    calibration = calibrate_scores(plan, scores)
    if not told:
        if judged_epoch:
            rest = {key: value for key, value in final.metadata.items() if key not in _FOUND}
            model = replace(final, metadata={**rest, **_found_in(model), JUDGED_EPOCH: judged_epoch})
        keep_calibration(plan, model, calibration, scores, on_event)
    return LastLook(
        path,
        scores,
        shown,
        number_of_weights(model.network),
        error_bars_text(calibration),
        tuple(text for text in found if text),
    )


def _found_in(model: LoadedModel) -> dict[str, Any]:
    """What the scans kept back have told of a model."""
    return {key: model.metadata[key] for key in _FOUND if key in model.metadata}


def _judged_model(final: LoadedModel, plan: Plan, epoch: int, on_event: Listener) -> LoadedModel | None:
    """The model as it was before it learned from the scans kept back; None where its file is gone."""
    path = plan.files.at_epoch(epoch)
    if path.is_file():
        return load_model(path, plan.loop.device)
    on_event(
        Message(
            f"'{path.name}', the model that the scans kept back have judged, is not there any more: '{final.path.name}' has learned "
            f"from them since, so they cannot judge it. The scores are in '{plan.files.report.name}'.",
            "warning",
        )
    )
    return None


# --- two stages -------------------------------------------------------------------------------------------------------


def with_region_finder(model: LoadedModel, plan: Plan, study: Study, on_event: Listener) -> LoadedModel:
    """Returns the model with a region finder where that pays on the scans kept back, else without one.

    A run with a time limit does not try: learning and the last look take all of its time. Without a limit the trial comes on top
    of the time that is expected: each scan kept back on large voxels, and some of them twice more.

    Args:
        model: the trained model.
        plan: of the run.
        study: the data folder.
        on_event: hears the progress.
    """
    # Epochs may have been added to a run that had one.
    rest = {key: value for key, value in model.metadata.items() if key not in (REGION_FINDER, REGION_TEXT)}
    model = replace(model, metadata=rest)
    scans = _KeptBack(plan, study)
    if plan.window is None or plan.loop.time_limit_seconds is not None or not scans:
        return model
    if _windows(model, scans[0]) < FEWEST_WINDOWS:
        return model
    finder, text = propose_region_finder(segmenting_predictor(model), scans, plan.labels, on_event=on_event)
    if finder is None:
        if text.startswith(TRIAL_FAILED):
            on_event(Message(text, "warning"))
        return model
    found: dict[str, Any] = {REGION_FINDER: finder.to_dict(), REGION_TEXT: text}
    return replace(model, metadata={**model.metadata, **found})


def _windows(model: LoadedModel, scan: ValidationScan) -> float:
    """How many windows the scan holds, side by side."""
    grid = model.preprocessing.network_geometry(scan.volume.geometry)
    return float(np.prod(grid.shape_zyx)) / float(np.prod(model.spec.input_shape))


class _KeptBack(Sequence[ValidationScan]):
    """The scans kept back, read when they are asked for: all of them at once may be more than memory holds."""

    def __init__(self, plan: Plan, study: Study) -> None:
        self._plan, self._study = plan, study

    def __len__(self) -> int:
        return len(self._plan.split.validation)

    @overload
    def __getitem__(self, item: int) -> ValidationScan: ...
    @overload
    def __getitem__(self, item: slice) -> list[ValidationScan]: ...
    def __getitem__(self, item: int | slice) -> ValidationScan | list[ValidationScan]:
        places = self._plan.split.validation
        if isinstance(item, slice):
            return [read_validation_scan(self._study, self._plan, index) for index in places[item]]
        return read_validation_scan(self._study, self._plan, places[item])

    def __iter__(self) -> Iterator[ValidationScan]:
        return validation_scans(self._study, self._plan)
