"""All networks by name: 2D U-Nets of segmentation-models-pytorch, 3D U-Nets of MONAI.

Every network takes (batch, 1, ...) images and gives (batch, channels, ...) logits of the same size, channel 0
the background.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import segmentation_models_pytorch as smp
from monai.networks.nets import AttentionUnet, DynUNet, SegResNet, SwinUNETR, UNet
from torch import nn

from autoseg_lib.errors import ModelError, SettingsError

# Name in Settings → class. The names are segmentation-models-pytorch's own, in lower case.
NETWORKS_2D: dict[str, type[nn.Module]] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
}
NETWORKS_3D: tuple[str, ...] = ("unet", "dynunet", "segresnet", "attention_unet", "swin_unetr")

DEFAULT_NETWORK = {"2D": "unet", "3D": "unet"}
DEFAULT_ENCODER = "resnet18"

# These pool the whole image to one value and normalise it over the batch, which needs two images while
# training.
_NEEDS_TWO_IMAGES = ("deeplabv3", "deeplabv3plus", "upernet", "pan")

# PAN halves the image three more times after its encoder.
_SMALLEST_SIDE = {"pan": 128}

# How often each 3D network halves the image, as a factor.
_MULTIPLES_3D = {"unet": 8, "dynunet": 8, "segresnet": 8, "attention_unet": 8, "swin_unetr": 32}


def encoder_names() -> tuple[str, ...]:
    """Returns the encoders a 2D network can have."""
    return tuple(smp.encoders.get_encoder_names())


@dataclass(frozen=True)
class NetworkSpec:
    """A network, described well enough to build it again; kept in the model file.

    Attributes:
        dimension: "2D" or "3D".
        name: a key of NETWORKS_2D or one of NETWORKS_3D.
        out_channels: ROIs plus 1 for the background.
        input_shape: 2D: (rows, columns); 3D: (slices, rows, columns) of the training patches.
        encoder: 2D: one of encoder_names(); "" in 3D.
        in_channels: channels of the image.
        dropout: share of features dropped while training.
        options: further arguments of the network's class, by name.
    """

    dimension: Literal["2D", "3D"]
    name: str
    out_channels: int
    input_shape: tuple[int, ...]
    encoder: str = ""
    in_channels: int = 1
    dropout: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(int(n) for n in self.input_shape))
        if self.dimension not in ("2D", "3D"):
            raise ModelError(f'network: expected the dimension "2D" or "3D", found {self.dimension!r}.')
        known = tuple(NETWORKS_2D) if self.dimension == "2D" else NETWORKS_3D
        if self.name not in known:
            raise SettingsError(_unknown("network", self.name, known, f" for {self.dimension}"))
        if self.dimension == "2D" and not self.encoder:
            object.__setattr__(self, "encoder", DEFAULT_ENCODER)
        if self.dimension == "2D" and self.encoder not in encoder_names():
            raise SettingsError(_unknown("encoder", self.encoder, encoder_names()))
        if len(self.input_shape) != (2 if self.dimension == "2D" else 3):
            raise ModelError(f"network: found the input size {self.input_shape} for {self.dimension}.")
        if self.out_channels < 2:
            raise ModelError("network: expected at least one ROI besides the background, found none.")
        check_input_shape(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return {**asdict(self), "input_shape": list(self.input_shape)}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> NetworkSpec:
        """Returns the description that ``to_dict`` wrote.

        Raises:
            ModelError: keys or values are missing or wrong.
        """
        try:
            _check_sensible("", {**table})
            return cls(**{**table, "input_shape": tuple(table["input_shape"])})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"network: the model's description cannot be used ({error}).") from None
        except SettingsError as error:
            raise ModelError(str(error)) from None

    @property
    def title(self) -> str:
        """For a sentence: "unet (resnet18)"."""
        return f"{self.name} ({self.encoder})" if self.encoder else self.name


# No network here has more: channels, classes or pixels along a side; and steps, blocks or units one after the other.
_MOST, _MOST_STEPS = 16_384, 64
_STEPS = ("depth", "units", "blocks", "layers", "levels", "heads")


def _check_sensible(key: str, value: Any) -> None:
    """Refuses numbers that would make a network larger than any, before they are used.

    Raises:
        ValueError: naming the number.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            _check_sensible(str(name), item)
    elif isinstance(value, list | tuple):
        if len(value) > _MOST_STEPS:
            raise ValueError(f"{key} has {len(value)} entries")
        for item in value:
            _check_sensible(key, item)
    elif isinstance(value, int | float):
        most = _MOST_STEPS if any(word in key for word in _STEPS) else _MOST
        if not abs(value) <= most:
            raise ValueError(f"{key} = {value:.3g}" if isinstance(value, float) else f"{key} is too large")


def _unknown(what: str, found: str, known: tuple[str, ...], where: str = "") -> str:
    near = difflib.get_close_matches(str(found).lower(), known, n=1, cutoff=0.5)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return f'{what} = "{found}" is not known{where}.{hint} Accepted: {", ".join(known)}.'


def size_multiple(spec: NetworkSpec) -> int:
    """Returns the number that each side of the input must be a multiple of."""
    if spec.dimension == "3D":
        return _MULTIPLES_3D[spec.name]
    depth = spec.options.get("encoder_depth", 3 if spec.name == "pspnet" else 5)
    return int(2**depth)


def check_input_shape(spec: NetworkSpec) -> None:
    """Makes sure that the network can work on its input size.

    Raises:
        SettingsError: it cannot; the message names the nearest size that works.
    """
    multiple, shape = size_multiple(spec), spec.input_shape
    # At least two of the smallest pixels along each side: normalising one single pixel leaves nothing.
    smallest = _SMALLEST_SIDE.get(spec.name, 0) if spec.dimension == "2D" else 0
    fitting = tuple(max(2 * multiple, smallest, round(n / multiple) * multiple) for n in shape)
    if all(n % multiple == 0 and n >= smallest for n in shape) and max(shape) >= 2 * multiple:
        return
    setting = "input_shape" if spec.dimension == "2D" else "patch_size"
    at_least = f" from {smallest} on" if smallest else ""
    found, works = (" × ".join(str(n) for n in size) for size in (shape, fitting))
    raise SettingsError(
        f'{setting}: found {found}; network = "{spec.name}" needs multiples of {multiple}{at_least}. Use {works}.'
    )


def smallest_batch(spec: NetworkSpec) -> int:
    """Returns the fewest images per training step that the network can learn from (1 or 2)."""
    return 2 if spec.dimension == "2D" and spec.name in _NEEDS_TWO_IMAGES else 1


def build_network(spec: NetworkSpec, *, pretrained: bool = False) -> nn.Module:
    """Returns the network with fresh weights.

    Args:
        spec: which one.
        pretrained: 2D: start from weights trained on ImageNet, downloaded once. Nothing is downloaded
            otherwise.

    Raises:
        ModelError: the network cannot be built so, or the weights cannot be had.
    """
    try:
        if spec.dimension == "2D":
            return _build_2d(spec, pretrained)
        return _BUILDERS_3D[spec.name](spec)
    except OSError as error:
        raise ModelError(
            f"pretrained = True: the weights of '{spec.encoder}' could not be downloaded "
            f"({type(error).__name__}). "
            "Connect to the internet once, or set pretrained = False."
        ) from error
    except (KeyError, TypeError, ValueError, NotImplementedError, ArithmeticError) as error:
        raise ModelError(
            f"network {spec.title}: it cannot be built so: {error}. Choose another encoder."
        ) from error


def _build_2d(spec: NetworkSpec, pretrained: bool) -> nn.Module:
    network = NETWORKS_2D[spec.name](
        encoder_name=spec.encoder,
        encoder_weights="imagenet" if pretrained else None,
        in_channels=spec.in_channels,
        classes=spec.out_channels,
        **spec.options,
    )
    if spec.dropout > 0:
        head = network.get_submodule("segmentation_head")
        network.set_submodule("segmentation_head", nn.Sequential(nn.Dropout2d(spec.dropout), head))
    return network


def _unet(spec: NetworkSpec) -> nn.Module:
    defaults = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2), "num_res_units": 2, "norm": "instance"}
    return UNet(3, spec.in_channels, spec.out_channels, dropout=spec.dropout, **{**defaults, **spec.options})


def _dynunet(spec: NetworkSpec) -> nn.Module:
    defaults = {
        "kernel_size": (3, 3, 3, 3),
        "strides": (1, 2, 2, 2),
        "upsample_kernel_size": (2, 2, 2),
        "filters": (16, 32, 64, 128),
        "dropout": spec.dropout or None,
    }
    return DynUNet(3, spec.in_channels, spec.out_channels, **{**defaults, **spec.options})


def _segresnet(spec: NetworkSpec) -> nn.Module:
    defaults = {"init_filters": 16, "blocks_down": (1, 2, 2, 4), "dropout_prob": spec.dropout or None}
    options = {**defaults, **spec.options}
    return SegResNet(3, in_channels=spec.in_channels, out_channels=spec.out_channels, **options)


def _attention_unet(spec: NetworkSpec) -> nn.Module:
    defaults = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
    return AttentionUnet(
        3, spec.in_channels, spec.out_channels, dropout=spec.dropout, **{**defaults, **spec.options}
    )


def _swin_unetr(spec: NetworkSpec) -> nn.Module:
    options = {"feature_size": 24, "drop_rate": spec.dropout, **spec.options}
    return SwinUNETR(spec.in_channels, spec.out_channels, spatial_dims=3, **options)


_BUILDERS_3D: dict[str, Callable[[NetworkSpec], nn.Module]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "attention_unet": _attention_unet,
    "swin_unetr": _swin_unetr,
}


def number_of_weights(network: nn.Module) -> int:
    """Returns how many numbers training adjusts."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
