"""How good are 2D models of real scans after a few minutes, and would another program be better by then?

    python benchmarks/train_2d.py                            all data, all competitors, 0.5 to 10 minutes
    python benchmarks/train_2d.py --data cardiac --only ours --minutes 1
    python benchmarks/train_2d.py --data cardiac_others --minutes 1 2 --seed 1     once more; the table is of all seeds
    python benchmarks/train_2d.py --table                    what is there so far

Competitors: the product with default settings and a time limit; a plain loop around segmentation-models-pytorch; the lab
notebooks' two-stage pyramid V-Net with its loss and optimiser. Data: three patients of sunnybrook_cardiac, judged on others of
sunnybrook_png; the same three, each kept back once; a fifth of the patients of sunnybrook_png; the example study. Dice is per scan, on its own pixels; distances of the
cine series are measured slice by slice; pictures without pixel size have none.

Finished rows are kept in a file and not run again, so that the whole may be run in pieces.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common import (
    CARDIAC,
    CARDIAC_PNG,
    Results,
    Split,
    example_split,
    pairs_by_patient,
    parser,
    say,
    split_patients,
    start,
    table,
)
from competitors import run_ours, run_peer
from peers import lab_notebook, smp_unet

from autoseg_lib.errors import SettingsError
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing

COMPETITORS = ("ours", "smp", "lab")
RECIPES = {"smp": smp_unet.recipe, "lab": lab_notebook.recipe}
DATA = ("cardiac_others", "cardiac", "cardiac_png", "example")
MINUTES = (0.5, 1.0, 2.0, 5.0, 10.0)
# Patients of sunnybrook_png that sunnybrook_cardiac has, too (see the data set's README). Of the rest those with the same disease
# are judged: three patients cannot teach what hearts look like in another one.
SHARED_PATIENTS = tuple(f"SC-HF-I-{number:02d}" for number in (1, 2, 4, 5, 6))
JUDGED_GROUP = "SC-HF-I-"
# Every patient of the three once; a fifth of the others.
CARDIAC_PARTS, PNG_PARTS = 3, 5
PREPROCESSING = Preprocessing("2D", IntensityPlan("percentile"), input_shape=(smp_unet.SIDE, smp_unet.SIDE))


def splits(data: str, folder: Path, seed: int, limit: int | None) -> Iterator[Split]:
    """Yields the splits of a data set."""
    if data == "cardiac_others":
        yield cardiac_and_others()
    elif data == "cardiac":
        yield from split_patients(CARDIAC, CARDIAC_PARTS, seed, limit)
    elif data == "cardiac_png":
        yield split_patients(CARDIAC_PNG, PNG_PARTS, seed, limit)[0]
    else:
        yield example_split(folder / "example", seed)


def cardiac_and_others() -> Split:
    """Returns all of the three patients to train on, and all slices of others of the same disease to judge."""
    train = [pair for pairs in pairs_by_patient(CARDIAC).values() for pair in pairs]
    others = pairs_by_patient(CARDIAC_PNG)
    judged = sorted(name for name in set(others) - set(SHARED_PATIENTS) if name.startswith(JUDGED_GROUP))
    test = [pair for patient in judged for pair in others[patient]]
    return Split(replace(CARDIAC, name="cardiac_others"), "others", tuple(train), tuple(test))


def run(
    competitor: str, split: Split, minutes: list[float], results: Results, options: argparse.Namespace
) -> None:
    """Runs one competitor on one split."""
    if competitor == "ours":
        run_ours(split, minutes, results, options.keep_models, options.seed)
        return
    try:
        run_peer(competitor, RECIPES[competitor], PREPROCESSING, split, minutes, results, options.seed)
    except SettingsError as error:
        say(f"{competitor} was left out: {error}")


def main() -> None:
    """Runs what is missing and prints the table."""
    options = parser(__doc__, "train_2d", COMPETITORS)
    options.add_argument("--data", choices=DATA, nargs="+", default=DATA)
    given = options.parse_args()
    results = start(given)
    minutes = given.minutes or list(MINUTES)
    if not given.table:
        with tempfile.TemporaryDirectory() as place:
            for data in given.data:
                for split in splits(data, Path(place), given.seed, given.limit):
                    if given.seed:
                        split = replace(split, name=f"{split.name}, seed {given.seed}")
                    for competitor in [given.only] if given.only else COMPETITORS:
                        run(competitor, split, minutes, results, given)
    say(f"\n2D: means over the splits and seeds; minutes are {results.clock.name}; {given.threads} threads\n")
    say(table(results.of_this_clock(), COMPETITORS))
    say(
        "\nsmp and lab: one run each, constant learning rate, scored on the way; ours: a run for each time limit."
    )


if __name__ == "__main__":
    main()
