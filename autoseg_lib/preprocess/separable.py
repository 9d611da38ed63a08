"""Linear interpolation between grids whose axes are parallel: one axis after the other, each a small matrix.

Nearly every scan is resampled along its own axes. Then each axis by itself is a sparse matrix of two weights per pixel (more
where the image is smoothed first), and three products do the work of eight corners for each pixel. The result is that of
interpolating all axes together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from autoseg_lib.geometry import FloatArray

Pixels = npt.NDArray[np.float32]

# Smoothing that moves less than this of a pixel is left out.
_LEAST_SIGMA = 1e-3
# Each slice and each class of a scan asks for the same matrices again.
_KEPT = 64
# How far smoothing reaches, in standard deviations.
_TRUNCATE = 3.0


def parallel_axes(matrix: FloatArray) -> tuple[int, int, int] | None:
    """Returns, for each axis of the target, the source axis it runs along; None where axes are not parallel.

    Args:
        matrix: (4, 4) from target index to source index.
    """
    used = matrix[:3, :3] != 0
    if not ((used.sum(axis=0) == 1).all() and (used.sum(axis=1) == 1).all()):
        return None
    first, second, third = (int(axis) for axis in used.argmax(axis=0))
    return first, second, third


def sigma_for(step: float) -> float:
    """Returns how strongly to smooth, in pixels, before pixels grow by ``step``: (step - 1) / 2, as scikit-image does."""
    sigma = (step - 1) / 2
    return sigma if sigma > _LEAST_SIGMA else 0.0


def resample_parallel(
    array: npt.NDArray[Any],
    matrix: FloatArray,
    axes: tuple[int, int, int],
    shape_zyx: tuple[int, int, int],
    *,
    fill: float | None,
    smooth: bool,
) -> Pixels:
    """Returns the pixels at ``matrix @ index``, linearly interpolated.

    Args:
        array: (slice, row, column) source pixels.
        matrix: (4, 4) from target index to source index.
        axes: from ``parallel_axes``.
        shape_zyx: shape of the result.
        fill: value of pixels that lie outside the source by half a pixel or more; None continues the edge.
        smooth: whether to smooth along axes whose pixels get larger.
    """
    turned = array.transpose(axes)
    result = np.empty(shape_zyx, np.float32)
    if result.size == 0:
        return result
    weights = [
        _weights(
            float(matrix[source, target]),
            float(matrix[source, 3]),
            shape_zyx[target],
            turned.shape[target],
            smooth,
        )
        for target, source in enumerate(axes)
    ]
    for k in range(shape_zyx[0]):
        # The few source slices that this one is made of.
        begin, end = weights[0].indptr[k], weights[0].indptr[k + 1]
        plane = _mean(turned, weights[0].indices[begin:end], weights[0].data[begin:end])
        rows = weights[1] @ plane
        result[k] = (weights[2] @ np.ascontiguousarray(rows.T)).T
    if fill is not None:
        for target, source in enumerate(axes):
            place = matrix[source, target] * np.arange(shape_zyx[target]) + matrix[source, 3]
            count = turned.shape[target]
            outside = (place < -0.5) | (place >= count - 0.5)
            if outside.any():
                result[(slice(None),) * target + (outside,)] = fill
    return result


def _mean(array: npt.NDArray[Any], slices: npt.NDArray[Any], weights: npt.NDArray[np.float32]) -> Pixels:
    if len(slices) == 1:
        return np.ascontiguousarray(array[slices[0]], dtype=np.float32)
    plane = array[slices[0]] * weights[0]
    for number, weight in zip(slices[1:], weights[1:], strict=True):
        plane += array[number] * weight
    return np.ascontiguousarray(plane, dtype=np.float32)


@lru_cache(maxsize=_KEPT)
def _weights(step: float, first: float, size: int, count: int, smooth: bool) -> Any:
    """(size, count) sparse matrix of linear interpolation at ``first``, ``first + step``, ..., after smoothing where asked for."""
    place = step * np.arange(size) + first
    inside = np.clip(place, 0, count - 1)
    low = np.minimum(np.floor(inside).astype(np.int64), max(count - 2, 0))
    share = inside - low
    high = np.minimum(low + 1, count - 1)
    number = np.arange(len(place))
    linear = sparse.csr_matrix(
        (
            np.concatenate([1 - share, share]),
            (np.concatenate([number, number]), np.concatenate([low, high])),
        ),
        shape=(len(place), count),
    )
    sigma = sigma_for(abs(step)) if smooth else 0.0
    if sigma and count > 1:
        linear = linear @ _gaussian(count, sigma)
    linear = linear.astype(np.float32)
    linear.eliminate_zeros()
    linear.sort_indices()
    return linear


def _gaussian(count: int, sigma: float) -> Any:
    """(count, count) sparse matrix that smooths; beyond the edge the edge's value holds."""
    radius = int(_TRUNCATE * sigma + 0.5)
    reach = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2)
    kernel /= kernel.sum()
    number = np.repeat(np.arange(count), len(reach))
    source = np.clip(number + np.tile(reach, count), 0, count - 1)
    return sparse.csr_matrix((np.tile(kernel, count), (number, source)), shape=(count, count))
