"""The two-stage pyramid V-Net: its parts, its size, and what each stage sees."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from autoseg_lib.losses.registry import build_loss
from autoseg_lib.networks.pyramid_vnet import PyramidVNet, width_for
from autoseg_lib.networks.registry import NetworkSpec, build_network, number_of_weights, output_weights
from autoseg_lib.networks.shapes import weight_shapes


def convolution(inputs: int, outputs: int, size: int) -> int:
    return inputs * outputs * size * size + outputs


def weights_of_a_stage(inputs: int, classes: int, width: int) -> int:
    """Counted by hand from the description: four levels of 1, 2, 3, 3 convolutions of 5 × 5; 2 × 2 steps between them;
    each convolution but the first and the last followed by two numbers per channel (normalisation) and one (PReLU)."""
    w = [width, 2 * width, 4 * width, 8 * width]
    count = convolution(inputs, w[0], 1)
    for channels, number in zip(w, (1, 2, 3, 3), strict=True):
        count += number * (convolution(channels, channels, 5) + 3 * channels)
    for high, deep in itertools.pairwise(w):
        count += convolution(high, deep, 2) + 3 * deep
    below = w[3]
    for channels, number in zip(w[2::-1], (3, 2, 1), strict=True):
        count += convolution(below, channels, 2) + 3 * channels
        below = 2 * channels
        count += number * (convolution(below, below, 5) + 3 * below)
    return count + convolution(below, classes, 1)


@pytest.mark.parametrize(("side", "width"), [(128, 8), (256, 16), (512, 32)])
def test_width_and_weights_grow_with_the_image(side: int, width: int) -> None:
    assert width_for((side, side)) == width
    with torch.device("meta"):
        network = PyramidVNet(1, 7, width)
    expected = weights_of_a_stage(1, 7, width) + weights_of_a_stage(1 + 7, 7, width)
    assert number_of_weights(network) == expected


def test_about_six_million_weights_at_256() -> None:
    with torch.device("meta"):
        network = build_network(NetworkSpec("2D", "pyramid_vnet", 7, (256, 256), dropout=0.3))
    assert number_of_weights(network) == pytest.approx(6.3e6, rel=0.01)
    assert width_for((256, 128)) == 11  # as many weights as for a square of as many pixels
    assert width_for((16, 16)) == 4


def test_the_width_stays_when_the_image_becomes_smaller_later() -> None:
    """After memory ran out the same network goes on with smaller images."""
    spec = NetworkSpec("2D", "pyramid_vnet", 3, (256, 256))
    smaller = replace(spec, input_shape=(192, 192))
    assert spec.options == smaller.options == {"width": 16}
    assert weight_shapes(spec) == weight_shapes(smaller)
    assert NetworkSpec.from_dict(spec.to_dict()) == spec


def test_what_it_is_made_of() -> None:
    network = PyramidVNet(1, 3, 4)
    for stage in (network.coarse, network.fine):
        assert len(stage.encoder) == 4 and len(stage.downs) == len(stage.ups) == 3
        assert all(down[0].stride == (2, 2) for down in stage.downs)
        assert all(isinstance(up[0], nn.ConvTranspose2d) and up[0].stride == (2, 2) for up in stage.ups)
        dilations = [
            [layer.dilation[0] for layer in block.layers if isinstance(layer, nn.Conv2d)]
            for block in stage.encoder
        ]
        assert dilations == [[1], [1, 1], [1, 2, 4], [3, 4, 5]]
        assert {m.p for m in stage.modules() if isinstance(m, nn.Dropout)} == {0.3}
        assert not [m for m in stage.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU)]


def test_the_second_stage_sees_the_image_and_the_first_ones_answer() -> None:
    torch.manual_seed(0)
    network = PyramidVNet(2, 3, 4).eval()
    seen: dict[str, torch.Tensor] = {}
    network.coarse.register_forward_pre_hook(lambda module, given: seen.update(coarse=given[0]))
    network.fine.register_forward_pre_hook(lambda module, given: seen.update(fine=given[0]))
    image = torch.randn(2, 2, 64, 32)
    with torch.inference_mode():
        answer = network(image)
    assert answer.shape == (2, 3, 64, 32)
    # Half resolution: the mean of each square of 2 × 2 pixels.
    expected = (
        image[..., ::2, ::2] + image[..., 1::2, ::2] + image[..., ::2, 1::2] + image[..., 1::2, 1::2]
    ) / 4
    torch.testing.assert_close(seen["coarse"], expected)
    probabilities, rest = seen["fine"][:, :3], seen["fine"][:, 3:]
    assert torch.equal(rest, image)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 64, 32))
    assert float(probabilities.min()) >= 0


def test_the_loss_runs_from_0_to_2() -> None:
    """2 − Dice of stage 1 − Dice of stage 2 over the ROIs; both right: 0; both wrong: 2; one right: 1."""
    spec = NetworkSpec("2D", "pyramid_vnet", 2, (32, 32))
    loss = build_loss("dice", output_weights=output_weights(spec))
    label = torch.zeros(1, 1, 32, 32, dtype=torch.long)
    label[..., 8:24, 8:24] = 1
    right = 100.0 * torch.cat([1 - 2 * label, 2 * label - 1], 1)
    assert loss.worst == 2
    for outputs, expected in (([right, right], 0), ([-right, -right], 2), ([right, -right], 1)):
        assert float(loss.parts(outputs, label)[0]) == pytest.approx(expected, abs=0.01)
    with torch.no_grad():
        assert len(build_network(spec).train()(torch.randn(1, 1, 32, 32))) == 2


def test_both_stages_learn() -> None:
    torch.manual_seed(0)
    network = PyramidVNet(1, 2, 4, dropout=0.0).train()
    image = torch.randn(2, 1, 32, 32)
    fine, coarse = network(image)
    assert fine.shape == coarse.shape == (2, 2, 32, 32)
    # The second stage's answer alone teaches the first one too.
    fine.square().mean().backward()
    assert float(network.coarse.entry.weight.grad.abs().sum()) > 0
