"""Figures of a slice against closed formulas: ellipses of all directions, on pixels that need not be square."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.axis import find_axis
from autoseg_lib.volume import Mask, Volume
from tests.helpers.shapes import ellipse_mask, ellipse_perimeter, grid, tilted_tube

ONE = LabelTable(["roi"])
SPACINGS = [(1.0, 1.0), (0.5, 2.0), (1.0, 1.5)]


def row_of(mask: Mask, **more: object) -> SliceMeasurement:
    return measure_slices(mask, ONE, case="x", **more)[0]  # type: ignore[arg-type]


def square(rows: int = 4, columns: int = 3, spacing: tuple[float, float] = (1.0, 2.0)) -> Mask:
    """``rows`` × ``columns`` pixels at row 2, column 3 of a slice of 10 × 12."""
    array = np.zeros((1, 10, 12), np.uint8)
    array[0, 2 : 2 + rows, 3 : 3 + columns] = 1
    return Mask(array, grid(array.shape, (5.0, *spacing)))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("a", "b"), [(8, 8), (20, 20), (12, 8), (30, 12), (40, 25)])
def test_area_and_perimeter_of_ellipses(a: float, b: float, spacing: tuple[float, float]) -> None:
    """Over 12 directions and places the perimeter's mean error is under 1.5 %, and none is beyond 4 %."""
    generator = np.random.default_rng(3)
    areas, outlines = [], []
    for _ in range(12):
        mask = ellipse_mask(a, b, generator.uniform(0, 180), spacing, generator.uniform(-0.5, 0.5, 2))
        row = row_of(mask)
        areas.append(row.area_mm2 / (np.pi * a * b) - 1)
        outlines.append(row.perimeter_mm / ellipse_perimeter(a, b) - 1)
    assert abs(np.mean(areas)) < 0.01
    assert abs(np.mean(outlines)) < 0.015
    assert np.abs(outlines).max() < 0.04


@pytest.mark.parametrize("turn", [0, 5, 10, 22.5, 30, 45])
def test_perimeter_of_a_slanted_strip_has_no_staircase(turn: float) -> None:
    """A strip of 50 × 16 mm has 132 mm; pixel edges would give up to 41 % more. Its corners are a little rounded."""
    y, x = np.mgrid[:90, :90] - 44.7
    u = x * np.cos(np.radians(turn)) + y * np.sin(np.radians(turn))
    v = y * np.cos(np.radians(turn)) - x * np.sin(np.radians(turn))
    inside = ((abs(u) <= 25) & (abs(v) <= 8)).astype(np.uint8)[None]
    assert row_of(Mask(inside, grid(inside.shape, (1, 1, 1)))).perimeter_mm == pytest.approx(132, rel=0.025)


def test_perimeter_counts_the_outline_of_a_hole() -> None:
    y, x = np.mgrid[:90, :90] - 44.5
    ring = ((np.hypot(y, x) <= 40) & (np.hypot(y, x) > 25)).astype(np.uint8)[None]
    row = row_of(Mask(ring, grid(ring.shape, (1, 1, 1))))
    assert row.perimeter_mm == pytest.approx(2 * np.pi * (40 + 25), rel=0.015)
    assert row.components == 1


def test_perimeter_on_skewed_pixels_is_that_of_the_shape() -> None:
    """Columns that lean by 20 degrees: the same disc, seen through slanted pixels."""
    step = np.array([[0.0, 1.0], [1.0, 0.0]])
    step[0] += np.tan(np.radians(20)) * step[1]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (0, 0, 5), (step[0, 1], step[0, 0], 0), (1, 0, 0)
    affine[:3, 1] = (np.tan(np.radians(20)), 1, 0)
    geometry = Geometry((1, 70, 100), affine)
    y, x = np.meshgrid(np.arange(70), np.arange(100), indexing="ij")
    at_x, at_y = x + np.tan(np.radians(20)) * y, y
    inside = np.hypot(at_x - 61.3, at_y - 34.6) <= 25
    row = row_of(Mask(inside.astype(np.uint8)[None], geometry))
    assert row.area_mm2 == pytest.approx(np.pi * 25**2, rel=0.01)
    assert row.perimeter_mm == pytest.approx(2 * np.pi * 25, rel=0.015)
    assert row.diameter_mm == pytest.approx(50, abs=1.5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", [0, 17, 45, 90, 120])
def test_diameters_of_ellipses(turn: float, spacing: tuple[float, float]) -> None:
    """From pixel centre to pixel centre: at most about one pixel less than the shape's own 60 and 24 mm."""
    row = row_of(ellipse_mask(30, 12, turn, spacing, (0.2, -0.3)))
    diagonal = float(np.hypot(*spacing))
    assert 60 - 1.3 * diagonal <= row.diameter_mm <= 60
    assert 24 - 1.5 * diagonal <= row.diameter_perpendicular_mm <= 24.0 + 0.02 * 60


def test_diameters_of_a_rectangle_by_hand() -> None:
    """4 × 3 pixels of 1 × 2 mm: centres span 3 × 4 mm, so the diagonal is 5 mm; at right angles to it, through a corner,
    the chord runs to the opposite side: 3 · 5/4 = 3.75 mm.
    """
    row = row_of(square())
    assert (row.diameter_mm, row.diameter_perpendicular_mm) == pytest.approx((5.0, 3.75))
    ends = {tuple(map(float, end.split(","))) for end in row.diameter_ends.split()}
    assert ends in ({(2, 3), (5, 5)}, {(2, 5), (5, 3)})
    assert (row.centroid_row, row.centroid_column) == (3.5, 4.0)
    assert (row.centroid_x_mm, row.centroid_y_mm, row.centroid_z_mm) == (8.0, 3.5, 0.0)


def test_ends_of_the_perpendicular_lie_that_far_apart_and_at_right_angles() -> None:
    row = row_of(ellipse_mask(30, 12, 33, (0.8, 1.3)))

    def points(text: str) -> np.ndarray:
        return np.array([[float(v) for v in end.split(",")] for end in text.split()]) * (0.8, 1.3)

    long, short = points(row.diameter_ends), points(row.diameter_perpendicular_ends)
    assert np.linalg.norm(long[1] - long[0]) == pytest.approx(row.diameter_mm)
    # The ends are written to a tenth of a pixel.
    assert np.linalg.norm(short[1] - short[0]) == pytest.approx(row.diameter_perpendicular_mm, abs=0.2)
    assert abs((long[1] - long[0]) @ (short[1] - short[0])) / (60 * 24) < 0.01


def test_one_pixel_and_one_line_of_pixels() -> None:
    row = row_of(square(1, 1))
    assert (row.diameter_mm, row.diameter_perpendicular_mm, row.components) == (0.0, 0.0, 1)
    # A pixel of 1 × 2 mm has an outline of 6 mm.
    assert row.perimeter_mm == pytest.approx(6.0)
    assert (row.diameter_ends, row.diameter_perpendicular_ends) == ("2,3 2,3", "2,3 2,3")
    row = row_of(square(1, 3))
    assert (row.diameter_mm, row.diameter_perpendicular_mm) == (4.0, 0.0)


def test_parts_that_touch_at_a_corner_are_one_and_a_line_never_bridges_two() -> None:
    array = np.zeros((1, 10, 20), np.uint8)
    array[0, 1, 1] = array[0, 2, 2] = array[0, 5:8, 15] = 1
    row = row_of(Mask(array, grid(array.shape, (1, 1, 1))))
    # Two pixels and three.
    assert (row.components, row.largest_component_percent) == (2, 60.0)
    assert (row.diameter_mm, row.diameter_ends) == (2.0, "5,15 7,15")


def test_a_part_inside_the_hole_of_another_counts() -> None:
    array = np.zeros((1, 12, 12), np.uint8)
    array[0, 1:11, 1:11], array[0, 3:9, 3:9], array[0, 5:7, 5:7] = 1, 0, 1
    row = row_of(Mask(array, grid(array.shape, (1, 1, 1))))
    # A ring of 100 - 36 pixels around one of 4.
    assert row.components == 2 and row.largest_component_percent == pytest.approx(100 * 64 / 68)


def test_touching_the_border() -> None:
    assert row_of(square()).touches_border == "no"
    for place in ((0, 4), (9, 4), (4, 0), (4, 11)):
        array = np.zeros((1, 10, 12), np.uint8)
        array[(0, *place)] = 1
        assert row_of(Mask(array, grid(array.shape, (1, 1, 1)))).touches_border == "yes"


def test_an_absent_roi_has_no_shape() -> None:
    row = measure_slices(square(), LabelTable(["roi", "other"]), case="x")[1]
    assert (row.area_mm2, row.components, row.touches_border) == (0.0, 0, "")
    assert row.largest_component_percent is None
    empty = (row.perimeter_mm, row.centroid_row, row.diameter_mm, row.intensity_mean, row.obliquity_degrees)
    assert empty == (None,) * 5
    assert row.diameter_ends == ""


def test_without_spacing_only_pixels_are_known() -> None:
    photo = Mask(square().array, Geometry.from_spacing((1, 10, 12)))
    row = row_of(photo)
    assert (row.centroid_row, row.centroid_column, row.components, row.touches_border) == (3.5, 4.0, 1, "no")
    assert (row.perimeter_mm, row.diameter_mm, row.diameter_ends, row.centroid_x_mm) == (None, None, "", None)


# --- grey values


def picture(values: np.ndarray, mask: Mask) -> Volume:
    return Volume(values.reshape(mask.array.shape), mask.geometry)


def test_grey_values_by_hand() -> None:
    """Pixels 10, 20, 30, 60 HU: mean 30, sd √((400 + 100 + 0 + 900) / 3), two of four from 15 to 30."""
    array = np.array([[[1, 1, 0], [1, 1, 0]]], np.uint8)
    mask = Mask(array, grid(array.shape, (1, 1, 1)))
    image = picture(np.array([10, 20, -1000, 30, 60, 500], np.int16), mask)
    row = row_of(mask, image=image, tissue_window=[15, 30])
    assert row.intensity_mean == pytest.approx(30.0)
    assert row.intensity_sd == pytest.approx(np.sqrt(1400 / 3))
    assert row.in_window_percent == pytest.approx(50.0)
    assert row.fat_fraction_percent is None
    assert row_of(mask, image=image).in_window_percent is None


def test_fat_fraction_by_hand() -> None:
    """Water 30 + 10, fat 10 + 50: 60 of 100, signal by signal, not the mean of 25 % and 83 %."""
    array = np.array([[[1, 1, 0]]], np.uint8)
    mask = Mask(array, grid(array.shape, (1, 1, 1)))
    water, fat = picture(np.array([30.0, 10, 7]), mask), picture(np.array([10.0, 50, 7]), mask)
    assert row_of(mask, image=water, fat_image=fat).fat_fraction_percent == pytest.approx(60.0)
    dark = picture(np.zeros(3), mask)
    assert row_of(mask, image=dark, fat_image=dark).fat_fraction_percent is None


def test_pixels_without_a_number_are_left_out() -> None:
    array = np.array([[[1, 1, 1]]], np.uint8)
    mask = Mask(array, grid(array.shape, (1, 1, 1)))
    row = row_of(mask, image=picture(np.array([np.nan, 4.0, 6.0]), mask), tissue_window=(5, 7))
    assert (row.intensity_mean, row.in_window_percent) == pytest.approx((5.0, 50.0))
    row = row_of(mask, image=picture(np.full(3, np.nan), mask))
    assert (row.intensity_mean, row.intensity_sd) == (None, None)
    one = Mask(np.array([[[1, 0, 0]]], np.uint8), mask.geometry)
    row = row_of(one, image=picture(np.array([9.0, 1, 1]), one))
    assert (row.intensity_mean, row.intensity_sd) == (9.0, None)


def test_large_offsets_do_not_cost_digits() -> None:
    array = np.ones((1, 1, 4), np.uint8)
    mask = Mask(array, grid(array.shape, (1, 1, 1)))
    image = picture(np.array([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16]), mask)
    assert row_of(mask, image=image).intensity_sd == pytest.approx(np.sqrt(30.0))


def test_images_on_another_grid_are_refused() -> None:
    mask = square()
    moved = Geometry.from_spacing(
        (1, 10, 12), (5, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
    )
    with pytest.raises(
        DataError, match=r"'x': the image has .* Resample the image onto the mask's grid first"
    ):
        row_of(mask, image=Volume(np.zeros((1, 10, 12)), moved))
    with pytest.raises(DataError, match="a fat image without its water image"):
        row_of(mask, fat_image=Volume(np.zeros((1, 10, 12)), mask.geometry))
    with pytest.raises(SettingsError, match=r"tissue_window: found 150 to -29; the lower value comes first"):
        row_of(mask, image=Volume(np.zeros((1, 10, 12)), mask.geometry), tissue_window=(150, -29))


# --- obliquity


@pytest.mark.parametrize("tilt", [0.0, 10.0, 25.0, 40.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.7, 0.7), (3.0, 0.6, 1.2)])
def test_obliquity_of_tilted_tubes(tilt: float, spacing: tuple[float, float, float]) -> None:
    """A tube of 10 mm radius has π 10² mm² across its axis, and 1 / cos(tilt) more on the slices."""
    rows = measure_slices(tilted_tube(10, tilt, 35, spacing, 24), ONE, case="x")
    angles = np.array([row.obliquity_degrees for row in rows])
    orthogonal = np.array([row.area_orthogonal_mm2 for row in rows])
    assert np.abs(angles - tilt).max() < 1.0
    assert np.mean([row.area_mm2 for row in rows]) == pytest.approx(
        np.pi * 100 / np.cos(np.radians(tilt)), rel=0.01
    )
    assert orthogonal.mean() == pytest.approx(np.pi * 100, rel=0.01)


def test_obliquity_on_uneven_slices() -> None:
    """Taken out of a tube, slices at 0, 1, 2, 5, 9, 10, 14 ... mm still tell its angle."""
    tube = tilted_tube(10, 30, 35, (1.0, 0.8, 0.8), 30)
    kept = [0, 1, 2, 5, 9, 10, 14, 17, 18, 24, 29]
    geometry = Geometry(
        (len(kept), *tube.array.shape[1:]), tube.geometry.affine, tuple(float(z) for z in kept)
    )
    rows = measure_slices(Mask(tube.array[kept], geometry), ONE, case="x")
    assert np.abs([row.obliquity_degrees - 30 for row in rows]).max() < 1.0
    assert [row.centroid_z_mm for row in rows] == [float(z) for z in kept]


def test_obliquity_of_a_bent_tube() -> None:
    """A tube along an arc of 150 mm radius: the angle follows the arc within 1 degree, at its two ends within 2.5."""
    shape = (60, 90, 60)
    z, y, x = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    # The arc's centre lies 150 mm from the tube in the plane of slice 30.
    far = np.hypot(z - 29.5, y - 40 - 150)
    inside = np.hypot(far - 150, x - 30) <= 8
    rows = measure_slices(Mask(inside.astype(np.uint8), grid(shape, (1, 1, 1))), ONE, case="x")
    expected = np.degrees(np.arcsin(np.abs(np.arange(60) - 29.5) / 150))
    error = np.abs(np.array([row.obliquity_degrees for row in rows]) - expected)
    assert error.max() < 2.5
    # Where the window is complete.
    assert error[15:-15].max() < 1.0


def test_obliquity_of_a_jittering_axis() -> None:
    """Centres that jitter by 0.5 mm around an arc of 150 mm radius, 1 mm slices."""
    generator, z = np.random.default_rng(0), np.arange(120.0)
    arc = 150 - np.sqrt(150**2 - (z - 60) ** 2)
    inner, ends = [], []
    for _ in range(30):
        points = np.stack([generator.normal(0, 0.5, 120), arc + generator.normal(0, 0.5, 120), z], axis=1)
        axis = find_axis(points, np.arange(120), z, np.array([0.0, 0, 1]))
        assert axis is not None
        error = np.abs(axis.obliquity_degrees - np.degrees(np.arcsin(np.abs(z - 60) / 150)))
        inner.append(error[5:-5].mean())
        ends.append(error[[0, -1]].mean())
    assert np.mean(inner) < 1.0
    assert np.mean(ends) < 3.0


def test_obliquity_of_a_sheared_stack_is_told_by_the_patient_not_by_the_columns() -> None:
    """With a gantry tilted by 20 degrees, a tube that stays at the same row and column runs at 20 degrees to the normal."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.0], [4 * np.tan(np.radians(20)), 1.0, 0], [4.0, 0, 0]])
    array = np.zeros((8, 30, 30), np.uint8)
    array[:, 10:20, 10:20] = 1
    rows = measure_slices(Mask(array, Geometry((8, 30, 30), affine)), ONE, case="x")
    assert [row.obliquity_degrees for row in rows] == pytest.approx([20.0] * 8)


def test_obliquity_needs_three_slices_and_distances() -> None:
    tube = tilted_tube(6, 20, 0, (3.0, 1.0, 1.0), 8)
    two = tube.array.copy()
    two[2:] = 0
    rows = measure_slices(Mask(two, tube.geometry), ONE, case="x")
    assert {row.obliquity_degrees for row in rows} == {None}
    flat = Geometry.from_spacing(tube.array.shape, (1, 1, 1), spacing_known=True)
    rows = measure_slices(Mask(tube.array, flat), ONE, case="x")
    assert {(row.obliquity_degrees, row.area_orthogonal_mm2, row.centroid_z_mm) for row in rows} == {
        (None, None, None)
    }
    cine = Geometry(tube.array.shape, tube.geometry.affine, (0.0, 0.0, 3.0, 3.0, 6.0, 6.0, 9.0, 9.0))
    rows = measure_slices(Mask(tube.array, cine), ONE, case="x")
    assert {row.obliquity_degrees for row in rows} == {None}
    assert rows[2].centroid_z_mm == pytest.approx(3.0)
