"""Starting from a trained model: rows of the same ROI are taken over, others are fresh, and the encoder may wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.events import Event, Message, StepDone, StopFlag, nobody
from autoseg_lib.networks.ensemble import Ensemble
from autoseg_lib.networks.model_file import load_model, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.networks.shapes import growth_per_class
from autoseg_lib.networks.transfer import matching_rois, take_over
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.settings import TrainSettings, make_settings, to_table
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.starting import (
    FrozenEncoder,
    new_rois,
    read_start,
    start_network,
    start_sentence,
)
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.training import PreparedTraining, prepare_training, train
from tests.helpers.studies import write_png_study

DEEP = {"deep_supervision": True}
SPECS = {
    "unet": NetworkSpec("2D", "unet", 4, (64, 64), "mobilenet_v2"),
    "pyramid_vnet": NetworkSpec("2D", "pyramid_vnet", 4, (32, 32), options={"width": 4}),
    "unet 3D": NetworkSpec("3D", "unet", 4, (16, 16, 16), options={"channels": [4, 8, 8, 8]}),
    "dynunet": NetworkSpec("3D", "dynunet", 4, (16, 16, 16), options={"filters": [4, 8, 8, 8], **DEEP}),
    "light_unet": NetworkSpec(
        "3D", "light_unet", 4, (16, 16, 16), options={"widths": [8, 8], "stem_width": 0}
    ),
    "mednext": NetworkSpec(
        "3D",
        "mednext",
        4,
        (16, 16, 16),
        options={"init_filters": 4, "blocks_down": [1], "blocks_up": [1], "blocks_bottleneck": 1},
    ),
}


def fresh(spec: NetworkSpec, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(spec).eval()


@pytest.mark.parametrize("name", SPECS)
def test_the_same_rois_in_another_order(name: str) -> None:
    """The answer for each ROI is the same, wherever it stands in the list."""
    spec = SPECS[name]
    source, target = fresh(spec, 0), fresh(spec, 1)
    take_over(target, spec, ["c", "a", "b"], source.state_dict(), ["A", "b", " c "])
    images = torch.randn(1, 1, *spec.input_shape)
    with torch.inference_mode():
        then, now = source(images), target(images)
    torch.testing.assert_close(now, then[:, [0, 3, 1, 2]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "dynunet", "light_unet"])
def test_rois_that_both_know_keep_their_answer(name: str) -> None:
    """Of these networks only the last layer knows the ROIs: what was learned of "b" is exactly there, "new" is fresh."""
    spec = replace(SPECS[name], out_channels=3)
    source, target = fresh(SPECS[name], 0), fresh(spec, 1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    take_over(target, spec, ["new", "b"], source.state_dict(), ["a", "b", "c"])
    images = torch.randn(1, 1, *spec.input_shape)
    with torch.inference_mode():
        then, now = source(images), target(images)
    torch.testing.assert_close(now[:, [0, 2]], then[:, [0, 2]], rtol=1e-4, atol=1e-4)
    after, by_class = target.state_dict(), growth_per_class(spec)
    for key, growth in by_class.items():
        rows = growth[0]
        if rows:
            assert torch.equal(after[key][rows : 2 * rows], before[key][rows : 2 * rows])
    others = [key for key in after if key not in by_class]
    assert all(torch.equal(after[key], source.state_dict()[key]) for key in others)


def test_which_weights_depend_on_the_rois() -> None:
    assert growth_per_class(SPECS["unet"]) == {
        "segmentation_head.0.weight": (1, 0, 0, 0),
        "segmentation_head.0.bias": (1,),
    }
    # Without a layer at full resolution each class has the eight voxels of a cube.
    light = growth_per_class(SPECS["light_unet"])
    assert light == {"unfold.weight": (8, 0, 0, 0, 0), "unfold.bias": (8,)}
    pyramid = growth_per_class(SPECS["pyramid_vnet"])
    assert pyramid["fine.entry.weight"] == (0, 1, 0, 0), "the second stage sees one probability more"
    assert set(pyramid) == {
        f"{part}.head.{kind}" for part in ("coarse", "fine") for kind in ("weight", "bias")
    } | {"fine.entry.weight"}


def test_matching_goes_by_name() -> None:
    assert matching_rois(["Psoas left", "fat"], ["bone", "FAT ", "psoas left"]) == {1: 1, 2: 0}


def test_networks_of_other_sizes_are_refused() -> None:
    spec = SPECS["dynunet"]
    wider = replace(spec, options={**spec.options, "filters": [8, 8, 8, 8]})
    with pytest.raises(ModelError, match="the networks differ in their sizes"):
        take_over(fresh(wider, 0), wider, ["a", "b", "c"], fresh(spec, 0).state_dict(), ["a", "b", "c"])
    deeper = NetworkSpec(
        "3D", "unet", 4, (32, 32, 32), options={"channels": [4, 8, 8, 8, 8], "strides": [2] * 4}
    )
    for one, other in ((deeper, SPECS["unet 3D"]), (SPECS["unet 3D"], deeper)):
        with pytest.raises(ModelError, match="the networks differ in their sizes"):
            take_over(fresh(one, 0), one, ["a", "b", "c"], fresh(other, 0).state_dict(), ["a", "b", "c"])


def test_outputs_of_deep_supervision_are_no_obstacle() -> None:
    deep = SPECS["dynunet"]
    plain = replace(deep, options={"filters": [4, 8, 8, 8]})
    for one, other in ((deep, plain), (plain, deep)):
        target, source = fresh(one, 1), fresh(other, 0)
        take_over(target, one, ["a", "b", "c"], source.state_dict(), ["a", "b", "c"])
        images = torch.randn(1, 1, 16, 16, 16)
        with torch.inference_mode():
            torch.testing.assert_close(target(images), source(images))


# --- the model file -------------------------------------------------------------------------------------------------------


def saved(
    path: Path, spec: NetworkSpec, rois: list[str], settings: dict | None = None, seed: int = 0
) -> Path:
    flat = spec.dimension == "2D"
    pipeline = (
        Preprocessing("2D", IntensityPlan("percentile"), input_shape=spec.input_shape)
        if flat
        else Preprocessing("3D", spacing_zyx_mm=(1.0, 1.0, 1.0))
    )
    table = {
        "labels": rois,
        "network": spec.to_dict(),
        "preprocessing": pipeline.to_dict(),
        "settings": settings or {},
    }
    save_model(path, fresh(spec, seed), table)
    return path


def test_dropout_may_differ(tmp_path: Path) -> None:
    """A layer that drops features gives the layers behind it other names."""
    spec = SPECS["unet"]
    start = read_start(saved(tmp_path / "m.safetensors", spec, ["a", "b", "c"]))
    dropping = replace(spec, dropout=0.2)
    network = fresh(dropping, 1)
    assert set(network.state_dict()) != set(fresh(spec, 0).state_dict())
    start_network(start, network, dropping, ["a", "b", "c"])
    images = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), fresh(spec, 0)(images))


def test_what_is_said(tmp_path: Path) -> None:
    start = read_start(saved(tmp_path / "m.safetensors", SPECS["unet"], ["a", "b", "c"]))
    assert start_sentence(start, ["b", "A"]) == "Starts from 'm.safetensors', which knows every ROI."
    assert start_sentence(start, ["b", "fat"]) == (
        "Starts from 'm.safetensors': what it learned of 'b' is kept, 'fat' is new to it."
    )
    assert start_sentence(start, ["fat", "bone"]) == (
        "Starts from 'm.safetensors': none of its ROIs is asked for here, 'fat', 'bone' are new to it."
    )
    assert new_rois(start, ["fat", "a"]) == ["fat"]


def test_other_networks_are_refused(tmp_path: Path) -> None:
    start = read_start(saved(tmp_path / "m.safetensors", SPECS["unet"], ["a", "b", "c"]))
    for changes, message in [
        (
            {"encoder": "resnet18"},
            r"is a 2D unet \(mobilenet_v2\); this training needs a 2D unet \(resnet18\)",
        ),
        (
            {"in_channels": 3},
            r"needs a 2D unet \(mobilenet_v2\) that sees 3 slices at a time. Leave dimension, network",
        ),
    ]:
        spec = replace(SPECS["unet"], **changes)
        with pytest.raises(ModelError, match=message):
            start_network(start, fresh(spec, 0), spec, ["a", "b", "c"])
    sizes = replace(SPECS["pyramid_vnet"], options={"width": 8})
    start = read_start(saved(tmp_path / "p.safetensors", SPECS["pyramid_vnet"], ["a", "b", "c"]))
    with pytest.raises(
        ModelError, match=r"start_from: 'p.safetensors': the networks differ .* input_shape, patch_size"
    ):
        start_network(start, fresh(sizes, 0), sizes, ["a", "b", "c"])


def test_a_file_of_several_folds_is_refused(tmp_path: Path) -> None:
    spec, path = SPECS["light_unet"], tmp_path / "folds_best.safetensors"
    table = {
        "labels": ["a", "b", "c"],
        "network": spec.to_dict(),
        "preprocessing": Preprocessing("3D", spacing_zyx_mm=(1.0, 1.0, 1.0)).to_dict(),
    }
    save_model(path, Ensemble([fresh(spec, 0), fresh(spec, 1)]), table)
    with pytest.raises(
        ModelError, match=r"'folds_best.safetensors' holds 2 networks, one for each fold. Name the file"
    ):
        read_start(path)


# --- freezing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet", "light_unet", "pyramid_vnet", "unet 3D"])
def test_the_encoder_stands_still_and_then_learns(name: str) -> None:
    spec = SPECS[name]
    network = fresh(spec, 0).train()
    freeze = FrozenEncoder(network, spec, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)

    def learn(epoch: int) -> set[str]:
        """One step; returns the names of what changed."""
        before = {key: value.clone() for key, value in network.state_dict().items()}
        network.train()
        freeze(epoch)
        outputs = network(torch.randn(2, 1, *spec.input_shape))
        sum(item.square().mean() for item in (outputs if isinstance(outputs, list) else [outputs])).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}

    everything = set(network.state_dict())
    frozen = {
        "unet": {key for key in everything if key.startswith("encoder.")},
        "light_unet": {
            key for key in everything if key.split(".")[0] in ("stem", "entry", "encoder", "downs")
        },
    }.get(name, everything - set(growth_per_class(spec)))
    for epoch in (0, 1):
        changed = learn(epoch)
        assert changed and not changed & frozen, "running means of the frozen part included"
    changed = learn(2)
    weights = {key for key, _ in network.named_parameters()}
    assert changed & frozen & weights
    # A resumed run begins in the middle: the state follows from the epoch alone.
    assert not learn(1) & frozen


# --- in a training ----------------------------------------------------------------------------------------------------------

CPU = Machine(device="cpu", cores=1, ram_available_gb=8.0, precision="32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_png_study(tmp_path / "study", patients=3, slices=2)


def prepare(folder: Path, **changes: object) -> PreparedTraining:
    values = {
        "main_dir": str(folder),
        "model_dir": str(folder / "models"),
        "model_filename": "tiny",
        "epochs": 4,
        "batch_size": 2,
        "labels_list": ["bright", "dark"],
        "patient_pattern": r"p\d+",
        "spacing_mm": 1.5,
        **changes,
    }
    return prepare_training(check_study(make_settings(TrainSettings, values)), folder, nobody, CPU)


def start_file(folder: Path, rois: list[str]) -> Path:
    """A model as a training of the light network would leave it."""
    spec = NetworkSpec("2D", "light_unet", len(rois) + 1, (64, 64))
    settings = to_table(
        make_settings(
            TrainSettings,
            {"dimension": "2D", "network": "light_unet", "input_shape": [64, 64], "intensity": "percentile"},
        )
    )
    path = folder / "start_best.safetensors"
    return saved(
        path, spec, rois, {**settings, "encoder": "", "deep_supervision": False, "neighbour_slices": 0}
    )


def test_a_training_follows_the_model_and_says_so(folder: Path) -> None:
    path = start_file(folder, ["dark", "other"])
    prepared = prepare(folder, start_from=str(path))
    plan = prepared.plan
    assert plan.network.name == "light_unet" and plan.network.input_shape == (64, 64)
    reasons = {choice.setting: choice.reason for choice in plan.choices}
    assert reasons["network"] == "as in the model it starts from"
    assert prepared.summary.splitlines()[-1] == (
        "Starts from 'start_best.safetensors': what it learned of 'dark' is kept, 'bright' is new to it."
    )
    # Two scans and a new ROI: a tenth of four epochs, at least one.
    assert plan.settings.freeze_encoder_epochs == 1
    assert reasons["freeze_encoder_epochs"] == "few scans and new ROIs: the last layer learns first"
    head, start = prepared.network.state_dict()["head.4.weight"], load_model(path).network.state_dict()
    assert torch.equal(head[[0, 2]], start["head.4.weight"][[0, 1]])
    assert torch.equal(prepared.network.state_dict()["entry.0.weight"], start["entry.0.weight"])

    events: list[Event] = []
    stop = StopFlag()

    def listener(event: Event) -> None:
        events.append(event)
        if sum(isinstance(item, StepDone) for item in events) == 1:
            stop.set()

    train(prepared, listener, stop)
    path.unlink()  # a run that is continued needs the model no more
    again = prepare(folder, start_from=str(path))
    assert again.state == "continue" and again.plan.settings.freeze_encoder_epochs == 1
    assert not [item for item in events if isinstance(item, Message) and item.level == "warning"]


def test_settings_that_contradict_the_model(folder: Path) -> None:
    path = start_file(folder, ["bright", "dark"])
    message = r"'start_best.safetensors' is a 2D light_unet; network = \"unet\" asks for another. Leave network = \"auto\""
    with pytest.raises(ModelError, match=message):
        prepare(folder, start_from=str(path), network="unet")
    with pytest.raises(ModelError, match="needs a 2D light_unet that sees 3 slices at a time"):
        prepare(folder, start_from=str(path), neighbour_slices=1)
    with pytest.raises(
        SettingsError, match="freeze_encoder_epochs = 3: a fresh encoder has learned nothing worth"
    ):
        prepare(folder, network="light_unet", freeze_encoder_epochs=3)
    known = prepare(folder, start_from=str(path))
    assert known.plan.settings.freeze_encoder_epochs == 0
    assert known.summary.endswith("Starts from 'start_best.safetensors', which knows every ROI.")
