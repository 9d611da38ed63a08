"""What a run leaves on disk, read back by other means."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autoseg_lib.errors import DataError, ExportError, SettingsError
from autoseg_lib.export.animation import animation_html, shown_slices
from autoseg_lib.export.masks import slice_file_names, write_masks, write_nifti, write_overlays
from autoseg_lib.export.report import build_run_report, case_report, write_json
from autoseg_lib.export.run_folder import next_free_name, open_run, safe_name, unique_names
from autoseg_lib.export.tables import (
    read_measurements,
    read_volumes,
    write_csa_results,
    write_measurements,
    write_volumes,
)
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes
from autoseg_lib.viz.packing import runs
from tests.helpers.scans import small_scan

TWO = LabelTable(["psoas left", "psoas right"])


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


# --- tables
# -----------------------------------------------------------------------------------------------------------


def test_csa_results_of_one_scan(tmp_path: Path) -> None:
    scan, mask = small_scan()
    write_csa_results(
        tmp_path / "csa.csv", measure_slices(mask, TWO, case="scan_1", slice_names=scan.slice_names)
    )
    # 25 and 8 pixels of 2 mm². Mean of 0 50 50 0 is 25, its std with n - 1 is sqrt(4 × 25² / 3) = 28.8675.
    assert rows_of(tmp_path / "csa.csv") == [
        ["slice", "psoas left", "psoas right"],
        ["slice number 1", "0.0", "0.0"],
        ["slice number 2", "50.0", "0.0"],
        ["slice number 3", "50.0", "16.0"],
        ["slice number 4", "0.0", "0.0"],
        ["mean", "25.0", "4.0"],
        ["std", "28.8675", "8.0"],
    ]


def test_csa_results_of_several_scans_lead_with_the_case(tmp_path: Path) -> None:
    _, mask = small_scan((3, 20, 30))
    rows = measure_slices(mask, TWO, case="a") + measure_slices(mask, TWO, case="b")
    write_csa_results(tmp_path / "csa.csv", rows)
    table = rows_of(tmp_path / "csa.csv")
    assert table[0] == ["case", "slice", "psoas left", "psoas right"]
    assert [row[:2] for row in table[1:]] == [
        [case, text]
        for case in ("a", "b")
        for text in ("slice number 1", "slice number 2", "slice number 3", "mean", "std")
    ]


def test_unknown_areas_are_empty_cells(tmp_path: Path) -> None:
    _, mask = small_scan(known=False)
    write_csa_results(tmp_path / "csa.csv", measure_slices(mask, TWO, case="a"))
    assert rows_of(tmp_path / "csa.csv")[3] == ["slice number 3", "", ""]
    assert rows_of(tmp_path / "csa.csv")[-2:] == [["mean", "", ""], ["std", "", ""]]


def rounded(row: Any) -> Any:
    """A row as a table keeps it: four decimals."""
    numbers = {name: round(value, 4) for name, value in vars(row).items() if isinstance(value, float)}
    return dataclasses.replace(row, **numbers)


def test_measurements_and_volumes_have_the_agreed_columns_and_read_back(tmp_path: Path) -> None:
    scan, mask = small_scan()
    areas = measure_slices(mask, TWO, case="ä", slice_names=scan.slice_names, slice_files=scan.slice_files)
    volumes = measure_volumes(mask, TWO, case="ä")
    write_measurements(tmp_path / "m.csv", areas)
    write_volumes(tmp_path / "v.csv", volumes)
    header = "case,slice_number,slice_file,slice_position_mm,label,roi,pixels,area_mm2"
    assert ",".join(rows_of(tmp_path / "m.csv")[0]).startswith(header)
    header = "case,label,roi,voxels,volume_mm3,volume_ml,slices,max_area_mm2,max_area_slice"
    assert ",".join(rows_of(tmp_path / "v.csv")[0]).startswith(header)
    assert rows_of(tmp_path / "m.csv")[5][:9] == [
        "ä",
        "3",
        "IM_0003.dcm",
        "8.0",
        "1",
        "psoas left",
        "25",
        "50.0",
        "IM_0003",
    ]
    assert read_measurements(tmp_path / "m.csv") == [rounded(row) for row in areas]
    assert read_volumes(tmp_path / "v.csv") == [rounded(row) for row in volumes]


def test_tables_of_earlier_versions_without_the_later_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "case,slice_number,slice_file,slice_position_mm,label,roi,pixels,area_mm2\na,1,,,1,psoas,3,1.5\n",
        encoding="utf-8",
    )
    (tmp_path / "v.csv").write_text(
        "case,label,roi,voxels,volume_mm3,volume_ml,slices,max_area_mm2,max_area_slice\na,1,psoas,3,,,1,1.5,1\n",
        encoding="utf-8",
    )
    assert read_measurements(tmp_path / "m.csv") == [SliceMeasurement("a", 1, "", None, 1, "psoas", 3, 1.5)]
    assert read_volumes(tmp_path / "v.csv") == [VolumeMeasurement("a", 1, "psoas", 3, None, None, 1, 1.5, 1)]


def test_tables_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("case,roi\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'m.csv': the columns area_mm2, label, .* are missing"):
        read_measurements(path)
    scan, mask = small_scan()
    write_measurements(path, measure_slices(mask, TWO, case="a", slice_names=scan.slice_names))
    path.write_text(path.read_text(encoding="utf-8").replace("50.0", "fifty"), encoding="utf-8")
    with pytest.raises(DataError, match=r"'m.csv' line 4: found no number"):
        read_measurements(path)


# --- run folder
# -------------------------------------------------------------------------------------------------------


def test_results_are_never_overwritten_unasked(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.csa_results.write_text("mine", encoding="utf-8")
    with pytest.raises(
        ExportError, match=r"holds results already \(csa_results.csv\).*--continue.*--overwrite"
    ):
        open_run(tmp_path / "run")
    open_run(tmp_path / "run", "continue")
    assert run.csa_results.read_text(encoding="utf-8") == "mine"


def test_overwrite_removes_only_what_was_written_here(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    folder = run.begin_case("scan_1")
    (folder / "masks").mkdir()
    ours = folder / "masks" / "a.png"
    ours.write_bytes(b"x")
    theirs = folder / "notes.txt"
    theirs.write_text("by the user", encoding="utf-8")
    run.remember_case("scan_1", [ours], key="k")
    run.save()
    run.report.write_text("{}", encoding="utf-8")
    open_run(tmp_path / "run", "overwrite")
    assert theirs.exists()
    assert not ours.exists()
    assert not (folder / "masks").exists()
    assert not run.report.exists()


def test_overwrite_never_removes_what_is_to_be_read(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    mask = run.begin_case("scan_1") / "a.png"
    mask.write_bytes(b"x")
    run.remember_case("scan_1", [mask])
    run.save()
    run.report.write_text("{}", encoding="utf-8")
    reached = tmp_path / "run" / ".." / "run" / "scan_1" / "a.png"
    with pytest.raises(ExportError, match=r"overwriting it would remove 'a.png', which is to be read"):
        open_run(tmp_path / "run", "overwrite", inputs=[tmp_path / "else.png", reached])
    with pytest.raises(ExportError, match=r"would remove 'run_report.json'"):
        open_run(tmp_path / "run", "overwrite", inputs=[run.report], tables_only=True)
    assert mask.exists()
    assert run.report.exists()
    open_run(tmp_path / "run", "overwrite", inputs=[reached], tables_only=True)
    assert mask.exists()
    open_run(tmp_path / "run", "overwrite", inputs=[tmp_path / "else.png"])
    assert not mask.exists()


def test_overwrite_never_reaches_outside_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "precious.txt"
    outside.write_text("x", encoding="utf-8")
    run = open_run(tmp_path / "run")
    record = {"cases": {"a": {"files": ["../precious.txt"], "complete": True, "key": ""}}}
    (run.path / "run_files.json").write_text(json.dumps(record), encoding="utf-8")
    open_run(tmp_path / "run", "overwrite")
    assert outside.exists()


def test_continue_knows_what_is_done(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    for name in ("done", "begun"):
        folder = run.begin_case(name)
        (folder / "mask.png").write_bytes(b"x")
        if name == "done":
            run.remember_case(name, [folder / "mask.png"], key="model 1")
    run.save()
    assert open_run(tmp_path / "run", "continue").cases == {
        "done": {"files": ["done/mask.png"], "complete": True, "key": "model 1"},
        "begun": {"files": [], "complete": False, "key": ""},
    }


def test_a_broken_record_means_nothing_is_done(tmp_path: Path) -> None:
    (tmp_path / "run_files.json").write_text("{ not json", encoding="utf-8")
    assert open_run(tmp_path, "continue").cases == {}


def test_run_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mode = 'replace': expected one of new, continue, overwrite"):
        open_run(tmp_path, "replace")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ExportError, match="found a file of that name, expected a folder"):
        open_run(tmp_path / "file")
    with pytest.raises(ExportError, match="the folder could not be made"):
        open_run(tmp_path / "file" / "below")


def test_no_write_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        (folder / "probe").write_bytes(b"")
    except OSError:
        with pytest.raises(ExportError, match="no file can be written there"):
            open_run(folder)
    else:
        pytest.skip("this user may write everywhere")
    finally:
        folder.chmod(stat.S_IRWXU)


def test_names() -> None:
    assert next_free_name(Path("nowhere"), "run").name == "run"
    assert [safe_name(name) for name in ("scan 7 ä", "a/b:c", "..", "con", "x. ")] == [
        "scan 7 ä",
        "a_b_c",
        "scan",
        "con_",
        "x",
    ]
    assert unique_names(["IM1", "im1", "IM1", "IM2"]) == ("IM1", "im1_2", "IM1_3", "IM2")


def test_next_free_name_counts_up(tmp_path: Path) -> None:
    for expected in ("run", "run_2", "run_3"):
        folder = next_free_name(tmp_path, "run")
        assert folder.name == expected
        folder.mkdir()


# --- masks and pictures
# -----------------------------------------------------------------------------------------------


def test_masks_hold_the_label_values_at_full_size(tmp_path: Path) -> None:
    scan, mask = small_scan()
    files = write_masks(tmp_path, mask, scan.slice_names, ("png", "npy", "nifti"))
    assert len(files) == 8
    for index, name in enumerate(scan.slice_names):
        png = np.asarray(Image.open(tmp_path / "masks" / f"{name}.png"))
        assert np.array_equal(png, mask.array[index])
        assert np.array_equal(
            np.load(tmp_path / "masks" / f"{name}.npy", allow_pickle=False), mask.array[index]
        )


def test_slices_without_a_file_are_numbered() -> None:
    assert slice_file_names((), 2) == ("slice_0001", "slice_0002")
    with pytest.raises(DataError, match="found 3 slices, but 1 names"):
        slice_file_names(("a",), 3)


def test_nifti_lies_where_the_scan_lies(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    scan, mask = small_scan()
    write_nifti(tmp_path / "segmentation.nii.gz", scan, mask)
    image = nibabel.load(tmp_path / "segmentation.nii.gz")
    data = np.asarray(image.dataobj)
    assert np.array_equal(data.transpose(2, 1, 0), mask.array)
    # Index (k, j, i) lies at LPS (i, 2 j, 4 k); NIfTI's world is RAS, so x and y change sign.
    assert np.allclose(image.affine @ [3, 5, 2, 1], [-3, -10, 8, 1])


def test_overlays_keep_proportions_and_leave_slices_without_rois_grey(tmp_path: Path) -> None:
    scan, mask = small_scan()
    write_overlays(tmp_path, scan, mask, TWO)
    picture = np.asarray(Image.open(tmp_path / "overlays" / "IM_0002.jpg").convert("RGB")).astype(int)
    # 20 rows of 2 mm by 30 columns of 1 mm: 40 mm high, 30 mm wide.
    assert picture.shape == (640, 480, 3)
    inside = picture[16 * 14, 16 * 7]
    assert inside[0] > inside[2] + 20  # orange
    empty = np.asarray(Image.open(tmp_path / "overlays" / "IM_0001.jpg").convert("RGB")).astype(int)
    assert np.abs(empty - empty.mean(axis=2, keepdims=True)).max() < 3


# --- animation
# --------------------------------------------------------------------------------------------------------


def page_data(page: str) -> dict:
    return json.loads(re.search(r"const data = (\{.*\});\n", page)[1])


def test_animation_is_one_file_with_all_slices() -> None:
    scan, mask = small_scan(name='<script>alert("x")</script>')
    page = animation_html(scan, mask, TWO)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in page.replace("http-equiv", "")
    data = page_data(page)
    assert [item["areas"] for item in data["slices"]] == [[0.0, 0.0], [50.0, 0.0], [50.0, 16.0], [0.0, 0.0]]
    assert data["aspect"] == pytest.approx(40 / 30)
    assert data["edges"] == ["A", "L", "P", "R"]
    packed = np.frombuffer(base64.b64decode(data["slices"][2]["runs"]), np.uint8)
    decoded = np.zeros(data["rows"] * data["columns"], np.uint8)
    values = np.repeat(packed[::2], packed[1::2])
    decoded[: values.size] = values
    assert np.array_equal(decoded.reshape(data["rows"], data["columns"]), mask.array[2])


def test_animation_stays_small_and_says_so() -> None:
    scan, mask = small_scan((3, 1030, 40))
    page = animation_html(scan, mask, TWO)
    assert "Pictures are shown at 20 × 512 of 40 × 1030 pixels." in page
    assert page_data(page)["slices"][1]["areas"][0] == 50.0
    assert shown_slices(200) == list(range(200))
    assert shown_slices(401) == list(range(0, 401, 3))


def test_animation_without_spacing_counts_pixels_and_has_no_letters() -> None:
    scan, mask = small_scan(known=False)
    data = page_data(animation_html(scan, mask, TWO))
    assert (data["unit"], data["edges"], data["widthMm"]) == ("pixels", [], None)
    assert data["slices"][2]["areas"] == [25.0, 8.0]


def test_run_lengths() -> None:
    values = np.array([[0, 0, 20], [20, 10, 0]], np.uint8)
    # Places in the list of ROIs and lengths; the background at the end is left out.
    assert base64.b64decode(runs(values, {10: 1, 20: 2})) == bytes([0, 2, 2, 2, 1, 1])
    assert base64.b64decode(runs(np.full((3, 100), 10, np.uint16), {10: 1})) == bytes([1, 255, 1, 45])


# --- report
# -----------------------------------------------------------------------------------------------------------


def test_report_is_plain_json(tmp_path: Path) -> None:
    scan, mask = small_scan()
    volumes = measure_volumes(mask, TWO, case="scan_1")
    report = build_run_report(
        kind="measure",
        started="2026-01-01T10:00:00",
        finished="2026-01-01T10:00:05",
        seconds=np.float64(5),
        versions={"autoseg-workbench": "0.1.0"},
        labels=TWO.names,
        settings={"output": Path("x"), "limit": float("nan")},
        cases=[case_report(scan, volumes, checksums={"a.dcm": "00"})],
        failures=[("scan_2", "no pixels")],
    )
    write_json(tmp_path / "run_report.json", report)
    read = json.loads((tmp_path / "run_report.json").read_text(encoding="utf-8"))
    assert read["labels"] == {"1": "psoas left", "2": "psoas right"}
    assert read["settings"] == {"output": "x", "limit": None}
    assert read["failures"] == [{"case": "scan_2", "reason": "no pixels"}]
    case = read["cases"][0]
    assert case["pixel_spacing_mm"] == [2.0, 1.0]
    assert case["slice_distance_mm"] == "4.00 mm"
    assert case["spacing_source"] == "PixelSpacing"
    # 50 pixels of 2 mm² × 4 mm.
    assert case["volumes_ml"]["psoas left"] == pytest.approx(0.4)
