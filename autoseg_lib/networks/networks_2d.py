"""2D networks: all architectures of segmentation-models-pytorch, and the two-stage pyramid V-Net."""

from __future__ import annotations

import functools
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import nn

from autoseg_lib.networks.entry import Described, Entry, Options, halving_weights
from autoseg_lib.networks.light_unet import LightUNet
from autoseg_lib.networks.light_unet import size_multiple as light_unet_multiple
from autoseg_lib.networks.pyramid_vnet import SIZE_MULTIPLE, PyramidVNet, width_for

DEFAULT_ENCODER = "resnet18"
# The lightest vision transformer with a class token and pretrained weights; DPT takes no other kind of encoder.
_DPT_ENCODER = "tu-vit_tiny_patch16_224"
# Encoders of timm: this and their name there.
TIMM_PREFIX = "tu-"


def _smp(kind: type[nn.Module], spec: Described, pretrained: bool, **defaults: Any) -> nn.Module:
    network = kind(
        encoder_name=spec.encoder,
        encoder_weights=pretrained_name(spec.encoder) if pretrained else None,
        in_channels=spec.in_channels,
        classes=spec.out_channels,
        **{**defaults, **spec.options},
    )
    if spec.dropout > 0:
        head = network.get_submodule("segmentation_head")
        network.set_submodule("segmentation_head", nn.Sequential(nn.Dropout2d(spec.dropout), head))
    return network


def pretrained_name(encoder: str) -> str:
    """Returns the pretrained weights of an encoder: those trained on ImageNet alone where there are some."""
    if encoder.startswith(TIMM_PREFIX):
        return "imagenet"
    known = smp.encoders.encoders[encoder]["pretrained_settings"]
    return "imagenet" if "imagenet" in known else next(iter(known))


def _dpt(spec: Described, pretrained: bool) -> nn.Module:
    # A vision transformer knows each place of the image by a learned code; this lets the codes be resized to other images.
    return _smp(smp.DPT, spec, pretrained, dynamic_img_size=True)


def _light_unet(spec: Described, pretrained: bool) -> nn.Module:
    options = {"dropout": spec.dropout, **spec.options}
    return LightUNet(spec.in_channels, spec.out_channels, spatial_dims=2, **options)


def _pyramid_vnet(spec: Described, pretrained: bool) -> nn.Module:
    options = {"dropout": spec.dropout, **spec.options}
    return PyramidVNet(spec.in_channels, spec.out_channels, **options)


def _by_depth(depth: int) -> functools.partial[int]:
    return functools.partial(_two_to_the_depth, depth)


def _two_to_the_depth(depth: int, options: Options) -> int:
    return int(2 ** options.get("encoder_depth", depth))


def _entry(kind: type[nn.Module], title: str, about: str, depth: int = 5, **more: int) -> Entry:
    build = functools.partial(_smp, kind)
    return Entry(title, about, build, _by_depth(depth), encoder=DEFAULT_ENCODER, **more)  # type: ignore[arg-type]


# These pool the whole image to one value and normalise it over the batch, which needs two images while training:
# deeplabv3, deeplabv3plus, upernet, pan. PAN halves the image three more times after its encoder.
NETWORKS_2D: dict[str, Entry] = {
    "unet": _entry(smp.Unet, "U-Net", "the field's standard; the default"),
    "unetplusplus": _entry(smp.UnetPlusPlus, "U-Net++", "U-Net with nested skip connections"),
    "manet": _entry(smp.MAnet, "MA-Net", "U-Net with attention in the decoder"),
    "linknet": _entry(smp.Linknet, "LinkNet", "a lighter U-Net that adds where the U-Net concatenates"),
    "fpn": _entry(smp.FPN, "FPN", "feature pyramid; coarse borders (a quarter of the resolution)"),
    "pspnet": _entry(
        smp.PSPNet, "PSPNet", "pools the image at several scales; quick, coarse borders", depth=3
    ),
    "deeplabv3": _entry(
        smp.DeepLabV3, "DeepLabV3", "dilated convolutions instead of a decoder", smallest_batch=2
    ),
    "deeplabv3plus": _entry(
        smp.DeepLabV3Plus, "DeepLabV3+", "DeepLabV3 with a small decoder", smallest_batch=2
    ),
    "pan": _entry(smp.PAN, "PAN", "attention over a feature pyramid", smallest_batch=2, smallest_side=128),
    "upernet": _entry(
        smp.UPerNet, "UPerNet", "feature pyramid with pooling at several scales", smallest_batch=2
    ),
    "segformer": _entry(
        smp.Segformer, "SegFormer", "the light decoder of SegFormer; with mit_b0 its transformer"
    ),
    "dpt": Entry(
        "DPT",
        "vision transformer (encoders tu-vit_...); needs pretrained weights and many images to be good",
        _dpt,
        lambda options: 16,
        encoder=_DPT_ENCODER,
    ),
    "light_unet": Entry(
        "light U-Net",
        "our own: works at half resolution between thin layers at full resolution; no encoder to choose",
        _light_unet,
        light_unet_multiple,
        output_weights=lambda options: halving_weights(2),
    ),
    "pyramid_vnet": Entry(
        "Pyramid V-Net",
        "two stages of V-Net, half and full resolution: the lab notebooks' network; no encoder",
        _pyramid_vnet,
        lambda options: SIZE_MULTIPLE,
        dropout=0.3,
        loss="dice",
        output_weights=lambda options: (1.0, 1.0),
        always_several=True,
        options_for=lambda shape: {"width": width_for(shape)},
    ),
}


def encoder_names() -> tuple[str, ...]:
    """Returns the encoders that 2D networks can have; those of timm ("tu-NAME") come on top."""
    return tuple(smp.encoders.get_encoder_names())


def is_encoder(network: str, encoder: str) -> bool:
    """Whether a 2D network can have this encoder, by its name."""
    if encoder.startswith(TIMM_PREFIX):
        name = encoder.removeprefix(TIMM_PREFIX).split(".")[0]
        return timm.is_model(name) and ("vit_" in name or network != "dpt")
    return network != "dpt" and encoder in encoder_names()
