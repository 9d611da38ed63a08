"""What would more labelled scans bring? Judged from trainings on a half and a quarter of the scans there are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from autoseg_lib.data.split import Split
from autoseg_lib.errors import counted
from autoseg_lib.events import Listener, Message, StopFlag, nobody
from autoseg_lib.io.files import atomic_write
from autoseg_lib.settings import AUTO, to_table
from autoseg_lib.train.files import RunFiles, write_report
from autoseg_lib.train.learning_curve import FEWEST_PATIENTS, LearningCurve, fit_learning_curve
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.planning import Plan
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.folds import wants_folds
from autoseg_lib.workflow.training import prepare_training, train

# The question that is answered: what would twice as many bring?
TIMES_AS_MANY = 2


@dataclass(frozen=True)
class Outlook:
    """What more labelled scans would bring.

    Attributes:
        text: one sentence, with its uncertainty; or why there is none.
        curve: behind it; None without one.
        patients: that the model has learned from.
    """

    text: str
    curve: LearningCurve | None
    patients: int


def measure_outlook(
    study: Study,
    plan: Plan,
    mean_dice: float | None,
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outlook:
    """Trains on a quarter and on a half of the patients too, and says what twice as many would bring.

    Each of the two takes as many steps, and as long, as the training itself; the same scans are kept back. They are runs of
    their own (NAME_part4 and NAME_part2) and go on where they were interrupted.

    Args:
        study: the data folder.
        plan: of the training on all patients (with folds: of the first fold).
        mean_dice: its score on the scans it has kept back; None without any.
        on_event: hears the progress.
        stop: set to save and end; the sentence is then missing until the next sitting.
        machine: the computer; None looks.
        clock: gives seconds; what the time limit is kept by.
    """
    facts = study.report.facts
    patients = sorted({facts[i].patient for i in plan.split.train})
    if mean_dice is None or plan.split.kind != "patients" or len(patients) < FEWEST_PATIENTS:
        return Outlook(
            f"What more labelled scans would bring cannot be said: at least {FEWEST_PATIENTS} patients to learn from and others "
            f"to judge by are needed, found {counted(len(patients), 'patient')} to learn from.",
            None,
            len(patients),
        )
    stop = stop or StopFlag()
    points = [(len(patients), mean_dice)]
    for part in (2, 4):
        chosen = _some_patients(patients, part, plan.settings.seed)
        on_event(
            Message(
                f"Learning curve: the same training on {len(chosen)} of the {len(patients)} patients, to see what more would bring."
            )
        )
        dice = _train_part(study, plan, part, chosen, len(patients), on_event, stop, machine, clock)
        if dice is None:
            return Outlook("The learning curve was stopped; run again to go on.", None, len(patients))
        points.append((len(chosen), dice))
    sizes, scores = zip(*sorted(points), strict=True)
    curve = fit_learning_curve(sizes, scores)
    path = plan.files.folder / f"{_base_name(study, plan)}_learning_curve.csv"
    frame = pd.DataFrame({"patients": sizes, "mean_dice": scores})
    atomic_write(path, lambda target: frame.to_csv(target, index=False))
    what = "scan" if len(plan.split.train) == len(patients) else "patient"
    text = curve.sentence(len(patients), TIMES_AS_MANY * len(patients), what)
    _add_to_report(RunFiles(plan.files.folder, _base_name(study, plan)).report, text, curve)
    return Outlook(text, curve, len(patients))


def _add_to_report(path: Path, text: str, curve: LearningCurve) -> None:
    if not path.is_file():
        return
    told = {"text": text, "patients": list(curve.sizes), "mean_dice": [round(s, 4) for s in curve.scores]}
    write_report(path, {**json.loads(path.read_text(encoding="utf-8")), "learning_curve": told})


def _base_name(study: Study, plan: Plan) -> str:
    name = plan.files.name
    return name.removesuffix("_fold1") if wants_folds(study.settings) else name


def _some_patients(patients: Sequence[str], part: int, seed: int) -> list[str]:
    """The first of one random order: a quarter is part of the half."""
    order = np.random.default_rng([seed, 13]).permutation(len(patients))
    return [patients[i] for i in order[: max(2, round(len(patients) / part))]]


def _train_part(
    study: Study,
    plan: Plan,
    part: int,
    chosen: Sequence[str],
    of: int,
    on_event: Listener,
    stop: StopFlag,
    machine: Machine | None,
    clock: Callable[[], float],
) -> float | None:
    facts = study.report.facts
    kept = set(chosen)
    split = Split(
        tuple(i for i in plan.split.train if facts[i].patient in kept),
        plan.split.validation,
        plan.split.kind,
        f"Learning curve: {counted(len(chosen), 'patient')} of {of} to learn from; the same scans kept back.",
    )
    settings = replace(
        study.settings,
        model_filename=f"{_base_name(study, plan)}_part{part}",
        model_dir=str(plan.files.folder),
        # As many steps as on all patients: what differs is only how many scans they see.
        epochs=max(1, round(plan.loop.epochs * of / len(chosen))),
        time_limit_minutes=plan.settings.time_limit_minutes,
        folds=AUTO,
        early_stopping=False,
        resume=AUTO if study.settings.resume is not False else False,
    )
    used = {
        key: value
        for key, value in to_table(plan.settings).items()
        if key not in ("model_filename", "epochs", "print_checkpoint", "save_checkpoint", "resume", "folds")
    }
    prepared = prepare_training(
        replace(study, settings=settings),
        plan.files.folder,
        on_event,
        machine,
        split=split,
        like=used,
        clock=clock,
    )
    result = train(prepared, on_event, stop, clock=clock)
    return None if result.reason == "stopped" or result.scores is None else result.scores.mean
