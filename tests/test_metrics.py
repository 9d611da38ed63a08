"""Overlap and surface distances: values worked by hand, and the same from SimpleITK and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.metrics.overlap import dice, dice_per_roi
from autoseg_lib.metrics.surface import surface, surface_distances, why_no_distances


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> Geometry:
    return Geometry.from_spacing(
        shape, spacing, spacing_known=True, positions_known=True, orientation_known=True
    )


def blob(shape: tuple[int, int, int], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    index = np.indices(shape)
    return sum(((i - c) / r) ** 2 for i, c, r in zip(index, centre, radii, strict=True)) <= 1


def test_dice_by_hand() -> None:
    reference = np.array([[1, 1, 0, 0]], bool)
    prediction = np.array([[0, 1, 1, 0]], bool)
    assert dice(reference, prediction) == pytest.approx(2 * 1 / (2 + 2))
    assert dice(reference, reference) == 1.0


def test_dice_of_missing_rois_follows_the_written_table() -> None:
    some, none = np.array([True, False]), np.array([False, False])
    assert dice(some, none) == 0.0
    assert dice(none, some) == 0.0
    assert dice(none, none) is None


def test_dice_per_roi_equals_simpleitk() -> None:
    rng = np.random.default_rng(1)
    reference = rng.integers(0, 4, (6, 20, 20)).astype(np.uint8)
    prediction = np.where(rng.random(reference.shape) < 0.3, 0, reference).astype(np.uint8)
    prediction[prediction == 3] = 0
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(SimpleITK.GetImageFromArray(reference), SimpleITK.GetImageFromArray(prediction))
    ours = dice_per_roi(reference, prediction, LabelTable.numbered(4))
    assert ours[:2] == pytest.approx([overlap.GetDiceCoefficient(1), overlap.GetDiceCoefficient(2)])
    assert ours[2] == 0.0
    assert ours[3] is None


def test_surface_of_a_cube_is_all_but_its_core() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    expected = mask.copy()
    expected[2, 2, 2] = False
    assert np.array_equal(surface(mask), expected)


def test_one_slice_has_a_contour_not_a_sheet() -> None:
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 1:4, 1:4] = True
    assert surface(mask).sum() == 8


def test_two_points_three_slices_apart() -> None:
    """One pixel each, three slices of 2.5 mm apart: every distance is 7.5 mm."""
    reference, prediction = np.zeros((2, 6, 4, 4), bool)
    reference[1, 2, 2] = prediction[4, 2, 2] = True
    found = surface_distances(reference, prediction, grid((6, 4, 4), (2.5, 1, 1)))
    assert found is not None
    assert (found.hd95_mm, found.mean_mm, found.hausdorff_mm) == pytest.approx((7.5, 7.5, 7.5))
    assert found.surface_dice() == 0.0
    assert found.surface_dice(7.5) == 1.0


def test_rows_and_columns_are_not_mixed_up() -> None:
    reference, prediction = np.zeros((2, 1, 9, 9), bool)
    reference[0, 1, 1], prediction[0, 4, 5] = True, True
    found = surface_distances(reference, prediction, grid((1, 9, 9), (5, 0.5, 2)))
    assert found is not None
    assert found.hd95_mm == pytest.approx(np.hypot(3 * 0.5, 4 * 2))


def test_a_block_longer_by_one_pixel_by_hand() -> None:
    """A 1 × 4 bar against a 1 × 5 bar, columns 2 mm apart: all distances 0 but one of 2 mm, of nine."""
    reference, prediction = np.zeros((2, 1, 3, 8), bool)
    reference[0, 1, 1:5], prediction[0, 1, 1:6] = True, True
    found = surface_distances(reference, prediction, grid((1, 3, 8), (5, 1, 2)))
    assert found is not None
    assert found.mean_mm == pytest.approx(2 / 9)
    assert found.surface_dice(1.0) == pytest.approx(8 / 9)
    # 95th percentile of 0 0 0 0 2, linear between order statistics: 0.95 × 4 = 3.8 → 0.8 of the way from 0 to
    # 2.
    assert found.hd95_mm == pytest.approx(1.6)


def test_hausdorff_equals_simpleitk_with_anisotropic_pixels() -> None:
    shape, spacing = (12, 40, 40), (3.0, 0.7, 1.1)
    reference = blob(shape, (6, 20, 20), (4, 12, 9))
    prediction = blob(shape, (6, 22, 19), (5, 11, 11))
    images = []
    for mask in (reference, prediction):
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        images.append(image)
    theirs = SimpleITK.HausdorffDistanceImageFilter()
    theirs.Execute(*images)
    found = surface_distances(reference, prediction, grid(shape, spacing))
    assert found is not None
    # SimpleITK measures from every pixel of the ROI; the farthest one lies on the surface of these convex
    # shapes.
    assert found.hausdorff_mm == pytest.approx(theirs.GetHausdorffDistance(), abs=1e-5)


def test_hd95_surface_dice_and_mean_distance_equal_monai() -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    shape, spacing = (10, 32, 32), (2.5, 0.8, 1.3)
    reference = blob(shape, (5, 15, 16), (3, 10, 7))
    prediction = blob(shape, (4.5, 17, 15), (4, 8, 9))
    found = surface_distances(reference, prediction, grid(shape, spacing))
    assert found is not None
    truth, guess = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (reference, prediction))
    options = {"include_background": True, "spacing": spacing}
    hd95 = compute_hausdorff_distance(guess, truth, percentile=95, **options)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
    close = compute_surface_dice(guess, truth, class_thresholds=[1.0], **options)
    assert found.surface_dice(1.0) == pytest.approx(float(close), rel=1e-5)
    one_way = compute_average_surface_distance(guess, truth, **options)
    assert found.from_prediction_mm.mean() == pytest.approx(float(one_way), rel=1e-5)


def test_uneven_slices_use_their_positions() -> None:
    affine = grid((3, 4, 4)).affine
    geometry = Geometry((3, 4, 4), affine, slice_positions_mm=(0.0, 2.0, 9.0))
    reference, prediction = np.zeros((2, 3, 4, 4), bool)
    reference[1, 1, 1] = prediction[2, 1, 1] = True
    found = surface_distances(reference, prediction, geometry)
    assert found is not None
    assert found.hd95_mm == pytest.approx(7.0)


def test_tilted_gantry_counts_the_shear() -> None:
    affine = np.array(grid((3, 4, 4)).affine)
    affine[:3, 0] = (0, 3.0, 4.0)
    reference, prediction = np.zeros((2, 3, 4, 4), bool)
    reference[0, 1, 1] = prediction[1, 1, 1] = True
    found = surface_distances(reference, prediction, Geometry((3, 4, 4), affine))
    assert found is not None
    assert found.hd95_mm == pytest.approx(5.0)


def test_no_distance_to_nothing() -> None:
    some, none = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert surface_distances(some, none, grid((2, 2, 2))) is None
    assert surface_distances(none, none, grid((2, 2, 2))) is None


def test_refusals_say_why() -> None:
    with pytest.raises(GeometryError, match="different sizes"):
        dice(np.ones((2, 2), bool), np.ones((2, 3), bool))
    photo = Geometry.from_spacing((1, 4, 4))
    with pytest.raises(GeometryError, match="pixel spacing is unknown"):
        surface_distances(np.ones((1, 4, 4), bool), np.ones((1, 4, 4), bool), photo)
    stack = Geometry.from_spacing((2, 4, 4), (1, 1, 1), spacing_known=True)
    assert why_no_distances(stack) == "the distance between slices is unknown"
