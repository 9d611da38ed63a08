"""Training data: scans on the network's grid to learn from, whole scans kept back for validation.

Scans are read and prepared one at a time; what is kept is the prepared pixels (in memory or on disk), and of the scans
kept back as many as a share of the memory holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from autoseg_lib.data.dataset import PatchDataset, SliceDataset
from autoseg_lib.data.packed import PackedCases, PreparedCase
from autoseg_lib.data.slice_patches import SlicePatches
from autoseg_lib.data.split import runs
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.events import Listener, Progress
from autoseg_lib.io.scratch import scratch_root
from autoseg_lib.preprocess.pipeline import runs_backwards
from autoseg_lib.system import GB
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.validate import ValidationScan
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.checking import Study

TrainSet = SliceDataset | SlicePatches | PatchDataset

# Scans kept back stay in memory up to this size together; larger ones are read again each time they are looked at.
MOST_KEPT_GB = 1.0


def prepare_data(study: Study, plan: Plan, on_event: Listener) -> tuple[TrainSet, Sequence[ValidationScan]]:
    """Brings the training scans onto the network's grid; the scans looked at while training stay as they are.

    Raises:
        DataError: a scan cannot be read any more.
        OutOfSpaceError: cache = "disk", and the disk is full.
    """
    cache = plan.settings.cache
    folder = scratch_root(plan.files.folder) if cache == "disk" else None
    packed = PackedCases.build(_prepared_cases(study, plan, on_event), cache, folder)
    train_set: TrainSet
    first = len(plan.split.train) if plan.loop.learn_all_from else None
    if plan.window is None:
        slices = SliceDataset(
            packed, plan.augmentation, plan.loop.seed, neighbours=plan.network.neighbours, first_cases=first
        )
        shape = plan.network.input_shape
        whole = shape == plan.preprocessing.input_shape
        train_set = slices if whole else SlicePatches(slices, shape, plan.settings.positive_share)
    else:
        train_set = PatchDataset(
            packed,
            plan.window,
            plan.augmentation,
            plan.loop.seed,
            length=plan.samples,
            positive_share=plan.settings.positive_share,
            first_cases=first,
        )
    return train_set, validation_set(study, plan)


def validation_set(study: Study, plan: Plan) -> Sequence[ValidationScan]:
    """Returns the scans that are looked at while training; they are read when they are first asked for."""
    return ValidationScans(study, plan, _spread(plan.split.validation, plan.validation_scans))


def _prepared_cases(study: Study, plan: Plan, on_event: Listener) -> Iterator[PreparedCase]:
    """The training scans on the network's grid, one at a time; after them those that are learned from later."""
    learned = (*plan.split.train, *(plan.split.validation if plan.loop.learn_all_from else ()))
    total = len(learned)
    for number, index in enumerate(learned):
        name = study.report.facts[index].name
        on_event(Progress("Preparing scans", number, total, name))
        volume, mask = _load(study, index)
        parts = [(volume, mask)]
        if plan.split.train_slices is not None:
            parts = [_cut(volume, mask, part.start, part.stop) for part in runs(plan.split.train_slices)]
        for part_volume, part_mask in parts:
            kept, box = plan.preprocessing.start(part_volume)
            image, grid = plan.preprocessing.prepare_channels(kept)
            label = plan.preprocessing.prepare_mask(part_mask if box is None else part_mask.cut(box))
            # A network that sees neighbouring slices finds the upper one always on the same side.
            turned = plan.network.neighbours > 0 and runs_backwards(grid)
            order = slice(None, None, -1 if turned else 1)
            yield PreparedCase(name, image[:, order], label.array[order].astype(np.uint8, copy=False))
    on_event(Progress("Preparing scans", total, total))


class ValidationScans(Sequence[ValidationScan]):
    """Scans kept back; those that the memory does not hold are read when they are asked for."""

    def __init__(
        self, study: Study, plan: Plan, indices: Sequence[int], most_gb: float = MOST_KEPT_GB
    ) -> None:
        """Args:
        study: the data folder.
        plan: of the run.
        indices: which cases.
        most_gb: scans that stay in memory, together.
        """
        self._study, self._plan, self._indices = study, plan, list(indices)
        self._kept: dict[int, ValidationScan] = {}
        self._room = most_gb * GB

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, number: int) -> ValidationScan: ...
    @overload
    def __getitem__(self, number: slice) -> list[ValidationScan]: ...
    def __getitem__(self, number: int | slice) -> ValidationScan | list[ValidationScan]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        index = self._indices[number]
        if index in self._kept:
            return self._kept[index]
        scan = read_validation_scan(self._study, self._plan, index)
        size = sum(image.array.nbytes for image in scan.volume.images) + scan.mask.array.nbytes
        if size <= self._room:
            self._room -= size
            self._kept[index] = scan
        return scan


def validation_scans(study: Study, plan: Plan, most: int | None = None) -> Iterator[ValidationScan]:
    """Reads the scans kept back, one at a time; at most ``most``, spread over all."""
    for index in _spread(plan.split.validation, most):
        yield read_validation_scan(study, plan, index)


def read_validation_scan(study: Study, plan: Plan, index: int) -> ValidationScan:
    """Returns one scan kept back, as it is in its files."""
    facts = study.report.facts[index]
    volume, mask = _load(study, index)
    names = facts.slice_names
    if plan.split.validation_slices is not None:
        first, last = plan.split.validation_slices[0], plan.split.validation_slices[-1]
        volume, mask = _cut(volume, mask, first, last + 1)
        names = names[first : last + 1]
    return ValidationScan(facts.name, volume, mask, names, facts.patient)


def _spread(indices: Sequence[int], most: int | None) -> list[int]:
    if most is None or len(indices) <= most:
        return list(indices)
    return [indices[i] for i in np.linspace(0, len(indices) - 1, most).round().astype(int)]


def _load(study: Study, index: int) -> tuple[Volume, Mask]:
    case = study.pairing.cases[study.report.usable[index]]
    scan, mask, _ = load_training_case(case, study.settings)
    return scan.volume, mask


def _cut(volume: Volume, mask: Mask, start: int, stop: int) -> tuple[Volume, Mask]:
    return volume.slices(start, stop), mask.cut((slice(start, stop), slice(None), slice(None)))
