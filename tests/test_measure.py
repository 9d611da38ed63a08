"""Areas and volumes: shapes whose size is known by hand, on pixels that are neither square nor evenly
stacked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.errors import DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_headers import read_headers
from autoseg_lib.io.dicom_series import group_series, read_series
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import count_pixels, mean_and_std, measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask, reorient
from tests.helpers.dicom import write_slice
from tests.helpers.real_data import real_data

TWO = LabelTable(["psoas left", "psoas right"])


def stack(spacing: tuple[float, float, float] = (4.0, 0.5, 2.0)) -> Mask:
    """ROI 1: 3, 0 and 2 pixels on the three slices; ROI 2: 1 pixel on the last."""
    array = np.zeros((3, 4, 5), np.uint8)
    array[0, 1, 1:4] = 1
    array[2, 2, 0:2] = 1
    array[2, 3, 4] = 2
    geometry = Geometry.from_spacing(
        array.shape, spacing, spacing_known=True, positions_known=True, orientation_known=True
    )
    return Mask(array, geometry)


def test_areas_by_hand() -> None:
    rows = measure_slices(
        stack(), TWO, case="scan_1", slice_names=["a", "b", "c"], slice_files=["a.dcm", "b.dcm", "c.dcm"]
    )
    # One pixel is 0.5 × 2.0 = 1 mm².
    assert [(row.slice_number, row.label, row.pixels, row.area_mm2) for row in rows] == [
        (1, 1, 3, 3.0),
        (1, 2, 0, 0.0),
        (2, 1, 0, 0.0),
        (2, 2, 0, 0.0),
        (3, 1, 2, 2.0),
        (3, 2, 1, 1.0),
    ]
    assert [row.slice_position_mm for row in rows[::2]] == [0.0, 4.0, 8.0]
    assert (rows[0].slice_file, rows[0].roi, rows[0].case, rows[0].slice_name) == (
        "a.dcm",
        "psoas left",
        "scan_1",
        "a",
    )


def test_areas_without_spacing_are_unknown_not_zero() -> None:
    photo = Mask(stack().array, Geometry.from_spacing((3, 4, 5)))
    rows = measure_slices(photo, TWO, case="photo")
    assert {row.area_mm2 for row in rows} == {None}
    assert {row.slice_position_mm for row in rows} == {None}
    assert rows[0].pixels == 3


def test_volumes_by_hand() -> None:
    first, second = measure_volumes(stack(), TWO, case="scan_1")
    # Five pixels of 0.5 × 2.0 × 4.0 = 4 mm³.
    assert (first.voxels, first.volume_mm3, first.volume_ml) == (5, 20.0, 0.02)
    assert (first.slices, first.max_area_mm2, first.max_area_slice) == (2, 3.0, 1)
    assert first.mean_area_mm2 == pytest.approx(2.5)
    assert (second.voxels, second.volume_mm3, second.slices, second.max_area_slice) == (1, 4.0, 1, 3)


def test_uneven_slices_count_for_half_the_way_to_their_neighbours() -> None:
    """Slices at 0, 2 and 6 mm stand for 2, 3 and 4 mm: 3 × 2 + 0 × 3 + 2 × 4 = 14 mm³ at 1 mm² a pixel."""
    even = stack()
    mask = Mask(even.array, Geometry(even.geometry.shape_zyx, even.geometry.affine, (0.0, 2.0, 6.0)))
    assert measure_volumes(mask, TWO, case="gaps")[0].volume_mm3 == pytest.approx(14.0)


def test_tilted_gantry_measures_along_the_normal() -> None:
    """Slices that slip 3 mm sideways while they rise 4 mm are 4 mm apart, not 5."""
    affine = np.array(stack((4.0, 1.0, 1.0)).geometry.affine)
    affine[:3, 0] = (0.0, 3.0, 4.0)
    mask = Mask(stack().array, Geometry((3, 4, 5), affine))
    assert measure_volumes(mask, TWO, case="tilt")[0].volume_mm3 == pytest.approx(5 * 4.0)


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (Geometry.from_spacing((3, 4, 5)), "the pixel spacing is unknown"),
        (
            Geometry.from_spacing((3, 4, 5), (1, 1, 1), spacing_known=True),
            "the distance between slices is unknown",
        ),
        (
            Geometry((3, 4, 5), stack().geometry.affine, (0.0, 0.0, 4.0)),
            "the series has several images at one position (cine or dynamic)",
        ),
    ],
)
def test_no_volume_without_a_reason_given(geometry: Geometry, reason: str) -> None:
    row = measure_volumes(Mask(stack().array, geometry), TWO, case="x")[0]
    assert (row.volume_mm3, row.volume_ml, row.note) == (None, None, reason)
    assert row.voxels == 5


def test_an_absent_roi_has_zero_volume_and_no_largest_slice() -> None:
    row = measure_volumes(stack(), LabelTable(["a", "b", "c"]), case="x")[2]
    assert (row.voxels, row.volume_mm3, row.slices, row.max_area_mm2, row.max_area_slice) == (
        0,
        0.0,
        0,
        0.0,
        None,
    )
    assert row.mean_area_mm2 is None


def test_a_single_slice_has_a_volume_only_with_a_known_extent() -> None:
    array = np.ones((1, 2, 2), np.uint8)
    known = Geometry.from_spacing(array.shape, (5.0, 1.0, 1.0), spacing_known=True, positions_known=True)
    assert measure_volumes(Mask(array, known), LabelTable(["a"]), case="x")[0].volume_mm3 == 20.0


def test_a_single_dicom_slice_has_an_area_and_a_place_but_no_volume(tmp_path: Path) -> None:
    write_slice(
        tmp_path / "one.dcm",
        np.zeros((4, 5), np.int16),
        position=(0, 0, -30),
        spacing=(0.5, 2),
        SliceThickness=5,
    )
    (series,) = group_series(read_headers([tmp_path / "one.dcm"]).headers)
    mask = Mask(stack().array[2:], read_series(series).geometry)
    (volume, _) = measure_volumes(mask, TWO, case="x")
    assert (volume.volume_mm3, volume.max_area_mm2) == (None, 2.0)
    assert volume.note == "a single slice has no distance to a neighbour"
    row = measure_slices(mask, TWO, case="x")[0]
    assert (row.area_mm2, row.slice_position_mm) == (2.0, -30.0)


def test_volume_is_the_same_however_the_axes_lie() -> None:
    for code in ("SPL", "IAR", "LPS", "PIL", "RIP", "ASR"):
        turned = reorient(stack(), code)
        assert measure_volumes(turned, TWO, case="x")[0].volume_mm3 == pytest.approx(20.0)


def test_a_value_without_a_name_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"mask of 'scan_1': found the label values 2, .* values 0 to 1 are expected"
    ):
        measure_slices(stack(), LabelTable(["only one"]), case="scan_1")


def test_names_must_fit_the_slices() -> None:
    with pytest.raises(DataError, match="'x': found 3 slices, but 2 names"):
        measure_slices(stack(), TWO, case="x", slice_names=["a", "b"])


def test_mean_and_std_use_n_minus_1() -> None:
    assert mean_and_std([2.0, 4.0, 0.0]) == pytest.approx((2.0, 2.0))
    assert mean_and_std([3.0]) == (3.0, None)
    assert mean_and_std([]) == (None, None)
    assert mean_and_std([1.0, None]) == (None, None)


def test_more_pixels_than_float32_can_count() -> None:
    """OpenCV counts in float32, which stays at 2^24 = 16 777 216 however often 1 is added."""
    side = 4100
    mask = Mask(np.ones((1, side, side), np.uint8), Geometry.from_spacing((1, side, side), (1, 1, 1)))
    assert count_pixels(mask, LabelTable(["all"])).tolist() == [[side * side]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_pixels_of_each_value_whatever_the_kind_of_numbers(kind: type[np.unsignedinteger]) -> None:
    """Two slices of 3 × 7 pixels, which are no whole number of words of eight."""
    values = np.zeros((2, 3, 7), kind)
    values[0, 0, :5], values[0, 2, 6], values[1, 1, 2:4] = 1, 3, 3
    grid = Geometry.from_spacing(values.shape, (1, 1, 1))
    assert count_pixels(Mask(values, grid), LabelTable.numbered(3)).tolist() == [[5, 0, 1], [0, 0, 2]]
    values[1, 2, 0] = min(np.iinfo(kind).max, 4_000_000_000)
    with pytest.raises(DataError, match=f"the label values {values.max()}, which no ROI has"):
        count_pixels(Mask(values, grid), LabelTable.numbered(3))


def test_more_rois_than_a_byte_can_number() -> None:
    values = np.array([[[300, 300, 255, 0]]], np.uint16)
    counts = count_pixels(
        Mask(values, Geometry.from_spacing(values.shape, (1, 1, 1))), LabelTable.numbered(300)
    )
    assert counts.shape == (1, 300) and counts.sum() == 3
    assert (counts[0, 299], counts[0, 254]) == (2, 1)


# --- real scans
# -------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_pyradiomics_voxel_volume() -> None:
    """pyradiomics' own baseline_shape.csv gives VoxelVolume 16412.658691406243 mm³."""
    mask = read_label_file(real_data("pyradiomics_nrrd") / "brain1_label.nrrd")
    row = measure_volumes(mask, LabelTable(["lesion"]), case="brain1")[0]
    assert row.voxels == 4137
    assert row.volume_mm3 == pytest.approx(16412.658691406243, rel=1e-6)


@pytest.mark.real_data
def test_spinal_cord_mean_section() -> None:
    """Published: 4275 mm³ and a mean section of 77.73 mm², over the axial slices that hold cord."""
    mask = reorient(read_label_file(real_data("spinal_cord_mri") / "t2" / "t2_seg-manual.nii.gz"), "SPL")
    row = measure_volumes(mask, LabelTable(["cord"]), case="t2")[0]
    assert row.volume_mm3 == pytest.approx(4275, abs=0.5)
    assert row.mean_area_mm2 == pytest.approx(77.73, abs=0.005)
