"""Grey values inside the ROIs: mean, spread, share in a window, fat fraction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.geometry import FloatArray
from autoseg_lib.volume import Mask, Volume


@dataclass(frozen=True)
class GreyValues:
    """Grey values of each label of one slice, index 0 the background; nan where there are none.

    Attributes:
        mean: mean.
        deviation: standard deviation (n - 1).
        in_window_percent: share of the pixels in the window.
        fat_percent: fat fraction.
    """

    mean: FloatArray
    deviation: FloatArray
    in_window_percent: FloatArray
    fat_percent: FloatArray


def check_images(
    mask: Mask, image: Volume | None, fat_image: Volume | None, window: tuple[float, float] | None, case: str
) -> None:
    """Refuses images that do not lie on the mask's grid, and a window without an image or upside down.

    Raises:
        DataError: an image lies on another grid, or the fat image is alone.
        SettingsError: the window ends before it begins.
    """
    for what, volume in (("image", image), ("fat image", fat_image)):
        if volume is not None and not volume.geometry.is_same_grid(mask.geometry):
            raise DataError(
                f"'{case}': the {what} has {volume.geometry.shape_zyx} pixels and its own place, the mask "
                f"{mask.geometry.shape_zyx}; grey values are measured where both lie on the same grid. Resample "
                "the image onto the mask's grid first."
            )
    if fat_image is not None and image is None:
        raise DataError(
            f"'{case}': found a fat image without its water image; a fat fraction needs both. Give the water image too."
        )
    if window is not None and not window[0] <= window[1]:
        raise SettingsError(
            f"tissue_window: found {window[0]:g} to {window[1]:g}; the lower value comes first. Swap them."
        )


def measure_grey_values(
    values: npt.NDArray[np.integer],
    grey: npt.NDArray[np.generic] | None,
    fat: npt.NDArray[np.generic] | None,
    window: tuple[float, float] | None,
    count: int,
) -> GreyValues:
    """Measures the pixels of one slice, all labels at once.

    Args:
        values: (n,) label of each pixel.
        grey: (n,) its grey value (of the water image for a Dixon pair), or None.
        fat: (n,) its value in the fat image, or None.
        window: lowest and highest grey value of the tissue, both included, or None.
        count: number of labels and the background.

    Pixels without a number (nan, infinite) are left out.
    """
    nothing = np.full(count, np.nan)
    if grey is None:
        return GreyValues(nothing, nothing, nothing, nothing)
    numbers = np.asarray(grey, dtype=np.float64)
    labels, known = (
        values,
        np.isfinite(numbers) if grey.dtype.kind == "f" else np.ones(len(numbers), np.bool_),
    )
    if not known.all():
        labels, numbers = values[known], numbers[known]
    with np.errstate(invalid="ignore", divide="ignore"):
        pixels = np.bincount(labels, minlength=count)
        mean = np.bincount(labels, numbers, count) / pixels
        # Around the mean, in a second pass: a difference of large sums would lose digits.
        spread = np.bincount(labels, (numbers - mean[labels]) ** 2, count)
        deviation = np.where(pixels > 1, np.sqrt(spread / (pixels - 1)), np.nan)
        share = nothing
        if window is not None:
            inside = (numbers >= window[0]) & (numbers <= window[1])
            share = 100 * np.bincount(labels, inside, count) / pixels
        fraction = nothing
        if fat is not None:
            fat_numbers = np.asarray(fat, dtype=np.float64)[known]
            both = np.isfinite(fat_numbers)
            fats = np.bincount(labels[both], fat_numbers[both], count)
            waters = np.bincount(labels[both], numbers[both], count)
            total = fats + waters
            fraction = np.where(total > 0, 100 * fats / total, np.nan)
    return GreyValues(mean, deviation, share, fraction)
