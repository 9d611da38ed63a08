"""Several networks in one file: the mean of their probabilities, and a file that is as safe as that of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.networks.ensemble import Ensemble
from autoseg_lib.networks.model_file import load_model, read_metadata, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Volume

SPEC_3D = NetworkSpec("3D", "unet", 3, (16, 16, 16), options={"channels": [4, 8, 8, 8]})
SPEC_2D = NetworkSpec("2D", "unet", 3, (64, 64))
GRID = Geometry.from_spacing((18, 24, 20), spacing_known=True, positions_known=True)


def preprocessing(spec: NetworkSpec) -> Preprocessing:
    grey = IntensityPlan("window", -100, 200, 40, 30)
    if spec.dimension == "2D":
        return Preprocessing("2D", grey, input_shape=(64, 64))
    return Preprocessing("3D", grey, spacing_zyx_mm=(1.0, 1.0, 1.0))


def metadata(spec: NetworkSpec, **changes: object) -> dict:
    return {
        "labels": ["a", "b"],
        "network": spec.to_dict(),
        "preprocessing": preprocessing(spec).to_dict(),
        **changes,
    }


def different_networks(spec: NetworkSpec, count: int) -> list[nn.Module]:
    networks = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = build_network(spec).eval()
        # Fresh networks all say about a third; larger weights make them disagree.
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.5)
        networks.append(network)
    return networks


def predictor(network: nn.Module, spec: NetworkSpec) -> Predictor:
    window = None if spec.dimension == "2D" else (16, 16, 16)
    return Predictor(network, preprocessing(spec), 3, torch.device("cpu"), window)


@pytest.mark.parametrize("spec", [SPEC_2D, SPEC_3D], ids=["2D", "3D"])
def test_the_file_gives_the_mean_of_its_members_probabilities(spec: NetworkSpec, tmp_path: Path) -> None:
    networks = different_networks(spec, 3)
    path = tmp_path / "été" / "all_best.safetensors"
    save_model(path, Ensemble(networks), metadata(spec))
    loaded = load_model(path)
    assert loaded.members == 3 and not loaded.network.training
    rng = np.random.default_rng(0)
    volume = Volume(rng.normal(40, 60, (18, 24, 20)).astype(np.float32), GRID)
    single = [predictor(network, spec).probabilities(volume) for network in networks]
    # They must disagree, or their mean would show nothing.
    assert np.abs(single[0] - single[1]).max() > 0.1
    together = predictor(loaded.network, spec).probabilities(volume)
    np.testing.assert_allclose(together, np.mean(single, axis=0), atol=2e-6)


class Says(nn.Module):
    """Gives the same probabilities for every pixel."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(probabilities).log())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.view(1, -1, 1, 1).expand(images.shape[0], -1, *images.shape[2:])


def test_probabilities_are_averaged_not_votes_or_logits() -> None:
    """Two hesitant networks and a sure one: (0.4 + 0.4 + 0.98) / 3 = 0.59333 although two of three vote against."""
    ensemble = Ensemble([Says(0.6, 0.4), Says(0.6, 0.4), Says(0.02, 0.98)])
    soft = torch.softmax(ensemble(torch.zeros(1, 1, 2, 2)), dim=1)
    torch.testing.assert_close(soft[0, 1], torch.full((2, 2), 1.78 / 3))


def test_a_class_nobody_believes_in_has_a_finite_logarithm() -> None:
    ensemble = Ensemble([Says(1.0, 0.0), Says(1.0, 0.0)])
    logits = ensemble(torch.zeros(1, 1, 1, 1))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(torch.softmax(logits, dim=1).flatten(), torch.tensor([1.0, 0.0]))


def test_the_file_of_one_is_as_before(tmp_path: Path) -> None:
    (network,) = different_networks(SPEC_3D, 1)
    alone, only_member = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_model(alone, network, metadata(SPEC_3D))
    save_model(only_member, Ensemble([network]), metadata(SPEC_3D))
    assert list(load_file(alone)) == list(load_file(only_member))
    assert read_metadata(only_member)["format_version"] == 1
    assert load_model(only_member).members == 1


def rewrite(path: Path, **changes: object) -> None:
    """The same weights under another description."""
    with safe_open(str(path), framework="pt") as file:
        table = json.loads(file.metadata()["autoseg"])
    save_file(load_file(path), path, metadata={"autoseg": json.dumps({**table, **changes})})


@pytest.mark.parametrize("number", [0, -1, 21, 10**12, True, "3", 2.5, None, [3]])
def test_a_number_of_members_that_cannot_be(number: object, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, Ensemble(different_networks(SPEC_3D, 2)), metadata(SPEC_3D))
    rewrite(path, members=number)
    with pytest.raises(ModelError, match=r"as the number of its networks; 1 to 20 are expected"):
        load_model(path)


@pytest.mark.parametrize("number", [1, 3])
def test_members_that_are_not_there(number: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, Ensemble(different_networks(SPEC_3D, 2)), metadata(SPEC_3D))
    rewrite(path, members=number)
    with pytest.raises(ModelError, match="its weights do not fit the network unet that it describes"):
        load_model(path)


def test_a_missing_weight_of_one_member(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, Ensemble(different_networks(SPEC_3D, 2)), metadata(SPEC_3D))
    weights = load_file(path)
    table = {"autoseg": json.dumps(read_metadata(path))}
    weights.pop(next(name for name in weights if name.startswith("members.1.")))
    save_file(weights, path, metadata=table)
    with pytest.raises(ModelError, match="its weights do not fit the network"):
        load_model(path)
