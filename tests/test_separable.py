"""One axis after the other gives what SimpleITK and scipy give for all axes together."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from autoseg_lib.preprocess.resample import resample_index
from autoseg_lib.preprocess.separable import parallel_axes, resample_parallel, sigma_for


def any_map(rng: np.random.Generator) -> np.ndarray:
    """Axes in any order and direction, pixels 0.3 to 2.5 times as large, shifted: parts of the target lie outside."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for target, source in enumerate(rng.permutation(3)):
        matrix[source, target] = rng.choice([-1, 1]) * rng.uniform(0.3, 2.5)
        matrix[source, 3] = rng.uniform(-3, 10)
    return matrix


def by_simpleitk(
    array: np.ndarray, matrix: np.ndarray, shape: tuple[int, int, int], fill: float
) -> np.ndarray:
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in reversed(shape)])
    turned = matrix[:3, :3][::-1, ::-1]
    resampler.SetTransform(sitk.AffineTransform(turned.ravel().tolist(), matrix[:3, 3][::-1].tolist()))
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(fill)
    return sitk.GetArrayFromImage(resampler.Execute(sitk.GetImageFromArray(array)))


@pytest.mark.parametrize("seed", range(12))
def test_against_simpleitk_and_scipy(seed: int):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=rng.integers(1, 20, 3)).astype(np.float32)
    a, b, c = (int(n) for n in rng.integers(1, 25, 3))
    matrix = any_map(rng)
    axes = parallel_axes(matrix)
    assert axes is not None
    filled = resample_parallel(array, matrix, axes, (a, b, c), fill=-7.0, smooth=False)
    assert np.allclose(filled, by_simpleitk(array, matrix, (a, b, c), -7.0), atol=1e-5)
    places = matrix[:3, :3] @ np.indices((a, b, c)).reshape(3, -1) + matrix[:3, 3:]
    for smooth in (False, True):
        found = resample_parallel(array, matrix, axes, (a, b, c), fill=None, smooth=smooth)
        source = array.astype(np.float64)
        for target, axis in enumerate(axes):
            sigma = (abs(matrix[axis, target]) - 1) / 2
            if smooth and sigma > 1e-3:
                source = ndimage.gaussian_filter1d(source, sigma, axis=axis, mode="nearest", truncate=3.0)
        expected = ndimage.map_coordinates(source, places, order=1, mode="nearest").reshape(a, b, c)
        assert np.allclose(found, expected, atol=1e-5)


def test_by_hand():
    """Pixels half as large: 10 20 30 at places -0.25, 0.25, 0.75, ... 2.25; the edge goes on."""
    matrix = np.diag([1.0, 1.0, 0.5, 1.0])
    matrix[2, 3] = -0.25
    row = np.array([[[10, 20, 30]]], np.float32)
    assert resample_index(row, matrix, (1, 1, 6), fill=None).ravel().tolist() == [
        10,
        12.5,
        17.5,
        22.5,
        27.5,
        30,
    ]


def test_turned_grids_are_not_parallel():
    assert parallel_axes(np.diag([2.0, -1.0, 0.5, 1.0])) == (0, 1, 2)
    sheared = np.eye(4)
    sheared[1, 0] = 0.2
    assert parallel_axes(sheared) is None


def test_strength_of_smoothing():
    assert sigma_for(3.0) == 1.0
    assert sigma_for(1.0) == 0.0
    assert sigma_for(0.5) == 0.0
