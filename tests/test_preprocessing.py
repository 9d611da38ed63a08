"""There and back: what the network sees, and its answer on the scan's own grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoseg_lib.errors import GeometryError, ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import read_label_file, read_volume_file
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing, plane_of
from autoseg_lib.preprocess.resample import index_map, resample_array
from autoseg_lib.preprocess.way_back import likeliest_labels
from autoseg_lib.volume import Mask, Volume
from tests.helpers.phantoms import all_orientations
from tests.helpers.real_data import real_data

KNOWN = {"spacing_known": True, "positions_known": True, "orientation_known": True}


def one_hot(labels: np.ndarray, channels: int) -> np.ndarray:
    return np.stack([labels == channel for channel in range(channels)]).astype(np.float32)


def some_mask(grid: Geometry) -> Mask:
    return Mask(np.random.default_rng(1).integers(0, 4, grid.shape_zyx).astype(np.uint8), grid)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_3d_every_orientation_comes_back_exactly(degrees: float) -> None:
    for grid in all_orientations(degrees):
        own = grid.oriented("SPL").spacing_zyx_mm
        for spacing in (None, own):
            pipeline = Preprocessing("3D", spacing_zyx_mm=spacing)
            mask = some_mask(grid)
            prepared = pipeline.prepare_mask(mask)
            assert prepared.geometry.orientation_code == "SPL"
            assert prepared.geometry.is_same_grid(pipeline.network_geometry(grid))
            np.testing.assert_array_equal(pipeline.restore(one_hot(prepared.array, 4), grid), mask.array)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
@pytest.mark.parametrize("input_shape", [(18, 18), (16, 20), (9, 9)])
def test_2d_every_orientation_comes_back_exactly(degrees: float, input_shape: tuple[int, int]) -> None:
    """With square pixels and room enough the network's pixels are the scan's own, so nothing may change."""
    for grid in all_orientations(degrees, shape=(4, 9, 9)):
        # Square pixels in the plane: columns get the rows' spacing.
        affine = grid.affine.copy()
        affine[:3, 2] *= np.linalg.norm(affine[:3, 1]) / np.linalg.norm(affine[:3, 2])
        square = replace(grid, affine=affine)
        pipeline = Preprocessing("2D", input_shape=input_shape)
        target = pipeline.network_geometry(square)
        assert target.shape_zyx == (4, *input_shape)
        assert target.spacing_zyx_mm[1] == pytest.approx(target.spacing_zyx_mm[2])
        if input_shape != (9, 9):
            continue  # pixels are scaled to fill the shape; see the next test
        mask = some_mask(square)
        prepared = pipeline.prepare_mask(mask)
        np.testing.assert_array_equal(np.sort(prepared.array, axis=None), np.sort(mask.array, axis=None))
        np.testing.assert_array_equal(pipeline.restore(one_hot(prepared.array, 4), square), mask.array)


def test_2d_own_pixel_size_is_padded_by_whole_pixels() -> None:
    grid = Geometry.from_spacing((2, 6, 9), (3, 1, 1), **KNOWN)
    pipeline = Preprocessing("2D", input_shape=(9, 9))
    mask = Mask(np.arange(108, dtype=np.uint8).reshape(2, 6, 9) % 4 + 1, grid)
    prepared = pipeline.prepare_mask(mask)
    # 3 rows of padding: 1 above, 2 below (or the other way round), never half a pixel on each side.
    filled = np.flatnonzero(prepared.array.any(axis=(0, 2)))
    np.testing.assert_array_equal(prepared.array[:, filled], mask.array)
    assert filled.size == 6 and filled[0] in (1, 2)
    np.testing.assert_array_equal(pipeline.restore(one_hot(prepared.array, 5), grid), mask.array)


def test_2d_shows_slices_as_radiology_does() -> None:
    """A bright spot on the patient's left and one at the back land right and down in every axial orientation."""
    for grid in all_orientations(20.0, shape=(9, 9, 9)):
        plane = plane_of(grid)
        assert plane is not None
        centre = grid.index_to_point([4, 4, 4])
        rows = {"axial": (0, 1, 0), "coronal": (0, 0, -1), "sagittal": (0, 0, -1)}[plane]
        columns = {"axial": (1, 0, 0), "coronal": (1, 0, 0), "sagittal": (0, 1, 0)}[plane]
        network = Preprocessing("2D", input_shape=(32, 32)).network_geometry(grid)
        step = network.affine[:3, 1:3]
        assert step[:, 0] @ np.array(rows) > 0 and step[:, 1] @ np.array(columns) > 0
        # The scan's middle stays in the middle, and its slices where they are.
        np.testing.assert_allclose(network.index_to_point([4, 15.5, 15.5]), centre, atol=1e-9)
        np.testing.assert_allclose(network.affine[:3, 0], grid.affine[:3, 0])


def test_2d_fits_the_longer_side_in_mm() -> None:
    # 100 rows of 0.5 mm (50 mm) and 50 columns of 2 mm (100 mm) into 40 x 40: pixels of 100 / 40 = 2.5 mm.
    grid = Geometry.from_spacing((1, 100, 50), (5, 0.5, 2.0), **KNOWN)
    network = Preprocessing("2D", input_shape=(40, 40)).network_geometry(grid)
    assert network.spacing_zyx_mm == pytest.approx((5, 2.5, 2.5))


def test_padding_takes_the_darkest_value_of_each_slice() -> None:
    grid = Geometry.from_spacing((2, 4, 8), (1, 1, 1), **KNOWN)
    pixels = np.arange(64, dtype=np.int16).reshape(2, 4, 8)
    pixels[1] *= 10
    prepared = Preprocessing("2D", IntensityPlan("zscore"), (8, 8)).prepare(Volume(pixels, grid)).array
    normal = (np.arange(32) - 15.5) / np.arange(32).std()
    for k in range(2):
        np.testing.assert_allclose(prepared[k, 2:6], normal.reshape(4, 8), atol=1e-5)
        np.testing.assert_allclose(prepared[k, [0, 1, 6, 7]], normal[0], atol=1e-5)


@pytest.mark.parametrize("dimension", ["2D", "3D"])
def test_a_smooth_shape_survives_other_pixel_sizes(dimension: str) -> None:
    """A ball of 10 mm: after the way there and back its volume is right within 4 % (hard labels, voxels of 4 mm)."""
    for grid in all_orientations(20.0, shape=(12, 60, 40))[::7]:
        index = np.stack(np.indices(grid.shape_zyx), axis=-1)
        middle = grid.index_to_point((np.array(grid.shape_zyx) - 1) / 2)
        ball = Mask(
            (np.linalg.norm(grid.index_to_point(index) - middle, axis=-1) < 10).astype(np.uint8), grid
        )
        pipeline = (
            Preprocessing("2D", input_shape=(96, 96))
            if dimension == "2D"
            else Preprocessing("3D", spacing_zyx_mm=(1.0, 1.0, 1.0))
        )
        prepared = pipeline.prepare_mask(ball)
        back = pipeline.restore(one_hot(prepared.array, 2), grid)
        assert int(back.sum()) == pytest.approx(int(ball.array.sum()), rel=0.04)
        assert (
            2 * (back & ball.array).sum() / (back.sum() + ball.array.sum()) > 0.96
        )  # of 1000 pixels, half at the surface


def test_only_looking_where_a_label_can_win_changes_nothing() -> None:
    """The quick way through boxes gives the same as interpolating every channel everywhere."""
    random = np.random.default_rng(7)
    for grid in all_orientations(20.0, shape=(70, 11, 13))[::11]:
        pipeline = Preprocessing("3D", spacing_zyx_mm=(2.1, 1.7, 1.9))
        network = pipeline.network_geometry(grid)
        logits = random.normal(size=(5, *network.shape_zyx)) * 3
        logits[0] += 4
        soft = np.exp(logits)
        soft = (soft / soft.sum(axis=0)).astype(np.float32)
        plain = np.stack([resample_array(p, network, grid, fill=None, smooth=False) for p in soft]).argmax(
            axis=0
        )
        found = pipeline.restore(soft, grid)
        assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 1, 2, 3, 4}
        assert (found != plain).mean() < 1e-4  # rounding where two are equal


def test_half_precision_probabilities_do() -> None:
    grid = Geometry.from_spacing((3, 20, 20), (2, 1, 1), **KNOWN)
    pipeline = Preprocessing("2D", input_shape=(32, 32))
    prepared = pipeline.prepare_mask(some_mask(grid)).array
    full = one_hot(prepared, 4) * 0.7 + 0.075
    np.testing.assert_array_equal(
        pipeline.restore(full.astype(np.float16), grid), pipeline.restore(full, grid)
    )


def test_slices_can_be_restored_part_by_part() -> None:
    grid = replace(
        Geometry.from_spacing((5, 20, 30), (2, 1, 1), **KNOWN), slice_positions_mm=(0.0, 0.0, 3.0, 5.0, 9.0)
    )
    pipeline = Preprocessing("2D", input_shape=(32, 32))
    soft = one_hot(pipeline.prepare_mask(some_mask(grid)).array, 4)
    whole = pipeline.restore(soft, grid)
    parts = [pipeline.restore(soft[:, a:b], grid.slices(a, b)) for a, b in ((0, 2), (2, 4), (4, 5))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_more_than_255_labels_get_a_wider_type() -> None:
    soft = np.zeros((300, 1, 2, 2), np.float32)
    soft[299, 0, 0, 0] = soft[0, 0, 0, 1] = soft[1, 0, 1, 0] = soft[256, 0, 1, 1] = 1
    found = likeliest_labels(soft, np.eye(4), (1, 2, 2))
    assert found.dtype == np.uint16 and found.tolist() == [[[299, 0], [1, 256]]]


def test_unknown_directions_are_not_turned() -> None:
    grid = replace(all_orientations()[17], orientation_known=False)
    assert plane_of(grid) is None
    assert Preprocessing("3D").network_geometry(grid) is grid
    network = Preprocessing("2D", input_shape=(9, 9)).network_geometry(grid)
    assert index_map(grid, network)[1, 1] > 0 and index_map(grid, network)[2, 2] > 0


def test_a_rounded_voxel_size_blurs_nothing() -> None:
    grid = Geometry.from_spacing((4, 9, 9), (4.4, 0.9375, 0.9375), **KNOWN)
    network = Preprocessing("3D", spacing_zyx_mm=(4.4, 0.938, 0.93)).network_geometry(grid)
    assert network.is_same_grid(grid)
    coarser = Preprocessing("3D", spacing_zyx_mm=(4.4, 0.938, 1.2)).network_geometry(grid)
    assert coarser.spacing_zyx_mm == pytest.approx((4.4, 0.9375, 1.2))


@pytest.mark.real_data
def test_real_labels_come_back() -> None:
    folder = real_data("hippocampus_msd")
    for name in ("hippocampus_001.nii.gz", "hippocampus_003.nii.gz"):
        scan, mask = read_volume_file(folder / "images" / name), read_label_file(folder / "labels" / name)
        own = Preprocessing("3D", spacing_zyx_mm=(1, 1, 1))
        np.testing.assert_array_equal(
            own.restore(one_hot(own.prepare_mask(mask).array, 3), scan.geometry), mask.array
        )
        in_2d = Preprocessing("2D", input_shape=(128, 128))
        back = in_2d.restore(one_hot(in_2d.prepare_mask(mask).array, 3), scan.geometry)
        for value in (1, 2):
            a, b = back == value, mask.array == value
            assert 2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum())) > 0.995


def test_refusals_say_what_to_do() -> None:
    even = Geometry.from_spacing((3, 8, 8), (3.0, 1, 1), **KNOWN)
    uneven = replace(even, slice_positions_mm=(0.0, 2.0, 6.0))
    pipeline = Preprocessing("3D", spacing_zyx_mm=(1, 1, 1))
    with pytest.raises(GeometryError, match=r"found distances of 2.00 to 4.00 mm. Use a 2D model"):
        pipeline.network_geometry(uneven)
    with pytest.raises(GeometryError, match=r"no pixel spacing.*Fill in fov and matrix_size"):
        pipeline.network_geometry(replace(even, spacing_known=False))
    with pytest.raises(GeometryError, match=r"distances between the slices are unknown.*Use a 2D model"):
        pipeline.network_geometry(replace(even, positions_known=False))
    alone = Geometry.from_spacing((1, 8, 8), (3.0, 1, 1), spacing_known=True)
    with pytest.raises(GeometryError, match=r"the scan is a single slice, and this 3D.*Use a 2D model"):
        pipeline.network_geometry(alone)
    with pytest.raises(
        GeometryError, match=r"\(2, 3, 8, 9\); for this scan \(channels, 9, 8, 8\) is expected"
    ):
        pipeline.restore(np.zeros((2, 3, 8, 9), np.float32), even)
    with pytest.raises(ModelError, match="2D needs an input_shape"):
        Preprocessing("2D")
    with pytest.raises(ModelError, match="three voxel sizes above 0 mm"):
        Preprocessing("3D", spacing_zyx_mm=(1, 0, 1))
    with pytest.raises(ModelError, match="incomplete"):
        Preprocessing.from_dict({"dimension": "2D"})


def test_kept_in_json_and_read_back() -> None:
    for pipeline in (
        Preprocessing("2D", IntensityPlan("window", -100, 250.5, 61.25, 33.0), (256, 192)),
        Preprocessing("3D", spacing_zyx_mm=(4.4, 0.9375, 0.9375)),
    ):
        assert Preprocessing.from_dict(pipeline.to_dict()) == pipeline
