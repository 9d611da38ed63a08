"""Contour, area, diameter and volume errors: masks small enough to draw, values worked by hand, and the table of docs/metrics.md."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.errors import GeometryError
from autoseg_lib.evaluate.compare import compare_masks
from autoseg_lib.evaluate.table import EvaluationRow
from autoseg_lib.geometry import Geometry
from autoseg_lib.metrics.contours import count_contours, relative_error, slice_contour
from autoseg_lib.volume import Mask

# Rows 2 mm apart, columns 0.5 mm: a pixel of 1 mm², 1 mm on a side if it were square. Slices 3 mm apart.
SPACING = (3.0, 2.0, 0.5)


def drawn(*slices: str) -> np.ndarray:
    """A mask from pictures: "#" inside, lines separated by spaces."""
    return np.array([[[letter == "#" for letter in line] for line in one.split()] for one in slices])


def compared(ours: np.ndarray, theirs: np.ndarray, geometry: Geometry | None = None) -> EvaluationRow:
    grid = geometry or Geometry.from_spacing(
        ours.shape, SPACING, spacing_known=True, positions_known=True, orientation_known=True
    )
    [row] = compare_masks(
        Mask(ours.astype(np.uint8), grid), Mask(theirs.astype(np.uint8), grid), [("a", 1, 1)], "c"
    )
    return row


SQUARE = drawn("....... .####.. .####.. .####.. .####.. .......")
MOVED = drawn("....... ..####. ..####. ..####. ..####. .......")


def test_a_contour_is_all_but_the_pixels_with_four_neighbours() -> None:
    assert np.array_equal(
        slice_contour(SQUARE[0]), drawn("....... .####.. .#..#.. .#..#.. .####.. .......")[0]
    )
    full = np.ones((3, 4), bool)  # beyond the edge of the picture is outside
    assert np.array_equal(slice_contour(full), drawn("#### #..# ####")[0])


def test_path_to_draw_again() -> None:
    # Contour of the reference: 12 pixels. Its left column (4) lies outside the prediction; of its right column the two in
    # the middle lie inside the prediction, but not on its contour; the other 6 are on both contours.
    row = compared(SQUARE, MOVED)
    assert (row.applied_path_length_pixels, row.applied_path_length_mm) == (6, pytest.approx(6.0))
    assert row.false_negative_length_mm == pytest.approx(4.0)
    # 4 pixels of 1 mm² × 3 mm are missed.
    assert row.false_negative_volume_ml == pytest.approx(0.012)
    assert (row.area_difference_mm2, row.area_difference_percent) == (0.0, 0.0)
    assert (row.recist_error, row.diameter_3d_error, row.relative_volume_error) == (0.0, 0.0, 0.0)


def test_nothing_to_draw_again_where_both_agree() -> None:
    row = compared(SQUARE, SQUARE)
    assert (row.applied_path_length_pixels, row.false_negative_length_mm, row.false_negative_volume_ml) == (
        0,
        0.0,
        0.0,
    )


def test_a_length_in_mm_takes_pixels_as_squares_of_their_area() -> None:
    grid = Geometry.from_spacing(
        SQUARE.shape, (3.0, 1.5, 1.5), spacing_known=True, positions_known=True, orientation_known=True
    )
    assert compared(SQUARE, MOVED, grid).applied_path_length_mm == pytest.approx(6 * 1.5)


def test_areas_differ_slice_by_slice() -> None:
    ours = drawn("####.. ......", "###### ......", "...... ......", "...... ......")
    theirs = drawn("#####. ......", "###... ......", "##.... ......", "...... ......")
    # 1 + 3 + 2 pixels over the three slices that have it; 10 pixels in the reference. The volumes tell nothing of it.
    row = compared(ours, theirs)
    assert row.area_difference_mm2 == pytest.approx(6 / 3)
    assert row.area_difference_percent == pytest.approx(100 * 6 / 10)
    assert row.volume_difference_percent == pytest.approx(0.0)


def test_recist_error_is_of_the_largest_diameter_on_any_slice() -> None:
    ours = drawn("##... .....", "##### .....")
    theirs = drawn("##### .....", "####. .....")
    row = compared(ours, theirs)
    # 4 steps of 0.5 mm on the second slice, and on the first of the prediction.
    assert (row.diameter_reference_mm, row.diameter_prediction_mm) == (pytest.approx(2.0), pytest.approx(2.0))
    assert row.recist_error == pytest.approx(0.0)
    shorter = compared(ours, drawn("##... .....", "####. ....."))
    assert shorter.recist_error == pytest.approx((2.0 - 1.5) / 2.0)


def test_recist_error_is_one_at_most() -> None:
    ours, theirs = drawn("##.. ....", ".... ...."), drawn("#... #...", ".... ....")
    # 0.5 mm along the row against 2 mm across it: three times too long.
    assert compared(ours, theirs).recist_error == 1.0


def test_diameter_in_space() -> None:
    ours, theirs = drawn("##..", "##..", "##.."), drawn("##..", "##..", "....")
    row = compared(ours, theirs)
    reference, prediction = np.hypot(2 * 3.0, 0.5), np.hypot(3.0, 0.5)
    assert row.diameter_3d_error == pytest.approx((reference - prediction) / reference)
    assert row.relative_volume_error == pytest.approx(1 / 3)
    assert row.recist_error == 0.0


def test_relative_errors_by_hand() -> None:
    assert relative_error(2.0, 3.0) == pytest.approx(0.5)
    assert relative_error(2.0, 9.0) == 1.0
    assert relative_error(2.0, 0.0) == 1.0
    assert relative_error(0.0, 2.0) is None
    assert relative_error(None, 2.0) is None
    assert relative_error(2.0, None) is None


SOME = drawn(".##. .##.", ".##. .##.")
NONE = np.zeros_like(SOME)
# What docs/metrics.md says: (both, only reference, only prediction, neither).
EMPTY_MASKS = {
    "dice": (1.0, 0.0, 0.0, None),
    "hd95_mm": (0.0, None, None, None),
    "surface_dice_1mm": (1.0, 0.0, 0.0, None),
    "mean_surface_distance_mm": (0.0, None, None, None),
    "volume_reference_ml": (0.024, 0.024, 0.0, 0.0),
    "volume_prediction_ml": (0.024, 0.0, 0.024, 0.0),
    "volume_difference_percent": (0.0, -100.0, None, None),
    "area_difference_mm2": (0.0, 4.0, 4.0, None),
    "area_difference_percent": (0.0, 100.0, None, None),
    "applied_path_length_mm": (0.0, 8.0, 0.0, None),
    "applied_path_length_pixels": (0, 8, 0, None),
    "false_negative_length_mm": (0.0, 8.0, 0.0, None),
    "false_negative_volume_ml": (0.0, 0.024, 0.0, None),
    "diameter_reference_mm": (np.hypot(2.0, 0.5), np.hypot(2.0, 0.5), 0.0, 0.0),
    "diameter_prediction_mm": (np.hypot(2.0, 0.5), 0.0, np.hypot(2.0, 0.5), 0.0),
    "recist_error": (0.0, 1.0, None, None),
    "diameter_3d_error": (0.0, 1.0, None, None),
    "relative_volume_error": (0.0, 1.0, None, None),
}


@pytest.mark.parametrize("metric", EMPTY_MASKS)
@pytest.mark.parametrize(
    ("case", "ours", "theirs"),
    [(0, SOME, SOME), (1, SOME, NONE), (2, NONE, SOME), (3, NONE, NONE)],
    ids=["both", "only reference", "only prediction", "neither"],
)
def test_missing_rois_follow_the_written_table(
    metric: str, case: int, ours: np.ndarray, theirs: np.ndarray
) -> None:
    expected = EMPTY_MASKS[metric][case]
    found = getattr(compared(ours, theirs), metric)
    assert found == (None if expected is None else pytest.approx(expected))


def test_every_metric_of_the_table_is_documented() -> None:
    from tests.helpers.real_data import REPOSITORY

    text = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in EMPTY_MASKS:
        assert f"`{name}`" in text, name


def test_without_pixel_spacing_only_pixels_are_told() -> None:
    row = compared(SQUARE, MOVED, Geometry.from_spacing(SQUARE.shape))
    assert row.applied_path_length_pixels == 6
    assert row.area_difference_percent == 0.0
    for name in ("area_difference_mm2", "applied_path_length_mm", "false_negative_volume_ml", "recist_error"):
        assert getattr(row, name) is None
    assert row.note == "the pixel spacing is unknown"


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(GeometryError, match="different sizes"):
        count_contours(SQUARE, SOME)


def test_hausdorff_and_surface_dice_of_squares_one_column_apart() -> None:
    # On one slice, surfaces are contours of 12 pixels: 6 of each are 0 mm, the rest one column (0.5 mm) away.
    row = compared(SQUARE, MOVED)
    assert row.surface_dice_1mm == 1.0
    assert row.hd95_mm == pytest.approx(0.5)
    assert row.mean_surface_distance_mm == pytest.approx(0.5 * 12 / 24)
