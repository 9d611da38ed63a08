"""From a training to a scan with error bars: calibrated on the scans kept back, kept in the model file, read when segmenting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autoseg_lib.events import nobody
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.calibration import Calibration, CalibrationScan
from autoseg_lib.measure.flags import TrainingFacts
from autoseg_lib.networks.model_file import read_metadata
from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings
from autoseg_lib.train.files import RunFiles
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.validate import CaseScore, Scores
from autoseg_lib.workflow.calibrating import calibrate_folds, keep_calibration_scans
from autoseg_lib.workflow.calibration_file import read_calibration_scans
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.segmenting import segment
from autoseg_lib.workflow.training import prepare_training, train
from autoseg_lib.workflow.training_result import TrainingResult
from tests.helpers.studies import write_volume_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")
NAMES = ("one", "two")


def trained(folder: Path, **changes: object) -> TrainingResult:
    values = {
        "main_dir": str(folder),
        "model_dir": str(folder / "models"),
        "model_filename": "tiny",
        "dimension": "3D",
        "network": "light_unet",
        "patch_size": [16, 16, 16],
        "labels_list": list(NAMES),
        "epochs": 2,
        "batch_size": 2,
        "patient_pattern": r"\d+",
        **changes,
    }
    return train(prepare_training(check_study(make_settings(TrainSettings, values)), folder, nobody, CPU))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volume_study(tmp_path_factory.mktemp("calibrated") / "étude", scans=25, size=16)


@pytest.fixture(scope="module")
def done(study: Path) -> TrainingResult:
    return trained(study, validation_fraction=0.84)


def test_a_training_with_enough_patients_calibrates_its_model(study: Path, done: TrainingResult) -> None:
    assert done.error_bars == (
        "Areas and volumes will get error bars (90 % intervals), calibrated on 21 scans of 21 patients."
    )
    assert done.error_bars in done.lines()
    metadata = read_metadata(study / "models" / "tiny_best.safetensors")
    calibration = Calibration.from_dict(metadata["calibration"])
    assert (calibration.reason, calibration.patients, calibration.rois) == ("", 21, NAMES)
    assert calibration.what == "patients kept back from training, who also chose the best epoch"
    kept = read_calibration_scans(study / "models" / "tiny_calibration.csv", NAMES)
    assert kept is not None and len(kept) == 21
    # The labels are balls of known size: 16 × 0.17 pixels in radius.
    ball = sum(
        round(x) ** 2 + round(y) ** 2 + round(z) ** 2 <= 2.72**2
        for x in range(-3, 4)
        for y in range(-3, 4)
        for z in range(-3, 4)
    )
    assert np.mean([scan.true[:, 0].sum() for scan in kept]) == pytest.approx(ball, rel=0.1)
    facts = TrainingFacts.from_metadata(metadata)
    assert (facts.scans, facts.pixel_mm, facts.slice_mm) == (25, (1.0, 1.0), (1.0, 1.0))
    assert set(facts.rois) == set(NAMES)


def test_segmenting_gives_every_area_and_volume_its_bar(
    study: Path, done: TrainingResult, tmp_path: Path
) -> None:
    model = study / "models" / "tiny_best.safetensors"
    scan = study / "train" / "images" / "scan_3.nii.gz"
    result = segment(scan, model, tmp_path / "run", make_settings(SegmentSettings, {"formats": ["png"]}))
    table = pd.read_csv(tmp_path / "run" / "measurements.csv")
    assert (table["area_mm2_low"] <= table["area_mm2"]).all() and (
        table["area_mm2"] <= table["area_mm2_high"]
    ).all()
    found = table[table["pixels"] > 0]
    assert (
        len(found)
        and (found["area_mm2_high"] > found["area_mm2_low"]).all()
        and (table["area_mm2_low"] >= 0).all()
    )
    volumes = pd.read_csv(tmp_path / "run" / "volumes.csv")
    assert (volumes["volume_ml_low"] <= volumes["volume_ml"]).all()
    assert (volumes["volume_ml"] <= volumes["volume_ml_high"]).all()
    assert "calibrated on 21 scans" in (tmp_path / "run" / "run_report.json").read_text(encoding="utf-8")
    assert result.cases[0].measurements[0].area_mm2_high is not None


def test_a_small_study_says_why_it_gets_none(tmp_path: Path) -> None:
    folder = write_volume_study(tmp_path / "small", scans=5, size=16)
    result = trained(folder)
    assert result.error_bars == (
        "Areas and volumes will get no error bars: 1 scan was kept back to calibrate on, and at least 20 patients are needed."
    )
    model = folder / "models" / "tiny_best.safetensors"
    assert Calibration.from_dict(read_metadata(model)["calibration"]).reason
    segment(
        folder / "train" / "images" / "scan_0.nii.gz",
        model,
        tmp_path / "run",
        make_settings(SegmentSettings, {}),
    )
    report = (tmp_path / "run" / "run_report.json").read_text(encoding="utf-8")
    assert (
        "no error bars: 1 scan was kept back to calibrate on, and at least 20 patients are needed." in report
    )
    table = pd.read_csv(tmp_path / "run" / "measurements.csv")
    assert "area_mm2_low" not in table or table["area_mm2_low"].isna().all()


def test_nothing_kept_back(tmp_path: Path) -> None:
    result = trained(write_volume_study(tmp_path / "small", scans=3, size=16), validation_fraction=0)
    assert result.error_bars.endswith("no scans were kept back from training to calibrate on.")


# --- folds --------------------------------------------------------------------------------------------------------------


def fold(number: int, folder: Path, patients: range) -> tuple[RunFiles, Scores]:
    one = np.full((2, 1), 100)
    cases = []
    for k in patients:
        counts = CalibrationScan(
            f"scan {k}", f"patient {k}", one + k, one, one, one + 20, one - 20, 1.0, np.full(2, 3.0)
        )
        empty = np.zeros((1, 1), np.uint8)
        cases.append(CaseScore(f"scan {k}", 0.0, (0.9,), (1.0,), 0, empty, empty, empty, counts=counts))
    return RunFiles(folder, f"cv_fold{number}"), Scores(tuple(cases))


def test_folds_are_calibrated_together_also_after_a_restart(tmp_path: Path) -> None:
    folds = [fold(1, tmp_path, range(10)), fold(2, tmp_path, range(10, 20))]
    at_once = calibrate_folds(folds, ["one"], "patients")
    # As worked out in test_error_bars.py: 18 of 75.449.
    assert at_once.areas[0].factor == pytest.approx(18 / 75.4490770)
    assert at_once.what == "each predicted by the network that has not learned from it or its patient"
    for files, scores in folds:
        keep_calibration_scans(files, scores, ["one"], nobody)
    again = [
        (files, Scores(tuple(replace(case, counts=None) for case in scores.cases)))
        if files.name == "cv_fold1"
        else (files, scores)
        for files, scores in folds
    ]
    assert calibrate_folds(again, ["one"], "patients") == at_once
    (tmp_path / "cv_fold1_calibration.csv").unlink()
    lost = calibrate_folds(again, ["one"], "patients")
    assert (
        lost.reason == "'cv_fold1_calibration.csv', which tells of the scans of a fold, is not there any more"
    )
    assert LabelTable(["one"]).names == lost.rois
