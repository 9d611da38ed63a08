"""A lab's own step: a real little package, installed into a folder, found by its entry point; never code from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.data.discover import ImageSource
from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.networks.model_file import load_model, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.preprocess.entry_points import installed_steps, load_step
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Volume
from autoseg_lib.workflow.finished import model_key, own_packages, result_key
from autoseg_lib.workflow.model_choice import hash_of

CODE = """
def halve(pixels, spacing_zyx_mm, strength=0.5):
    assert spacing_zyx_mm == (3.0, 1.0, 2.0)
    return pixels * strength

def broken(pixels, spacing_zyx_mm):
    raise RuntimeError("no licence")

def in_place(pixels, spacing_zyx_mm):
    pixels[...] = 0
    return pixels

def smaller(pixels, spacing_zyx_mm):
    return pixels[1:]

not_a_function = 3
"""
ENTRY_POINTS = """[autoseg_lib.steps]
tinylab.halve = tinylab_steps:halve
tinylab.broken = tinylab_steps:broken
tinylab.in_place = tinylab_steps:in_place
tinylab.smaller = tinylab_steps:smaller
tinylab.number = tinylab_steps:not_a_function
tinylab.gone = tinylab_missing:function
"""


@pytest.fixture
def tinylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package laid out as an installer does: the module, and a dist-info folder beside it."""
    site = tmp_path / "site"
    info = site / "tinylab-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "tinylab_steps.py").write_text(CODE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinylab\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("tinylab_steps", None)


def with_step(name: str, **options: float) -> Preprocessing:
    step = {"step": "entry_point", "name": name, "options": options}
    table = {
        "dimension": "2D",
        "intensity": {"kind": "window", "low": -99, "high": 99},
        "input_shape": [8, 8],
        "steps": [step],
    }
    return Preprocessing.from_dict(table)


def scan() -> Volume:
    grid = Geometry.from_spacing(
        (2, 8, 4), (3, 1, 2), spacing_known=True, positions_known=True, orientation_known=True
    )
    pixels = np.arange(64, dtype=np.int16).reshape(grid.shape_zyx)
    return Volume(pixels, grid).with_others([Volume(pixels + 1, grid)])


def test_an_installed_step_runs_on_each_image_first(tinylab: Path) -> None:
    assert {"tinylab.halve", "tinylab.broken"} <= set(installed_steps())
    part, box = with_step("tinylab.halve", strength=0.25).start(scan())
    assert box is None
    np.testing.assert_array_equal(part.array, scan().array * 0.25)
    np.testing.assert_array_equal(part.others[0].array, (scan().array + 1) * 0.25)
    again = Preprocessing.from_dict(with_step("tinylab.halve", strength=0.25).to_dict())
    assert again.steps[0]["name"] == "tinylab.halve"


def test_faults_name_the_step(tinylab: Path) -> None:
    with pytest.raises(ModelError, match=r"the step 'tinylab.broken' failed \(RuntimeError: no licence\)"):
        with_step("tinylab.broken").start(scan())
    with pytest.raises(
        ModelError,
        match=r"'tinylab.smaller' gave float32 of the shape \(1, 8, 4\); .* \(2, 8, 4\) are expected",
    ):
        with_step("tinylab.smaller").start(scan())
    with pytest.raises(
        ModelError,
        match=r"'tinylab.number' \(tinylab_steps:not_a_function\) is a int; a function is expected",
    ):
        load_step("tinylab.number")
    with pytest.raises(ModelError, match=r"'tinylab.gone' .* cannot be imported \(ModuleNotFoundError"):
        load_step("tinylab.gone")


def test_a_missing_step_is_named_when_the_model_is_opened(tinylab: Path, tmp_path: Path) -> None:
    spec = NetworkSpec("2D", "light_unet", 2, (32, 32))
    for name in ("tinylab.halve", "tinylab.half"):
        table = {**with_step(name).to_dict(), "input_shape": [32, 32]}
        path = tmp_path / f"{name}.safetensors"
        save_model(
            path, build_network(spec), {"labels": ["a"], "network": spec.to_dict(), "preprocessing": table}
        )
    assert load_model(tmp_path / "tinylab.halve.safetensors").preprocessing.steps
    with pytest.raises(
        ModelError,
        match=r"the step 'tinylab.half', which no installed package offers. Did you mean 'tinylab.halve'",
    ):
        load_model(tmp_path / "tinylab.half.safetensors")


def test_two_packages_that_offer_one_name_are_refused(tinylab: Path) -> None:
    info = tinylab / "otherlab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: otherlab\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[autoseg_lib.steps]\ntinylab.halve = elsewhere:halve\n", encoding="utf-8"
    )
    with pytest.raises(
        ModelError, match=r"offered by 2 installed packages \(elsewhere:halve, tinylab_steps:halve\)"
    ):
        load_step("tinylab.halve")


def test_a_step_cannot_write_into_the_scan(tinylab: Path) -> None:
    volume = scan()
    floats = volume.with_array(volume.array.astype(np.float32) + 1)
    part, _ = with_step("tinylab.in_place").start(floats)
    assert not part.array.any()
    np.testing.assert_array_equal(floats.array, scan().array + 1)


def test_another_version_of_a_step_is_another_result(tinylab: Path, tmp_path: Path) -> None:
    spec = NetworkSpec("2D", "light_unet", 2, (32, 32))
    image = tmp_path / "scan.png"
    image.write_bytes(b"any bytes")
    source = ImageSource("scan", "raster", (image,), ("scan",), "")
    keys, said = {}, {}
    for steps in ([], with_step("tinylab.halve").to_dict()["steps"]):
        table = {**with_step("tinylab.halve").to_dict(), "input_shape": [32, 32], "steps": steps}
        path = tmp_path / f"m{len(steps)}.safetensors"
        metadata = {"labels": ["a"], "network": spec.to_dict(), "preprocessing": table}
        save_model(path, build_network(spec), metadata)
        for version in ("1.0", "1.1"):
            text = f"Metadata-Version: 2.1\nName: tinylab\nVersion: {version}\n"
            (tinylab / "tinylab-1.0.dist-info" / "METADATA").write_text(text, encoding="utf-8")
            keys[len(steps), version] = result_key(source, model_key([path], None), {})
            said[len(steps), version] = own_packages([path], None)
    assert said[1, "1.1"] == {"tinylab.halve": "tinylab 1.1"} and said[0, "1.1"] == {}
    assert keys[1, "1.0"] != keys[1, "1.1"] and keys[0, "1.0"] == keys[0, "1.1"]
    # A step that is added by a change counts as well.
    after = {"postprocessing": [{"step": "entry_point", "name": "tinylab.halve"}]}
    assert own_packages([tmp_path / "m0.safetensors"], after) == {"tinylab.halve": "tinylab 1.1"}
    assert model_key([tmp_path / "m0.safetensors"], None) == hash_of([tmp_path / "m0.safetensors"])
