"""What the accuracy benchmarks share: real data and their splits, a clock, scores, results that outlive the session.

Import this before torch: it says how many threads may be used and that waiting threads must not burn time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
# With the default policy OpenMP's threads spin while they wait, and a busy machine counts that as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from autoseg_lib.data.example_study import write_example_study  # noqa: E402
from autoseg_lib.data.packed import PreparedCase  # noqa: E402
from autoseg_lib.data.pairing import pair  # noqa: E402
from autoseg_lib.data.training_case import load_training_case  # noqa: E402
from autoseg_lib.evaluate.compare import compare_masks  # noqa: E402
from autoseg_lib.evaluate.table import EvaluationRow  # noqa: E402
from autoseg_lib.events import Event, Message  # noqa: E402
from autoseg_lib.metrics.surface import why_no_distances  # noqa: E402
from autoseg_lib.preprocess.pipeline import Preprocessing  # noqa: E402
from autoseg_lib.settings import TrainSettings, make_settings  # noqa: E402
from autoseg_lib.train.validate import ValidationScan  # noqa: E402
from autoseg_lib.volume import Mask  # noqa: E402

METRICS = ("dice", "hd95_mm", "surface_dice_1mm")


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A data set: where its images and labels are, its ROIs, and what in a file name tells the patient."""

    name: str
    folder: str
    images: str
    labels: str
    rois: tuple[str, ...]
    dimension: str
    patient: str


HIPPOCAMPUS = Task(
    "hippocampus", "hippocampus_msd", "images", "labels", ("anterior", "posterior"), "3D", r"\d+"
)
# Label 1 alone: only half of the slices have the myocardium drawn (see the data set's README).
CARDIAC = Task("cardiac", "sunnybrook_cardiac", "images", "labels", ("LV cavity",), "2D", r"^[^_]+")
CARDIAC_PNG = Task(
    "cardiac_png", "sunnybrook_png", "train/images", "train/labels", ("LV cavity",), "2D", r"^(.*)-IM-"
)


@dataclass(frozen=True)
class Split:
    """A task's pairs of image and label: some to train on, some kept back; patients stay together."""

    task: Task
    name: str
    train: tuple[tuple[Path, Path], ...]
    test: tuple[tuple[Path, Path], ...]


def data_root() -> Path:
    """Returns the folder of the real scans."""
    given = os.environ.get("AUTOSEG_TEST_DATA")
    return Path(given) if given else REPOSITORY.parent / "shared" / "data"


def pairs_by_patient(task: Task) -> dict[str, list[tuple[Path, Path]]]:
    """Returns patient → (image, label) files, in the order of their names."""
    root = data_root() / task.folder
    if not root.is_dir():
        raise SystemExit(f"{task.folder} is not there: set AUTOSEG_TEST_DATA to the folder that holds it.")
    labels = {path.name.split(".")[0]: path for path in (root / task.labels).iterdir()}
    patients: dict[str, list[tuple[Path, Path]]] = {}
    for image in sorted((root / task.images).iterdir()):
        stem = image.name.split(".")[0]
        found = re.search(task.patient, stem)
        patient = stem if found is None else found.group(1) if found.groups() else found.group()
        patients.setdefault(patient, []).append((image, labels[stem]))
    return patients


def split_patients(task: Task, parts: int, seed: int, limit: int | None = None) -> list[Split]:
    """Returns ``parts`` splits; each patient is kept back in exactly one of them.

    Args:
        task: the data set.
        parts: how many; as many as patients keeps one back at a time.
        seed: decides who is kept back together.
        limit: use that many patients only (for a quick try).
    """
    patients = pairs_by_patient(task)
    names = [str(name) for name in np.random.default_rng(seed).permutation(sorted(patients))][:limit]
    splits, parts = [], min(parts, len(names))
    for number in range(parts):
        kept = set(names[number::parts])
        train = [pair for name in names if name not in kept for pair in patients[name]]
        test = [pair for name in names if name in kept for pair in patients[name]]
        title = min(kept) if len(kept) == 1 else str(number + 1)
        splits.append(Split(task, title, tuple(sorted(train)), tuple(sorted(test))))
    return splits


def example_split(folder: Path, seed: int) -> Split:
    """Writes the example study and returns its own split into train/ and test/."""
    study = write_example_study(folder, seed=seed)
    # Made, not read: it has no folder among the real scans, and its patients are in the DICOM headers.
    task = Task("example", "", "", "", study.roi_names, "2D", "")

    def pairs(part: Path) -> tuple[tuple[Path, Path], ...]:
        scans = sorted((part / "images").iterdir())
        return tuple((scan, part / "labels" / scan.name) for scan in scans)

    return Split(task, "1", pairs(folder / "train"), pairs(folder / "test"))


def write_layout(split: Split, part: str, folder: Path) -> Path:
    """Lays one part ("train" or "test") out as a data folder; label values beyond the ROIs become background."""
    images, labels = folder / "train" / "images", folder / "train" / "labels"
    if images.exists():
        return folder
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for image, label in split.train if part == "train" else split.test:
        if image.is_dir():
            shutil.copytree(image, images / image.name)
            shutil.copytree(label, labels / label.name)
            continue
        shutil.copy(image, images / image.name)
        if label.suffix == ".png":
            values = np.asarray(Image.open(label)).copy()
            values[values > len(split.task.rois)] = 0
            Image.fromarray(values.astype(np.uint8)).save(labels / label.name)
        else:
            shutil.copy(label, labels / label.name)
    return folder


def settings_for(task: Task, folder: Path, minutes: float | None = None, **more: object) -> TrainSettings:
    """Returns default settings for a data folder of the task."""
    values: dict[str, object] = {
        "main_dir": str(folder),
        "model_filename": task.name,
        "model_dir": str(folder / "models"),
        "labels_list": list(task.rois),
        "dimension": task.dimension,
        **more,
    }
    if task.patient:
        values["patient_pattern"] = task.patient
    if minutes:
        values["time_limit_minutes"] = minutes
    return make_settings(TrainSettings, values)


def read_scans(task: Task, folder: Path) -> list[ValidationScan]:
    """Reads all scans of a data folder with their labels, on their own grid."""
    settings = settings_for(task, folder)
    scans = []
    for case in pair(settings).cases:
        scan, mask, names = load_training_case(case, settings)
        scans.append(ValidationScan(case.name, scan.volume, mask, names))
    return scans


def prepare(scans: Sequence[ValidationScan], preprocessing: Preprocessing) -> list[PreparedCase]:
    """Brings scans onto a network's grid."""
    return [
        PreparedCase(
            scan.name,
            preprocessing.prepare(scan.volume).array.astype(np.float32),
            preprocessing.prepare_mask(scan.mask).array.astype(np.uint8),
        )
        for scan in scans
    ]


# --- clock ------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of training on this computer if it had nothing else to do; pauses are not counted.

    Attributes:
        at_pause: what it showed when the last pause began.

    By default the processor time of this process divided by the number of threads, because other programs use the
    same computer. ``wall`` takes the time that passes: right on a quiet computer.
    """

    def __init__(self, *, wall: bool, threads: int) -> None:
        self.wall, self.threads = wall, threads
        self.paused_seconds = 0.0
        self.at_pause = 0.0
        self.started = self._now()

    def _now(self) -> float:
        return time.monotonic() if self.wall else time.process_time() / self.threads

    def __call__(self) -> float:
        return self._now() - self.started - self.paused_seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count what is done meanwhile (scoring on the kept-back scans)."""
        began = self._now()
        self.at_pause = self()
        try:
            yield
        finally:
            self.paused_seconds += self._now() - began

    @property
    def name(self) -> str:
        """For the table."""
        return "wall" if self.wall else f"CPU time / {self.threads}"


# --- scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """How well kept-back scans were segmented.

    Attributes:
        rois: ROI → mean over the scans of each metric of METRICS that has a value ("hd95_mm" only where both sides have
            the ROI), "n" scans that have the ROI and "missed" ones where nothing of it was found.
        scans: scan → Dice of each ROI; None where neither side has it.
    """

    rois: dict[str, dict[str, float]]
    scans: dict[str, list[float | None]]


def score(scans: Sequence[ValidationScan], found: Iterable[Mask], rois: Sequence[str]) -> Scored:
    """Compares what was found in the kept-back scans, in their order, with their labels on their own grid."""
    values = [(name, value, value) for value, name in enumerate(rois, start=1)]
    rows = {scan.name: _compare(scan, mask, values) for scan, mask in zip(scans, found, strict=True)}
    return Scored(
        {roi: _summary([row for part in rows.values() for row in part if row.roi == roi]) for roi in rois},
        {name: [row.dice for row in part[: len(values)]] for name, part in rows.items()},
    )


def _compare(scan: ValidationScan, found: Mask, rois: list[tuple[str, int, int]]) -> list[EvaluationRow]:
    """One row per ROI; distances slice by slice where the scan shows each position several times (cine)."""
    rows = compare_masks(scan.mask, found, rois, scan.name)
    geometry = scan.mask.geometry
    if not why_no_distances(geometry) or not geometry.spacing_known:
        return rows
    for number in range(geometry.shape_zyx[0]):
        grid = geometry.slices(number, number + 1)
        truth, guess = (m.with_array(m.array[number : number + 1], grid) for m in (scan.mask, found))
        rows += [_only_distances(row) for row in compare_masks(truth, guess, rois, scan.name)]
    return rows


def _only_distances(row: EvaluationRow) -> EvaluationRow:
    return EvaluationRow(
        row.case, row.label, row.roi, None, row.hd95_mm, row.surface_dice_1mm, None, None, None, None
    )


def _summary(rows: list[EvaluationRow]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for metric in METRICS:
        values = [value for row in rows if (value := getattr(row, metric)) is not None]
        if values:
            summary[metric] = round(float(np.mean(values)), 5)
    scored = [row for row in rows if row.dice is not None]
    summary["n"] = len(scored)
    summary["missed"] = sum(row.voxels_reference > 0 and row.voxels_prediction == 0 for row in scored)
    return summary


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One competitor after one budget on one split.

    Attributes:
        task: the data set.
        competitor: "ours", "monai" ...
        budget: minutes as text, e.g. "10", or "5 x 10" for five networks.
        split: name of the split.
        clock: how minutes were counted.
        scores, scans: see Scored.
        minutes: counted minutes really used.
        steps: optimiser steps.
        note: what to know about it.
    """

    task: str
    competitor: str
    budget: str
    split: str
    clock: str
    scores: dict[str, dict[str, float]]
    scans: dict[str, list[float | None]]
    minutes: float
    steps: int
    note: str = ""

    @property
    def mean_dice(self) -> float:
        """Mean over the ROIs."""
        return float(np.mean([values.get("dice", 0.0) for values in self.scores.values()]))


class Results:
    """Finished rows in a file of JSON lines: what is there is not computed again."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock = path, clock
        self.rows: list[Row] = []
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.rows = [Row(**json.loads(line)) for line in lines if line.strip()]

    def has(self, split: Split, competitor: str, budget: str) -> bool:
        """Whether this was done already, with the same clock."""
        wanted = (split.task.name, competitor, budget, split.name, self.clock.name)
        return any((r.task, r.competitor, r.budget, r.split, r.clock) == wanted for r in self.rows)

    def missing(self, split: Split, competitor: str, minutes: Sequence[float]) -> list[float]:
        """Returns the budgets that are still to be done, rising."""
        return [m for m in sorted(minutes) if not self.has(split, competitor, budget_text(m))]

    def of_this_clock(self) -> list[Row]:
        """Returns the rows whose minutes were counted in the same way."""
        return [row for row in self.rows if row.clock == self.clock.name]

    def add(
        self,
        split: Split,
        competitor: str,
        budget: str,
        scored: Scored,
        minutes: float,
        steps: int,
        note: str = "",
    ) -> None:
        """Keeps a row and says it."""
        clock = self.clock.name
        self._keep(
            Row(
                split.task.name,
                competitor,
                budget,
                split.name,
                clock,
                scored.rois,
                scored.scans,
                minutes,
                steps,
                note,
            )
        )

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        say(
            f"{row.task} · {row.competitor} · {row.budget} min · split {row.split}: mean Dice {row.mean_dice:.4f}"
            f" ({row.minutes:.2f} min, {row.steps} steps) {row.note}"
        )


def budget_text(minutes: float) -> str:
    """Returns "10" or "0.5"."""
    return f"{minutes:g}"


def table(rows: Sequence[Row], competitors: Sequence[str]) -> str:
    """Returns the rows as a table: one line per task, budget and competitor, means over the splits."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.budget, row.competitor), []).append(row)

    def order(key: tuple[str, str, str]) -> tuple[str, int, float, int]:
        several = " x " in key[1]
        return key[0], several, float(key[1].split(" x ")[-1]), competitors.index(key[2])

    head = ["data", "minutes", "competitor", "ROI", "Dice", "HD95 mm", "surface Dice 1 mm", "scans", "missed"]
    lines = [[*head, "steps", "note"]]
    for key in sorted((k for k in groups if k[2] in competitors), key=order):
        group = groups[key]
        task, budget, competitor = key
        note = "; ".join(dict.fromkeys(row.note for row in group if row.note))
        steps = f"{np.mean([row.steps for row in group]):.0f}"
        rois = list(group[0].scores)
        for roi in rois:
            cells = [_cell(group, roi, metric) for metric in METRICS]
            counts = [str(int(sum(row.scores[roi][word] for row in group))) for word in ("n", "missed")]
            lines.append([task, budget, competitor, roi, *cells, *counts, steps, note])
        if len(rois) > 1:
            mean = f"{np.mean([row.mean_dice for row in group]):.4f}"
            lines.append([task, budget, competitor, "mean", mean, "", "", "", "", steps, note])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def _cell(group: Sequence[Row], roi: str, metric: str) -> str:
    values = [row.scores[roi][metric] for row in group if metric in row.scores[roi]]
    return f"{np.mean(values):.{2 if metric == 'hd95_mm' else 4}f}" if values else "-"


# --- command line -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Prints at once."""
    print(text, flush=True)


def say_event(event: Event) -> None:
    """Prints the lines of a training."""
    if isinstance(event, Message):
        say(f"    {event.text}")


def parser(description: str | None, name: str, competitors: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the options that all accuracy benchmarks have."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--only", choices=competitors, help="run one competitor; the table shows all rows there are"
    )
    result.add_argument("--minutes", type=float, nargs="+", help="budgets instead of the usual ones")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--threads", type=int, default=2, help="threads each competitor may use")
    result.add_argument(
        "--wall", action="store_true", help="count the time that passes, not processor time / threads"
    )
    result.add_argument("--limit", type=int, help="use that many patients only (to try the script)")
    result.add_argument("--keep-models", type=Path, help="copy the product's models into this folder")
    result.add_argument("--table", action="store_true", help="print the table of what is there; run nothing")
    result.add_argument(
        "--results",
        type=Path,
        default=REPOSITORY / "build" / "benchmarks" / f"{name}.jsonl",
        help="finished rows; what is there is not run again",
    )
    return result


def start(options: argparse.Namespace) -> Results:
    """Sets the threads and opens the results."""
    torch.set_num_threads(options.threads)
    return Results(options.results, Clock(wall=options.wall, threads=options.threads))
