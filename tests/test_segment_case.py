"""One scan through everything, with a network that has learned nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg_lib.data.discover import discover
from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.events import StopFlag, nobody
from autoseg_lib.io.volume_files import write_mask_file
from autoseg_lib.networks.model_file import load_model, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.settings import SegmentSettings, make_settings, to_table
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.finished import result_key
from autoseg_lib.workflow.model_choice import make_predictor
from autoseg_lib.workflow.segment_case import CaseSegmenter
from autoseg_lib.workflow.segmenting import segment
from tests.helpers.made_runs import made_scan


def model_file(tmp_path: Path, names: dict[str, str]) -> Path:
    spec = NetworkSpec("2D", "light_unet", 4, (32, 32))
    torch.manual_seed(0)
    metadata = {
        "labels": ["psoas_left", "spine", "psoas_right"],
        "network": spec.to_dict(),
        "preprocessing": {"dimension": "2D", "intensity": {"kind": "zscore"}, "input_shape": [32, 32]},
        "structure_names": names,
    }
    path = tmp_path / "m_best.safetensors"
    save_model(path, build_network(spec), metadata)
    return path


def segmenter(tmp_path: Path, names: dict[str, str]) -> CaseSegmenter:
    model, settings = load_model(model_file(tmp_path, names)), SegmentSettings()
    return CaseSegmenter(model, "hash", settings, make_predictor(model, settings, []))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        ({}, ((1, 3),)),
        ({"psoas_left": "PSM_1", "psoas_right": "PSM_2"}, ((1, 3),)),
        # The names that are shown come first: whoever reads "left" means the ROI of that name.
        ({"psoas_left": "psoas right", "psoas_right": "psoas left"}, ((3, 1),)),
        ({"psoas_left": "muscle left", "spine": "muscle right"}, ((1, 2),)),
    ],
)
def test_sides_are_compared_whatever_they_are_called(
    tmp_path: Path, names: dict[str, str], pairs: tuple[tuple[int, int], ...]
) -> None:
    case = segmenter(tmp_path, names)
    assert case.pairs == pairs
    volume, _ = made_scan(3, 32)
    scan = Scan("scan_1", volume, volume.geometry, ("a", "b", "c"), ("", "", ""), "volume", "")
    measured = case.measure(scan, case.answer(scan, nobody, StopFlag()))
    rows = {row.label: row for row in measured.volumes}
    left, right = (rows[value] for value in pairs[0])
    ours, theirs = left.volume_ml or 0.0, right.volume_ml or 0.0
    assert ours + theirs > 0, "the network says something"
    for row in (left, right):
        assert row.volume_difference_ml == pytest.approx(ours - theirs)
        assert row.asymmetry_percent == pytest.approx(200 * (ours - theirs) / (ours + theirs))
    (other,) = set(rows) - set(pairs[0])
    assert rows[other].asymmetry_percent is None
    assert np.isfinite([ours, theirs]).all()


# --- a mask that says which part to work on ------------------------------------------------------------------------------

TO_MASK = {"preprocessing.crop.to": "mask"}


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Path]:
    """Two scans, and a folder with a mask for the first."""
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    scans.mkdir()
    masks.mkdir()
    for number, name in enumerate(("first", "second")):
        volume, _ = made_scan(3, 32, seed=number)
        write_mask_file(
            scans / f"{name}.nii.gz", Mask(volume.array.clip(0).astype(np.uint16), volume.geometry)
        )
    write_region(masks / "first.nii.gz", (slice(1, 3), slice(4, 20), slice(10, 30)))
    return scans, masks


def write_region(path: Path, box: tuple[slice, slice, slice]) -> None:
    volume, _ = made_scan(3, 32)
    region = np.zeros(volume.array.shape, np.uint8)
    region[box] = 7
    region[box[0].start, 8:10, 12:14] = 0  # the box around it counts, not its holes
    write_mask_file(path, Mask(region, volume.geometry))


def settings_with(**values: object) -> SegmentSettings:
    return make_settings(SegmentSettings, {"formats": ["nifti"], **values})


def test_only_the_box_around_a_mask_is_worked_on(study: tuple[Path, Path], tmp_path: Path) -> None:
    scans, masks = study
    model, settings = model_file(tmp_path, {}), settings_with(region_masks=str(masks), pipeline=TO_MASK)
    result = segment(scans, model, tmp_path / "out", settings)
    assert [case.name for case in result.cases] == ["first"]
    found = result.cases[0].mask.array != 0
    inside = np.zeros_like(found)
    inside[1:3, 4:20, 10:30] = True
    assert found[inside].any() and not found[~inside].any()
    # As if that part were all there is.
    steps = load_model(model)
    part = made_scan(3, 32)[0].cut((slice(1, 3), slice(4, 20), slice(10, 30)))
    alone = make_predictor(steps, settings, []).predict(part.with_array(part.array.clip(0)))
    np.testing.assert_array_equal(result.cases[0].mask.array[1:3, 4:20, 10:30], alone.array)
    ((name, reason),) = result.failures
    assert name == "second" and "region_masks holds no mask of this scan's name" in reason


def test_another_mask_to_crop_to_is_another_result(study: tuple[Path, Path], tmp_path: Path) -> None:
    scans, masks = study
    settings = to_table(settings_with(region_masks=str(masks), pipeline=TO_MASK))
    first, second = discover(scans).sources
    before = [result_key(source, "m", settings) for source in (first, second)]
    write_region(masks / "first.nii.gz", (slice(1, 3), slice(4, 20), slice(10, 31)))
    after = [result_key(source, "m", settings) for source in (first, second)]
    assert before[0] != after[0] and before[1] == after[1]


def test_crop_to_a_mask_and_the_folder_of_masks_go_together(study: tuple[Path, Path], tmp_path: Path) -> None:
    scans, masks = study
    model, out = model_file(tmp_path, {}), tmp_path / "out"
    with pytest.raises(SettingsError, match='to = "mask" needs the setting region_masks'):
        segment(scans, model, out, settings_with(pipeline=TO_MASK))
    with pytest.raises(
        SettingsError, match="the model does not crop to a mask, so these masks would do nothing"
    ):
        segment(scans, model, out, settings_with(region_masks=str(masks)))
    with pytest.raises(DataError, match="not found"):
        segment(scans, model, out, settings_with(region_masks=str(tmp_path / "no"), pipeline=TO_MASK))
    assert not out.exists()
