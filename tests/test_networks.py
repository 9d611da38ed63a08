"""Every network by name: the right shape out, weights that learn, and wrong names and sizes explained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.networks.registry import (
    NETWORKS_2D,
    NETWORKS_3D,
    NetworkSpec,
    build_network,
    encoder_names,
    number_of_weights,
    size_multiple,
    smallest_batch,
)

PATCH = {"swin_unetr": (64, 32, 32)}


def spec_2d(name: str = "unet", **changes) -> NetworkSpec:
    shape = (128, 128) if name == "pan" else (64, 96)
    return NetworkSpec("2D", name, 4, changes.pop("input_shape", shape), **changes)


def check_learns(spec: NetworkSpec) -> None:
    """Logits have the image's size, and one step of training reaches the first weights."""
    torch.manual_seed(0)
    network = build_network(spec).train()
    images = torch.randn(2, 1, *spec.input_shape)
    logits = network(images)
    assert logits.shape == (2, spec.out_channels, *spec.input_shape)
    logits.square().mean().backward()
    first = next(network.parameters())
    assert first.grad is not None and float(first.grad.abs().sum()) > 0
    assert number_of_weights(network) > 10_000


@pytest.mark.parametrize("name", NETWORKS_2D)
def test_2d_networks(name: str) -> None:
    check_learns(spec_2d(name))


@pytest.mark.parametrize("name", NETWORKS_3D)
def test_3d_networks(name: str) -> None:
    # One small patch: the transformer takes seconds on a CPU.
    check_learns(NetworkSpec("3D", name, 3, PATCH.get(name, (16, 24, 16)), dropout=0.1))


@pytest.mark.parametrize("spec", [spec_2d(), NetworkSpec("3D", "unet", 3, (16, 24, 16))], ids=["2D", "3D"])
def test_half_precision_works_on_a_cpu(spec: NetworkSpec) -> None:
    torch.manual_seed(0)
    network = build_network(spec).eval()
    images = torch.randn(2, 1, *spec.input_shape)
    with torch.inference_mode():
        full = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - full).abs().mean()) < 0.05 * float(full.abs().mean())


def test_channels_last_gives_the_same() -> None:
    torch.manual_seed(0)
    network = build_network(spec_2d()).eval()
    images = torch.randn(2, 1, 64, 96)
    with torch.inference_mode():
        plain = network(images)
        turned = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, turned, rtol=1e-3, atol=1e-4)


def test_dropout_drops_while_training_only() -> None:
    torch.manual_seed(0)
    network = build_network(spec_2d(dropout=0.5))
    images = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))


def test_wrong_names_list_the_accepted_ones() -> None:
    with pytest.raises(
        SettingsError, match=r'network = "unet\+\+" is not known for 2D.*Accepted: unet, unetplusplus'
    ):
        spec_2d("unet++")
    with pytest.raises(SettingsError, match=r'"dynunet" is not known for 2D'):
        spec_2d("dynunet")
    with pytest.raises(
        SettingsError, match=r'network = "seg_resnet" is not known for 3D. Did you mean "segresnet"\?'
    ):
        NetworkSpec("3D", "seg_resnet", 2, (16, 16, 16))
    with pytest.raises(
        SettingsError, match=r'encoder = "resnet19" is not known. Did you mean "resnet18"\? Accepted: '
    ):
        spec_2d(encoder="resnet19")
    assert "resnet18" in encoder_names()


@pytest.mark.parametrize(
    ("dimension", "name", "shape", "message"),
    [
        ("2D", "unet", (250, 250), r"input_shape: found 250 × 250; .* multiples of 32. Use 256 × 256."),
        ("2D", "pspnet", (100, 64), r"multiples of 8. Use 96 × 64."),
        ("2D", "unet", (32, 32), r"Use 64 × 64."),
        ("2D", "pan", (64, 256), r"multiples of 32 from 128 on. Use 128 × 256."),
        ("3D", "unet", (40, 50, 40), r"patch_size: found 40 × 50 × 40; .* multiples of 8. Use 40 × 48 × 40."),
        ("3D", "swin_unetr", (40, 64, 64), r"multiples of 32. Use 64 × 64 × 64."),
    ],
)  # fmt: skip
def test_a_wrong_size_names_the_one_that_works(dimension: str, name: str, shape: tuple, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        NetworkSpec(dimension, name, 3, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus", "upernet", "pan"])
def test_networks_that_need_two_images_say_so(name: str) -> None:
    spec = spec_2d(name)
    network = build_network(spec).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 1, *spec.input_shape))
    assert smallest_batch(spec_2d(name)) == 2


@pytest.mark.parametrize("name", [name for name in NETWORKS_2D if smallest_batch(spec_2d(name)) == 1])
def test_the_others_learn_from_one(name: str) -> None:
    build_network(spec_2d(name)).train()(torch.randn(1, 1, 64, 96))


def test_a_spec_is_kept_in_json_and_read_back() -> None:
    spec = spec_2d(dropout=0.1, options={"decoder_channels": [64, 32, 16, 8, 4]})
    assert spec.encoder == "resnet18" and spec.title == "unet (resnet18)"
    assert NetworkSpec.from_dict(spec.to_dict()) == spec
    assert size_multiple(spec) == 32
    assert size_multiple(replace(spec, options={"encoder_depth": 4})) == 16
    with pytest.raises(ModelError, match="description cannot be used"):
        NetworkSpec.from_dict({"name": "unet"})
    with pytest.raises(ModelError, match="not known"):
        NetworkSpec.from_dict({**spec.to_dict(), "name": "other"})
    with pytest.raises(ModelError, match="at least one ROI"):
        NetworkSpec("2D", "unet", 1, (64, 64))


def test_options_that_do_not_fit_are_explained() -> None:
    with pytest.raises(ModelError, match=r"network unet \(resnet18\): it cannot be built so"):
        build_network(spec_2d(options={"no_such_option": 1, "decoder_channels": (1, 2)}))
