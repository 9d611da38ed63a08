"""Pairing images and labels by name in every layout, and what is said when they do not fit."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from autoseg_lib.data.masks import load_case
from autoseg_lib.data.pairing import Pairing, PairingIssue, pair
from autoseg_lib.errors import DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.raster import write_mask_npy, write_mask_png
from autoseg_lib.io.volume_files import read_volume_file, write_mask_file
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.volume import Mask, reorient
from tests.helpers.dicom import write_series, write_slice
from tests.helpers.real_data import real_data

SHAPE = (3, 5, 6)


def pixels(count: int = 3) -> np.ndarray:
    return np.arange(count * 30, dtype=np.int16).reshape(count, 5, 6)


def label(path: Path, value: int = 1, shape=(5, 6)) -> Path:
    array = np.zeros(shape, np.uint8)
    array[1, 2] = value
    if path.suffix == ".npy":
        write_mask_npy(path, array)
    else:
        write_mask_png(path, array)
    return path


def paired(main: Path, **settings) -> Pairing:
    return pair(make_settings(TrainSettings, {"main_dir": str(main), **settings}))


def issue(found: Pairing, code: str) -> PairingIssue:
    (result,) = [item for item in found.issues if item.code == code]
    return result


def only_error(found: Pairing) -> str:
    (result,) = [item for item in found.issues if item.severity == "error"]
    assert found.has_errors
    return result.text


# --- layouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["dicoms", "images"])
@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_one_slice_per_pair(tmp_path: Path, folder: str, suffix: str) -> None:
    train = tmp_path / "Étude 1" / "train"
    write_series(train / folder, pixels())
    for number in (1, 2, 3):
        label(train / "labels" / f"slice_00{number}{suffix}", number)
    found = paired(tmp_path / "Étude 1")
    assert found.issues == ()
    assert (found.images, found.labels, found.pairs, len(found.cases)) == (3, 3, 3, 1)
    assert found.layout == f"Étude 1/train/{folder} + Étude 1/train/labels"
    scan, mask, notes = load_case(found.cases[0])
    assert notes == ()
    assert mask.array[:, 1, 2].tolist() == [1, 2, 3]
    assert np.array_equal(scan.volume.array, pixels())


def test_labels_follow_the_sorted_slices(tmp_path: Path) -> None:
    for index, height in enumerate((30, 10, 20)):
        write_slice(
            tmp_path / "train/images/s" / f"{index}.dcm",
            pixels()[index],
            position=(0, 0, height),
            number=index,
        )
        label(tmp_path / "train/labels/s" / f"{index}.png", index + 1)
    (case,) = paired(tmp_path).cases
    scan, mask, _ = load_case(case)
    assert [path.stem for path in case.label_files if path] == ["1", "2", "0"]
    assert mask.array[:, 1, 2].tolist() == [2, 3, 1]
    assert scan.volume.array[:, 0, 0].tolist() == [30, 60, 0]


def test_slices_in_a_folder_per_scan_with_equal_names(tmp_path: Path) -> None:
    for scan in ("A", "B"):
        write_series(tmp_path / "train/images" / scan, pixels(), series=scan, PatientID=scan)
        for number in (1, 2, 3):
            label(tmp_path / "train/labels" / scan / f"slice_00{number}.png", 1 if scan == "A" else 2)
    found = paired(tmp_path)
    assert [case.name for case in found.cases] == ["A", "B"]
    assert len({case.patient for case in found.cases}) == 2
    assert [load_case(case)[1].array.max() for case in found.cases] == [1, 2]


@pytest.mark.parametrize(("image", "mask"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_with_accents_pair_however_they_are_stored(tmp_path: Path, image: str, mask: str) -> None:
    for place, form in (("images", image), ("labels", mask)):
        label(tmp_path / "train" / place / unicodedata.normalize(form, "é_1.png"))
        label(tmp_path / "train" / place / unicodedata.normalize(form, "façade") / "ü.png")
        scan = np.zeros((3, 5, 6), np.uint8)
        path = tmp_path / "train" / place / unicodedata.normalize(form, "Jörg.nii.gz")
        write_mask_file(path, Mask(scan, Geometry.from_spacing(scan.shape)))
    found = paired(tmp_path)
    assert (found.pairs, found.issues) == (3, ())


def test_layout_folders_in_any_case(tmp_path: Path) -> None:
    write_series(tmp_path / "Train" / "Images" / "A", pixels())
    label(tmp_path / "Train" / "LABELS" / "A" / "slice_001.png")
    assert paired(tmp_path).pairs == 1


def test_folders_are_the_users_own_division(tmp_path: Path) -> None:
    # Upper and lower half of one series: one stack, but a folder of labels for each.
    for half, name in enumerate(("upper", "lower")):
        planes = pixels(6)[3 * half : 3 * half + 3]
        write_series(
            tmp_path / "train" / "dicoms" / name, planes, prefix=name, origin=(0, 0, 3 * half), series="one"
        )
        for number in (1, 2, 3):
            label(tmp_path / "train" / "labels" / name / f"{name}_{number:03d}.png")
    found = paired(tmp_path)
    assert [(case.name, len(case.labels)) for case in found.cases] == [("lower", 3), ("upper", 3)]
    assert not found.issues


def test_two_series_in_one_scan_folder_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "train/images/S"
    write_series(folder, pixels(3), prefix="a", series=1, SeriesNumber=1)
    write_series(folder, pixels(4), prefix="b", series=2, SeriesNumber=2)
    write_series(folder, pixels(2), prefix="loc", series=3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for path in folder.iterdir():
        if not path.name.startswith("loc"):
            label(tmp_path / "train/labels/S" / f"{path.stem}.png")
    found = paired(tmp_path)
    assert [(case.name, len(case.labels)) for case in found.cases] == [("S_1", 3), ("S_2", 4)]
    assert not found.has_errors
    assert issue(found, "localizer").text.startswith(
        "a localizer (scout) of 2 slices was skipped: 'loc_001.dcm'"
    )


def save_volume(path: Path, axes: str = "RAS", shape=(6, 5, 3)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    image = nibabel.Nifti1Image(array, np.diag([0.7, 0.8, 3.0, 1.0]))
    if axes != "RAS":
        turn = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
        )
        image = image.as_reoriented(turn)
    nibabel.save(image, path)
    return array


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "PIR", "SAL"])
def test_whole_volumes_whatever_the_order_of_the_labels_axes(tmp_path: Path, axes: str) -> None:
    save_volume(tmp_path / "images/hip_1.nii.gz")
    save_volume(tmp_path / "labels/hip_1.nii.gz", axes)
    found = paired(tmp_path)
    assert found.issues == ()
    assert "images/ and labels/ lie directly in main_dir" in found.notes[0]
    scan, mask, _ = load_case(found.cases[0])
    # The label file holds the image's own numbers, so each must lie on its own voxel.
    assert np.array_equal(mask.array, scan.volume.array)
    assert mask.geometry is scan.volume.geometry


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_other_volume_formats(tmp_path: Path, suffix: str) -> None:
    save_volume(tmp_path / "train/images/a.nii.gz")
    volume = read_volume_file(tmp_path / "train/images/a.nii.gz")
    write_mask_file(
        tmp_path / f"train/labels/a{suffix}", Mask(volume.array.astype(np.uint8), volume.geometry)
    )
    scan, mask, _ = load_case(paired(tmp_path).cases[0])
    assert np.array_equal(mask.array, scan.volume.array)


def test_headers_with_their_pixels_in_another_file(tmp_path: Path) -> None:
    for folder, suffix in (("images", ".mhd"), ("labels", ".nhdr")):
        (tmp_path / "train" / folder).mkdir(parents=True)
        image = sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
        sitk.WriteImage(image, str(tmp_path / "train" / folder / f"a{suffix}"))
    found = paired(tmp_path)
    assert (found.images, found.labels, found.pairs, found.issues) == (1, 1, 1, ())


def test_label_volume_for_a_dicom_series(tmp_path: Path) -> None:
    write_series(tmp_path / "train/images/S", pixels(), orientation=(1, 0, 0, 0, -1, 0), spacing=(0.5, 0.75))
    source = paired_source(tmp_path)
    own = Mask(source.volume.array.astype(np.uint8), source.volume.geometry)
    write_mask_file(tmp_path / "train/labels/S.nii.gz", reorient(own, "LAS"))
    found = paired(tmp_path)
    assert (found.images, found.pairs) == (3, 3)
    scan, mask, _ = load_case(found.cases[0])
    assert np.array_equal(mask.array, scan.volume.array)


def paired_source(main: Path):  # type: ignore[no-untyped-def]
    from autoseg_lib.data.discover import discover
    from autoseg_lib.data.scan import load_scan

    return load_scan(discover(main / "train/images").sources[0])


def test_label_volume_for_a_folder_of_two_scans_is_unclear(tmp_path: Path) -> None:
    write_series(tmp_path / "train/images/S", pixels(), prefix="a", series=1)
    write_series(tmp_path / "train/images/S", pixels(), prefix="b", series=2)
    save_volume(tmp_path / "train/labels/S.nii.gz")
    issues = [item.text for item in paired(tmp_path).issues if item.code == "unclear_label"]
    assert "holds several scans, so it is not certain which one is meant" in issues[0]


def test_pictures(tmp_path: Path) -> None:
    for name in ("p1-1", "p1-2"):
        label(tmp_path / "train/images" / f"{name}.png", 200)
        label(tmp_path / "train/labels" / f"{name}.png")
    found = paired(tmp_path, patient_pattern="^(p[0-9]+)-")
    assert [(case.name, case.patient) for case in found.cases] == [("p1-1", "p1"), ("p1-2", "p1")]


def test_manifest(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", pixels())
    for number in (1, 2, 3):
        label(tmp_path / "somewhere" / f"slice_00{number}.png", number)
    save_volume(tmp_path / "v.nii.gz")
    save_volume(tmp_path / "v_label.nii.gz")
    label(tmp_path / "x.png", 9)
    label(tmp_path / "x_label.png", 5)
    label(tmp_path / "lonely.png")
    (tmp_path / "m.csv").write_text(
        "image,label,case,patient\ndicom,somewhere,knee,A\nv.nii.gz,v_label.nii.gz,,B\nx.png,x_label.png,,C\nlonely.png,,,\n",
        encoding="utf-8",
    )
    found = paired(tmp_path / "m.csv")
    cases = {case.name: case for case in found.cases}
    assert {name: case.patient for name, case in cases.items()} == {"knee": "A", "v": "B", "x": "C"}
    assert load_case(cases["knee"])[1].array[:, 1, 2].tolist() == [1, 2, 3]
    assert load_case(cases["x"])[1].array.max() == 5
    assert issue(found, "image_orphan").text == "manifest: no label for 'lonely.png'; not used for training."


# --- what does not fit ------------------------------------------------------------------------------------------------------


def test_a_missing_label_shifts_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "train/images", pixels(4))
    for number in (1, 3, 4):
        label(tmp_path / "train/labels" / f"slice_00{number}.png", number)
    found = paired(tmp_path)
    assert not found.has_errors
    assert issue(found, "image_orphan").text == (
        "1 image has no label: 'slice_002.dcm'. Labels need the same name as their image."
    )
    scan, mask, notes = load_case(found.cases[0])
    assert mask.array[:, 1, 2].tolist() == [1, 3, 4]
    assert scan.slice_names == ("slice_001", "slice_003", "slice_004")
    assert scan.volume.geometry.positions_mm.tolist() == [0, 2, 3]
    assert "apart" in notes[0]


@pytest.mark.parametrize(
    ("image", "near"),
    [
        ("slice_3.dcm", "Slice_3.png"),
        ("slice_3.dcm", "slice_003.png"),
        ("slice_3.dcm", "slice_3_label.png"),
        ("slice_3.dcm", "slice-3.png"),
        ("slice_3.dcm", "slice_3.dcm.png"),
    ],
)
def test_a_label_that_is_nearly_named_right(tmp_path: Path, image: str, near: str) -> None:
    write_slice(tmp_path / "train/images" / image, pixels()[0])
    label(tmp_path / "train/labels" / near)
    assert only_error(paired(tmp_path)) == (
        f"1 label looks like a match but its name differs: '{near}' for '{image}'. "
        "Give each label exactly the name of its image."
    )


def test_no_pairs_at_all(tmp_path: Path) -> None:
    write_series(tmp_path / "train/images", pixels())
    label(tmp_path / "train/labels/other.png")
    found = paired(tmp_path)
    assert only_error(found).startswith(
        "no image has a label of the same name (first image: 'slice_001.dcm', first label: 'other.png')"
    )
    assert {item.code for item in found.issues} == {"no_pairs", "image_orphan", "label_orphan"}


def test_a_manifest_gives_each_slice_one_label_of_its_own(tmp_path: Path) -> None:
    files = write_series(tmp_path / "S", pixels(2))
    one, two = label(tmp_path / "one.png"), label(tmp_path / "two.png", 2)
    whole = tmp_path / "whole.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5, 2), np.uint8), np.diag([-1, -1, 1, 1])), whole)

    def text(*labels: Path, images: list[Path] = files) -> str:
        rows = [f"S/{image.name},{file.name},x" for image, file in zip(images, labels, strict=True)]
        manifest = tmp_path / "m.csv"
        manifest.write_text("\n".join(["image,label,case", *rows, ""]), encoding="utf-8")
        found = paired(manifest)
        return only_error(found) if found.has_errors else ""

    assert text(one, two) == text(whole, whole) == ""
    assert text(one, one) == (
        "label 'one.png': given to several slices of 'x'. Each slice needs a label of its own; correct the column label."
    )
    assert text(whole, two).endswith(
        "the slices of 'x' are given several labels, one of which holds the whole scan. Give the scan one label, or each slice a "
        "label of its own."
    )
    assert "'slice_001.dcm' listed more than once" in text(one, two, images=[files[0]] * 2)


def test_two_labels_for_one_image_and_two_images_of_one_name(tmp_path: Path) -> None:
    write_series(tmp_path / "train/images", pixels(2))
    label(tmp_path / "train/labels/slice_001.png")
    label(tmp_path / "train/labels/slice_001.npy")
    label(tmp_path / "train/labels/slice_002.png")
    text = only_error(paired(tmp_path))
    assert text == "'slice_001.npy', 'slice_001.png' are 2 labels for one image. Keep one of them."
    label(tmp_path / "two/train/images/a.png")
    label(tmp_path / "two/train/images/a.npy")
    label(tmp_path / "two/train/labels/a.png")
    texts = [item.text for item in paired(tmp_path / "two").issues if item.severity == "error"]
    assert any("are 2 images of one name, so their label is not certain" in text for text in texts)


def test_dicom_images_among_the_labels_are_no_labels(tmp_path: Path) -> None:
    write_series(tmp_path / "train/images/S", pixels())
    write_slice(tmp_path / "train/labels/S.dcm", pixels()[0])
    assert issue(paired(tmp_path), "label_kind").text.startswith(
        "labels: found DICOM files without ROIs ('S.dcm'); expected RTSTRUCT or DICOM SEG."
    )


def test_damaged_image_is_an_error(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "train/images", pixels())
    for path in paths:
        label(tmp_path / "train/labels" / f"{path.stem}.png")
    (tmp_path / "train/images/text.dcm").write_text("no DICOM")
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    texts = [item.text for item in paired(tmp_path).issues if item.severity == "error"]
    assert any("'text.dcm': it is not a DICOM file" in text for text in texts)
    assert any("'slice_002.dcm': the file ends early (20 bytes" in text for text in texts)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "no train/images .* found nothing"),
        (lambda p: (p / "scans").mkdir(), "found 'scans'. Choose the folder above train/"),
        (lambda p: (p / "train" / "images").mkdir(parents=True), "found images/ but no labels/"),
        (
            lambda p: [(p / "train" / n).mkdir(parents=True) for n in ("images", "dicoms", "labels")],
            "both dicoms/ and",
        ),
        (
            lambda p: [(p / "train" / n).mkdir(parents=True) for n in ("images", "labels")],
            "is empty. Put the images",
        ),
    ],
)
def test_folders_that_are_not_arranged(tmp_path: Path, make, words) -> None:
    make(tmp_path)

    assert re.search(words, only_error(paired(tmp_path)))


def test_main_dir_missing_or_empty(tmp_path: Path) -> None:
    assert "was not found. Check the path" in only_error(paired(tmp_path / "nowhere"))
    assert "main_dir is empty" in only_error(pair(TrainSettings()))


# --- labels that do not fit their image -------------------------------------------------------------------------------------


def test_label_of_another_size(tmp_path: Path) -> None:
    write_slice(tmp_path / "train/images/x.dcm", pixels()[0])
    label(tmp_path / "train/labels/x.png", shape=(7, 9))
    with pytest.raises(
        DataError, match=r"label 'x.png' is 7×9, image 'x.dcm' is 5×6. They must have the same rows"
    ):
        load_case(paired(tmp_path).cases[0])


def test_label_volume_elsewhere(tmp_path: Path) -> None:
    save_volume(tmp_path / "images/a.nii.gz")
    image = nibabel.load(tmp_path / "images/a.nii.gz")
    (tmp_path / "labels").mkdir()
    for shift, fits in ((0.05, True), (2.0, False)):
        affine = image.affine.copy()
        affine[0, 3] += shift
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "labels/a.nii.gz")
        (case,) = paired(tmp_path).cases
        if fits:
            load_case(case)
        else:
            with pytest.raises(
                DataError, match=r"label 'a.nii.gz' and image 'a' have the same size but lie in different"
            ):
                load_case(case)


def test_jpg_label_warns(tmp_path: Path) -> None:
    write_slice(tmp_path / "train/images/x.dcm", np.zeros((32, 32), np.int16))
    (tmp_path / "train/labels").mkdir()
    blocks = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((16, 16), np.uint8))
    Image.fromarray(blocks).save(tmp_path / "train/labels/x.jpg", quality=95)
    _, mask, notes = load_case(paired(tmp_path).cases[0], num_labels=1)
    assert mask.array.max() == 1
    assert "save labels as PNG" in notes[0]


# --- real scans --------------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_liver_volume() -> None:
    found = paired(real_data("chaos_ct_liver"))
    assert (found.images, found.labels, found.pairs, found.issues) == (78, 78, 78, ())
    scan, mask, _ = load_case(found.cases[0])
    millilitres = float((mask.array == 1).sum() * np.prod(mask.geometry.spacing_zyx_mm) / 1000)
    assert millilitres == pytest.approx(1417.49, abs=0.005)
    # README: about 141 HU inside; reversed order would give a spread of 248.
    assert scan.volume.array[mask.array == 1].mean() == pytest.approx(141, abs=1)
    assert scan.volume.array[mask.array == 1].std() < 40


@pytest.mark.real_data
def test_cardiac_patients_are_apart() -> None:
    found = paired(real_data("sunnybrook_cardiac"))
    assert found.issues == ()
    assert len({case.patient for case in found.cases}) == len(found.cases) >= 3
    for case in found.cases:
        scan, mask, _ = load_case(case)
        cavity, muscle = (scan.volume.array[mask.array == value].mean() for value in (1, 2))
        assert cavity > muscle


@pytest.mark.real_data
def test_hippocampus_volumes_and_orphans() -> None:
    folder = real_data("hippocampus_msd")
    found = paired(folder)
    assert found.issues == ()
    assert found.pairs == len(list((folder / "images").glob("*.nii.gz")))
    scan, mask, _ = load_case(found.cases[0])
    assert sorted(np.unique(mask.array)) == [0, 1, 2]
    assert scan.patient == scan.name
