"""How many scans must be labelled? Dice of a hippocampus model after 3 minutes with 5, 10, 20 and 50 labelled scans.

    python benchmarks/few_scans.py                                  all numbers of scans, two draws each, both competitors
    python benchmarks/few_scans.py --scans 5 10 --seeds 1 --minutes 0.5
    python benchmarks/few_scans.py --table                          what is there so far

Competitors: the product with default settings and a time limit, which keeps some of the labelled scans back to look at; a
plain MONAI U-Net loop, which learns from all of them. A fifth of the data set is kept back and scored; the labelled scans are
drawn from the rest, the smaller draw part of the larger one.

With 20 scans the product also foretells what more of them would bring (``learning_curve = True``): from trainings on its
own scans and parts of them. That is compared with what 50 scans did bring.

Finished rows are kept in a file and not run again, so that the whole may be run in pieces.
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
    budget_text,
    parser,
    read_scans,
    say,
    say_event,
    score,
    settings_for,
    split_patients,
    start,
    write_layout,
)
from competitors import StepCounter, run_ours, run_peer, segmented
from peers import monai_unet
from train_3d import PARTS, PREPROCESSING

from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.label_more import measure_outlook
from autoseg_lib.workflow.training import prepare_training, train

COMPETITORS = ("ours", "monai")
SCANS, MINUTES, SEEDS = (5, 10, 20, 50), 3.0, 2
# The gain of labelling more is foretold with so many scans.
CURVE_AT = 20


def draw(seed: int, scans: int, split_seed: int, limit: int | None) -> Split:
    """Returns the first ``scans`` of one random order of the scans to learn from, and all scans kept back."""
    whole = split_patients(HIPPOCAMPUS, PARTS, split_seed, limit)[0]
    order = np.random.default_rng([seed, 41]).permutation(len(whole.train))
    chosen = tuple(sorted(whole.train[i] for i in order[:scans]))
    return Split(HIPPOCAMPUS, f"{scans} scans, draw {seed}", chosen, whole.test)


# --- what more would bring --------------------------------------------------------------------------------------------


def ours_with_curve(
    split: Split, minutes: float, results: Results, curves: Path, keep: Path | None = None
) -> None:
    """Trains the product as ``run_ours`` does, then on a half and a quarter of the same scans, and keeps what it foretells."""
    if results.has(split, "ours", budget_text(minutes)) and _foretold(curves, split, minutes, results):
        return
    with tempfile.TemporaryDirectory() as place:
        test = read_scans(split.task, write_layout(split, "test", Path(place) / "test"))
        folder = write_layout(split, "train", Path(place) / "train")
        name = f"{split.task.name}_{split.name}_{budget_text(minutes)}"
        study = check_study(settings_for(split.task, folder, minutes, model_filename=name))
        prepared = prepare_training(study, folder, say_event, clock=results.clock)
        counter, began = StepCounter(), results.clock()
        result = train(prepared, counter, clock=results.clock)
        spent = (results.clock() - began) / 60
        if result.model_path is None or result.scores is None:
            raise SystemExit(f"no model came out after {minutes:g} minutes.")
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(result.model_path, keep)
        if not results.has(split, "ours", budget_text(minutes)):
            scored = score(test, segmented(result.model_path, test), split.task.rois)
            title = prepared.plan.network.title
            results.add(split, "ours", budget_text(minutes), scored, spent, counter.steps, title)
        outlook = measure_outlook(study, prepared.plan, result.scores.mean, say_event, clock=results.clock)
    say(f"    {outlook.text}")
    _keep(curves, split, minutes, results, outlook)


def _keep(curves: Path, split: Split, minutes: float, results: Results, outlook: object) -> None:
    curve, now = outlook.curve, outlook.patients  # type: ignore[attr-defined]
    if curve is None:
        return
    # The same share of the labelled scans is kept back with more of them.
    gains = {
        str(more): vars(curve.gain(now, round(now * more / len(split.train))))
        for more in SCANS
        if more > len(split.train)
    }
    line = {
        "split": split.name,
        "minutes": minutes,
        "clock": results.clock.name,
        "sizes": curve.sizes,
        "scores": curve.scores,
        "gains": gains,
        "text": outlook.text,  # type: ignore[attr-defined]
    }
    with curves.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _foretold(curves: Path, split: Split, minutes: float, results: Results) -> dict[str, object] | None:
    wanted = (split.name, minutes, results.clock.name)
    for line in curves.read_text(encoding="utf-8").splitlines() if curves.is_file() else []:
        entry = json.loads(line)
        if (entry["split"], entry["minutes"], entry["clock"]) == wanted:
            return dict(entry)
    return None


# --- table ------------------------------------------------------------------------------------------------------------


def mean_dice(results: Results, competitor: str, minutes: float, splits: Sequence[Split]) -> list[float]:
    """Returns the mean Dice of each draw that is done."""
    names = {split.name for split in splits}
    return [
        row.mean_dice
        for row in results.of_this_clock()
        if (row.competitor, row.budget) == (competitor, budget_text(minutes)) and row.split in names
    ]


def table(results: Results, minutes: float, draws: dict[int, list[Split]], curves: Path) -> str:
    """Returns the scores by number of scans, whether the goal is reached, and what was foretold."""
    lines = [f"{'labelled scans':>14}  {'ours':>8}  {'monai':>8}   each draw (ours | monai)"]
    means: dict[tuple[str, int], float] = {}
    for scans, splits in draws.items():
        cells, each = [], []
        for competitor in COMPETITORS:
            values = mean_dice(results, competitor, minutes, splits)
            means[competitor, scans] = float(np.mean(values)) if values else float("nan")
            cells.append(f"{means[competitor, scans]:8.4f}" if values else f"{'-':>8}")
            each.append(" ".join(f"{value:.4f}" for value in values) or "-")
        lines.append(f"{scans:>14}  {cells[0]}  {cells[1]}   {' | '.join(each)}")
    if ("ours", 10) in means and ("monai", 20) in means:
        ahead = means["ours", 10] - means["monai", 20]
        lines.append(f"\nours with 10 scans against monai with 20: {ahead:+.4f}")
    lines += _told_and_found(results, minutes, draws, curves)
    return "\n".join(lines)


def _told_and_found(
    results: Results, minutes: float, draws: dict[int, list[Split]], curves: Path
) -> list[str]:
    lines = []
    for split in draws.get(CURVE_AT, []):
        told = _foretold(curves, split, minutes, results)
        if told is None:
            continue
        points = ", ".join(
            f"{n}: {value:.3f}"
            for n, value in zip(told["sizes"], told["scores"], strict=True)  # type: ignore[call-overload]
        )
        lines.append(f"\n{split.name}: own trainings gave {points} on its own kept-back scans")
        lines.append(f"  {told['text']}")
        now = mean_dice(results, "ours", minutes, [split])
        for more, gain in told["gains"].items():  # type: ignore[attr-defined]
            seed = split.name.rsplit(" ", 1)[-1]
            larger = [s for s in draws.get(int(more), []) if s.name.endswith(f"draw {seed}")]
            then = mean_dice(results, "ours", minutes, larger)
            found = f"{then[0] - now[0]:+.4f}" if now and then else "not run"
            lines.append(
                f"  {more} labelled instead of {CURVE_AT}: foretold {gain['gain']:+.4f} "
                f"({gain['low']:+.4f} to {gain['high']:+.4f}), found {found}"
            )
    return lines


def main() -> None:
    """Runs what is missing and prints the table."""
    options = parser(__doc__, "few_scans", COMPETITORS)
    options.add_argument("--scans", type=int, nargs="+", default=SCANS, help="numbers of labelled scans")
    options.add_argument("--seeds", type=int, default=SEEDS, help="how many draws of each")
    options.add_argument(
        "--no-curve", action="store_true", help="do not foretell what more scans would bring"
    )
    given = options.parse_args()
    if given.minutes and len(given.minutes) > 1:
        options.error("--minutes: one budget at a time here")
    results = start(given)
    minutes = given.minutes[0] if given.minutes else MINUTES
    curves = given.results.with_name(given.results.stem + "_foretold.jsonl")
    draws = {
        n: [draw(seed, n, given.seed, given.limit) for seed in range(given.seeds)]
        for n in sorted(given.scans)
    }
    for scans, splits in {} if given.table else draws.items():
        for seed, split in enumerate(splits):
            if given.only in (None, "ours"):
                if scans == CURVE_AT and not given.no_curve:
                    ours_with_curve(split, minutes, results, curves, given.keep_models)
                else:
                    run_ours(split, [minutes], results, given.keep_models)
            if given.only in (None, "monai"):
                run_peer(
                    "monai", monai_unet.recipe, PREPROCESSING, split, [minutes], results, given.seed + seed
                )
    say(
        f"\nHippocampus, {minutes:g} minutes ({results.clock.name}, {given.threads} threads), mean Dice on "
        f"{len(next(iter(draws.values()))[0].test)} scans kept back\n"
    )
    say(table(results, minutes, draws, curves))


if __name__ == "__main__":
    main()
