"""How good is a 3D model of the hippocampus after a few minutes, and would another program be better by then?

    python benchmarks/train_3d.py                                  2, 5 and 10 minutes, all competitors
    python benchmarks/train_3d.py --long                           also 45 minutes, and five networks of 10 together
    python benchmarks/train_3d.py --only nnunet --nnunet-python nnunet/bin/python
    python benchmarks/train_3d.py --table                          what is there so far

Competitors: the product with default settings and a time limit; a plain MONAI U-Net loop; nnU-Net v2 with its default plan
and trainer. Data: hippocampus_msd, four fifths to learn from, a fifth kept back, by seed. Scores are of the kept-back
scans, on their own grid.

Finished rows are kept in a file and not run again, so that the whole may be run in pieces.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import (
    HIPPOCAMPUS,
    REPOSITORY,
    Results,
    Split,
    parser,
    prepare,
    read_scans,
    say,
    score,
    settings_for,
    split_patients,
    start,
    table,
    write_layout,
)
from competitors import StepCounter, plain_predictor, run_ours, run_peer, segmented
from peers import monai_unet
from peers.nnunet import find_python, run_nnunet
from peers.plain_loop import train as train_plainly

from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.networks.ensemble import Ensemble
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.folds import train_folds

COMPETITORS = ("ours", "monai", "nnunet")
MINUTES, LONG_MINUTES = (2.0, 5.0, 10.0), 45.0
FOLDS, FOLD_MINUTES = 5, 10.0
# A fifth is kept back.
PARTS = 5
PREPROCESSING = Preprocessing("3D", IntensityPlan("percentile"), spacing_zyx_mm=(1.0, 1.0, 1.0))
# The network grid's axis from left to right; neither ROI has a side, so mirrored scans may be predicted too.
LEFT_RIGHT = 2
TOGETHER = f"{FOLDS} networks and their mirror images"


def run(
    competitor: str, split: Split, minutes: Sequence[float], results: Results, options: argparse.Namespace
) -> None:
    """Runs one competitor with single networks."""
    if competitor == "ours":
        run_ours(split, minutes, results, options.keep_models)
    elif competitor == "monai":
        run_peer("monai", monai_unet.recipe, PREPROCESSING, split, minutes, results, options.seed)
    else:
        run_nnunet(split, minutes, results, find_python(options.nnunet_python), options.work / "nnunet")


# --- five networks together -------------------------------------------------------------------------------------------


def folds_text(minutes: float) -> str:
    """Returns the budget of five networks, e.g. "5 x 10"."""
    return f"{FOLDS} x {minutes:g}"


def ours_in_folds(split: Split, minutes: float, results: Results, work: Path) -> None:
    """folds = 5 and mirrored prediction, as the settings ask for it. Goes on where it was stopped.

    The time limit of all folds together is kept by the wall clock; minutes in the table are those of the clock, of the
    last sitting where it was stopped in between.
    """
    if results.has(split, "ours", folds_text(minutes)):
        return
    place, name = work / "ours_folds", f"{split.task.name}_{minutes:g}"
    folder = write_layout(split, "train", place / "train")
    settings = settings_for(split.task, folder, minutes * FOLDS, folds=FOLDS, model_filename=name)
    counter, began = StepCounter(), results.clock()
    train_folds(check_study(settings), folder, counter)
    spent = (results.clock() - began) / 60
    test = read_scans(split.task, write_layout(split, "test", place / "test"))
    found = segmented(folder / "models" / f"{name}_best.safetensors", test, tta=True)
    scored = score(test, found, split.task.rois)
    results.add(split, "ours", folds_text(minutes), scored, spent, counter.steps, TOGETHER)


def monai_in_folds(split: Split, minutes: float, results: Results, work: Path, seed: int) -> None:
    """Five plain loops, each without another fifth of the training scans; the mean of their probabilities."""
    if results.has(split, "monai", folds_text(minutes)):
        return
    place = work / "monai_folds"
    scans = read_scans(split.task, write_layout(split, "train", place / "train"))
    cases = prepare(scans, PREPROCESSING)
    members = []
    for fold in range(FOLDS):
        file = place / f"{minutes:g}_{fold}.pt"
        if not file.exists():
            _train_member(cases, fold, minutes, results, file, seed)
        member = monai_unet.network(len(split.task.rois) + 1)
        member.load_state_dict(torch.load(file, weights_only=True))
        members.append(member)
    test = read_scans(split.task, write_layout(split, "test", place / "test"))
    recipe = monai_unet.recipe(cases[:1], len(split.task.rois) + 1, seed)
    classes = len(split.task.rois) + 1
    predictor = plain_predictor(Ensemble(members), recipe, PREPROCESSING, classes, LEFT_RIGHT)
    scored = score(test, (predictor.predict(scan.volume) for scan in test), split.task.rois)
    results.add(split, "monai", folds_text(minutes), scored, FOLDS * minutes, 0, TOGETHER)


def _train_member(
    cases: list[PreparedCase], fold: int, minutes: float, results: Results, file: Path, seed: int
) -> None:
    rest = [case for number, case in enumerate(cases) if number % FOLDS != fold]
    classes = 1 + max(int(case.label.max()) for case in cases)
    recipe = monai_unet.recipe(rest, classes, seed + fold)
    say(f"    plain MONAI loop, network {fold + 1} of {FOLDS} ...")
    train_plainly(recipe, results.clock, [minutes], lambda *_: torch.save(recipe.network.state_dict(), file))


# --- command line -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Runs what is missing and prints the table."""
    options = parser(__doc__, "train_3d", COMPETITORS)
    options.add_argument(
        "--long", action="store_true", help="also 45 minutes, and five networks of 10 minutes"
    )
    options.add_argument(
        "--fold-minutes", type=float, default=FOLD_MINUTES, help="of each of the five networks"
    )
    options.add_argument("--nnunet-python", type=Path, help="the Python that nnU-Net v2 is installed in")
    options.add_argument(
        "--work", type=Path, default=REPOSITORY / "build" / "benchmarks", help="where unfinished work is kept"
    )
    given = options.parse_args()
    results = start(given)
    split = split_patients(HIPPOCAMPUS, PARTS, given.seed, given.limit)[0]
    minutes = given.minutes or [*MINUTES, *([LONG_MINUTES] if given.long else [])]
    competitors = [given.only] if given.only else list(COMPETITORS)
    for competitor in [] if given.table else competitors:
        run(competitor, split, minutes, results, given)
        if given.long and competitor == "ours":
            ours_in_folds(split, given.fold_minutes, results, given.work)
        elif given.long and competitor == "monai":
            monai_in_folds(split, given.fold_minutes, results, given.work, given.seed)
    say(
        f"\nHippocampus: {len(split.train)} scans to learn from, {len(split.test)} kept back; minutes are "
        f"{results.clock.name}; {given.threads} threads\n"
    )
    say(table(results.of_this_clock(), COMPETITORS))
    say(
        "\nmonai and nnunet: one run each, scored on the way; ours: a run for each time limit. nnU-Net, published: 0.895."
    )


if __name__ == "__main__":
    main()
