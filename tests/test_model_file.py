"""The model file: one safe file that holds all that segmenting needs."""

from __future__ import annotations

import errno
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoseg_lib.errors import ModelError, OutOfSpaceError
from autoseg_lib.networks import model_file
from autoseg_lib.networks.model_file import load_model, read_metadata, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing

SPEC = NetworkSpec("3D", "unet", 3, (16, 16, 16), options={"channels": [4, 8, 8, 8]})
PIPELINE = Preprocessing("3D", IntensityPlan("window", -100, 200, 40, 30), spacing_zyx_mm=(3.0, 1.0, 1.0))


def metadata(**changes) -> dict:
    return {
        "labels": ["psoas left", "psoas right ü"],
        "network": SPEC.to_dict(),
        "preprocessing": PIPELINE.to_dict(),
        **changes,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "été 1" / "model_best.safetensors"
    save_model(
        path, build_network(SPEC), metadata(validation={"dice": np.float32(0.5), "hd95": float("nan")})
    )
    return path


def test_saved_and_loaded_predicts_the_same(saved: Path) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC).eval()
    loaded = load_model(saved)
    images = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(images), network(images), rtol=0, atol=0)
    assert not loaded.network.training
    assert loaded.spec == SPEC and loaded.preprocessing == PIPELINE
    assert loaded.labels.names == ("psoas left", "psoas right ü")
    assert loaded.metadata["validation"] == {"dice": 0.5, "hd95": None}
    assert read_metadata(saved)["format_version"] == 1
    assert [item.name for item in saved.parent.iterdir()] == [saved.name]


class Dangerous:
    def __reduce__(self):
        return Path("was_run").write_text, ("opening the file ran code",)


def test_files_that_are_no_models(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.safetensors"

    def refuses(message: str) -> None:
        for read in (read_metadata, load_model):
            with pytest.raises(ModelError, match=message):
                read(bad)

    refuses("not found. Train one with train.ipynb")
    bad.write_bytes(pickle.dumps(Dangerous()))
    refuses(r"model 'bad.safetensors': it is a pickle or a torch file.*never read. Choose a .safetensors")
    torch.save({"weights": torch.zeros(3)}, bad)
    refuses("it is a pickle or a torch file")
    assert not Path("was_run").exists()
    bad.write_bytes(b"")
    refuses("the file is empty")
    bad.write_text("this is no model at all, only text")
    refuses("it is damaged or no model file")
    bad.write_bytes(saved.read_bytes()[:-1000])
    refuses("it is damaged or no model file")
    save_file({"weight": torch.zeros(3)}, bad, metadata={"format": "pt"})
    refuses("it holds weights, but not the description this software writes")
    save_file({"weight": torch.zeros(3)}, bad, metadata={"autoseg": "{"})
    refuses("its description is damaged")
    save_file({"weight": torch.zeros(3)}, bad, metadata={"autoseg": json.dumps({"labels": []})})
    refuses("its description is incomplete")
    save_file({"weight": torch.zeros(3)}, bad, metadata={"autoseg": json.dumps(metadata(format_version=99))})
    refuses("written in format 99 by newer software; this one reads up to 3. Update")


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, build_network(SPEC), metadata(labels=["one ROI"]))
    with pytest.raises(ModelError, match=r"its parts disagree \(1 ROIs, 3 channels"):
        load_model(path)
    other = NetworkSpec("3D", "dynunet", 3, (16, 16, 16))
    save_model(path, build_network(SPEC), metadata(network=other.to_dict()))
    with pytest.raises(ModelError, match="its weights do not fit the network dynunet that it describes"):
        load_model(path)
    save_model(path, build_network(SPEC), metadata(network={**SPEC.to_dict(), "name": "future_net"}))
    with pytest.raises(ModelError, match=r"model 'model.safetensors': network = .future_net. is not known"):
        load_model(path)
    with pytest.raises(ModelError, match="the metadata lack labels"):
        save_model(path, build_network(SPEC), {"network": {}, "preprocessing": {}})
    with pytest.raises(ModelError, match="cannot be written as JSON"):
        save_model(path, build_network(SPEC), metadata(extra={1, 2}))


def test_a_full_disk_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_file, "_write_bytes", full)
    with pytest.raises(OutOfSpaceError, match="the disk is full"):
        save_model(saved, build_network(SPEC), metadata())
    assert saved.read_bytes() == before
    assert [item.name for item in saved.parent.iterdir()] == [saved.name]


def test_weights_on_other_layouts_are_saved(tmp_path: Path) -> None:
    spec = NetworkSpec("2D", "unet", 2, (64, 64))
    network = build_network(spec).to(memory_format=torch.channels_last)
    path = tmp_path / "a.safetensors"
    pipeline = Preprocessing("2D", input_shape=(64, 64))
    save_model(
        path, network, {"labels": ["a"], "network": spec.to_dict(), "preprocessing": pipeline.to_dict()}
    )
    torch.testing.assert_close(dict(load_model(path).network.state_dict()), dict(network.state_dict()))
