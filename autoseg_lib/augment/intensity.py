"""Changes of grey values, alike for slices and patches. Random numbers are drawn first, then applied."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.augment.plan import AugmentPlan

FloatPixels = npt.NDArray[np.float32]


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
        noise_seed=int(random.integers(2**63)),
    )


def apply_draw(image: FloatPixels, draw: IntensityDraw) -> FloatPixels:
    """Returns the image with its grey values changed; float32, the same shape (2D or 3D).

    Brightness and noise are shares of the image's own range of values. A constant image stays as it is.
    """
    low, high = float(image.min()), float(image.max())
    span = high - low
    if span <= 0:
        return image
    if draw.blur_px > 0.1:  # less is no blur
        image = _blurred(image, draw.blur_px)
    if draw.gamma != 1.0:
        unit = np.clip((image - low) / span, 0.0, 1.0)
        image = cv2.pow(unit, draw.gamma).reshape(image.shape) * span + low
    if draw.contrast != 1.0 or draw.brightness != 0.0:
        mean = float(image.mean())
        image = image * np.float32(draw.contrast) + np.float32(
            mean * (1 - draw.contrast) + draw.brightness * span
        )
    if draw.noise > 0:
        noise = np.random.default_rng(draw.noise_seed).standard_normal(image.shape, dtype=np.float32)
        image = image + noise * np.float32(draw.noise * span)
    return np.ascontiguousarray(image, dtype=np.float32)


def _blurred(image: FloatPixels, sigma: float) -> FloatPixels:
    if image.ndim == 2:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.float32)
    return ndimage.gaussian_filter(image, sigma, truncate=3.0)
