"""Answers that come in parts, smaller windows where memory runs out, mirror images: nothing of it may change what is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from autoseg_lib.events import Event, Progress
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.answering import Answering, MemoryLimits, Mirror, smaller_window
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.io.volume_files import read_volume_file
from autoseg_lib.networks.out_of_memory import OutOfMemoryError
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.preprocess.resample import index_map
from autoseg_lib.preprocess.way_back import WayBack
from autoseg_lib.volume import Volume, reorient
from tests.helpers.real_data import real_data

CLASSES = 4
CODES = ["SPL", "IRP", "LSA", "PIR", "AIL", "RPS", "LAI", "SLP"]


class Random3D(nn.Module):
    """Weights drawn once; strong enough that all classes win somewhere."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(
            nn.Conv3d(channels, 8, 3, padding=1), nn.Tanh(), nn.Conv3d(8, CLASSES, 3, padding=1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 6 * self.layers(image)


def scan(code: str = "SPL", *, shear: float = 0.0, shape: tuple[int, int, int] = (14, 27, 23)) -> Volume:
    """Smooth noise in an anisotropic, oblique scan, tilted by ``shear`` mm from slice to slice."""
    tilt = np.radians(12)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])) * np.array([3.1, 1.2, 1.4])
    affine[:3, 0] += shear * affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    affine[:3, 3] = (12, -30, 44)
    pixels = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    pixels = ndimage.gaussian_filter(pixels, (1, 2, 2)) * 8
    return reorient(Volume(pixels, Geometry(shape, affine), "MR", "made"), code)


def predictor(**changes: object) -> Predictor:
    plan = Preprocessing("3D", IntensityPlan("zscore"), spacing_zyx_mm=(2.0, 1.7, 1.6))
    return Predictor(Random3D(), plan, CLASSES, torch.device("cpu"), (8, 12, 10), **changes)  # type: ignore[arg-type]


def on_own_grid(asked: Predictor, volume: Volume) -> np.ndarray:
    """All probabilities interpolated on the scan's own grid by scipy: (classes, slice, row, column)."""
    soft = asked.probabilities(volume)
    grid = asked.preprocessing.network_geometry(volume.geometry)
    matrix = index_map(grid, volume.geometry)
    index = np.indices(volume.array.shape).reshape(3, -1)
    places = matrix[:3, :3] @ index + matrix[:3, 3:]
    return np.stack(
        [
            ndimage.map_coordinates(channel.astype(np.float64), places, order=1, mode="nearest").reshape(
                volume.array.shape
            )
            for channel in soft
        ]
    )


@pytest.mark.parametrize("shear", [0.0, 0.9])
@pytest.mark.parametrize("code", CODES)
def test_labels_and_counts_are_those_of_the_whole_answer(code: str, shear: float):
    volume, asked = scan(code, shear=shear), predictor()
    found = asked.predict_soft(volume)
    whole = on_own_grid(asked, volume)
    # Where two classes are as good as equal, rounding decides.
    two = np.sort(whole, axis=0)
    clear = two[-1] - two[-2] > 1e-5
    assert clear.mean() > 0.999
    assert np.array_equal(found.mask.array[clear], whole.argmax(axis=0)[clear])
    assert set(np.unique(found.mask.array)) == set(range(CLASSES))
    assert found.mask.geometry is volume.geometry
    assert found.soft is not None
    for limit, counts in ((0.25, found.soft.likely), (0.75, found.soft.sure)):
        expected = (whole[1:] >= limit).sum(axis=(2, 3)).T
        doubtful = (np.abs(whole[1:] - limit) < 1e-5).sum(axis=(2, 3)).T
        assert (np.abs(counts - expected) <= doubtful).all()
    # The way that keeps the whole answer is the same.
    assert np.array_equal(
        found.mask.array, asked.preprocessing.restore(asked.probabilities(volume), volume.geometry)
    )


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 27, 23), (14, 6, 23)])
def test_scans_smaller_than_a_window(shape: tuple[int, int, int]):
    volume, asked = scan(shape=shape), predictor()
    whole = on_own_grid(asked, volume)
    two = np.sort(whole, axis=0)
    clear = two[-1] - two[-2] > 1e-5
    assert np.array_equal(asked.predict(volume).array[clear], whole.argmax(axis=0)[clear])


@pytest.mark.parametrize("sizes", [(1,), (3,), (5, 1, 2), (40,)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("direction", [1, -1])
def test_parts_of_any_size_give_the_same(sizes: tuple[int, ...], axes: tuple[int, int, int], direction: int):
    """A grid of 18 × 12 × 9 onto one of other pixels and other axes; parts of 1, 3, ... slices, and all at once."""
    soft = np.random.default_rng(1).dirichlet(np.full(CLASSES, 0.4), (18, 12, 9)).astype(np.float32)
    soft = np.ascontiguousarray(np.moveaxis(soft, -1, 0))
    matrix = np.zeros((4, 4))
    for row, axis in enumerate(axes):
        matrix[row, axis] = 0.7 if row else 0.6 * direction
    matrix[:, 3] = (0.2 if direction > 0 else 17.3, -0.3, 0.4, 1)
    shape = [0, 0, 0]
    for row, axis in enumerate(axes):
        shape[axis] = (29, 17, 12)[row]
    results = []
    for steps in ((18,), sizes):
        back = WayBack((18, 12, 9), matrix, (shape[0], shape[1], shape[2]), CLASSES, (0.25, 0.75))
        first, turn = 0, 0
        while first < 18:
            back.take(soft[:, first : first + steps[turn % len(steps)]])
            first, turn = first + steps[turn % len(steps)], turn + 1
        results.append(back.finish())
    assert np.array_equal(results[0].labels, results[1].labels)
    for a, b in zip(results[0].counts, results[1].counts, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_number_of_windows_at_a_time_changes_nothing(batch: int):
    volume = scan()
    one = predictor(batch_size=1)
    assert np.array_equal(predictor(batch_size=batch).predict(volume).array, one.predict(volume).array)


class TooLarge(Random3D):
    """Runs out of memory, as torch says it, with more voxels at a time than ``most``."""

    def __init__(self, most: int, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.numel() > self.most:
            raise self.error("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        self.seen.append(tuple(image.shape))
        return super().forward(image)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, MemoryError])
def test_fewer_windows_at_a_time_where_memory_runs_out(error: type[Exception]):
    volume, window = scan(), 8 * 12 * 10
    network = TooLarge(2 * window, error)
    found = replace(predictor(batch_size=7), network=network).predict_soft(volume)
    assert network.seen[0][0] == 1  # 7, then 3, then 1
    assert found.notes == (
        "memory ran out with 7 at a time: going on with 3.",
        "memory ran out with 3 at a time: going on with 1.",
    )
    assert np.array_equal(found.mask.array, predictor(batch_size=1).predict(volume).array)


def test_smaller_windows_where_a_single_one_is_too_large():
    volume = scan()
    network = TooLarge(8 * 6 * 10)
    asked = replace(predictor(window_multiple=2), network=network)
    found = asked.predict_soft(volume)
    # The longest side, 12, is halved; 8 × 6 × 10 fits.
    assert {shape[2:] for shape in network.seen} == {(8, 6, 10)}
    assert found.notes[-1] == (
        "memory ran out: going on with smaller windows (8 × 6 × 10 voxels). The network then sees less around each place, so the "
        "answer may differ a little."
    )
    same = replace(asked, network=Random3D(), window=(8, 6, 10), _limits=MemoryLimits())
    assert np.array_equal(found.mask.array, same.predict(volume).array)
    # What was learned holds for the next scan, which has nothing to say.
    assert asked.predict_soft(volume).notes == ()


def test_a_network_that_takes_no_other_window_says_so():
    asked = replace(predictor(), network=TooLarge(8 * 6 * 10))
    with pytest.raises(OutOfMemoryError, match="memory ran out with a single slice or window at a time"):
        asked.predict(scan())


def test_other_faults_of_a_network_are_not_taken_for_a_lack_of_memory():
    class Faulty(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        replace(predictor(), network=Faulty()).predict(scan())


@pytest.mark.parametrize(
    ("window", "multiple", "smaller"),
    [
        ((96, 96, 96), 8, (48, 96, 96)),
        ((48, 96, 96), 32, None),  # half of 96 is 48, of which 32 is less than two steps
        ((64, 160, 64), 32, (64, 64, 64)),
        ((16, 16, 16), 8, None),
        ((96, 96, 96), None, None),
    ],
)
def test_smaller_windows_are_multiples(window, multiple, smaller):
    assert smaller_window(window, multiple) == smaller


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_images_are_undone_exactly(axis: int):
    """A network that only copies the image into its channels: mirrored and undone, it is what it was, partners swapped."""
    mirror = Mirror.across(axis, CLASSES, [(2, 3)])
    image = torch.randn(2, CLASSES, 4, 5, 6)
    there = mirror.image(image)
    assert not torch.equal(there, image)
    assert torch.equal(mirror.undo(there), image[:, [0, 1, 3, 2]])
    assert torch.equal(mirror.image(there), image)
    with pytest.raises(ValueError, match="mirrored twice"):
        Mirror.across(axis, CLASSES, [(1, 2), (2, 3)])


def test_the_mean_of_an_image_and_its_mirror_image():
    class Columns(nn.Module):
        """Class 1 on the left half of the picture, class 2 on the right: the answer swaps with the image mirrored."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.zeros_like(image), image, -image], dim=1)

    image = torch.tensor([2.0, 1.0, -1.0, -3.0]).expand(1, 1, 2, 2, 4)
    plain = Answering(Columns(), torch.device("cpu"))(image)
    mirrored = Answering(Columns(), torch.device("cpu"), mirrors=(Mirror.across(2, 3, []),))(image)
    # The network answers voxel by voxel, so the mirrored image gives the same answer once it is turned back ...
    assert torch.allclose(mirrored, plain)
    # ... and with its partners swapped the mean of both classes.
    swapped = Answering(Columns(), torch.device("cpu"), mirrors=(Mirror.across(2, 3, [(1, 2)]),))(image)
    assert torch.allclose(swapped[:, 1], (plain[:, 1] + plain[:, 2]) / 2)


def test_progress_counts_windows():
    heard: list[Event] = []
    predictor().predict(scan(), heard.append)
    windows = [event for event in heard if isinstance(event, Progress) and event.stage == "Windows"]
    assert windows[-1].done == windows[-1].total
    assert [event.done for event in windows] == sorted(event.done for event in windows)


@pytest.mark.real_data
def test_a_real_volume():
    path = sorted((real_data("hippocampus_msd") / "images").iterdir())[0]
    volume, asked = read_volume_file(path), replace(predictor(), window=(16, 24, 16))
    found, whole = asked.predict(volume).array, on_own_grid(asked, volume)
    two = np.sort(whole, axis=0)
    clear = two[-1] - two[-2] > 1e-5
    assert clear.mean() > 0.999
    assert np.array_equal(found[clear], whole.argmax(axis=0)[clear])
