"""The data doctor stops nobody without reason, takes nothing away needlessly, and says a thing once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample
from autoseg_lib.data.doctor.gathering import MOST_OF_ONE_KIND, gathered
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.doctor.table import CHECKS
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.correcting import correct_and_check
from tests.helpers.dicom import write_series
from tests.helpers.studies import write_png_study, write_volume_study

PATTERN = r"^[a-z]\d+"


@pytest.fixture(autouse=True)
def only_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well labels fit their images has tests of its own, and takes its time."""
    kept = tuple(check for check in CHECKS if not check.function.__module__.endswith(".fitting"))
    monkeypatch.setattr("autoseg_lib.data.doctor.examine.CHECKS", kept)


def check(folder: Path, **values: object) -> CheckReport:
    return check_study(make_settings(TrainSettings, {"main_dir": str(folder), **values})).report


def of(report: CheckReport, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def part(folder: Path, kind: str, name: str) -> Path:
    return folder / "train" / kind / name


def series(folder: Path, name: str, array: np.ndarray, number: int, **options: object) -> None:
    """A DICOM series with an empty label for each slice but the first, which has a square."""
    write_series(
        part(folder, "images", name), array.astype(np.int16), step=(0, 0, 4), series=number, **options
    )
    target = part(folder, "labels", name)
    target.mkdir(parents=True)
    for index in range(array.shape[0]):
        label = np.zeros(array.shape[1:], np.uint8)
        label[5:9, 5:9] = index == 0
        Image.fromarray(label).save(target / f"slice_{index + 1:03d}.png")


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_only_images_without_a_scale_can_be_negatives(tmp_path: Path, modality: str):
    rng = np.random.default_rng(0)
    columns = np.mgrid[:32, :32][1]
    for scan in range(6):
        array = 10.0 * columns + rng.normal(0, 5, (4, 32, 32))
        own = {"modality": modality, "PatientID": f"id {scan}", "StudyInstanceUID": f"1.2.3.{scan}"}
        series(tmp_path, f"scan_{scan}", 310 - array if scan == 4 else array, scan, **own)
    accused = {sample.case for finding in of(check(tmp_path), "inverted") for sample in finding.samples}
    assert accused == ({"scan_4"} if modality == "MR" else set())


def test_padding_is_no_double(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=6, slices=3)
    rows, columns = np.mgrid[:64, :64]
    circle = np.where((rows - 32) ** 2 + (columns - 32) ** 2 < 900, 20, 0).astype(np.uint8)
    for patient in range(6):
        Image.fromarray(circle).save(part(folder, "images", f"p{patient}_0.png"))
        Image.fromarray(circle * 0).save(part(folder, "labels", f"p{patient}_0.png"))
    report = check(folder, patient_pattern=PATTERN)
    assert of(report, "same_image") == of(report, "near_image") == []


def test_a_double_stops_only_where_it_does_harm_now(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=10, slices=2)
    for kind in ("images", "labels"):
        shutil.copy(part(folder, kind, "p1_0.png"), part(folder, kind, "p1_9.png"))  # within one patient
    (finding,) = of(check(folder, patient_pattern=PATTERN), "same_image")
    assert (finding.severity, finding.details["kind"]) == ("warning", "twice")
    severities = set()
    for other in range(2, 10):
        shutil.rmtree(folder)
        write_png_study(folder, patients=10, slices=2)
        for kind in ("images", "labels"):
            shutil.copy(part(folder, kind, "p1_0.png"), part(folder, kind, f"p{other}_0.png"))
        (finding,) = of(check(folder, patient_pattern=PATTERN), "same_image")
        assert finding.severity == ("error" if finding.details["kind"] == "split" else "warning")
        severities.add(finding.severity)
    assert severities == {"error", "warning"}


def test_two_labels_of_one_image_stop_also_across_patients(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=3, slices=2)
    for patient in range(1, 3):
        shutil.copy(part(folder, "images", "p0_0.png"), part(folder, "images", f"p{patient}_0.png"))
    (finding,) = of(check(folder, patient_pattern=PATTERN), "same_image")
    assert finding.severity == "error"


def test_moments_of_one_heartbeat_are_not_left_out(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=6, slices=2)
    first = np.asarray(Image.open(part(folder, "images", "p1_0.png"))).astype(float)
    for moment in range(2, 8):
        noise = np.random.default_rng(moment).normal(0, 1, first.shape)
        Image.fromarray(np.clip(first + noise, 0, 255).astype(np.uint8)).save(
            part(folder, "images", f"p1_{moment}.png")
        )
        shutil.copy(part(folder, "labels", "p1_0.png"), part(folder, "labels", f"p1_{moment}.png"))
    (finding,) = of(check(folder, patient_pattern=PATTERN), "near_image")
    assert finding.fix is None


def test_labels_that_are_all_alike_are_made_so(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=6, slices=2)
    for path in part(folder, "labels", "").iterdir():
        if path.name != "p0_0.png":
            shutil.copy(part(folder, "labels", "p0_0.png"), path)
    (finding,) = of(check(folder, patient_pattern=PATTERN), "same_label")
    assert finding.fix is None


def test_one_odd_slice_does_not_cost_the_volume(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=2, size=16)
    path = part(folder, "images", "scan_1.nii.gz")
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array[7] = array[7] * 5 + 300
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    (finding,) = of(check(folder), "intensity_outlier")
    assert finding.fix is None


def test_an_empty_picture_without_a_label_stops_nobody(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=4, slices=3)
    for kind in ("images", "labels"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(part(folder, kind, "p1_0.png"))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(part(folder, "images", "p2_0.png"))  # its label stays
    severities = {f.files[0]: f.severity for f in of(check(folder, patient_pattern=PATTERN), "constant")}
    assert severities == {"p1_0": "warning", "p2_0": "error"}


def test_headers_that_many_carry_are_placeholders(tmp_path: Path):
    rng = np.random.default_rng(1)
    names = ["ANON"] * 8 + ["real 1", "real 2"]
    lines = ["image,label,case,patient"]
    for number, name in enumerate(names):
        series(
            tmp_path,
            f"scan_{number}",
            rng.normal(100, 20, (2, 32, 32)),
            number,
            PatientID=name,
            StudyInstanceUID=f"1.2.3.{number}",
        )
        lines.append(f"train/images/scan_{number},train/labels/scan_{number},s{number},p{number}")
    manifest = tmp_path / "study.csv"
    manifest.write_text("\n".join(lines), encoding="utf-8")
    (finding,) = of(check(manifest), "patient_conflict")
    assert finding.severity == "warning"


def test_a_label_drawn_on_another_series_of_the_patient_is_not_another_scans(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=4, size=16)
    for number in range(4):
        for kind in ("images", "labels"):
            old = part(folder, kind, f"scan_{number}.nii.gz")
            image = sitk.ReadImage(str(old))
            image.SetOrigin((3 + 0.4 * number, 0.3 * number, 0.7 * number))
            image = image[:, :, 1:15] if number % 2 else image  # another number of slices
            old.unlink()
            sitk.WriteImage(image, str(part(folder, kind, f"p{number // 2}_{'ab'[number % 2]}.nii.gz")))
    shutil.copy(part(folder, "labels", "p0_a.nii.gz"), part(folder, "labels", "p0_b.nii.gz"))
    assert [f.files for f in of(check(folder), "foreign_label")] == [("p0_b.nii.gz",)]
    assert of(check(folder, patient_pattern=PATTERN), "foreign_label") == []


def test_a_rare_roi_beyond_a_gap_can_be_kept(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=6, slices=2)
    path = part(folder, "labels", "p1_0.png")
    values = np.asarray(Image.open(path)).copy()
    values[:4, :4] = 7
    Image.fromarray(values).save(path)
    (finding,) = of(check(folder, patient_pattern=PATTERN), "label_values")
    assert "if this is an ROI that only few labels show, set label_map = {7: 3}" in finding.text
    again = check(folder, patient_pattern=PATTERN, label_map={7: 3})
    assert of(again, "label_values") == []
    assert len(again.labels) == 3


# --- many of one kind ---------------------------------------------------------------------------------------------------


def one(number: int, fix: Fix | None = None) -> Finding:
    name = f"f{number}"
    return Finding("error", "broken", f"'{name}': it is broken. Mend it.", (name,), (Sample(name),), fix)


def test_many_findings_of_a_kind_are_told_once():
    fixes = [Fix("Leave it out", (FixAction("leave_out", (Path(f"f{n}"),)),)) for n in range(500)]
    other = Finding("warning", "else", "something else")
    result = gathered([*(one(n, fix) for n, fix in enumerate(fixes)), other])
    assert result[1] is other
    assert result[0].text == (
        "'f0': it is broken. Mend it. There are 499 more findings like this: "
        "'f1', 'f2', 'f3', 'f4', 'f5' and 494 more."
    )
    assert len(result[0].files) == len(result[0].samples) == 500
    assert result[0].fix is not None
    assert result[0].fix.text == "Leave it out (500 times)"
    assert [action.files[0].name for action in result[0].fix.actions] == [f"f{n}" for n in range(500)]


def test_few_findings_of_a_kind_stay_as_they_are():
    findings = [one(n) for n in range(MOST_OF_ONE_KIND)]
    assert gathered(findings) == findings


def test_findings_with_and_without_a_fix_stay_apart():
    fix = Fix("Mend it", ())
    findings = [one(n, fix if n % 2 else None) for n in range(40)]
    assert [finding.fix is None for finding in gathered(findings)] == [True, False]


# --- more that must not be accused or lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_few_images_that_have_nothing_in_common_are_no_negatives(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    for number in range(7):
        for kind, array in (("images", rng.normal(100, 20, (48, 48))), ("labels", np.eye(48))):
            path = part(tmp_path, kind, f"p{number}_0.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)).save(path)
    assert of(check(tmp_path), "inverted") == []


def test_one_negative_among_few_is_found(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=6, slices=1)
    path = part(folder, "images", "p2_0.png")
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    (finding,) = of(check(folder), "inverted")
    assert finding.files == ("p2_0",)


@pytest.mark.parametrize(("share", "kind"), [(0.1, "clear_nan"), (0.9, "leave_out")])
def test_a_few_pixels_without_a_number_do_not_cost_the_image(tmp_path: Path, share: float, kind: str):
    folder = write_volume_study(tmp_path / "v", scans=3, size=16)
    path = part(folder, "images", "scan_1.nii.gz")
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    array[np.random.default_rng(0).random(array.shape) < share] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    study = check_study(make_settings(TrainSettings, {"main_dir": str(folder)}))
    (finding,) = of(study.report, "nan")
    assert finding.fix is not None
    assert [action.kind for action in finding.fix.actions] == [kind]
    _, again = correct_and_check(study, tmp_path / "fixed")
    assert of(again.report, "nan") == []
    assert len(again.report.facts) == (3 if kind == "clear_nan" else 2)


def test_left_and_right_are_no_negatives_of_each_other(tmp_path: Path):
    """Limbs on a dark ground: right ones lie where the ground of the left ones is."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for number in range(20):
        limb = (rows - 32) ** 2 / 400 + (columns - (18 if number % 3 else 46)) ** 2 / 100 < 1
        for kind, array in (("images", 20 + 150 * limb + rng.normal(0, 4, (64, 64))), ("labels", limb)):
            path = part(tmp_path, kind, f"p{number}_0.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)).save(path)
    assert of(check(tmp_path), "inverted") == []


def test_the_button_says_which_numbers_change(tmp_path: Path):
    folder = write_png_study(tmp_path / "s", patients=4, slices=2)
    for path in part(folder, "labels", "").iterdir():
        Image.fromarray(np.array([0, 63, 126], np.uint8)[np.asarray(Image.open(path))]).save(path)
    (finding,) = of(check(folder), "label_values")
    assert finding.fix is not None
    assert finding.fix.text == "Renumber 8 label files (63 → 1, 126 → 2)"
