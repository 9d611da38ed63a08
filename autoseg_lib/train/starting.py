"""Starting from a trained model: what is taken from its file, what is new, and which part stays as it is at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoseg_lib.errors import ModelError, SettingsError, name_list
from autoseg_lib.networks.model_file import load_model, read_metadata
from autoseg_lib.networks.registry import NetworkSpec
from autoseg_lib.networks.shapes import growth_per_class, weight_shapes
from autoseg_lib.networks.transfer import matching_rois, take_over
from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.train.choosing import Chooser

# Settings left at "auto" become what the model was trained with: its weights expect images prepared that way.
TAKEN_FROM_THE_MODEL = (
    "dimension",
    "network",
    "encoder",
    "network_depth",
    "network_width",
    "neighbour_slices",
    "channels",
    "preprocessing",
    "deep_supervision",
    "input_shape",
    "patch_size",
    "spacing_mm",
    "intensity",
)

# With fewer scans the noise of a fresh last layer would wash through the encoder before it has learned anything.
FEW_SCANS = 20
# Share of the epochs in which then only the rest learns.
FROZEN_SHARE = 0.1


@dataclass(frozen=True)
class Start:
    """A model to start from.

    Attributes:
        path: its file.
        network: its description.
        rois: its ROIs.
        settings: those of its settings that a new training follows where nothing else is asked for.
    """

    path: Path
    network: NetworkSpec
    rois: tuple[str, ...]
    settings: dict[str, Any]


def read_start(path: Path) -> Start:
    """Reads what a model file says of itself.

    Raises:
        ModelError: it cannot be used to start from.
    """
    if not path.is_file():
        raise ModelError(
            f"start_from = '{path}': not found. Give the path of a model file (.safetensors), or leave start_from empty."
        )
    table = read_metadata(path)
    if table.get("members", 1) != 1:
        raise ModelError(
            f"start_from: '{path.name}' holds {table['members']} networks, one for each fold. Name the file of one fold."
        )
    settings = {
        key: table["settings"][key] for key in TAKEN_FROM_THE_MODEL if key in table.get("settings", {})
    }
    return Start(path, NetworkSpec.from_dict(table["network"]), tuple(table["labels"]), settings)


def start_network(start: Start, network: nn.Module, spec: NetworkSpec, rois: Sequence[str]) -> None:
    """Copies what the model has learned into a fresh network; rows of ROIs that it does not know stay fresh.

    Raises:
        ModelError: the model is of another network, or cannot be read.
    """
    require_same_network(start, spec)
    learned = load_model(start.path).network.state_dict()
    # A layer that drops features moves the one behind it to another name, but not to another place.
    names = dict(
        zip(weight_shapes(replace(spec, dropout=start.network.dropout)), weight_shapes(spec), strict=True)
    )
    learned = {names.get(name, name): weight for name, weight in learned.items()}
    try:
        take_over(network, spec, rois, learned, start.rois)
    except ModelError as error:
        raise ModelError(
            f"start_from: '{start.path.name}': {error}. Leave input_shape, patch_size, network_depth and network_width at "
            '"auto": they then become those of the model.'
        ) from error


def require_same_network(start: Start, spec: NetworkSpec) -> None:
    """Refuses to start from a model of another network.

    Raises:
        ModelError: dimension, network, encoder or number of neighbouring slices differ.
    """
    then, now = (_kind(item) for item in (start.network, spec))
    if then != now:
        raise ModelError(
            f"start_from: '{start.path.name}' is a {then}; this training needs a {now}. "
            'Leave dimension, network, encoder, neighbour_slices and channels at "auto" (they then become those of the model), or leave '
            "start_from empty."
        )


def _kind(spec: NetworkSpec) -> str:
    slices = 2 * spec.neighbours + 1
    seen = [f"{slices} slices at a time"] if slices > 1 else []
    seen += [f"{spec.channels} channels"] if spec.channels > 1 else []
    channels = f" that sees {' and '.join(seen)}" if seen else ""
    return f"{spec.dimension} {spec.title}{channels}"


def new_rois(start: Start, rois: Sequence[str]) -> list[str]:
    """Returns the ROIs that the model does not know."""
    found = matching_rois(start.rois, rois)
    return [name for index, name in enumerate(rois) if index not in found]


def start_sentence(start: Start, rois: Sequence[str]) -> str:
    """Returns a sentence on what is taken over and what is new."""
    new = new_rois(start, rois)
    if not new:
        return f"Starts from '{start.path.name}', which knows every ROI."
    kept = [name for name in rois if name not in new]
    what = (
        f"what it learned of {name_list(kept)} is kept, " if kept else "none of its ROIs is asked for here, "
    )
    return f"Starts from '{start.path.name}': {what}{name_list(new)} {'is' if len(new) == 1 else 'are'} new to it."


def model_to_start_from(settings: TrainSettings) -> Start | None:
    """Returns what is known of the model in ``start_from``; None without one.

    Raises:
        ModelError: it cannot be used, or is of another kind than the settings ask for.
    """
    if not settings.start_from:
        return None
    start = read_start(Path(settings.start_from).expanduser())
    asked = {
        "dimension": start.network.dimension,
        "network": start.network.name,
        "encoder": start.network.encoder,
    }
    for name, of_the_model in asked.items():
        given = getattr(settings, name)
        if given != AUTO and given.lower() != of_the_model.lower():
            raise ModelError(
                f"start_from: '{start.path.name}' is a {_kind(start.network)}; {name} = \"{given}\" asks for another. "
                f'Leave {name} = "auto" (it then becomes that of the model), or leave start_from empty.'
            )
    return start


def choose_freezing(
    chooser: Chooser, start: Start | None, rois: Sequence[str], scans: int, epochs: int
) -> None:
    """Chooses for how many epochs the encoder stays as it is.

    Raises:
        SettingsError: it was asked for, but the encoder knows nothing yet.
    """
    number, reason = 0, ""
    if start:
        number, reason = 0, "the whole network learns from the start"
        if new_rois(start, rois) and scans < FEW_SCANS:
            number = max(1, round(FROZEN_SHARE * epochs))
            reason = "few scans and new ROIs: the last layer learns first"
    value = chooser.choose("freeze_encoder_epochs", number, reason)
    check_freezing(chooser.settings, value)


def check_freezing(settings: TrainSettings, value: Any) -> None:
    """Refuses to keep an encoder as it is that knows nothing yet.

    Args:
        settings: as the user gave them.
        value: epochs, or "auto".

    Raises:
        SettingsError: neither a model nor pretrained weights are there to start from.
    """
    if value and value != AUTO and not (settings.start_from or settings.pretrained):
        raise SettingsError(
            f"freeze_encoder_epochs = {value}: a fresh encoder has learned nothing worth keeping. Give start_from or "
            'pretrained = True, or leave freeze_encoder_epochs = "auto".'
        )


class FrozenEncoder:
    """Keeps the encoder as it is for the first epochs; called before each epoch, so it is right after a resume too.

    Networks that have no encoder of their own keep all but the layers that depend on the list of ROIs.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec, epochs: int) -> None:
        """Args:
        network: the network itself, before anything is wrapped around it.
        spec: its description.
        epochs: in the first so many epochs the part is frozen.
        """
        self.epochs = epochs
        parts = [getattr(network, name, None) for name in getattr(network, "ENCODER_PARTS", ("encoder",))]
        encoder = [part for part in parts if isinstance(part, nn.Module)]
        if encoder:
            self.parameters = [parameter for part in encoder for parameter in part.parameters()]
            self.modules = [module for part in encoder for module in part.modules()]
        else:
            head = growth_per_class(spec)
            names = {name.rpartition(".")[0] for name in head}
            self.parameters = [p for name, p in network.named_parameters() if name not in head]
            self.modules = [module for name, module in network.named_modules() if name not in names]
        # What the user or the network itself never lets learn stays that way.
        self.parameters = [parameter for parameter in self.parameters if parameter.requires_grad]

    def __call__(self, epoch: int, network: nn.Module | None = None) -> None:
        """Args:
        epoch: counted from 0; the network is in training mode.
        network: what the loop calls the network; not needed.
        """
        frozen = epoch < self.epochs
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for module in self.modules:
            # Otherwise the running means of batch normalisation would follow the new images.
            if isinstance(module, _BatchNorm):
                module.train(not frozen)
