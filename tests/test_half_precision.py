"""Answers that are not numbers: asked for again in 32 bits, refused where that does not help, never taken for background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.answering import Answering, Mirror
from autoseg_lib.infer.half_weights import with_half_weights
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Volume

CPU = torch.device("cpu")
NOTE = (
    "in half-precision arithmetic the network's answer was not a number in places: there it was asked again in 32 bits, which "
    "takes longer."
)
REFUSAL = r"the network's answer is not a number, in 32-bit arithmetic too: .* Use another model file, or train again with a smaller"


class Fragile(nn.Module):
    """Label 1 where the image is above 0; one voxel of each image is NaN under autocast, or always."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always, self.calls = always, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits = torch.cat([torch.zeros_like(image), 50 * image], dim=1)
        if self.always or torch.is_autocast_enabled("cpu"):
            logits[:, 1].flatten(1)[:, -1] = float("nan")
        return logits


def scan() -> tuple[Volume, np.ndarray]:
    """Twelve slices (two batches) with a bright block at the end of each, where the NaN falls."""
    shape = (12, 16, 16)
    pixels = np.zeros(shape, np.float32)
    pixels[:, 8:, 8:] = 100
    geometry = Geometry.from_spacing(shape, (2, 2, 2), spacing_known=True, positions_known=True)
    return Volume(pixels, geometry, "MR", "made"), pixels > 50


def predictor(dimension: str, network: nn.Module, **changes: object) -> Predictor:
    plan = IntensityPlan("zscore")
    flat = dimension == "2D"
    preprocessing = Preprocessing("2D", plan, input_shape=(16, 16)) if flat else Preprocessing("3D", plan)
    window = None if flat else (8, 8, 8)
    return Predictor(network, preprocessing, 2, CPU, window, half_precision=True, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", ["2D", "3D"])
def test_asked_again_in_32_bits_where_16_are_too_few(dimension: str):
    volume, truth = scan()
    found = predictor(dimension, Fragile()).predict_soft(volume)
    assert np.array_equal(found.mask.array == 1, truth)
    # Once for the scan, not for each batch.
    assert found.notes == (NOTE,)


@pytest.mark.parametrize("dimension", ["2D", "3D"])
@pytest.mark.parametrize("half", [True, False])
def test_refused_where_32_bits_do_not_help(dimension: str, half: bool):
    asked = replace(predictor(dimension, Fragile(always=True)), half_precision=half)
    with pytest.raises(ModelError, match=REFUSAL):
        asked.predict(scan()[0])


def test_mirror_images_are_asked_again_too():
    image = torch.rand(2, 1, 4, 4, 4)
    mirrors = (Mirror.across(2, 2, []),)
    asked = Answering(Fragile(), CPU, True, mirrors)
    plain = Answering(Fragile(), CPU, False, mirrors)
    assert torch.equal(asked(image), plain(image))
    assert asked.notes == [NOTE]
    assert plain.notes == []


def test_half_precision_that_does_is_asked_once():
    network = nn.Conv3d(1, 2, 1)
    asked = Answering(network, CPU, True)
    assert bool(torch.isfinite(asked(torch.rand(1, 1, 4, 4, 4))).all())
    assert asked.notes == []


@pytest.mark.parametrize(
    ("device", "half", "expected"),
    [
        ("cuda", "bf16", torch.bfloat16),
        ("cuda", "16", torch.float16),
        ("cpu", "bf16", torch.bfloat16),
        ("cpu", "16", torch.bfloat16),
    ],
)
def test_which_16_bits(device: str, half: str, expected: torch.dtype):
    assert Answering(nn.Identity(), torch.device(device), True, half=half).half_type is expected


def test_weights_that_are_rounded_once_answer_like_those_rounded_for_each_batch():
    torch.manual_seed(0)
    spec = NetworkSpec("2D", "unet", out_channels=3, input_shape=(64, 64), encoder="resnet18")
    network = build_network(spec).eval()
    image, half = torch.randn(2, 1, 64, 64), with_half_weights(network)
    exact = Answering(network, CPU, False)(image)
    once = Answering(network, CPU, True, half_network=half)(image)
    # bfloat16 keeps 8 binary digits: what is rounded some 20 times in a row differs by a few hundredths.
    each = Answering(network, CPU, True)(image)
    assert float((each - exact).abs().max()) < 0.1
    assert float((once - exact).abs().max()) < 0.1
    assert not torch.equal(once, exact), "16 bits were used"
    # The network itself is as it was, for 32 bits and for training on.
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(Answering(network, CPU, False, half_network=half)(image), exact)


def test_asked_again_in_32_bits_with_rounded_weights_too():
    volume, truth = scan()
    found = predictor("2D", Fragile(), half_network=with_half_weights(Fragile())).predict_soft(volume)
    assert np.array_equal(found.mask.array == 1, truth)
    assert found.notes == (NOTE,)
