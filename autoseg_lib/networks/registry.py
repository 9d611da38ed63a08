"""All networks by name, and the description of one that is kept with its weights.

Every network takes (batch, channels, ...) images and gives (batch, classes, ...) logits of the same size, channel 0 the
background. While training, a network with several outputs gives a list, the full-resolution answer first; see
``output_weights``. While predicting it always gives one tensor.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.networks.entry import Entry
from autoseg_lib.networks.networks_2d import DEFAULT_ENCODER, NETWORKS_2D, encoder_names, is_encoder
from autoseg_lib.networks.networks_3d import NETWORKS_3D

__all__ = [
    "DEFAULT_ENCODER",
    "NETWORKS_2D",
    "NETWORKS_3D",
    "NetworkSpec",
    "build_network",
    "check_input_shape",
    "check_network_name",
    "default_dropout",
    "default_encoder",
    "default_loss",
    "default_network",
    "encoder_names",
    "fitting_shape",
    "number_of_weights",
    "output_weights",
    "size_multiple",
    "smallest_batch",
    "supervision_options",
    "takes_any_size",
    "window_multiple",
]


def default_network(dimension: str, *, has_gpu: bool = False) -> str:
    """Returns the network that is used unless another is asked for."""
    if dimension == "2D":
        return "unet"
    return "dynunet" if has_gpu else "light_unet"


def _table(dimension: str) -> Mapping[str, Entry]:
    return NETWORKS_2D if dimension == "2D" else NETWORKS_3D


def _find(dimension: str, name: str) -> Entry:
    """Returns what is known of a network.

    Raises:
        SettingsError: there is none of that name; the message lists all.
    """
    table = _table(dimension)
    if name not in table:
        other = "3D" if dimension == "2D" else "2D"
        if name in _table(other):
            raise SettingsError(
                f'network = "{name}" is a {other} network, but dimension is "{dimension}". Set dimension = "{other}", or choose one '
                f"for {dimension}: {', '.join(table)}."
            )
        raise SettingsError(_unknown("network", name, tuple(table), f" for {dimension}"))
    return table[name]


def check_network_name(dimension: str, name: str) -> None:
    """Refuses a network that there is not.

    Args:
        dimension: "2D", "3D", or "auto" for either.
        name: the network.

    Raises:
        SettingsError: there is none of that name; the message lists all.
    """
    if dimension != "auto":
        _find(dimension, name)
    elif name not in NETWORKS_2D and name not in NETWORKS_3D:
        known = tuple(dict.fromkeys((*NETWORKS_2D, *NETWORKS_3D)))
        raise SettingsError(_unknown("network", name, known))


def default_encoder(dimension: str, name: str) -> str:
    """Returns the encoder that a network has unless another is asked for; "" where it takes none."""
    return _find(dimension, name).encoder


def default_dropout(dimension: str, name: str) -> float:
    """Returns the share of features that the network was made to drop while training."""
    return _find(dimension, name).dropout


def default_loss(dimension: str, name: str) -> str | None:
    """Returns the loss that the network was made for; None: it has none of its own."""
    return _find(dimension, name).loss


def supervision_options(dimension: str, name: str, wanted: bool | None = None) -> dict[str, Any]:
    """Returns the options for comparing coarser outputs with the labels too.

    Args:
        dimension: "2D" or "3D".
        name: the network.
        wanted: the user's choice; None leaves it to the network.

    Raises:
        SettingsError: it is wanted, but this network has one output only.
    """
    entry = _find(dimension, name)
    if entry.always_several:
        return {}
    if entry.output_weights is None:
        if wanted:
            able = [
                key
                for key, item in _table(dimension).items()
                if item.output_weights and not item.always_several
            ]
            where = f"Networks that can: {', '.join(able)}." if able else "No 2D network can."
            raise SettingsError(
                f'deep_supervision = True: network = "{name}" has one output only. {where} '
                'Choose one of them, or leave deep_supervision = "auto".'
            )
        return {}
    return {"deep_supervision": True} if (entry.deep_supervision if wanted is None else wanted) else {}


@dataclass(frozen=True)
class NetworkSpec:
    """A network, described well enough to build it again; kept in the model file.

    Attributes:
        dimension: "2D" or "3D".
        name: a key of NETWORKS_2D or NETWORKS_3D.
        out_channels: ROIs plus 1 for the background.
        input_shape: what it learns from: 2D: (rows, columns) of slices or patches of them; 3D: (slices, rows, columns) of
            patches.
        encoder: 2D: one of encoder_names() or "tu-" and a name of timm; "" where the network takes none.
        in_channels: channels of the network's input: ``channels``, in 2D times the slices seen together.
        dropout: share of features dropped while training.
        options: further arguments of the network's class, by name; ``deep_supervision``: see output_weights.
        channels: images and filters of a scan that the network sees, see preprocess.channels.
    """

    dimension: Literal["2D", "3D"]
    name: str
    out_channels: int
    input_shape: tuple[int, ...]
    encoder: str = ""
    in_channels: int = 1
    dropout: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    channels: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(int(n) for n in self.input_shape))
        if self.dimension not in ("2D", "3D"):
            raise ModelError(f'network: expected the dimension "2D" or "3D", found {self.dimension!r}.')
        entry = _find(self.dimension, self.name)
        object.__setattr__(self, "encoder", _encoder_of(self.dimension, self.name, entry, self.encoder))
        if len(self.input_shape) != (2 if self.dimension == "2D" else 3):
            raise ModelError(f"network: found the input size {self.input_shape} for {self.dimension}.")
        slices, rest = divmod(self.in_channels, max(1, self.channels))
        if (
            self.channels < 1
            or slices < 1
            or rest
            or slices % 2 == 0
            or (self.dimension == "3D" and slices > 1)
        ):
            times = "" if self.channels == 1 else f" times the {self.channels} channels of a scan"
            raise ModelError(
                f"network: found {self.in_channels} channels; 1 is expected, in 2D also 3, 5, ... with neighbouring slices{times}."
            )
        if entry.options_for:
            object.__setattr__(self, "options", {**entry.options_for(self.input_shape), **self.options})
        if self.out_channels < 2:
            raise ModelError("network: expected at least one ROI besides the background, found none.")
        check_input_shape(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON; ``channels`` only where there are several, so that older software reads the others."""
        table = {**asdict(self), "input_shape": list(self.input_shape)}
        if self.channels == 1:
            del table["channels"]
        return table

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
    def neighbours(self) -> int:
        """2D: slices on each side that are channels beside the slice itself."""
        return (self.in_channels // self.channels - 1) // 2

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


def _encoder_of(dimension: str, name: str, entry: Entry, wanted: str) -> str:
    """Returns the encoder to use.

    Raises:
        SettingsError: there is no such encoder, or the network takes none.
    """
    if not wanted:
        return entry.encoder
    if not entry.encoder:
        if dimension == "3D":
            return ""
        raise SettingsError(f'encoder = "{wanted}": network = "{name}" has none. Leave encoder = "auto".')
    if not is_encoder(name, wanted):
        if name == "dpt":
            raise SettingsError(
                f'encoder = "{wanted}": network = "dpt" needs a vision transformer. Use "{entry.encoder}" or another tu-vit_... of timm.'
            )
        raise SettingsError(_unknown("encoder", wanted, encoder_names()))
    return wanted


def size_multiple(spec: NetworkSpec) -> int:
    """Returns the number that each side of the input must be a multiple of."""
    return _find(spec.dimension, spec.name).multiple(spec.options)


def takes_any_size(spec: NetworkSpec) -> bool:
    """Whether the trained network also works on other sizes (multiples of size_multiple) than its input_shape."""
    return _find(spec.dimension, spec.name).any_size


def window_multiple(spec: NetworkSpec) -> int | None:
    """Returns what the sides of a smaller window must be multiples of; None where there is no other window (2D too)."""
    return size_multiple(spec) if spec.dimension == "3D" and takes_any_size(spec) else None


def fitting_shape(
    dimension: str, name: str, shape: tuple[int, ...], options: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Returns the size nearest to ``shape`` that a network can work on."""
    entry = _find(dimension, name)
    multiple = entry.multiple(options or {})
    # At least two of the smallest pixels along each side: normalising one single pixel leaves nothing.
    return tuple(max(2 * multiple, entry.smallest_side, round(n / multiple) * multiple) for n in shape)


def check_input_shape(spec: NetworkSpec) -> None:
    """Makes sure that the network can work on its input size.

    Raises:
        SettingsError: it cannot; the message names the nearest size that works.
    """
    multiple, shape = size_multiple(spec), spec.input_shape
    smallest = _find(spec.dimension, spec.name).smallest_side
    if all(n % multiple == 0 and n >= max(smallest, 1) for n in shape) and max(shape) >= 2 * multiple:
        return
    setting = "input_shape" if spec.dimension == "2D" else "patch_size"
    at_least = f" from {smallest} on" if smallest else ""
    fitting = fitting_shape(spec.dimension, spec.name, shape, spec.options)
    found, works = (" × ".join(str(n) for n in size) for size in (shape, fitting))
    raise SettingsError(
        f'{setting}: found {found}; network = "{spec.name}" needs multiples of {multiple}{at_least}. Use {works}.'
    )


def smallest_batch(spec: NetworkSpec) -> int:
    """Returns the fewest images per training step that the network can learn from (1 or 2)."""
    return _find(spec.dimension, spec.name).smallest_batch


def output_weights(spec: NetworkSpec) -> tuple[float, ...]:
    """Returns the weights in the loss of the outputs that the network gives while training.

    (1.0,): it gives one tensor. Otherwise it gives a list, the full-resolution answer first: with deep supervision the
    weights sum to 1 and the outputs become coarser; those of the two-stage pyramid V-Net are both of full resolution
    and count 1 each.
    """
    entry = _find(spec.dimension, spec.name)
    several = entry.always_several or bool(spec.options.get("deep_supervision", False))
    if entry.output_weights is None or not several:
        return (1.0,)
    return entry.output_weights(spec.options)


def build_network(spec: NetworkSpec, *, pretrained: bool = False) -> nn.Module:
    """Returns the network with fresh weights.

    Args:
        spec: which one.
        pretrained: 2D: start from encoder weights trained on ImageNet, downloaded once (see
            ``autoseg_lib.networks.pretrained``). Nothing is downloaded otherwise.

    Raises:
        ModelError: the network cannot be built so, or the weights cannot be had.
    """
    try:
        return _find(spec.dimension, spec.name).build(spec, pretrained)
    except OSError as error:
        raise ModelError(
            f"pretrained = True: the weights of '{spec.encoder}' could not be fetched ({type(error).__name__}). "
            "Connect to the internet once, or set pretrained = False."
        ) from error
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        NotImplementedError,
        ArithmeticError,
    ) as error:
        advice = "Choose another encoder." if spec.encoder else "Choose another network."
        raise ModelError(f"network {spec.title}: it cannot be built so: {error}. {advice}") from error


def number_of_weights(network: nn.Module) -> int:
    """Returns how many numbers training adjusts."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
