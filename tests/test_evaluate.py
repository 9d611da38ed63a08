"""Comparing folders of masks: matching by name, ROIs by name, and the two readers of a real liver."""

from __future__ import annotations

import csv
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg_lib.errors import DataError
from autoseg_lib.evaluate.folders import evaluate_folders
from autoseg_lib.evaluate.match import find_masks, match
from autoseg_lib.evaluate.result import write_evaluation
from autoseg_lib.evaluate.table import EvaluationRow, summarise
from autoseg_lib.export.masks import write_masks, write_nifti
from autoseg_lib.export.report import build_run_report, case_report, write_json
from autoseg_lib.export.tables import write_measurements
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.raster import read_label
from autoseg_lib.io.volume_files import write_mask_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.metrics.surface import surface_distances
from autoseg_lib.volume import Mask, reorient
from autoseg_lib.workflow.evaluating import evaluate
from tests.helpers.real_data import real_data
from tests.helpers.scans import small_scan

TWO = LabelTable(["psoas left", "psoas right"])


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def write_run(folder: Path, *, missing: int = 0, names: tuple[str, ...] | None = None) -> Mask:
    """A run folder with one case, as segmenting leaves it. ``missing`` rows of ROI 1 are left away."""
    scan, mask = small_scan(slice_names=names)
    array = mask.array.copy()
    array[:, 5 : 5 + missing] = 0
    mask = mask.with_array(array)
    write_masks(folder / "scan_1", mask, scan.slice_names, ("png",))
    write_nifti(folder / "scan_1" / "segmentation.nii.gz", scan, mask)
    rows = measure_slices(
        mask, TWO, case="scan_1", slice_names=scan.slice_names, slice_files=scan.slice_files
    )
    write_measurements(folder / "measurements.csv", rows)
    report = build_run_report(
        kind="segment",
        started="",
        finished="",
        seconds=0,
        versions={},
        labels=TWO.names,
        cases=[case_report(scan)],
    )
    write_json(folder / "run_report.json", report)
    return mask


def test_slices_of_a_run_are_measured_with_the_spacing_it_remembers(tmp_path: Path) -> None:
    scan, truth = small_scan()
    for name, plane in zip(scan.slice_names, truth.array, strict=True):
        write_png(tmp_path / "truth" / "scan_1" / f"{name}.png", plane)
    write_run(tmp_path / "run", missing=1)
    left, right = evaluate_folders(tmp_path / "truth", tmp_path / "run").rows
    # ROI 1: 50 pixels, 40 of them found: Dice 2 × 40 / 90; 8 mm³ a pixel: 0.40 and 0.32 ml.
    assert left.dice == pytest.approx(80 / 90)
    assert (left.volume_reference_ml, left.volume_prediction_ml) == pytest.approx((0.40, 0.32))
    assert left.volume_difference_percent == pytest.approx(-20)
    # Ten pixels of the reference's 50-pixel surface lie one row (2 mm) off; all of two slices is surface.
    assert left.hd95_mm == pytest.approx(2.0)
    assert left.surface_dice_1mm == pytest.approx((40 + 40) / 90)
    assert left.mean_surface_distance_mm == pytest.approx(10 * 2 / 90)
    assert (right.roi, right.dice, right.hd95_mm) == ("psoas right", 1.0, 0.0)


def test_a_tilted_gantry_is_said(tmp_path: Path) -> None:
    scan, truth = small_scan()
    for name, plane in zip(scan.slice_names, truth.array, strict=True):
        write_png(tmp_path / "truth" / "scan_1" / f"{name}.png", plane)
    write_run(tmp_path / "run")
    report = tmp_path / "run" / "run_report.json"
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace('"tilt_degrees": 0.0', '"tilt_degrees": 12.0'), encoding="utf-8")
    found = evaluate_folders(tmp_path / "truth", tmp_path / "run")
    assert "its slices are tilted by 12.0°" in found.notes[-1]
    assert found.rows[0].volume_reference_ml == pytest.approx(0.4)


def test_volumes_match_whatever_way_their_axes_lie(tmp_path: Path) -> None:
    _, truth = small_scan()
    (tmp_path / "truth").mkdir()
    write_mask_file(tmp_path / "truth" / "scan_1.nrrd", reorient(truth, "RIP"))
    write_run(tmp_path / "run")
    found = evaluate_folders(tmp_path / "truth", tmp_path / "run")
    assert [row.dice for row in found.rows] == [1.0, 1.0]
    assert found.rows[0].volume_reference_ml == pytest.approx(0.4)
    assert "The reference names no ROIs" in found.notes[0]


def test_letters_with_accents_match_however_they_are_stored(tmp_path: Path) -> None:
    _, truth = small_scan()
    for side, form in (("a", "NFC"), ("b", "NFD")):
        write_png(
            tmp_path / side / unicodedata.normalize(form, "Jörg") / unicodedata.normalize(form, "é.png"),
            np.eye(4),
        )
        write_png(tmp_path / side / unicodedata.normalize(form, "ü.png"), np.eye(4))
        write_mask_file(tmp_path / side / unicodedata.normalize(form, "façade.nii.gz"), truth)
    found = evaluate_folders(tmp_path / "a", tmp_path / "b")
    assert {row.case for row in found.rows} == {"Jörg", "ü", "façade"}
    assert {row.dice for row in found.rows if row.voxels_reference} == {1.0}


def test_a_volume_matches_slices_numbered_as_it_is_shown(tmp_path: Path) -> None:
    _, truth = small_scan()  # 4 axial slices towards S, P, L; ROI 1 on slices 2 and 3, ROI 2 on slice 3
    (tmp_path / "truth").mkdir()
    write_mask_file(
        tmp_path / "truth" / "scan_1.nii.gz", reorient(truth, "RAI")
    )  # stored in quite another order
    for number, plane in enumerate(truth.array, start=1):
        write_png(tmp_path / "run" / "scan_1" / "masks" / f"slice_{number:04d}.png", plane)
    left, right = evaluate_folders(tmp_path / "truth", tmp_path / "run").rows
    assert (left.dice, right.dice) == (1.0, 1.0)
    assert (left.volume_reference_ml, right.volume_prediction_ml) == pytest.approx((0.40, 0.064))
    # The other way round, with one slice left out: 25 of the 50 pixels of ROI 1 are on slice 2.
    (tmp_path / "run" / "scan_1" / "masks" / "slice_0003.png").unlink()
    found = evaluate_folders(tmp_path / "run", tmp_path / "truth")
    assert [(row.dice, row.voxels_reference, row.voxels_prediction) for row in found.rows] == [(1.0, 25, 25)]
    assert "'scan_1': 1 slice of 'scan_1.nii.gz' has no partner and is left out." in found.notes


def test_slices_of_a_series_are_placed_in_a_volume_by_what_the_run_remembers(tmp_path: Path) -> None:
    names = ("IM_9", "IM_7", "IM_5", "IM_3")  # file names run against the slices' positions
    _, mask = small_scan(slice_names=names)
    write_run(tmp_path / "run", names=names)
    for name, plane in zip(names, mask.array, strict=True):
        write_png(tmp_path / "truth" / "scan_1" / f"{name}.png", plane)
    # Reference of slices, prediction NAME/segmentation.nii.gz alone.
    shutil.rmtree(tmp_path / "run" / "scan_1" / "masks")
    found = evaluate_folders(tmp_path / "truth", tmp_path / "run")
    assert [row.dice for row in found.rows] == [1.0, 1.0]
    assert found.rows[0].volume_reference_ml == pytest.approx(0.4)
    # Reference NAME.nii.gz, prediction NAME/masks alone.
    write_run(tmp_path / "run2", names=names)
    (tmp_path / "run2" / "scan_1" / "segmentation.nii.gz").unlink()
    (tmp_path / "truth2").mkdir()
    write_mask_file(tmp_path / "truth2" / "scan_1.nii.gz", reorient(mask, "LPI"))
    found = evaluate_folders(tmp_path / "truth2", tmp_path / "run2")
    assert [row.dice for row in found.rows] == [1.0, 1.0]


def test_slices_whose_place_in_a_volume_is_unknown_are_said(tmp_path: Path) -> None:
    _, truth = small_scan()
    (tmp_path / "truth").mkdir()
    write_mask_file(tmp_path / "truth" / "scan_1.nii.gz", truth)
    for number, plane in enumerate(truth.array, start=1):
        write_png(tmp_path / "run" / "scan_1" / f"IM_{number}.png", plane)
    with pytest.raises(
        DataError, match=r"one side is the volume 'scan_1.nii.gz', the other slices \('IM_1'.*not known"
    ):
        evaluate_folders(tmp_path / "truth", tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    for number, plane in enumerate(truth.array, start=3):
        write_png(tmp_path / "run" / "scan_1" / f"slice_{number:04d}.png", plane)
    with pytest.raises(DataError, match=r"'scan_1.nii.gz' has 4 slices .* the other side 6"):
        evaluate_folders(tmp_path / "truth", tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    write_png(tmp_path / "run" / "scan_1" / "slice_0001.png", truth.array[0].T)
    with pytest.raises(
        DataError, match=r"'slice_0001.png' is 20×30, the slices of 'scan_1.nii.gz' are 30×20"
    ):
        evaluate_folders(tmp_path / "truth", tmp_path / "run")


def test_a_cropped_mask_is_filled_up_not_resampled(tmp_path: Path) -> None:
    _, whole = small_scan()
    part = Mask(whole.array[:, 3:13, :], whole.geometry.cropped_or_padded((0, -3, 0), (4, 10, 30)))
    (tmp_path / "truth").mkdir()
    write_mask_file(tmp_path / "truth" / "scan_1.nii.gz", part)
    write_run(tmp_path / "run")
    found = evaluate_folders(tmp_path / "truth", tmp_path / "run")
    # Rows 12 and 13 of ROI 2 are cut to row 12: half of its 8 pixels.
    assert [(row.dice, row.voxels_reference) for row in found.rows] == [(1.0, 50), (pytest.approx(2 / 3), 4)]
    assert not [note for note in found.notes if "another grid" in note]


def test_another_grid_of_the_frame_is_resampled_and_said(tmp_path: Path) -> None:
    _, truth = small_scan()
    fine = Geometry(
        (4, 40, 30),
        truth.geometry.affine @ np.diag([1, 0.5, 1, 1]) + [[0] * 4, [0, 0, 0, -0.5], [0] * 4, [0] * 4],
    )
    for side, mask in (("a", truth), ("b", Mask(np.repeat(truth.array, 2, axis=1), fine))):
        (tmp_path / side).mkdir()
        write_mask_file(tmp_path / side / "scan.nii.gz", mask)
    found = evaluate_folders(tmp_path / "a", tmp_path / "b")
    assert [row.dice for row in found.rows] == [1.0, 1.0]
    assert "placed by position, each pixel taking the nearest label value" in found.notes[-1]


def test_other_places_are_refused(tmp_path: Path) -> None:
    _, truth = small_scan((4, 10, 30))
    shift = np.zeros((4, 4))
    shift[0, 3] = 500
    far = Geometry(truth.geometry.shape_zyx, truth.geometry.affine + shift)
    (tmp_path / "truth").mkdir()
    write_mask_file(tmp_path / "truth" / "scan_1.nii.gz", truth.with_array(truth.array, far))
    write_run(tmp_path / "run")
    with pytest.raises(
        DataError, match=r"nothing could be compared: 'segmentation.nii.gz' .* lie on different grids"
    ):
        evaluate_folders(tmp_path / "truth", tmp_path / "run")


def test_one_bad_case_does_not_stop_the_others(tmp_path: Path) -> None:
    for side in ("a", "b"):
        write_png(tmp_path / side / "good.png", np.eye(4))
    write_png(tmp_path / "a" / "bad.png", np.eye(4))
    write_png(tmp_path / "b" / "bad.png", np.eye(5))
    found = evaluate_folders(tmp_path / "a", tmp_path / "b")
    assert [row.case for row in found.rows] == ["good"]
    assert found.failures[0][0] == "bad"
    assert "reference's slices are 4×4, the prediction's 5×5" in found.failures[0][1]


def test_absent_in_both_is_empty_and_counted_never_1(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "labels.csv").write_text("value,name\n1,liver\n2,spleen\n", encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "labels.csv").write_text("value,name\n1,liver\n2,spleen\n", encoding="utf-8")
    for side in ("a", "b"):
        write_png(tmp_path / side / "x.png", np.eye(4))
    write_png(tmp_path / "a" / "y.png", np.eye(4) * 2)
    write_png(tmp_path / "b" / "y.png", np.zeros((4, 4)))
    output = tmp_path / "result.csv"
    found = evaluate(tmp_path / "a", tmp_path / "b", output)
    with output.open(encoding="utf-8", newline="") as stream:
        table = {(row["case"], row["roi"]): row for row in csv.DictReader(stream)}
    assert table["x", "spleen"]["dice"] == ""
    assert table["y", "spleen"]["dice"] == "0.0"
    assert table["x", "liver"]["dice"] == "1.0"
    spleen = found.summary[1]
    assert (spleen.cases, spleen.absent_in_both, spleen.only_reference, spleen.dice_mean) == (2, 1, 1, 0.0)
    assert table["x", "liver"]["hd95_mm"] == ""
    assert table["x", "liver"]["note"] == "the pixel spacing is unknown"
    assert (tmp_path / "result_summary.csv").exists()


def test_csv_has_the_agreed_columns(tmp_path: Path) -> None:
    for side in ("a", "b"):
        write_png(tmp_path / side / "x.png", np.eye(4))
    write_evaluation(tmp_path / "r.csv", evaluate_folders(tmp_path / "a", tmp_path / "b"))
    header = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith(
        "case,label,roi,dice,hd95_mm,surface_dice_1mm,mean_surface_distance_mm,volume_reference_ml,"
        "volume_prediction_ml,volume_difference_percent"
    )


def test_rois_are_matched_by_name_and_the_others_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "labels.csv").write_text("key;name\n3;Liver\n4;kidney\n", encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "labels.csv").write_text("label,roi\n1,liver\n2,spleen\n", encoding="utf-8")
    write_png(tmp_path / "a" / "x.png", np.eye(4) * 3)
    write_png(tmp_path / "b" / "x.png", np.eye(4))
    found = evaluate_folders(tmp_path / "a", tmp_path / "b")
    assert [(row.roi, row.label, row.dice) for row in found.rows] == [("Liver", 3, 1.0)]
    assert found.notes[-1] == "ROIs that only one side names are not compared: 'kidney', 'spleen'."


def test_a_roi_that_the_prediction_never_found_counts_zero(tmp_path: Path) -> None:
    truth = np.eye(4)
    truth[0, 3] = 2
    write_png(tmp_path / "a" / "x.png", truth)
    write_png(tmp_path / "b" / "x.png", np.eye(4))
    assert [row.dice for row in evaluate_folders(tmp_path / "a", tmp_path / "b").rows] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("scan.nii.gz", "scan/segmentation.nii.gz"),
        ("scan.nrrd", "scan.nii.gz"),
        ("scan.mha", "scan.mha"),
    ],
)
def test_volume_names_that_match(tmp_path: Path, reference: str, prediction: str) -> None:
    mask = small_scan()[1]
    for path in (tmp_path / "a" / reference, tmp_path / "b" / prediction):
        path.parent.mkdir(parents=True)
        write_mask_file(path, mask)
    found = match(find_masks(tmp_path / "a"), find_masks(tmp_path / "b"))
    assert [case.name for case in found.cases] == ["scan"]


@pytest.mark.parametrize(
    ("reference", "prediction", "case"),
    [
        ("scan/s1.png", "scan/masks/s1.png", "scan"),
        ("scan/s1.npy", "scan/s1.png", "scan"),
        ("s1.png", "masks/s1.png", "s1"),
        ("s1.png", "scan/masks/s1.png", "scan"),
        ("scan/masks/s1.png", "s1.png", "scan"),
    ],
)
def test_slice_names_that_match(tmp_path: Path, reference: str, prediction: str, case: str) -> None:
    for path in (tmp_path / "a" / reference, tmp_path / "b" / prediction):
        path.parent.mkdir(parents=True)
        if path.suffix == ".npy":
            np.save(path, np.eye(4, dtype=np.uint8))
        else:
            write_png(path, np.eye(4))
    found = match(find_masks(tmp_path / "a"), find_masks(tmp_path / "b"))
    assert [item.name for item in found.cases] == [case]
    assert not found.only_reference
    assert not found.only_prediction


def test_a_slice_name_that_two_cases_use_matches_neither(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "slice_0001.png", np.eye(4))
    write_png(tmp_path / "a" / "only.png", np.eye(4))
    for case in ("x", "y"):
        write_png(tmp_path / "b" / case / "masks" / "slice_0001.png", np.eye(4))
    write_png(tmp_path / "b" / "y" / "masks" / "only.png", np.eye(4))
    found = match(find_masks(tmp_path / "a"), find_masks(tmp_path / "b"))
    assert [(case.name, list(case.reference)) for case in found.cases] == [("y", ["only"])]
    assert found.only_reference == ("slice_0001",)
    assert "1 slice of the reference ('slice_0001') could belong to several scans" in found.notes[0]


def test_lone_predictions_that_fit_several_cases_are_compared_with_none(tmp_path: Path) -> None:
    for case in ("A", "B"):
        write_png(tmp_path / "a" / case / "slice_0001.png", np.eye(4))
    write_png(tmp_path / "a" / "B" / "only_b.png", np.eye(4))
    write_png(tmp_path / "b" / "masks" / "slice_0001.png", np.eye(4))
    with pytest.raises(DataError, match=r"could belong to several scans of the other folder \('A', 'B'\)"):
        evaluate_folders(tmp_path / "a", tmp_path / "b")
    write_png(tmp_path / "b" / "masks" / "only_b.png", np.eye(4))
    result = evaluate_folders(tmp_path / "a", tmp_path / "b")
    assert {row.case for row in result.rows} == {"B"}
    assert "1 mask of the reference without prediction, left out: 'A'." in result.notes
    assert "1 mask of the prediction without reference, left out: 'slice_0001'." in result.notes
    assert any("1 slice of the prediction ('slice_0001') could belong" in note for note in result.notes)


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    for side, names in (("a", ("x", "only_a")), ("b", ("x", "only_b"))):
        for name in names:
            write_png(tmp_path / side / f"{name}.png", np.eye(4))
    notes = evaluate_folders(tmp_path / "a", tmp_path / "b").notes
    assert "1 mask of the reference without prediction, left out: 'only_a'." in notes
    assert "1 mask of the prediction without reference, left out: 'only_b'." in notes


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found\. Give a folder of masks, one file"):
        evaluate_folders(tmp_path / "nowhere", tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"found no masks[.] Expected volumes"):
        evaluate_folders(tmp_path / "a", tmp_path / "a")
    write_png(tmp_path / "a" / "x.png", np.eye(4))
    write_png(tmp_path / "b" / "y.png", np.eye(4))
    with pytest.raises(DataError, match=r"nothing matches: .* holds 1 mask \('x'\), .* holds 1 mask \('y'\)"):
        evaluate_folders(tmp_path / "a", tmp_path / "b")


def test_summary_leaves_out_what_has_no_value() -> None:
    def row(case: str, dice: float | None, reference: int, prediction: int) -> EvaluationRow:
        return EvaluationRow(
            case, 1, "liver", dice, None, None, None, None, None, None, reference, prediction
        )

    (found,) = summarise(
        [row("a", 0.9, 5, 5), row("b", 0.7, 5, 5), row("c", None, 0, 0), row("d", 0.0, 0, 3)]
    )
    assert found.dice_mean == pytest.approx((0.9 + 0.7 + 0.0) / 3)
    assert found.dice_std == pytest.approx(np.std([0.9, 0.7, 0.0], ddof=1))
    assert (found.cases, found.absent_in_both, found.only_prediction, found.dice_min) == (4, 1, 1, 0.0)
    assert found.hd95_mm_mean is None


@pytest.mark.real_data
def test_two_readers_of_a_liver(tmp_path: Path) -> None:
    """The CHAOS challenge gives Dice 0.9784, mean surface distance 0.734 mm and largest distance 14 mm."""
    chaos = real_data("chaos_ct_liver")
    shutil.copytree(chaos / "labels", tmp_path / "gt" / "liver")
    shutil.copytree(chaos / "labels_second_reader_dl", tmp_path / "dl" / "liver")
    found = evaluate_folders(tmp_path / "gt", tmp_path / "dl")
    assert len(found.rows) == 1
    assert found.rows[0].dice == pytest.approx(0.9784, abs=5e-5)
    assert "the value 1 in the reference and 63 in the prediction" in found.notes[0]


@pytest.mark.real_data
def test_surface_distances_of_two_readers_of_a_liver() -> None:
    chaos = real_data("chaos_ct_liver")
    names = sorted(path.name for path in (chaos / "labels").glob("*.png"))
    ours, theirs = (
        np.stack([read_label(chaos / folder / name).array > 0 for name in names])
        for folder in ("labels", "labels_second_reader_dl")
    )
    geometry = Geometry.from_spacing(
        ours.shape, (2.0, 0.7265625, 0.7265625), spacing_known=True, positions_known=True
    )
    found = surface_distances(ours, theirs, geometry)
    assert found is not None
    assert found.hausdorff_mm == pytest.approx(14, abs=0.5)
    # The challenge takes surface pixels by a larger neighbourhood, so its mean is not the same to the last
    # digit.
    assert found.mean_mm == pytest.approx(0.734, abs=0.03)
