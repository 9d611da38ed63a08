"""Steps "Model training" and "Training performance": plan, prepare the data, train, say how good the model is."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoseg_lib import __version__
from autoseg_lib.data.dataset import PatchDataset, PreparedCase, SliceDataset
from autoseg_lib.data.split import runs
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.events import EpochDone, Event, Listener, Message, Progress, StopFlag, nobody
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.networks.model_file import load_model, save_model
from autoseg_lib.networks.registry import build_network, number_of_weights
from autoseg_lib.settings import AUTO, TrainSettings, to_table
from autoseg_lib.system import versions
from autoseg_lib.train.files import load_checkpoint, read_history, write_report, write_yaml
from autoseg_lib.train.loop import Trainer
from autoseg_lib.train.machine import Machine, find_machine
from autoseg_lib.train.planning import (
    VALIDATION_CASES,
    Plan,
    check_dimension,
    choose_dimension,
    default_name,
    make_plan,
)
from autoseg_lib.train.validate import CaseScore, Scores, ValidationScan, validate
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.checking import Study, model_folder

# Settings that may change between two sittings of one run: they change where and how long, not what is learned.
FREE_TO_CHANGE = (
    "main_dir",
    "model_filename",
    "model_dir",
    "epochs",
    "time_limit_minutes",
    "print_checkpoint",
    "save_checkpoint",
    "num_workers",
    "precision",
    "resume",
    "start_from",
    "pretrained",
)
# Steps that are timed before training to say how long it will take; the first is left out (it sets up the kernels).
TIMED_STEPS = 3


@dataclass(frozen=True)
class PreparedTraining:
    """All that training needs, ready to start.

    Attributes:
        plan: what is done, and why.
        state: "new", "continue" (an interrupted run goes on) or "finished" (a finished run is shown).
        found: a sentence on the run that was found; "" for a new one.
        summary: one line: network, epochs, time, where it is saved.
        minutes: expected minutes from here to the end.
        train_set: the training samples.
        validation: scans looked at while training.
    """

    study: Study
    plan: Plan
    state: str
    found: str
    summary: str
    minutes: float
    train_set: SliceDataset | PatchDataset = field(repr=False)
    validation: tuple[ValidationScan, ...] = field(repr=False)
    network: nn.Module = field(repr=False)
    checkpoint: dict[str, Any] | None = field(default=None, repr=False)

    def lines(self) -> list[str]:
        """Returns the choices and the summary as text lines."""
        lines = [f"{'setting':<20} {'value':<28} why"]
        lines += [f"{c.setting:<20} {_short(c.value):<28} {c.reason}" for c in self.plan.choices]
        lines.append(self.plan.split.text)
        if self.found:
            lines.append(self.found)
        lines.append(self.summary)
        return lines


@dataclass(frozen=True)
class TrainingResult:
    """A run that has ended.

    Attributes:
        name: the model's name.
        reason: "finished", "time limit", "stopped".
        model_path: the best model; None where not one epoch was done.
        history: one dict per epoch, columns of NAME_history.csv.
        scores: of the best model on all scans kept back; None without any.
        split_kind: what the scores stand for: "patients", "cases", "same scan" or "none".
        already_finished: the run was found finished and only shown.
    """

    name: str
    reason: str
    model_path: Path | None
    epochs_done: int
    epochs: int
    seconds: float
    roi_names: tuple[str, ...]
    history: tuple[dict[str, Any], ...] = field(repr=False)
    scores: Scores | None = field(repr=False)
    split_kind: str
    split_text: str
    verdict: str
    methods: str
    already_finished: bool = False

    @property
    def best_cases(self) -> tuple[CaseScore, ...]:
        """The up to three best validation scans, best first."""
        return tuple(sorted(self.scores.cases, key=lambda c: -c.mean_dice)[:3]) if self.scores else ()

    @property
    def worst_cases(self) -> tuple[CaseScore, ...]:
        """The up to three worst validation scans, worst first."""
        return tuple(sorted(self.scores.cases, key=lambda c: c.mean_dice)[:3]) if self.scores else ()

    def lines(self) -> list[str]:
        """Returns the result as text lines."""
        done = {
            "finished": "Training is finished",
            "time limit": "The time limit was reached",
            "stopped": "Training was stopped; it can go on",
        }[self.reason]
        lines = [f"{done}: {self.epochs_done} of {self.epochs} epochs in {self.seconds / 60:.1f} minutes."]
        if self.scores:
            lines.append(f"{'ROI':<32} {'Dice':>6} {'sd':>6} {'area error':>11}")
            rows = zip(
                self.roi_names,
                self.scores.per_roi,
                self.scores.sd_per_roi,
                self.scores.area_error_per_roi,
                strict=True,
            )
            for name, dice, sd, error in rows:
                lines.append(
                    f"{name:<32} {_cell(dice, '.3f'):>6} {_cell(sd, '.3f'):>6} {_cell(error, '.1f', ' %'):>11}"
                )
        lines.append(self.verdict)
        if self.model_path:
            lines.append(f"Model: {self.model_path}")
        return lines


# --- before -----------------------------------------------------------------------------------------------------------


def prepare_training(
    study: Study, project_dir: Path, on_event: Listener = nobody, machine: Machine | None = None
) -> PreparedTraining:
    """Plans the training and reads the data into memory, or finds the run that is to be continued.

    Args:
        study: a checked data folder without errors.
        project_dir: where trained_model/ is when ``model_dir`` is "auto".
        on_event: hears the progress.
        machine: the computer; None looks.

    Raises:
        DataError: the data check found errors.
        SettingsError: settings that do not work, or that differ from those of the run of the same name.
        ModelError: the resume file or the model to start from cannot be used.
    """
    study.require_sound()
    machine = machine or find_machine()
    settings, folder = study.settings, model_folder(study.settings.model_dir, project_dir)
    dimension = settings.dimension if settings.dimension != AUTO else choose_dimension(study.report.facts)[0]
    check_dimension(dimension, study.report.facts)
    checkpoint = _find_checkpoint(settings, folder, dimension)
    previous = checkpoint["settings"] if checkpoint else None
    plan = make_plan(settings, study.report, machine, folder, previous)
    if checkpoint:
        _require_same(settings, checkpoint, study, plan)

    train_set, validation = _prepare_data(study, plan, on_event)
    network = _initial_network(plan)
    seconds_per_step = (
        _time_steps(plan, network, train_set) if checkpoint is None else _seconds_per_step(checkpoint)
    )
    if checkpoint is None:
        plan = make_plan(settings, study.report, machine, folder, previous, seconds_per_step)
        network = _initial_network(plan)  # the timed one has learned already
    reserve = _reserve_seconds(plan, seconds_per_step, study)
    plan = replace(plan, loop=replace(plan.loop, reserve_seconds=reserve))
    state, found = _state_of(checkpoint, plan)
    steps_left = plan.loop.epochs * plan.steps_per_epoch - (
        checkpoint["state"]["steps_done"] if checkpoint else 0
    )
    minutes = max(0.0, steps_left * seconds_per_step * 1.15) / 60
    if plan.loop.time_limit_seconds:
        spent = checkpoint["state"]["elapsed_seconds"] if checkpoint else 0.0
        minutes = min(minutes, max(0.0, plan.loop.time_limit_seconds - spent) / 60)
    return PreparedTraining(
        study=study,
        plan=plan,
        state=state,
        found=found,
        summary=_summary(plan, network, minutes, state),
        minutes=minutes,
        train_set=train_set,
        validation=validation,
        network=network,
        checkpoint=checkpoint,
    )


def _find_checkpoint(settings: TrainSettings, folder: Path, dimension: str) -> dict[str, Any] | None:
    """Reads the resume file the settings point to, if there is one to go on with."""
    if settings.resume is False:
        return None
    if isinstance(settings.resume, str) and settings.resume != AUTO:
        return load_checkpoint(Path(settings.resume).expanduser())
    name = settings.model_filename if settings.model_filename != AUTO else default_name(settings, dimension)
    last = folder / f"{name}_last.ckpt"
    if settings.resume is True or last.is_file():
        return load_checkpoint(last)
    return None


def _require_same(settings: TrainSettings, checkpoint: dict[str, Any], study: Study, plan: Plan) -> None:
    """Refuses to go on with other settings or data than the run was started with."""
    before = checkpoint["settings"]
    differences = []
    for name, given in to_table(settings).items():
        if name in FREE_TO_CHANGE or given == AUTO or name not in before:
            continue
        if name == "augment_params" and isinstance(given, dict):
            given = {**before[name], **given}
        if given != before[name]:
            differences.append(f"{name}: {_short(before[name])} then, {_short(given)} now")
    if checkpoint["checksum"] != study.report.checksum:
        differences.append("the images or labels in the data folder have changed")
    if list(plan.labels.names) != list(before["labels_list"]) and settings.labels_list == AUTO:
        differences.append("the ROIs in the label files have changed")
    if differences:
        lines = "\n".join(f"  - {text}" for text in differences)
        raise SettingsError(
            f"a run named '{plan.files.name}' exists already, made with other settings or data:\n{lines}\n"
            "Give this one a new model_filename, or set resume = False to start over (the earlier files are set aside)."
        )


def _state_of(checkpoint: dict[str, Any] | None, plan: Plan) -> tuple[str, str]:
    if checkpoint is None:
        return "new", ""
    state = checkpoint["state"]
    limit = plan.loop.time_limit_seconds
    more_time = limit is None or limit > state["elapsed_seconds"] * 1.05 + 30
    done = state["epoch"] >= plan.loop.epochs or (state["finished"] == "time limit" and not more_time)
    when = datetime.datetime.fromisoformat(checkpoint["saved"]).strftime("%d %B %Y, %H:%M")
    if state["finished"] and done:
        return "finished", (
            f"The run '{plan.files.name}' of {when} is finished ({state['epoch']} epochs): it is shown, not trained again. "
            "To train another model give a new model_filename; to start over set resume = False."
        )
    return "continue", (
        f"Found a run at epoch {state['epoch']} of {plan.loop.epochs} from {when}: continuing. To start over set resume = False."
    )


def _prepare_data(
    study: Study, plan: Plan, on_event: Listener
) -> tuple[SliceDataset | PatchDataset, tuple[ValidationScan, ...]]:
    """Brings the training scans onto the network's grid; the scans looked at while training stay as they are."""
    prepared: list[PreparedCase] = []
    total = len(plan.split.train)
    for number, index in enumerate(plan.split.train):
        name = study.report.facts[index].name
        on_event(Progress("Preparing scans", number, total, name))
        volume, mask = _load(study, index)
        parts = [(volume, mask)]
        if plan.split.train_slices is not None:
            parts = [_cut(volume, mask, part.start, part.stop) for part in runs(plan.split.train_slices)]
        for part_volume, part_mask in parts:
            image = plan.preprocessing.prepare(part_volume)
            label = plan.preprocessing.prepare_mask(part_mask)
            prepared.append(
                PreparedCase(name, np.asarray(image.array, dtype=np.float32), label.array.astype(np.uint8))
            )
    on_event(Progress("Preparing scans", total, total))
    train_set: SliceDataset | PatchDataset
    if plan.window is None:
        train_set = SliceDataset(prepared, plan.augmentation, plan.loop.seed)
    else:
        train_set = PatchDataset(
            prepared, plan.window, plan.augmentation, plan.loop.seed, length=plan.samples
        )
    return train_set, tuple(_validation_scans(study, plan, VALIDATION_CASES))


def _validation_scans(study: Study, plan: Plan, most: int | None = None) -> Iterator[ValidationScan]:
    """Reads the scans kept back, one at a time; at most ``most``, spread over all."""
    chosen = list(plan.split.validation)
    if most is not None and len(chosen) > most:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, most).round().astype(int)]
    for index in chosen:
        facts = study.report.facts[index]
        volume, mask = _load(study, index)
        names = facts.slice_names
        if plan.split.validation_slices is not None:
            first, last = plan.split.validation_slices[0], plan.split.validation_slices[-1]
            volume, mask = _cut(volume, mask, first, last + 1)
            names = names[first : last + 1]
        yield ValidationScan(facts.name, volume, mask, names)


def _load(study: Study, index: int) -> tuple[Volume, Mask]:
    case = study.pairing.cases[study.report.usable[index]]
    scan, mask, _ = load_training_case(case, study.settings)
    return scan.volume, mask


def _cut(volume: Volume, mask: Mask, start: int, stop: int) -> tuple[Volume, Mask]:
    geometry = volume.geometry.slices(start, stop)
    return volume.with_array(volume.array[start:stop], geometry), mask.with_array(
        mask.array[start:stop], geometry
    )


def _initial_network(plan: Plan) -> nn.Module:
    torch.manual_seed(plan.loop.seed)
    network = build_network(
        plan.network, pretrained=plan.settings.pretrained and plan.settings.start_from is None
    )
    if plan.settings.start_from:
        start = load_model(Path(plan.settings.start_from).expanduser())
        if start.spec.to_dict() | {"input_shape": None, "dropout": None} != plan.network.to_dict() | {
            "input_shape": None,
            "dropout": None,
        }:
            raise ModelError(
                f"start_from: '{start.path.name}' is a {start.spec.dimension} {start.spec.title} for {len(start.labels)} ROIs; "
                f"this training needs a {plan.network.dimension} {plan.network.title} for {len(plan.labels)} ROIs. "
                "Use the same dimension, network, encoder and number of ROIs, or leave start_from empty."
            )
        network.load_state_dict(start.network.state_dict())
    return network


def _predictor(plan: Plan, network: nn.Module, device: str) -> Predictor:
    return Predictor(
        network=network,
        preprocessing=plan.preprocessing,
        classes=len(plan.labels) + 1,
        device=torch.device(device),
        window=plan.window,
        half_precision=plan.loop.precision != "32",
    )


def _trainer(
    prepared_plan: Plan, network: nn.Module, train_set: Any, validation: Any, save: Any, extra: Any
) -> Trainer:
    return Trainer(
        plan=prepared_plan.loop,
        network=network,
        predictor=_predictor(prepared_plan, network, prepared_plan.loop.device),
        train_set=train_set,
        validation=validation,
        files=prepared_plan.files,
        labels=prepared_plan.labels,
        save_model=save,
        checkpoint_extra=extra,
    )


def _time_steps(plan: Plan, network: nn.Module, train_set: SliceDataset | PatchDataset) -> float:
    """Seconds of one training step on this computer, measured on the real data."""
    quick = replace(plan, loop=replace(plan.loop, num_workers=0))
    trainer = _trainer(quick, network, train_set, (), None, {})
    trainer.network.train()
    seconds = []
    batches = iter(trainer.loader)
    for _ in range(TIMED_STEPS):
        clock = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        trainer.train_step(batch, nobody)
        seconds.append(time.perf_counter() - clock)
    return float(np.median(seconds[1:] or seconds))


def _seconds_per_step(checkpoint: dict[str, Any]) -> float:
    state = checkpoint["state"]
    return float(state["elapsed_seconds"]) / max(1, int(state["steps_done"]))


def _reserve_seconds(plan: Plan, seconds_per_step: float, study: Study) -> float:
    """Expected time for the last validation on all kept-back scans and for saving."""
    # Predicting costs about a third of a training step for as many images, each scan about its slices or windows.
    if plan.window is None:
        images = sum(len(study.report.facts[i].counts) for i in plan.split.validation)
    else:
        images = 4 * len(plan.split.validation)
    return min(120.0, 2.0 + images / plan.loop.batch_size * seconds_per_step * 0.5)


def _summary(plan: Plan, network: nn.Module, minutes: float, state: str) -> str:
    weights = number_of_weights(network)
    size = f"{weights / 1e6:.1f} M weights"
    time_text = "under a minute" if minutes < 1 else f"about {minutes:.0f} min"
    when = f"{time_text} {'left ' if state == 'continue' else ''}on this computer"
    title = f"{plan.network.dimension} {plan.network.title}"
    steps = f"{plan.loop.epochs} epochs (passes over your data) of {plan.steps_per_epoch} steps"
    folder = plan.files.folder.name
    return f"{title}, {size} · {steps} · {when} · saved every {plan.loop.save_every} epochs to {folder}/"


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    prepared: PreparedTraining, on_event: Listener = nobody, stop: StopFlag | None = None
) -> TrainingResult:
    """Trains, or goes on with an interrupted run, or shows a finished one.

    Args:
        prepared: see prepare_training.
        on_event: hears the progress; also gets the line for every ``print_checkpoint`` epochs.
        stop: set to save and end.

    Raises:
        ModelError: training became unstable or memory ran out.
        ExportError: files cannot be written.
    """
    plan, study = prepared.plan, prepared.study
    if prepared.state == "finished" and prepared.checkpoint:
        return _result(prepared, prepared.checkpoint["state"]["finished"], on_event, already=True)
    elsewhere = isinstance(study.settings.resume, str) and study.settings.resume != AUTO
    if elsewhere:
        elsewhere = Path(study.settings.resume).expanduser().resolve() != plan.files.last.resolve()
    if prepared.state == "new" or elsewhere:
        aside = plan.files.set_aside()
        if aside:
            on_event(Message(f"The files of an earlier run of this name were set aside in '{aside.name}'."))
        write_yaml(plan.files.settings, to_table(plan.settings))
    extra = {
        "settings": to_table(plan.settings),
        "checksum": study.report.checksum,
        "saved": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
    }
    save = functools.partial(_save_model, plan, study)
    trainer = _trainer(plan, prepared.network, prepared.train_set, prepared.validation, save, extra)
    if prepared.checkpoint:
        trainer.restore(prepared.checkpoint["state"])
    listener = _with_progress_lines(on_event, plan, trainer)
    reason = trainer.fit(listener, stop or StopFlag())
    return _result(prepared, reason, on_event)


def _with_progress_lines(on_event: Listener, plan: Plan, trainer: Trainer) -> Listener:
    """Adds the text line of the field's notebooks every ``print_checkpoint`` epochs."""

    def listener(event: Event) -> None:
        on_event(event)
        if isinstance(event, EpochDone) and (
            event.epoch % plan.settings.print_checkpoint == 0 or event.epoch in (1, event.epochs)
        ):
            on_event(Message(progress_line(event, trainer.elapsed(), trainer.state.history)))

    return listener


def progress_line(event: EpochDone, seconds: float, history: list[dict[str, Any]]) -> str:
    """Returns "Completed epochs:   10/500 | Dice loss: 0.631 | Mean dice score: 0.369 | Time elapsed: ...".

    Dice loss runs from 0 (best) to 1. The mean Dice score is that of the last look at the validation scans; without any, it
    is 1 - Dice loss of the training images, and the line says so.
    """
    loss = event.row["train_loss"]
    seen = [row["val_dice"] for row in history if row["val_dice"] is not None]
    score = (
        f"Mean dice score: {seen[-1]:.3f}" if seen else f"Mean dice score (training images): {1 - loss:.3f}"
    )
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (
        f"Completed epochs: {event.epoch:>4}/{event.epochs} | Dice loss: {loss:.3f} | {score} | "
        f"Time elapsed: {hours} hrs {minutes} mins {left} secs"
    )


def _save_model(
    plan: Plan, study: Study, path: Path, network: nn.Module, epoch: int, scores: Scores | None
) -> None:
    save_model(path, network, model_metadata(plan, study, epoch, scores))


def model_metadata(plan: Plan, study: Study, epoch: int, scores: Scores | None) -> dict[str, Any]:
    """Returns what a model file says of itself."""
    settings = to_table(plan.settings)
    # A path may name a person or a hospital; the model file travels without it.
    settings = {
        key: value
        for key, value in settings.items()
        if key not in ("main_dir", "model_dir", "start_from", "resume")
    }
    return {
        "autoseg_version": __version__,
        "name": plan.files.name,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "epoch": epoch,
        "settings": settings,
        "labels": list(plan.labels.names),
        "network": plan.network.to_dict(),
        "preprocessing": plan.preprocessing.to_dict(),
        "augmentation": plan.augmentation.to_dict(),
        "postprocessing": [],
        "validation": _score_table(plan, scores),
        "data": {
            "checksum": study.report.checksum,
            "scans": len(study.report.facts),
            "modality": _modality(study),
        },
        "versions": versions(),
    }


def _modality(study: Study) -> str:
    return "/".join(sorted({f.modality for f in study.report.facts if f.modality}))


def _score_table(plan: Plan, scores: Scores | None) -> dict[str, Any]:
    if scores is None:
        return {"split": plan.split.kind, "scans": 0}
    return {
        "split": plan.split.kind,
        "scans": len(scores.cases),
        "mean_dice": round(scores.mean, 4),
        "dice": {n: _rounded(v) for n, v in zip(plan.labels.names, scores.per_roi, strict=True)},
        "dice_sd": {n: _rounded(v) for n, v in zip(plan.labels.names, scores.sd_per_roi, strict=True)},
        "area_error_percent": {
            n: _rounded(v, 2) for n, v in zip(plan.labels.names, scores.area_error_per_roi, strict=True)
        },
    }


# --- afterwards -------------------------------------------------------------------------------------------------------


def _result(
    prepared: PreparedTraining, reason: str, on_event: Listener, already: bool = False
) -> TrainingResult:
    plan, study = prepared.plan, prepared.study
    history = tuple(read_history(plan.files.history)) if plan.files.history.is_file() else ()
    scores, path = None, None
    if plan.files.best.is_file():
        path = plan.files.best
        model = load_model(path, plan.loop.device)
        on_event(Message("Looking at all validation scans with the best model ..."))
        scores = validate(
            _predictor(plan, model.network, plan.loop.device), _validation_scans(study, plan), plan.labels
        )
    seconds = sum(row["seconds"] for row in history)
    result = TrainingResult(
        name=plan.files.name,
        reason=reason,
        model_path=path,
        epochs_done=len(history),
        epochs=plan.loop.epochs,
        seconds=seconds,
        roi_names=plan.labels.names,
        history=history,
        scores=scores,
        split_kind=plan.split.kind,
        split_text=plan.split.text,
        verdict=verdict(plan, study, scores, path is not None),
        methods=methods_paragraph(plan, study, scores, len(history)),
        already_finished=already,
    )
    if path and not already:
        _write_final_report(plan, study, result)
    return result


def _write_final_report(plan: Plan, study: Study, result: TrainingResult) -> None:
    facts = study.report.facts
    write_report(
        plan.files.report,
        {
            "name": result.name,
            "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "reason": result.reason,
            "epochs_done": result.epochs_done,
            "epochs": result.epochs,
            "seconds": round(result.seconds, 1),
            "device": plan.loop.device,
            "precision": plan.loop.precision,
            "settings": to_table(plan.settings),
            "choices": [{"setting": c.setting, "value": c.value, "reason": c.reason} for c in plan.choices],
            "data": {"summary": study.report.summary, "checksum": study.report.checksum},
            "split": {
                "kind": plan.split.kind,
                "text": plan.split.text,
                "training": [facts[i].name for i in plan.split.train],
                "validation": [facts[i].name for i in plan.split.validation],
            },
            "validation": _score_table(plan, result.scores),
            "validation_cases": [
                {
                    "case": c.name,
                    "dice": dict(zip(plan.labels.names, c.dice, strict=True)),
                    "mean_dice": c.mean_dice,
                }
                for c in (result.scores.cases if result.scores else ())
            ],
            # Their sentences name files, and files may be named after patients: what was found, not where.
            "findings": [{"severity": f.severity, "code": f.code} for f in study.report.findings],
            "verdict": result.verdict,
            "methods": result.methods,
            "versions": versions(),
        },
    )


# From this mean Dice on, agreement is called good: two readers of the same organ typically agree to 0.85-0.95.
GOOD_DICE, FAIR_DICE = 0.85, 0.70


def verdict(plan: Plan, study: Study, scores: Scores | None, has_model: bool) -> str:
    """Returns the scores in plain words."""
    if not has_model:
        return "Training was stopped before it had learned anything, so there is no model yet. Run again to go on."
    if scores is None:
        return "No scan was kept back, so there is no score. Look at predictions on new scans before you trust the model."
    where = {
        "patients": "on patients the model has not seen",
        "cases": "on scans the model has not seen (same patient)",
        "same scan": "same scan: on slices of a scan it has learned from, so it says little about other patients",
    }[plan.split.kind]
    word = "Good" if scores.mean >= GOOD_DICE else "Fair" if scores.mean >= FAIR_DICE else "Weak"
    sentences = [f"{word}: mean Dice {scores.mean:.3f} {where}."]
    for row, dice in zip(study.report.roi_rows, scores.per_roi, strict=True):
        if dice is not None and dice < FAIR_DICE:
            total = sum(len(f.counts) for f in study.report.facts)
            sentences.append(
                f"{row.name} is weak ({dice:.2f}): it appears in {row.slices} of {total} slices."
            )
    return " ".join(sentences)


def methods_paragraph(plan: Plan, study: Study, scores: Scores | None, epochs_done: int) -> str:
    """Returns a paragraph for a paper's Methods section, with the numbers of this run."""
    loop = plan.loop
    grid = (
        f"slices fitted into {plan.network.input_shape[0]} × {plan.network.input_shape[1]} pixels"
        if plan.window is None
        else f"patches of {' × '.join(map(str, plan.window))} voxels"
    )
    text = (
        f"A {plan.network.dimension} {plan.network.title} was trained with AutoSeg Workbench {__version__} (PyTorch) on "
        f"{study.report.summary}. Grey values: {plan.preprocessing.intensity.text}; {grid}. "
        f"Training took {epochs_done} epochs of {plan.steps_per_epoch} steps of {loop.batch_size} images with AdamW "
        f"(learning rate {loop.learning_rate:g}, cosine schedule), {loop.loss.replace('_', ' + ')} loss and random rotation, "
        f"scaling, elastic and intensity augmentation. {plan.split.text}"
    )
    if scores:
        rois = ", ".join(
            f"{name} {dice:.3f}"
            for name, dice in zip(plan.labels.names, scores.per_roi, strict=True)
            if dice is not None
        )
        text += f" Mean Dice on validation was {scores.mean:.3f} ({rois}), computed on the scans' own pixels."
    return text


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {item:g}" if isinstance(item, float) else f"{key} {item}" for key, item in value.items()
        )[:60]
    if isinstance(value, list):
        return "[" + ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value) + "]"
    return str(value)
