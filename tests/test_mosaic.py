"""A volume's values between its voxels, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autoseg_lib.augment.mosaic import Mosaic

# Places within a slice are rounded to 1/32 of a pixel; these volumes change by at most 1 from pixel to pixel.
TOLERANCE = 1 / 32


def places(shape: tuple[int, int, int], reach: float) -> np.ndarray:
    """(3, 6, 7, 8) places, some of them up to ``reach`` outside."""
    random = np.random.default_rng(0)
    spread = [random.uniform(-reach, size - 1 + reach, (6, 7, 8)) for size in shape]
    return np.stack(spread).astype(np.float32)


@pytest.mark.parametrize("longest", [2**15 - 1, 40, 12])  # one column of slices, two, many
def test_values_are_those_of_scipy(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg_lib.augment.mosaic._LONGEST_SIDE", longest)
    shape = (7, 10, 9)
    random = np.random.default_rng(1)
    volume = random.uniform(0, 1, shape).astype(np.float16)
    label = random.integers(0, 5, shape).astype(np.uint8)
    grid = places(shape, 2.5)
    # Outside, a border of one voxel holds the value outside, and so does all beyond.
    bordered = np.pad(volume.astype(np.float32), 1, constant_values=-1)
    expected = ndimage.map_coordinates(bordered, grid + 1, order=1, mode="nearest")
    # Half-way places can go either way; of those there are none here.
    nearest = ndimage.map_coordinates(np.pad(label, 1), np.rint(grid + 1), order=0, mode="nearest")
    mosaic = Mosaic(shape, grid.copy())
    assert abs(mosaic.between(volume, -1) - expected).max() < 2 * TOLERANCE
    assert (mosaic.nearest(label) != nearest).mean() < 0.01


def test_voxels_themselves_are_exact() -> None:
    shape = (4, 5, 6)
    volume = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    grid = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij"))
    mosaic = Mosaic(shape, grid.copy())
    np.testing.assert_array_equal(mosaic.between(volume, 0), volume)
    label = (volume > 0).astype(np.uint8)
    np.testing.assert_array_equal(mosaic.nearest(label), label)
    # Half-way between two slices: their mean, for every pixel.
    grid[0] = 1.5
    between = Mosaic(shape, grid.copy()).between(volume, 0)
    np.testing.assert_allclose(between[0], (volume[1] + volume[2]) / 2, atol=1e-6)


def test_a_large_volume_stays_below_the_longest_side() -> None:
    shape = (300, 400, 3)  # 300 slices below each other would be 120 600 rows
    mosaic = Mosaic(shape, np.zeros((3, 1, 1, 1), np.float32))
    assert mosaic.down * mosaic.rows < 2**15 and mosaic.across * mosaic.down >= 302
    volume = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 1000
    grid = np.array([[299, 150, 0], [399, 7, 0], [2, 1, 0]], np.float32)[:, :, None, None]
    found = Mosaic(shape, grid.copy()).between(volume, 0).ravel()
    np.testing.assert_array_equal(found, [volume[299, 399, 2], volume[150, 7, 1], volume[0, 0, 0]])
