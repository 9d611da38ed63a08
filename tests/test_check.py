"""The data check: every fault is found, all at once, with the words that lead to its remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.workflow.checking import check_study
from tests.helpers.real_data import real_data
from tests.helpers.studies import write_png_study, write_volume_study


def check(folder: Path, **values: object) -> CheckReport:
    return check_study(make_settings(TrainSettings, {"main_dir": str(folder), **values})).report


def texts(report: CheckReport, severity: str) -> str:
    return "\n".join(finding.text for finding in report.findings if finding.severity == severity)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_png_study(tmp_path / "étude deux", patients=3, slices=2)


def label(folder: Path, name: str) -> Path:
    return folder / "train" / "labels" / name


def test_example_study_is_sound(tmp_path: Path):
    study = write_example_study(tmp_path / "ex", scans=3)
    report = check(study.folder, labels_list=list(study.roi_names))
    assert report.findings == () or texts(report, "error") == ""
    assert report.summary.startswith("18 images, 18 labels, 18 pairs, 2 patients, MR")
    assert [row.slices for row in report.roi_rows] == [18] * 6


def test_counts_and_areas_by_hand(folder: Path):
    """Two labels replaced by squares of known size, 2 mm pixels; the other patients' labels emptied of ROI 2."""
    for path in (folder / "train" / "labels").iterdir():
        square = np.zeros((64, 64), np.uint8)
        square[10:20, 10:20] = 1
        Image.fromarray(square).save(path)
    report = check(folder, spacing_mm=2.0, patient_pattern=r"p\d", num_labels=1)
    (row,) = report.roi_rows
    assert (row.slices, row.cases, row.median_area_mm2) == (6, 6, 400.0)
    assert row.share_percent == pytest.approx(100 * 100 / 64**2, abs=1e-3)


def test_value_above_num_labels(folder: Path):
    values = np.zeros((64, 64), np.uint8)
    values[5:9, 5:9] = 3
    values[20:24, 5:9] = 9
    Image.fromarray(values).save(label(folder, "p1_0.png"))
    report = check(folder, num_labels=6)
    assert (
        "label 'p1_0.png': found the values 0, 3, 9; with num_labels = 6 the values 0 to 6 are expected. "
        "Correct the file, or set num_labels = 9."
    ) in texts(report, "error").replace("label 'p1_0'", "label 'p1_0.png'")


def test_missing_rois_are_named(folder: Path):
    report = check(folder, labels_list=["bright", "dark", "liver", "spleen"])
    assert "found in no label: 'liver' (value 3), 'spleen' (value 4)." in texts(report, "error")


def test_gaps_and_codes_need_a_decision(folder: Path):
    for path in (folder / "train" / "labels").iterdir():
        values = np.asarray(Image.open(path))
        Image.fromarray((values > 0).astype(np.uint8) * 255).save(path)
    report = check(folder)
    assert "the label files hold the values 0, 255" in texts(report, "error")


def test_all_faults_at_once(folder: Path):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(label(folder, "p0_0.png"))
    label(folder, "p0_1.png").rename(label(folder, "P0_01.png"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8) + np.arange(3, dtype=np.uint8)).save(
        label(folder, "p1_0.png")
    )
    np.save(label(folder, "p1_1.npy"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    label(folder, "p1_1.png").unlink()
    (folder / "train" / "images" / "p2_0.png").write_bytes(b"not a picture")
    errors = texts(check(folder), "error")
    assert "label 'p0_0.png' is 32×32, image 'p0_0.png' is 64×64" in errors
    assert "P0_01.png" in errors
    assert "p1_0.png" in errors
    assert "p1_1.npy" in errors
    assert "found Python objects instead of numbers" in errors
    assert "p2_0.png" in errors


def test_orphans_are_listed_by_name(folder: Path):
    label(folder, "p1_0.png").unlink()
    report = check(folder)
    assert not report.has_errors
    assert "'p1_0.png'" in texts(report, "warning")


@pytest.mark.parametrize("make_empty", [True, False])
def test_nothing_to_train_on(tmp_path: Path, make_empty: bool):
    folder = tmp_path / "empty"
    folder.mkdir()
    if not make_empty:
        write_png_study(folder, patients=1, slices=1)
        label(folder, "p0_0.png").rename(label(folder, "zzz.png"))
    report = check(folder)
    assert report.has_errors
    text = texts(report, "error")
    assert (
        "no train/images (or train/dicoms)" in text
        if make_empty
        else "no image has a label of the same name" in text
    )


def test_missing_folder(tmp_path: Path):
    report = check(tmp_path / "nowhere")
    assert "nowhere" in texts(report, "error")


def test_nan_and_constant_images(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=3, size=12)
    images = folder / "train" / "images"
    array = np.ones((12, 12, 12), np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(images / "scan_0.nii.gz"))
    array = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    array[3, 4, 5:8] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(images / "scan_1.nii.gz"))
    errors = texts(check(folder), "error")
    assert "'scan_0': the image is one single grey value" in errors
    assert "'scan_1': found 3 pixels without a number (NaN or infinite)" in errors


def test_label_of_another_grid(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=2, size=12)
    path = folder / "train" / "labels" / "scan_0.nii.gz"
    moved = sitk.ReadImage(str(path))
    moved.SetOrigin((0, 0, 30))
    sitk.WriteImage(moved, str(path))
    assert "scan_0.nii.gz" in texts(check(folder), "error")


def test_no_spacing_is_a_warning_that_names_the_remedy(folder: Path):
    warnings = texts(check(folder), "warning")
    assert "have no pixel spacing" in warnings
    assert "fov and matrix_size" in warnings
    assert "have no pixel spacing" not in texts(check(folder, fov=128, matrix_size=64), "warning")


def test_one_patient_is_a_warning(folder: Path):
    report = check(folder, patient_pattern=r"p")
    assert not report.has_errors
    assert "'same scan'" in texts(report, "warning")


def test_jpg_labels(folder: Path):
    clean = np.zeros((64, 64), np.uint8)
    clean[16:32, 16:32] = 255
    for path in sorted((folder / "train" / "labels").iterdir()):
        Image.fromarray(clean).save(path.with_suffix(".jpg"), quality=100, subsampling=0)
        path.unlink()
    report = check(folder, num_labels=1)
    assert not report.has_errors
    assert "PNG" in texts(report, "warning")
    small = (clean > 0).astype(np.uint8) * 2
    Image.fromarray(small).save(label(folder, "p0_0.jpg"), quality=60)
    assert "cannot be told apart" in texts(check(folder, num_labels=2), "error")


@pytest.mark.real_data
def test_cine_series_is_refused_for_3d_only(tmp_path: Path):
    source = real_data("sunnybrook_cardiac")
    folder = tmp_path / "cine"
    shutil.copytree(source / "images", folder / "train" / "dicoms")
    shutil.copytree(source / "labels", folder / "train" / "labels")
    assert not check(folder, dimension="2D").has_errors
    assert "several images at one position" in texts(check(folder, dimension="3D"), "error")


@pytest.mark.real_data
def test_real_orphans_and_a_clean_real_set(tmp_path: Path):
    source = real_data("hippocampus_msd")
    folder = tmp_path / "hippo"
    for kind in ("images", "labels"):
        (folder / "train" / kind).mkdir(parents=True)
        for name in ("hippocampus_001", "hippocampus_003", "hippocampus_004"):
            shutil.copy(source / kind / f"{name}.nii.gz", folder / "train" / kind)
    odd = source / "odd_ones"
    shutil.copy(
        odd / "image_without_label_hippocampus_118.nii.gz",
        folder / "train" / "images" / "hippocampus_118.nii.gz",
    )
    shutil.copy(
        odd / "label_without_image_hippocampus_010.nii.gz",
        folder / "train" / "labels" / "hippocampus_010.nii.gz",
    )
    report = check(folder, labels_list=["anterior", "posterior"])
    warnings = texts(report, "warning")
    assert "hippocampus_118" in warnings
    assert "hippocampus_010" in warnings
    assert [row.cases for row in report.roi_rows] == [3, 3]
    # 1 mm³ voxels: volumes.csv gives 1324, 1550 and 1832 mm³ of anterior hippocampus for these three.
    pixels = sum(count.get(1, 0) for facts in report.facts for count in facts.counts)
    assert pixels == 1324 + 1550 + 1832


def test_pictures_that_do_not_say_whose_they_are(folder: Path):
    assert "each counts as a patient of its own" in texts(check(folder), "warning")
    assert "each counts as" not in texts(check(folder, patient_pattern=r"p\d"), "warning")


def test_folders_of_other_names_are_told_by_folder(tmp_path: Path):
    study = write_example_study(tmp_path / "ex", scans=3)
    scans = sorted(path.name for path in (study.folder / "train" / "labels").iterdir())
    for name in scans:
        (study.folder / "train" / "labels" / name).rename(study.folder / "train" / "labels" / f"x{name}")
    errors = texts(check(study.folder), "error")
    assert "no scan folder among the labels has the name of one among the images" in errors
    assert f"first image: '{scans[0]}/IM_0001.dcm', first label: 'x{scans[0]}/IM_0001.png'" in errors


def test_one_roi_marked_with_255_is_told_as_such(folder: Path):
    for path in (folder / "train" / "labels").iterdir():
        values = np.asarray(Image.open(path))
        Image.fromarray((values > 0).astype(np.uint8) * 255).save(path)
    report = check(folder)
    assert "the label files hold the values 0, 255" in texts(report, "error")
    assert "These look like codes for 1 ROI. If so, set label_map = {255: 1}." in texts(report, "error")
    (finding,) = [item for item in report.findings if item.code == "label_values"]
    assert finding.details["label_map"] == {255: 1}
    assert report.roi_rows == ()


def test_a_patient_pattern_that_tells_nobody_apart(folder: Path):
    assert "finds 6 patients in 6 images" in texts(check(folder, patient_pattern=r"^.*$"), "warning")
