"""Does the data doctor find what is wrong, and does it leave alone what is right?

    python benchmarks/doctor.py --quick                  a minute or two: example study and CT of a liver
    python benchmarks/doctor.py --full                   all sets, all faults, 1 %, 5 % and 30 % of the samples
    python benchmarks/doctor.py --sets png hippocampus --seeds 3

Faults are planted into copies of clean data, the doctor that ``autoseg check`` runs looks at the copy, and the table says how
many of the planted faults it found and how many samples it accused that nobody had touched. For labels that do not fit
their image the share found is given by the Dice of the planted label to the true one: a label that is nearly right need not
be found. "named" is the share of those found whose cause was told rightly, too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from planting import EXACT, FITTING_CODES, RIGHT_CODE, STATISTICAL, Pair, Planted

from autoseg_lib.data.doctor import examine as doctor
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.data.pairing import pair
from autoseg_lib.settings import TrainSettings, make_settings

# Labels of the public sets themselves that are wrong, found by the doctor and looked at: all contours of one patient lie
# beside the ventricle by the same few pixels. They are neither clean nor planted; how many of them are accused is said for
# each set as it is.
KNOWN_WRONG = {"png": re.compile(r"^sc-n-06-")}
ALL_CHECKS = doctor.CHECKS
EXACT_CHECKS = tuple(check for check in ALL_CHECKS if not check.function.__module__.endswith(".fitting"))
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.01)


@dataclass(frozen=True)
class Set:
    """A clean data set: ``most`` of its samples are used; ``scan`` finds the scan in a file name."""

    folder: str
    images: str
    labels: str
    most: int
    scan: str
    rois: int


SETS = {
    "example": Set("", "train/images", "train/labels", 126, r".*", 6),
    "chaos": Set("chaos_ct_liver", "images", "labels", 78, r"^[^_]+", 1),
    "cardiac": Set("sunnybrook_cardiac", "images", "labels", 96, r"^[^_]+", 2),
    "png": Set("sunnybrook_png", "train/images", "train/labels", 240, r"^(.*)-IM-", 1),
    "hippocampus": Set("hippocampus_msd", "images", "labels", 48, r"\d+", 2),
}


def data_root(given: str | None) -> Path:
    """Returns the folder of the real scans."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return Path(given or os.environ.get("AUTOSEG_TEST_DATA") or beside)


def copy_clean(name: str, root: Path, folder: Path) -> None:
    """Writes the clean set as FOLDER/train/images and FOLDER/train/labels."""
    chosen = SETS[name]
    if not chosen.folder:
        write_example_study(folder, scans=14, seed=3)
        return
    source = root / chosen.folder
    labels = {path.name.split(".")[0]: path for path in sorted((source / chosen.labels).iterdir())}
    images = [
        path for path in sorted((source / chosen.images).iterdir()) if path.name.split(".")[0] in labels
    ]
    if chosen.most < len(images) and chosen.scan == r"\d+":
        images = images[: chosen.most]
    elif chosen.most < len(images):  # whole patients
        scans = list(dict.fromkeys(_scan(chosen, path) for path in images))
        while sum(_scan(chosen, path) in scans for path in images) > chosen.most:
            scans.pop(len(scans) // 2)
        images = [path for path in images if _scan(chosen, path) in scans]
    for image in images:
        for path, kind in ((image, "images"), (labels[image.name.split(".")[0]], "labels")):
            target = folder / "train" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def _scan(chosen: Set, path: Path) -> str:
    found = re.search(chosen.scan, path.name)
    return (found.group(1) if found and found.groups() else found.group(0)) if found else path.name


def pairs_of(name: str, folder: Path) -> list[Pair]:
    """Returns the pairs of a copied set, in the order of their names."""
    labels = {
        (path.parent.name, path.name.split(".")[0]): path
        for path in sorted((folder / "train" / "labels").rglob("*.*"))
    }
    flat = name != "example"
    found = []
    for image in sorted((folder / "train" / "images").rglob("*.*")):
        key = ("labels" if flat else image.parent.name, image.name.split(".")[0])
        if key in labels:
            scan = _scan(SETS[name], image) if flat else image.parent.name
            found.append(Pair(image, labels[key], scan))
    return found


def look(name: str, folder: Path, fitting: bool = True) -> CheckReport:
    """Runs the doctor as ``autoseg check`` does; without ``fitting`` labels are not compared with their images."""
    given: dict[str, object] = {"main_dir": str(folder), "num_labels": SETS[name].rois}
    if name == "example":
        given["labels_list"] = ["body", "psoas left", "psoas right", "back left", "back right", "fat"]
    if name == "png":
        given |= {"patient_pattern": SETS[name].scan, "spacing_mm": 1.3}
    settings = make_settings(TrainSettings, given)
    doctor.CHECKS = ALL_CHECKS if fitting else EXACT_CHECKS
    return doctor.examine(pair(settings), settings)


def accused(report: CheckReport, codes: Sequence[str] | None = None) -> dict[str, set[str]]:
    """Returns for each sample (scan folder/name without suffix) the codes of the findings that name it."""
    cases = {case.name: case for case in report.facts}
    found: dict[str, set[str]] = defaultdict(set)
    for finding in report.findings:
        if codes is not None and finding.code not in codes:
            continue
        for sample in finding.samples:
            slices = cases[sample.case].slices if sample.case in cases else ()
            if sample.slice_index is None and len(slices) > 1 and finding.files and codes != FITTING_CODES:
                continue  # the files say which slices of the scan are meant
            chosen = (
                slices if sample.slice_index is None else slices[sample.slice_index : sample.slice_index + 1]
            )
            for item in chosen:
                if item.label_file is not None:
                    found[key_of(item.label_file)].add(finding.code)
        for file in finding.files:
            found[Path(file).name.split(".")[0].lower()].add(finding.code)
    return found


def key_of(label: Path) -> str:
    """Returns what a sample is called here."""
    stem = label.name.split(".")[0].lower()
    return stem if label.parent.name == "labels" else f"{label.parent.name}/{stem}"


def is_known_wrong(name: str, key: str) -> bool:
    """Whether a label of the public set itself is wrong."""
    return name in KNOWN_WRONG and KNOWN_WRONG[name].search(key) is not None


@dataclass
class Count:
    """What one fault at one frequency gave."""

    dice: list[float]
    found: list[bool]
    named: list[bool]
    clean: int = 0
    wronged: int = 0
    seconds: float = 0.0


def run(name: str, clean: Path, fault: str, share: float, seed: int, count: Count, noise: set[str]) -> None:
    """Plants one fault (or all: "combined"), runs the doctor, counts."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        shutil.copytree(clean, folder)
        pairs = pairs_of(name, folder)
        random = np.random.default_rng((seed, len(fault), int(1000 * share)))
        order = random.permutation(len(pairs))
        number = max(1, round(share * len(pairs)))
        faults = [fault] if fault != "combined" else usual_faults(name)
        planted: Planted = {}
        kinds: dict[Path, str] = {}
        for k, one in enumerate(faults):
            # Every fault has samples of its own.
            chosen = order[:number] if len(faults) == 1 else order[:number][k :: len(faults)]
            if not chosen.size:
                continue
            planter = STATISTICAL[one] if one in STATISTICAL else EXACT[one][0]
            new = planter(pairs, np.sort(chosen), random)
            planted |= new
            kinds |= dict.fromkeys(new, one)
        fitting = all(one in STATISTICAL for one in faults)
        start = time.perf_counter()
        report = look(name, folder, fitting)
        count.seconds += time.perf_counter() - start
        codes = FITTING_CODES if fitting else EXACT[faults[0]][1]
        found = accused(report, codes)
        for path, dice in planted.items():
            names = found.get(key_of(path), set()) | found.get(path.name.split(".")[0].lower(), set())
            if not fitting and not names:
                names = _loosely(found, path)
            count.dice.append(dice)
            count.found.append(bool(names))
            count.named.append(not fitting or RIGHT_CODE[kinds[path]] in names)
        spoilt = {key_of(path) for path in planted}
        untouched = [key_of(item.label) for item in pairs if key_of(item.label) not in spoilt]
        untouched = [key for key in untouched if not is_known_wrong(name, key)]
        if fault == "same image":  # which of the two is the copy cannot be told
            originals = {key.replace("again_", "") for key in spoilt}
            untouched = [key for key in untouched if key not in originals]
        count.clean += len(untouched)
        count.wronged += sum(key in found and (fitting or key not in noise) for key in untouched)


def _loosely(found: dict[str, set[str]], path: Path) -> set[str]:
    """Findings on orphans name files as they are called now."""
    stem = path.name.split(".")[0].lower().removeprefix("again_")
    return {
        code
        for name, codes in found.items()
        if name.split("/")[-1] in (stem, stem + "_mask")
        for code in codes
    }


def usual_faults(name: str) -> list[str]:
    """Returns the statistical faults that can be planted into a set."""
    several = SETS[name].rois > 1
    return [
        fault
        for fault in STATISTICAL
        if (fault != "renumbered" or several) and (fault != "left/right" or name == "example")
    ]


def runs(names: Sequence[str], quick: bool) -> Iterator[tuple[str, str, float]]:
    """Yields (set, fault, share of samples)."""
    for name in names:
        for fault in [*usual_faults(name), "combined"]:
            for share in (0.05, 0.3) if quick else (0.01, 0.05, 0.3):
                yield name, fault, share
        for fault in EXACT:
            if fault == "same image" and name == "example":
                continue
            for share in (0.05,) if quick else (0.01, 0.05, 0.3):
                yield name, fault, share


def show(name: str, fault: str, share: float, count: Count) -> None:
    """Prints one line."""
    dice, found, named = np.array(count.dice), np.array(count.found, bool), np.array(count.named, bool)
    exact = fault in EXACT
    must = np.ones(len(dice), bool) if exact else dice < 0.8
    curve = []
    for low, high in pairwise(BINS):
        here = (dice >= low) & (dice < high)
        curve.append("      -" if exact or not here.any() else f"{found[here].sum():>3}/{here.sum():<3}")
    told = f"{100 * found[must].mean():5.0f}" if must.any() else "    -"
    right = (
        f"{100 * named[must & found].mean():5.0f}"
        if (must & found).any() and not exact and fault != "combined"
        else "    -"
    )
    print(
        f"{name:<12}{fault:<14}{100 * share:>3.0f} % {must.sum():>5} {told} {right}   {' '.join(curve)}  "
        f"{count.wronged:>4}/{count.clean:<5} {100 * count.wronged / max(1, count.clean):>4.1f} % {count.seconds:>6.1f}",
        flush=True,
    )


def main() -> None:
    """Reads the arguments and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS))
    parser.add_argument("--faults", nargs="+", help="their names, or: exact, statistical")
    parser.add_argument("--seeds", type=int, default=1, help="how often each line is repeated")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--data", help="folder of the real scans")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    names = options.sets or (["example", "chaos"] if options.quick else list(SETS))
    root = data_root(options.data)
    print(
        f"{'set':<12}{'fault':<14}share  below found named   found/planted by Dice to the true label      clean accused"
        "        seconds\n"
        f"{'':<31}  0.8     %     %   0-0.2   -0.4    -0.6    -0.8    -1"
    )
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            clean = Path(place) / name
            copy_clean(name, root, clean)
            report = look(name, clean)
            noise = set(accused(report))
            errors = [finding.code for finding in report.findings if finding.severity == "error"]
            own = accused(report, FITTING_CODES)
            keys = [key_of(item.label) for item in pairs_of(name, clean)]
            wrong = [key for key in keys if is_known_wrong(name, key)]
            known = f" and {sum(key in own for key in wrong)} of {len(wrong)} that are wrong" if wrong else ""
            right = [key for key in keys if key not in wrong]
            print(
                f"{name:<12}as it is: errors: {errors or 'none'}, labels that seem not to fit: "
                f"{sum(key in own for key in right)} of {len(right)}{known}",
                flush=True,
            )
            for _, fault, share in runs([name], options.quick):
                kind = "exact" if fault in EXACT else "statistical"
                if options.faults and fault not in options.faults and kind not in options.faults:
                    continue
                count = Count([], [], [])
                for seed in range(options.seeds):
                    run(name, clean, fault, share, options.first_seed + seed, count, noise)
                show(name, fault, share, count)
                total = totals[kind]
                must = [fault in EXACT or dice < 0.8 for dice in count.dice]
                total[0] += sum(must)
                total[1] += sum(f for f, m in zip(count.found, must, strict=True) if m)
                total[2] += count.clean
                total[3] += count.wronged
    for kind, (must, found, untouched, wronged) in totals.items():
        print(
            f"{kind}: {found} of {must} found ({100 * found / max(1, must):.1f} %), {wronged} of {untouched} clean samples "
            f"accused ({100 * wronged / max(1, untouched):.2f} %)"
        )


if __name__ == "__main__":
    main()
