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

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
from scipy import stats

from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.calibrate import LOW_DICE, calibrate
from autoseg_lib.measure.calibration import Calibration, CalibrationScan
from autoseg_lib.measure.flags import TrainingFacts, add_flags, scan_facts
from autoseg_lib.measure.intervals import add_intervals, intervals_of
from autoseg_lib.measure.slice_flags import UNSURE_ABOVE
from autoseg_lib.measure.softness import softness
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.networks.model_file import load_model, read_metadata
from autoseg_lib.postprocess.pipeline import Postprocessing
from autoseg_lib.train.validate import ValidationScan
from autoseg_lib.workflow.calibration_file import read_calibration_scans, write_calibration_scans
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.model_choice import segmenting_predictor
from autoseg_lib.workflow.training import prepare_training, train

TASKS = ("hippocampus", "example")
MINUTES = (0.5, 1.0, 4.0)
# Enough that the product keeps 20 patients back to calibrate on.
TRAINING_SCANS = 100
# Two of seven scans of an example study are kept for testing.
EXAMPLE_SCANS = 350
SPLITS = 100
# Areas are whole pixels times their size; the last digits may differ.
ROUNDING = 1e-6
REASONS = (
    "the error bar is wide",
    "touches the edge",
    "missing here",
    "implausible jump",
    "away from where",
    "swapped",
)


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
    missing = [m for m in sorted(budgets) if not flags_of(rows_file(kept, name, m)).is_file()]
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
            _predict(model, split, test, rows_file(kept, name, budget))


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


def _predict(model_path: Path, split: Split, test: Sequence[ValidationScan], rows: Path) -> None:
    """Predicts and measures scans as segmenting does, and keeps what was found with its flags."""
    model = load_model(model_path)
    predictor, labels = segmenting_predictor(model), model.labels
    tidy = Postprocessing.from_list(model.metadata.get("postprocessing", []))
    calibration = Calibration.from_dict(model.metadata.get("calibration"))
    training = TrainingFacts.from_metadata(model.metadata)
    scans, flags = [], []
    for scan in test:
        answer = predictor.predict_soft(scan.volume)
        if answer.soft is None:
            raise SystemExit(f"{scan.name}: the answer has no soft counts.")
        mask, _ = tidy.apply(answer.mask, labels)
        scans.append(CalibrationScan.compare(scan.mask, mask, answer.soft, labels, scan.name, scan.name))
        areas = measure_slices(mask, labels, case=scan.name, image=scan.volume)
        volumes = measure_volumes(mask, labels, case=scan.name)
        areas, volumes, _ = add_intervals(areas, volumes, answer.soft, calibration, scan.volume.geometry)
        facts = scan_facts(scan.volume, mask)
        areas, volumes, whole = add_flags(areas, volumes, facts, training, labels, answer.soft, calibration)
        flags.append(
            {
                "case": scan.name,
                "slices": [row.flag for row in areas],
                "volumes": [row.flag for row in volumes],
                "scan": list(whole),
            }
        )
    write_calibration_scans(rows, scans, split.task.rois)
    flags_of(rows).write_text(json.dumps(flags, indent=0), encoding="utf-8")


def flags_of(rows: Path) -> Path:
    """Where the flags of a model's predictions are kept."""
    return rows.with_suffix(".flags.json")


# --- random splits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tested:
    """Of one split: name of a figure → its value on the part that was not calibrated on."""

    values: dict[str, float]


def test_split(
    calibrated_on: Sequence[CalibrationScan], others: Sequence[CalibrationScan], rois: Sequence[str]
) -> Tested:
    """Calibrates on some scans and counts on the others."""
    return test_calibration(calibrate(calibrated_on, rois, ""), others, rois)


def test_calibration(
    calibration: Calibration, others: Sequence[CalibrationScan], rois: Sequence[str]
) -> Tested:
    """Counts, patient by patient, how often the intervals hold, how wide they are, and how well slices are flagged."""
    sums: dict[str, dict[str, list[float]]] = {}
    flagged, wrong = [], []
    for scan in others:
        ends = intervals_of(scan.found, scan, scan.pixel_area_mm2 or 1.0, scan.extents_mm, calibration)
        area = scan.true * (scan.pixel_area_mm2 or 1.0)
        possible = (scan.likely > 0) | (scan.found > 0)
        drawn = np.maximum((scan.true > 0).sum(axis=0), 1)
        values = {"area": (area, ends.area, possible), "nothing there": (area, ends.area, ~possible)}
        values["mean area"] = (area.sum(axis=0) / drawn, ends.mean_area, possible.any(axis=0))
        if scan.extents_mm is not None:
            values["volume"] = (scan.extents_mm @ area, ends.volume, possible.any(axis=0))
        for kind, (true, each, where) in values.items():
            for i, roi in enumerate(rois):
                _count(sums, f"{kind}|{roi}", scan.patient, true[..., i], each[..., i, :], where[..., i])
        there = scan.found > 0
        limit = UNSURE_ABOVE if calibration.unsure_above is None else calibration.unsure_above
        flagged.append((softness(scan.likely, scan.sure) > limit)[there])
        wrong.append((scan.dice < LOW_DICE)[there])
    result = {
        name: float(np.mean([np.mean(v) for v in patients.values()])) for name, patients in sums.items()
    }
    return Tested(result | _found_wrong(np.concatenate(flagged), np.concatenate(wrong)))


def _count(
    sums: dict[str, dict[str, list[float]]],
    name: str,
    patient: str,
    true: np.ndarray,
    ends: np.ndarray,
    where: np.ndarray,
) -> None:
    """Adds whether the truth lies within, and the width, of each value that has an interval."""
    where = where & ~np.isnan(ends[..., 1])
    low, high, true = ends[..., 0][where], ends[..., 1][where], np.asarray(true)[where]
    if not true.size:
        return
    held = (true >= low - ROUNDING) & (true <= high + ROUNDING)
    sums.setdefault(f"coverage|{name}", {}).setdefault(patient, []).extend(held.tolist())
    sums.setdefault(f"width|{name}", {}).setdefault(patient, []).extend((high - low).tolist())
    sums.setdefault(f"size|{name}", {}).setdefault(patient, []).extend(true.tolist())


def _found_wrong(flagged: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    hits = np.count_nonzero(flagged & wrong)
    return {
        "flag|precision": hits / max(1, np.count_nonzero(flagged)),
        "flag|recall": hits / max(1, np.count_nonzero(wrong)),
        "flag|flagged": float(np.mean(flagged)),
        "flag|wrong": float(np.mean(wrong)),
    }


def random_splits(
    scans: Sequence[CalibrationScan], rois: Sequence[str], count: int, seed: int
) -> list[Tested]:
    """Splits the patients in halves again and again: calibrated on one, tested on the other."""
    patients = sorted({scan.patient for scan in scans})
    tested = []
    for number in range(count):
        order = np.random.default_rng([seed, 71, number]).permutation(len(patients))
        chosen = {patients[i] for i in order[: len(patients) // 2]}
        parts = [[s for s in scans if (s.patient in chosen) == side] for side in (True, False)]
        tested.append(test_split(parts[0], parts[1], rois))
    return tested


def interval_95(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean over the splits and its 95 % interval.

    The splits share their scans, so that their spread divided by their number would promise too much: the variance is
    (1 / splits + tested / calibrated) × that of the splits (Nadeau & Bengio, Machine Learning 2003), with equal halves.
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation * (1 / len(values) + 1) ** 0.5
    return mean, mean - half, mean + half


# --- tables -------------------------------------------------------------------------------------------------------------


def tables(name: str, minutes: float, kept: Path, splits: int, seed: int) -> list[str]:
    """Returns the lines on one model."""
    rows = rows_file(kept, name, minutes)
    rois = read_metadata(rows.with_suffix(".safetensors"))["labels"]
    scans = read_calibration_scans(rows, rois)
    if scans is None:
        raise SystemExit(f"{rows}: cannot be read; remove it to predict again.")
    dice = float(np.mean([2 * s.overlap.sum() / max(1, (s.true + s.found).sum()) for s in scans]))
    tested = random_splits(scans, rois, splits, seed)
    lines = [
        f"\n{name}, {minutes:g} minutes: {len(scans)} scans of {len({s.patient for s in scans})} patients, mean Dice of a scan "
        f"{dice:.3f}; {splits} random halves",
        f"{'':14}{'ROI':<32}{'coverage':>10}{'95 % interval':>18}{'mean width':>13}{'mean value':>12}",
    ]
    for kind in ("area", "nothing there", "mean area", "volume"):
        lines += [line for roi in rois if (line := _line(tested, kind, roi))]
    lines += _flag_lines(tested)
    lines += _own_lines(rows, scans, rois)
    return lines


def _line(tested: Sequence[Tested], kind: str, roi: str) -> str:
    key = f"coverage|{kind}|{roi}"
    if not all(key in each.values for each in tested):
        return ""
    mean, low, high = interval_95([each.values[key] for each in tested])
    width, size = (
        np.mean([each.values[f"{word}|{kind}|{roi}"] for each in tested]) for word in ("width", "size")
    )
    factor, unit = (1000, "ml") if kind == "volume" else (1, "mm²")
    digits = 2 if kind == "volume" else 1
    return (
        f"{kind:<14}{roi:<32}{mean:>10.3f}{f'{low:.3f} to {high:.3f}':>18}{f'{width / factor:.{digits}f} {unit}':>13}"
        f"{f'{size / factor:.{digits}f} {unit}':>12}"
    )


def _flag_lines(tested: Sequence[Tested]) -> list[str]:
    lines = []
    for word in ("precision", "recall"):
        mean, low, high = interval_95([each.values[f"flag|{word}"] for each in tested])
        lines.append(
            f"wide error bar as a flag for Dice < {LOW_DICE}: {word} {mean:.3f} ({low:.3f} to {high:.3f})"
        )
    shares = [np.mean([each.values[f"flag|{word}"] for each in tested]) for word in ("flagged", "wrong")]
    return [
        *lines,
        f"    {100 * shares[0]:.1f} % of what was found is flagged, {100 * shares[1]:.1f} % is wrong",
    ]


def _own_lines(rows: Path, scans: Sequence[CalibrationScan], rois: Sequence[str]) -> list[str]:
    """The product as it is: the model's own calibration and all its flags, on all scans."""
    own = Calibration.from_dict(read_metadata(rows.with_suffix(".safetensors")).get("calibration"))
    lines = [f"own calibration: {own.reason or f'{own.patients} patients'}"]
    if not own.reason:
        values = test_calibration(own, scans, rois).values
        for kind in ("area", "mean area", "volume"):
            each = [f"{roi} {values[key]:.3f}" for roi in rois if (key := f"coverage|{kind}|{roi}") in values]
            lines.append(f"    coverage of {kind}: {', '.join(each)}")
    flags = json.loads(flags_of(rows).read_text(encoding="utf-8"))
    texts = [text for scan in flags for text in scan["slices"]]
    there = np.concatenate([scan.found.ravel() > 0 for scan in scans])
    wrong = np.concatenate([np.nan_to_num(scan.dice, nan=1.0).ravel() < LOW_DICE for scan in scans])
    flagged = np.array([bool(text) for text in texts])
    of_all = _found_wrong(flagged, wrong)
    lines.append(
        f"all flags of slices: precision {of_all['flag|precision']:.3f}, recall {of_all['flag|recall']:.3f} "
        f"(of slices with nothing found {np.count_nonzero(wrong & ~there)} are wrong, {np.count_nonzero(flagged & ~there)} flagged)"
    )
    for word in REASONS:
        given = np.array([word in text for text in texts])
        if given.any():
            lines.append(
                f"    '{word}': {np.count_nonzero(given)}, of them wrong {np.mean(wrong[given]):.2f}"
            )
    others = [(sum(bool(t) for t in scan["volumes"]), len(scan["scan"])) for scan in flags]
    lines.append(
        f"    flags of volumes: {sum(v for v, _ in others)} in {len(flags)} scans; of whole scans: {sum(s for _, s in others)}"
    )
    return lines


def main() -> None:
    """Runs what is missing and prints the tables."""
    options = parser(__doc__, "intervals", TASKS)
    options.add_argument("--splits", type=int, default=SPLITS, help="random splits, at least 50")
    given = options.parse_args()
    results = start(given)
    kept = given.results.with_suffix("")
    budgets = given.minutes or MINUTES
    for name in TASKS if given.only is None else (given.only,):
        if not given.table:
            run(name, budgets, results, given.seed, kept)
        for minutes in budgets:
            if flags_of(rows_file(kept, name, minutes)).is_file():
                say("\n".join(tables(name, minutes, kept, max(50, given.splits), given.seed)))


if __name__ == "__main__":
    main()
