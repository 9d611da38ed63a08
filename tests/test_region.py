"""Two stages: the box by hand, the same labels as without it, and when it is proposed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.infer.region import RegionFinder, bordered, share_of, with_border
from autoseg_lib.infer.region_choice import TRIAL_FAILED, propose_region_finder
from autoseg_lib.labels import LabelTable
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Mask, Volume, reorient

LABELS = LabelTable(["blob"])


class AboveZero(nn.Module):
    """Label 1 where the normalised image is above 0, whatever the window; counts the voxels it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen += image.numel()
        return torch.cat([torch.zeros_like(image), 40 * image], dim=1)


def scan(code: str = "SPL", *, shear: float = 0.0, empty: bool = False) -> tuple[Volume, Mask]:
    """A bright blob of 10 × 10 × 10 voxels of 2 mm in a scan of 40 × 48 × 44; a little noise."""
    shape = (40, 48, 44)
    affine = Geometry.from_spacing(shape, (2, 2, 2)).affine.copy()
    affine[1, 0] += shear
    pixels = np.random.default_rng(1).normal(-1, 0.01, shape).astype(np.float32)
    if not empty:
        pixels[12:22, 20:30, 6:16] = 9
    volume = reorient(Volume(pixels, Geometry(shape, affine), "MR", "made"), code)
    return volume, Mask((volume.array > 5).astype(np.uint8), volume.geometry)


def predictor(**changes: object) -> Predictor:
    plan = Preprocessing("3D", IntensityPlan("zscore"), spacing_zyx_mm=(2.0, 2.0, 2.0))
    return Predictor(AboveZero(), plan, 2, torch.device("cpu"), (16, 16, 16), **changes)  # type: ignore[arg-type]


def test_the_box_by_hand():
    """Voxels of 2 mm looked at as voxels of 4 mm; found at coarse indices 3..4, which reach from -0.5 to +0.5 around them.

    40 voxels of 2 mm centred like 20 of 4 mm: coarse index 0 lies at fine index 0.5, so 3..4 covers 0.5 + 2 * (2.5 .. 4.5) =
    5.5 .. 9.5; a margin of 6 mm is 3 voxels: 2.5 .. 12.5, whole voxels 2 .. 13.
    """
    grid = Geometry.from_spacing((40, 40, 40), (2, 2, 2), spacing_known=True, positions_known=True)
    finder = RegionFinder(2.0, 6.0)
    coarse = finder.coarse(grid)
    assert coarse.shape_zyx == (20, 20, 20)
    found = np.zeros(coarse.shape_zyx, bool)
    assert finder.box(found, coarse, grid, (8, 8, 8)) is None
    found[3:5, 3:5, 0] = True
    box = finder.box(found, coarse, grid, (8, 8, 30))
    # Columns: coarse 0 covers -0.5 .. 1.5, with the margin up to 4.5, so 0 .. 5; widened to the window's 30 voxels.
    assert box == (slice(2, 14), slice(2, 14), slice(0, 30))
    assert share_of(box, grid.shape_zyx) == pytest.approx(12 * 12 * 30 / 40**3)


def test_around_the_box_is_background():
    box = (slice(2, 4), slice(0, 3), slice(5, 6))
    assert with_border(box, (6, 3, 6)) == (slice(1, 5), slice(0, 3), slice(4, 6))
    parts = [np.full((2, 1, 3, 1), (0.25), np.float32) for _ in range(2)]
    whole = np.concatenate(list(bordered(parts, box, (6, 3, 6))), axis=1)
    assert whole.shape == (2, 4, 3, 2)
    assert whole[:, 1:3, :, 1].tolist() == np.full((2, 2, 3), 0.25).tolist()
    assert (whole[0, [0, 3]] == 1).all()
    assert (whole[1, [0, 3]] == 0).all()
    assert (whole[0, :, :, 0] == 1).all()
    assert (whole[1, :, :, 0] == 0).all()


@pytest.mark.parametrize(
    ("code", "shear"), [("SPL", 0.0), ("IRP", 0.0), ("LSA", 0.0), ("AIL", 0.0), ("SPL", 0.7), ("PIR", 0.7)]
)
def test_two_stages_find_the_same_with_less_work(code: str, shear: float):
    volume, truth = scan(code, shear=shear)
    plain, two = predictor(), predictor(finder=RegionFinder(2.0, 8.0))
    whole, close = plain.predict_soft(volume), two.predict_soft(volume)
    assert close.notes == ()
    assert np.array_equal(close.mask.array, whole.mask.array)
    assert np.count_nonzero(close.mask.array != truth.array) <= (0 if not shear else 0.2 * truth.array.sum())
    assert close.soft is not None
    assert whole.soft is not None
    assert np.array_equal(close.soft.likely, whole.soft.likely)
    assert np.array_equal(close.soft.sure, whole.soft.sure)
    assert two.network.seen < plain.network.seen / 3  # type: ignore[operator]


def test_where_nothing_is_found_the_whole_scan_is_looked_at():
    class OnlyCloseUp(nn.Module):
        """Label 1 where the image is bright, if that is 500 voxels: the blob has 1000, an eighth of it on large voxels."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            bright = image > 0
            label = 40.0 * image if int(bright.sum()) >= 500 else torch.full_like(image, -5.0)
            return torch.cat([torch.zeros_like(image), label], dim=1)

    volume, truth = scan()
    # One window for all, in which the whole blob can be counted.
    asked = replace(predictor(finder=RegionFinder()), network=OnlyCloseUp(), window=volume.array.shape)
    found = asked.predict_soft(volume)
    assert found.notes == ("the region finder found nothing: the whole scan was looked at closely.",)
    assert truth.array.sum() == 1000
    assert np.array_equal(found.mask.array, truth.array)


@pytest.mark.parametrize("code", ["SPL", "IRP", "LSA"])
@pytest.mark.parametrize(
    "tail",
    [
        (slice(22, 40), 25, 11),
        (slice(0, 12), 25, 11),
        (17, slice(30, 48), 11),
        (17, slice(0, 20), 11),
        (17, 25, slice(16, 44)),
    ],
)
def test_a_tail_beyond_the_region_is_not_cut_off(code: str, tail: tuple[slice | int, ...]):
    """One voxel thick and hardly bright: on voxels twice as large it drowns in what is around it."""
    volume, _ = scan()
    pixels = volume.array.copy()
    pixels[tail] = -0.75
    volume = reorient(volume.with_array(pixels), code)
    finder = RegionFinder(2.0, 20.0 if tail[0] == 17 else 8.0)
    whole, close = predictor().predict_soft(volume), predictor(finder=finder).predict_soft(volume)
    box, grid = predictor(finder=finder).region(volume)
    assert box is not None and share_of(box, grid.shape_zyx) < 0.7
    assert np.count_nonzero(whole.mask.array) == 1000 + pixels[tail].size
    assert np.array_equal(close.mask.array, whole.mask.array)
    assert close.notes == (
        "an ROI reached the edge of the region that was found: the whole scan was looked at closely.",
    )


def test_an_roi_at_the_edge_of_the_scan_is_not_taken_for_cut_off():
    volume, truth = scan()
    moved = [np.roll(item.array, -6, axis=2) for item in (volume, truth)]
    assert moved[1][:, :, 0].any()
    two = predictor(finder=RegionFinder(2.0, 8.0))
    found = two.predict_soft(volume.with_array(moved[0]))
    assert found.notes == ()
    assert np.array_equal(found.mask.array, moved[1])


def test_a_box_as_large_as_the_scan_is_not_used():
    volume, truth = scan()
    found = predictor(finder=RegionFinder(2.0, 100.0)).predict_soft(volume)
    assert found.notes == (
        "the region finder's box is hardly smaller than the scan: the whole scan was looked at closely.",
    )
    assert np.array_equal(found.mask.array, truth.array)


@dataclass(frozen=True)
class Known:
    name: str
    volume: Volume
    mask: Mask


def known(count: int) -> list[Known]:
    codes = ["SPL", "IRP", "LSA", "AIL", "PIR", "SLP"]
    return [Known(f"scan {i}", *scan(codes[i])) for i in range(count)]


class Clock:
    """Counts the voxels that the network has seen as seconds."""

    def __init__(self, network: AboveZero) -> None:
        self.network = network

    def __call__(self) -> float:
        return float(self.network.seen)


def propose(scans: list[Known], finder: RegionFinder | None = None) -> tuple[RegionFinder | None, str]:
    asked = predictor()
    return propose_region_finder(asked, scans, LABELS, finder=finder, clock=Clock(asked.network))  # type: ignore[arg-type]


def test_proposed_where_it_pays_and_misses_nothing():
    finder, reason = propose(known(5), RegionFinder(2.0, 8.0))
    assert finder == RegionFinder(2.0, 8.0)
    assert reason.startswith("A region finder is on: the scan is looked at on voxels 2 times as large first")


def test_not_proposed_where_something_lies_outside():
    scans = known(5)
    away = scans[3].mask.array.copy()
    away[-1, -1, -1] = 1
    scans[3] = replace(scans[3], mask=scans[3].mask.with_array(away))
    finder, reason = propose(scans, RegionFinder(2.0, 8.0))
    assert finder is None
    assert reason == (
        "No region finder: in 'scan 3' 0.1 % of the labelled voxels lay outside the region it found."
    )


def test_not_proposed_where_it_does_not_pay():
    asked = predictor()
    ticks = iter(range(100))
    finder, reason = propose_region_finder(
        asked, known(5), LABELS, finder=RegionFinder(2.0, 8.0), clock=lambda: float(next(ticks))
    )
    assert finder is None
    assert reason == "No region finder: it would make segmenting 1.0 times as fast; 1.5 is the least."


def test_a_trial_that_fails_is_a_reason():
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.full_like(torch.cat([image, image], dim=1), float("nan"))

    asked = replace(predictor(), network=Broken())
    finder, reason = propose_region_finder(asked, known(5), LABELS)
    assert finder is None
    assert reason.startswith(f"{TRIAL_FAILED} (the network's answer is not a number")


def test_not_proposed_with_few_scans_or_in_2d():
    assert propose(known(4)) == (
        None,
        "No region finder: 4 scans were kept back from training, and at least 5 are needed to try it.",
    )
    flat = replace(predictor(), window=None)
    assert propose_region_finder(flat, known(5), LABELS)[0] is None


def test_kept_in_the_model():
    finder = RegionFinder(3.0, 15.0)
    assert RegionFinder.from_dict(finder.to_dict()) == finder
    assert RegionFinder.from_dict({}) is None
    assert RegionFinder.from_dict(None) is None
    with pytest.raises(ModelError, match=r"a factor above 1 and at most 8, and a margin of 0 to 500 mm"):
        RegionFinder.from_dict({"factor": 1.0, "margin_mm": 5})
    with pytest.raises(ModelError, match=r"the model's settings cannot be read \(unknown colour\)"):
        RegionFinder.from_dict({"colour": 1.0})
