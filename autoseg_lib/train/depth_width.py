"""Depth and width of a network: how often it halves the image, and how many features its first level has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoseg_lib.errors import SettingsError
from autoseg_lib.networks.registry import NetworkSpec, default_encoder, size_multiple
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.machine import Machine

Options = dict[str, Any]

# Features double from level to level up to this number (nnU-Net's limit in 3D).
MOST_FEATURES = 320
# Features per level of smp's decoders, from the deepest of five up.
_DECODER_2D = (256, 128, 64, 32, 16)
# Fewest halvings that still see beyond an ROI's edge; encoders of smp have at least three.
FEWEST_LEVELS = {"2D": 3, "3D": 2}


def _widths(levels: int, width: int) -> list[int]:
    return [min(width * 2**level, MOST_FEATURES) for level in range(levels)]


def _light(levels: int, width: int) -> Options:
    return {"widths": _widths(levels, width)}


def _strided(levels: int, width: int) -> Options:
    return {"channels": _widths(levels + 1, width), "strides": [2] * levels}


def _dynunet(levels: int, width: int) -> Options:
    return {
        "filters": _widths(levels + 1, width),
        "kernel_size": [3] * (levels + 1),
        "strides": [1] + [2] * levels,
        "upsample_kernel_size": [2] * levels,
    }


def _segresnet(levels: int, width: int) -> Options:
    blocks = [1] + [2] * (levels - 1) + [4]
    return {"init_filters": width, "blocks_down": blocks}


def _decoder_2d(levels: int, width: int) -> Options:
    return {"encoder_depth": levels, "decoder_channels": list(_DECODER_2D[5 - levels :])}


def _depth_2d(levels: int, width: int) -> Options:
    return {"encoder_depth": levels}


@dataclass(frozen=True)
class _Scalable:
    """What depth and width mean for a network.

    Attributes:
        levels: halvings it has by default.
        width: features of its first level by default; 0: its encoder decides.
        options: builder options for (levels, width).
        width_gpu: width on a GPU, where twice the features take little longer.
        most_levels: the deepest it can be.
    """

    levels: int
    width: int
    options: Callable[[int, int], Options]
    width_gpu: int = 0
    most_levels: int = 6


_SCALABLE: dict[tuple[str, str], _Scalable] = {
    ("3D", "light_unet"): _Scalable(3, 32, _light),
    ("3D", "unet"): _Scalable(3, 16, _strided, 32),
    ("3D", "attention_unet"): _Scalable(3, 16, _strided, 32),
    ("3D", "dynunet"): _Scalable(3, 16, _dynunet, 32),
    ("3D", "residual_unet"): _Scalable(3, 16, _dynunet, 32),
    ("3D", "segresnet"): _Scalable(3, 16, _segresnet, 32),
    ("2D", "unet"): _Scalable(5, 0, _decoder_2d, most_levels=5),
    ("2D", "unetplusplus"): _Scalable(5, 0, _decoder_2d, most_levels=5),
    ("2D", "manet"): _Scalable(5, 0, _decoder_2d, most_levels=5),
    ("2D", "linknet"): _Scalable(5, 0, _depth_2d, most_levels=5),
}


def choose_depth_and_width(
    chooser: Chooser, dimension: str, network: str, sizes: Sequence[float], machine: Machine
) -> Options:
    """Returns the builder options for the depth and width chosen; none where the network has its own.

    Args:
        chooser: keeps what is chosen and why.
        dimension: "2D" or "3D".
        network: its name.
        sizes: pixels of a typical image or scan along each side.
        machine: the computer.

    Raises:
        SettingsError: depth or width was given for a network that takes none.
    """
    entry = _SCALABLE.get((dimension, network))
    if entry is None:
        _refuse(chooser, dimension, network, ("network_depth", "network_width"))
        return {}
    deep, fewest = entry.levels, FEWEST_LEVELS[dimension]
    while deep > fewest and 2 * 2**deep > max(min(sizes), 8):
        deep -= 1
    reason = f"{2**deep} pixels become one at the deepest level"
    if deep < entry.levels:
        reason += f": the thinnest side has only {min(sizes):.0f}"
    elif dimension == "3D" and machine.has_gpu and min(sizes) >= 64 and entry.width_gpu:
        # At least four voxels are left along each side of a patch (nnU-Net's rule).
        deep = min(4, entry.most_levels)
        reason = "a GPU sees large patches: 16 pixels become one at the deepest level"
    levels = int(chooser.choose("network_depth", deep, reason))
    if not fewest <= levels <= entry.most_levels:
        raise SettingsError(
            f'network_depth = {levels}: network = "{network}" can have {fewest} to {entry.most_levels}. '
            'Choose one of these, or leave network_depth = "auto".'
        )
    if not entry.width:
        _refuse(chooser, dimension, network, ("network_width",))
        # The network's own depth is left to its builder.
        return {} if levels == entry.levels else entry.options(levels, 0)
    wide = entry.width_gpu if machine.has_gpu and entry.width_gpu else entry.width
    where = "a GPU affords them" if wide > entry.width else "quick on every computer"
    width = int(chooser.choose("network_width", wide, f"features of the first level; {where}"))
    if (levels, width) == (entry.levels, entry.width):
        return {}
    return entry.options(levels, width)


def multiple_of(dimension: str, network: str, options: Options, large: tuple[int, ...]) -> int:
    """Returns the number that each side of the network's input must be a multiple of."""
    return size_multiple(NetworkSpec(dimension, network, 2, large, options=options))  # type: ignore[arg-type]


def _refuse(chooser: Chooser, dimension: str, network: str, names: Sequence[str]) -> None:
    for name in names:
        if getattr(chooser.settings, name) != "auto":
            what = "its depth is fixed"
            if name == "network_width":
                has_encoder = bool(default_encoder(dimension, network))
                what = "its encoder decides how wide it is" if has_encoder else "its width is fixed"
            raise SettingsError(
                f'{name} = {getattr(chooser.settings, name)}: it cannot be set for network = "{network}" ({what}). '
                f'Leave {name} = "auto".'
            )
