"""Error bars of a trained model: calibrated on the scans kept back, and put into the model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoseg_lib.errors import ExportError
from autoseg_lib.events import Listener, Message
from autoseg_lib.measure.calibrate import calibrate
from autoseg_lib.measure.calibration import Calibration, CalibrationScan
from autoseg_lib.networks.model_file import LoadedModel, save_model
from autoseg_lib.train.files import RunFiles
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import Scores
from autoseg_lib.workflow.calibration_file import read_calibration_scans, write_calibration_scans

# What the scans kept back were, by the kind of split; see docs/trust.md on what that promises.
_WHAT = {
    "patients": "patients kept back from training, who also chose the best epoch",
    "cases": "other scans of the one patient there is; the bars say nothing about other patients",
}
_WHAT_FOLDS = "each predicted by the network that has not learned from it or its patient"


def calibrate_scores(plan: Plan, scores: Scores | None) -> Calibration:
    """Returns the calibration that the last look at the scans kept back gives.

    Args:
        plan: of the run.
        scores: of that look; their ``counts`` are of the answers as segmenting gives them, post-processed.
    """
    scans = [case.counts for case in scores.cases if case.counts is not None] if scores else []
    return calibrate_scans(scans, plan.labels.names, plan.split.kind)


def calibrate_scans(
    scans: Sequence[CalibrationScan], rois: Sequence[str], kind: str, *, folds: bool = False
) -> Calibration:
    """Returns the calibration of scans kept back.

    Args:
        scans: what was found on them.
        rois: names of the ROIs.
        kind: of the split, see data/split.py.
        folds: whether each was predicted by the network of a fold.
    """
    if kind == "same scan":
        return Calibration(
            reason="the slices kept back are of the scan that was learned from", rois=tuple(rois)
        )
    if kind == "cases":
        # Of one patient each scan counts by itself: the bars are for further scans of this patient.
        scans = [replace(scan, patient=scan.name) for scan in scans]
    what = _WHAT.get(kind, "scans kept back from training")
    if folds and kind == "patients":
        what = _WHAT_FOLDS
    return calibrate(scans, rois, what)


def keep_calibration(
    plan: Plan, model: LoadedModel, calibration: Calibration, scores: Scores | None, on_event: Listener
) -> None:
    """Puts the calibration into the model file, and what it was made from into NAME_calibration.csv.

    Raises:
        ExportError: the model file cannot be written.
    """
    save_model(model.path, model.network, {**model.metadata, "calibration": calibration.to_dict()})
    keep_calibration_scans(plan.files, scores, plan.labels.names, on_event)


def keep_calibration_scans(
    files: RunFiles, scores: Scores | None, rois: Sequence[str], on_event: Listener
) -> None:
    """Writes NAME_calibration.csv; that it cannot be written must not end a training."""
    scans = [case.counts for case in scores.cases if case.counts is not None] if scores else []
    if not scans:
        return
    try:
        write_calibration_scans(files.calibration, scans, rois)
    except ExportError as error:
        on_event(Message(f"{error} The model is complete without it.", "warning"))


def calibrate_folds(cases: Sequence[tuple[RunFiles, Scores]], rois: Sequence[str], kind: str) -> Calibration:
    """Returns the calibration of all folds together.

    Args:
        cases: files and scores of each fold; counts of an earlier sitting are read back from NAME_foldN_calibration.csv.
        rois: names of the ROIs.
        kind: of the split.
    """
    scans: list[CalibrationScan] = []
    for files, scores in cases:
        known = [case.counts for case in scores.cases]
        read = {s.name: s for s in read_calibration_scans(files.calibration, rois) or ()}
        for case, counts in zip(scores.cases, known, strict=True):
            found = counts or read.get(case.name)
            if found is None:
                return Calibration(
                    reason=f"'{files.calibration.name}', which tells of the scans of a fold, is not there any more",
                    rois=tuple(rois),
                )
            # Patients are numbered in each file by itself.
            scans.append(found if counts else replace(found, patient=f"{files.name} {found.patient}"))
    return calibrate_scans(scans, rois, kind, folds=True)


def error_bars_text(calibration: Calibration) -> str:
    """Returns a sentence on whether areas and volumes will get error bars."""
    if calibration.reason:
        return f"Areas and volumes will get no error bars: {calibration.reason}."
    return (
        f"Areas and volumes will get error bars (90 % intervals), calibrated on {calibration.scans} scans of "
        f"{calibration.patients} patients."
    )
