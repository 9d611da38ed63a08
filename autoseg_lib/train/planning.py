"""What "auto" becomes: every choice is made here, from the data's fingerprint and the machine, with a reason in one line.

``make_plan`` reads like the list of choices; each is made in a module of its own (``grids``, ``network_choice``,
``depth_width``, ``memory``, ``looks``), and the numbers behind them are in ``defaults``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autoseg_lib.augment.plan import AugmentPlan, flips_allowed
from autoseg_lib.data.dataset import DEFAULT_POSITIVE_SHARE
from autoseg_lib.data.doctor.context import slices_with_roi
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.split import (
    DEFAULT_VALIDATION_FRACTION,
    LEARN_ALL_FROM,
    Split,
    learns_all,
    split_cases,
    validation_reason,
    validation_share,
)
from autoseg_lib.errors import DataError, SettingsError, counted
from autoseg_lib.io.volume_files import stem_of
from autoseg_lib.labels import LabelTable
from autoseg_lib.networks.registry import (
    NetworkSpec,
    smallest_batch,
)
from autoseg_lib.preprocess.intensity import IntensityPlan, fit_intensity
from autoseg_lib.preprocess.pipeline import Preprocessing, plane_of
from autoseg_lib.settings import AUGMENT_KEYS, AUTO, TrainSettings
from autoseg_lib.train import defaults
from autoseg_lib.train.choosing import Choice, Chooser
from autoseg_lib.train.files import RunFiles
from autoseg_lib.train.fingerprint import Fingerprint, most_common_modality, take_fingerprint
from autoseg_lib.train.grids import Shape, check_dimension, choose_dimension, shapes_on_grid
from autoseg_lib.train.learning_choice import choose_learning
from autoseg_lib.train.learning_curve import FEWEST_PATIENTS
from autoseg_lib.train.looks import Looks, plan_looks, scan_cost
from autoseg_lib.train.loop import LoopPlan
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.memory_choice import choose_batch, choose_cache
from autoseg_lib.train.network_choice import choose_network
from autoseg_lib.train.schedule import Schedule
from autoseg_lib.train.starting import choose_freezing, model_to_start_from, require_same_network

__all__ = [
    "Choice",
    "Plan",
    "check_dimension",
    "choose_dimension",
    "default_name",
    "make_plan",
    "with_looks",
]

Dimension = Literal["2D", "3D"]

# Line of the table that says that the scans kept back are learned from, too, late in the training.
LEARN_ALL_LINE = "scans kept back"


@dataclass(frozen=True)
class Plan:
    """Everything that training needs to know before it starts.

    Attributes:
        settings: as used: no "auto" is left.
        choices: each choice with its reason.
        fingerprint: what the data are like.
        labels: the ROIs.
        network, preprocessing, augmentation, split, loop, files: what is done, and with what.
        samples: slices or patches in one epoch.
        steps_per_epoch: training steps in one epoch.
        window: 3D: the patch; None in 2D, where the network's input_shape is what it learns from and that of
            preprocessing the whole slice.
        validation_scans: scans kept back that are looked at while training.
        scan_steps: what looking at one of them is expected to cost, in training steps.
        memory_gb: what a training step is expected to take; None where that cannot be told.
    """

    settings: TrainSettings
    choices: tuple[Choice, ...]
    fingerprint: Fingerprint = field(repr=False)
    labels: LabelTable
    network: NetworkSpec
    preprocessing: Preprocessing
    augmentation: AugmentPlan
    split: Split
    loop: LoopPlan
    files: RunFiles
    samples: int
    steps_per_epoch: int
    window: Shape | None
    validation_scans: int
    scan_steps: float
    memory_gb: float | None


def make_plan(
    settings: TrainSettings,
    report: CheckReport,
    machine: Machine,
    model_dir: Path,
    previous: dict[str, Any] | None = None,
    seconds_per_step: float | None = None,
    split: Split | None = None,
    reserve_seconds: float = 0.0,
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
        reserve_seconds: what the work after the last step takes.

    Raises:
        SettingsError: a network, encoder, loss or size that does not work.
        DataError: the data do not allow what was asked.
    """
    facts, labels = report.facts, report.labels
    start = None if previous else model_to_start_from(settings)
    chooser = Chooser(settings, previous or {}, start.settings if start else None)
    dimension: Dimension = chooser.choose("dimension", *choose_dimension(facts))
    name = chooser.choose("model_filename", default_name(settings, dimension), "folder name and dimension")
    chooser.choose("model_dir", str(model_dir), "the models' folder")
    _choose_labels(chooser, labels)
    decided = split is not None
    split = split or _choose_split(chooser, facts)
    learn_all_from = 0.0 if decided else _may_learn_all(chooser, facts, split)
    prepared = (*split.train, *split.validation) if learn_all_from else split.train
    _warn_of_learning_curve(chooser, facts, split)
    # Folds must prepare their scans alike to be used together, so grey values are fitted on the scans of all folds.
    learned = (*split.train, *split.validation) if decided else split.train
    intensity = _choose_intensity(chooser, [facts[i] for i in learned], facts)
    spec, preprocessing, window = choose_network(chooser, dimension, facts, labels, intensity, machine)
    if split.train_slices is not None and preprocessing.crop and preprocessing.crop["slices"]:
        raise SettingsError(
            "preprocessing: crop.slices counts the slices of a whole scan, and with a single scan some of its slices are kept back. "
            "Leave slices out, or set validation_fraction = 0."
        )
    augmentation = _choose_augmentation(chooser, dimension, facts, labels, preprocessing)
    precision = chooser.choose(
        "precision", machine.precision, f"fastest that is as accurate on this {machine.device.upper()}"
    )
    batch, parts, memory_gb = choose_batch(chooser, spec, machine, precision, _count(dimension, facts, split))
    samples = _samples(dimension, facts, split, preprocessing, window, batch)
    _choose_sampling(chooser, dimension, window, spec.input_shape, facts, preprocessing)
    choose_cache(chooser, dimension, [facts[i] for i in prepared], preprocessing, machine)
    loop = choose_learning(
        chooser, dimension, machine, spec, batch, samples, seconds_per_step, reserve_seconds
    )
    learn_all_from = _choose_to_learn_all(chooser, learn_all_from, facts, split, loop)
    if start:
        require_same_network(start, spec)
    choose_freezing(chooser, start, labels.names, len(split.train), chooser.values["epochs"])
    cost, looks = _choose_looks(chooser, facts, split, spec, preprocessing, window, loop)
    return Plan(
        settings=replace(settings, **chooser.values),
        choices=tuple(chooser.choices),
        fingerprint=take_fingerprint(facts, labels),
        labels=labels,
        network=spec,
        preprocessing=preprocessing,
        augmentation=augmentation,
        split=split,
        loop=replace(
            loop,
            keep_last=decided,
            learn_all_from=learn_all_from,
            parts=parts,
            validate_every=looks.every,
            reserve_seconds=reserve_seconds,
            smallest_part=smallest_batch(spec),
        ),
        files=RunFiles(model_dir, name),
        samples=samples,
        steps_per_epoch=math.ceil(samples / batch),
        window=window,
        validation_scans=looks.scans,
        scan_steps=cost,
        memory_gb=memory_gb,
    )


def with_looks(plan: Plan, looks: Sequence[float] | None) -> Plan:
    """Returns the plan with the looks at validation scans that the run was begun with.

    Args:
        plan: of the run that goes on.
        looks: [every so many epochs, scans, share of the run from which on they are learned from]; None: as planned. Runs of
            earlier versions never learned from them.
    """
    every, scans, share = (*(looks or (plan.loop.validate_every, plan.validation_scans)), 0.0)[:3]
    lines = [choice for choice in plan.choices if share or choice.setting != LEARN_ALL_LINE]
    loop = replace(plan.loop, validate_every=int(every), learn_all_from=share)
    return replace(plan, loop=loop, validation_scans=int(scans), choices=tuple(lines))


def default_name(settings: TrainSettings, dimension: str) -> str:
    """Returns a model name made from the data folder's name."""
    stem = re.sub(r"[^\w.-]+", "_", stem_of(Path(settings.main_dir))).strip("._-") or "model"
    return f"{stem}_{dimension}"


# --- the data -----------------------------------------------------------------------------------------------------------


def _choose_labels(chooser: Chooser, labels: LabelTable) -> None:
    named = "your names" if labels.has_given_names else "numbered: no names were given"
    chooser.choose("labels_list", list(labels.names), named)
    chooser.choose("num_labels", len(labels), "values found in the label files")


def _choose_split(chooser: Chooser, facts: Sequence[CaseFacts]) -> Split:
    patients = len({f.patient for f in facts})
    fraction = chooser.choose("validation_fraction", validation_share(patients), validation_reason(patients))
    return split_cases(
        facts,
        float(fraction),
        chooser.settings.seed,
        slice_counts=[len(f.counts) for f in facts],
        with_roi=slices_with_roi(facts),
    )


def _may_learn_all(chooser: Chooser, facts: Sequence[CaseFacts], split: Split) -> float:
    """From which share of the run on the scans kept back might be learned from, too; 0: never."""
    few = learns_all(split, len({f.patient for f in facts}))
    return LEARN_ALL_FROM if few and chooser.settings.validation_fraction == AUTO else 0.0


def _choose_to_learn_all(
    chooser: Chooser, share: float, facts: Sequence[CaseFacts], split: Split, loop: LoopPlan
) -> float:
    """The same once it is known how the run learns; said where it is so."""
    schedule = loop.schedule
    if not share or schedule is None or loop.early_stopping:
        return 0.0
    # It begins with the first epoch after that share of the steps.
    first = math.ceil(share * schedule.total_steps / schedule.steps_per_epoch) * schedule.steps_per_epoch
    if schedule.total_steps < defaults.FEWEST_STEPS_TO_LEARN_ALL or first >= schedule.total_steps:
        return 0.0
    patients = len({f.patient for f in facts})
    kept = f"{patients - len({facts[i].patient for i in split.train})} of {patients}"
    reason = f"{kept} patients kept back to the end would be missed; validation_fraction = {DEFAULT_VALIDATION_FRACTION} does so"
    chooser.note(LEARN_ALL_LINE, "learned from, too, in the second half", reason)
    return share


def _warn_of_learning_curve(chooser: Chooser, facts: Sequence[CaseFacts], split: Split) -> None:
    """Says before the training what would otherwise be said after it: there are too few patients for the curve."""
    patients = len({facts[i].patient for i in split.train})
    if not chooser.settings.learning_curve or (split.kind == "patients" and patients >= FEWEST_PATIENTS):
        return
    needed = f"at least {FEWEST_PATIENTS} patients to learn from and others to judge by are needed"
    chooser.note(
        "learning_curve", "not possible", f"⚠ {needed}, found {counted(patients, 'patient')} to learn from"
    )


def _choose_intensity(
    chooser: Chooser, learned: Sequence[CaseFacts], facts: Sequence[CaseFacts]
) -> IntensityPlan:
    samples = [f.roi_grey_values for f in learned]
    plan = fit_intensity(
        [s for s in samples if s is not None], most_common_modality(facts), chooser.settings.intensity
    )
    value = plan.kind if plan.kind != "window" else [round(plan.low, 2), round(plan.high, 2)]
    chooser.choose("intensity", value, plan.text)
    return plan


def _choose_augmentation(
    chooser: Chooser,
    dimension: Dimension,
    facts: Sequence[CaseFacts],
    labels: LabelTable,
    preprocessing: Preprocessing,
) -> AugmentPlan:
    rules = flips_allowed(
        labels,
        orientation_known=all(f.geometry.orientation_known for f in facts),
        plane=_plane(facts, dimension),
        dimension=dimension,
        orientation=preprocessing.orientation,
    )
    spacing = preprocessing.spacing_zyx_mm or (1.0, 1.0, 1.0)
    plan = AugmentPlan.from_settings(chooser.settings.augment_params, rules, spacing)
    strengths = {key: getattr(plan, key) for key in AUGMENT_KEYS}
    chooser.choose("augment_params", strengths, f"moderate; {rules.reason}")
    # What the user gave may name only some strengths; what is used is all of them.
    chooser.values["augment_params"] = strengths
    return plan


def _plane(facts: Sequence[CaseFacts], dimension: str) -> str | None:
    """The plane of the network's slices; None where any scan's directions are unknown or planes are mixed."""
    if dimension == "3D":
        return None
    planes = {plane_of(f.geometry) for f in facts}
    return planes.pop() if len(planes) == 1 else None


# --- steps and epochs -----------------------------------------------------------------------------------------------------


def _count(dimension: str, facts: Sequence[CaseFacts], split: Split) -> int:
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


def _samples(
    dimension: str,
    facts: Sequence[CaseFacts],
    split: Split,
    preprocessing: Preprocessing,
    window: Shape | None,
    batch: int,
) -> int:
    """Slices or patches in one epoch: in 3D as many patches as would cover each scan, within limits."""
    count = _count(dimension, facts, split)
    if window is None:
        return count
    shapes = shapes_on_grid([facts[i] for i in split.train], preprocessing.spacing_zyx_mm)
    cover = float(np.median([math.prod(shape) for shape in shapes])) / math.prod(window)
    per_scan = int(np.clip(round(cover), 1, defaults.MOST_PATCHES_PER_SCAN))
    return max(count * per_scan, defaults.FEWEST_STEPS_PER_EPOCH_3D * batch)


def _choose_sampling(
    chooser: Chooser,
    dimension: str,
    window: Shape | None,
    patch: tuple[int, ...],
    facts: Sequence[CaseFacts],
    preprocessing: Preprocessing,
) -> None:
    if dimension == "2D" or window is None:
        if patch != preprocessing.input_shape:
            reason = "most patches show an ROI; the others teach what is none"
            chooser.choose("positive_share", DEFAULT_POSITIVE_SHARE, reason)
        return
    shapes = np.array(shapes_on_grid(facts, preprocessing.spacing_zyx_mm))
    whole = float(np.mean((shapes <= np.array(window)).all(axis=1)))
    if whole >= 0.5:
        chooser.choose("positive_share", 0.0, "a patch holds a whole scan: every scan in turn")
        return
    chooser.choose(
        "positive_share", DEFAULT_POSITIVE_SHARE, "ROIs are small in the scan: most patches show one"
    )


def _choose_looks(
    chooser: Chooser,
    facts: Sequence[CaseFacts],
    split: Split,
    spec: NetworkSpec,
    preprocessing: Preprocessing,
    window: Shape | None,
    loop: LoopPlan,
) -> tuple[float, Looks]:
    """Returns what looking at one scan kept back costs in training steps, and how often it is done."""
    schedule = loop.schedule or Schedule(1, 1)
    steps = schedule.epochs * schedule.steps_per_epoch
    kept = [facts[i] for i in split.validation]
    if not kept:
        return 0.0, plan_looks(0.0, 0, steps, schedule.steps_per_epoch)
    cost = scan_cost(
        kept, preprocessing, window, spec.out_channels, loop.batch_size * math.prod(spec.input_shape)
    )
    if split.validation_slices is not None:
        cost *= len(split.validation_slices) / max(1, len(kept[0].counts))
    looks = plan_looks(cost, len(kept), steps, schedule.steps_per_epoch)
    when = "after every epoch" if looks.every == 1 else f"every {looks.every} epochs"
    chooser.note("validation", when, looks.text)
    return cost, looks
