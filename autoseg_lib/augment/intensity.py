"""Changes of grey values, alike for slices and patches. Random numbers are drawn first, then applied."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.augment.plan import AugmentPlan, SeedKey, generator

FloatPixels = npt.NDArray[np.float32]

# A Gaussian is cut off at so many standard deviations.
_BLUR_REACH = 3.0


@dataclass(frozen=True)
class IntensityDraw:
    """What happens to one sample; the values that change nothing are the defaults."""

    blur_px: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0


def draw_intensity(plan: AugmentPlan, random: np.random.Generator) -> IntensityDraw:
    """Returns the changes of one sample.

    All numbers are drawn whether used or not, so that one setting does not shift the random numbers of the
    next.
    """
    happens = random.random(5) < plan.probability
    size = random.random(5)
    sign = 2 * size - 1
    return IntensityDraw(
        blur_px=float(size[0] * plan.blur) if happens[0] else 0.0,
        gamma=float((1 + plan.gamma) ** sign[1]) if happens[1] else 1.0,
        contrast=float(1 + plan.contrast * sign[2]) if happens[2] else 1.0,
        brightness=float(plan.brightness * sign[3]) if happens[3] else 0.0,
        noise=float(size[4] * plan.noise) if happens[4] else 0.0,
        noise_seed=int(random.integers(2**31)),
    )


# Tells the random numbers of the second, third, ... channel's grey values from all others of the same sample.
_CHANNELS = 16


def draw_channels(
    plan: AugmentPlan, random: np.random.Generator, key: SeedKey, channels: int
) -> list[IntensityDraw]:
    """Returns the changes of each channel of one sample: images of two kinds do not become brighter together.

    Args:
        plan: how strongly.
        random: the sample's random numbers; the first channel takes them, as if it were alone.
        key: (seed, epoch, index) of the sample.
        channels: number of channels.
    """
    others = [draw_intensity(plan, generator(key, _CHANNELS + number)) for number in range(1, channels)]
    return [draw_intensity(plan, random), *others]


def apply_draw(image: FloatPixels, draw: IntensityDraw, *, planes: bool = False) -> FloatPixels:
    """Returns the image with its grey values changed; float32, the same shape.

    Brightness and noise are shares of the image's own range of values. A constant image stays as it is.

    Args:
        image: (slice, row, column) or (row, column); not changed.
        draw: what to do.
        planes: blur within the planes of rows and columns only, as where slices are channels.
    """
    low, high = float(image.min()), float(image.max())
    span = high - low
    if span <= 0:
        return image
    result = np.array(image, np.float32)  # a copy of our own, changed in place from here on
    if draw.blur_px > 0.1:  # less is no blur
        _blur(result, draw.blur_px, planes or image.ndim == 2)
    if draw.gamma != 1.0:
        # Blurred values lie within the range; rounding may put them just below, where a power is not defined.
        result -= np.float32(low)
        result *= np.float32(1 / span)
        flat = result.reshape(-1, result.shape[-1])
        cv2.pow(np.maximum(flat, 0, out=flat), draw.gamma, flat)
        result *= np.float32(span)
        result += np.float32(low)
    if draw.contrast != 1.0 or draw.brightness != 0.0:
        mean = float(result.mean())
        result *= np.float32(draw.contrast)
        result += np.float32(mean * (1 - draw.contrast) + draw.brightness * span)
    if draw.noise > 0:
        # OpenCV's normal numbers come five times as quickly as numpy's. Each thread has its own generator.
        noise = np.empty((image.size // image.shape[-1], image.shape[-1]), np.float32)
        cv2.setRNGSeed(draw.noise_seed)
        cv2.randn(noise, np.zeros(1), np.array([draw.noise * span]))
        result += noise.reshape(image.shape)
    return result


def _blur(image: FloatPixels, sigma: float, planes: bool) -> None:
    """Blurs in place; beyond the edge the image is mirrored."""
    size = 2 * int(_BLUR_REACH * sigma + 0.5) + 1
    weights = cv2.getGaussianKernel(size, sigma, cv2.CV_32F)
    none = np.ones(1, np.float32)
    if not planes:
        # Across the slices: each slice is one long row.
        rows = image.reshape(image.shape[0], -1)
        cv2.sepFilter2D(rows, -1, none, weights, rows, borderType=cv2.BORDER_REFLECT)
    for plane in image.reshape(-1, *image.shape[-2:]):
        cv2.sepFilter2D(plane, -1, weights, weights, plane, borderType=cv2.BORDER_REFLECT)
