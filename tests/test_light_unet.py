"""The light U-Net: folding loses nothing, and every part can be set."""

from __future__ import annotations

import pytest
import torch

from autoseg_lib.networks.light_unet import LightUNet, fold, size_multiple, unfold


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 8), (2, 3, 4, 6)])
def test_unfolding_undoes_folding(shape: tuple[int, ...]) -> None:
    image = torch.randn(shape)
    folded = fold(image)
    axes = len(shape) - 2
    assert folded.shape == (2, 3 * 2**axes, *(n // 2 for n in shape[2:]))
    assert torch.equal(unfold(folded), image)


def test_a_square_of_pixels_becomes_channels() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # The upper left square holds 0, 1, 4, 5; the lower right one 10, 11, 14, 15.
    assert fold(image)[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert fold(image)[0, :, 1, 1].tolist() == [10, 11, 14, 15]


@pytest.mark.parametrize("norm", ["group", "instance", "batch"])
@pytest.mark.parametrize("stem", [0, 4])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_it_can_be_set(norm: str, stem: int, dimensions: int) -> None:
    torch.manual_seed(0)
    network = LightUNet(2, 3, dimensions, (8, 8, 16), stem, [1, 2, 1], norm).train()  # type: ignore[arg-type]
    image = torch.randn(2, 2, *(16,) * dimensions)
    answer = network(image)
    assert answer.shape == (2, 3, *(16,) * dimensions)
    answer.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert (network.stem is None) == (stem == 0)


def test_deep_supervision_adds_the_answer_at_half_resolution() -> None:
    network = LightUNet(1, 3, widths=(8, 8), deep_supervision=True)
    image = torch.randn(1, 1, 8, 12, 16)
    with torch.no_grad():
        assert [tuple(item.shape) for item in network.train()(image)] == [(1, 3, 8, 12, 16), (1, 3, 4, 6, 8)]
        assert network.eval()(image).shape == (1, 3, 8, 12, 16)


@pytest.mark.parametrize(("width", "groups"), [(4, 1), (28, 2), (30, 3), (32, 4), (50, 5)])
def test_any_width_is_normalised_in_equal_groups(width: int, groups: int) -> None:
    network = LightUNet(1, 2, widths=(width, 2 * width))
    assert [layer.num_groups for layer in network.entry if isinstance(layer, torch.nn.GroupNorm)] == [groups]
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


def test_sides_are_multiples_of_what_its_levels_need() -> None:
    assert size_multiple({}) == 8 and size_multiple({"widths": [8, 8]}) == 4


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match=r"widths \[8, 8\] and blocks \[1\] need one number for each level"):
        LightUNet(1, 2, widths=(8, 8), blocks=[1])
    with pytest.raises(ValueError, match=r"norm = 'layer'; expected .group., .instance. or .batch."):
        LightUNet(1, 2, norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spatial_dims = 4; expected 2 or 3"):
        LightUNet(1, 2, 4)
