"""Grey values on one scale: how they are clipped, centred and scaled is decided once, from the training data.

CT: numbers mean the same in every scan (HU), so one window and one scale hold for all; as in nnU-Net (Isensee
    et al. 2021,
Nature Methods 18, 203–211) the window is the 0.5 to 99.5 percentile of the ROI pixels, with their mean and
deviation. MR and others: numbers mean nothing across scans, so each slice (2D) or scan (3D) is scaled by its
own values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, ModelError
from autoseg_lib.volume import Mask, Volume

FloatPixels = npt.NDArray[np.float32]

# nnU-Net's percentiles for CT; the same cut off the few very bright pixels of MR (vessels, coil edges).
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5

# Below this a deviation counts as none (a constant image).
_SMALLEST_DEVIATION = 1e-6

# Pixels kept per case for the statistics of a window: 99.5 % of 10 000 leaves 50 pixels above.
VALUES_PER_CASE = 10_000

KINDS = ("percentile", "zscore", "window")


@dataclass(frozen=True)
class IntensityPlan:
    """How grey values become network input; kept in the model file.

    Attributes:
        kind: "percentile" (clip at percentiles of the image, then its own mean and deviation), "zscore" (the
            same without clipping) or "window" (clip at low/high, then a fixed mean and deviation).
        low: window's lower end in the image's units; for "percentile" the lower percentile.
        high: upper end, likewise.
        mean: of the training pixels ("window" only).
        deviation: of the training pixels ("window" only).
    """

    kind: Literal["percentile", "zscore", "window"]
    low: float = LOW_PERCENTILE
    high: float = HIGH_PERCENTILE
    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.mean, self.deviation)
        if (
            self.kind not in KINDS
            or not np.isfinite(numbers).all()
            or self.low >= self.high
            or self.deviation <= 0
        ):
            raise ModelError(
                f"intensity: expected one of {', '.join(KINDS)} with finite numbers, low below high and a deviation above 0, "
                f"found {asdict(self)}."
            )
        if self.kind == "percentile" and not 0 <= self.low < self.high <= 100:
            raise ModelError(
                f'intensity: kind = "percentile" takes percentiles from 0 to 100, found low = {self.low:g} and high = {self.high:g}. '
                'For grey values set kind = "window".'
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> IntensityPlan:
        """Returns the plan that ``to_dict`` wrote.

        Raises:
            ModelError: keys or values are not those of a plan.
        """
        try:
            return cls(table["kind"], *(float(table[key]) for key in ("low", "high", "mean", "deviation")))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"intensity: the model's settings are incomplete ({error}).") from None

    @property
    def text(self) -> str:
        """One phrase for a table: what is done."""
        if self.kind == "window":
            return (
                f"window {self.low:g} to {self.high:g}, mean {self.mean:.1f}, deviation {self.deviation:.1f}"
            )
        clip = (
            f"clipped at percentiles {self.low:g} and {self.high:g}, then "
            if self.kind == "percentile"
            else ""
        )
        return f"{clip}mean 0 and deviation 1 of each image"


def foreground_values(volume: Volume, mask: Mask, seed: int = 0) -> FloatPixels:
    """Returns up to VALUES_PER_CASE finite grey values of pixels inside any ROI, the same ones for the same
    seed.

    Args:
        volume: the scan.
        mask: its labels, same shape.
        seed: start of the random choice.
    """
    values = volume.array[mask.array > 0].astype(np.float32)
    values = values[np.isfinite(values)]
    if values.size > VALUES_PER_CASE:
        values = np.random.default_rng(seed).choice(values, VALUES_PER_CASE, replace=False)
    return values


def fit_intensity(
    samples: Iterable[npt.NDArray[Any]],
    modality: str,
    setting: str | list[float] | tuple[float, float] = "auto",
) -> IntensityPlan:
    """Decides how grey values are normalised.

    Args:
        samples: grey values of ROI pixels, one array a training case (see foreground_values).
        modality: "CT", "MR", ... of the training scans.
        setting: "auto" (CT: window, else percentile), "percentile", "zscore", "window", or a window [low,
            high].

    Raises:
        DataError: a window is asked for and no pixel lies in any ROI.
    """
    given = None if isinstance(setting, str) else (float(setting[0]), float(setting[1]))
    kind = setting if isinstance(setting, str) else "window"
    if kind in ("percentile", "zscore") or (kind == "auto" and modality.upper() != "CT"):
        return IntensityPlan("zscore") if kind == "zscore" else IntensityPlan("percentile")
    parts = [np.asarray(part, dtype=np.float64).ravel() for part in samples]
    values = np.concatenate(parts) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    if values.size == 0:
        if kind == "auto":
            return IntensityPlan("percentile")
        if given is None:
            raise DataError(
                'intensity = "window": it is taken from the pixels inside ROIs, and the labels mark none. '
                "Check the labels, or give a window [low, high]."
            )
        return IntensityPlan("window", *given, mean=sum(given) / 2, deviation=(given[1] - given[0]) / 4)
    low, high = given or (float(v) for v in np.percentile(values, (LOW_PERCENTILE, HIGH_PERCENTILE)))
    if high - low < _SMALLEST_DEVIATION:
        high = low + 1.0
    clipped = np.clip(values, low, high)
    deviation = float(clipped.std())
    if deviation < _SMALLEST_DEVIATION:
        deviation = (high - low) / 4
    return IntensityPlan("window", low, high, float(clipped.mean()), deviation)


def apply_intensity(array: npt.NDArray[Any], plan: IntensityPlan, *, per_slice: bool) -> FloatPixels:
    """Returns the pixels normalised.

    Args:
        array: (slice, row, column) pixels; NaN and infinite ones count as the smallest finite one.
        plan: what to do.
        per_slice: whether each slice is scaled by its own values (2D) or the scan as a whole (3D). A window
            is the same either way.

    Returns:
        float32, the same shape; a constant image becomes 0.
    """
    pixels = array.astype(np.float32)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        finite = np.isfinite(pixels)
        pixels[~finite] = pixels[finite].min() if finite.any() else 0.0
    if plan.kind == "window":
        np.clip(pixels, plan.low, plan.high, out=pixels)
        pixels -= plan.mean
        pixels /= plan.deviation
        return pixels
    for part in pixels if per_slice else [pixels]:
        if plan.kind == "percentile":
            low, high = np.percentile(part, (plan.low, plan.high))
            np.clip(part, low, high, out=part)
        part -= part.mean(dtype=np.float64)
        deviation = float(part.std(dtype=np.float64))
        if deviation > _SMALLEST_DEVIATION:
            part /= deviation
        else:
            part[:] = 0.0
    return pixels
