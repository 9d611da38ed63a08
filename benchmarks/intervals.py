"""Do the error bars hold what they promise, and do the flags find the slices that are wrong?

    python benchmarks/intervals.py                                  hippocampus and example study, 0.5, 1 and 4 minutes
    python benchmarks/intervals.py --only hippocampus --minutes 2
    python benchmarks/intervals.py --table                          what is there so far

The product is trained on some scans, with a time limit, and predicts the others once; what it found on each of their slices is
kept (build/benchmarks/intervals/), with the model. Then the others are split at random, patient by patient, many times: on one
part error bars are calibrated, on the other it is counted how often they hold the true area or volume, how wide they are, and
whether slices with a Dice below 0.8 are flagged.

Finished predictions are not made again, so that the whole may be run in pieces.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import (
    HIPPOCAMPUS,
    Results,
    Split,
    Task,
    budget_text,
    pairs_by_patient,
    parser,
    read_scans,
    say,
    say_event,
    settings_for,
    start,
    write_layout,
)

from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.measure.calibration import CalibrationScan
from autoseg_lib.networks.model_file import load_model
from autoseg_lib.settings import SegmentSettings, make_settings
from autoseg_lib.train.validate import ValidationScan
from autoseg_lib.workflow.calibration_file import write_calibration_scans
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.segmenting import make_predictor
from autoseg_lib.workflow.training import prepare_training, train

TASKS = ("hippocampus", "example")
MINUTES = (0.5, 1.0, 4.0)
# Enough that the product keeps 20 patients back to calibrate on.
TRAINING_SCANS = 100
# Two of seven scans of an example study are kept for testing.
EXAMPLE_SCANS = 350


# --- training and predicting --------------------------------------------------------------------------------------------


def split_of(name: str, seed: int, place: Path) -> Split:
    """Returns 100 scans to train on, and the others."""
    if name == "example":
        study = write_example_study(place / "example", scans=EXAMPLE_SCANS, seed=seed)
        task = Task("example", "", "", "", study.roi_names, "2D", "")
        pairs = {part: _example_pairs(study.folder / part) for part in ("train", "test")}
        return Split(task, "1", pairs["train"][:TRAINING_SCANS], pairs["test"])
    patients = pairs_by_patient(HIPPOCAMPUS)
    names = [str(n) for n in np.random.default_rng([seed, 61]).permutation(sorted(patients))]
    train_part, rest = sorted(names[:TRAINING_SCANS]), sorted(names[TRAINING_SCANS:])
    parts = [tuple(pair for n in part for pair in patients[n]) for part in (train_part, rest)]
    return Split(HIPPOCAMPUS, "1", parts[0], parts[1])


def _example_pairs(part: Path) -> tuple[tuple[Path, Path], ...]:
    return tuple((scan, part / "labels" / scan.name) for scan in sorted((part / "images").iterdir()))


def run(name: str, budgets: Sequence[float], results: Results, seed: int, kept: Path) -> None:
    """Trains and predicts what is missing."""
    missing = [m for m in sorted(budgets) if not rows_file(kept, name, m).is_file()]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as place:
        split = split_of(name, seed, Path(place))
        test = read_scans(split.task, write_layout(split, "test", Path(place) / "test"))
        folder = write_layout(split, "train", Path(place) / "train")
        for budget in missing:
            model = kept / f"{name}_{budget_text(budget)}.safetensors"
            if not model.is_file():
                _train(split, folder, budget, results, model)
            scans = [_predicted(model, scan, split.task.rois) for scan in test]
            write_calibration_scans(rows_file(kept, name, budget), scans, split.task.rois)


def rows_file(kept: Path, name: str, minutes: float) -> Path:
    """Where the predictions of a model are kept."""
    return kept / f"{name}_{budget_text(minutes)}.csv"


def _train(split: Split, folder: Path, budget: float, results: Results, model: Path) -> None:
    name = f"{split.task.name}_{budget_text(budget)}"
    study = check_study(settings_for(split.task, folder, budget, model_filename=name))
    prepared = prepare_training(study, folder, say_event, clock=results.clock)
    say(f"    {prepared.summary}\n    {prepared.plan.split.text}")
    result = train(prepared, say_event, clock=results.clock)
    if result.model_path is None:
        raise SystemExit(f"{split.task.name}: no model came out after {budget:g} minutes.")
    model.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(result.model_path, model)


def _predicted(model_path: Path, scan: ValidationScan, rois: Sequence[str]) -> CalibrationScan:
    model = load_model(model_path)
    predictor = make_predictor(model, make_settings(SegmentSettings, {}), [])
    answer = predictor.predict_soft(scan.volume)
    if answer.soft is None:
        raise SystemExit(f"{scan.name}: the answer has no soft counts.")
    return CalibrationScan.compare(
        scan.mask, answer.mask, answer.soft, model.labels, scan.name, scan.patient or scan.name
    )


def main() -> None:
    """Runs what is missing and prints the tables."""
    options = parser(__doc__, "intervals", TASKS)
    given = options.parse_args()
    results = start(given)
    kept = given.results.with_suffix("")
    for name in TASKS if given.only is None else (given.only,):
        if not given.table:
            run(name, given.minutes or MINUTES, results, given.seed, kept)


if __name__ == "__main__":
    main()
