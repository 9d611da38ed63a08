"""3D networks: those of MONAI under its own names, and a light one for computers without a GPU.

With the option ``deep_supervision`` a network that can gives a list while training: logits at full resolution, then
coarser ones (BasicUNetPlusPlus: all at full resolution, the best first). Otherwise, and always while predicting, it gives one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.networks import nets
from torch import nn

from autoseg_lib.networks.entry import Described, Entry, Options, halving_weights, without_own_keys
from autoseg_lib.networks.light_unet import LightUNet
from autoseg_lib.networks.light_unet import size_multiple as light_unet_multiple

# Outputs that are compared with the labels: full, half and a quarter of the resolution.
_OUTPUTS = 3
_DEEP = "deep_supervision"


def _is_deep(options: Options) -> bool:
    return bool(options.get(_DEEP, False))


def _put_dropout_before(network: nn.Module, head: str, share: float) -> nn.Module:
    """Drops channels before the last layer, for networks that have no dropout of their own."""
    if share > 0:
        network.set_submodule(head, nn.Sequential(nn.Dropout3d(share), network.get_submodule(head)))
    return network


# --- U-Nets ------------------------------------------------------------------------------------------------------------


def _strided(options: Options) -> int:
    return 2 ** len(options.get("strides", (2, 2, 2)))


def _unet(spec: Described, pretrained: bool) -> nn.Module:
    defaults = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2), "num_res_units": 2, "norm": "instance"}
    options = {**defaults, **spec.options}
    return nets.UNet(3, spec.in_channels, spec.out_channels, dropout=spec.dropout, **options)


def _basic_unet(spec: Described, pretrained: bool) -> nn.Module:
    options = {"features": (16, 16, 32, 64, 128, 16), "dropout": spec.dropout, **spec.options}
    return nets.BasicUNet(3, spec.in_channels, spec.out_channels, **options)


def _attention_unet(spec: Described, pretrained: bool) -> nn.Module:
    options = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2), "dropout": spec.dropout, **spec.options}
    return nets.AttentionUnet(3, spec.in_channels, spec.out_channels, **options)


class _UNetPlusPlus(nets.BasicUNetPlusPlus):
    """MONAI's class gives a list always, the best answer last, and has weights that nothing uses."""

    _EARLIER = ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not self.deep_supervision:
            for name in self._EARLIER:
                setattr(self, name, nn.Identity())

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        outputs = super().forward(image)
        return outputs[::-1] if self.training and self.deep_supervision else outputs[-1]


def _basic_unet_plus_plus(spec: Described, pretrained: bool) -> nn.Module:
    options = {"features": (16, 16, 32, 64, 128, 16), "dropout": spec.dropout, **spec.options}
    return _UNetPlusPlus(in_channels=spec.in_channels, out_channels=spec.out_channels, **options)


def _equal_weights(options: Options) -> tuple[float, ...]:
    # The four answers of U-Net++ are averaged (Zhou et al. 2018).
    return (0.25,) * 4


class _DynUNet(nets.DynUNet):
    """MONAI's class enlarges the coarse answers to full resolution and stacks them; here they stay a list as they are."""

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        logits = self.output_block(self.skip_layers(image))
        if not self.deep_supervision:
            return logits
        coarse = list(self.heads)
        for number in range(len(coarse)):  # what is kept there would hold on to the whole step's memory
            self.heads[number] = torch.zeros(1)
        return [logits, *coarse] if self.training else logits


def _dynunet(spec: Described, pretrained: bool) -> nn.Module:
    return _make_dynunet(spec, {"filters": (16, 32, 64, 128)})


def _residual_unet(spec: Described, pretrained: bool) -> nn.Module:
    return _make_dynunet(spec, {"filters": (16, 32, 64, 128), "res_block": True})


def _make_dynunet(spec: Described, defaults: dict[str, Any]) -> nn.Module:
    defaults = {
        "kernel_size": (3, 3, 3, 3),
        "strides": (1, 2, 2, 2),
        "upsample_kernel_size": (2, 2, 2),
        "dropout": spec.dropout or None,
        **defaults,
    }
    if _is_deep(spec.options):
        defaults["deep_supr_num"] = _dynunet_outputs(spec.options) - 1
    return _DynUNet(3, spec.in_channels, spec.out_channels, **{**defaults, **spec.options})


def _dynunet_outputs(options: Options) -> int:
    levels = len(options.get("strides", (1, 2, 2, 2)))
    return int(options.get("deep_supr_num", min(_OUTPUTS, levels - 1) - 1)) + 1


def _dynunet_multiple(options: Options) -> int:
    multiple = 1
    for stride in options.get("strides", (1, 2, 2, 2)):
        multiple *= max(stride) if isinstance(stride, Sequence) else stride
    return multiple


# --- others of convolutions ---------------------------------------------------------------------------------------------


def _blocks_down(options: Options) -> int:
    return len(options.get("blocks_down", (1, 2, 2, 4)))


def _segresnet(spec: Described, pretrained: bool) -> nn.Module:
    defaults = {"init_filters": 16, "blocks_down": (1, 2, 2, 4), "dropout_prob": spec.dropout or None}
    defaults["blocks_up"] = (1,) * (_blocks_down(spec.options) - 1)
    options = {**defaults, **spec.options}
    # MONAI's eight groups, fewer where they do not divide the features of the first level.
    options.setdefault("norm", ("group", {"num_groups": math.gcd(8, options["init_filters"])}))
    return nets.SegResNet(3, in_channels=spec.in_channels, out_channels=spec.out_channels, **options)


def _segresnet_ds(spec: Described, pretrained: bool) -> nn.Module:
    options = without_own_keys(spec.options, _DEEP)
    options = {"init_filters": 16, "norm": "instance", "dsdepth": _segresnet_outputs(spec.options), **options}
    network = nets.SegResNetDS(3, in_channels=spec.in_channels, out_channels=spec.out_channels, **options)
    last = len(network.up_layers) - 1
    return _put_dropout_before(network, f"up_layers.{last}.head", spec.dropout)


def _segresnet_outputs(options: Options) -> int:
    return min(_OUTPUTS, _blocks_down(options) - 1) if _is_deep(options) else 1


def _vnet(spec: Described, pretrained: bool) -> nn.Module:
    # V-Net repeats the image until it has 16 channels; other numbers of channels are mixed into 16 first.
    first = 16
    fits = first % spec.in_channels == 0
    network: nn.Module = nets.VNet(3, spec.in_channels if fits else first, spec.out_channels, **spec.options)
    for module in network.modules():  # not all of them can be set by an argument
        if isinstance(module, nn.Dropout3d):
            module.p = spec.dropout
    return network if fits else nn.Sequential(nn.Conv3d(spec.in_channels, first, 1), network)


def _highresnet(spec: Described, pretrained: bool) -> nn.Module:
    options = {"norm_type": ("instance", {"affine": True}), "dropout_prob": spec.dropout, **spec.options}
    return nets.HighResNet(3, spec.in_channels, spec.out_channels, **options)


class _MedNeXt(nets.MedNeXt):
    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        outputs = super().forward(image)
        return outputs if isinstance(outputs, torch.Tensor) else list(outputs)


def _mednext(spec: Described, pretrained: bool) -> nn.Module:
    # MedNeXt-S of the paper with its smallest kernel.
    options = {"kernel_size": 3, "use_residual_connection": True, **spec.options}
    network = _MedNeXt(3, in_channels=spec.in_channels, out_channels=spec.out_channels, **options)
    return _put_dropout_before(network, "out_0", spec.dropout)


def _mednext_levels(options: Options) -> int:
    return len(options.get("blocks_down", (2, 2, 2, 2)))


def _light_unet(spec: Described, pretrained: bool) -> nn.Module:
    return LightUNet(spec.in_channels, spec.out_channels, **{"dropout": spec.dropout, **spec.options})


# --- transformers ---------------------------------------------------------------------------------------------------------


def _unetr(spec: Described, pretrained: bool) -> nn.Module:
    # Half as wide as the paper's (93 million weights), which suits its thousands of scans.
    defaults = {"hidden_size": 384, "mlp_dim": 1536, "num_heads": 6, "dropout_rate": spec.dropout}
    options = {**defaults, **spec.options}
    return nets.UNETR(spec.in_channels, spec.out_channels, spec.input_shape, **options)


def _swin_unetr(spec: Described, pretrained: bool) -> nn.Module:
    options = {"feature_size": 24, "drop_rate": spec.dropout, **spec.options}
    return nets.SwinUNETR(spec.in_channels, spec.out_channels, spatial_dims=3, **options)


def _always(multiple: int) -> Callable[[Options], int]:
    return lambda options: multiple


def _halving(outputs: Callable[[Options], int]) -> Callable[[Options], tuple[float, ...]]:
    return lambda options: halving_weights(outputs(options))


NETWORKS_3D: dict[str, Entry] = {
    "light_unet": Entry(
        "light U-Net",
        "our own: works at half resolution between thin layers at full resolution; the default without a GPU",
        _light_unet,
        light_unet_multiple,
        output_weights=_halving(lambda options: 2),
    ),
    "basic_unet": Entry("U-Net", "the plain U-Net: two convolutions a level", _basic_unet, _always(16)),
    "unet": Entry(
        "U-Net with residual units", "MONAI's U-Net with two residual units a level", _unet, _strided
    ),
    "residual_unet": Entry(
        "residual U-Net",
        "nnU-Net's U-Net of residual blocks",
        _residual_unet,
        _dynunet_multiple,
        output_weights=_halving(_dynunet_outputs),
    ),
    "attention_unet": Entry(
        "attention U-Net",
        "U-Net whose skip connections are weighted by what lies below",
        _attention_unet,
        _strided,
    ),
    "basic_unet_plus_plus": Entry(
        "U-Net++",
        "U-Net with nested skip connections",
        _basic_unet_plus_plus,
        _always(16),
        output_weights=_equal_weights,
    ),
    "dynunet": Entry(
        "DynUNet",
        "nnU-Net's plain U-Net, with deep supervision; the default on a GPU",
        _dynunet,
        _dynunet_multiple,
        output_weights=_halving(_dynunet_outputs),
        deep_supervision=True,
    ),
    "segresnet": Entry(
        "SegResNet",
        "residual encoder, light decoder",
        _segresnet,
        lambda options: 2 ** (_blocks_down(options) - 1),
    ),
    "segresnet_ds": Entry(
        "SegResNetDS",
        "SegResNet with deep supervision",
        _segresnet_ds,
        lambda options: 2 ** (_blocks_down(options) - 1),
        output_weights=_halving(_segresnet_outputs),
        deep_supervision=True,
    ),
    "vnet": Entry(
        "V-Net", "the first 3D network with residual blocks; 45 million weights", _vnet, _always(16)
    ),
    "highresnet": Entry("HighRes3DNet", "dilated convolutions at full resolution", _highresnet, _always(1)),
    "mednext": Entry(
        "MedNeXt",
        "convolutions in the manner of transformers (size S, kernel 3)",
        _mednext,
        lambda options: 2 ** _mednext_levels(options),
        output_weights=_halving(lambda options: _mednext_levels(options) + 1),
    ),
    "unetr": Entry(
        "UNETR", "vision transformer as encoder; wants many scans", _unetr, _always(16), any_size=False
    ),
    "swin_unetr": Entry(
        "SwinUNETR", "transformer with shifted windows as encoder; wants many scans", _swin_unetr, _always(32)
    ),
}
