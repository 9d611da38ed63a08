"""Neighbouring slices as channels: what only they can tell is learned, and they keep their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.augment.slices import augment_slice
from autoseg_lib.data.dataset import KeyedBatches, SliceDataset, neighbour_order
from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.labels import LabelTable
from autoseg_lib.losses.registry import build_loss
from autoseg_lib.networks.registry import NetworkSpec
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing, runs_backwards
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.network_choice import choose_network
from autoseg_lib.volume import Volume
from tests.helpers.made_facts import scan_facts

SIDE = 24
PREPROCESSING = Preprocessing("2D", IntensityPlan("zscore"), input_shape=(SIDE, SIDE))


def phantom(seed: int, slices: int = 12) -> tuple[Volume, np.ndarray]:
    """Each slice shows a bright square at a place of its own; the label of a slice is the square of the slice above."""
    random = np.random.default_rng(seed)
    image = random.normal(0, 0.05, (slices, SIDE, SIDE)).astype(np.float32)
    squares = np.zeros(image.shape, np.uint8)
    for k in range(slices):
        row, column = random.integers(0, SIDE - 6, 2)
        squares[k, row : row + 6, column : column + 6] = 1
    label = squares[np.minimum(np.arange(slices) + 1, slices - 1)]
    grid = Geometry.from_spacing(
        image.shape, (3, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
    )
    return Volume(image + squares, grid, "MR", "made"), label


def upside_down(volume: Volume) -> Volume:
    """The same scan with its slices stored from top to bottom."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (len(volume.array) - 1)
    affine[:3, 0] *= -1
    return Volume(volume.array[::-1].copy(), Geometry(volume.array.shape, affine), "MR", "made")


def trained(neighbours: int) -> Predictor:
    """A small network after a short training on two phantoms."""
    cases = []
    for seed in (1, 2):
        volume, label = phantom(seed)
        assert not runs_backwards(volume.geometry)
        cases.append(PreparedCase(str(seed), PREPROCESSING.prepare(volume).array, label))
    dataset = SliceDataset(cases, None, seed=0, neighbours=neighbours)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1 + 2 * neighbours, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=0.03), build_loss("dice_ce")
    batches = KeyedBatches(len(dataset), 8, seed=0)
    for epoch in range(25):
        batches.epoch = epoch
        for keys in batches:
            samples = [dataset[key] for key in keys]
            logits = network(torch.stack([sample["image"] for sample in samples]))
            optimizer.zero_grad()
            loss(logits, torch.stack([sample["label"] for sample in samples])).backward()
            optimizer.step()
    return Predictor(network, PREPROCESSING, 2, torch.device("cpu"), neighbours=neighbours)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def seeing() -> Predictor:
    return trained(1)


def test_what_only_the_neighbour_tells_is_learned(seeing: Predictor) -> None:
    volume, label = phantom(3)
    assert dice(seeing.predict(volume).array == 1, label == 1) > 0.95
    # Alone, a slice tells nothing of the next one's square.
    assert dice(trained(0).predict(volume).array == 1, label == 1) < 0.3


def test_slices_stored_the_other_way_round_give_the_same_answer(seeing: Predictor) -> None:
    volume, _ = phantom(3)
    turned = upside_down(volume)
    assert runs_backwards(turned.geometry)
    np.testing.assert_array_equal(seeing.predict(turned).array, seeing.predict(volume).array[::-1])


def test_parts_of_a_long_scan_know_their_neighbours(
    seeing: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _ = phantom(4)
    whole = seeing.predict(volume).array
    for slices in (1, 3, 5):
        monkeypatch.setattr("autoseg_lib.infer.predictor.SLICES_PER_PART", slices)
        np.testing.assert_array_equal(seeing.predict(volume).array, whole)


def test_the_outermost_slice_stands_in_for_missing_ones() -> None:
    assert neighbour_order(0, 5, 2) == [0, 0, 0, 1, 2]
    assert neighbour_order(2, 5, 2) == [0, 1, 2, 3, 4]
    assert neighbour_order(4, 5, 1) == [3, 4, 4]
    assert neighbour_order(0, 1, 2) == [0, 0, 0, 0, 0]
    single = PreparedCase("a", np.full((1, 8, 8), 2, np.float32), np.zeros((1, 8, 8), np.uint8))
    assert SliceDataset([single], None, 0, neighbours=2)[0, 0]["image"].shape == (5, 8, 8)


def test_channels_are_the_slices_in_their_order() -> None:
    image = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 8, 8), np.float32)
    case = PreparedCase("a", image, np.zeros(image.shape, np.uint8))
    seen = [SliceDataset([case], None, 0, neighbours=1)[0, k]["image"][:, 0, 0].tolist() for k in (0, 3, 5)]
    assert seen == [[0, 0, 1], [2, 3, 4], [4, 5, 5]]


def test_all_channels_are_changed_alike() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(32, 32)).astype(np.float32)
    plan = AugmentPlan(probability=1.0, elastic=1.0, noise=0.0)  # noise alone differs from slice to slice
    label = (plane > 0).astype(np.uint8)
    alone, moved = augment_slice(plane, label, plan, (0, 0, 1))
    stack, moved_too = augment_slice(np.stack([plane] * 3), label, plan, (0, 0, 1))
    np.testing.assert_array_equal(moved, moved_too)
    for channel in stack:
        np.testing.assert_allclose(channel, alone, atol=1e-5)


def test_planning_says_which_scans_have_no_neighbours() -> None:
    facts = [scan_facts("a", (1, 64, 64)), scan_facts("b", (5, 64, 64)), scan_facts("c", (1, 64, 64))]

    def planned(**settings: int) -> tuple[NetworkSpec, list[str]]:
        chooser = Chooser(make_settings(TrainSettings, {"main_dir": "x", **settings}), {})
        machine = Machine("cpu", 2, 8.0, "32")
        spec = choose_network(chooser, "2D", facts, LabelTable.numbered(2), IntensityPlan("zscore"), machine)[
            0
        ]
        return spec, [f"{c.setting}: {c.value}, {c.reason}" for c in chooser.choices]

    spec, lines = planned(neighbour_slices=2)
    assert spec.in_channels == 5
    assert "single slices: 2, of 3 scans: the slice stands in for its neighbours" in lines
    spec, lines = planned()
    assert spec.in_channels == 1 and "neighbour_slices: 0, each slice is looked at by itself" in lines


def test_the_model_file_keeps_the_number() -> None:
    spec = NetworkSpec("2D", "unet", 2, (64, 64), in_channels=5)
    assert NetworkSpec.from_dict(spec.to_dict()).neighbours == 2
    assert NetworkSpec("2D", "unet", 2, (64, 64)).neighbours == 0
    for dimension, shape, channels in (("2D", (64, 64), 2), ("3D", (32, 32, 32), 3), ("2D", (64, 64), 0)):
        with pytest.raises(ModelError, match=f"found {channels} channels; 1 is expected"):
            NetworkSpec(dimension, "unet", 2, shape, in_channels=channels)
