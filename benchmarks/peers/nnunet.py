"""nnU-Net v2 with its default plan (3d_fullres), in a Python of its own, driven as a separate program.

    python -m venv nnunet && nnunet/bin/pip install nnunetv2
    python benchmarks/train_3d.py --only nnunet --nnunet-python nnunet/bin/python

Planning and preprocessing are not counted; training is single-threaded in its augmentation so that all its processor time
is seen. What was done already (preprocessing, checkpoints, predictions) is found again in its folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import Results, Scored, Split, budget_text, read_scans, say, score, write_layout

from autoseg_lib.train.validate import ValidationScan

DRIVER = Path(__file__).with_name("nnunet_driver.py")
DATASET = "Dataset001_benchmark"
NUMBER = "1"
# Isensee et al. 2021 and nnU-Net's own table of the Medical Segmentation Decathlon, five folds; hours on a GPU.
PUBLISHED = "published after 1000 epochs on a GPU: mean Dice 0.895"


@dataclass(frozen=True)
class Installation:
    """nnU-Net's Python and the folder its files of one split are in."""

    python: Path
    folder: Path
    threads: int
    wall: bool

    def call(self, *arguments: str) -> None:
        """Runs the driver; its output goes to a log file.

        Raises:
            SystemExit: it failed; the message holds the end of the log.
        """
        log = self.folder / f"{arguments[0]}.log"
        folders = {
            name: str(self.folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        # Planning asks for at least one helper process; training without any shows all its processor time.
        helpers = "0" if arguments[0] == "train" else "1"
        environment = {**os.environ, **folders, "nnUNet_n_proc_DA": helpers, "nnUNet_compile": "f"}
        environment["OMP_NUM_THREADS"] = str(self.threads)
        with log.open("w", encoding="utf-8") as file:
            command = [str(self.python), str(DRIVER), *arguments, "--threads", str(self.threads)]
            done = subprocess.run(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise SystemExit(f"nnU-Net: '{arguments[0]}' failed, see {log}:\n{end}")


def find_python(given: Path | None) -> Path | None:
    """Returns the Python that has nnU-Net: the one given, or this one if it has it; None where there is none."""
    if given is not None:
        return given.absolute()
    return Path(sys.executable) if importlib.util.find_spec("nnunetv2") else None


def run_nnunet(
    split: Split, minutes: Sequence[float], results: Results, python: Path | None, folder: Path
) -> None:
    """Plans, preprocesses, trains once, and scores the weights at each budget."""
    missing = results.missing(split, "nnunet", minutes)
    if not missing:
        return
    if python is None or not python.exists():
        say(
            "nnU-Net was left out: it is not installed here. Give its Python with --nnunet-python (see peers/nnunet.py)."
        )
        return
    place = folder / f"{split.task.name}_{split.name}_{len(split.train)}"
    place.mkdir(parents=True, exist_ok=True)
    installation = Installation(python, place, results.clock.threads, results.clock.wall)
    _write_dataset(split, place)
    if not list(place.glob("nnUNet_preprocessed/*/nnUNetPlans_3d_fullres/*.b2nd")):
        say("    nnU-Net plans and preprocesses ...")
        installation.call("prepare", NUMBER)
    done = {record["budget"]: record for record in _trained(place)}
    if any(budget not in done for budget in missing):
        say("    nnU-Net trains ...")
        more = ["--wall"] if results.clock.wall else []
        installation.call("train", NUMBER, "--minutes", *[f"{m:g}" for m in missing], *more)
        shutil.copy(place / "train.log", place / "trained.log")
        done = {record["budget"]: record for record in _trained(place)}
    test = read_scans(split.task, write_layout(split, "test", place / "test"))
    for budget in missing:
        scored, record = _predict_and_score(split, budget, test, installation), done[budget]
        steps = int(record["steps"])
        results.add(split, "nnunet", budget_text(budget), scored, record["minutes"], steps, PUBLISHED)


def _write_dataset(split: Split, place: Path) -> None:
    """Writes the training pairs in nnU-Net's layout."""
    target = place / "nnUNet_raw" / DATASET
    if (target / "dataset.json").is_file():
        return
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (target / name).mkdir(parents=True, exist_ok=True)
    for image, label in split.train:
        stem = image.name.split(".")[0]
        shutil.copy(image, target / "imagesTr" / f"{stem}_0000.nii.gz")
        shutil.copy(label, target / "labelsTr" / f"{stem}.nii.gz")
    for image, _ in split.test:
        shutil.copy(image, target / "imagesTs" / f"{image.name.split('.')[0]}_0000.nii.gz")
    labels = {"background": 0, **{name: value for value, name in enumerate(split.task.rois, start=1)}}
    table = {
        "channel_names": {"0": "MRI"},
        "labels": labels,
        "numTraining": len(split.train),
        "file_ending": ".nii.gz",
    }
    (target / "dataset.json").write_text(json.dumps(table, indent=2), encoding="utf-8")


def _trained(place: Path) -> Iterator[dict[str, float]]:
    """Yields what a finished training wrote about its checkpoints."""
    log = place / "trained.log"
    if log.is_file():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith('{"budget"'):
                yield json.loads(line)


def _predict_and_score(
    split: Split, budget: float, test: Sequence[ValidationScan], installation: Installation
) -> Scored:
    place, text = installation.folder, budget_text(budget)
    output = place / f"predicted_{text}"
    output.mkdir(exist_ok=True)
    source = place / "nnUNet_raw" / DATASET / "imagesTs"
    say(f"    nnU-Net predicts {len(test)} scans with its weights after {text} minutes ...")
    paths = ["--input", str(source), "--output", str(output)]
    installation.call("predict", NUMBER, "--checkpoint", f"checkpoint_{text}.pth", *paths)
    # Read as labels of the same images, so that truth and prediction lie on one grid.
    pairs = tuple((image, output / label.name) for image, label in split.test)
    found = Split(split.task, split.name, (), pairs)
    masks = {
        scan.name: scan.mask
        for scan in read_scans(split.task, write_layout(found, "test", output / "as_labels"))
    }
    return score(test, (masks[scan.name] for scan in test), split.task.rois)
