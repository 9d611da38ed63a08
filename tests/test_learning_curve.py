"""What more labelled scans would bring: made curves are foretold, and the range says how sure that is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autoseg_lib.events import Message, StopFlag, TrainingStarted, nobody
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.learning_curve import fit_learning_curve
from autoseg_lib.train.machine import Machine
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.label_more import measure_outlook
from autoseg_lib.workflow.runs import prepare_run, train_run
from tests.helpers.studies import write_png_study


def made(limit: float, drop: float, exponent: float, sizes: list[int]) -> np.ndarray:
    """limit - drop × (n / sizes[0])^-exponent"""
    return limit - drop * (np.array(sizes) / sizes[0]) ** -exponent


@pytest.mark.parametrize(("limit", "exponent"), [(0.92, 0.5), (0.95, 1.0), (0.85, 1.4)])
def test_a_made_curve_is_foretold(limit: float, exponent: float) -> None:
    """Points without noise, on five sizes: the gain from 48 to 96 follows from the formula."""
    sizes = [3, 6, 12, 24, 48]
    curve = fit_learning_curve(sizes, made(limit, 0.3, exponent, sizes), noise=0.002)
    gain = curve.gain(48, 96)
    true = 0.3 * (16**-exponent - 32**-exponent)
    assert gain.gain == pytest.approx(true, abs=0.004)
    assert gain.low <= true <= gain.high
    score, low, high = curve.score(96)
    assert low <= limit - 0.3 * 32**-exponent <= high
    assert low < score < high


def test_nine_ranges_in_ten_hold_the_truth() -> None:
    """60 made curves with noise, three points each: at least 50 ranges hold the gain of the formula, and none is absurdly wide."""
    rng = np.random.default_rng(3)
    sizes, held, widths = [4, 8, 16], 0, []
    for _ in range(60):
        limit, exponent = rng.uniform(0.8, 0.95), rng.uniform(0.4, 1.4)
        drop = rng.uniform(0.05, 0.4)
        curve = fit_learning_curve(sizes, made(limit, drop, exponent, sizes) + rng.normal(0, 0.012, 3))
        gain = curve.gain(16, 32)
        held += gain.low <= drop * (4**-exponent - 8**-exponent) <= gain.high
        widths.append(gain.high - gain.low)
    assert held >= 50
    assert np.median(widths) < 0.07


def test_nothing_to_gain() -> None:
    curve = fit_learning_curve([5, 10, 20], [0.99, 0.995, 0.998])
    text = curve.sentence(20, 40)
    assert text.startswith("Labelling 20 more scans would hardly change the mean Dice (at most by 0.00")
    assert text.endswith("judged from trainings on 5, 10 and 20 of your scans).")


def test_scores_that_fall_by_chance_foretell_no_loss() -> None:
    gain = fit_learning_curve([5, 10, 20], [0.88, 0.87, 0.86]).gain(20, 40)
    assert 0 <= gain.low <= gain.gain <= gain.high < 0.02


def test_more_scans_never_bring_less_and_no_score_is_above_one() -> None:
    curve = fit_learning_curve([20, 5, 10], [0.83, 0.70, 0.78])
    gains = [curve.gain(20, then).gain for then in (25, 30, 40, 80, 1000)]
    assert gains == sorted(gains) and gains[0] > 0
    assert curve.score(10**9)[2] <= 1.0
    assert curve.sizes == (5, 10, 20) and curve.scores == (0.70, 0.78, 0.83)


def test_the_further_away_the_less_sure() -> None:
    curve = fit_learning_curve([5, 10, 20], [0.70, 0.78, 0.83])
    near, far = curve.gain(20, 25), curve.gain(20, 200)
    assert far.high - far.low > 3 * (near.high - near.low)


def test_the_sentence_says_how_sure_it_is() -> None:
    curve = fit_learning_curve([5, 10, 20], [0.70, 0.78, 0.83])
    gain = curve.gain(20, 40)
    assert curve.sentence(20, 40, "patient") == (
        f"Labelling 20 more patients (40 instead of 20 to learn from) would raise the mean Dice by about {gain.gain:.3f} "
        f"(nine times in ten between {gain.low:.3f} and {gain.high:.3f}; judged from trainings on 5, 10 and 20 of your patients)."
    )
    assert curve.sentence(20, 21).startswith("Labelling 1 more scan would hardly change the mean Dice")


@pytest.mark.parametrize(
    ("sizes", "scores"), [([5, 10], [0.7, 0.8]), ([5, 5, 10], [0.7, 0.7, 0.8]), ([], [])]
)
def test_two_sizes_are_no_curve(sizes: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 3 numbers of scans"):
        fit_learning_curve(sizes, scores)


# --- from the user's own scans ----------------------------------------------------------------------------------------

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")


def settings(folder: Path, **changes: object) -> TrainSettings:
    values = {
        "main_dir": str(folder),
        "model_dir": str(folder / "models"),
        "model_filename": "few",
        "input_shape": 32,
        "epochs": 2,
        "batch_size": 4,
        "network": "light_unet",
        "labels_list": ["bright", "dark"],
        "patient_pattern": r"p\d+",
        "spacing_mm": 1.5,
        "learning_curve": True,
        **changes,
    }
    return make_settings(TrainSettings, values)


def test_parts_of_the_scans_are_trained_on_and_kept(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "étude", patients=10, slices=2, size=32)
    study = check_study(settings(folder))
    stop, events = StopFlag(), []

    def listener(event: object) -> None:
        events.append(event)
        # Stopped when the second part is about to begin: the sentence waits for the next sitting.
        if isinstance(event, Message) and "on 2 of the 8 patients" in event.text:
            stop.set()

    prepared = prepare_run(study, folder, nobody, CPU)
    first = train_run(prepared, listener, stop, CPU)
    assert first.outlook == "The learning curve was stopped; run again to go on."
    again: list[object] = []
    result = train_run(prepare_run(study, folder, nobody, CPU), again.append, None, CPU)
    # The training and the half are done; only the quarter is trained, for four times as many passes.
    assert [event.epochs for event in again if isinstance(event, TrainingStarted)] == [8]
    assert result.outlook.startswith("Labelling 8 more patients") and result.outlook in result.lines()
    table = pd.read_csv(folder / "models" / "few_learning_curve.csv")
    assert list(table.columns) == ["patients", "mean_dice"] and list(table["patients"]) == [2, 4, 8]
    assert table["mean_dice"].iloc[-1] == pytest.approx(result.scores.mean)
    report = json.loads((folder / "models" / "few_report.json").read_text(encoding="utf-8"))
    assert report["learning_curve"]["text"] == result.outlook
    assert result.model_path == folder / "models" / "few_best.safetensors"


def test_too_few_patients_are_said(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "few", patients=5, slices=2, size=32)
    study = check_study(settings(folder))
    prepared = prepare_run(study, folder, nobody, CPU)
    outlook = measure_outlook(study, prepared.plan, 0.8, machine=CPU)
    assert outlook.curve is None
    assert outlook.text == (
        "What more labelled scans would bring cannot be said: at least 8 patients to learn from and others to judge by are "
        "needed, found 4 patients to learn from."
    )
