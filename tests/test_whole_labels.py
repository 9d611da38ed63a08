"""Label files that hold a whole scan: RTSTRUCT, 3D Slicer's, ImageJ stacks, volumes on another grid; whose they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg_lib.data.discover import discover
from autoseg_lib.data.label_names import roi_values
from autoseg_lib.data.masks import load_case
from autoseg_lib.data.pairing import Pairing, pair
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import write_mask_file, write_volume_file
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.checking import check_study
from tests.helpers.dicom import write_series
from tests.helpers.named_labels import write_rtstruct, write_slicer
from tests.helpers.real_data import real_data

ONE, TWO = (2, 3, 6, 8, (0, 1)), (5, 6, 9, 10, (1, 2))


def settings(main: Path, **values) -> TrainSettings:
    return make_settings(TrainSettings, {"main_dir": str(main), **values})


def paired(main: Path, **values) -> Pairing:
    return pair(settings(main, **values))


def texts(found: Pairing, severity: str = "error") -> str:
    return "\n".join(item.text for item in found.issues if item.severity == severity)


def series(main: Path, name: str = "S", count: int = 4, **options) -> list[Path]:
    array = np.arange(count * 120, dtype=np.int16).reshape(count, 10, 12)
    return write_series(
        main / "train/images" / name, array, step=(0, 0, 2), series=name, spacing=(0.5, 0.75), **options
    )


def box(where, shape=(4, 10, 12)) -> np.ndarray:
    r0, c0, r1, c1, slices = where
    mask = np.zeros(shape, bool)
    mask[list(slices), r0:r1, c0:c1] = True
    return mask


def expected(one: int = 1, two: int = 2, top: str = "two") -> np.ndarray:
    result = np.zeros((4, 10, 12), np.uint8)
    for where, value in ((ONE, one), (TWO, two)) if top == "two" else ((TWO, two), (ONE, one)):
        result[box(where)] = value
    return result


# --- RTSTRUCT --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["S.dcm", "S/x.dcm", "S", "other.dcm"])
def test_an_rtstruct_goes_with_its_scan_by_name_else_by_series(tmp_path: Path, place: str) -> None:
    files = series(tmp_path)
    write_rtstruct(tmp_path / "train/labels" / place, files, {"GTV 1": ONE, "Lung": TWO})
    found = paired(tmp_path)
    assert not found.has_errors
    assert (found.images, found.labels, found.pairs, len(found.cases)) == (4, 1, 4, 1)
    assert found.roi_names == ("GTV 1", "Lung")
    said = "label 'other.dcm' goes with the scan 'S', though its name differs" in texts(found, "warning")
    assert said == (place == "other.dcm")
    assert (
        "the ROIs named in the label files are used: 1 'GTV 1', 2 'Lung'. labels_list chooses some of them."
        in found.notes
    )
    assert np.array_equal(load_case(found.cases[0])[1].array, expected())


def test_names_priority_and_map_decide_the_values(tmp_path: Path) -> None:
    files = series(tmp_path)
    write_rtstruct(
        tmp_path / "train/labels/S.dcm", files, {"GTV 1": ONE, "Lung": TWO, "Body": (0, 0, 10, 12, (3,))}
    )

    def mask(**values) -> tuple[np.ndarray, tuple[str, ...]]:
        found = paired(tmp_path, **values)
        assert not found.has_errors, texts(found)
        _, result, notes = load_training_case(found.cases[0], settings(tmp_path, **values))
        return result.array, notes

    array, notes = mask(labels_list=["lung", "gtv-1"])
    assert np.array_equal(array, expected(one=2, two=1, top="one"))
    assert "'Body'" in "\n".join(notes)
    assert "overlap in 2 pixels" in "\n".join(notes)
    array, _ = mask(labels_list=["gtv-1", "lung"], overlap_priority=["GTV_1"])
    assert np.array_equal(array, expected(top="one"))
    array, _ = mask(label_map={"GTV 1": 1, "Lung": 1})
    assert np.array_equal(array, expected(1, 1))
    assert paired(tmp_path, label_map={"GTV 1": 1, "Lung": 1}).roi_names == ("GTV 1",)


def test_the_model_learns_the_names_in_the_files(tmp_path: Path) -> None:
    for name in ("A", "B"):
        files = series(tmp_path, name)
        rois = {"lung 10": TWO, "lung 2": ONE} if name == "A" else {"Lung_2": ONE}
        write_rtstruct(tmp_path / "train/labels" / f"{name}.dcm", files, rois)
    study = check_study(settings(tmp_path))
    assert study.labels.names == ("lung 2", "lung 10")
    assert [row.slices for row in study.report.roi_rows] == [4, 2]


def test_rtstructs_that_are_refused(tmp_path: Path) -> None:
    files = series(tmp_path)
    labels = tmp_path / "train/labels"
    write_rtstruct(labels / "S.dcm", files, {"GTV": ONE})
    assert "labels_list names 'heart'; the label files hold the ROIs 'GTV'." in texts(
        paired(tmp_path, labels_list=["heart"])
    )
    write_rtstruct(labels / "S/second.dcm", files, {"GTV": ONE})
    assert "labels 'S.dcm', 'second.dcm': all of them are for the scan 'S'" in texts(paired(tmp_path))
    shutil.rmtree(labels / "S")
    other = series(tmp_path / "elsewhere", "Z", FrameOfReferenceUID="1.2.3")
    write_rtstruct(labels / "S.dcm", other, {"GTV": ONE})
    with pytest.raises(DataError, match="another frame of reference"):
        load_case(paired(tmp_path).cases[0])
    (labels / "S.dcm").write_bytes((labels / "S.dcm").read_bytes()[:900])
    assert paired(tmp_path).has_errors


def test_two_scans_in_one_folder_are_told_apart_by_series(tmp_path: Path) -> None:
    for name in ("a", "b"):
        files = write_series(
            tmp_path / "train/images/S",
            np.zeros((3, 10, 12), np.int16),
            prefix=name,
            series=name,
            SeriesNumber=ord(name),
        )
        write_rtstruct(tmp_path / "train/labels" / f"{name}{name}.dcm", files, {"GTV": (1, 1, 3, 3, (0,))})
    found = paired(tmp_path)
    assert [(case.name, case.label_volume.name) for case in found.cases if case.label_volume] == [
        ("S_1", "aa.dcm"),
        ("S_2", "bb.dcm"),
    ]


def test_orphans_of_whole_scans_are_told_by_folder(tmp_path: Path) -> None:
    files = series(tmp_path, "A")
    series(tmp_path, "B")
    write_rtstruct(tmp_path / "train/labels/A.dcm", files, {"GTV": ONE})
    other = series(tmp_path / "elsewhere", "Z")
    write_rtstruct(tmp_path / "train/labels/C.dcm", other, {"GTV": ONE})
    found = paired(tmp_path)
    assert "1 image has no label: 'B'." in texts(found, "warning")
    assert "1 label has no image: 'C.dcm'." in texts(found, "warning")


def test_named_and_numbered_labels_need_a_list(tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "train/labels/A.dcm", series(tmp_path, "A"), {"GTV": ONE})
    series(tmp_path, "B")
    geometry = load_case(paired(tmp_path).cases[0])[1].geometry
    write_mask_file(tmp_path / "train/labels/B.nii.gz", Mask(expected(), geometry))
    assert "some labels name their ROIs ('GTV': 'A.dcm'), others hold numbers ('B.nii.gz')" in texts(
        paired(tmp_path)
    )
    assert not paired(tmp_path, labels_list=["GTV", "Lung"]).has_errors


def test_numbers_of_names() -> None:
    found = roi_values(["Lung 10", "lung_2", "LUNG-2"], None)
    assert (found.values, found.names) == ({"lung_2": 1, "Lung 10": 2}, ("lung_2", "Lung 10"))
    found = roi_values(["GTV", "CTV"], ["tumour"], {"GTV": 1, "CTV": 1, 63: 2})
    assert (found.values, found.names) == ({"tumour": 1, "GTV": 1, "CTV": 1}, ("tumour",))
    assert roi_values(["1", "2"], None, {2: 1}).values == {"2": 1}
    with pytest.raises(SettingsError, match="label_map names 'X'; the label files hold the ROIs 'GTV'"):
        roi_values(["GTV"], None, {"X": 1})


# --- 3D Slicer, stacks -----------------------------------------------------------------------------------------------


def test_a_map_of_names_to_leave_out_keeps_the_others() -> None:
    found = roi_values(["Body", "liver", "spleen"], None, {"body": 0})
    assert (found.values, found.names) == ({"liver": 1, "spleen": 2}, ("liver", "spleen"))
    assert roi_values(["Body", "liver"], None, {"Body": 0, "liver": 3}).values == {"liver": 3}


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1)])
def test_a_label_is_not_turned_by_directions_that_its_image_lacks(tmp_path: Path, signs) -> None:
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/labels").mkdir()
    image = nibabel.Nifti1Image((100 + expected()).T.astype(np.int16), None)
    image.header.set_zooms((0.75, 0.5, 2))  # neither qform nor sform
    nibabel.save(image, tmp_path / "train/images/S.nii.gz")
    affine = np.diag([0.75 * signs[0], 0.5 * signs[1], 2, 1])
    nibabel.save(nibabel.Nifti1Image(expected().T, affine), tmp_path / "train/labels/S.nii.gz")
    scan, mask, notes = load_training_case(paired(tmp_path).cases[0], settings(tmp_path))
    np.testing.assert_array_equal(mask.array, scan.volume.array - 100)
    assert any("they were matched voxel by voxel, as both files store them" in note for note in notes)


def test_a_label_in_the_patient_does_not_go_onto_pictures(tmp_path: Path) -> None:
    (tmp_path / "train/images/S").mkdir(parents=True)
    (tmp_path / "train/labels").mkdir()
    for index in range(4):
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(tmp_path / f"train/images/S/{index}.png")
    affine = np.diag([0.75, 0.5, 2, 1])
    nibabel.save(nibabel.Nifti1Image(expected().T, affine), tmp_path / "train/labels/S.nii.gz")
    with pytest.raises(DataError, match="which pixel belongs to which cannot be told"):
        load_training_case(paired(tmp_path).cases[0], settings(tmp_path))


def test_two_headers_that_say_nothing_are_no_place(tmp_path: Path) -> None:
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/labels").mkdir()
    image = nibabel.Nifti1Image(np.zeros((12, 10, 4), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "train/images/S.nii.gz")
    label = nibabel.Nifti1Image(expected()[:, 1:, 2:].T, np.eye(4))
    nibabel.save(label, tmp_path / "train/labels/S.nii.gz")
    with pytest.raises(DataError, match="the label's header holds no place"):
        load_training_case(paired(tmp_path).cases[0], settings(tmp_path))


def test_a_slicer_segmentation_of_a_series_and_of_a_volume(tmp_path: Path) -> None:
    series(tmp_path)
    geometry = Geometry.from_spacing(
        (4, 10, 12), (2, 0.5, 0.75), spacing_known=True, positions_known=True, orientation_known=True
    )
    layers = {"left": box(ONE), "right": box(TWO) & ~box(ONE)}
    write_slicer(tmp_path / "train/labels/S.seg.nrrd", layers, geometry)
    found = paired(tmp_path)
    assert found.roi_names == ("left", "right")
    assert np.array_equal(load_case(found.cases[0])[1].array, expected(top="one"))
    shutil.rmtree(tmp_path / "train/images")
    (tmp_path / "train/images").mkdir()
    write_volume_file(tmp_path / "train/images/S.nii.gz", Volume(np.zeros((4, 10, 12), np.int16), geometry))
    scan, mask, _ = load_case(paired(tmp_path).cases[0])
    assert np.array_equal(mask.array.sum(), expected(top="one").sum())
    assert mask.geometry.is_same_grid(scan.volume.geometry)


def test_a_slicer_segmentation_is_no_image(tmp_path: Path) -> None:
    grid = placed((4, 10, 12), (2, 1, 1))
    write_volume_file(tmp_path / "a.nrrd", Volume(np.zeros((4, 10, 12), np.int16), grid))
    write_slicer(tmp_path / "a.seg.nrrd", {"x": box(ONE)}, grid)
    found = discover(tmp_path)
    assert [source.name for source in found.sources] == ["a"]
    assert [item.reason for item in found.skipped] == ["a 3D Slicer segmentation, not an image"]


def test_an_imagej_stack_is_read_page_by_page(tmp_path: Path) -> None:
    series(tmp_path)
    (tmp_path / "train/labels").mkdir()
    pages = expected() * 100
    tifffile.imwrite(tmp_path / "train/labels/S.tif", pages, imagej=True)
    found = paired(tmp_path, label_map={100: 1, 200: 2})
    assert found.pairs == 4
    _, mask, notes = load_training_case(found.cases[0], settings(tmp_path, label_map={100: 1, 200: 2}))
    assert np.array_equal(mask.array, expected())
    assert notes == (
        "label 'S.tif': its pages are taken in the order of the image files, page 1 for 'slice_001'.",
    )
    tifffile.imwrite(tmp_path / "train/labels/S.tif", pages[:3], imagej=True)
    with pytest.raises(
        DataError, match=r"label 'S.tif' has 3 × 10 × 12 pages, rows and columns, scan 'S' has 4 × 10 × 12"
    ):
        load_case(paired(tmp_path).cases[0])


def test_the_pages_of_a_stack_follow_the_files_not_the_positions(tmp_path: Path) -> None:
    series(tmp_path, origin=(0, 0, 10))
    shutil.rmtree(tmp_path / "train/images/S")
    array = np.zeros((4, 10, 12), np.int16)
    # The first file lies highest: slices run from the last file to the first.
    write_series(tmp_path / "train/images/S", array, step=(0, 0, -2))
    (tmp_path / "train/labels").mkdir()
    np.save(tmp_path / "train/labels/S.npy", expected())
    _, mask, _ = load_case(paired(tmp_path).cases[0])
    assert np.array_equal(mask.array, expected()[::-1])
    # Numbers against names: nobody knows what page 1 is.
    shutil.rmtree(tmp_path / "train/images/S")
    for index, path in enumerate(write_series(tmp_path / "train/images/S", array)):
        path.rename(path.with_name(f"z{9 - index}.dcm"))
    with pytest.raises(DataError, match="by name the slices of 'S' have another order than by image number"):
        load_case(paired(tmp_path).cases[0])


# --- another grid ----------------------------------------------------------------------------------------------------


def placed(shape, spacing, origin=(0.0, 0.0, 0.0)) -> Geometry:
    affine = Geometry.from_spacing(shape, spacing).affine.copy()
    affine[:3, 3] = origin
    return Geometry(shape, affine)


def volume_pair(main: Path, label: Mask, image: Geometry) -> None:
    for folder in ("images", "labels"):
        (main / "train" / folder).mkdir(parents=True, exist_ok=True)
    write_volume_file(main / "train/images/a.nii.gz", Volume(np.zeros(image.shape_zyx, np.int16), image))
    write_mask_file(main / "train/labels/a.nii.gz", label)


def test_a_finer_label_of_the_same_frame_is_resampled_and_said(tmp_path: Path) -> None:
    image = placed((4, 10, 12), (2, 1, 1), (5, -7, 3))
    # Twice as fine in the plane; each pixel of the image holds 2 × 2 of the label's.
    fine = placed((4, 20, 24), (2, 0.5, 0.5), (4.75, -7.25, 3))
    array = np.kron(expected(), np.ones((1, 2, 2), np.uint8))
    volume_pair(tmp_path, Mask(array, fine), image)
    _, mask, notes = load_case(paired(tmp_path).cases[0])
    assert np.array_equal(mask.array, expected()[::1])
    (note,) = [note for note in notes if "another grid" in note]
    assert note == (
        "label 'a.nii.gz' lies on another grid (4 × 20 × 24 voxels of 2 × 0.5 × 0.5 mm) than its scan (4 × 10 × 12 voxels of "
        "2 × 1 × 1 mm); it was placed by position, each pixel taking the nearest label value."
    )


def test_a_cropped_label_is_placed_and_what_is_lost_is_said(tmp_path: Path) -> None:
    image = placed((4, 10, 12), (2, 1, 1), (5, -7, 3))
    crop = placed((4, 6, 5), (2, 1, 1), (5 + 8, -7 + 4, 3))  # from row 4, column 8
    array = np.zeros((4, 6, 5), np.uint8)
    array[1, :2] = 1  # ten pixels: the scan has twelve columns, so that of five the last lies outside
    volume_pair(tmp_path, Mask(array, crop), image)
    _, mask, notes = load_case(paired(tmp_path).cases[0])
    assert np.argwhere(mask.array).tolist() == [
        [1, row, column] for row in (4, 5) for column in (8, 9, 10, 11)
    ]
    assert "20.0 % of what is drawn lies outside of the scan." in notes[-1]


def test_labels_that_cannot_be_placed_are_refused(tmp_path: Path) -> None:
    image = placed((4, 10, 12), (2, 1, 1), (5, -7, 3))
    ones = np.ones((4, 6, 5), np.uint8)
    volume_pair(tmp_path, Mask(ones, placed((4, 6, 5), (2, 1, 1), (500, 0, 0))), image)
    with pytest.raises(DataError, match="lie in different places and do not overlap"):
        load_case(paired(tmp_path).cases[0])
    nibabel.save(nibabel.Nifti1Image(ones.T, np.eye(4)), tmp_path / "train/labels/a.nii.gz")
    with pytest.raises(DataError, match=r"the label's header holds no place .1 mm pixels from 0, 0, 0"):
        load_case(paired(tmp_path).cases[0])
    unknown = Mask(ones, Geometry.from_spacing((4, 6, 5)))
    write_mask_file(tmp_path / "train/labels/a.nii.gz", unknown)
    with pytest.raises(
        DataError, match=r"label 'a.nii.gz' has 4 × 6 × 5 voxels, image 'a' has 4 × 10 × 12, and label"
    ):
        load_case(paired(tmp_path).cases[0])


# --- manifests, real files -------------------------------------------------------------------------------------------


def test_a_manifest_may_list_rtstructs_and_stacks(tmp_path: Path) -> None:
    files = series(tmp_path, "A")
    write_rtstruct(tmp_path / "rs.dcm", files, {"GTV": ONE, "Lung": TWO})
    series(tmp_path, "B")
    tifffile.imwrite(tmp_path / "b.tif", expected(), imagej=True)
    (tmp_path / "m.csv").write_text(
        "image,label,case\ntrain/images/A,rs.dcm,first\ntrain/images/B,b.tif,second\n", encoding="utf-8"
    )
    found = paired(tmp_path / "m.csv", labels_list=["GTV", "Lung"])
    assert not found.has_errors
    assert [case.name for case in found.cases] == ["first", "second"]
    for case in found.cases:
        assert np.array_equal(load_case(case)[1].array, expected())


@pytest.mark.real_data
def test_phantom_rtstructs_train_by_name_and_by_series(tmp_path: Path) -> None:
    """Volumes by polygon areas (README): 358.66 and 6.43 ml; pixels agree within 0.5 %."""
    folder = real_data("radiomics_phantom_rtstruct")
    for patient in ("pat_1", "pat_2"):
        for file in (folder / patient).iterdir():
            named = f"{patient}.dcm" if patient == "pat_1" else file.name
            target = f"labels/{named}" if "_RS_" in file.name else f"images/{patient}/{file.name}"
            (tmp_path / "train" / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "train" / target)
    found = paired(tmp_path)
    assert (found.pairs, found.roi_names) == (101, ("GTV-1",))
    assert [item.code for item in found.issues] == ["matched_by_series"]
    volumes = []
    for case in found.cases:
        mask = load_case(case)[1]
        volumes.append(float(mask.array.sum() * np.prod(mask.geometry.spacing_zyx_mm) / 1000))
    assert volumes == pytest.approx([358.66, 6.43], rel=0.005)


@pytest.mark.real_data
def test_a_real_dicom_seg_trains(tmp_path: Path) -> None:
    """36 233, 35 645 and 35 220 pixels of liver (README)."""
    folder = real_data("dicom_seg") / "liver_ct3slice"
    shutil.copytree(folder / "images", tmp_path / "train/images/liver")
    (tmp_path / "train/labels").mkdir()
    shutil.copy(folder / "seg/liver.dcm", tmp_path / "train/labels/liver.dcm")
    found = paired(tmp_path)
    assert (found.pairs, found.issues, found.roi_names) == (3, (), ("Liver",))
    counts = load_case(found.cases[0])[1].array.sum(axis=(1, 2)).tolist()
    assert sorted(counts, reverse=True) == [36233, 35645, 35220]
