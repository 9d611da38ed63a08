"""The main job from one command: good outlines and true areas on scans that the model has not seen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from autoseg_lib.cli import main


def test_demo_reaches_the_truth_on_unseen_scans(tmp_path: Path):
    folder = tmp_path / "démo 1"
    assert main(["demo", str(folder)]) == 0
    truth = pd.read_csv(folder / "example" / "truth.csv")
    measured = pd.read_csv(folder / "predictions" / "example_test" / "measurements.csv")
    scans = sorted(measured["case"].unique())
    assert scans == sorted(path.name for path in (folder / "example" / "test" / "images").iterdir())
    both = measured.merge(truth, on=["case", "slice_number", "roi"], suffixes=("", "_true"))
    assert len(both) == len(truth[truth["case"].isin(scans)])
    scores = pd.read_csv(folder / "evaluation.csv")
    for roi, rows in both.groupby("roi"):
        error = 100 * (rows["area_mm2"] - rows["area_mm2_true"]).abs().sum() / rows["area_mm2_true"].sum()
        dice = scores[scores["roi"] == roi]["dice"].mean()
        assert dice >= 0.95, f"{roi}: Dice {dice:.3f}"
        assert error <= 3.0, f"{roi}: area error {error:.2f} %"
