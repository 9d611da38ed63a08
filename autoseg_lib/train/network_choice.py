"""Which network, how deep and wide, on which grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.labels import LabelTable
from autoseg_lib.networks.registry import (
    NetworkSpec,
    default_dropout,
    default_encoder,
    default_network,
    supervision_options,
)
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.settings import AUTO
from autoseg_lib.train.channel_choice import choose_channels, with_settings
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.defaults import LARGEST_SIDE, NEIGHBOUR_SLICES
from autoseg_lib.train.depth_width import choose_depth_and_width, multiple_of
from autoseg_lib.train.grids import (
    Shape,
    choose_input_shape,
    choose_patch,
    choose_slice_patch,
    choose_spacing,
    shapes_on_grid,
)
from autoseg_lib.train.machine import Machine

# A size that every network can work on, to ask what it wants.
_PROBE = {"2D": (256, 256), "3D": (128, 128, 128)}


def choose_network(
    chooser: Chooser,
    dimension: Literal["2D", "3D"],
    facts: Sequence[CaseFacts],
    labels: LabelTable,
    intensity: IntensityPlan,
    machine: Machine,
) -> tuple[NetworkSpec, Preprocessing, Shape | None]:
    """Returns the network, its grid, and in 3D the window.

    Raises:
        SettingsError: a network, encoder or size that does not work.
    """
    name = chooser.choose("network", *_network(dimension, machine)).lower()
    dropout = chooser.choose("dropout_rate", *_dropout(dimension, name))
    options = _supervision(chooser, dimension, name)
    if dimension == "2D":
        return _network_2d(chooser, name, dropout, options, facts, len(labels) + 1, intensity, machine)
    return _network_3d(chooser, name, dropout, options, facts, len(labels) + 1, intensity, machine)


def _network_2d(
    chooser: Chooser,
    name: str,
    dropout: float,
    options: dict[str, Any],
    facts: Sequence[CaseFacts],
    classes: int,
    intensity: IntensityPlan,
    machine: Machine,
) -> tuple[NetworkSpec, Preprocessing, None]:
    encoder = chooser.choose("encoder", default_encoder("2D", name), "light enough for every computer")
    longest = float(np.median([max(f.geometry.shape_zyx[1:]) for f in facts]))
    side = min(longest, LARGEST_SIDE[machine.kind])
    if (given := chooser.settings.input_shape) != AUTO:
        side = min(given) if isinstance(given, list) else given
    options = {**options, **choose_depth_and_width(chooser, "2D", name, (side, side), machine)}
    multiple = multiple_of("2D", name, options, _PROBE["2D"])
    pair = choose_input_shape(chooser, name, multiple, facts, machine)
    patch = choose_slice_patch(chooser, name, encoder, multiple, facts, pair)
    neighbours = _choose_neighbours(chooser, facts)
    channels = choose_channels(chooser, facts)
    spec = NetworkSpec(
        "2D",
        name,
        classes,
        patch,
        encoder,
        in_channels=len(channels) * (2 * neighbours + 1),
        dropout=dropout,
        options=options,
        channels=len(channels),
    )
    preprocessing = Preprocessing("2D", intensity, input_shape=pair)
    return spec, with_settings(chooser, preprocessing, channels, neighbours), None


def _choose_neighbours(chooser: Chooser, facts: Sequence[CaseFacts]) -> int:
    """Returns how many slices on each side the network sees; says so where scans have none."""
    neighbours = int(
        chooser.choose("neighbour_slices", NEIGHBOUR_SLICES, "each slice is looked at by itself")
    )
    single = sum(len(f.counts) == 1 for f in facts)
    if neighbours and single:
        chooser.note(
            "single slices", single, f"of {len(facts)} scans: the slice stands in for its neighbours"
        )
    return neighbours


def _network_3d(
    chooser: Chooser,
    name: str,
    dropout: float,
    options: dict[str, Any],
    facts: Sequence[CaseFacts],
    classes: int,
    intensity: IntensityPlan,
    machine: Machine,
) -> tuple[NetworkSpec, Preprocessing, Shape]:
    spacing = choose_spacing(chooser, facts, machine)
    shapes = shapes_on_grid(facts, spacing)
    sizes = np.median(shapes, axis=0).tolist()
    options = {**options, **choose_depth_and_width(chooser, "3D", name, sizes, machine)}
    multiple = multiple_of("3D", name, options, _PROBE["3D"])
    window = choose_patch(chooser, multiple, shapes, spacing, machine)
    channels = choose_channels(chooser, facts)
    spec = NetworkSpec(
        "3D",
        name,
        classes,
        window,
        in_channels=len(channels),
        dropout=dropout,
        options=options,
        channels=len(channels),
    )
    preprocessing = Preprocessing("3D", intensity, spacing_zyx_mm=spacing)
    return spec, with_settings(chooser, preprocessing, channels), window


def _network(dimension: str, machine: Machine) -> tuple[str, str]:
    name = default_network(dimension, has_gpu=machine.has_gpu)
    if name == "light_unet":
        return name, "made for computers without a GPU"
    return name, "the field's standard"


def _dropout(dimension: str, name: str) -> tuple[float, str]:
    share = default_dropout(dimension, name)
    if share > 0:
        return share, f"what {name} was made for"
    return share, "augmentation already keeps the network from learning by heart"


def _supervision(chooser: Chooser, dimension: str, name: str) -> dict[str, Any]:
    wanted = None
    if not chooser.is_open("deep_supervision"):
        given = chooser.settings.deep_supervision
        wanted = bool(chooser.previous["deep_supervision"] if given == AUTO else given)
    options = supervision_options(dimension, name, wanted)
    chooser.choose(
        "deep_supervision", bool(options), "coarser outputs learn too" if options else "one output"
    )
    return options
