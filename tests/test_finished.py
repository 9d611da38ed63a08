"""Finding an earlier run again, and reading its masks back."""

import numpy as np
import pytest

from autoseg_lib.data.discover import discover
from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import DataError
from autoseg_lib.export.masks import write_masks, write_nifti
from autoseg_lib.export.run_folder import open_run
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_write import write_dicom_series
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.finished import choose_run_folder, read_mask, result_key, run_name

SETTINGS = {"tta": False, "input_dir": "a", "predictions_dir": "b"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_example_study(tmp_path_factory.mktemp("runs") / "study", scans=2)


@pytest.fixture
def finished(study, tmp_path):
    """A predictions folder with one finished run of lumbar_01."""
    folder = study.folder / "train" / "images" / "lumbar_01"
    found = discover(folder)
    run = open_run(tmp_path / "predictions" / "lumbar_01")
    run.begin_case("lumbar_01")
    run.remember_case("lumbar_01", [], result_key(found.sources[0], "model 1", SETTINGS))
    run.save()
    return folder, found, tmp_path / "predictions"


def test_same_input_model_and_settings_are_continued(finished):
    folder, found, predictions = finished
    chosen = choose_run_folder(predictions, folder, found, "model 1", {**SETTINGS, "input_dir": "elsewhere"})
    assert chosen == (predictions / "lumbar_01", "continue")


@pytest.mark.parametrize(
    ("model", "settings"), [("model 2", SETTINGS), ("model 1", {**SETTINGS, "tta": True})]
)
def test_another_model_or_setting_gets_a_new_folder(finished, model, settings):
    folder, found, predictions = finished
    assert choose_run_folder(predictions, folder, found, model, settings) == (
        predictions / "lumbar_01_2",
        "new",
    )


def test_another_scan_in_a_folder_of_the_same_name_gets_a_new_folder(finished, study, tmp_path):
    _, _, predictions = finished
    other = tmp_path / "other" / "lumbar_01"
    other.parent.mkdir()
    (study.folder / "test" / "images" / "lumbar_02").rename(other)
    try:
        chosen = choose_run_folder(predictions, other, discover(other), "model 1", SETTINGS)
    finally:
        other.rename(study.folder / "test" / "images" / "lumbar_02")
    assert chosen == (predictions / "lumbar_01_2", "new")


def test_a_folder_named_after_the_patient_gives_no_name_away(tmp_path):
    folder = tmp_path / "Doe Jane 1980"
    geometry = Geometry.from_spacing(
        (3, 8, 8), (2, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
    )
    write_dicom_series(
        folder, np.ones((3, 8, 8), np.int16), geometry, patient_name="Doe^Jane", patient_id="X77"
    )
    name = run_name(folder, discover(folder))
    assert name.startswith("case_")
    assert "doe" not in name.lower()


@pytest.mark.parametrize("kind", ["png", "npy", "nifti"])
def test_masks_come_back_as_they_were(finished, tmp_path, kind):
    _, found, _ = finished
    scan = load_scan(found.sources[0])
    array = np.random.default_rng(0).integers(0, 7, scan.volume.array.shape).astype(np.uint8)
    mask = Mask(array, scan.volume.geometry)
    write_masks(tmp_path, mask, scan.slice_names, [kind])
    if kind == "nifti":
        write_nifti(tmp_path / "segmentation.nii.gz", scan, mask)
    np.testing.assert_array_equal(read_mask(tmp_path, scan).array, array)


def test_masks_that_are_gone_are_said(finished, tmp_path):
    _, found, _ = finished
    with pytest.raises(DataError, match="mask files are not there any more"):
        read_mask(tmp_path, load_scan(found.sources[0]))
