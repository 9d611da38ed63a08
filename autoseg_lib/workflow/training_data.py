"""Training data in memory: scans on the network's grid to learn from, whole scans kept back for validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoseg_lib.data.dataset import PatchDataset, SliceDataset
from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.data.split import runs
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.events import Listener, Progress
from autoseg_lib.train.planning import VALIDATION_CASES, Plan
from autoseg_lib.train.validate import ValidationScan
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.checking import Study


def prepare_data(
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
    return train_set, tuple(validation_scans(study, plan, VALIDATION_CASES))


def validation_scans(study: Study, plan: Plan, most: int | None = None) -> Iterator[ValidationScan]:
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
