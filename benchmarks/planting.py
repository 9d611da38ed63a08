"""Faults to plant into folders of training data, for ``benchmarks/doctor.py``.

Each function spoils the chosen samples of a copied study and returns the label files (as they are called then) that are
wrong now, with the Dice of the planted label to the true one where a label was exchanged for another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg_lib.data.doctor.planted import exchanged, overlap
from autoseg_lib.data.doctor.transforms import TRANSFORMS, transformed
from autoseg_lib.io import raster
from autoseg_lib.io.volume_files import is_volume_file


@dataclass(frozen=True)
class Pair:
    """Image and label of one sample; ``scan`` tells which samples are slices of one scan, in order."""

    image: Path
    label: Path
    scan: str


Planted = dict[Path, float]
Planter = Callable[[Sequence[Pair], np.ndarray, np.random.Generator], Planted]


def read_label(path: Path) -> np.ndarray:
    """Returns (slice, row, column) label values."""
    if is_volume_file(path):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.uint8)
    return np.asarray(raster.read_label(path, None).array, np.uint8)[None]


def write_label(path: Path, label: np.ndarray) -> None:
    """Writes label values over a label file, with the geometry it had."""
    if is_volume_file(path):
        old = sitk.ReadImage(str(path))
        new = sitk.GetImageFromArray(np.ascontiguousarray(label))
        if new.GetSize() == old.GetSize():
            new.CopyInformation(old)
        sitk.WriteImage(new, str(path))
    else:
        raster.write_mask_png(path, np.ascontiguousarray(label[0]))


def _replace(changes: dict[Path, np.ndarray]) -> Planted:
    planted = {}
    for path, label in changes.items():
        true = read_label(path)
        if not np.array_equal(true, label):
            write_label(path, label)
            planted[path] = overlap(label, true)
    return planted


# --- labels that do not fit their image -------------------------------------------------------------------------------


def turned(pairs: Sequence[Pair], chosen: np.ndarray, random: np.random.Generator) -> Planted:
    """Each by one of the turns that keep its size."""
    changes = {}
    for index in chosen:
        label = read_label(pairs[index].label)
        names = [name for name in TRANSFORMS if transformed(label, name).shape == label.shape]
        changes[pairs[index].label] = transformed(label, str(random.choice(names)))
    return _replace(changes)


def swapped(pairs: Sequence[Pair], chosen: np.ndarray, random: np.random.Generator) -> Planted:
    """Two by two, with another sample of the same size."""
    labels = {int(index): read_label(pairs[index].label) for index in chosen}
    if len(labels) == 1:
        other = int(random.choice([k for k in range(len(pairs)) if k not in labels]))
        labels[other] = read_label(pairs[other].label)
    waiting, changes = [int(k) for k in random.permutation(list(labels))], {}
    while waiting:
        first = waiting.pop(0)
        partner = next((k for k in waiting if labels[k].shape == labels[first].shape), None)
        if partner is not None:
            waiting.remove(partner)
            changes[pairs[first].label] = labels[partner]
            changes[pairs[partner].label] = labels[first]
    return _replace(changes)


def shifted(pairs: Sequence[Pair], chosen: np.ndarray, random: np.random.Generator) -> Planted:
    """Runs of neighbouring slices by 1 to 3 slices; volumes along their slices."""
    changes: dict[Path, np.ndarray] = {}
    if is_volume_file(pairs[0].label):
        for index in chosen:
            changes[pairs[index].label] = np.roll(
                read_label(pairs[index].label), int(random.integers(1, 4)), axis=0
            )
        return _replace(changes)
    scans = list(dict.fromkeys(pair.scan for pair in pairs))
    random.shuffle(scans)
    for scan in scans:
        if len(changes) >= len(chosen):
            break
        members = [pair for pair in pairs if pair.scan == scan]
        length = min(len(members), max(4, len(chosen) - len(changes)))
        start = int(random.integers(0, len(members) - length + 1))
        step = int(random.integers(1, 4)) * int(random.choice([-1, 1]))
        for here in range(start, start + length):
            source = int(np.clip(here - step, 0, len(members) - 1))
            changes[members[here].label] = read_label(members[source].label)
    return _replace(changes)


def renumbered(pairs: Sequence[Pair], chosen: np.ndarray, random: np.random.Generator) -> Planted:
    """Two ROIs of each exchanged."""
    changes = {}
    for index in chosen:
        label = read_label(pairs[index].label)
        values = [int(value) for value in np.unique(label) if value]
        if len(values) > 1:
            first, second = random.choice(values, 2, replace=False)
            changes[pairs[index].label] = exchanged(label, int(first), int(second))
    return _replace(changes)


def sides(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    """Left and right of the example study exchanged (values 2, 3 and 4, 5)."""
    return _replace(
        {pairs[k].label: exchanged(exchanged(read_label(pairs[k].label), 2, 3), 4, 5) for k in chosen}
    )


STATISTICAL: dict[str, Planter] = {
    "turned": turned,
    "swapped": swapped,
    "shifted": shifted,
    "renumbered": renumbered,
    "left/right": sides,
}
# Codes by which a label is accused of not fitting its image, and the code that names each fault rightly.
FITTING_CODES = (
    "label_turned",
    "label_swapped",
    "label_shifted",
    "roi_numbers",
    "sides_swapped",
    "label_unlike",
)
RIGHT_CODE = {
    "turned": "label_turned",
    "swapped": "label_swapped",
    "shifted": "label_shifted",
    "renumbered": "roi_numbers",
    "left/right": "sides_swapped",
}


# --- faults that need no guessing -------------------------------------------------------------------------------------


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _suffix(path: Path) -> str:
    return path.name[len(_stem(path)) :]


def no_label(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    for k in chosen:
        pairs[k].label.unlink()
    return {pairs[k].label: 0.0 for k in chosen}


def no_image(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    for k in chosen:
        pairs[k].image.unlink()
    return {pairs[k].label: 0.0 for k in chosen}


def other_name(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    """A suffix, or upper case."""
    for number, k in enumerate(chosen):
        label = pairs[k].label
        name = _stem(label) + "_mask" if number % 2 else _stem(label).swapcase()
        label.rename(label.with_name(name + _suffix(label)))
    return {pairs[k].label: 0.0 for k in chosen}


def damaged_label(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    for k in chosen:
        content = pairs[k].label.read_bytes()
        pairs[k].label.write_bytes(content[: len(content) // 3])
    return {pairs[k].label: 0.0 for k in chosen}


def damaged_image(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    for k in chosen:
        content = pairs[k].image.read_bytes()
        pairs[k].image.write_bytes(content[: len(content) // 3])
    return {pairs[k].label: 0.0 for k in chosen}


def other_size(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    for k in chosen:
        write_label(pairs[k].label, read_label(pairs[k].label)[:, :-3])
    return {pairs[k].label: 0.0 for k in chosen}


def value_beyond(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    for k in chosen:
        label = read_label(pairs[k].label)
        label[:, :4, :4] = 99
        write_label(pairs[k].label, label)
    return {pairs[k].label: 0.0 for k in chosen}


def same_image(pairs: Sequence[Pair], chosen: np.ndarray, _: np.random.Generator) -> Planted:
    """Image and label there twice, under another name."""
    found = {}
    for k in chosen:
        pair = pairs[k]
        label = pair.label.with_name("again_" + pair.label.name)
        shutil.copy(pair.image, pair.image.with_name("again_" + pair.image.name))
        shutil.copy(pair.label, label)
        found[label] = 0.0
    return found


EXACT: dict[str, tuple[Planter, tuple[str, ...]]] = {
    "no label": (no_label, ("image_orphan", "near_miss")),
    "no image": (no_image, ("label_orphan", "near_miss")),
    "label's name": (other_name, ("near_miss", "image_orphan", "label_orphan")),
    "damaged label": (damaged_label, ("unreadable",)),
    "damaged image": (
        damaged_image,
        ("unreadable", "unreadable_image", "image_skipped", "label_orphan", "skipped"),
    ),
    "other size": (other_size, ("size_mismatch",)),
    "odd value": (value_beyond, ("label_values",)),
    "same image": (same_image, ("same_image", "skipped")),
}
