"""The main job without a browser: example study → train → segment → measure, with the truth known."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from autoseg_lib.data.example_study import ExampleStudy, write_example_study
from autoseg_lib.errors import ModelError
from autoseg_lib.evaluate.folders import evaluate_folders
from autoseg_lib.evaluate.result import write_evaluation
from autoseg_lib.events import Listener, Message, StopFlag, nobody
from autoseg_lib.export.run_folder import next_free_name
from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings, read_settings_file
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.segmenting import SegmentResult, segment
from autoseg_lib.workflow.training import prepare_training, train
from autoseg_lib.workflow.training_result import TrainingResult


@dataclass(frozen=True)
class DemoResult:
    """What the demo has shown.

    Attributes:
        training: see TrainingResult.
        segmentation: the run on the test scans.
        scores: ROI → (mean Dice on the test scans, mean absolute area error in percent of the true area).
        seconds: whole time.
    """

    folder: Path
    training: TrainingResult
    segmentation: SegmentResult
    scores: dict[str, tuple[float, float]]
    seconds: float

    def lines(self) -> list[str]:
        """Returns the result as text lines."""
        lines = [
            "",
            "On the test scans, which the model has not seen:",
            f"{'ROI':<36} {'Dice':>6} {'area error':>11}",
        ]
        lines += [f"{roi:<36} {dice:>6.3f} {error:>9.2f} %" for roi, (dice, error) in self.scores.items()]
        lines.append(
            f"Done in {self.seconds / 60:.1f} minutes. Areas and volumes: {self.segmentation.run_folder}"
        )
        return lines


def run_demo(folder: Path, on_event: Listener = nobody, stop: StopFlag | None = None) -> DemoResult:
    """Makes the example study below ``folder``, trains on it, segments its test scans and compares with the truth.

    Args:
        folder: made if missing; a finished training in it is used again.
        on_event: hears the progress.
        stop: set to stop and keep.

    Raises:
        AutosegError: a step could not be done.
    """
    started, stop = time.monotonic(), stop or StopFlag()
    study = write_example_study(folder / "example", on_event=on_event)
    values = read_settings_file(study.settings_file)
    settings = make_settings(
        TrainSettings, {**values, "main_dir": str(study.folder), "model_dir": str(folder / "trained_model")}
    )
    checked = check_study(settings, on_event)
    on_event(Message(checked.report.summary))
    prepared = prepare_training(checked, folder, on_event)
    on_event(Message(prepared.summary))
    training = train(prepared, on_event, stop)
    if training.model_path is None or stop.is_set():
        raise ModelError(
            "the demo was stopped before the training was done. Run it again to go on from there."
        )
    output = next_free_name(folder / "predictions", "example_test")
    segmentation = segment(
        study.test_images,
        training.model_path,
        output,
        make_settings(SegmentSettings, {}),
        on_event=on_event,
        stop=stop,
    )
    evaluation = evaluate_folders(study.test_labels, segmentation.run_folder, on_event)
    write_evaluation(folder / "evaluation.csv", evaluation)
    scores = _scores(study, segmentation, evaluation.rows)
    return DemoResult(folder, training, segmentation, scores, time.monotonic() - started)


def _scores(study: ExampleStudy, segmentation: SegmentResult, rows: object) -> dict[str, tuple[float, float]]:
    """Dice against the label files, areas against the exact areas of truth.csv."""
    truth = pd.read_csv(study.truth)
    measured = pd.DataFrame(
        [
            {"case": row.case, "slice_number": row.slice_number, "roi": row.roi, "measured_mm2": row.area_mm2}
            for row in segmentation.measurements
        ]
    )
    both = measured.merge(truth, on=["case", "slice_number", "roi"], how="left").fillna({"area_mm2": 0.0})
    scores = {}
    for number, roi in enumerate(segmentation.labels.names, start=1):
        mine = both[both["roi"] == roi]
        error = float(100 * (mine["measured_mm2"] - mine["area_mm2"]).abs().sum() / mine["area_mm2"].sum())
        dice = [row.dice for row in rows if row.label == number and row.dice is not None]  # type: ignore[attr-defined]
        scores[roi] = (float(np.mean(dice)) if dice else float("nan"), error)
    return scores
