"""Windows over a whole scan, compared with MONAI's sliding window."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from autoseg_lib.infer import windows
from autoseg_lib.infer.windows import importance, plan_windows, windowed

CLASSES = 3


def network(channels: int = 1) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv3d(channels, 6, 3, padding=1),
        nn.ReLU(),
        nn.InstanceNorm3d(6),
        nn.Conv3d(6, CLASSES, 3, padding=1),
    ).eval()


def by_monai(
    image: torch.Tensor, window: tuple[int, int, int], overlap: float, net: nn.Module
) -> torch.Tensor:
    return sliding_window_inference(
        image[None],
        roi_size=window,
        sw_batch_size=2,
        predictor=lambda part: torch.softmax(net(part), dim=1),
        overlap=overlap,
        mode="gaussian",
        padding_mode="constant",
        cval=float(image.min()),
    )[0]


def ours(
    image: torch.Tensor, window: tuple[int, int, int], overlap: float, net: nn.Module, **more
) -> torch.Tensor:
    def answer(part: torch.Tensor) -> torch.Tensor:
        return torch.softmax(net(part), dim=1)

    return torch.cat(list(windowed(image, window, CLASSES, answer, overlap=overlap, **more)), dim=1)


@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [
        ((30, 25, 21), (12, 10, 8), 0.5),
        ((30, 25, 21), (12, 10, 8), 0.25),
        ((30, 25, 21), (12, 10, 8), 0.0),
        ((24, 20, 16), (12, 10, 8), 0.5),  # windows fit without a rest
        ((12, 10, 8), (12, 10, 8), 0.5),  # a single window
        ((9, 25, 5), (12, 10, 8), 0.5),  # smaller than the window along two axes
        ((5, 4, 3), (12, 10, 8), 0.5),  # smaller along all
        ((13, 11, 9), (12, 10, 8), 0.75),
        ((1, 25, 21), (12, 10, 8), 0.5),
    ],
)
@pytest.mark.parametrize("at_a_time", [1, 3])
def test_the_answer_is_that_of_monai(shape, window, overlap, at_a_time):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    net = network()
    with torch.inference_mode():
        expected = by_monai(image, window, overlap, net)
        found = ours(image, window, overlap, net, at_a_time=at_a_time)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-5


def test_several_channels():
    image = torch.randn(2, 20, 15, 12, generator=torch.Generator().manual_seed(2))
    net = network(2)
    with torch.inference_mode():
        expected = by_monai(image, (8, 8, 8), 0.5, net)
        assert float((ours(image, (8, 8, 8), 0.5, net, at_a_time=2) - expected).abs().max()) < 1e-5


def test_windows_of_one_grey_value_are_asked_for_once():
    """A bright cube in one corner of constant air: most windows hold air alone, and all of these have one answer."""
    image = torch.full((1, 40, 40, 40), -1.0)
    image[:, :9, :9, :9] = torch.randn(9, 9, 9, generator=torch.Generator().manual_seed(4))
    net, seen = network(), []

    def counting(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return net(part)

    with torch.inference_mode():
        expected = by_monai(image, (8, 8, 8), 0.5, net)
        found = ours(image, (8, 8, 8), 0.5, counting, at_a_time=4)
    assert float((found - expected).abs().max()) < 1e-5
    # Nine starts a side; the first three of each side touch the cube: 27 windows, and one of air.
    assert plan_windows((40, 40, 40), (8, 8, 8), 0.5).count == 729
    assert sum(seen) == 27 + 1


def test_sums_that_are_too_large_for_memory_lie_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(windows, "MOST_BYTES_IN_MEMORY", 1000)
    monkeypatch.setattr(windows, "scratch_folder", lambda: _made(tmp_path / "scratch"))
    image = torch.randn(1, 30, 25, 21, generator=torch.Generator().manual_seed(1))
    net = network()
    with torch.inference_mode():
        expected = by_monai(image, (12, 10, 8), 0.5, net)
        found = ours(image, (12, 10, 8), 0.5, net)
    assert float((found - expected).abs().max()) < 1e-5
    assert not (tmp_path / "scratch").exists()  # removed at the end


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_memory_is_that_of_one_layer_of_windows(monkeypatch: pytest.MonkeyPatch):
    """Sums have the window's depth, whatever the depth of the scan."""
    made, zeros = [], torch.zeros

    def noted(*shape, **more):
        made.append(shape)
        return zeros(*shape, **more)

    monkeypatch.setattr(windows.torch, "zeros", noted)
    image = torch.randn(1, 100, 12, 10)
    parts = [p.shape[1] for p in windowed(image, (8, 8, 8), 2, lambda part: part.repeat(1, 2, 1, 1, 1))]
    assert sum(parts) == 100
    assert max(parts) <= 8
    assert sorted(shape[0] for shape in made) == [(2, 8, 12, 10), (8, 12, 10)]


def test_weights_by_hand():
    """A window of 4: places -1.5 .. 1.5, standard deviation 0.5: exp(-(1.5 / 0.5)² / 2) = exp(-4.5) and exp(-0.5)."""
    side = torch.exp(torch.tensor([-4.5, -0.5, -0.5, -4.5]))
    assert torch.allclose(importance((4,)), side)
    cube = importance((4, 4, 4))
    assert torch.allclose(cube[1, 1, 1], side[1] ** 3)
    assert float(cube.min()) == pytest.approx(1e-3)  # exp(-13.5) would be 1.4e-6


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 5])
def test_windows_of_several_single_grey_values(at_a_time: int) -> None:
    """Air, a block of another single value, air again, and something to see: the answer is that of asking each time."""
    image = torch.zeros(1, 8, 8, 96)
    image[..., 24:56] = 2.0
    image[..., 80:] = torch.randn(1, 8, 8, 16, generator=torch.Generator().manual_seed(0))
    image[..., 80:] -= image.min()
    net, asked = network(), []

    def answer(part: torch.Tensor) -> torch.Tensor:
        asked.append(len(part))
        return torch.softmax(net(part), dim=1)

    with torch.inference_mode():
        slabs = windowed(image, (8, 8, 8), CLASSES, answer, overlap=0.5, at_a_time=at_a_time)
        found, wanted = torch.cat(list(slabs), dim=1), by_monai(image, (8, 8, 8), 0.5, net)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    # 23 windows; with one of a value kept at a time, fewer than half of them are asked for.
    assert sum(asked) < 12
