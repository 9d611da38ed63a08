"""How good is a model of real scans after a few minutes on this computer?

    python benchmarks/real_accuracy.py hippocampus --minutes 10
    python benchmarks/real_accuracy.py cardiac --minutes 5
    python benchmarks/real_accuracy.py cardiac_png --minutes 10

Patients are kept back before training starts, in a way that does not look at their content; the model is trained on the rest
with default settings and a time limit, through the same functions as the notebooks and the command line. The scans kept back are
then segmented and compared with their labels on their own pixels.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.events import Event, Message
from autoseg_lib.metrics.overlap import dice_per_roi
from autoseg_lib.networks.model_file import load_model
from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.segmenting import make_predictor
from autoseg_lib.workflow.training import prepare_training, train


@dataclass(frozen=True)
class Task:
    """A real data set and how it is split: every ``keep``-th patient is kept back for the test."""

    folder: str
    images: str
    labels: str
    rois: tuple[str, ...]
    dimension: str
    pattern: str
    keep: int


TASKS = {
    "hippocampus": Task("hippocampus_msd", "images", "labels", ("anterior", "posterior"), "3D", r"\d+", 6),
    # Label 1 alone: only half of the slices have the myocardium drawn (see the data set's README).
    "cardiac": Task("sunnybrook_cardiac", "images", "labels", ("LV cavity",), "2D", r"^[^_]+", 3),
    "cardiac_png": Task(
        "sunnybrook_png", "train/images", "train/labels", ("LV cavity",), "2D", r"^(.*)-IM-", 5
    ),
}


def data_root() -> Path:
    """Returns the folder of the real scans."""
    given = os.environ.get("AUTOSEG_TEST_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"


def split(task: Task) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]:
    """Returns (training pairs, test pairs) of image and label files; patients stay together."""
    import re

    root = data_root() / task.folder
    by_patient: dict[str, list[tuple[Path, Path]]] = {}
    for image in sorted((root / task.images).iterdir()):
        stem = image.name.split(".")[0]
        label = next((root / task.labels).glob(f"{stem}.*"))
        found = re.search(task.pattern, stem)
        patient = found.group(1) if found and found.groups() else found.group() if found else stem
        by_patient.setdefault(patient, []).append((image, label))
    training, testing = [], []
    for number, pairs in enumerate(by_patient.values()):
        (testing if number % task.keep == task.keep - 1 else training).extend(pairs)
    return training, testing


def write_layout(pairs: list[tuple[Path, Path]], folder: Path, rois: int) -> Path:
    """Lays the pairs out for training; label values above ``rois`` become background (cardiac: unlabelled myocardium)."""
    from PIL import Image

    images, labels = folder / "train" / "images", folder / "train" / "labels"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for image, label in pairs:
        shutil.copy(image, images / image.name)
        if label.suffix == ".png":
            values = np.asarray(Image.open(label)).copy()
            values[values > rois] = 0
            Image.fromarray(values.astype(np.uint8)).save(labels / label.name)
        else:
            shutil.copy(label, labels / label.name)
    return folder


def settings_for(task: Task, folder: Path, minutes: float | None = None) -> TrainSettings:
    """Returns default settings for the task."""
    values: dict[str, object] = {
        "main_dir": str(folder),
        "model_filename": task.folder,
        "model_dir": str(folder / "models"),
        "labels_list": list(task.rois),
        "dimension": task.dimension,
        "patient_pattern": task.pattern,
    }
    if minutes:
        values["time_limit_minutes"] = minutes
    return make_settings(TrainSettings, values)


def test_scores(task: Task, folder: Path, model_path: Path) -> Iterator[tuple[str, list[float | None]]]:
    """Yields (scan, Dice per ROI) of the scans kept back, on their own pixels."""
    model = load_model(model_path)
    predictor = make_predictor(model, make_settings(SegmentSettings, {}), [])
    settings = settings_for(task, folder)
    study = check_study(settings)
    for index in study.report.usable:
        case = study.pairing.cases[index]
        scan, mask, _ = load_training_case(case, settings)
        prediction = predictor.predict(scan.volume)
        yield case.name, dice_per_roi(mask.array, prediction.array, model.labels)


def say(event: Event) -> None:
    """Prints the lines of the training."""
    if isinstance(event, Message):
        print(event.text, flush=True)


def main() -> None:
    """Runs one task and prints its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--keep-model", type=Path, help="copy the model here")
    parser.add_argument("--csv", type=Path, help="write the Dice of every test scan here")
    options = parser.parse_args()
    task = TASKS[options.task]
    with tempfile.TemporaryDirectory() as place:
        training, testing = split(task)
        folder = write_layout(training, Path(place) / "training", len(task.rois))
        clock = time.monotonic()
        prepared = prepare_training(check_study(settings_for(task, folder, options.minutes)), folder, say)
        print(prepared.summary, flush=True)
        result = train(prepared, say)
        seconds = time.monotonic() - clock
        if result.model_path is None:
            raise SystemExit("no model")
        test_folder = write_layout(testing, Path(place) / "testing", len(task.rois))
        scores = list(test_scores(task, test_folder, result.model_path))
        if options.keep_model:
            shutil.copy(result.model_path, options.keep_model)
        if options.csv:
            with options.csv.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["case", *task.rois])
                writer.writerows([name, *values] for name, values in scores)
    print(
        f"\n{options.task}: {len(training)} pairs to train on, {len(testing)} kept back ({len(scores)} scans)"
    )
    print(
        f"time limit {options.minutes:g} min, check to model {seconds / 60:.2f} min, {result.epochs_done} epochs"
    )
    print(f"validation while training: {result.scores.mean:.4f}" if result.scores else "no validation")
    means = []
    for number, roi in enumerate(task.rois):
        values = [dice[number] for _, dice in scores if dice[number] is not None]
        means.append(float(np.mean(values)))
        print(
            f"  {roi:<12} Dice {means[-1]:.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f} (n = {len(values)})"
        )
    print(f"  mean         Dice {np.mean(means):.4f}")


if __name__ == "__main__":
    main()
