"""The optimiser: what it does to matrices, which weights it takes how, and that it goes on where it was."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from autoseg_lib.errors import SettingsError
from autoseg_lib.networks.registry import NetworkSpec
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.learning_choice import choose_learning
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.optimizers import Muon, build_optimizer, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (16, 432), (64, 3), (1, 9)])
def test_singular_values_become_alike_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    result = orthogonalised(matrix).double()
    # In the basis of the matrix's own singular vectors the result is diagonal.
    inside = left.T @ result @ right.T
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-3)
    large = values / values.norm() > 0.05  # five rounds lift smaller ones only part of the way
    assert inside.diagonal()[large].min() > 0.65 and inside.diagonal().max() < 1.25


def test_the_same_as_the_published_iteration() -> None:
    """The textbook form multiplies the wide matrix itself in each round."""
    wide = torch.randn(12, 200, generator=torch.Generator().manual_seed(2))
    x = wide / wide.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    assert torch.allclose(orthogonalised(wide), x, atol=1e-4)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 8, 3), nn.GroupNorm(1, 8), nn.Conv3d(8, 8, 3), nn.Conv3d(8, 3, 1))


def test_convolutions_go_to_muon_and_the_rest_to_adamw() -> None:
    network = _network()
    optimizer = build_optimizer(network, "muon", 1e-3)
    kinds = {id(p): group["kind"] for group in optimizer.param_groups for p in group["params"]}
    assert kinds[id(network[2].weight)] == "muon"
    # One input channel, norms, biases and the layer of classes.
    for weight in (network[0].weight, network[1].weight, network[2].bias, network[3].weight):
        assert kinds[id(weight)] == "adamw"
    assert len(kinds) == len(list(network.parameters()))


def test_first_adamw_step_is_one_learning_rate_long() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    weight.grad = torch.tensor([0.3, -7.0])
    Muon([], [weight], lr=0.1, weight_decay=0.0).step()
    assert torch.allclose(weight.detach(), torch.tensor([0.9, -1.9]), atol=1e-5)


def test_frozen_weights_are_left_out() -> None:
    network = _network()
    network[2].weight.requires_grad_(False)
    optimizer = build_optimizer(network, "muon", 1e-3)
    assert all(p is not network[2].weight for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_goes_on_with_the_same_bits(name: str) -> None:
    images = torch.randn(6, 2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3))

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, batches: torch.Tensor) -> None:
        for batch in batches:
            optimizer.zero_grad()
            network(batch).square().mean().backward()
            optimizer.step()

    whole = _network()
    steps(whole, build_optimizer(whole, name, 1e-2), images)
    first = _network()
    optimizer = build_optimizer(first, name, 1e-2)
    steps(first, optimizer, images[:3])
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    second = copy.deepcopy(first)
    resumed = build_optimizer(second, name, 1e-2)
    resumed.load_state_dict(torch.load(file, weights_only=True)["optimizer"])
    steps(second, resumed, images[3:])
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(
        SettingsError,
        match=r'optimizer = "adam" is not known. Did you mean "adamw"\? Accepted: muon, adamw.',
    ):
        build_optimizer(_network(), "adam", 1e-3)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # An encoder of many weights: Muon's own work would outweigh the learning.
        (NetworkSpec("2D", "unet", 2, (128, 128), "resnet18"), ("adamw", 1e-3)),
        (NetworkSpec("3D", "dynunet", 2, (32, 32, 32)), ("adamw", 2e-3)),
        (NetworkSpec("3D", "light_unet", 2, (32, 32, 32)), ("muon", 5e-3)),
    ],
)
def test_the_plan_takes_the_optimizer_that_learns_more_in_the_same_time(network, expected) -> None:
    chooser = Chooser(make_settings(TrainSettings, {"main_dir": "x"}), {})
    chooser.choose("precision", "32", "")
    machine = Machine("cpu", 2, 8.0, "32")
    plan = choose_learning(chooser, network.dimension, machine, network, 4, 40, None, 0.0)
    assert (plan.optimizer, plan.learning_rate) == expected
