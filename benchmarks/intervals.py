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
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.calibrate import FEWEST_PATIENTS, LOW_DICE, calibrate
from autoseg_lib.measure.calibration import Calibration, CalibrationScan
from autoseg_lib.measure.flags import TrainingFacts, add_flags, scan_facts
from autoseg_lib.measure.intervals import add_intervals, intervals_of
from autoseg_lib.measure.softness import UNSURE_ABOVE, softness
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
DRAWS = 5000
HEAD = f"{'':14}{'ROI':<32}{'coverage':>9}{'95 % interval':>18}{'mean width':>13}{'mean value':>12}{'patients':>10}"
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

# Name of a figure ("coverage|area|anterior") → patient → its mean over the patient's slices or scans; for "flags" the numbers
# of slices that are flagged and wrong, flagged, wrong, and found.
Figures = dict[str, dict[str, np.ndarray]]


def count_figures(calibration: Calibration, scans: Sequence[CalibrationScan], rois: Sequence[str]) -> Figures:
    """Counts, patient by patient, how often the intervals hold, how wide they are, and which slices are flagged."""
    lists: dict[str, dict[str, list[float]]] = {}
    flags: dict[str, np.ndarray] = {}
    limits = [UNSURE_ABOVE if limit is None else limit for limit in calibration.unsure_above]
    limits = limits or [UNSURE_ABOVE] * len(rois)
    for scan in scans:
        pixel = scan.pixel_area_mm2 or 1.0
        ends = intervals_of(scan.found, scan, pixel, scan.extents_mm, calibration)
        area, possible = scan.true * pixel, (scan.likely > 0) | (scan.found > 0)
        mean = area.sum(axis=0) / np.maximum((scan.true > 0).sum(axis=0), 1)
        values = {
            "area": (area, ends.area, possible),
            "nothing there": (area, ends.area, ~possible),
            "mean area": (mean, ends.mean_area, possible.any(axis=0)),
        }
        if scan.extents_mm is not None:
            values["volume"] = (scan.extents_mm @ area, ends.volume, possible.any(axis=0))
        for kind, (true, each, where) in values.items():
            for i, roi in enumerate(rois):
                _count(lists, f"{kind}|{roi}", scan.patient, true[..., i], each[..., i, :], where[..., i])
        there = scan.found > 0
        wide, wrong = (
            (softness(scan.likely, scan.sure) > np.array(limits))[there],
            (scan.dice < LOW_DICE)[there],
        )
        counts = np.array([np.count_nonzero(wide & wrong), wide.sum(), wrong.sum(), there.sum()], dtype=float)
        flags[scan.patient] = flags.get(scan.patient, 0) + counts
    figures = {name: {p: np.array([np.mean(v)]) for p, v in each.items()} for name, each in lists.items()}
    return figures | {"flags": flags}


def _count(
    lists: dict[str, dict[str, list[float]]],
    name: str,
    patient: str,
    true: np.ndarray,
    ends: np.ndarray,
    where: np.ndarray,
) -> None:
    """Adds whether the truth lies within, and the width, of each value that has an interval."""
    where = where & ~np.isnan(ends[..., 1])
    low, high, value = ends[..., 0][where], ends[..., 1][where], np.asarray(true)[where]
    if not value.size:
        return
    held = (value >= low - ROUNDING) & (value <= high + ROUNDING)
    for word, numbers in (("coverage", held), ("width", high - low), ("size", value)):
        lists.setdefault(f"{word}|{name}", {}).setdefault(patient, []).extend(numbers.tolist())


def random_splits(
    scans: Sequence[CalibrationScan], rois: Sequence[str], splits: int, seed: int, share: float
) -> Figures:
    """Splits the patients again and again: calibrated on ``share`` of them, counted on the others.

    Returns:
        of each patient the means over the splits in which the patient was counted.
    """
    patients = sorted({scan.patient for scan in scans})
    number = round(share * len(patients))
    gathered: dict[str, dict[str, list[np.ndarray]]] = {}
    for split in range(splits):
        order = np.random.default_rng([seed, 71, split]).permutation(len(patients))
        chosen = {patients[i] for i in order[:number]}
        parts = [[s for s in scans if (s.patient in chosen) == side] for side in (True, False)]
        for name, each in count_figures(calibrate(parts[0], rois, ""), parts[1], rois).items():
            for patient, value in each.items():
                gathered.setdefault(name, {}).setdefault(patient, []).append(value)
    return {name: {p: np.mean(v, axis=0) for p, v in each.items()} for name, each in gathered.items()}


def over_patients(
    each: dict[str, np.ndarray], ratio: tuple[int, int] | None = None
) -> tuple[float, float, float]:
    """Returns the mean over patients with its 95 % interval, from drawing the patients anew 5000 times.

    Args:
        each: patient → numbers.
        ratio: which number over which, both summed over patients; None: the mean of the only one.
    """
    table = np.array(list(each.values()))
    drawn = np.random.default_rng(5).integers(0, len(table), (DRAWS, len(table)))

    def value(rows: np.ndarray) -> float:
        if ratio is None:
            return float(rows.mean())
        return float(rows[:, ratio[0]].sum() / max(1e-9, rows[:, ratio[1]].sum()))

    low, high = np.percentile([value(table[choice]) for choice in drawn], (2.5, 97.5))
    return value(table), float(low), float(high)


# --- tables -------------------------------------------------------------------------------------------------------------


def tables(name: str, minutes: float, kept: Path, splits: int, seed: int) -> list[str]:
    """Returns the lines on one model."""
    rows = rows_file(kept, name, minutes)
    rois = read_metadata(rows.with_suffix(".safetensors"))["labels"]
    scans = read_calibration_scans(rows, rois)
    if scans is None:
        raise SystemExit(f"{rows}: cannot be read; remove it to predict again.")
    patients = len({s.patient for s in scans})
    dice = float(np.mean([2 * s.overlap.sum() / max(1, (s.true + s.found).sum()) for s in scans]))
    halves = random_splits(scans, rois, splits, seed, 0.5)
    lines = [
        f"\n{name}, {minutes:g} minutes: {len(scans)} scans of {patients} patients, mean Dice of a scan {dice:.3f}",
        f"calibrated on a random half of the patients and counted on the other, {splits} times:",
        HEAD,
        *_interval_lines(halves, rois),
        *_flag_lines(halves),
    ]
    if patients >= 2 * FEWEST_PATIENTS:
        few = random_splits(scans, rois, splits, seed, FEWEST_PATIENTS / patients)
        lines += [f"calibrated on {FEWEST_PATIENTS} random patients only:", HEAD, *_interval_lines(few, rois)]
    return [*lines, *_own_lines(rows, scans, rois)]


def _interval_lines(figures: Figures, rois: Sequence[str]) -> list[str]:
    lines = []
    for kind in ("area", "nothing there", "mean area", "volume"):
        factor, unit, digits = (1000, "ml", 2) if kind == "volume" else (1, "mm²", 1)
        for roi in rois:
            each = figures.get(f"coverage|{kind}|{roi}", {})
            if len(each) < FEWEST_PATIENTS:
                continue
            mean, low, high = over_patients(each)
            width, size = (over_patients(figures[f"{w}|{kind}|{roi}"])[0] / factor for w in ("width", "size"))
            lines.append(
                f"{kind:<14}{roi:<32}{mean:>9.3f}{f'{low:.3f} to {high:.3f}':>18}{f'{width:.{digits}f} {unit}':>13}"
                f"{f'{size:.{digits}f} {unit}':>12}{len(each):>10}"
            )
    return lines


def _flag_lines(figures: Figures) -> list[str]:
    each = figures["flags"]
    words = {"precision": (0, 1), "recall": (0, 2)}
    said = [
        f"{word} {mean:.3f} ({low:.3f} to {high:.3f})"
        for word, (mean, low, high) in ((w, over_patients(each, pair)) for w, pair in words.items())
    ]
    flagged, wrong = (100 * over_patients(each, pair)[0] for pair in ((1, 3), (2, 3)))
    return [
        f"flag 'the error bar is wide' for slices with Dice < {LOW_DICE}: {', '.join(said)}; "
        f"{flagged:.1f} % are flagged, {wrong:.1f} % wrong"
    ]


def _own_lines(rows: Path, scans: Sequence[CalibrationScan], rois: Sequence[str]) -> list[str]:
    """The product as it is: the model's own calibration and all its flags, on all scans."""
    own = Calibration.from_dict(read_metadata(rows.with_suffix(".safetensors")).get("calibration"))
    lines = [f"the model's own calibration: {own.reason or f'{own.patients} patients'}"]
    if not own.reason:
        lines += [HEAD, *_interval_lines(count_figures(own, scans, rois), rois)]
    flags = json.loads(flags_of(rows).read_text(encoding="utf-8"))
    texts = [text for scan in flags for text in scan["slices"]]
    there = np.concatenate([scan.found.ravel() > 0 for scan in scans])
    wrong = np.concatenate([np.nan_to_num(scan.dice, nan=1.0).ravel() < LOW_DICE for scan in scans])
    flagged = np.array([bool(text) for text in texts])
    hits = np.count_nonzero(flagged & wrong)
    lines.append(
        f"all flags of slices: precision {hits / max(1, flagged.sum()):.3f}, recall {hits / max(1, wrong.sum()):.3f}; of slices where "
        f"nothing was found {np.count_nonzero(wrong & ~there)} are wrong, {np.count_nonzero(flagged & ~there)} flagged"
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
