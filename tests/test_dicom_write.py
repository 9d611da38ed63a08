"""Written DICOM series, read back by other software (pydicom, SimpleITK)."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_write import write_dicom_series


def oblique_geometry(shape=(4, 5, 6)):
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:3, 2] = np.array([1, 0, 0]) * 0.7
    affine[:3, 1] = np.array([0, np.cos(turn), np.sin(turn)]) * 1.3
    affine[:3, 0] = np.array([0, -np.sin(turn), np.cos(turn)]) * 3.5
    affine[:3, 3] = (-10.5, 20.25, 1000.125)
    return Geometry(shape, affine)


def test_simpleitk_reads_the_same_grid_and_values(tmp_path):
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 20
    write_dicom_series(tmp_path, array, oblique_geometry(), modality="CT", uid_seed="t")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    assert image.GetSpacing() == pytest.approx((0.7, 1.3, 3.5))
    # SimpleITK reads DICOM in LPS: (column, row, slice) index to point.
    for index_zyx in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        point = image.TransformIndexToPhysicalPoint(tuple(int(i) for i in reversed(index_zyx)))
        assert point == pytest.approx(tuple(oblique_geometry().index_to_point(index_zyx)), abs=1e-5)


def test_names_against_positions_keep_their_pixels(tmp_path):
    array = np.stack([np.full((5, 6), value, np.int16) for value in (10, 20, 30, 40)])
    write_dicom_series(tmp_path, array, oblique_geometry(), names=["d", "c", "b", "a"])
    first = pydicom.dcmread(tmp_path / "a.dcm")
    assert first.InstanceNumber == 1
    assert first.pixel_array[0, 0] == 40
    lowest = pydicom.dcmread(tmp_path / "d.dcm")
    assert first.ImagePositionPatient[2] > lowest.ImagePositionPatient[2]


def test_same_call_gives_the_same_bytes_and_other_seeds_other_uids(tmp_path):
    array = np.zeros((4, 5, 6), np.int16)
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        write_dicom_series(tmp_path / folder, array, oblique_geometry(), uid_seed=seed)
    bytes_of = {folder: (tmp_path / folder / "slice_0001.dcm").read_bytes() for folder in "abc"}
    assert bytes_of["a"] == bytes_of["b"] != bytes_of["c"]


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"pixels have the shape \(2, 5, 6\), their grid says \(4, 5, 6\)"):
        write_dicom_series(tmp_path, np.zeros((2, 5, 6), np.int16), oblique_geometry())
    with pytest.raises(DataError, match="16-bit whole numbers, found float64"):
        write_dicom_series(tmp_path, np.zeros((4, 5, 6)), oblique_geometry())
    with pytest.raises(GeometryError, match="known spacing, positions and orientation"):
        write_dicom_series(tmp_path, np.zeros((4, 5, 6), np.int16), Geometry.from_spacing((4, 5, 6)))
    with pytest.raises(DataError, match="4 different file names, one a slice, found 1"):
        write_dicom_series(tmp_path, np.zeros((4, 5, 6), np.int16), oblique_geometry(), names=["a"] * 4)
    with pytest.raises(DataError, match="as MR or CT, found 'US'"):
        write_dicom_series(tmp_path, np.zeros((4, 5, 6), np.int16), oblique_geometry(), modality="US")
