"""Loading a scan: which way it is sliced, where its pixel size comes from, and the exact way back."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg_lib.data.discover import discover
from autoseg_lib.data.scan import Scan, SpacingOverride, load_scan, mask_to_source
from autoseg_lib.errors import DataError
from autoseg_lib.io.raster import write_mask_png
from autoseg_lib.io.volume_files import read_volume_file
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.volume import Mask
from tests.helpers.dicom import write_series, write_slice
from tests.helpers.real_data import real_data


def pixels(count: int = 3) -> np.ndarray:
    return np.arange(count * 30, dtype=np.int16).reshape(count, 5, 6)


def load(path: Path, **options) -> Scan:
    (source,) = discover(path).sources
    return load_scan(source, **options)


def save_nifti(path: Path, shape=(4, 5, 6), affine=None) -> np.ndarray:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return array


# --- slicing ----------------------------------------------------------------------------------------------------------


def test_even_volume_is_sliced_axially_as_radiology_shows_it(tmp_path: Path) -> None:
    array = save_nifti(tmp_path / "a.nii.gz")  # i to R+, j to A+, k to S+
    scan = load(tmp_path / "a.nii.gz")
    assert scan.volume.geometry.orientation_code == "SPL"
    # Row 0 is anterior, column 0 is the patient's right: i and j both flip.
    assert np.array_equal(scan.volume.array, array.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert scan.slice_names[:2] == ("slice_0001", "slice_0002")
    assert scan.slice_files == ("",) * 6
    assert "sliced axially" in scan.warnings[0]


@pytest.mark.parametrize(
    ("spacing", "code"), [((1, 1, 5), "SPL"), ((1, 5, 1), "PIL"), ((5, 1, 1), "RIP"), ((1, 1.4, 1), "SPL")]
)
def test_thick_slices_win(tmp_path: Path, spacing, code) -> None:
    save_nifti(tmp_path / "a.nii.gz", affine=np.diag([*spacing, 1.0]))
    assert load(tmp_path / "a.nii.gz").volume.geometry.orientation_code == code


def test_slice_axis_overrides(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz")
    assert load(tmp_path / "a.nii.gz", slice_axis="sagittal").volume.geometry.orientation_code == "RIP"
    write_series(tmp_path / "dicom", pixels())
    scan = load(tmp_path / "dicom", slice_axis="coronal")
    assert scan.volume.geometry.orientation_code == "PIL"
    assert scan.slice_names[0] == "slice_0001"
    assert load(tmp_path / "dicom", slice_axis="axial").slice_names[0] == "slice_001"


def test_uneven_series_cannot_be_turned(tmp_path: Path) -> None:
    for index, height in enumerate((0, 1, 5)):
        write_slice(tmp_path / f"{index}.dcm", pixels()[index], position=(0, 0, height), number=index)
    with pytest.raises(
        DataError, match=r"coronal slices were asked for, but its own slices lie 1.00 to 4.00 mm apart"
    ):
        load(tmp_path, slice_axis="coronal")
    assert load(tmp_path).volume.geometry.positions_mm.tolist() == [0, 1, 5]


def test_dicom_keeps_its_own_slices_and_names(tmp_path: Path) -> None:
    write_series(tmp_path, pixels(), orientation=(0, 1, 0, 0, 0, -1), step=(4, 0, 0))
    scan = load(tmp_path)
    # Normal = y × -z = -x: slices run from the left to the right.
    assert scan.volume.geometry.orientation_code == "RIP"
    assert scan.slice_files == ("slice_003.dcm", "slice_002.dcm", "slice_001.dcm")
    assert not scan.is_turned


@pytest.mark.parametrize("axis", ["auto", "axial", "coronal", "sagittal"])
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_mask_goes_back_onto_the_files_own_grid(tmp_path: Path, signs, axis) -> None:
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = 0.7 * signs[0], 0.9 * signs[1], 1.1 * signs[2], 1
    save_nifti(tmp_path / "a.nii.gz", affine=affine)
    scan = load(tmp_path / "a.nii.gz", slice_axis=axis)
    stored = read_volume_file(tmp_path / "a.nii.gz")
    back = mask_to_source(Mask(scan.volume.array.astype(np.uint16), scan.volume.geometry), scan)
    assert np.array_equal(back.array, stored.array)
    assert back.geometry.is_same_grid(stored.geometry)


# --- pixel size from the settings --------------------------------------------------------------------------------------


def test_fov_and_matrix_only_where_spacing_is_missing(tmp_path: Path) -> None:
    override = SpacingOverride(fov=(100, 60), matrix_size=(5, 6))
    write_series(tmp_path / "with", pixels(), spacing=(0.5, 0.5))
    scan = load(tmp_path / "with", override=override)
    assert scan.volume.geometry.spacing_zyx_mm == (1, 0.5, 0.5)
    assert scan.volume.spacing_source == "PixelSpacing"
    write_series(tmp_path / "zero", pixels(), spacing=(0, 0))
    scan = load(tmp_path / "zero", override=override)
    assert scan.volume.geometry.spacing_known
    assert scan.volume.geometry.spacing_zyx_mm == (1, 20, 10)
    assert scan.volume.spacing_source == "fov / matrix_size in Settings"
    assert scan.warnings == (
        "the file has no pixel spacing; 20 × 10 mm is used (fov / matrix_size in Settings).",
    )


def test_missing_spacing_without_fov_stays_unknown(tmp_path: Path) -> None:
    write_series(tmp_path, pixels(), spacing=None)
    scan = load(tmp_path, override=SpacingOverride())
    assert not scan.volume.geometry.spacing_known
    assert scan.volume.spacing_source == ""
    assert scan.warnings == ("no pixel spacing, so sizes in mm are unknown.",)


def test_matrix_of_another_size_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, pixels(), spacing=None)
    scan = load(tmp_path, override=SpacingOverride(fov=300, matrix_size=256))
    assert "matrix_size is 256×256, the image has 5×6 pixels" in scan.warnings[-1]


@pytest.mark.parametrize(
    ("spacing", "expected", "known"),
    [
        (0.5, (1, 0.5, 0.5), False),
        ([0.5, 0.25], (1, 0.5, 0.25), False),
        ([4, 0.5, 0.25], (4, 0.5, 0.25), True),
    ],
)
def test_pictures_take_spacing_from_the_settings(tmp_path: Path, spacing, expected, known) -> None:
    for name in ("s/1.png", "s/2.png"):
        write_mask_png(tmp_path / name, np.zeros((5, 6), np.uint8))
    settings = make_settings(TrainSettings, {"main_dir": "x", "spacing_mm": spacing})
    scan = load(tmp_path, override=SpacingOverride.from_settings(settings))
    geometry = scan.volume.geometry
    assert geometry.spacing_zyx_mm == expected
    assert (geometry.spacing_known, geometry.positions_known) == (True, known)
    assert scan.volume.spacing_source == "spacing_mm in Settings"
    assert geometry.is_same_grid(scan.source_geometry)


def test_slices_of_two_sizes_in_one_folder(tmp_path: Path) -> None:
    write_mask_png(tmp_path / "s" / "1.png", np.zeros((5, 6), np.uint8))
    write_mask_png(tmp_path / "s" / "2.png", np.zeros((7, 6), np.uint8))
    with pytest.raises(
        DataError, match=r"'s': '2.png' is 7×6, '1.png' is 5×6; the slices of one scan need one size"
    ):
        load(tmp_path)


@pytest.mark.real_data
def test_cord_is_sliced_along_head_feet() -> None:
    scan = load(real_data("spinal_cord_mri") / "t2" / "t2_seg-manual.nii.gz")
    assert scan.volume.geometry.orientation_code == "SPL"
    areas = (scan.volume.array > 0).sum(axis=(1, 2)) * scan.volume.geometry.pixel_area_mm2
    assert areas[areas > 0].mean() == pytest.approx(77.73, abs=0.005)
