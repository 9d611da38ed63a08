"""Every kind of label in ``autoseg measure`` and ``autoseg evaluate``: figures known from elsewhere, and made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg_lib.cli import main
from autoseg_lib.data.discover import discover
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import DataError, ExportError
from autoseg_lib.evaluate.folders import evaluate_folders
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import write_mask_file
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.evaluating import evaluate
from autoseg_lib.workflow.measuring import measure_masks
from tests.helpers.dicom import write_series
from tests.helpers.named_labels import write_rtstruct, write_slicer
from tests.helpers.real_data import real_data
from tests.helpers.segments import follows

# Rows 2 to 5, columns 3 to 7, slices 1 and 2: 40 pixels of 0.5 × 0.75 mm, 2 mm apart.
ONE, TWO = (2, 3, 6, 8, (0, 1)), (7, 6, 9, 10, (1, 2))
ONE_MM3, TWO_MM3 = 40 * 0.75, 16 * 0.75


def series(folder: Path, name: str = "S") -> list[Path]:
    array = np.zeros((4, 10, 12), np.int16)
    return write_series(folder / name, array, step=(0, 0, 2), series=name, spacing=(0.5, 0.75))


def box(where) -> np.ndarray:
    r0, c0, r1, c1, slices = where
    mask = np.zeros((4, 10, 12), bool)
    mask[list(slices), r0:r1, c0:c1] = True
    return mask


def labels(one: int = 1, two: int = 2) -> np.ndarray:
    return (box(ONE) * one + box(TWO) * two).astype(np.uint8)


def grid() -> Geometry:
    return Geometry.from_spacing(
        (4, 10, 12), (2, 0.5, 0.75), spacing_known=True, positions_known=True, orientation_known=True
    )


def write_label(kind: str, folder: Path, files: list[Path]) -> Path:
    """The two boxes in a file or folder for the scan S, in one of the kinds; returns what to name on the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "rtstruct":
        write_rtstruct(folder / "S.dcm", files, {"left": ONE, "right": TWO})
    elif kind == "rtstruct by series":
        write_rtstruct(folder / "plan 7.dcm", files, {"left": ONE, "right": TWO})
    elif kind == "slicer":
        write_slicer(folder / "S.seg.nrrd", {"left": box(ONE), "right": box(TWO)}, grid())
    elif kind == "nifti":
        write_mask_file(folder / "S.nii.gz", Mask(labels(), grid()))
    elif kind == "imagej":
        tifffile.imwrite(folder / "S.tif", labels(), imagej=True)
    elif kind == "png":
        (folder / "S").mkdir()
        for file, plane in zip(files, labels(), strict=True):
            Image.fromarray(plane).save(folder / "S" / f"{file.stem}.png")
    elif kind == "colours":
        (folder / "S").mkdir()
        palette = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
        for file, plane in zip(files, labels(), strict=True):
            Image.fromarray(palette[plane]).save(folder / "S" / f"{file.stem}.png")
    return folder


KINDS = ["rtstruct", "rtstruct by series", "slicer", "nifti", "imagej", "png"]


@pytest.mark.parametrize("kind", [*KINDS, "colours"])
def test_every_kind_is_measured_on_its_scan(tmp_path: Path, kind: str) -> None:
    files = series(tmp_path / "images")
    folder = write_label(kind, tmp_path / "masks", files)
    colours = {"#FF0000": 1, "#00FF00": 2} if kind == "colours" else None
    found = measure_masks(folder, tmp_path / "out", tmp_path / "images", label_map=colours)
    assert [row.volume_mm3 for row in found.volumes] == pytest.approx([ONE_MM3, TWO_MM3])
    assert {row.case for row in found.volumes} == {"S"}
    names = ("left", "right") if kind in ("rtstruct", "rtstruct by series", "slicer") else ("ROI 1", "ROI 2")
    assert found.labels.names == names
    with (tmp_path / "out" / "measurements.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slice_file"] for row in rows[::2]] == [file.name for file in files]


@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("prediction", ["rtstruct", "slicer", "imagej", "png"])
def test_every_kind_is_compared_with_every_other_on_the_scan(
    tmp_path: Path, reference: str, prediction: str
) -> None:
    files = series(tmp_path / "images")
    found = evaluate_folders(
        write_label(reference, tmp_path / "a", files),
        write_label(prediction, tmp_path / "b", files),
        images=tmp_path / "images",
    )
    assert [(row.case, row.dice, row.hd95_mm) for row in found.rows] == [("S", 1.0, 0.0)] * 2
    assert [row.volume_reference_ml for row in found.rows] == pytest.approx([ONE_MM3 / 1000, TWO_MM3 / 1000])


def test_without_images_the_other_side_gives_the_grid(tmp_path: Path) -> None:
    files = series(tmp_path / "images")
    contours = write_label("rtstruct", tmp_path / "a", files)
    for kind in ("nifti", "slicer"):
        other = write_label(kind, tmp_path / kind, files)
        for pair in ((contours, other), (other, contours)):
            assert [row.dice for row in evaluate_folders(*pair).rows] == [1.0, 1.0]
    with pytest.raises(
        DataError, match=r"'S.dcm' is an RTSTRUCT: contours have no pixels of their own. Give the scan"
    ):
        evaluate_folders(contours, contours)
    with pytest.raises(DataError, match=r"'S.dcm' is an RTSTRUCT: .*\(--images\)"):
        measure_masks(contours, tmp_path / "out")
    assert not (tmp_path / "out" / "volumes.csv").exists()
    alone = measure_masks(tmp_path / "slicer", tmp_path / "out2")
    assert [row.volume_mm3 for row in alone.volumes] == pytest.approx([ONE_MM3, TWO_MM3])


def test_single_files_need_no_common_name(tmp_path: Path) -> None:
    for name, mask in (("truth.nii.gz", labels()), ("answer 3.nrrd", labels(1, 0))):
        write_mask_file(tmp_path / name, Mask(mask, grid()))
    found = evaluate_folders(tmp_path / "truth.nii.gz", tmp_path / "answer 3.nrrd")
    assert [(row.case, row.dice) for row in found.rows] == [("truth", 1.0), ("truth", 0.0)]
    for name in ("one.png", "two.png"):
        Image.fromarray(labels()[1]).save(tmp_path / name)
    found = evaluate_folders(tmp_path / "one.png", tmp_path / "two.png")
    assert [(row.case, row.dice) for row in found.rows] == [("one", 1.0)] * 2


def test_masks_of_another_extent_in_one_case_are_both_counted(tmp_path: Path) -> None:
    """What lies outside of the reference's grid is a false positive, not lost."""
    part = grid().slices(0, 2)
    write_mask_file(tmp_path / "r.nii.gz", Mask(labels(1, 0)[:2], part))
    write_mask_file(tmp_path / "p.nii.gz", Mask((labels(1, 1) > 0).astype(np.uint8), grid()))
    (row,) = evaluate_folders(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz").rows
    assert (row.voxels_reference, row.voxels_prediction) == (40, 56)
    assert row.dice == pytest.approx(80 / 96)


def test_rois_that_overlap_are_measured_and_compared_whole(tmp_path: Path) -> None:
    """A tumour in its organ: painting one over the other would cut the organ."""
    files = series(tmp_path / "images")
    organ, tumour = (1, 1, 9, 11, (0, 1)), (3, 3, 5, 5, (1,))
    for side in ("a", "b"):
        write_rtstruct(tmp_path / side / "S.dcm", files, {"organ": organ, "tumour": tumour})
    found = measure_masks(tmp_path / "a", tmp_path / "out", tmp_path / "images")
    assert [row.voxels for row in found.volumes] == [160, 4]
    follows("label-overlap-whole", "read, said", found.notes)
    one_drawn = "where ROIs overlap, the pictures here show one of them"
    assert one_drawn in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "a" / "labels.csv").write_text("value,name\n1,heart\n2,organ\n", encoding="utf-8")
    found = measure_masks(tmp_path / "a", tmp_path / "o3", tmp_path / "images")
    assert [(row.label, row.roi, row.voxels) for row in found.volumes] == [
        (1, "heart", 0),
        (2, "organ", 160),
        (3, "tumour", 4),
    ]
    (tmp_path / "a" / "labels.csv").unlink()
    cut = measure_masks(tmp_path / "a", tmp_path / "o2", tmp_path / "images", overlap_priority=["tumour"])
    assert [row.voxels for row in cut.volumes] == [156, 4]
    assert "overlap in 4 pixels" in " ".join(cut.notes)
    assert one_drawn not in (tmp_path / "o2" / "report.html").read_text(encoding="utf-8")
    found = evaluate_folders(tmp_path / "a", tmp_path / "b", images=tmp_path / "images")
    assert [(row.dice, row.voxels_reference) for row in found.rows] == [(1.0, 160), (1.0, 4)]


# --- manifests --------------------------------------------------------------------------------------------------------


def test_manifests_are_measured_and_compared(tmp_path: Path) -> None:
    first = series(tmp_path / "images", "A")
    second = series(tmp_path / "images", "B")
    write_rtstruct(tmp_path / "x.dcm", first, {"left": ONE, "right": TWO})
    write_label("nifti", tmp_path / "n", second)
    write_rtstruct(tmp_path / "y.dcm", second, {"right": TWO, "left": ONE})
    (tmp_path / "m.csv").write_text(
        "image,label,case\nimages/A,x.dcm,knee\nimages/B,y.dcm,hip\n", encoding="utf-8"
    )
    found = measure_masks(tmp_path / "m.csv", tmp_path / "out")
    assert [(row.case, row.roi, row.volume_mm3) for row in found.volumes] == [
        ("knee", "left", pytest.approx(ONE_MM3)),
        ("knee", "right", pytest.approx(TWO_MM3)),
        ("hip", "left", pytest.approx(ONE_MM3)),
        ("hip", "right", pytest.approx(TWO_MM3)),
    ]
    folder = tmp_path / "predictions"
    write_label("png", folder, second)
    (folder / "S").rename(folder / "hip")
    found = evaluate_folders(tmp_path / "m.csv", folder)
    assert [(row.case, row.roi, row.dice) for row in found.rows] == [
        ("hip", "left", 1.0),
        ("hip", "right", 1.0),
    ]
    (tmp_path / "p.csv").write_text(
        "image;label;case\nimages/A;x.dcm;knee\nimages/B;n/S.nii.gz;hip\n", encoding="utf-8"
    )
    found = evaluate_folders(tmp_path / "m.csv", tmp_path / "p.csv")
    assert [row.dice for row in found.rows] == [1.0] * 4
    assert "The prediction names no ROIs: equal label values are taken to be the same ROI." in found.notes
    assert (
        "The ROIs that the reference names were numbered in the order of their names (1 = 'left', 2 = 'right'). If the numbers of "
        "the other side mean other ROIs, give --labels with the names in the order of these numbers."
    ) in found.notes
    found = evaluate_folders(tmp_path / "m.csv", tmp_path / "p.csv", labels=["left", "right"])
    assert [row.dice for row in found.rows] == [1.0] * 4
    assert not any("in the order of their names" in note for note in found.notes)
    found = measure_masks(tmp_path / "p.csv", tmp_path / "out2")
    assert [name for name, _ in found.failures] == ["hip"]
    assert len(measure_masks(tmp_path / "p.csv", tmp_path / "out3", labels=["left", "right"]).cases) == 2


def test_several_structure_sets_of_one_scan_are_each_measured(tmp_path: Path) -> None:
    files = series(tmp_path / "images")
    write_rtstruct(tmp_path / "masks" / "monday.dcm", files, {"left": ONE})
    write_rtstruct(tmp_path / "masks" / "friday.dcm", files, {"left": TWO})
    found = measure_masks(tmp_path / "masks", tmp_path / "out", tmp_path / "images")
    assert {row.case: row.volume_mm3 for row in found.volumes} == {
        "friday": pytest.approx(TWO_MM3),
        "monday": pytest.approx(ONE_MM3),
    }
    (tmp_path / "masks").rename(tmp_path / "patient")
    (tmp_path / "all").mkdir()
    (tmp_path / "patient").rename(tmp_path / "all" / "patient")
    found = measure_masks(tmp_path / "all", tmp_path / "out2", tmp_path / "images")
    assert sorted(found.cases) == ["patient_friday", "patient_monday"]


def test_a_manifest_of_slices(tmp_path: Path) -> None:
    for name in ("s1", "s2"):
        Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(tmp_path / f"{name}.png")
        Image.fromarray(labels()[1] // 2).save(tmp_path / f"{name}_mask.png")
    text = "image,label,case\ns1.png,s1_mask.png,a\ns2.png,s2_mask.png,b\n"
    for name in ("m.csv", "n.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = measure_masks(tmp_path / "m.csv", tmp_path / "out")
    assert [(row.case, row.voxels) for row in found.volumes] == [("a", 8), ("b", 8)]
    assert [row.dice for row in evaluate_folders(tmp_path / "m.csv", tmp_path / "n.csv").rows] == [1.0, 1.0]


# --- codes ------------------------------------------------------------------------------------------------------------


def slices(folder: Path, *planes: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(planes):
        Image.fromarray(plane).save(folder / f"s{number}.png")
    return folder


def test_codes_are_told_with_the_option_to_give(tmp_path: Path) -> None:
    red = np.zeros((10, 12, 3), np.uint8)
    red[2:4, 3:5, 0] = 255
    folder = slices(tmp_path / "colours", red)
    with pytest.raises(DataError, match=r'the colours 0, #FF0000; .* give --label-map "#FF0000=1"'):
        measure_masks(folder, tmp_path / "o1")
    with pytest.raises(
        DataError, match=r'^reference: the label files hold .* give --reference-map "#FF0000=1"'
    ):
        evaluate_folders(folder, folder)
    inverted = slices(tmp_path / "inverted", (box(ONE)[0] == 0).astype(np.uint8) * 255)
    with pytest.raises(
        DataError, match=r'255 fills 83 % of the pixels.* give --label-map "0=1,255=0"; if 255 is'
    ):
        measure_masks(inverted, tmp_path / "o2")
    with pytest.raises(DataError, match=r'give --reference-map "0=1,255=0"'):
        evaluate_folders(inverted, inverted)
    (row,) = measure_masks(inverted, tmp_path / "o3", label_map={0: 1, 255: 0}).volumes
    assert row.voxels == 20
    grey = slices(tmp_path / "grey", labels()[1] * 63)
    found = measure_masks(grey, tmp_path / "o4")
    assert "the values 63, 126 look like codes; each is measured as an ROI of that number." in found.notes[0]
    numbered = slices(tmp_path / "numbered", labels()[1])
    with pytest.raises(
        DataError, match=r'prediction: .* the values 0, 63, 126; .* --prediction-map "63=1,126=2"'
    ):
        evaluate_folders(numbered, grey)
    found = evaluate_folders(numbered, grey, prediction_map={63: 1, 126: 2})
    assert [row.dice for row in found.rows] == [1.0, 1.0]


def test_the_command_line_takes_maps_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey, numbered = slices(tmp_path / "grey", labels()[1] * 63), slices(tmp_path / "numbered", labels()[1])
    write_mask_file(tmp_path / "v.nii.gz", Mask(labels(), grid()))
    assert (
        main(["measure", str(grey), "--output", str(tmp_path / "o"), "--label-map", "63=1,126=1", "--json"])
        == 0
    )
    (row,) = json.loads(capsys.readouterr().out)["volumes"]
    assert (row["roi"], row["voxels"]) == ("ROI 1", 28)
    command = [
        "measure",
        str(tmp_path / "v.nii.gz"),
        "--set",
        "slice_axis=sagittal",
        "--output",
        str(tmp_path / "o2"),
    ]
    assert main(command) == 0
    assert "on 5 slices" in capsys.readouterr().out
    assert main(["measure", str(grey), "--output", str(tmp_path / "o5"), "--set", "epochs=3"]) == 2
    assert main(["measure", str(grey), "--output", str(tmp_path / "o5"), "--label-map", "x"]) == 2
    command = [
        "evaluate",
        "--reference",
        str(numbered),
        "--prediction",
        str(grey),
        "--output",
        str(tmp_path / "e.csv"),
    ]
    assert main(command) == 1
    assert '--prediction-map "63=1,126=2"' in capsys.readouterr().err
    assert not (tmp_path / "e.csv").exists()
    assert main([*command, "--label-map", "63=1,126=2", "--json"]) == 0
    assert [row["dice"] for row in json.loads(capsys.readouterr().out)["rows"]] == [1.0, 1.0]
    assert main([*command, "--label-map", "63=1,126=2"]) == 1
    assert (
        "is there already. Choose another name for --output, or give --overwrite" in capsys.readouterr().err
    )
    assert main([*command, "--label-map", "63=1,126=2", "--overwrite"]) == 0


def test_tables_are_not_overwritten_silently(tmp_path: Path) -> None:
    masks = slices(tmp_path / "m", labels()[1])
    (tmp_path / "e_summary.csv").write_text("kept", encoding="utf-8")
    with pytest.raises(ExportError, match=r"'.*e_summary.csv' is there already"):
        evaluate(masks, masks, tmp_path / "e.csv")
    assert (tmp_path / "e_summary.csv").read_text(encoding="utf-8") == "kept"


def test_named_and_numbered_masks_side_by_side(tmp_path: Path) -> None:
    files = series(tmp_path / "images", "S")
    folder = write_label("slicer", tmp_path / "m", files)
    write_mask_file(folder / "other.nii.gz", Mask(labels(), grid()))
    found = measure_masks(folder, tmp_path / "out")
    assert found.cases == ("S",)
    assert "it holds numbers, and others name their ROIs ('S': 'left', 'right')" in found.failures[0][1]
    found = measure_masks(folder, tmp_path / "out2", labels=["Left", "Right"])
    assert found.cases == ("other", "S") or found.cases == ("S", "other")


# --- figures known from elsewhere -------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_liver_segmentation(tmp_path: Path) -> None:
    """README: 23 804.6, 23 418.3 and 23 139.1 mm²."""
    folder = real_data("dicom_seg") / "liver_ct3slice"
    for number, images in enumerate((None, folder / "images")):
        measure_masks(folder / "seg" / "liver.dcm", tmp_path / f"{number}", images)
        with (tmp_path / f"{number}" / "measurements.csv").open(encoding="utf-8", newline="") as stream:
            areas = sorted((float(row["area_mm2"]) for row in csv.DictReader(stream)), reverse=True)
        assert areas == pytest.approx([23804.6, 23418.3, 23139.1], abs=0.06)
    (row,) = evaluate_folders(folder / "seg" / "liver.dcm", folder / "seg" / "liver.dcm").rows
    assert (row.roi, row.dice, row.voxels_reference) == ("Liver", 1.0, 36233 + 35645 + 35220)


@pytest.mark.real_data
def test_phantom_tumours(tmp_path: Path) -> None:
    """README: 358.66 and 6.43 ml by the contours' polygons; pixels agree within 0.5 %."""
    folder = real_data("radiomics_phantom_rtstruct")
    found = measure_masks(folder, tmp_path / "out", folder)
    volumes = {row.case: row.volume_ml for row in found.volumes}
    assert volumes["pat_1"] == pytest.approx(358.66, rel=0.005)
    assert volumes["pat_2"] == pytest.approx(6.43, rel=0.005)
    assert found.labels.names == ("GTV-1",)


@pytest.mark.real_data
def test_brain_lesion_in_nrrd(tmp_path: Path) -> None:
    """pyradiomics: 16412.66 mm³ of voxels."""
    path = real_data("pyradiomics_nrrd") / "brain1_label.nrrd"
    (row,) = measure_masks(path, tmp_path / "out").volumes
    assert row.volume_mm3 == pytest.approx(16412.658691406243)
    write_slicer(
        tmp_path / "lesion.seg.nrrd",
        {"lesion": load_scan(discover(path).sources[0]).volume.array == 1},
        load_scan(discover(path).sources[0]).volume.geometry,
    )
    (row,) = measure_masks(tmp_path / "lesion.seg.nrrd", tmp_path / "out2").volumes
    assert (row.roi, row.volume_mm3) == ("lesion", pytest.approx(16412.658691406243))


@pytest.mark.real_data
def test_second_reader_of_the_liver_by_map(tmp_path: Path) -> None:
    """README: values 0 and 63; Dice 0.9784, 1408.07 ml."""
    folder = real_data("chaos_ct_liver")
    found = evaluate_folders(
        folder / "labels",
        folder / "labels_second_reader_dl",
        images=folder / "images",
        labels=["liver"],
        prediction_map={63: 1},
    )
    (row,) = found.rows
    assert (row.roi, row.dice) == ("liver", pytest.approx(0.9784, abs=5e-5))
    assert row.volume_reference_ml == pytest.approx(1417.49, abs=0.01)
    assert row.volume_prediction_ml == pytest.approx(1408.07, abs=0.01)


@pytest.mark.real_data
def test_inverted_masks_of_five_raters(tmp_path: Path) -> None:
    """The object is 0; ImageJ saved RGB, Amira grey. Pixels per mask as in areas.csv."""
    folder = real_data("interobserver_aorta_mri_bubil6")
    with (folder / "areas.csv").open(encoding="utf-8", newline="") as stream:
        known = {
            (row["rater"], row["tool"], row["image"]): int(row["area_px"]) for row in csv.DictReader(stream)
        }
    for tool in ("Amira", "ImageJ"):
        masks = folder / "ExpertAnnotations" / f"Person1_{tool}"
        with pytest.raises(DataError, match=r"seems to mark what is around the ROI"):
            measure_masks(masks, tmp_path / f"refused {tool}")
        measure_masks(masks, tmp_path / tool, label_map={0: 1, 255: 0})
        with (tmp_path / tool / "measurements.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        pixels = sorted(int(row["pixels"]) for row in rows)
        assert pixels == sorted(area for key, area in known.items() if key[:2] == ("Person1", tool))
