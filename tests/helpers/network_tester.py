"""One tester for every network: what training, saving and segmenting rely on."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn

from autoseg_lib.losses.registry import build_loss
from autoseg_lib.networks.model_file import load_model, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network, output_weights
from autoseg_lib.preprocess.pipeline import Preprocessing


def made_batch(spec: NetworkSpec, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images and a label for each: noise, and a block of every ROI."""
    images = torch.randn(count, spec.in_channels, *spec.input_shape)
    labels = torch.zeros(count, 1, *spec.input_shape, dtype=torch.long)
    for roi in range(1, spec.out_channels):
        labels[..., 4 * roi : 4 * roi + 4] = roi
    return images, labels


def check_network(spec: NetworkSpec, folder: Path, unused: tuple[str, ...] = ()) -> nn.Module:
    """Builds, trains one step, saves, loads and predicts; returns the trained network.

    Args:
        spec: the network; with dropout.
        folder: for the model file.
        unused: beginnings of the names of weights that nothing uses.
    """
    torch.manual_seed(0)
    network = build_network(spec).train()
    images, labels = made_batch(spec)
    outputs = network(images)
    _check_outputs(spec, outputs)
    loss, dice = build_loss("dice_ce", output_weights=output_weights(spec)).parts(outputs, labels)
    assert torch.isfinite(loss) and 0 <= float(dice.detach()) <= sum(output_weights(spec)) + 1e-5
    _check_learning(network, loss, unused)
    _check_dropout(spec, network, images)
    _check_model_file(spec, network, images, folder)
    return network


def _check_outputs(spec: NetworkSpec, outputs: torch.Tensor | list[torch.Tensor]) -> None:
    several = len(output_weights(spec)) > 1
    assert type(outputs) is (list if several else torch.Tensor)
    found = outputs if isinstance(outputs, list) else [outputs]
    assert len(found) == len(output_weights(spec))
    assert found[0].shape == (2, spec.out_channels, *spec.input_shape)
    for finer, coarser in itertools.pairwise(found):
        assert coarser.shape in (finer.shape, (*finer.shape[:2], *(n // 2 for n in finer.shape[2:])))
    assert all(bool(torch.isfinite(item).all()) for item in found)


def _check_learning(network: nn.Module, loss: torch.Tensor, unused: tuple[str, ...]) -> None:
    """The gradient reaches every weight (several processes that train together rely on it), and a step changes them."""
    loss.backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert [name for name in without if not name.startswith(unused)] == []
    first = next(network.parameters())
    assert float(first.grad.abs().sum()) > 0
    before = first.detach().clone()
    torch.optim.AdamW(network.parameters(), lr=1e-3).step()
    assert not torch.equal(first, before)
    assert all(bool(torch.isfinite(weight).all()) for weight in network.parameters())


def _check_dropout(spec: NetworkSpec, network: nn.Module, images: torch.Tensor) -> None:
    def answer() -> torch.Tensor:
        outputs = network(images)
        return outputs[0] if isinstance(outputs, list) else outputs

    with torch.no_grad():
        assert not torch.equal(answer(), answer()), "dropout does nothing"
        network.eval()
        first, second = network(images), network(images)
    assert type(first) is torch.Tensor and first.shape == (2, spec.out_channels, *spec.input_shape)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def _check_model_file(spec: NetworkSpec, network: nn.Module, images: torch.Tensor, folder: Path) -> None:
    flat = spec.dimension == "2D"
    preprocessing = (
        Preprocessing("2D", input_shape=spec.input_shape)
        if flat
        else Preprocessing("3D", spacing_zyx_mm=(1.0, 1.0, 1.0))
    )
    path = folder / "model.safetensors"
    labels = [f"ROI {number}" for number in range(1, spec.out_channels)]
    table = {"labels": labels, "network": spec.to_dict(), "preprocessing": preprocessing.to_dict()}
    save_model(path, network, table)
    loaded = load_model(path)
    path.unlink()
    assert loaded.spec == spec
    state = network.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in loaded.network.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(images), network(images), rtol=1e-4, atol=1e-4)
