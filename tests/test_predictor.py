"""The way through the network and back, with networks whose answer is known: thresholds and half planes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autoseg_lib.errors import DataError
from autoseg_lib.events import StopFlag, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.predictor import Predictor, Stopped
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Volume, reorient

ORIENTATIONS = [
    "".join(pick) for axes in itertools.permutations(("SI", "PA", "LR")) for pick in itertools.product(*axes)
]


class AboveZero(nn.Module):
    """Label 1 where the normalised image is above 0: the same answer in whatever window."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), 50 * image], dim=1)


class Bright(nn.Module):
    """Label 1 where the image is above the middle of its darkest and brightest pixel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dims = tuple(range(1, image.ndim))
        middle = (image.amin(dims, keepdim=True) + image.amax(dims, keepdim=True)) / 2
        return torch.cat([torch.zeros_like(image), 50 * (image - middle)], dim=1)


class Halves(nn.Module):
    """Bright pixels are label 2 in the last half of the columns (the patient's left), label 1 in the first half."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        column = torch.linspace(-1, 1, image.shape[-1]).expand_as(image)
        bright = torch.where(image > 0, 50.0, -50.0)
        return torch.cat([torch.zeros_like(image), bright - 9 * column, bright + 9 * column], dim=1)


def blob(code: str = "SPL", shape: tuple[int, int, int] = (10, 24, 20)) -> tuple[Volume, np.ndarray]:
    """A lopsided bright blob in an oblique, anisotropic scan, its axes turned to ``code``; and the blob itself."""
    tilt = np.radians(17)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])) * np.array([5.0, 1.5, 1.5])
    affine[:3, 3] = (12, -30, 44)
    array = np.zeros(shape, np.float32)
    array[2:6, 4:13, 3:9] = 100
    array[3:9, 8:11, 6:17] = 100
    volume = reorient(Volume(array, Geometry(shape, affine), "MR", "made"), code)
    return volume, volume.array > 50


def predictor(dimension: str, network: nn.Module, classes: int = 2, **changes: object) -> Predictor:
    plan = IntensityPlan("zscore")
    if dimension == "2D":
        preprocessing = Preprocessing("2D", plan, input_shape=(32, 32))
    else:
        preprocessing = Preprocessing("3D", plan)
    window = None if dimension == "2D" else (8, 16, 16)
    return Predictor(network, preprocessing, classes, torch.device("cpu"), window, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_3d_every_orientation_comes_back_on_its_own_pixels(code: str):
    volume, truth = blob(code)
    mask = predictor("3D", AboveZero()).predict(volume)
    assert mask.geometry is volume.geometry
    assert np.array_equal(mask.array == 1, truth)


@pytest.mark.parametrize("code", ["SPL", "SAR", "IPR", "ILP", "SRA"])
def test_2d_slices_come_back_on_their_own_pixels(code: str):
    """Slices of 24 × 20 pixels of 1.5 mm, fitted into 32 × 32: enlarged and brought back, only edge pixels may move."""
    volume, truth = blob(code)
    volume = volume.with_array(np.where(truth, np.float32(100), np.float32(0)))
    filled = truth.any(axis=(1, 2))  # a slice of one grey value has nothing to threshold
    mask = predictor("2D", Bright()).predict(volume)
    wrong = (mask.array == 1) != truth
    assert wrong[filled].sum() <= 0.04 * truth.sum()


def test_2d_unevenly_spaced_slices_are_predicted_one_by_one():
    volume, truth = blob()
    positions = (0.0, 5.0, 10.0, 25.0, 30.0, 30.0, 35.0, 40.0, 45.0, 50.0)
    geometry = Geometry(volume.geometry.shape_zyx, volume.geometry.affine, positions)
    uneven = volume.with_array(volume.array, geometry)
    even = predictor("2D", Bright()).predict(volume)
    assert np.array_equal(predictor("2D", Bright()).predict(uneven).array, even.array)
    with pytest.raises(DataError, match=r"a 3D model needs evenly spaced slices"):
        predictor("3D", Bright()).predict(uneven)
    assert truth.any()


def test_a_long_scan_is_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch):
    volume, _ = blob("SAR")
    whole = predictor("2D", Bright()).predict(volume)
    monkeypatch.setattr("autoseg_lib.infer.predictor.SLICES_PER_PART", 3)
    assert np.array_equal(predictor("2D", Bright()).predict(volume).array, whole.array)


@pytest.mark.parametrize(("dimension", "axis"), [("2D", 2), ("3D", 2)])
def test_mirrored_prediction_swaps_the_sides(dimension: str, axis: int):
    """Averaging with the mirrored image must change nothing for a network that tells the sides apart rightly."""
    volume, _ = blob("SAR" if dimension == "2D" else "IRP")
    if dimension == "2D":
        plain = predictor(dimension, Halves(), 3)
        both = predictor(dimension, Halves(), 3, mirror_axis=axis, mirror_pairs=((1, 2),))
        wrong = predictor(dimension, Halves(), 3, mirror_axis=axis)
        assert np.array_equal(plain.predict(volume).array, both.predict(volume).array)
        assert not np.array_equal(plain.predict(volume).array, wrong.predict(volume).array)
    found = predictor("2D", Halves(), 3).predict(blob("SPL")[0])
    columns = np.nonzero(found.array == 2)[2]
    assert columns.min() >= 9  # columns of "SPL" grow to the patient's left


def test_no_mirroring_where_the_sides_are_unknown():
    volume, _ = blob()
    geometry = Geometry.from_spacing(
        volume.array.shape, (5, 1.5, 1.5), spacing_known=True, positions_known=True
    )
    unknown = volume.with_array(volume.array, geometry)
    plain = predictor("2D", Halves(), 3).predict(unknown)
    asked = predictor("2D", Halves(), 3, mirror_axis=2).predict(unknown)
    assert np.array_equal(plain.array, asked.array)


def test_stop_is_heard_between_batches():
    volume, _ = blob()
    stop = StopFlag()
    stop.set()
    for dimension in ("2D", "3D"):
        with pytest.raises(Stopped):
            predictor(dimension, Bright()).predict(volume, nobody, stop)
