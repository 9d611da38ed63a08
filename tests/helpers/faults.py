"""Faults planted into training folders: each function spoils the samples it is given and says how they are called then."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Planter = Callable[[Path, Sequence[str]], set[str]]


def image(folder: Path, name: str) -> Path:
    return folder / "train" / "images" / f"{name}.png"


def label(folder: Path, name: str) -> Path:
    return folder / "train" / "labels" / f"{name}.png"


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(np.ascontiguousarray(array)).save(path)


def no_label(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        label(folder, name).unlink()
    return set(names)


def no_image(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        image(folder, name).unlink()
    return set(names)


def near_name(folder: Path, names: Sequence[str]) -> set[str]:
    """By turns: upper case, padding, a suffix, spaces."""
    for number, name in enumerate(names):
        patient, slice_number = name.split("_")
        other = (
            f"{patient.upper()}_{slice_number}",
            f"{patient}_{int(slice_number):04d}",
            f"{name}_mask",
            f"{patient} {slice_number}",
        )[number % 4]
        label(folder, name).rename(label(folder, other))
    return set(names)


def damaged_image(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        image(folder, name).write_bytes(image(folder, name).read_bytes()[:60])
    return set(names)


def damaged_label(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        label(folder, name).write_bytes(b"not a picture")
    return set(names)


def other_size(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        _save(label(folder, name), _pixels(label(folder, name))[:-3])
    return set(names)


def value_beyond(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        values = _pixels(label(folder, name)).copy()
        values[:5, :5] = 9
        _save(label(folder, name), values)
    return set(names)


def coded(folder: Path, names: Sequence[str]) -> set[str]:
    """The two ROIs marked with 127 and 255."""
    table = np.zeros(256, np.uint8)
    table[1], table[2] = 127, 255
    for name in names:
        _save(label(folder, name), table[_pixels(label(folder, name))])
    return set(names)


def one_hot(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        values = _pixels(label(folder, name))
        np.save(
            label(folder, name).with_suffix(".npy"), np.stack([values == 1, values == 2]).astype(np.uint8)
        )
        label(folder, name).unlink()
    return set(names)


def empty(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        _save(label(folder, name), np.zeros_like(_pixels(label(folder, name))))
    return set(names)


def constant(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        _save(image(folder, name), np.full_like(_pixels(image(folder, name)), 90))
    return set(names)


def inverted(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        _save(image(folder, name), 255 - _pixels(image(folder, name)))
    return set(names)


def too_bright(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        bright = np.clip(_pixels(image(folder, name)) / 8.0 + 220, 0, 255)
        _save(image(folder, name), bright.astype(np.uint8))
    return set(names)


def in_colour(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        grey = _pixels(image(folder, name))
        _save(image(folder, name), np.stack([grey, grey // 2, grey], axis=-1))
    return set(names)


def changed_places(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        first, second = image(folder, name).read_bytes(), label(folder, name).read_bytes()
        image(folder, name).write_bytes(second)
        label(folder, name).write_bytes(first)
    return set(names)


def twice(folder: Path, names: Sequence[str]) -> set[str]:
    """Copied under the name of another patient."""
    for number, name in enumerate(names):
        other = f"q{number}_0"
        shutil.copy(image(folder, name), image(folder, other))
        shutil.copy(label(folder, name), label(folder, other))
    return {*names, *(f"q{number}_0" for number in range(len(names)))}


def saved_again(folder: Path, names: Sequence[str]) -> set[str]:
    """Saved as JPG under the name of another patient."""
    for number, name in enumerate(names):
        other = f"q{number}_0"
        Image.open(image(folder, name)).save(image(folder, other).with_suffix(".jpg"), quality=85)
        shutil.copy(label(folder, name), label(folder, other))
    return {*names, *(f"q{number}_0" for number in range(len(names)))}


def copied_label(folder: Path, names: Sequence[str]) -> set[str]:
    """The label of the sample before."""
    found = set()
    everyone = sorted(path.stem for path in (folder / "train" / "images").iterdir())
    for name in names:
        before = everyone[everyone.index(name) - 1]
        shutil.copy(label(folder, before), label(folder, name))
        found |= {before, name}
    return found


def at_border(folder: Path, names: Sequence[str]) -> set[str]:
    for name in names:
        values = _pixels(label(folder, name)).copy()
        values[:, -6:][20:40] = 2
        _save(label(folder, name), values)
    return set(names)


# Fault → (what plants it, code of the finding, whether a corrected copy is free of it).
EXACT: dict[str, tuple[Planter, str, bool]] = {
    "image without label": (no_label, "image_orphan", True),
    "label without image": (no_image, "label_orphan", True),
    "name nearly right": (near_name, "near_miss", True),
    "damaged image": (damaged_image, "unreadable", True),
    "damaged label": (damaged_label, "unreadable", True),
    "label of another size": (other_size, "size_mismatch", True),
    "value that is no ROI": (value_beyond, "label_values", True),
    "codes": (coded, "label_values", True),
    "one-hot": (one_hot, "label_values", True),
    "empty label": (empty, "empty_labels", False),
    "constant image": (constant, "constant", True),
    "image in colour": (in_colour, "unreadable", True),
    "image and label exchanged": (changed_places, "swapped_files", True),
    "same image twice": (twice, "same_image", True),
    "same label twice": (copied_label, "same_label", True),
    "ROI at the border": (at_border, "roi_at_border", False),
}
STATISTICAL: dict[str, tuple[Planter, str, bool]] = {
    "inverted contrast": (inverted, "inverted", True),
    "other grey values": (too_bright, "intensity_outlier", True),
    "nearly the same image": (saved_again, "near_image", True),
}
