"""Small training folders with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image


def disc(size: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """(size, size) True inside a circle."""
    rows, columns = np.mgrid[:size, :size]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def two_disc_slice(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with a bright (label 1) and a dark (label 2) disc, and its labels."""
    shift = rng.uniform(-size / 16, size / 16, 2)
    bright = disc(size, (size * 0.35 + shift[0], size * 0.35 + shift[1]), size * 0.16)
    dark = disc(size, (size * 0.68 + shift[0], size * 0.66 + shift[1]), size * 0.13)
    image = rng.normal(100, 6, (size, size))
    image[bright] += 90
    image[dark] -= 80
    labels = np.zeros((size, size), np.uint8)
    labels[bright], labels[dark] = 1, 2
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_png_study(folder: Path, patients: int = 4, slices: int = 4, size: int = 64, seed: int = 0) -> Path:
    """PNG images and labels, one slice per pair; patient = name before "_"."""
    rng = np.random.default_rng(seed)
    images, labels = folder / "train" / "images", folder / "train" / "labels"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for patient in range(patients):
        for number in range(slices):
            image, label = two_disc_slice(size, rng)
            name = f"p{patient}_{number}.png"
            Image.fromarray(image).save(images / name)
            Image.fromarray(label).save(labels / name)
    return folder


def write_volume_study(folder: Path, scans: int = 4, size: int = 24, seed: int = 0) -> Path:
    """NIfTI volumes with two bright balls, 1 mm voxels."""
    rng = np.random.default_rng(seed)
    images, labels = folder / "train" / "images", folder / "train" / "labels"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    grid = np.mgrid[:size, :size, :size]
    for scan in range(scans):
        label = np.zeros((size,) * 3, np.uint8)
        image = rng.normal(100, 8, (size,) * 3)
        for value, place in ((1, 0.32), (2, 0.68)):
            centre = size * place + rng.uniform(-1.5, 1.5, 3)
            ball = sum((grid[axis] - centre[axis]) ** 2 for axis in range(3)) <= (size * 0.17) ** 2
            label[ball] = value
            image[ball] += 80 * value
        for array, target in ((image.astype(np.float32), images), (label, labels)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(target / f"scan_{scan}.nii.gz"))
    return folder
