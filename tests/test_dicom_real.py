"""Reading real scans: known numbers, every odd file a clinic's folder can hold, and independent readers."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from autoseg_lib.data.discover import discover
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_headers import read_headers
from autoseg_lib.io.dicom_series import DicomSeries, group_series, read_series
from autoseg_lib.io.files import walk_files
from autoseg_lib.io.volume_files import read_volume_file
from tests.helpers.real_data import real_data

pytestmark = pytest.mark.real_data


def series_in(folder: Path) -> list[DicomSeries]:
    return group_series(read_headers(walk_files(folder)).headers)


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array.astype("<f8")).tobytes()).hexdigest()


def test_slice_distance_comes_from_positions_not_from_thickness() -> None:
    (series,) = series_in(real_data("chaos_ct_liver") / "images")
    geometry = read_series(series).geometry
    assert series.headers[0].slice_thickness_mm == 3.2
    assert geometry.spacing_zyx_mm == pytest.approx((2.0, 0.7265625, 0.7265625))
    # z falls as the file number rises; slices are numbered along the normal.
    assert series.slice_names[0] == "chaos_ct3_077"
    assert geometry.positions_mm[[0, -1]] == pytest.approx([1536.5, 1690.5])


def test_series_turned_in_plane() -> None:
    folder = real_data("mr_head_dicom_nifti_pair")
    (series,) = series_in(folder / "dicom")
    volume = read_series(series)
    assert series.headers[0].orientation == (0, -1, 0, 1, 0, 0)
    # Rows grow to the left, columns to anterior; 1 mm apart, from positions alone.
    assert volume.geometry.orientation_code == "SLA"
    assert volume.geometry.spacing_zyx_mm == pytest.approx((1, 1, 1))
    assert volume.geometry.origin_xyz_mm == pytest.approx((-63, 0, 0))
    if (
        folder / "reference.nii.gz"
    ).exists():  # README: array[x, y, z] equals DICOM[row x, column y, slice z]
        reference = read_volume_file(folder / "reference.nii.gz").array
        assert np.corrcoef(reference.transpose(0, 2, 1).ravel(), volume.array.ravel())[0, 1] == pytest.approx(
            1, abs=1e-3
        )


def test_cine_series_with_repeated_positions() -> None:
    found = series_in(real_data("sunnybrook_cardiac") / "images")
    assert len({series.headers[0].patient_key for series in found}) == len(found)
    for series in found:
        geometry = read_series(series).geometry
        assert not geometry.has_one_image_per_position
        assert "images at" in series.warnings[0]
        assert geometry.spacing_zyx_mm[1] == pytest.approx(geometry.spacing_zyx_mm[2])
        gaps = np.diff(geometry.positions_mm)
        assert gaps[gaps > 0.01] == pytest.approx(series.headers[0].slice_thickness_mm, abs=0.01)


def test_series_agree_with_simpleitk_in_values_and_places() -> None:
    folders = [
        real_data("hippocampus_dicom_studies"),
        real_data("radiomics_phantom_rtstruct"),
        real_data("chaos_ct_liver") / "images",
        real_data("dicom_seg") / "liver_ct3slice" / "images",
    ]
    compared = 0
    for folder in folders:
        for series in series_in(folder):
            if len(series.headers) < 3:
                continue
            volume = read_series(series)
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames([str(path) for path in series.files])
            image = reader.Execute()
            assert np.array_equal(sitk.GetArrayFromImage(image), volume.array), folder
            k, j, i = (n - 1 for n in volume.geometry.shape_zyx)
            assert volume.geometry.index_to_point([0, j, i]) == pytest.approx(
                image.TransformIndexToPhysicalPoint((i, j, 0)), abs=1e-2
            )
            assert volume.geometry.index_to_point([k, j, 0]) == pytest.approx(
                image.TransformIndexToPhysicalPoint((0, j, k)), abs=1e-2
            )
            compared += 1
    assert compared >= 4


# --- the folder of odd files -----------------------------------------------------------------------------------------------


def test_every_odd_file_is_read_as_pydicom_does_skipped_or_refused() -> None:
    root = real_data("nasty_dicom")
    scan = read_headers(walk_files(root, include_junk=True))
    read, refused = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for series in group_series(scan.headers):
            try:
                volume = read_series(series)
            except DataError as error:
                refused.append(str(error))
                continue
            for index, header in enumerate(series.headers):
                dataset = pydicom.dcmread(header.path, force=True)
                if header.pixels.photometric == "MONOCHROME1":
                    continue
                if header.path.name == "MR4_JPLY.dcm":  # pydicom cannot; see test_reading_policy
                    continue
                expected = np.asarray(dataset.pixel_array)
                expected = expected[header.frame] if header.frame is not None else expected
                if "ModalityLUTSequence" in dataset:
                    expected = pydicom.pixels.apply_modality_lut(expected, dataset)
                else:
                    expected = expected * header.slope + header.intercept
                assert np.allclose(volume.array[index], expected, rtol=1e-6, atol=1e-6), header.path.name
                read += 1
    assert read >= 60
    words = ("found", "cannot be decoded", "its header says")
    assert all("'" in text and any(word in text for word in words) for text in refused)


def test_equal_pixels_over_transfer_syntaxes() -> None:
    # The same slices under several compressions (the uncompressed folder beside them holds other noise).
    folders = sorted((real_data("nasty_dicom") / "dicom2nifti").glob("generic__compressed_*"))
    volumes = [read_series(series) for folder in folders for series in series_in(folder)]
    assert len(volumes) >= 3
    assert len({sha(volume.array) for volume in volumes}) == 1
    assert all(volume.geometry.is_same_grid(volumes[0].geometry) for volume in volumes)


@pytest.mark.parametrize(
    ("place", "check"),
    [
        (
            "dicom2nifti/failing__gantrytilting__001",
            lambda s, g: g.shear_degrees > 10 and "tilted" in s.warnings[0],
        ),
        ("ge_gantry_tilt_18deg", lambda s, g: g.shear_degrees == pytest.approx(18.5, abs=0.2)),
        ("dicom2nifti/failing__sliceincrement__001", lambda s, g: not g.is_even and "apart" in s.warnings[0]),
        (
            "dicom2nifti/generic__anatomical__002_non_isotropic",
            lambda s, g: g.spacing_zyx_mm[1:] == pytest.approx((4.0, 6.4), abs=1e-3),
        ),
        ("dicom2nifti/philips__dti__001", lambda s, g: not g.has_one_image_per_position),
        (
            "dicom2nifti/hyperfine__anatomical__001",
            lambda s, g: g.spacing_zyx_mm == pytest.approx((5, 1.61, 1.59), abs=0.01),
        ),
        ("rt_utils/oriented_data", lambda s, g: g.spacing_zyx_mm[1:] == pytest.approx((3.5, 2.5))),
    ],
)
def test_odd_geometry(place: str, check) -> None:
    folder = real_data("nasty_dicom") / place
    if not folder.exists():
        pytest.skip("this scan is not among the scans here")
    for series in series_in(folder):
        assert check(series, read_series(series).geometry)


def test_zero_pixel_spacing_is_unknown() -> None:
    root = real_data("nasty_dicom") / "wg04"
    headers = [h for h in read_headers(walk_files(root)).headers if h.path.name.startswith("RG1")]
    if not headers:
        pytest.skip("this file is not among the scans here")
    assert all(header.pixel_spacing_mm is None and "is 0" in header.spacing_note for header in headers)


def test_modality_table_is_applied() -> None:
    (header,) = read_headers([real_data("nasty_dicom") / "pydicom_data" / "mlut_18.dcm"]).headers
    (series,) = group_series([header])
    assert read_series(series).array.max() == 65535


def test_discover_survives_the_whole_folder() -> None:
    root = real_data("nasty_dicom")
    found = discover(root)
    assert len({source.name for source in found.sources}) == len(found.sources)
    reasons = {item.reason for item in found.skipped}
    assert {"a DICOMDIR (table of contents), not an image", "an ECG, not an image"} <= reasons
    for source in found.sources:
        try:
            scan = load_scan(source)
        except DataError as error:
            assert str(error).endswith(".")
            continue
        assert len(scan.slice_names) == len(scan.slice_files) == scan.volume.array.shape[0]
        assert len(set(scan.slice_names)) == len(scan.slice_names)
