"""What "auto" becomes: every choice is made here, from the data and the machine, with a reason in one line."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autoseg_lib.augment.plan import AugmentPlan, flips_allowed
from autoseg_lib.data.doctor.context import slices_with_roi
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.split import Split, split_cases, validation_share
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.io.volume_files import stem_of
from autoseg_lib.labels import LabelTable
from autoseg_lib.losses import DEFAULT_LOSS, build_loss
from autoseg_lib.networks.registry import (
    NetworkSpec,
    default_dropout,
    default_encoder,
    default_loss,
    default_network,
    size_multiple,
    smallest_batch,
    supervision_options,
)
from autoseg_lib.preprocess.intensity import IntensityPlan, fit_intensity
from autoseg_lib.preprocess.pipeline import ORIENTATION_3D, Preprocessing, plane_of
from autoseg_lib.settings import AUGMENT_KEYS, AUTO, TrainSettings
from autoseg_lib.train.files import RunFiles
from autoseg_lib.train.loop import LoopPlan
from autoseg_lib.train.machine import Machine

# Optimiser steps that the default networks need until validation Dice no longer rises much; measured on the example
# study, sunnybrook_png (2D) and hippocampus_msd (3D). See benchmarks/.
STEPS_2D = 1500
STEPS_3D = 4000
FEWEST_EPOCHS, MOST_EPOCHS = 10, 1000

# Longest side of the 2D network's image. 256 is what the field's notebooks use; a GPU affords twice that.
LARGEST_SIDE_CPU, LARGEST_SIDE_GPU = 256, 512
# Longest side of a 3D patch, and of the whole scan on the network's grid.
LARGEST_PATCH_CPU, LARGEST_PATCH_GPU = 64, 128
LARGEST_SCAN_CPU, LARGEST_SCAN_GPU = 192, 512

# Settings that belong to the computer, not to the run: a run may go on elsewhere.
MACHINE_SETTINGS = ("precision", "num_workers", "model_dir")

# How often the kept-back scans are looked at in one run, and on how many of them each time (all at the end).
VALIDATIONS_PER_RUN = 25
VALIDATION_CASES = 12

# A whole-volume study counts as 3D when its slices lie at most so many times further apart than its pixels.
MOST_ANISOTROPY_3D = 3.0
FEWEST_SLICES_3D = 8


@dataclass(frozen=True)
class Choice:
    """One line of the settings table: what was given, what is used, and why."""

    setting: str
    given: Any
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """Everything that training needs to know before it starts."""

    settings: TrainSettings
    choices: tuple[Choice, ...]
    labels: LabelTable
    network: NetworkSpec
    preprocessing: Preprocessing
    augmentation: AugmentPlan
    split: Split
    loop: LoopPlan
    files: RunFiles
    samples: int
    steps_per_epoch: int
    window: tuple[int, int, int] | None


class _Chooser:
    """Fills "auto" settings one by one and remembers why."""

    def __init__(self, settings: TrainSettings, previous: dict[str, Any]) -> None:
        self.settings, self.previous = settings, previous
        self.values: dict[str, Any] = {}
        self.choices: list[Choice] = []

    def choose(self, name: str, value: Any, reason: str) -> Any:
        """Keeps what the user gave; else what the interrupted run used; else ``value``."""
        given = getattr(self.settings, name)
        if given != AUTO:
            value, reason = given, "your value"
        elif name not in MACHINE_SETTINGS and self.previous.get(name, AUTO) != AUTO:
            value, reason = self.previous[name], "as in the run that is continued"
        self.values[name] = value
        if reason:
            self.choices.append(Choice(name, given, value, reason))
        return value


def make_plan(
    settings: TrainSettings,
    report: CheckReport,
    machine: Machine,
    model_dir: Path,
    previous: dict[str, Any] | None = None,
    seconds_per_step: float | None = None,
    split: Split | None = None,
) -> Plan:
    """Decides everything.

    Args:
        settings: as the user gave them.
        report: of the data check, without errors.
        machine: the computer.
        model_dir: folder the models are saved in.
        previous: settings of the interrupted run that is continued, if any.
        seconds_per_step: measured time of a training step; with it, a time limit decides the epochs left to us.
        split: what to learn from and what to keep back, where that is decided already (folds); None decides it here.

    Raises:
        SettingsError: a network, encoder, loss or size that does not work.
        DataError: the data do not allow what was asked.
    """
    facts, labels, chooser = report.facts, report.labels, _Chooser(settings, previous or {})
    dimension: Literal["2D", "3D"] = chooser.choose("dimension", *choose_dimension(facts))
    name = chooser.choose("model_filename", default_name(settings, dimension), "folder name and dimension")
    chooser.choose("model_dir", str(model_dir), "the models' folder")
    _choose_labels(chooser, labels)
    given = split is not None
    if split is None:
        split = split_cases(
            facts,
            _fraction(chooser, facts),
            settings.seed,
            slice_counts=[len(f.counts) for f in facts],
            with_roi=slices_with_roi(facts),
        )
    # Folds must prepare their scans alike to be used together, so grey values are fitted on the scans of all folds.
    intensity = _choose_intensity(
        chooser, [facts[i] for i in ((*split.train, *split.validation) if given else split.train)], facts
    )
    spec, preprocessing, window = _choose_network(chooser, dimension, facts, labels, intensity, machine)
    augmentation = _choose_augmentation(chooser, dimension, facts, labels, preprocessing)
    samples = _count_samples(dimension, facts, split)
    batch = _batch_size(chooser, spec, machine, samples)
    # A 3D epoch draws several patches from each scan, so that an epoch is worth reporting on.
    samples = samples if dimension == "2D" else max(samples, 4 * batch)
    steps = math.ceil(samples / batch)
    loop = _choose_schedule(chooser, dimension, machine, batch, steps, seconds_per_step)
    for unused in (
        "folds",
        "resume",
        "series",
        "slice_axis",
        "spacing_mm",
        "patch_size",
        "input_shape",
        "encoder",
        "validation_fraction",
    ):
        chooser.values.setdefault(unused, getattr(settings, unused))
    return Plan(
        settings=replace(settings, **chooser.values),
        choices=tuple(chooser.choices),
        labels=labels,
        network=spec,
        preprocessing=preprocessing,
        augmentation=augmentation,
        split=split,
        loop=replace(loop, keep_last=given),
        files=RunFiles(model_dir, name),
        samples=samples,
        steps_per_epoch=steps,
        window=window,
    )


def _choose_labels(chooser: _Chooser, labels: LabelTable) -> None:
    named = "your names" if labels.has_given_names else "numbered: no names were given"
    chooser.choose("labels_list", list(labels.names), named)
    chooser.choose("num_labels", len(labels), "values found in the label files")


def _choose_intensity(
    chooser: _Chooser, learned: Sequence[CaseFacts], facts: Sequence[CaseFacts]
) -> IntensityPlan:
    samples = [f.roi_grey_values for f in learned]
    plan = fit_intensity([s for s in samples if s is not None], _modality(facts), chooser.settings.intensity)
    value = plan.kind if plan.kind != "window" else [round(plan.low, 2), round(plan.high, 2)]
    chooser.choose("intensity", value, plan.text)
    return plan


def _choose_augmentation(
    chooser: _Chooser,
    dimension: Literal["2D", "3D"],
    facts: Sequence[CaseFacts],
    labels: LabelTable,
    preprocessing: Preprocessing,
) -> AugmentPlan:
    rules = flips_allowed(
        labels,
        orientation_known=all(f.geometry.orientation_known for f in facts),
        plane=_plane(facts, dimension),
        dimension=dimension,
    )
    spacing = preprocessing.spacing_zyx_mm or (1.0, 1.0, 1.0)
    plan = AugmentPlan.from_settings(chooser.settings.augment_params, rules, spacing)
    strengths = {key: getattr(plan, key) for key in AUGMENT_KEYS}
    chooser.choose("augment_params", strengths, f"moderate; {rules.reason}")
    # What the user gave may name only some strengths; what is used is all of them.
    chooser.values["augment_params"] = strengths
    return plan


def _choose_schedule(
    chooser: _Chooser,
    dimension: str,
    machine: Machine,
    batch: int,
    steps: int,
    seconds_per_step: float | None,
) -> LoopPlan:
    settings = chooser.settings
    limit = None if settings.time_limit_minutes is None else 60 * settings.time_limit_minutes
    target = STEPS_2D if dimension == "2D" else STEPS_3D
    if limit and seconds_per_step:
        auto = max(1, int(limit / (seconds_per_step * steps)))
        reason = f"what {limit / 60:g} minutes hold at {seconds_per_step:.2f} s a step"
    else:
        auto = int(np.clip(round(target / steps), FEWEST_EPOCHS, MOST_EPOCHS))
        reason = f"about {target} training steps of {batch} images"
    epochs = chooser.choose("epochs", auto, reason)
    loss = chooser.choose("loss", *_loss(dimension, chooser.values["network"].lower()))
    build_loss(loss)  # an unknown name is refused here, before anything takes time
    rate = chooser.choose(
        "learning_rate", 1e-3 if dimension == "2D" else 2e-3, "works with this optimiser and network"
    )
    workers = chooser.choose("num_workers", *_workers(machine))
    precision = chooser.choose(
        "precision", machine.precision, f"fastest that is as accurate on this {machine.device.upper()}"
    )
    chooser.choose("print_checkpoint", max(1, round(epochs / 20)), "about 20 lines in all")
    save_every = chooser.choose("save_checkpoint", max(1, round(epochs / 5)), "5 times in all")
    return LoopPlan(
        epochs=epochs,
        batch_size=batch,
        learning_rate=rate,
        loss=loss,
        seed=settings.seed,
        num_workers=workers,
        precision=precision,
        device=machine.device,
        save_every=save_every,
        validate_every=max(1, round(epochs / VALIDATIONS_PER_RUN)),
        time_limit_seconds=limit,
    )


def _count_samples(dimension: str, facts: Sequence[CaseFacts], split: Split) -> int:
    """Slices (2D) or scans (3D) to learn from."""
    if dimension == "3D":
        count = len(split.train)
    elif split.train_slices is not None:
        count = len(split.train_slices)
    else:
        count = sum(len(facts[i].counts) for i in split.train)
    if count == 0:
        raise DataError(
            "nothing is left to train on after the validation split. Add scans, or set validation_fraction = 0."
        )
    return count


def default_name(settings: TrainSettings, dimension: str) -> str:
    """Returns a model name made from the data folder's name."""
    stem = re.sub(r"[^\w.-]+", "_", stem_of(Path(settings.main_dir))).strip("._-") or "model"
    return f"{stem}_{dimension}"


def choose_dimension(facts: Sequence[CaseFacts]) -> tuple[str, str]:
    """Returns ("2D" or "3D", why)."""
    for f in facts:
        if len(f.counts) < FEWEST_SLICES_3D:
            return (
                "2D",
                f"'{f.name}' has {len(f.counts)} slices; 3D needs at least {FEWEST_SLICES_3D} in every scan",
            )
        if not f.geometry.is_even or not f.geometry.positions_known:
            return "2D", f"the slices of '{f.name}' are not evenly spaced"
    ratios = [f.geometry.spacing_zyx_mm[0] / max(f.geometry.spacing_zyx_mm[1:]) for f in facts]
    if float(np.median(ratios)) > MOST_ANISOTROPY_3D:
        return "2D", f"slices lie {np.median(ratios):.1f} times further apart than pixels"
    return "3D", "whole scans with slices about as close as pixels"


def check_dimension(dimension: str, facts: Sequence[CaseFacts]) -> None:
    """Raises DataError when 3D was asked for and the scans are no volumes."""
    if dimension != "3D":
        return
    thin = [f for f in facts if len(f.counts) < 3]
    if thin:
        raise DataError(
            f"dimension = \"3D\": '{thin[0].name}' has {len(thin[0].counts)} slice{'s' if len(thin[0].counts) > 1 else ''}; whole scans are expected. "
            'Set dimension = "2D", or put the slices of each scan in a folder of their own.'
        )


def _fraction(chooser: _Chooser, facts: Sequence[CaseFacts]) -> float:
    patients = len({f.patient for f in facts})
    value = validation_share(patients)
    return float(
        chooser.choose("validation_fraction", value, f"{patients} patient{'s' if patients != 1 else ''}")
    )


def _modality(facts: Sequence[CaseFacts]) -> str:
    counts = Counter(f.modality for f in facts)
    return counts.most_common(1)[0][0] if counts else ""


def _plane(facts: Sequence[CaseFacts], dimension: str) -> str | None:
    """The plane of the network's slices; None where any scan's directions are unknown or planes are mixed."""
    if dimension == "3D":
        return None
    planes = {plane_of(f.geometry) for f in facts}
    return planes.pop() if len(planes) == 1 else None


def _choose_network(
    chooser: _Chooser,
    dimension: Literal["2D", "3D"],
    facts: Sequence[CaseFacts],
    labels: LabelTable,
    intensity: IntensityPlan,
    machine: Machine,
) -> tuple[NetworkSpec, Preprocessing, tuple[int, int, int] | None]:
    """Returns the network, its grid, and in 3D the window."""
    classes = len(labels) + 1
    name = chooser.choose("network", *_network(dimension, machine)).lower()
    dropout = chooser.choose("dropout_rate", *_dropout(dimension, name))
    supervised = chooser.settings.deep_supervision
    options = supervision_options(dimension, name, None if supervised == AUTO else supervised)
    chooser.choose(
        "deep_supervision", bool(options), "coarser outputs learn too" if options else "one output"
    )
    if dimension == "2D":
        encoder = chooser.choose(
            "encoder", default_encoder(dimension, name), "light enough for every computer"
        )
        pair = _input_shape(chooser, NetworkSpec("2D", name, classes, (256, 256), encoder), facts, machine)
        return (
            NetworkSpec("2D", name, classes, pair, encoder, dropout=dropout),
            Preprocessing("2D", intensity, input_shape=pair),
            None,
        )
    spacing = _spacing_3d(chooser, facts, machine)
    probe = NetworkSpec("3D", name, classes, (64, 64, 64), options=options)
    window = _patch_size(chooser, probe, facts, spacing, machine)
    return (
        NetworkSpec("3D", name, classes, window, dropout=dropout, options=options),
        Preprocessing("3D", intensity, spacing_zyx_mm=spacing),
        window,
    )


def _network(dimension: str, machine: Machine) -> tuple[str, str]:
    name = default_network(dimension, has_gpu=machine.has_gpu)
    if name == "light_unet":
        return name, "made for computers without a GPU"
    return name, "the field's standard"


def _dropout(dimension: str, name: str) -> tuple[float, str]:
    share = default_dropout(dimension, name)
    if share > 0:
        return share, f"what {name} was made for"
    return share, "augmentation already keeps the network from learning by heart"


def _loss(dimension: str, name: str) -> tuple[str, str]:
    own = default_loss(dimension, name)
    if own:
        return own, f"what {name} was made for"
    return DEFAULT_LOSS, "Dice and cross-entropy together learn more steadily than Dice alone"


def _input_shape(
    chooser: _Chooser, probe: NetworkSpec, facts: Sequence[CaseFacts], machine: Machine
) -> tuple[int, int]:
    multiple = size_multiple(probe)
    largest = LARGEST_SIDE_GPU if machine.has_gpu else LARGEST_SIDE_CPU
    longest = int(np.median([max(f.geometry.shape_zyx[1:]) for f in facts]))
    # The nearest multiple: at most a tenth coarser than the scan, and often a third quicker than the next larger one.
    side = int(np.clip(round(longest / multiple) * multiple, 2 * multiple, largest))
    reason = f"images have {longest} pixels along their longer side"
    if side < longest:
        reason += f"; {largest} is quick on this computer"
    shape = chooser.choose("input_shape", [side, side], reason)
    return (int(shape), int(shape)) if isinstance(shape, int) else (int(shape[0]), int(shape[1]))


def _patch_size(
    chooser: _Chooser,
    probe: NetworkSpec,
    facts: Sequence[CaseFacts],
    spacing: tuple[float, float, float] | None,
    machine: Machine,
) -> tuple[int, int, int]:
    sizes = np.median([_shape_on_grid(f, spacing) for f in facts], axis=0)
    multiple = size_multiple(probe)
    largest = LARGEST_PATCH_GPU if machine.has_gpu else LARGEST_PATCH_CPU
    auto = [int(np.clip(math.ceil(n / multiple) * multiple, 2 * multiple, largest)) for n in sizes]
    patch = chooser.choose(
        "patch_size", auto, f"scans have about {' × '.join(f'{n:.0f}' for n in sizes)} voxels"
    )
    return (int(patch),) * 3 if isinstance(patch, int) else (int(patch[0]), int(patch[1]), int(patch[2]))


def _spacing_3d(
    chooser: _Chooser, facts: Sequence[CaseFacts], machine: Machine
) -> tuple[float, float, float] | None:
    if chooser.settings.spacing_mm == AUTO and not all(
        f.geometry.spacing_known and f.geometry.positions_known for f in facts
    ):
        chooser.choose("spacing_mm", None, "pixel sizes are unknown: scans are used as they are")
        return None
    turned = [
        f.geometry.oriented(ORIENTATION_3D) if f.geometry.orientation_known else f.geometry for f in facts
    ]
    median = np.median([g.spacing_zyx_mm for g in turned], axis=0)
    extent = np.median([np.array(g.spacing_zyx_mm) * g.shape_zyx for g in turned], axis=0)
    largest = LARGEST_SCAN_GPU if machine.has_gpu else LARGEST_SCAN_CPU
    auto = [round(float(s), 3) for s in np.maximum(median, extent / largest)]
    coarser = any(a > m * 1.01 for a, m in zip(auto, median, strict=True))
    reason = "median of the scans" + (", coarser so that a scan fits this computer" if coarser else "")
    spacing = chooser.choose("spacing_mm", auto, reason)
    if spacing is None:
        return None
    if isinstance(spacing, float | int):
        return (float(spacing),) * 3
    if len(spacing) == 2:
        raise SettingsError(
            f"spacing_mm = {spacing}: 3D needs one number or three (slices, rows, columns), e.g. [3.0, 1.0, 1.0]."
        )
    return float(spacing[0]), float(spacing[1]), float(spacing[2])


def _shape_on_grid(facts: CaseFacts, spacing: tuple[float, float, float] | None) -> tuple[int, int, int]:
    geometry = facts.geometry.oriented(ORIENTATION_3D) if facts.geometry.orientation_known else facts.geometry
    return geometry.respaced(spacing).shape_zyx if spacing else geometry.shape_zyx


def _batch_size(chooser: _Chooser, spec: NetworkSpec, machine: Machine, samples: int) -> int:
    if spec.dimension == "2D":
        # Small batches learn more per minute where a step's time grows with its images, as on a CPU.
        auto = 16 if machine.has_gpu else 4
        if max(spec.input_shape) > 320:
            auto //= 2
    else:
        auto = 4 if math.prod(spec.input_shape) <= 64**3 else 2
    smallest = smallest_batch(spec)
    auto = max(smallest, min(auto, samples))
    batch = chooser.choose("batch_size", auto, "fits the memory and keeps each step quick")
    if batch < smallest:
        raise SettingsError(
            f'batch_size = {batch}: network = "{spec.name}" needs at least {smallest} images per step.'
        )
    return int(batch)


def _workers(machine: Machine) -> tuple[int, str]:
    if machine.device != "cuda":
        return 0, "images are prepared in between: the cores are busy with training anyway"
    return max(0, min(4, machine.cores - 1)), "so that the GPU does not wait"
