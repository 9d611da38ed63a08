"""The one place where pixels are put onto another grid.

Images are interpolated, masks never: a mask takes the value of the nearest pixel, so no label value appears
that nobody drew. All work is done between array indices (target index → source index), so tilted (sheared)
grids need no special case.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM, FloatArray, Geometry
from autoseg_lib.preprocess.separable import parallel_axes, resample_parallel, sigma_for
from autoseg_lib.volume import Mask, Volume

Order = Literal["linear", "cubic", "sinc", "nearest"]

_INTERPOLATORS = {
    "linear": sitk.sitkLinear,
    "cubic": sitk.sitkBSpline,
    "sinc": sitk.sitkLanczosWindowedSinc,
    "nearest": sitk.sitkNearestNeighbor,
}

# A cubic B-spline needs four pixels along each side; the windowed sinc of radius 4 does with any number.
_FEWEST_FOR_CUBIC = 4

# Index maps are products of affines in double precision; entries this close to a whole number are that
# number. Over a scan of 1000 pixels the error stays below a thousandth of a pixel.
_SNAP = 1e-7

# Slices handled at a time where slices are independent: bounds the float32 copies to about 64 MB at 512 ×
# 512.
SLICES_PER_CHUNK = 32


@overload
def resample(item: Volume, target: Geometry, *, order: Order = ..., fill: float | None = ...) -> Volume: ...
@overload
def resample(item: Mask, target: Geometry, *, order: Order = ..., fill: float | None = ...) -> Mask: ...
def resample(item: Any, target: Geometry, *, order: Order = "linear", fill: float | None = 0.0) -> Any:
    """Returns the scan or mask on the grid ``target``.

    Args:
        item: a Volume (result float32) or a Mask (same type of whole numbers; always the nearest value).
        target: the grid to fill.
        order: "nearest", "linear", "cubic" (B-spline) or "sinc" (Lanczos-windowed) for a Volume. When pixels get larger, the image is smoothed first, so that
            fine detail does not turn into false patterns.
        fill: value of pixels outside the source; None continues the nearest pixel outwards (images only).

    Raises:
        GeometryError: the slices are not evenly spaced and the target's slices are not the source's own.
    """
    if isinstance(item, Mask):
        labels = resample_array(item.array, item.geometry, target, order="nearest", fill=fill or 0.0)
        return Mask(labels, target)
    pixels = resample_array(item.array, item.geometry, target, order=order, fill=fill)
    return item.with_array(pixels, target)


def resample_array(
    array: npt.NDArray[Any],
    source: Geometry,
    target: Geometry,
    *,
    order: Order = "linear",
    fill: float | None = 0.0,
    smooth: bool = True,
) -> npt.NDArray[Any]:
    """Returns (slice, row, column) pixels of the grid ``source`` on the grid ``target``.

    Args:
        array: pixels; the shape of ``source``.
        source: their grid.
        target: the wanted grid.
        order: "linear", "cubic", "sinc", or "nearest" (keeps the type of ``array``; the others give float32).
        fill: value outside the source; None continues the nearest pixel outwards.
        smooth: whether to smooth before pixels get larger (never with "nearest").

    Raises:
        GeometryError: shapes disagree, or unevenly spaced slices would have to be interpolated.
    """
    if array.shape != source.shape_zyx:
        raise GeometryError(f"the pixels have the shape {array.shape}, their grid says {source.shape_zyx}.")
    return resample_index(
        array, index_map(source, target), target.shape_zyx, order=order, fill=fill, smooth=smooth
    )


def index_map(source: Geometry, target: Geometry) -> FloatArray:
    """Returns the (4, 4) matrix that takes a target array index to the source array index at the same point.

    Raises:
        GeometryError: one grid is unevenly spaced and the slices of the two are not the same ones.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    nearest = np.round(matrix)
    matrix = np.where(np.abs(matrix - nearest) < _SNAP, nearest, matrix)
    if source.is_even and target.is_even:
        return matrix
    same_slices = (
        source.shape_zyx[0] == target.shape_zyx[0]
        and _keeps_slices(matrix)
        and np.allclose(_distances(source), _distances(target), atol=SAME_PLACE_TOLERANCE_MM)
    )
    if not same_slices:
        uneven = target if source.is_even else source
        raise GeometryError(
            f"interpolating between slices needs evenly spaced slices; found distances of "
            f"{uneven.spacing_text}. Use a 2D model for this scan, or export the complete series."
        )
    return matrix


def resample_index(
    array: npt.NDArray[Any],
    matrix: FloatArray,
    shape_zyx: tuple[int, int, int],
    *,
    order: Order = "linear",
    fill: float | None = 0.0,
    smooth: bool = True,
) -> npt.NDArray[Any]:
    """Returns the pixels at ``matrix @ (slice, row, column, 1)`` for each index of ``shape_zyx``.

    Args:
        array: (slice, row, column) source pixels.
        matrix: (4, 4) from target index to source index (see index_map).
        shape_zyx: shape of the result.
        order: "linear", "cubic", "sinc" or "nearest".
        fill: value outside; None continues the nearest pixel outwards.
        smooth: whether to smooth before pixels get larger (never with "nearest").
    """
    dtype = array.dtype if order == "nearest" else np.dtype(np.float32)
    if _is_whole_step(matrix) and (fill is not None or _stays_inside(matrix, array.shape, shape_zyx)):
        return _shifted(array, matrix, shape_zyx, 0.0 if fill is None else fill).astype(dtype, copy=False)
    if _keeps_slices(matrix) and array.shape[0] == shape_zyx[0]:
        result = np.empty(shape_zyx, dtype)
        for first in range(0, shape_zyx[0], SLICES_PER_CHUNK):
            part = slice(first, min(first + SLICES_PER_CHUNK, shape_zyx[0]))
            shape = (part.stop - part.start, shape_zyx[1], shape_zyx[2])
            result[part] = _interpolated(array[part], matrix, shape, order, fill, smooth)
        return result
    return _interpolated(array, matrix, shape_zyx, order, fill, smooth).astype(dtype, copy=False)


def _distances(geometry: Geometry) -> FloatArray:
    """Distance of each slice from the first, without sign: the normal turns round when rows are flipped."""
    return np.abs(geometry.positions_mm - geometry.positions_mm[0])


def _keeps_slices(matrix: FloatArray) -> bool:
    """Whether target slice k is source slice k and a slice's pixels move the same way in each slice."""
    return bool(np.array_equal(matrix[0], (1, 0, 0, 0)) and not matrix[1:3, 0].any())


def _is_whole_step(matrix: FloatArray) -> bool:
    """Whether the map only swaps, flips and shifts by whole pixels, so that no pixel value has to change."""
    linear = matrix[:3, :3]
    whole = np.array_equal(matrix[:3], np.round(matrix[:3]))
    return bool(
        whole and np.array_equal(np.abs(linear) @ np.ones(3), np.ones(3)) and abs(np.linalg.det(linear)) > 0.5
    )


def _stays_inside(matrix: FloatArray, source_shape: tuple[int, ...], shape: tuple[int, int, int]) -> bool:
    corners = np.stack([matrix[:3, 3], matrix[:3, :3] @ (np.array(shape) - 1) + matrix[:3, 3]])
    return bool((corners >= 0).all() and (corners <= np.array(source_shape) - 1).all())


def _shifted(
    array: npt.NDArray[Any], matrix: FloatArray, shape_zyx: tuple[int, int, int], fill: float
) -> npt.NDArray[Any]:
    """Swaps, flips and shifts by whole pixels."""
    axes = [int(np.argmax(np.abs(matrix[:3, axis]))) for axis in range(3)]
    turned = array.transpose(axes)
    result = np.full(shape_zyx, fill, dtype=array.dtype)
    source: list[slice] = []
    wanted: list[slice] = []
    for axis, origin in enumerate(axes):
        step, offset = int(matrix[origin, axis]), int(matrix[origin, 3])
        size, new = turned.shape[axis], shape_zyx[axis]
        # Target index t takes source index offset + step * t, which must lie in 0 .. size - 1.
        first, last = (-offset, size - 1 - offset) if step == 1 else (offset - size + 1, offset)
        first, last = max(0, first), min(new - 1, last)
        if last < first:
            return result
        begin, end = offset + step * first, offset + step * last
        source.append(slice(begin, end + 1) if step == 1 else slice(begin, end - 1 if end > 0 else None, -1))
        wanted.append(slice(first, last + 1))
    result[tuple(wanted)] = turned[tuple(source)]
    return result


def _interpolated(
    array: npt.NDArray[Any],
    matrix: FloatArray,
    shape_zyx: tuple[int, int, int],
    order: Order,
    fill: float | None,
    smooth: bool,
) -> npt.NDArray[Any]:
    if order == "linear" and (axes := parallel_axes(matrix)) is not None:
        return resample_parallel(array, matrix, axes, shape_zyx, fill=fill, smooth=smooth)
    if order == "nearest":
        # SimpleITK has no bool and no half floats; whole numbers keep their type.
        pixels = np.ascontiguousarray(array.view(np.uint8) if array.dtype == bool else array)
    else:
        pixels = np.ascontiguousarray(array, dtype=np.float32)
        if smooth:
            pixels = _smoothed(pixels, matrix)
    if order in ("cubic", "sinc") and _keeps_slices(matrix) and pixels.shape[0] == shape_zyx[0]:
        # Slices that stay where they are never lend each other grey values.
        return np.stack([_plane(plane, matrix, shape_zyx[1:], order, fill) for plane in pixels])
    if order == "cubic":
        pixels = _long_enough(pixels)
    resampled = _by_simpleitk(pixels, matrix[:3, :3], matrix[:3, 3], shape_zyx, order, fill)
    return resampled.astype(bool) if array.dtype == bool else resampled


def _plane(
    plane: npt.NDArray[np.float32],
    matrix: FloatArray,
    shape: tuple[int, int],
    order: Order,
    fill: float | None,
) -> npt.NDArray[np.float32]:
    """One slice on other rows and columns."""
    pixels = _long_enough(plane) if order == "cubic" else plane
    return _by_simpleitk(pixels, matrix[1:3, 1:3], matrix[1:3, 3], shape, order, fill)


def _by_simpleitk(
    pixels: npt.NDArray[Any],
    turn: FloatArray,
    shift: FloatArray,
    shape: tuple[int, ...],
    order: Order,
    fill: float | None,
) -> npt.NDArray[Any]:
    """Fills a grid of a shape: its index i takes the pixel at index ``turn @ i + shift``, in 2D and 3D."""
    # SimpleITK orders indices (column, row, slice); the images get unit grids, the transform carries the index map.
    transform = sitk.AffineTransform(turn[::-1, ::-1].ravel().tolist(), shift[::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in reversed(shape)])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(_INTERPOLATORS[order])
    resampler.SetDefaultPixelValue(0.0 if fill is None else float(fill))
    resampler.SetUseNearestNeighborExtrapolator(fill is None)
    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels))
    return np.asarray(sitk.GetArrayFromImage(resampler.Execute(image)))


def _long_enough(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Goes on with the last pixel along sides that are too short for a cubic B-spline."""
    missing = [(0, max(0, _FEWEST_FOR_CUBIC - n)) for n in pixels.shape]
    return np.pad(pixels, missing, mode="edge") if any(after for _, after in missing) else pixels


def _smoothed(pixels: npt.NDArray[np.float32], matrix: FloatArray) -> npt.NDArray[np.float32]:
    """Removes detail finer than the new pixels: sigma = (factor - 1) / 2 per axis, as in scikit-image."""
    # How far one step of the new grid goes along the source axis it runs along; what a tilted stack moves sideways from
    # slice to slice is no coarser sampling.
    linear = np.abs(matrix[:3, :3])
    order = max(permutations(range(3)), key=lambda axes: float(np.prod(linear[range(3), axes])))
    for axis, factor in enumerate(linear[range(3), order]):
        sigma = sigma_for(factor)
        if sigma and pixels.shape[axis] > 1:
            pixels = ndimage.gaussian_filter1d(pixels, sigma, axis=axis, mode="nearest", truncate=3.0)
    return pixels
