"""Every network by name: the right shape out, weights that learn, and wrong names and sizes explained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.infer.half_weights import with_half_weights
from autoseg_lib.networks.registry import (
    NETWORKS_2D,
    NETWORKS_3D,
    NetworkSpec,
    build_network,
    default_dropout,
    default_encoder,
    default_loss,
    default_network,
    encoder_names,
    fitting_shape,
    output_weights,
    size_multiple,
    smallest_batch,
    supervision_options,
    takes_any_size,
)
from tests.helpers.network_tester import check_network

# Lighter than the defaults, so that each takes a second.
TINY_3D = {
    "light_unet": {"widths": [8, 16]},
    "basic_unet": {"features": [8, 8, 8, 16, 16, 8]},
    "unet": {"channels": [4, 8, 8, 8]},
    "residual_unet": {"filters": [4, 8, 8, 8]},
    "attention_unet": {"channels": [4, 8, 8, 8]},
    "basic_unet_plus_plus": {"features": [8, 8, 8, 16, 16, 8]},
    "dynunet": {"filters": [4, 8, 8, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1]},
    "segresnet_ds": {"init_filters": 4, "blocks_down": [1, 1, 1, 1]},
    "vnet": {},
    "highresnet": {},
    "mednext": {"init_filters": 4, "blocks_down": [1, 1], "blocks_bottleneck": 1, "blocks_up": [1, 1]},
    "unetr": {"hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "feature_size": 4},
    "swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
}
# MONAI makes weights for a kind of attention that UNETR does not use; timm the head of a classifier.
UNUSED = {
    "unetr": tuple(f"vit.blocks.{n}.{part}" for n in range(12) for part in ("norm_cross", "cross_attn")),
    "dpt": ("encoder.model.norm.", "encoder.model.head."),
    "pspnet": ("encoder.layer3.", "encoder.layer4."),
}
SUPERVISED = [name for name, entry in NETWORKS_3D.items() if entry.output_weights]


# The quickest encoder; DPT: a vision transformer made narrow.
TINY_2D = {
    "manet": {"decoder_channels": [32, 16, 8, 8, 8]},
    "dpt": {
        "embed_dim": 24,
        "num_heads": 2,
        "decoder_intermediate_channels": [8, 8, 8, 8],
        "decoder_fusion_channels": 8,
    },
    "pyramid_vnet": {"width": 4},
    "light_unet": {"widths": [8, 16]},
}


def spec_2d(name: str = "unet", **changes) -> NetworkSpec:
    shape = (128, 128) if name == "pan" else (64, 96)
    return NetworkSpec("2D", name, 4, changes.pop("input_shape", shape), **changes)


def tiny_2d(name: str, **changes) -> NetworkSpec:
    shape = (128, 128) if name == "pan" else (64, 64)
    light = default_encoder("2D", name) == "resnet18" and name not in ("manet", "pspnet")
    encoder = "mobilenet_v2" if light else ""
    return NetworkSpec("2D", name, 3, shape, encoder, options=TINY_2D.get(name, {}), **changes)


def spec_3d(name: str, **changes) -> NetworkSpec:
    options = {**TINY_3D[name], **changes.pop("options", {})}
    multiple = NETWORKS_3D[name].multiple(options)
    shape = (32, 16, 16) if multiple <= 16 else (2 * multiple, multiple, multiple)
    return NetworkSpec("3D", name, 3, shape, options=options, **changes)


@pytest.mark.parametrize("name", NETWORKS_2D)
def test_2d_networks(name: str, tmp_path: Path) -> None:
    check_network(tiny_2d(name, dropout=0.3, in_channels=3), tmp_path, UNUSED.get(name, ()))


@pytest.mark.parametrize("name", NETWORKS_3D)
def test_3d_networks(name: str, tmp_path: Path) -> None:
    check_network(spec_3d(name, dropout=0.3), tmp_path, UNUSED.get(name, ()))


@pytest.mark.parametrize("name", SUPERVISED)
def test_3d_networks_with_deep_supervision(name: str, tmp_path: Path) -> None:
    spec = spec_3d(name, dropout=0.3, options=supervision_options("3D", name, True))
    assert len(output_weights(spec)) > 1
    check_network(spec, tmp_path)


def test_every_architecture_of_smp_is_there() -> None:
    ours = {type(build_network(tiny_2d(name))) for name in NETWORKS_2D}
    assert set(smp.MODEL_ARCHITECTURES_MAPPING.values()) <= ours
    assert set(smp.MODEL_ARCHITECTURES_MAPPING) <= set(NETWORKS_2D)
    assert len(NETWORKS_3D) >= 12


@pytest.mark.parametrize(
    "encoder",
    ["resnet34", "efficientnet-b0", "mobilenet_v2", "densenet121", "mit_b0", "tu-convnext_atto"],
)
def test_encoders(encoder: str) -> None:
    """One of each family; the last is one of timm's."""
    network = build_network(spec_2d(encoder=encoder, in_channels=3)).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 64, 96)).shape == (1, 4, 64, 96)


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


def test_wrong_names_list_the_accepted_ones() -> None:
    with pytest.raises(
        SettingsError, match=r'network = "unet\+\+" is not known for 2D.*Accepted: unet, unetplusplus'
    ):
        spec_2d("unet++")
    with pytest.raises(SettingsError, match=r'"dynunet" is a 3D network.*Set dimension = "3D"'):
        spec_2d("dynunet")
    with pytest.raises(
        SettingsError, match=r'network = "seg_resnet" is not known for 3D. Did you mean "segresnet"\?'
    ):
        NetworkSpec("3D", "seg_resnet", 2, (16, 16, 16))
    with pytest.raises(
        SettingsError, match=r'encoder = "resnet19" is not known. Did you mean "resnet18"\? Accepted: '
    ):
        spec_2d(encoder="resnet19")
    with pytest.raises(SettingsError, match='encoder = "tu-no_such_net" is not known'):
        spec_2d(encoder="tu-no_such_net")
    with pytest.raises(
        SettingsError, match=r'"resnet18": network = "pyramid_vnet" has none. Leave encoder = "auto"'
    ):
        spec_2d("pyramid_vnet", encoder="resnet18")
    with pytest.raises(SettingsError, match=r'network = "dpt" needs a vision transformer. Use "tu-vit_tiny'):
        spec_2d("dpt", encoder="resnet18")
    assert "resnet18" in encoder_names()


@pytest.mark.parametrize(
    ("name", "encoder"),
    [*((name, "") for name in NETWORKS_2D), ("unet", "tu-resnetv2_50x1_bit"), ("unet", "mit_b0")],
)
def test_weights_rounded_once_answer_as_those_rounded_each_time(name: str, encoder: str) -> None:
    """Encoders may do arithmetic with their weights (standardised ones), which must stay exact."""
    torch.manual_seed(0)
    spec = tiny_2d(name)
    network = build_network(replace(spec, encoder=encoder) if encoder else spec).eval()
    images = torch.rand(1, 1, *spec.input_shape)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        each = network(images).float().softmax(1)
        once = with_half_weights(network)(images).float().softmax(1)
    with torch.inference_mode():
        exact = network(images).float().softmax(1)
    assert float((once - exact).abs().max()) <= 2 * float((each - exact).abs().max()) + 0.02


@pytest.mark.parametrize(
    ("dimension", "name", "shape", "message"),
    [
        ("2D", "unet", (250, 250), r"input_shape: found 250 × 250; .* multiples of 32. Use 256 × 256."),
        ("2D", "pspnet", (100, 64), r"multiples of 8. Use 96 × 64."),
        ("2D", "unet", (32, 32), r"Use 64 × 64."),
        ("2D", "pan", (64, 256), r"multiples of 32 from 128 on. Use 128 × 256."),
        ("2D", "pyramid_vnet", (250, 100), r"multiples of 16. Use 256 × 96."),
        ("2D", "dpt", (250, 250), r"multiples of 16. Use 256 × 256."),
        ("3D", "unet", (40, 50, 40), r"patch_size: found 40 × 50 × 40; .* multiples of 8. Use 40 × 48 × 40."),
        ("3D", "swin_unetr", (40, 64, 64), r"multiples of 32. Use 64 × 64 × 64."),
    ],
)  # fmt: skip
def test_a_wrong_size_names_the_one_that_works(dimension: str, name: str, shape: tuple, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        NetworkSpec(dimension, name, 3, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dimension", "name"), [("2D", name) for name in NETWORKS_2D] + [("3D", name) for name in NETWORKS_3D]
)
def test_the_size_that_is_named_works(dimension: str, name: str) -> None:
    odd = (71, 99) if dimension == "2D" else (23, 41, 37)
    shape = fitting_shape(dimension, name, odd)
    spec = NetworkSpec(dimension, name, 3, shape)  # type: ignore[arg-type]
    assert all(n % size_multiple(spec) == 0 for n in shape)
    if size_multiple(spec) > 1:
        with pytest.raises(SettingsError, match=f"Use {' × '.join(str(n) for n in shape)}"):
            replace(spec, input_shape=odd)


def test_sizes_follow_depth() -> None:
    assert size_multiple(spec_2d()) == 32
    assert size_multiple(replace(spec_2d(), options={"encoder_depth": 4})) == 16
    for name, options, multiple in [
        ("unet", {"strides": [2, 2, 2, 2], "channels": [4] * 5}, 16),
        ("dynunet", {"strides": [1, 2, 2]}, 4),
        ("dynunet", {"strides": [1, [1, 2, 2], 2]}, 4),
        ("segresnet", {"blocks_down": [1, 2]}, 2),
        ("light_unet", {"widths": [8, 8, 8, 8]}, 16),
        ("mednext", {"blocks_down": [1, 1]}, 4),
    ]:
        assert size_multiple(NetworkSpec("3D", name, 2, (64, 64, 64), options=options)) == multiple


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus", "upernet", "pan"])
def test_networks_that_need_two_images_say_so(name: str) -> None:
    spec = tiny_2d(name)
    network = build_network(spec).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 1, *spec.input_shape))
    assert smallest_batch(spec_2d(name)) == 2


@pytest.mark.parametrize("name", [name for name in NETWORKS_2D if smallest_batch(spec_2d(name)) == 1])
def test_the_others_learn_from_one(name: str) -> None:
    with torch.no_grad():
        build_network(tiny_2d(name)).train()(torch.randn(1, 1, 64, 64))


@pytest.mark.parametrize("name", NETWORKS_3D)
def test_other_sizes_than_the_patch(name: str) -> None:
    spec = spec_3d(name)
    network = build_network(spec).eval()
    with torch.inference_mode():
        if takes_any_size(spec):
            other = spec.input_shape[::-1]
            assert network(torch.randn(1, 1, *other)).shape == (1, 3, *other)
        else:
            with pytest.raises(RuntimeError):
                network(torch.randn(1, 1, *(2 * n for n in spec.input_shape)))


def test_weights_of_several_outputs() -> None:
    """Each half as fine as the one before counts half as much; stages of full resolution count fully."""
    assert output_weights(spec_2d()) == (1.0,)
    assert output_weights(spec_2d("pyramid_vnet")) == (1.0, 1.0)
    deep = {"deep_supervision": True}
    assert output_weights(NetworkSpec("3D", "dynunet", 2, (16, 16, 16))) == (1.0,)
    assert output_weights(NetworkSpec("3D", "dynunet", 2, (16, 16, 16), options=deep)) == (
        4 / 7,
        2 / 7,
        1 / 7,
    )
    assert output_weights(NetworkSpec("3D", "light_unet", 2, (16, 16, 16), options=deep)) == (2 / 3, 1 / 3)
    plus = NetworkSpec("3D", "basic_unet_plus_plus", 2, (32, 32, 32), options=deep)
    assert output_weights(plus) == (0.25,) * 4
    shallow = {**deep, "strides": [1, 2, 2], "kernel_size": [3] * 3, "upsample_kernel_size": [2, 2]}
    assert math.isclose(sum(output_weights(NetworkSpec("3D", "dynunet", 2, (16,) * 3, options=shallow))), 1)
    for name in SUPERVISED:
        assert math.isclose(sum(output_weights(spec_3d(name, options=deep))), 1)


def test_deep_supervision_is_given_where_it_can() -> None:
    assert supervision_options("3D", "dynunet") == {"deep_supervision": True}
    assert supervision_options("3D", "dynunet", False) == {}
    assert supervision_options("3D", "mednext") == {}
    assert supervision_options("3D", "mednext", True) == {"deep_supervision": True}
    assert supervision_options("2D", "pyramid_vnet", True) == {}
    message = r'deep_supervision = True: network = "vnet" has one output only. Networks that can: light_unet, residual_unet'
    with pytest.raises(SettingsError, match=message):
        supervision_options("3D", "vnet", True)
    with pytest.raises(
        SettingsError, match=r'network = "unet" has one output only. Networks that can: light_unet'
    ):
        supervision_options("2D", "unet", True)


def test_defaults_of_a_network() -> None:
    assert default_network("2D") == "unet" and default_network("2D", has_gpu=True) == "unet"
    assert default_network("3D") == "light_unet" and default_network("3D", has_gpu=True) == "dynunet"
    assert default_dropout("2D", "pyramid_vnet") == 0.3 and default_loss("2D", "pyramid_vnet") == "dice"
    assert default_dropout("2D", "unet") == 0 and default_loss("2D", "unet") is None
    assert default_encoder("2D", "unet") == "resnet18" and default_encoder("2D", "pyramid_vnet") == ""
    assert (
        spec_2d("dpt").encoder.startswith("tu-vit_") and NetworkSpec("3D", "unet", 2, (16,) * 3).encoder == ""
    )


def test_a_spec_is_kept_in_json_and_read_back() -> None:
    spec = spec_2d(dropout=0.1, options={"decoder_channels": [64, 32, 16, 8, 4]})
    assert spec.encoder == "resnet18" and spec.title == "unet (resnet18)"
    assert NetworkSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ModelError, match="description cannot be used"):
        NetworkSpec.from_dict({"name": "unet"})
    with pytest.raises(ModelError, match="not known"):
        NetworkSpec.from_dict({**spec.to_dict(), "name": "other"})
    with pytest.raises(ModelError, match="at least one ROI"):
        NetworkSpec("2D", "unet", 1, (64, 64))


def test_files_of_the_first_version_keep_their_network() -> None:
    """ "unet" in 3D is MONAI's with two residual units a level; the number of its weights is known from a file."""
    network = build_network(NetworkSpec.from_dict({"dimension": "3D", "name": "unet", "out_channels": 3, "input_shape": [40, 56, 40], "encoder": "", "in_channels": 1, "dropout": 0.0, "options": {}}))  # fmt: skip
    assert sum(weight.numel() for weight in network.parameters()) == 1_187_766
    assert next(iter(network.state_dict())) == "model.0.conv.unit0.conv.weight"


def test_options_that_do_not_fit_are_explained() -> None:
    with pytest.raises(
        ModelError, match=r"network unet \(resnet18\): it cannot be built so.*another encoder"
    ):
        build_network(spec_2d(options={"no_such_option": 1, "decoder_channels": (1, 2)}))
    with pytest.raises(
        ModelError, match=r"network light_unet: it cannot be built so: widths .* Choose another network"
    ):
        build_network(NetworkSpec("3D", "light_unet", 2, (16,) * 3, options={"blocks": [1]}))
    with pytest.raises(ModelError, match=r"network pyramid_vnet: it cannot be built so: norm = 'layer'"):
        build_network(spec_2d("pyramid_vnet", options={"norm": "layer"}))
