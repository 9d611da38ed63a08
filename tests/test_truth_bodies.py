"""Figures of a whole ROI against closed formulas: ellipsoids, tubes and blocks, thick and uneven slices, 48 orientations."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes
from autoseg_lib.volume import Mask
from tests.helpers.phantoms import all_orientations, turn
from tests.helpers.shapes import ellipsoid_mask, ellipsoid_surface, grid, points_zyx, tilted_tube

ONE = LabelTable(["roi"])


def row_of(mask: Mask) -> VolumeMeasurement:
    return measure_volumes(mask, ONE, case="x")[0]


def block(
    shape: tuple[int, int, int] = (3, 4, 5), spacing: tuple[float, float, float] = (2.0, 1.0, 0.5)
) -> Mask:
    array = np.zeros((9, 10, 11), np.uint8)
    array[2 : 2 + shape[0], 2 : 2 + shape[1], 2 : 2 + shape[2]] = 1
    return Mask(array, grid(array.shape, spacing))


# Half-axes of at least two slices: smaller ones have no shape left on their slices.
@pytest.mark.parametrize(
    ("half_axes", "spacing"),
    [
        ((10, 10, 10), (1, 1, 1)),
        ((20, 20, 20), (1, 1, 1)),
        ((15, 30, 10), (1, 1, 1)),
        ((20, 20, 20), (3, 1, 1)),
        ((30, 15, 10), (3, 1, 1)),
        ((20, 20, 20), (5, 0.8, 0.8)),
        ((40, 12, 20), (3, 0.8, 1.2)),
    ],
)
@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_volume_surface_and_diameter_of_ellipsoids(
    half_axes: tuple[float, ...], spacing: tuple[float, ...], degrees: float
) -> None:
    row = row_of(ellipsoid_mask(half_axes, spacing, turn(degrees)))
    assert row.volume_mm3 == pytest.approx(4 / 3 * np.pi * np.prod(half_axes), rel=0.02)
    assert row.surface_area_mm2 == pytest.approx(ellipsoid_surface(*half_axes), rel=0.02)
    # From pixel centre to pixel centre: about a voxel's diagonal less.
    longest, diagonal = 2 * max(half_axes), float(np.linalg.norm(spacing))
    assert longest - 1.3 * diagonal <= row.diameter_3d_mm <= longest
    assert row.components == 1


def test_a_ball_on_six_slices() -> None:
    """Radius 20 mm, slices of 8 mm: what is left of the shape still gives its figures within 4 %."""
    row = row_of(ellipsoid_mask((20, 20, 20), (8, 0.5, 0.5), np.eye(3)))
    assert row.slices == 6
    assert row.volume_mm3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.05)
    assert row.surface_area_mm2 == pytest.approx(4 * np.pi * 20**2, rel=0.05)


@pytest.mark.parametrize("tilt", [0.0, 20.0, 40.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.8, 0.8)])
def test_length_of_tilted_tubes(tilt: float, spacing: tuple[float, float, float]) -> None:
    """Cut by the first and the last slice, a tube is as long as the stack is high, divided by the cosine."""
    mask = tilted_tube(10, tilt, 35, spacing, 20)
    row = row_of(mask)
    long = 20 * spacing[0] / np.cos(np.radians(tilt))
    assert row.length_mm == pytest.approx(long, rel=0.01)
    assert row.volume_mm3 == pytest.approx(np.pi * 100 * long, rel=0.02)


def test_surface_of_a_tube_with_its_ends() -> None:
    """2 π r h + 2 π r²: with 15 and 60 mm 7069 mm². The sharp rims are rounded a little."""
    z, y, x = points_zyx((70, 40, 40), (1, 1, 1))
    inside = (np.hypot(y, x) <= 15) & (abs(z) <= 30)
    row = row_of(Mask(inside.astype(np.uint8), grid(inside.shape, (1, 1, 1))))
    assert row.surface_area_mm2 == pytest.approx(2 * np.pi * 15 * 75, rel=0.02)


def test_surface_counts_a_hollow_and_ends_at_the_edge_of_the_scan() -> None:
    z, y, x = points_zyx((50, 50, 50), (1, 1, 1))
    far = np.sqrt(z**2 + y**2 + x**2)
    shell = (far <= 20) & (far > 10)
    assert row_of(
        Mask(shell.astype(np.uint8), grid(shell.shape, (1, 1, 1)))
    ).surface_area_mm2 == pytest.approx(4 * np.pi * (400 + 100), rel=0.02)
    half = shell[25:] | (far[25:] <= 10)
    assert row_of(Mask(half.astype(np.uint8), grid(half.shape, (1, 1, 1)))).surface_area_mm2 == pytest.approx(
        2 * np.pi * 400 + np.pi * 400, rel=0.025
    )


def test_surface_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ROIs are smoothed part by part; where the parts begin changes nothing."""
    mask = ellipsoid_mask((30, 15, 10), (1, 1, 1), turn(20))
    whole = row_of(mask).surface_area_mm2
    monkeypatch.setattr("autoseg_lib.measure.boundary._CHUNK_VOXELS", 5000)
    assert row_of(mask).surface_area_mm2 == pytest.approx(whole, rel=1e-6)


def test_a_block_by_hand() -> None:
    """3 × 4 × 5 voxels of 2 × 1 × 0.5 mm: 60 mm³; centres span 4 × 3 × 2 mm, so √29; slices 1 .. 3 of 10 mm²."""
    row = row_of(block())
    assert row.volume_mm3 == pytest.approx(60.0)
    assert row.diameter_3d_mm == pytest.approx(np.sqrt(29))
    assert row.length_mm == pytest.approx(6.0)
    # Between the centres of the first and the last slice: 4 mm of 10 mm².
    assert row.volume_trapezoid_ml == pytest.approx(0.04)


def test_trapezoid_by_hand() -> None:
    """Areas 3, 0 and 2 mm² at 0, 2 and 6 mm: (3 + 0) / 2 · 2 + (0 + 2) / 2 · 4 = 7 mm³."""
    array = np.zeros((3, 4, 5), np.uint8)
    array[0, 1, 1:4] = array[2, 2, 0:2] = 1
    mask = Mask(array, Geometry((3, 4, 5), grid((3, 4, 5), (1, 1, 1)).affine, (0.0, 2.0, 6.0)))
    row = row_of(mask)
    assert row.volume_trapezoid_ml == pytest.approx(0.007)
    array[2] = 0
    assert row_of(mask).volume_trapezoid_ml is None
    array[0] = 0
    assert row_of(mask).volume_trapezoid_ml == 0.0


def test_uneven_slices_of_an_ellipsoid() -> None:
    """Every slice, then every third in the middle: volume, surface and longest diameter stay those of the shape."""
    whole = ellipsoid_mask((24, 15, 18), (1, 1, 1), np.eye(3))
    kept = [*range(0, 16), *range(16, 40, 3), *range(40, len(whole.array))]
    geometry = Geometry((len(kept), *whole.array.shape[1:]), whole.geometry.affine, tuple(map(float, kept)))
    row = row_of(Mask(whole.array[kept], geometry))
    assert row.volume_mm3 == pytest.approx(4 / 3 * np.pi * 24 * 15 * 18, rel=0.02)
    assert row.surface_area_mm2 == pytest.approx(ellipsoid_surface(24, 15, 18), rel=0.02)
    assert row.diameter_3d_mm == pytest.approx(48, abs=1.5)
    assert row.length_mm == pytest.approx(48, abs=1.5)


def test_a_tilted_gantry_measures_in_the_patient() -> None:
    """The same ball, seen by slices that slip 2 mm sideways for every 4 mm."""
    shape, radius = (16, 60, 60), 20.0
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.0], [2.0, 1.0, 0], [4.0, 0, 0]])
    affine[:3, 3] = (-30, -45, -30)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), axis=-1)
    far = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3], axis=-1)
    row = row_of(Mask((far <= radius).astype(np.uint8), Geometry(shape, affine)))
    assert row.volume_mm3 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    # Smoothing along slipping slices is not the same in all directions: a little coarser.
    assert row.surface_area_mm2 == pytest.approx(4 * np.pi * radius**2, rel=0.03)
    assert row.diameter_3d_mm == pytest.approx(40, abs=3)
    assert row.length_mm == pytest.approx(40, abs=4.5)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_all_48_orientations_give_the_same_body(degrees: float) -> None:
    """One ellipsoid in the patient, seen by grids whose axes lie in every possible way: volume and surface agree."""
    shape, half = (16, 60, 40), np.array([20.0, 12.0, 16.0])
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), axis=-1)
    volumes, surfaces, diameters, centres = [], [], [], []
    for geometry in all_orientations(degrees, shape):
        at = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
        middle = at.reshape(-1, 3).mean(axis=0)
        mask = Mask((np.linalg.norm((at - middle) / half, axis=-1) <= 1).astype(np.uint8), geometry)
        row = row_of(mask)
        volumes.append(row.volume_mm3)
        surfaces.append(row.surface_area_mm2)
        diameters.append(row.diameter_3d_mm)
        slices = measure_slices(mask, ONE, case="x")
        weights = [r.pixels for r in slices if r.pixels]
        places = [[r.centroid_x_mm, r.centroid_y_mm, r.centroid_z_mm] for r in slices if r.pixels]
        centres.append(np.abs(np.average(places, axis=0, weights=weights) - middle).max())
        assert slices[0].slice_position_mm == pytest.approx(geometry.positions_mm[0])
    assert np.abs(np.array(volumes) / (4 / 3 * np.pi * np.prod(half)) - 1).max() < 0.02
    assert np.abs(np.array(surfaces) / ellipsoid_surface(*half) - 1).max() < 0.02
    assert max(centres) < 0.05
    assert min(diameters) > 40 - 5.5
    assert max(diameters) <= 40


def test_flips_change_nothing_at_all() -> None:
    mask = ellipsoid_mask((20, 12, 15), (2, 1, 1.5), turn(25))
    first = row_of(mask)
    for axes in ((0,), (1,), (2,), (0, 1, 2)):
        row = row_of(Mask(np.ascontiguousarray(np.flip(mask.array, axes)), mask.geometry))
        assert row.surface_area_mm2 == pytest.approx(first.surface_area_mm2, rel=1e-6)
        assert row.diameter_3d_mm == pytest.approx(first.diameter_3d_mm, rel=1e-9)
        assert row.length_mm == pytest.approx(first.length_mm, rel=1e-9)


def test_parts_in_space_hang_together_over_corners_and_lines_do_not_bridge_them() -> None:
    array = np.zeros((6, 20, 20), np.uint8)
    array[0, 2, 2] = array[1, 3, 3] = 1
    array[4, 10:14, 15] = 1
    row = row_of(Mask(array, grid(array.shape, (1, 1, 1))))
    assert row.components == 2
    assert row.diameter_3d_mm == pytest.approx(3.0)


def test_flat_and_thin_bodies_have_a_longest_diameter() -> None:
    """More points than are compared directly, all in one plane: there is no hull in space."""
    array = np.zeros((3, 130, 130), np.uint8)
    array[1, 5:125, 5:125] = 1
    row = row_of(Mask(array, grid(array.shape, (1, 1, 1))))
    assert row.diameter_3d_mm == pytest.approx(119 * np.sqrt(2))


# --- left and right


def test_sides_are_compared_by_name() -> None:
    """3 pixels left, 1 right, of 1 mm³: 2 mm³ more on the left, 100 % of the mean of both."""
    array = np.zeros((2, 4, 6), np.uint8)
    array[0, 1, 1:4], array[0, 3, 5], array[1, 0, 0] = 2, 1, 3
    labels = LabelTable(["psoas right", "psoas left", "spine"])
    right, left, spine = measure_volumes(Mask(array, grid(array.shape, (1, 1, 1))), labels, case="x")
    assert (left.volume_difference_ml, left.asymmetry_percent) == pytest.approx((0.002, 100.0))
    assert (right.volume_difference_ml, right.asymmetry_percent) == pytest.approx((0.002, 100.0))
    assert (spine.volume_difference_ml, spine.asymmetry_percent) == (None, None)


def test_a_side_that_is_missing_and_sides_without_volume() -> None:
    array = np.zeros((2, 4, 6), np.uint8)
    labels = LabelTable(["L psoas", "R psoas"])
    known = grid(array.shape, (1, 1, 1))
    assert measure_volumes(Mask(array, known), labels, case="x")[0].asymmetry_percent is None
    array[0, 0, 0] = 2
    assert measure_volumes(Mask(array, known), labels, case="x")[0].asymmetry_percent == pytest.approx(-200)
    photo = Geometry.from_spacing(array.shape)
    assert measure_volumes(Mask(array, photo), labels, case="x")[0].volume_difference_ml is None


def test_pairs_may_be_told_where_names_do_not() -> None:
    """3 pixels left, 1 right, as above, under a lab's own names."""
    array = np.zeros((2, 4, 6), np.uint8)
    array[0, 1, 1:4], array[0, 3, 5] = 1, 2
    mask, labels = Mask(array, grid(array.shape, (1, 1, 1))), LabelTable(["PSM_1", "PSM_2"])
    assert measure_volumes(mask, labels, case="x")[0].asymmetry_percent is None
    for row in measure_volumes(mask, labels, case="x", pairs=[(1, 2)]):
        assert (row.volume_difference_ml, row.asymmetry_percent) == pytest.approx((0.002, 100.0))


def test_what_cannot_be_told_stays_empty() -> None:
    mask = block()
    photo = row_of(Mask(mask.array, Geometry.from_spacing(mask.array.shape)))
    unknown = (photo.surface_area_mm2, photo.diameter_3d_mm, photo.length_mm, photo.volume_trapezoid_ml)
    assert unknown == (None,) * 4
    assert photo.components == 1
    cine = Geometry(mask.array.shape, mask.geometry.affine, (0.0,) * 3 + (2.0,) * 3 + (4.0,) * 3)
    assert (row_of(Mask(mask.array, cine)).components, row_of(Mask(mask.array, cine)).length_mm) == (
        None,
        None,
    )
    absent = measure_volumes(mask, LabelTable(["roi", "none"]), case="x")[1]
    assert (absent.components, absent.surface_area_mm2, absent.volume_trapezoid_ml) == (0, None, 0.0)
    assert row_of(block((2, 4, 5))).length_mm is None
