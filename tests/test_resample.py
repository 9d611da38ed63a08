"""The one resampling: exact where it can be, checked against formulas where it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.preprocess.resample import resample, resample_array
from autoseg_lib.volume import Mask, Volume, reorient
from tests.helpers.phantoms import SHAPE, SPACING_MM, all_orientations, turn

KNOWN = {"spacing_known": True, "positions_known": True, "orientation_known": True}


def some_pixels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def some_labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 5, shape).astype(np.uint8)


def ramp(geometry: Geometry) -> np.ndarray:
    """Pixels equal to 2x - 3y + 0.5z + 7 of their LPS point: linear interpolation must give the formula back."""
    index = np.stack(np.indices(geometry.shape_zyx), axis=-1)
    return geometry.index_to_point(index) @ np.array([2.0, -3.0, 0.5]) + 7


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_every_orientation_comes_back_exactly(degrees: float) -> None:
    for grid in all_orientations(degrees):
        volume, mask = Volume(some_pixels(), grid), Mask(some_labels(), grid)
        target = grid.oriented("SPL")
        there, mask_there = resample(volume, target), resample(mask, target)
        np.testing.assert_array_equal(there.array, reorient(volume, "SPL").array)
        np.testing.assert_array_equal(mask_there.array, reorient(mask, "SPL").array)
        np.testing.assert_array_equal(resample(there, grid).array, volume.array)
        np.testing.assert_array_equal(resample(mask_there, grid).array, mask.array)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_linear_interpolation_gives_a_linear_image_back(degrees: float) -> None:
    for grid in all_orientations(degrees)[::5]:
        target = grid.oriented("RAI").respaced((1.1, 0.9, 1.3))
        found = resample_array(ramp(grid), grid, target, smooth=False, fill=np.nan)
        inside = np.isfinite(found)
        assert inside.mean() > 0.3
        # Near the edge the nearest pixel is continued for half a pixel; further in, the formula holds.
        index = np.stack(np.indices(target.shape_zyx), axis=-1)
        source_index = grid.point_to_index(target.index_to_point(index))
        deep = np.all((source_index >= 0) & (source_index <= np.array(grid.shape_zyx) - 1), axis=-1)
        np.testing.assert_allclose(found[deep], ramp(target)[deep], rtol=1e-5, atol=2e-4)
        assert inside[deep].all()


def test_a_tilted_gantry_needs_no_special_case() -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    affine[1, 0] = 0.4  # each slice lies 0.4 mm further back
    grid = Geometry((6, 12, 8), affine)
    assert grid.shear_degrees == pytest.approx(np.degrees(np.arctan(0.4)))
    target = Geometry.from_spacing((5, 6, 8), (1.0, 1.0, 1.0), **KNOWN)
    target = replace(
        target, affine=target.affine + np.array([[0, 0, 0, 0], [0, 0, 0, 3.0], [0, 0, 0, 0.5], [0] * 4])
    )
    np.testing.assert_allclose(resample_array(ramp(grid), grid, target), ramp(target), rtol=1e-6)


def test_a_shifted_grid_by_hand() -> None:
    grid = Geometry.from_spacing((1, 1, 4), (1, 1, 2.0), **KNOWN)
    affine = grid.affine.copy()
    affine[0, 3] = 0.5  # a quarter of a column further to the left
    target = replace(grid, affine=affine)
    row = np.array([[[0.0, 4.0, 8.0, 0.0]]])
    np.testing.assert_allclose(resample_array(row, grid, target, fill=-1)[0, 0], [1.0, 5.0, 6.0, 0.0])
    mask = Mask(np.array([[[1, 2, 3, 4]]], np.uint8), grid)
    np.testing.assert_array_equal(resample(mask, target).array[0, 0], [1, 2, 3, 4])
    affine[0, 3] = 1.5  # three quarters: the next pixel is nearer, and beyond the last one lies nothing
    np.testing.assert_array_equal(resample(mask, replace(grid, affine=affine)).array[0, 0], [2, 3, 4, 0])


def test_a_mask_never_gets_a_value_that_was_not_drawn() -> None:
    labels = np.zeros((4, 40, 40), np.uint8)
    labels[:, 5:20, 5:35], labels[:, 20:30, 5:35] = 2, 200
    grid = Geometry.from_spacing(labels.shape, (3, 1, 1), **KNOWN)
    affine = grid.affine.copy()
    affine[:3, :3] = turn(20) @ affine[:3, :3] * 0.37
    found = resample(Mask(labels, grid), Geometry((20, 60, 60), affine), order="cubic").array
    assert set(np.unique(found)) == {0, 2, 200}
    assert found.dtype == np.uint8


def test_fine_detail_is_smoothed_before_it_is_thinned_out() -> None:
    # Lines one pixel wide: taking each fourth pixel would give all 0 or all 1; the mean is 0.5.
    lines = np.tile(np.arange(64) % 2, (1, 64, 1)).astype(np.float32)
    grid = Geometry.from_spacing(lines.shape, (1, 1, 1), **KNOWN)
    found = resample(Volume(lines, grid), grid.respaced((1, 4, 4))).array
    np.testing.assert_allclose(found[0, 3:-3, 3:-3], 0.5, atol=0.01)
    assert np.ptp(resample_array(lines, grid, grid.respaced((1, 1, 2)), smooth=False)) < 0.51


def test_fill_and_continued_edges() -> None:
    grid = Geometry.from_spacing((2, 3, 3), (1, 1, 1), **KNOWN)
    wide = grid.cropped_or_padded((0, 2, 0), (2, 7, 3))
    pixels = np.ones((2, 3, 3), np.float32)
    assert (resample_array(pixels, grid, wide, fill=-5)[:, :2] == -5).all()
    assert (resample_array(pixels, grid, wide, fill=None) == 1).all()
    half = replace(wide, affine=wide.affine @ np.diag([1, 0.9, 1.1, 1]))
    np.testing.assert_allclose(resample_array(pixels, grid, half, fill=None), 1, atol=1e-6)


def test_unevenly_spaced_slices_stay_where_they_are() -> None:
    even = Geometry.from_spacing((3, 8, 8), (3.0, 1, 1), **KNOWN)
    grid = replace(even, slice_positions_mm=(0.0, 2.0, 6.0))
    pixels = some_pixels((3, 8, 8))
    halved = grid.respaced((3.0, 2.0, 2.0))
    assert halved.slice_positions_mm == (0.0, 2.0, 6.0)
    apart = [
        resample_array(
            pixels[k : k + 1],
            *(replace(g, shape_zyx=(1, *g.shape_zyx[1:]), slice_positions_mm=None) for g in (grid, halved)),
        )
        for k in range(3)
    ]
    np.testing.assert_allclose(resample_array(pixels, grid, halved), np.concatenate(apart), atol=1e-6)
    with pytest.raises(
        GeometryError, match=r"evenly spaced slices; found distances of 2.00 to 6.00 mm|2.00 to 4.00 mm"
    ):
        resample_array(pixels, grid, even.respaced((1.0, 1, 1)))


def test_an_uneven_series_can_be_flipped_in_plane() -> None:
    for code in ("SPL", "SAL", "SPR", "IAR", "SLP", "IRP"):
        even = Geometry.from_spacing((3, 4, 5), (3.0, 1, 2), **KNOWN)
        grid = replace(even, slice_positions_mm=(0.0, 2.0, 6.0)).oriented(
            ("S" if code[0] == "S" else "I") + "PL"
        )
        target = grid.oriented(code)
        mask = Mask(some_labels((3, 4, 5)), grid)
        there = resample(mask, target)
        np.testing.assert_array_equal(there.array, reorient(mask, code).array)
        np.testing.assert_array_equal(resample(there, grid).array, mask.array)


def test_wrong_shape_is_refused() -> None:
    grid = Geometry.from_spacing(SHAPE, SPACING_MM)
    with pytest.raises(
        GeometryError, match=r"the pixels have the shape \(2, 2, 2\), their grid says \(5, 7, 9\)"
    ):
        resample_array(np.zeros((2, 2, 2)), grid, grid)
