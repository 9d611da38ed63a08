"""Memory of a 3D training on many large CT volumes, from the data check to the saved model.

Makes the volumes itself (40 of 512 × 512 × 300 voxels: 6.3 GB of images, 3.1 GB of labels on disk), trains for some minutes
and prints the largest memory of the process (resident set) after each step of the way. Goal: below 6 GB.

    python benchmarks/memory.py                      # 40 volumes, 3 minutes of training
    python benchmarks/memory.py --scans 6 --minutes 1 --cache disk
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoseg_lib.events import Event, Message
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.training import prepare_training, train

SHAPE = (300, 512, 512)
SPACING_XYZ = (0.8, 0.8, 1.5)
GOAL_GB = 6.0


def write_volumes(folder: Path, scans: int) -> None:
    """Writes CT-like volumes: a body of soft tissue with some texture, two organs each at its own place."""
    images, labels = folder / "train" / "images", folder / "train" / "labels"
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE)
    body = (y[:, None] / 0.7) ** 2 + (x[None] / 0.9) ** 2 < 1
    for number in range(scans):
        rng = np.random.default_rng(number)
        if (images / f"ct_{number:02d}.nii").exists():
            continue
        plane = np.where(body, 30, -1000).astype(np.int16)
        volume = np.repeat(plane[None], SHAPE[0], axis=0)
        volume += rng.integers(-15, 16, SHAPE[1:], dtype=np.int16)[None]
        volume += rng.integers(-15, 16, (SHAPE[0], SHAPE[1], 1), dtype=np.int16)
        label = np.zeros(SHAPE, np.uint8)
        for value, (row, column, radius) in enumerate(((-0.1, -0.4, 0.3), (0.1, 0.5, 0.15)), start=1):
            shift = rng.uniform(-0.06, 0.06, 3)
            inside = (
                (((z - shift[0]) / radius) ** 2)[:, None, None]
                + (((y - row - shift[1]) / radius) ** 2)[None, :, None]
                + (((x - column - shift[2]) / radius) ** 2)[None, None]
            ) < 1
            label[inside] = value
            volume[inside] += 60 * value
        _write(images / f"ct_{number:02d}.nii", volume)
        _write(labels / f"ct_{number:02d}.nii", label)


def _write(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_XYZ)
    sitk.WriteImage(image, str(path))


class Peak:
    """Largest resident memory of this process since it was last asked, looked at twenty times a second."""

    def __init__(self) -> None:
        self._process, self._highest = psutil.Process(os.getpid()), 0
        self.overall = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._highest = max(self._highest, self._process.memory_info().rss)
            time.sleep(0.05)

    def take(self) -> float:
        """Returns it in GB."""
        highest, self._highest = self._highest, 0
        self.overall = max(self.overall, highest / 1e9)
        return highest / 1e9


def say(event: Event) -> None:
    if isinstance(event, Message):
        print(event.text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--cache", default="auto", choices=("auto", "ram", "disk"))
    parser.add_argument(
        "--folder", type=Path, help="where the volumes are kept; made, and removed at the end, without"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        write_volumes(folder, options.scans)
        run(folder, options)


def run(folder: Path, options: argparse.Namespace) -> None:
    peak, rows, clock = Peak(), [], time.monotonic()

    def row(step: str) -> None:
        nonlocal clock
        rows.append((step, peak.take(), time.monotonic() - clock))
        print(f"{rows[-1][0]:<24} {rows[-1][1]:>6.2f} GB {rows[-1][2]:>8.0f} s", flush=True)
        clock = time.monotonic()

    time.sleep(0.2)
    row("Libraries")
    settings = make_settings(
        TrainSettings,
        {
            "main_dir": str(folder),
            "model_dir": str(folder / "models"),
            "labels_list": ["large organ", "small organ"],
            "dimension": "3D",
            "intensity": "window",
            "validation_fraction": 0.05,
            "time_limit_minutes": options.minutes,
            "cache": options.cache,
            "resume": False,
        },
    )
    study = check_study(settings)
    row("Data check")
    prepared = prepare_training(study, folder, say)
    row("Plan, preparing scans")
    print("\n".join(prepared.lines()), flush=True)
    train(prepared, say)
    row("Training, last scores")
    verdict = "below" if peak.overall < GOAL_GB else "ABOVE"
    print(
        f"{options.scans} volumes of {' × '.join(map(str, SHAPE))}: at most {peak.overall:.2f} GB, {verdict} {GOAL_GB:g} GB"
    )


if __name__ == "__main__":
    main()
