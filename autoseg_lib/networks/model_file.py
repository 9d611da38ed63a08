"""One file holds all that segmenting needs: the weights, and a JSON text about everything else.

The file of several folds holds the weights of all their networks, under "members.0.", "members.1." and so on, and says
how many they are ("members"); ``load_model`` then returns one network that gives the mean of their probabilities.

The format is safetensors: opening a file reads numbers and text and runs no code, whoever made it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.io.files import atomic_write
from autoseg_lib.labels import LabelTable
from autoseg_lib.networks.ensemble import MOST_MEMBERS, Ensemble
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.networks.shapes import weight_shapes
from autoseg_lib.preprocess.pipeline import FIRST_KEYS, Preprocessing

# The version of the metadata's layout. A file with a higher one was written by newer software.
FORMAT_VERSION = 3
# Files of one network are as they were in version 1, so that older software reads them too.
_VERSION_OF_ONE, _VERSION_OF_SEVERAL = 1, 2
# Older software would leave out what it does not know of the preprocessing, and find something else without a word.
_VERSION_OF_A_PIPELINE = 3
METADATA_KEY = "autoseg"
_NEEDED = ("format_version", "labels", "network", "preprocessing")
# What is a table wherever it is there.
_TABLES = ("settings", "network", "preprocessing", "augmentation", "validation", "data", "versions")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained network, ready to predict.

    Attributes:
        path: the file it came from.
        network: weights loaded, in evaluation mode, on the wanted device.
        metadata: everything the file says.
        spec: the network's description; with several members, of each of them.
        labels: the ROIs.
        preprocessing: what to do to a scan before and after.
        members: number of networks that answer together; time and memory grow with it.
    """

    path: Path
    network: nn.Module
    metadata: dict[str, Any]
    spec: NetworkSpec
    labels: LabelTable
    preprocessing: Preprocessing
    members: int = 1


def save_model(path: Path, network: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Writes weights and metadata to one file; an older file of that name stays whole until the new one is
    complete.

    Args:
        path: the file, ending in .safetensors.
        network: the trained network, on any device; an Ensemble is kept with all its members.
        metadata: table for JSON with at least "labels" (names), "network" (NetworkSpec.to_dict) and
            "preprocessing" (Preprocessing.to_dict). Numbers that are not finite are kept as null.

    Raises:
        ModelError: the metadata lack something or cannot be written as JSON.
        OutOfSpaceError: the disk is full; an older file of that name is intact.
        ExportError: the file cannot be written.
    """
    members = len(network.members) if isinstance(network, Ensemble) else 1
    if isinstance(network, Ensemble) and members == 1:
        network = network.members[0]
    version = _VERSION_OF_ONE if members == 1 else _VERSION_OF_SEVERAL
    if set(metadata.get("preprocessing", ())) - {
        *FIRST_KEYS,
        "neighbours",
    }:  # the network says the latter too
        version = _VERSION_OF_A_PIPELINE
    table = {"format_version": version, "members": members, **metadata}
    missing = [key for key in _NEEDED if key not in table]
    if missing:
        raise ModelError(f"model '{path.name}': the metadata lack {', '.join(missing)}.")
    try:
        text = json.dumps(_finite(table), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ModelError(f"model '{path.name}': the metadata cannot be written as JSON: {error}.") from error
    # Copies: safetensors refuses tensors that share memory, and another thread may go on training.
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()
    }
    content = save(weights, metadata={METADATA_KEY: text})
    atomic_write(path, lambda temporary: _write_bytes(temporary, content))


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns what a model file says of itself, without loading the weights.

    Raises:
        ModelError: the file is missing, no safetensors file, damaged, or not one of this software's.
    """
    if not path.is_file():
        raise ModelError(f"model '{path}': not found. Train one with train.ipynb, or correct model_filename.")
    try:
        with safe_open(str(path), framework="pt") as file:
            extra = file.metadata() or {}
    except SafetensorError as error:
        raise ModelError(_what_is_wrong(path)) from error
    except OSError as error:
        raise ModelError(
            f"model '{path.name}': the file cannot be read ({error.strerror or error})."
        ) from error
    if METADATA_KEY not in extra:
        raise ModelError(
            f"model '{path.name}': it holds weights, but not the description this software writes with them "
            "(ROIs, network, preprocessing). Choose a model made by train.ipynb."
        )
    try:
        table = json.loads(extra[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"model '{path.name}': its description is damaged. Copy or train it again."
        ) from error
    if not isinstance(table, dict) or [key for key in _NEEDED if key not in table]:
        raise ModelError(f"model '{path.name}': its description is incomplete. Copy or train it again.")
    # Nothing said of a part is the same as an empty one.
    table = {key: {} if value is None and key in _TABLES else value for key, value in table.items()}
    odd = [key for key in _TABLES if not isinstance(table.get(key, {}), dict)]
    if odd:
        raise ModelError(
            f"model '{path.name}': its description is damaged (at '{odd[0]}'). Copy or train it again."
        )
    if not isinstance(table["format_version"], int) or table["format_version"] > FORMAT_VERSION:
        raise ModelError(
            f"model '{path.name}': written in format {table['format_version']} by newer software; "
            f"this one reads up to {FORMAT_VERSION}. Update AutoSeg Workbench."
        )
    return table


def load_model(path: Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Returns the trained network of a model file.

    Args:
        path: the .safetensors file.
        device: where the weights go.

    Raises:
        ModelError: see read_metadata; or weights and description do not belong together.
    """
    metadata = read_metadata(path)
    try:
        spec = NetworkSpec.from_dict(metadata["network"])
        preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
        labels = LabelTable(_names(metadata["labels"]))
        members = _number_of_members(metadata.get("members", 1))
        preprocessing = _with_channels_of(preprocessing, spec)
        preprocessing.require_steps()
    except (ModelError, SettingsError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"model '{path.name}': {error}") from error
    if spec.out_channels != len(labels) + 1 or spec.dimension != preprocessing.dimension:
        raise ModelError(
            f"model '{path.name}': its parts disagree ({len(labels)} ROIs, {spec.out_channels} "
            f"channels, network {spec.dimension}, preprocessing {preprocessing.dimension}). "
            "Copy or train it again."
        )
    unfit = ModelError(
        f"model '{path.name}': its weights do not fit the network {spec.title} that it describes. "
        "Copy or train it again."
    )
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            # The network is drawn up without weights first: a damaged description can ask for more than fits into memory.
            if _shapes_of(spec, members) != {name: tuple(file.get_slice(name).get_shape()) for name in names}:
                raise unfit
            weights = {name: file.get_tensor(name) for name in names}
        network = _build(spec, members)
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise unfit from error
    return LoadedModel(path, network.to(device).eval(), metadata, spec, labels, preprocessing, members)


def _with_channels_of(preprocessing: Preprocessing, spec: NetworkSpec) -> Preprocessing:
    """The preprocessing, its neighbouring slices those of the network (older files say them there alone).

    Raises:
        ModelError: network and preprocessing have different channels.
    """
    if preprocessing.neighbours == 0:
        preprocessing = replace(preprocessing, neighbours=spec.neighbours)
    if len(preprocessing.channels) != spec.channels or preprocessing.neighbours != spec.neighbours:
        raise ModelError(
            f"the pipeline gives {len(preprocessing.channels)} channels with {preprocessing.neighbours} neighbouring slices on each "
            f"side, the network was trained with {spec.channels} and {spec.neighbours}; these two cannot be edited."
        )
    return preprocessing


def _shapes_of(spec: NetworkSpec, members: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the weights that a network has, without memory for them."""
    shapes = weight_shapes(spec)
    prefixes = [""] if members == 1 else [f"members.{number}." for number in range(members)]
    return {prefix + name: shape for prefix in prefixes for name, shape in shapes.items()}


def _build(spec: NetworkSpec, members: int) -> nn.Module:
    return build_network(spec) if members == 1 else Ensemble([build_network(spec) for _ in range(members)])


def _number_of_members(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_MEMBERS:
        raise ModelError(f"found {value!r} as the number of its networks; 1 to {MOST_MEMBERS} are expected.")
    return value


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ModelError("its list of ROIs is damaged.")
    return value


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _what_is_wrong(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        return f"model '{path.name}': the file is empty. Copy or train it again."
    # A zip archive (torch.save) or a pickle opcode: such files can run code when opened.
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return (
            f"model '{path.name}': it is a pickle or a torch file, whatever its name; such files can run "
            "code when opened, so they are never read. Choose a .safetensors file made by train.ipynb."
        )
    return f"model '{path.name}': it is damaged or no model file. Copy or train it again."


def _finite(value: Any) -> Any:
    """The same table with null for NaN and infinity, which JSON does not know, and lists for tuples."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
