"""``autoseg measure`` from files to tables: layouts, names, geometry, and figures known from elsewhere."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autoseg_lib import cli
from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.errors import DataError, ExportError, SettingsError
from autoseg_lib.export.masks import write_masks, write_nifti
from autoseg_lib.export.report import build_run_report, case_report, write_json
from autoseg_lib.export.run_folder import open_run
from autoseg_lib.export.tables import write_measurements
from autoseg_lib.io.segments import identity_in
from autoseg_lib.io.volume_files import write_mask_file, write_volume_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.volume import reorient
from autoseg_lib.workflow.measuring import measure_masks
from tests.helpers.dicom import write_series
from tests.helpers.named_labels import write_rtstruct
from tests.helpers.real_data import real_data
from tests.helpers.scans import small_scan


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_slices(folder: Path, array: np.ndarray, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, plane in zip(names, array, strict=True):
        Image.fromarray(plane).save(folder / f"{name}.png")


def test_a_volume_mask_is_measured_on_its_own_grid(tmp_path: Path) -> None:
    _, mask = small_scan()
    (tmp_path / "masks").mkdir()
    write_mask_file(tmp_path / "masks" / "scan_1.nii.gz", reorient(mask, "RIP"))
    result = measure_masks(tmp_path / "masks", tmp_path / "out", labels=["psoas left", "psoas right"])
    # 50 and 8 pixels of 2 × 1 × 4 mm.
    assert [(row.case, row.roi, row.volume_mm3) for row in result.volumes] == [
        ("scan_1", "psoas left", pytest.approx(400)),
        ("scan_1", "psoas right", pytest.approx(64)),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "csa_results.csv",
        "measurements.csv",
        "report.html",
        "run_report.json",
        "volumes.csv",
    ]
    rows = table(tmp_path / "out" / "csa_results.csv")
    assert [row["slice"] for row in rows][-3:] == ["slice number 4", "mean", "std"]
    assert [row["psoas left"] for row in rows] == ["0.0", "50.0", "50.0", "0.0", "25.0", "28.8675"]
    assert result.lines()[0] == "scan_1: psoas left 0.40 ml, mean area 50.0 mm² on 2 slices"


def test_the_image_of_the_same_name_gives_the_geometry(tmp_path: Path) -> None:
    scan, mask = small_scan()
    (tmp_path / "images").mkdir()
    write_volume_file(tmp_path / "images" / "scan_1.nii.gz", scan.volume)
    (tmp_path / "masks").mkdir()
    write_mask_file(tmp_path / "masks" / "scan_1.nrrd", mask)
    write_mask_file(tmp_path / "masks" / "other.nrrd", mask)
    result = measure_masks(tmp_path / "masks", tmp_path / "out", tmp_path / "images")
    assert [row.volume_mm3 for row in result.volumes] == pytest.approx([400, 64, 400, 64])
    assert "masks without an image, measured as they are: 'other'." in result.notes


def test_slices_without_images_are_counted_but_not_measured(tmp_path: Path) -> None:
    scan, mask = small_scan()
    write_slices(tmp_path / "masks" / "scan_1", mask.array, scan.slice_names)
    result = measure_masks(tmp_path / "masks", tmp_path / "out")
    row = result.volumes[0]
    assert (row.voxels, row.volume_mm3, row.note) == (50, None, "the pixel spacing is unknown")
    assert any("no image and so no pixel spacing" in note for note in result.notes)
    assert table(tmp_path / "out" / "measurements.csv")[4]["area_mm2"] == ""
    assert result.lines()[0] == "scan_1: ROI 1 no volume (the pixel spacing is unknown) on 2 slices"


def test_a_run_folder_is_measured_with_what_it_remembers(tmp_path: Path) -> None:
    scan, mask = small_scan()
    names = LabelTable(["psoas left", "psoas right"])
    run = tmp_path / "run"
    # Someone corrects a mask by hand after segmenting: the PNG counts, not the volume written before.
    write_nifti(run / "scan_1" / "segmentation.nii.gz", scan, mask)
    rows = measure_slices(mask, names, case="scan_1", slice_names=scan.slice_names)
    write_measurements(run / "measurements.csv", rows)
    report = build_run_report(
        kind="segment",
        started="",
        finished="",
        seconds=0,
        versions={},
        labels=names.names,
        cases=[case_report(scan)],
    )
    write_json(run / "run_report.json", report)
    corrected = mask.array.copy()
    corrected[1, 5, 5] = 0
    write_masks(run / "scan_1", mask.with_array(corrected), scan.slice_names, ("png",))
    result = measure_masks(run, tmp_path / "out")
    assert [row.volume_mm3 for row in result.volumes] == pytest.approx([49 * 8, 64])
    assert result.labels == names


@pytest.mark.parametrize("mode", ["overwrite", "continue"])
def test_measuring_into_the_run_folder_keeps_its_masks(tmp_path: Path, mode: str) -> None:
    scan, mask = small_scan()
    run = open_run(tmp_path / "run")
    masks = write_masks(run.begin_case("scan_1"), mask, scan.slice_names, ("png",))
    run.remember_case("scan_1", masks)
    run.save()
    write_json(run.report, {"labels": {"1": "left", "2": "right"}, "cases": [case_report(scan)]})
    result = measure_masks(run.path, run.path, mode=mode)
    assert [row.voxels for row in result.volumes] == [50, 8]
    assert all(path.is_file() for path in masks)
    assert open_run(run.path, "continue").cases["scan_1"]["complete"]


def test_a_failed_measurement_leaves_the_earlier_tables(tmp_path: Path) -> None:
    _, mask = small_scan()
    write_mask_file(tmp_path / "a.nii.gz", mask)
    measure_masks(tmp_path / "a.nii.gz", tmp_path / "out")
    before = (tmp_path / "out" / "volumes.csv").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(b"junk")
    with pytest.raises(DataError, match="nothing could be measured"):
        measure_masks(tmp_path / "a.nii.gz", tmp_path / "out", mode="overwrite")
    assert (tmp_path / "out" / "volumes.csv").read_bytes() == before


def test_letters_with_accents_match_however_they_are_stored(tmp_path: Path) -> None:
    scan, mask = small_scan()
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    image, label = (unicodedata.normalize(form, "Jörg.nii.gz") for form in ("NFC", "NFD"))
    write_volume_file(tmp_path / "images" / image, scan.volume)
    write_mask_file(tmp_path / "masks" / label, mask)
    result = measure_masks(tmp_path / "masks", tmp_path / "out", tmp_path / "images")
    assert [row.volume_mm3 for row in result.volumes] == pytest.approx([400, 64])
    assert not [note for note in result.notes if "without an image" in note]


def test_names_come_from_labels_csv(tmp_path: Path) -> None:
    _, mask = small_scan()
    (tmp_path / "masks").mkdir()
    write_mask_file(tmp_path / "masks" / "a.mha", mask)
    (tmp_path / "labels.csv").write_text("value,name\n1,left\n2,right\n", encoding="utf-8")
    assert measure_masks(tmp_path / "masks", tmp_path / "out").labels.names == ("left", "right")


def test_255_is_one_roi_not_255(tmp_path: Path) -> None:
    scan, mask = small_scan()
    write_slices(tmp_path / "masks" / "x", (mask.array == 1).astype(np.uint8) * 255, scan.slice_names)
    result = measure_masks(tmp_path / "masks", tmp_path / "out")
    assert [(row.label, row.roi, row.voxels) for row in result.volumes] == [(1, "ROI 1", 50)]
    assert "the masks hold the values 0 and 255; 255 is taken as ROI 1." in result.notes


def test_a_lone_small_value_is_a_label_as_it_is(tmp_path: Path) -> None:
    scan, mask = small_scan()
    write_slices(tmp_path / "masks" / "x", (mask.array == 1).astype(np.uint8) * 2, scan.slice_names)
    result = measure_masks(tmp_path / "masks", tmp_path / "out")
    assert [(row.label, row.roi, row.voxels) for row in result.volumes] == [(2, "ROI 2", 50)]
    assert not [note for note in result.notes if "taken as" in note]


def test_one_file(tmp_path: Path) -> None:
    _, mask = small_scan()
    write_mask_file(tmp_path / "a b ä.nii.gz", mask)
    assert measure_masks(tmp_path / "a b ä.nii.gz", tmp_path / "out").cases == ("a b ä",)


def test_one_bad_mask_does_not_stop_the_others(tmp_path: Path) -> None:
    _, mask = small_scan()
    folder = tmp_path / "masks"
    folder.mkdir()
    write_mask_file(folder / "good.nii.gz", mask)
    write_mask_file(
        folder / "nine.nii.gz", mask.with_array(mask.array * 4 + (mask.array > 0).astype(np.uint8))
    )
    (folder / "torn.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:60])
    result = measure_masks(folder, tmp_path / "out", labels=["a", "b"])
    assert result.cases == ("good",)
    assert [case for case, _ in result.failures] == ["nine", "torn"]
    assert "found the label values 5, 9, which no ROI has" in result.failures[0][1]
    report = json.loads((tmp_path / "out" / "run_report.json").read_text(encoding="utf-8"))
    assert [item["case"] for item in report["failures"]] == ["nine", "torn"]


def test_numbered_rois_that_no_mask_has_are_left_out_and_images_are_no_masks(tmp_path: Path) -> None:
    _, mask = small_scan()
    folder = tmp_path / "masks"
    folder.mkdir()
    write_mask_file(folder / "a.nii.gz", mask.with_array(mask.array * 20))
    image = np.arange(mask.array.size, dtype=np.uint16).reshape(mask.array.shape)
    write_mask_file(folder / "image.nii.gz", mask.with_array(image))
    result = measure_masks(folder, tmp_path / "out")
    assert [(row.case, row.label, row.voxels) for row in result.volumes if row.voxels] == [
        ("a", 20, 50),
        ("a", 40, 8),
    ]
    assert [case for case, _ in result.failures] == ["image"]
    assert "and 2137 more, which no ROI has" in result.failures[0][1]


def test_slice_axis_chooses_the_direction(tmp_path: Path) -> None:
    _, mask = small_scan()
    write_mask_file(tmp_path / "a.nii.gz", mask)
    result = measure_masks(tmp_path / "a.nii.gz", tmp_path / "out", slice_axis="sagittal")
    # ROI 1 is 2 × 5 × 5 voxels: five sagittal slices of 2 × 5 voxels of 4 × 2 mm.
    row = result.volumes[0]
    assert (row.slices, row.max_area_mm2, row.volume_mm3) == (5, pytest.approx(80), pytest.approx(400))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found. Give a folder of masks, one file"):
        measure_masks(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"'notes.txt': found no mask. Expected \.nii\.gz"):
        measure_masks(tmp_path / "notes.txt", tmp_path / "out")
    scan, mask = small_scan()
    write_slices(tmp_path / "masks" / "x", mask.array, scan.slice_names)
    (tmp_path / "images").mkdir()
    write_volume_file(tmp_path / "images" / "y.nii.gz", scan.volume)
    with pytest.raises(DataError, match="no mask fits an image: the images are 'y', the masks 'x'"):
        measure_masks(tmp_path / "masks", tmp_path / "out", tmp_path / "images")
    measure_masks(tmp_path / "masks", tmp_path / "out")
    with pytest.raises(ExportError, match="holds results already"):
        measure_masks(tmp_path / "masks", tmp_path / "out")
    measure_masks(tmp_path / "masks", tmp_path / "out", mode="overwrite")


# --- who the patient is
# -------------------------------------------------------------------------------------------------------


def texts_in(folder: Path) -> str:
    """All names and contents of the files in a folder, in lower case."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files).lower()


@pytest.fixture
def meier(tmp_path: Path) -> Path:
    """A folder named after the patient, and a structure set whose file is, too."""
    person = {"PatientName": "Meier^Hans", "PatientID": "47110815", "PatientBirthDate": "19610203"}
    paths = write_series(tmp_path / "Meier_Hans", np.zeros((3, 20, 20), np.int16), step=(0, 0, 4), **person)
    box = (4, 4, 14, 9, range(3))  # 10 × 5 pixels of 1 mm² on each slice
    write_rtstruct(tmp_path / "rs" / "RS_Meier_Hans.dcm", paths, {"liver": box}, **person)
    return tmp_path


@pytest.mark.parametrize("several", [False, True])
def test_a_structure_set_named_after_the_patient(
    meier: Path, several: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if several:  # drawn on the same series
        shutil.copyfile(meier / "rs" / "RS_Meier_Hans.dcm", meier / "rs" / "RS_Meier_Hans_2.dcm")
    arguments = ["measure", meier / "rs", "--images", meier / "Meier_Hans", "--output", meier / "out"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    rows = table(meier / "out" / "volumes.csv")
    assert [float(row["volume_mm3"]) for row in rows] == [600.0] * (1 + several)
    assert len({row["case"] for row in rows}) == 1 + several
    report = json.loads((meier / "out" / "run_report.json").read_text(encoding="utf-8"))
    assert list(report["cases"][0]["inputs"]) == [rows[0]["case"]]
    said = "".join(capsys.readouterr()).replace(str(meier / "out"), "")
    for text in (texts_in(meier / "out"), said.lower()):
        assert not [word for word in ("meier", "hans", "47110815") if word in text]


def test_without_images_the_mask_itself_says_who_must_not_be_named(meier: Path) -> None:
    write_slices(meier / "rs" / "other", np.eye(20, dtype=np.uint8)[None], ("meier_hans_1",))
    result = measure_masks(meier / "rs", meier / "out", labels=["liver"])
    # Contours have no pixels of their own; the slices are measured.
    [(case, reason)] = result.failures
    assert case.startswith("case_") and "'***' is an RTSTRUCT" in reason
    assert result.cases == ("other",) and result.measurements[0].slice_name == "slice_0001"
    assert "meier" not in texts_in(meier / "out") and "meier" not in "".join(result.lines()).replace(
        str(meier), ""
    )
    with pytest.raises(
        DataError, match=r"no mask fits an image: the images are 'ct', the masks 'case_"
    ) as told:
        write_series(meier / "ct", np.zeros((3, 20, 20), np.int16), series="another")
        measure_masks(meier / "rs" / "RS_Meier_Hans.dcm", meier / "out2", meier / "ct")
    assert "Meier" not in str(told.value)


def test_a_damaged_structure_set_still_says_who_must_not_be_named(meier: Path) -> None:
    path = meier / "rs" / "RS_Meier_Hans.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    assert "meier" in identity_in(path)
    assert identity_in(meier / "Meier_Hans" / "slice_001.dcm") == frozenset()
    with pytest.raises(DataError) as told:
        measure_masks(path, meier / "out")
    assert "Meier" not in str(told.value)


def test_a_volume_with_the_patients_name_has_its_fat_image(tmp_path: Path) -> None:
    """Beside DICOM files the water image gets another name; its fat image lies alone and keeps its own."""
    scan, mask = small_scan()
    write_series(
        tmp_path / "water" / "dicom", np.zeros((2, 5, 6), np.int16), PatientName="Meier^Hans", PatientID="1"
    )
    for folder in ("water", "fat"):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_volume_file(tmp_path / folder / "Meier_Hans.nii.gz", scan.volume)
    (tmp_path / "masks").mkdir()
    write_mask_file(tmp_path / "masks" / "Meier_Hans.nii.gz", mask)
    result = measure_masks(
        tmp_path / "masks", tmp_path / "out", tmp_path / "water", fat_images=tmp_path / "fat"
    )
    assert result.cases[0].startswith("case_") and not result.failures
    # Water and fat are the same picture: half of each.
    shares = [row.fat_fraction_percent for row in result.measurements if row.pixels]
    assert shares == pytest.approx([50.0] * len(shares)) and shares


def test_one_mask_and_one_image_need_no_equal_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grey values rise by 1 from pixel to pixel: of ROI 1 (two slices of 5 × 5 pixels) the first slice lies below 1000."""
    scan, mask = small_scan()
    write_volume_file(tmp_path / "ct_sm.nii.gz", scan.volume)
    write_mask_file(tmp_path / "seg.nii.gz", mask)
    arguments = ["measure", "seg.nii.gz", "--images", "ct_sm.nii.gz", "--output", "out"]
    here = [str(tmp_path / text) if text.endswith((".gz", "out")) else text for text in arguments]
    assert cli.main([*here, "--tissue-window", "0", "1000"]) == 0
    said = capsys.readouterr().out
    assert (
        "the mask has another name than the image; each was named alone, so they are taken as a pair" in said
    )
    assert "ct_sm: ROI 1 0.40 ml, mean area 50.0 mm² on 2 slices, 50.0 % in the tissue window" in said


# --- the page to look through
# -------------------------------------------------------------------------------------------------------


def page_of(run: Path) -> dict[str, Any]:
    """What report.html tells its script."""
    text = (run / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def picture_of(page: dict[str, Any], case: int, index: int) -> np.ndarray:
    jpeg = base64.b64decode(page["cases"][case]["pictures"][index]["image"])
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_the_page_shows_numbers_and_pictures_of_each_mask(tmp_path: Path) -> None:
    scan, mask = small_scan()
    (tmp_path / "images").mkdir()
    write_volume_file(tmp_path / "images" / "scan_1.nii.gz", scan.volume)
    (tmp_path / "masks").mkdir()
    write_mask_file(tmp_path / "masks" / "scan_1.nrrd", mask)
    write_mask_file(tmp_path / "masks" / "without.nrrd", mask)
    (tmp_path / "masks" / "damaged.nrrd").write_bytes(b"NRRD")
    result = measure_masks(
        tmp_path / "masks", tmp_path / "out", tmp_path / "images", labels=["psoas left", "psoas right"]
    )
    page = page_of(tmp_path / "out")
    assert [case["name"] for case in page["cases"]] == ["scan_1", "without"]
    assert [roi["name"] for roi in page["rois"]] == ["psoas left", "psoas right"]
    # 25 pixels of 2 × 1 mm on the two slices in the middle, see small_scan.
    assert [case["areas"][0] for case in page["cases"]] == [[0, 50, 50, 0]] * 2
    assert picture_of(page, 0, 1).max() > 0, "the image where there is one"
    assert picture_of(page, 1, 1).max() == 0, "black where there is none"
    assert page["cases"][1]["pictures"][1]["runs"], "with the ROIs on it"
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert [what for what, _ in result.failures] == ["damaged"] and "<b>damaged</b>" in text
    assert "In-plane pixel spacing 2 × 1 mm (header of the mask); slices 4.00 mm apart by position." in text


def test_rois_that_nobody_named_and_no_mask_has_are_not_on_the_page(tmp_path: Path) -> None:
    _, mask = small_scan()
    write_mask_file(
        tmp_path / "a.nii.gz", replace(mask, array=np.where(mask.array == 2, 5, 0).astype(np.uint8))
    )
    measure_masks(tmp_path / "a.nii.gz", tmp_path / "out")
    assert [roi["name"] for roi in page_of(tmp_path / "out")["rois"]] == ["ROI 5"]


def test_of_rois_without_a_name_only_those_that_some_mask_has_are_reported(tmp_path: Path) -> None:
    """Whole-body label sets name values up to 117, a mask holds some of them."""
    _, mask = small_scan()
    (tmp_path / "masks").mkdir()
    for name, value in (("a", 2), ("b", 4)):
        array = np.where(mask.array == 1, value, 0).astype(np.uint8)
        write_mask_file(tmp_path / "masks" / f"{name}.nii.gz", replace(mask, array=array))
    (tmp_path / "masks" / "labels.csv").write_text("value,name\n2,liver\n6,spleen\n", encoding="utf-8")
    result = measure_masks(tmp_path / "masks", tmp_path / "out")
    expected = [("a", "liver", 50), ("a", "ROI 4", 0), ("a", "spleen", 0)]
    expected += [("b", "liver", 0), ("b", "ROI 4", 50), ("b", "spleen", 0)]
    assert [(row.case, row.roi, row.voxels) for row in result.volumes] == expected
    header = (tmp_path / "out" / "csa_results.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "case,slice,liver,ROI 4,spleen"
    page = page_of(tmp_path / "out")
    assert [roi["name"] for roi in page["rois"]] == ["liver", "ROI 4", "spleen"]
    report = json.loads((tmp_path / "out" / "run_report.json").read_text(encoding="utf-8"))
    assert list(report["cases"][1]["volumes_ml"]) == ["liver", "ROI 4", "spleen"]
    # Nothing looks for flags here, so their number is not told.
    assert (
        "flagged slice"
        not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").split("<main>")[0]
    )


def test_a_page_that_cannot_be_written_never_loses_the_tables(tmp_path: Path) -> None:
    _, mask = small_scan()
    write_mask_file(tmp_path / "a.nii.gz", mask)
    (tmp_path / "out" / "report.html" / "in the way").mkdir(parents=True)
    result = measure_masks(tmp_path / "a.nii.gz", tmp_path / "out", mode="overwrite")
    assert [row["voxels"] for row in table(tmp_path / "out" / "volumes.csv")] == ["50", "8"]
    [(what, reason)] = result.failures
    assert what == "report.html" and reason.endswith("The CSV files are complete.")
    report = json.loads((tmp_path / "out" / "run_report.json").read_text(encoding="utf-8"))
    assert [failure["case"] for failure in report["failures"]] == ["report.html"]


# --- what else lies in the run folder
# -------------------------------------------------------------------------------------------------------


def test_tables_of_a_segmenting_run_are_replaced_with_a_word(tmp_path: Path) -> None:
    scan, mask = small_scan()
    run = open_run(tmp_path / "run")
    run.remember_case("scan_1", write_masks(run.begin_case("scan_1"), mask, scan.slice_names, ("png",)))
    run.save()
    report = build_run_report(
        kind="segment", started="", finished="", seconds=0, versions={}, labels=["a", "b"]
    )
    write_json(run.report, report)
    run.dossier.write_text("<p>areas of before</p>", encoding="utf-8")
    result = measure_masks(run.path, run.path, mode="overwrite")
    assert "areas of before" not in run.dossier.read_text(encoding="utf-8")
    said = " ".join(result.notes)
    assert (
        "the tables of the segmenting run in this folder, with its error bars and flags, and its report.html were replaced"
        in said
    )
    assert set(result.notes) == set(json.loads(run.report.read_text(encoding="utf-8"))["notes"])
    again = measure_masks(run.path, run.path, mode="overwrite")
    assert not [note for note in again.notes if "segmenting run" in note or "report.html" in note]


def test_a_workbook_that_cannot_be_written_never_loses_the_tables(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    _, mask = small_scan()
    write_mask_file(tmp_path / "a.nii.gz", mask)
    (tmp_path / "out" / "results.xlsx" / "in the way").mkdir(parents=True)  # as a file open in Excel is
    result = measure_masks(tmp_path / "a.nii.gz", tmp_path / "out", mode="overwrite")
    assert [row["voxels"] for row in table(tmp_path / "out" / "volumes.csv")] == ["50", "8"]
    assert (tmp_path / "out" / "csa_results.csv").is_file() and (
        tmp_path / "out" / "measurements.csv"
    ).is_file()
    [(what, reason)] = result.failures
    assert what == "results.xlsx" and reason.endswith("The CSV files are complete.")
    assert any(line.startswith("'results.xlsx': ") for line in result.lines())
    report = json.loads((tmp_path / "out" / "run_report.json").read_text(encoding="utf-8"))
    assert report["failures"][0]["case"] == "results.xlsx"


def test_a_missing_workbook_package_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, mask = small_scan()
    write_mask_file(tmp_path / "a.nii.gz", mask)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.xlsx").write_bytes(b"of an earlier run")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    heard: list[object] = []
    with pytest.raises(SettingsError, match=r"or remove results\.xlsx"):
        measure_masks(tmp_path / "a.nii.gz", tmp_path / "out", mode="overwrite", on_event=heard.append)
    assert not heard and [path.name for path in (tmp_path / "out").iterdir()] == ["results.xlsx"]
    with pytest.raises(SettingsError, match="or leave xlsx out"):
        measure_masks(tmp_path / "a.nii.gz", tmp_path / "new", xlsx=True)


# --- real scans
# -------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_chaos_liver(tmp_path: Path) -> None:
    """1417.49 ml by slice positions 2.0 mm apart (SliceThickness says 3.2), and the areas of its slices.csv."""
    folder = real_data("chaos_ct_liver")
    result = measure_masks(folder / "labels", tmp_path / "out", folder / "images", labels=["liver"])
    assert len(result.volumes) == 1
    assert result.volumes[0].volume_ml == pytest.approx(1417.49, abs=0.01)
    known = {row["base"]: row for row in table(folder / "slices.csv")}
    rows = table(tmp_path / "out" / "measurements.csv")
    assert len(rows) == len(known) == 78
    for row in rows:
        expected = known[Path(row["slice_file"]).stem]
        assert int(row["pixels"]) == int(expected["gt_px"])
        assert float(row["area_mm2"]) == pytest.approx(float(expected["gt_area_mm2"]), abs=0.06)
        assert float(row["slice_position_mm"]) == pytest.approx(float(expected["z_mm"]))
    assert [int(row["slice_number"]) for row in rows] == list(range(1, 79))
    assert [float(row["slice_position_mm"]) for row in rows] == sorted(
        float(row["z_mm"]) for row in known.values()
    )


@pytest.mark.real_data
def test_sunnybrook_cine(tmp_path: Path) -> None:
    """Oblique cine: raster areas of its slices.csv; no volume, because two phases share each position."""
    folder = real_data("sunnybrook_cardiac")
    measure_masks(folder / "labels", tmp_path / "out", folder / "images", labels=["cavity", "myocardium"])
    known = {row["base"]: row for row in table(folder / "slices.csv")}
    rows = [row for row in table(tmp_path / "out" / "measurements.csv") if row["roi"] == "cavity"]
    names = {path.stem for path in (folder / "labels").glob("*.png")}
    assert {Path(row["slice_file"]).stem for row in rows} == names
    for row in rows:
        expected = known[Path(row["slice_file"]).stem]
        assert int(row["pixels"]) == int(expected["cavity_px"])
        # The table's pixel size is rounded to four to six digits.
        assert float(row["area_mm2"]) == pytest.approx(float(expected["cavity_area_mm2_raster"]), rel=1e-4)
    volumes = table(tmp_path / "out" / "volumes.csv")
    assert {row["volume_ml"] for row in volumes} == {""}
    assert {row["note"] for row in volumes} == {
        "the series has several images at one position (cine or dynamic)"
    }


@pytest.mark.real_data
def test_spinal_cord(tmp_path: Path) -> None:
    """77.73 mm²: mean over the axial slices that hold cord, not corrected for the cord's angle."""
    folder = real_data("spinal_cord_mri")
    result = measure_masks(folder / "t2" / "t2_seg-manual.nii.gz", tmp_path / "out", labels=["cord"])
    assert result.volumes[0].mean_area_mm2 == pytest.approx(77.73, abs=0.005)
    assert result.volumes[0].slices == 55
    mean = next(row for row in table(tmp_path / "out" / "csa_results.csv") if row["slice"] == "mean")
    assert float(mean["cord"]) == pytest.approx(77.73, abs=0.005)


def test_a_mask_is_never_measured_on_the_scan_of_somebody_else(tmp_path):
    """Slices are named alike in every scan; only the folders' names say whose they are."""
    study = write_example_study(tmp_path / "ex", scans=7)
    first, second = study.test_scans
    masks = tmp_path / "masks"
    shutil.copytree(study.test_labels / first, masks / first)
    with pytest.raises(DataError, match="no mask fits an image"):
        measure_masks(masks, tmp_path / "o1", study.test_images / second)
    images = tmp_path / "images"
    shutil.copytree(study.test_images / first, images / "a")
    shutil.copytree(study.test_images / first, images / "b")
    with pytest.raises(DataError, match=r"fit several scans by name \('a', 'b'\)"):
        measure_masks(study.test_labels / first, tmp_path / "o2", images)
