"""Runs a competitor on a split and keeps its scores: the product as the notebooks run it, or a plain loop.

All competitors get the same scans on the same grid with the same normalisation, and their answers go back onto the
scans' own grid in the same way. The clock begins when learning begins: reading and checking the data is not counted, nor
is scoring the kept-back scans; the product's own looks at its validation scans are.

A plain loop has a constant learning rate, so that one run serves all budgets. The product's schedule is fitted to the
time limit, so each budget is a run of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from common import (
    Results,
    Split,
    budget_text,
    prepare,
    read_scans,
    say,
    say_event,
    score,
    settings_for,
    write_layout,
)
from peers.plain_loop import Recipe
from peers.plain_loop import train as train_plainly
from torch import nn

from autoseg_lib.events import Event, StepDone
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.networks.model_file import load_model
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.settings import SegmentSettings, make_settings
from autoseg_lib.train.validate import ValidationScan
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.model_choice import make_predictor
from autoseg_lib.workflow.training import prepare_training, train

MakeRecipe = Callable[..., Recipe]


def run_ours(
    split: Split, minutes: Sequence[float], results: Results, keep: Path | None = None, seed: int = 0
) -> None:
    """Trains the product once for each budget, with default settings but the seed; models are copied to ``keep``."""
    missing = results.missing(split, "ours", minutes)
    if not missing:
        return
    with tempfile.TemporaryDirectory() as place:
        test = read_scans(split.task, write_layout(split, "test", Path(place) / "test"))
        folder = write_layout(split, "train", Path(place) / "train")
        for budget in missing:
            _ours(split, folder, budget, test, results, keep, seed)


def _ours(
    split: Split,
    folder: Path,
    budget: float,
    test: Sequence[ValidationScan],
    results: Results,
    keep: Path | None,
    seed: int,
) -> None:
    clock, name = results.clock, f"{split.task.name}_{split.name}_{budget_text(budget)}"
    study = check_study(settings_for(split.task, folder, budget, model_filename=name, seed=seed))
    prepared = prepare_training(study, folder, say_event, clock=clock)
    say(f"    {prepared.summary}")
    counter, began = StepCounter(), clock()
    result = train(prepared, counter, clock=clock)
    spent = (clock() - began) / 60
    if result.model_path is None:
        raise SystemExit(f"{split.task.name}: no model came out after {budget:g} minutes.")
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(result.model_path, keep)
    scored = score(test, segmented(result.model_path, test), split.task.rois)
    title = prepared.plan.network.title
    results.add(split, "ours", budget_text(budget), scored, spent, counter.steps, title)


class StepCounter:
    """Counts the steps of a training and says its lines."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, event: Event) -> None:
        self.steps += isinstance(event, StepDone)
        say_event(event)


def segmented(model_path: Path, scans: Sequence[ValidationScan], **settings: object) -> Iterator[Mask]:
    """Segments scans as test.ipynb does with this model file."""
    predictor = make_predictor(load_model(model_path), make_settings(SegmentSettings, settings), [])
    return (predictor.predict(scan.volume) for scan in scans)


def run_peer(
    name: str,
    make_recipe: MakeRecipe,
    preprocessing: Preprocessing,
    split: Split,
    minutes: Sequence[float],
    results: Results,
    seed: int,
) -> None:
    """Trains a plain loop once and scores it whenever a budget is used up."""
    missing = results.missing(split, name, minutes)
    if not missing:
        return
    with tempfile.TemporaryDirectory() as place:
        test = read_scans(split.task, write_layout(split, "test", Path(place) / "test"))
        training = read_scans(split.task, write_layout(split, "train", Path(place) / "train"))
    recipe = make_recipe(prepare(training, preprocessing), len(split.task.rois) + 1, seed)
    clock = results.clock
    began = clock()

    def on_mark(budget: float, steps: int) -> None:
        predictor = plain_predictor(recipe.network, recipe, preprocessing, len(split.task.rois) + 1)
        scored = score(test, (predictor.predict(scan.volume) for scan in test), split.task.rois)
        spent = (clock.at_pause - began) / 60
        results.add(split, name, budget_text(budget), scored, spent, steps, recipe.note)

    train_plainly(recipe, clock, missing, on_mark)


def plain_predictor(
    network: nn.Module,
    recipe: Recipe,
    preprocessing: Preprocessing,
    classes: int,
    mirror_axis: int | None = None,
) -> Predictor:
    """Returns the product's predictor around another's network."""
    return Predictor(
        network=network.eval(),
        preprocessing=preprocessing,
        classes=classes,
        device=torch.device("cpu"),
        window=recipe.window,
        half_precision=recipe.bf16,
        mirror_axis=mirror_axis,
    )
