"""Several images of one patient as channels: from a manifest onto one grid, into training and back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.data.discover import discover
from autoseg_lib.data.pairing import pair
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.nifti import write_nifti
from autoseg_lib.networks.model_file import load_model
from autoseg_lib.settings import TrainSettings, make_settings
from tests.helpers.dicom import uid, write_series
from tests.helpers.phantoms import turn
from tests.helpers.real_data import real_data
from tests.helpers.studies import disc
from tests.test_training import run

KNOWN = {"spacing_known": True, "positions_known": True, "orientation_known": True}


def ramp(geometry: Geometry) -> np.ndarray:
    """A grey value that is a straight line in the world: 2x - y + 3z."""
    index = np.stack(np.indices(geometry.shape_zyx), axis=-1)
    return (geometry.index_to_point(index) @ np.array([2.0, -1.0, 3.0])).astype(np.float32)


def first_grid() -> Geometry:
    affine = np.diag([3.0, 1.5, 1.0, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = (-10, -20, 30)
    return Geometry((8, 16, 20), affine)


def second_grid(degrees: float = 10.0) -> Geometry:
    """Coarser, turned, and larger on every side."""
    affine = np.eye(4)
    affine[:3, :3] = turn(degrees) @ np.diag([2.0, 2.0, 2.0])[:, [2, 1, 0]]
    centre = first_grid().index_to_point([3.5, 7.5, 9.5])
    affine[:3, 3] = centre - affine[:3, :3] @ np.array([19.5, 19.5, 19.5])
    return Geometry((40, 40, 40), affine)


def manifest(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_second_image_lands_at_its_place(tmp_path: Path) -> None:
    """A straight line in the world stays itself under linear interpolation, however the second grid is turned."""
    one, two = first_grid(), second_grid()
    write_nifti(tmp_path / "ct.nii.gz", ramp(one), one)
    write_nifti(tmp_path / "pet.nii.gz", ramp(two), two)
    write_nifti(tmp_path / "same.nii.gz", ramp(one) * 5, one)
    path = manifest(tmp_path, "image,image_2,image_3\nct.nii.gz,pet.nii.gz,same.nii.gz\n")
    found = discover(path)
    assert [source.name for source in found.sources] == ["ct"]
    assert {file.name for file in found.sources[0].all_files} == {"ct.nii.gz", "pet.nii.gz", "same.nii.gz"}
    scan = load_scan(found.sources[0])
    volume = scan.volume
    assert len(volume.images) == 3
    np.testing.assert_allclose(volume.array, ramp(volume.geometry), atol=1e-3)
    np.testing.assert_allclose(volume.others[0].array, ramp(volume.geometry), atol=1e-2)
    np.testing.assert_array_equal(volume.others[1].array, 5 * volume.array)
    assert any(
        text.startswith("image 2 lies on another grid (40 × 40 × 40 voxels of 2 × 2 × 2 mm)")
        for text in scan.warnings
    )
    part = volume.cut((slice(2, 5), slice(1, 9), slice(3, 20)))
    np.testing.assert_allclose(part.others[0].array, ramp(part.geometry), atol=1e-2)


def test_what_the_second_image_does_not_cover_is_dark_and_said(tmp_path: Path) -> None:
    one, two = first_grid(), second_grid(0.0)
    half = two.cropped_or_padded((-20, 0, 0), (20, 40, 40))
    write_nifti(tmp_path / "ct.nii.gz", ramp(one), one)
    write_nifti(tmp_path / "pet.nii.gz", ramp(half) + 1000, half)
    scan = load_scan(discover(manifest(tmp_path, "image,image_2\nct.nii.gz,pet.nii.gz\n")).sources[0])
    assert any("It covers 50 % of the scan" in text for text in scan.warnings)
    other = scan.volume.others[0].array
    assert (other[:4] == other.min()).all() and (other[4:] > other.min()).all()


def test_refusals(tmp_path: Path) -> None:
    one, two = first_grid(), second_grid()
    far = replace(two, affine=two.affine + np.array([[0, 0, 0, 5000.0], *np.zeros((3, 4))]))
    lost = Geometry.from_spacing((8, 16, 21), (1, 1, 1), **KNOWN)
    for name, grid in (("ct", one), ("pet", two), ("far", far), ("lost", lost)):
        write_nifti(tmp_path / f"{name}.nii.gz", ramp(grid), grid)
    with pytest.raises(
        DataError, match="'ct', image 2: it lies in another place than the scan and they do not overlap"
    ):
        load_scan(discover(manifest(tmp_path, "image,image_2\nct.nii.gz,far.nii.gz\n")).sources[0])
    with pytest.raises(DataError, match=r"'ct', image 2: .* does not say where it lies in the patient"):
        load_scan(discover(manifest(tmp_path, "image,image_2\nct.nii.gz,lost.nii.gz\n")).sources[0])
    with pytest.raises(DataError, match=r"not there: 'none.nii.gz \(line 2\)'"):
        discover(manifest(tmp_path, "image,image_2\nct.nii.gz,none.nii.gz\n"))
    with pytest.raises(DataError, match="line 2: found image, image_3; images are numbered without a gap"):
        discover(manifest(tmp_path, "image,image_2,image_3\nct.nii.gz,,pet.nii.gz\n"))


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    pixels = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    write_series(tmp_path / "t1", pixels)
    write_series(tmp_path / "t2", pixels, series=2)
    write_series(tmp_path / "other", pixels, series=3, FrameOfReferenceUID=uid("another"))
    scan = load_scan(discover(manifest(tmp_path, "image,image_2\nt1,t2\n")).sources[0])
    assert len(scan.volume.others) == 1
    with pytest.raises(DataError, match=r"its frame of reference is another one.*Register the image"):
        load_scan(discover(manifest(tmp_path, "image,image_2\nt1,other\n")).sources[0])


def test_training_on_two_images(tmp_path: Path) -> None:
    """The ROI is seen in the second image alone; the first is noise."""
    random = np.random.default_rng(0)
    lines = ["image,image_2,label,case,patient"]
    grid = Geometry.from_spacing((6, 48, 48), (3, 1, 1), **KNOWN)
    grid = replace(grid, affine=grid.affine + np.array([[0, 0, 0, 5.0], *np.zeros((3, 4))]))
    for number in range(4):
        label = np.stack([disc(48, tuple(random.uniform(16, 32, 2)), 8) for _ in range(6)]).astype(np.uint8)
        noise = random.normal(0, 1, label.shape).astype(np.float32)
        write_nifti(tmp_path / f"a{number}.nii.gz", noise, grid)
        write_nifti(tmp_path / f"b{number}.nii.gz", noise[::-1] * 0.1 + label, grid)
        write_nifti(tmp_path / f"l{number}.nii.gz", label, grid)
        lines.append(f"a{number}.nii.gz,b{number}.nii.gz,l{number}.nii.gz,case{number},p{number}")
    path = manifest(tmp_path, "\n".join(lines) + "\n")
    settings = {
        "main_dir": str(path),
        "model_dir": str(tmp_path / "models"),
        "labels_list": ["disc"],
        "input_shape": 48,
        "patient_pattern": None,
        "spacing_mm": None,
        "dimension": "2D",
        "epochs": 12,
        "learning_rate": 0.02,
    }
    result, _ = run(tmp_path, **settings)
    model = load_model(result.model_path)
    assert [channel.text for channel in model.preprocessing.channels] == ["image", "image 2"]
    assert model.spec.in_channels == 2
    assert result.scores is not None and result.scores.mean > 0.8


def test_folders_of_further_images_beside_the_first(tmp_path: Path) -> None:
    grid = first_grid()
    train = tmp_path / "train"
    for folder in ("images", "images_2", "labels"):
        (train / folder).mkdir(parents=True)
        for name in ("a", "b"):
            pixels = ramp(grid) * (5 if folder == "images_2" else 1)
            array = (pixels > 100).astype(np.uint8) if folder == "labels" else pixels
            write_nifti(train / folder / f"{name}.nii.gz", array, grid)
    found = pair(make_settings(TrainSettings, {"main_dir": str(tmp_path)}))
    assert not found.has_errors and len(found.cases) == 2
    for case in found.cases:
        first, second = load_scan(case.source).volume.images
        np.testing.assert_array_equal(second.array, 5 * first.array)
    (train / "images_2" / "b.nii.gz").unlink()
    lacking = pair(make_settings(TrainSettings, {"main_dir": str(tmp_path)}))
    assert lacking.has_errors
    assert "'images_2/b.nii.gz' not found. Each image needs partners of the same name" in lacking.issues[
        0
    ].text.replace(os.sep, "/")


@pytest.mark.real_data
def test_a_real_scan_saved_with_other_axes_is_the_same_image(tmp_path: Path) -> None:
    """SimpleITK turns the axes of a real scan and writes it anew: as second image every voxel finds its place again."""
    folder = real_data("hippocampus_msd") / "images"
    path = folder / "hippocampus_001.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "PIR"), str(tmp_path / "turned.nii.gz"))
    scan = load_scan(discover(manifest(tmp_path, f"image,image_2\n{path},turned.nii.gz\n")).sources[0])
    first, second = scan.volume.images
    np.testing.assert_array_equal(second.array, first.array)
    assert not any("another grid" in text for text in scan.warnings)
