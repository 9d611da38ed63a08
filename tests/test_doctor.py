"""The data doctor finds every planted fault, accuses no clean sample, and its corrected copy is clean of what it fixed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.doctor.table import CHECKS
from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.workflow.checking import Study, check_study
from autoseg_lib.workflow.correcting import correct_and_check
from tests.helpers import faults
from tests.helpers.dicom import write_series
from tests.helpers.real_data import real_data
from tests.helpers.studies import write_png_study, write_volume_study

PATTERN = r"^[a-z]\d+"


def study(folder: Path, **values: object) -> Study:
    return check_study(make_settings(TrainSettings, {"main_dir": str(folder), **values}))


def found(report: CheckReport, code: str) -> set[str]:
    """Names of the samples and files (without suffix) of all findings of a kind."""
    names = set()
    for finding in report.findings:
        if finding.code == code:
            names |= {Path(name).stem for name in finding.files} | {sample.case for sample in finding.samples}
    return names


def codes(report: CheckReport) -> set[str]:
    return {finding.code for finding in report.findings}


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def only_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well labels fit their images has tests of its own, and takes its time."""
    kept = tuple(check for check in CHECKS if not check.function.__module__.endswith(".fitting"))
    monkeypatch.setattr("autoseg_lib.data.doctor.examine.CHECKS", kept)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of 10 patients."""
    return write_png_study(tmp_path_factory.mktemp("clean") / "study", patients=10, slices=4, size=128)


def spoilt(clean: Path, place: Path, planter: faults.Planter, count: int) -> tuple[Path, set[str]]:
    folder = place / "étude 1"
    shutil.copytree(clean, folder)
    everyone = sorted(path.stem for path in (folder / "train" / "images").iterdir())
    chosen = np.random.default_rng(count).choice(everyone[1::2], count, replace=False)
    return folder, planter(folder, sorted(str(name) for name in chosen))


def test_clean_pictures_are_called_clean(clean: Path):
    report = study(clean, patient_pattern=PATTERN, spacing_mm=1.0).report
    assert codes(report) <= {"reading"}  # the pixel size is taken from the settings, which is said
    assert {finding.code for finding in report.fine} >= {"pairing", "label_values", "same_image", "inverted"}


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("fault", [*faults.EXACT, *faults.STATISTICAL])
def test_every_planted_fault_is_found_and_nobody_accused(clean: Path, tmp_path: Path, fault: str, count: int):
    planter, code, fixable = {**faults.EXACT, **faults.STATISTICAL}[fault]
    folder, planted = spoilt(clean, tmp_path, planter, count)
    before = hashes(folder)
    checked = study(folder, patient_pattern=PATTERN)
    if code == "near_miss":  # files of near misses are labels, whose names differ
        assert sum(len(f.files) for f in checked.report.findings if f.code == code) == len(planted)
    else:
        assert found(checked.report, code) == planted
    if not fixable:
        return
    log, again = correct_and_check(checked, tmp_path / "fixed")
    assert code not in codes(again.report)
    assert not again.report.has_errors
    assert log.changes
    assert hashes(folder) == before


def test_all_faults_together(clean: Path, tmp_path: Path):
    """Every exact fault in samples of its own, in one folder."""
    folder = tmp_path / "study"
    shutil.copytree(clean, folder)
    everyone = sorted(path.stem for path in (folder / "train" / "images").iterdir())[1::2]
    expected = {}
    for name, (fault, (planter, code, _)) in zip(everyone, faults.EXACT.items(), strict=False):
        expected[fault] = (code, planter(folder, [name]))
    checked = study(folder, patient_pattern=PATTERN)
    for fault, (code, planted) in expected.items():
        if code != "near_miss":
            assert planted <= found(checked.report, code), fault
    log, again = correct_and_check(checked, tmp_path / "fixed")
    assert not again.report.has_errors
    assert codes(again.report) <= {"empty_labels", "roi_at_border", "spacing", "few_cases"}
    assert log.failed == ()


# --- volumes and series -----------------------------------------------------------------------------------------------


def volume_study(tmp_path: Path, scans: int = 6) -> Path:
    return write_volume_study(tmp_path / "volumes", scans=scans, size=16)


def rewrite(path: Path, change: object, **header: object) -> None:
    image = sitk.ReadImage(str(path))
    result = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))  # type: ignore[operator]
    result.CopyInformation(image)
    for name, value in header.items():
        getattr(result, f"Set{name}")(value)
    sitk.WriteImage(result, str(path))


def test_volumes_with_one_fault_each(tmp_path: Path):
    folder = volume_study(tmp_path, 8)
    images, labels = folder / "train" / "images", folder / "train" / "labels"
    for number in range(8):  # places that differ, so that a label can be told to be another scan's
        for part in (images, labels):
            rewrite(part / f"scan_{number}.nii.gz", lambda a: a, Origin=(3.0 * number, 0, 0))

    def with_nan(array: np.ndarray) -> np.ndarray:
        array[2, 3, 4] = np.nan
        return array

    rewrite(images / "scan_0.nii.gz", with_nan)
    rewrite(labels / "scan_1.nii.gz", lambda a: a * 0)
    rewrite(images / "scan_2.nii.gz", lambda a: a, Spacing=(4.0, 4.0, 1.0))
    rewrite(labels / "scan_2.nii.gz", lambda a: a, Spacing=(4.0, 4.0, 1.0))
    first, second = (labels / f"scan_{n}.nii.gz" for n in (3, 4))
    content = first.read_bytes(), second.read_bytes()
    second.write_bytes(content[0])
    first.write_bytes(content[1])
    checked = study(folder)
    assert found(checked.report, "nan") == {"scan_0"}
    assert found(checked.report, "empty_labels") == {"scan_1"}
    assert found(checked.report, "spacing_outlier") == {"scan_2"}
    assert {
        sample.case for f in checked.report.findings if f.code == "foreign_label" for sample in f.samples
    } == {
        "scan_3",
        "scan_4",
    }
    log, again = correct_and_check(checked, tmp_path / "fixed")
    assert not codes(again.report) & {"nan", "empty_labels", "foreign_label"}
    assert (tmp_path / "fixed" / "train" / "labels" / "scan_3.nii.gz").read_bytes() == content[0]
    assert {change.what for change in log.changes} >= {"changed places"}


def test_a_label_volume_of_another_size(tmp_path: Path):
    folder = volume_study(tmp_path)
    for part in ("images", "labels"):  # a place of its own, as scanners write it
        rewrite(folder / "train" / part / "scan_2.nii.gz", lambda a: a, Origin=(3.0, 0, 0))
    path = folder / "train" / "labels" / "scan_2.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((16, 16, 9), np.uint8)), str(path))
    checked = study(folder)
    assert found(checked.report, "size_mismatch") == {"scan_2", "scan_2.nii"}  # case, and files without .gz
    assert len(checked.report.facts) == 5


def series_study(tmp_path: Path, scans: int = 5, slices: int = 8, **options: object) -> Path:
    """DICOM series of discs that wander, with PNG labels; patients by PatientID."""
    folder = tmp_path / "series"
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for scan in range(scans):
        array = rng.normal(100, 5, (slices, 48, 48))
        masks = np.zeros((slices, 48, 48), np.uint8)
        for index in range(slices):
            disc = (rows - 20 - index) ** 2 + (columns - 22 - scan) ** 2 < 80
            masks[index][disc] = 1
            array[index][disc] += 200
        write_series(
            folder / "train" / "images" / f"scan_{scan}",
            array.astype(np.int16),
            step=(0, 0, 4),
            series=scan,
            **{"PatientID": f"id {scan}", "StudyInstanceUID": f"1.2.3.{scan}", **options},
        )
        target = folder / "train" / "labels" / f"scan_{scan}"
        target.mkdir(parents=True)
        for index in range(slices):
            Image.fromarray(masks[index]).save(target / f"slice_{index + 1:03d}.png")
    return folder


def test_series_are_called_clean(tmp_path: Path):
    assert codes(study(series_study(tmp_path)).report) <= {"same_label"}


def test_slices_missing_and_rois_missing_in_the_middle(tmp_path: Path):
    folder = series_study(tmp_path)
    for kind, suffix in (("images", "dcm"), ("labels", "png")):
        (folder / "train" / kind / "scan_1" / f"slice_004.{suffix}").unlink()
    gap = folder / "train" / "labels" / "scan_3" / "slice_005.png"
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(gap)
    report = study(folder).report
    assert found(report, "missing_slices") == {"scan_1"}
    (finding,) = [f for f in report.findings if f.code == "roi_gap"]
    assert [(s.case, s.slice_index) for s in finding.samples] == [("scan_3", 4)]


def test_one_patient_under_two_names(tmp_path: Path):
    folder = series_study(tmp_path)
    lines = ["image,label,case,patient"]
    for scan in range(5):
        lines.append(f"train/images/scan_{scan},train/labels/scan_{scan},s{scan},p{scan}")
    manifest = folder / "study.csv"
    manifest.write_text("\n".join(lines), encoding="utf-8")
    assert "patient_conflict" not in codes(study(manifest).report)
    shutil.rmtree(folder / "train" / "images" / "scan_4")
    shutil.copytree(folder / "train" / "images" / "scan_0", folder / "train" / "images" / "scan_4")
    report = study(manifest).report
    assert found(report, "patient_conflict") >= {"s0", "s4"}
    assert "same_image" in codes(report)


def test_another_plane_and_a_dark_slice(tmp_path: Path):
    folder = series_study(tmp_path, scans=5)
    rng = np.random.default_rng(5)
    array = rng.normal(100, 5, (8, 48, 48)).astype(np.int16)
    shutil.rmtree(folder / "train" / "images" / "scan_2")
    write_series(
        folder / "train" / "images" / "scan_2",
        array,
        step=(0, 4, 0),
        orientation=(1, 0, 0, 0, 0, -1),
        series=2,
        PatientID="id 2",
    )
    report = study(folder).report
    assert found(report, "orientation_outlier") == {"scan_2"}


def test_grey_values_that_jump_within_a_scan(tmp_path: Path):
    folder = volume_study(tmp_path, 2)

    def jump(array: np.ndarray) -> np.ndarray:
        array[7] = array[7] * 5 + 300
        return array

    rewrite(folder / "train" / "images" / "scan_1.nii.gz", jump)
    (finding,) = [f for f in study(folder).report.findings if f.code == "intensity_outlier"]
    (sample,) = finding.samples
    assert sample.case == "scan_1"


def test_another_modality_among_many(tmp_path: Path):
    folder = series_study(tmp_path)
    for path in sorted((folder / "train" / "images" / "scan_4").iterdir()):
        path.unlink()
    array = np.random.default_rng(1).normal(100, 5, (8, 48, 48)).astype(np.int16)
    write_series(folder / "train" / "images" / "scan_4", array, step=(0, 0, 4), series=4, modality="CT")
    assert found(study(folder).report, "modalities") == {"scan_4"}


# --- ROIs and amounts -------------------------------------------------------------------------------------------------


def test_small_rare_and_unequal_rois(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=10, slices=4, size=300)
    for number, path in enumerate(sorted((folder / "train" / "labels").iterdir())):
        values = np.asarray(Image.open(path)).copy()
        values[10:12, 10] = 3  # 2 pixels, 1.5 at the network's 256
        if number < 2:
            values[250:260, 250:260] = 4
        Image.fromarray(values).save(path)
    report = study(folder, labels_list=["left kidney", "spleen", "stone", "cyst"]).report
    assert "'stone' is smaller than 4 pixels" in _text(report, "roi_vanishes")
    assert "'cyst' is drawn in 2 of 40 scans only" in _text(report, "rare_roi")
    assert "'stone' has" in _text(report, "imbalance")
    assert "'left kidney': named as one side" in _text(report, "side_alone")
    assert "roi_vanishes" not in codes(study(folder, input_shape=[512, 512]).report)


def _text(report: CheckReport, code: str) -> str:
    return "\n".join(finding.text for finding in report.findings if finding.code == code)


def test_few_slices_are_said(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=2, slices=2)
    assert "4 slices show an ROI" in _text(study(folder).report, "few_cases")
    assert "few_cases" in codes(study(volume_study(tmp_path, 3), dimension="3D").report)


def test_volumes_that_do_not_say_whose_they_are(tmp_path: Path):
    assert "6 scans do not say whose they are" in _text(
        study(volume_study(tmp_path)).report, "unknown_patients"
    )


def test_names_beside_the_data_are_used_when_they_fit(tmp_path: Path):
    made = write_example_study(tmp_path / "ex", scans=2)
    report = study(made.folder).report
    assert report.labels.names == made.roi_names
    assert any("labels.csv in the data folder" in finding.text for finding in report.fine)
    (made.folder / "labels.csv").write_text("value,name\n1,liver\n", encoding="utf-8")
    (made.folder / "settings.yaml").unlink()
    assert report.labels.names != study(made.folder).report.labels.names


# --- real scans -------------------------------------------------------------------------------------------------------


def real_study(tmp_path: Path, images: Path, labels: Path, most: int = 1000) -> Path:
    folder = tmp_path / "study"
    for kind, source in (("images", images), ("labels", labels)):
        (folder / "train" / kind).mkdir(parents=True)
        for file in sorted(source.iterdir())[:most]:
            (folder / "train" / kind / file.name).symlink_to(file.resolve())
    return folder


@pytest.mark.real_data
def test_liver_ct_is_clean_but_for_its_ends(tmp_path: Path):
    source = real_data("chaos_ct_liver")
    report = study(real_study(tmp_path, source / "images", source / "labels")).report
    assert not report.has_errors
    assert codes(report) == {"empty_labels", "one_patient"}
    (empty,) = [f for f in report.findings if f.code == "empty_labels"]
    assert len(empty.samples) == 7  # README: slices 000 to 006


@pytest.mark.real_data
def test_cine_slices_without_myocardium_are_found(tmp_path: Path):
    """The README's own trait: only end-diastole has an epicardial contour."""
    source = real_data("sunnybrook_cardiac")
    report = study(real_study(tmp_path, source / "images", source / "labels")).report
    assert not report.has_errors
    (gap,) = [f for f in report.findings if f.code == "roi_gap"]
    rows = next(row for row in report.roi_rows if row.value == 2)
    assert len(gap.samples) == sum(len(f.slices) for f in report.facts) - rows.slices
    assert codes(report) <= {"roi_gap", "reading"}


@pytest.mark.real_data
def test_pictures_of_hearts_are_clean_but_for_what_they_do_not_say(tmp_path: Path):
    source = real_data("sunnybrook_png") / "train"
    report = study(
        real_study(tmp_path, source / "images", source / "labels", 200), patient_pattern=r"^.*(?=-IM-)"
    ).report
    assert not report.has_errors
    assert codes(report) <= {"spacing", "near_image"}
    assert len(found(report, "near_image")) <= 0.02 * len(report.facts)


@pytest.mark.real_data
def test_hippocampus_volumes_are_clean(tmp_path: Path):
    source = real_data("hippocampus_msd")
    report = study(real_study(tmp_path, source / "images", source / "labels", 60)).report
    assert codes(report) == {"unknown_patients"}


@pytest.mark.parametrize("seed", [0, 3])
def test_the_example_study_is_clean(tmp_path: Path, seed: int):
    made = write_example_study(tmp_path / "ex", scans=5, seed=seed)
    assert codes(study(made.folder).report) == set()
