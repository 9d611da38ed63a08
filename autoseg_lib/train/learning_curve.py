"""How the score grows with the number of labelled scans, and what more of them would bring.

A model trained on n scans scores about a - b n^-c (a power law, as learning curves of networks are found to follow: Hestness
et al. 2017, arXiv:1712.00409; for this use see Viering & Loog 2023). Three or four points do not fix three numbers, so no
single curve is fitted: every curve within sensible bounds takes part as far as it agrees with the points, and the answer is
their middle and the range that holds nine tenths of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import counted

FEWEST_SIZES = 3
# A quarter must still be two patients, or the smallest training says nothing.
FEWEST_PATIENTS = 8
# By so much (standard deviation) the mean Dice of trainings on equally many, but other scans is taken to differ. Taken, not
# measured for the data at hand: that would need each training several times. benchmarks/few_scans.py prints each draw, and
# compares what was foretold with what was found.
NOISE = 0.012
# Exponents found for networks lie between 0.07 and 0.7 (Hestness et al.); with few medical scans the rise is often steeper.
_EXPONENTS = np.geomspace(0.1, 2.0, 40)
# The score that endless scans would give: above the best point (less its noise), at most 1.
_LIMITS = 60
# Range that is told: from the 5th to the 95th percentile.
_SHARE = 0.9
_DRAWS = 24


@dataclass(frozen=True)
class Gain:
    """What more labelled scans would bring.

    Attributes:
        now, then: numbers of scans.
        gain: expected rise of the score.
        low, high: range that holds the rise nine times in ten.
    """

    now: int
    then: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """All curves that agree with the points, each with its weight.

    Attributes:
        sizes, scores: the points.
        limit, drop, exponent: the curves: score(n) = limit - drop × (n / smallest size)^-exponent.
        weight: of each curve; they sum to 1.
    """

    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    limit: npt.NDArray[np.float64] = field(repr=False)
    drop: npt.NDArray[np.float64] = field(repr=False)
    exponent: npt.NDArray[np.float64] = field(repr=False)
    weight: npt.NDArray[np.float64] = field(repr=False)

    def score(self, scans: int) -> tuple[float, float, float]:
        """Returns the expected score with so many scans, and its range (low, high)."""
        return self._range(self.limit - self._below(scans))

    def gain(self, now: int, then: int) -> Gain:
        """Returns what ``then`` scans instead of ``now`` would bring."""
        return Gain(now, then, *self._range(self._below(now) - self._below(then)))

    def _below(self, scans: int) -> npt.NDArray[np.float64]:
        """How far each curve is below its limit."""
        below: npt.NDArray[np.float64] = self.drop * (scans / self.sizes[0]) ** -self.exponent
        return below

    def sentence(self, now: int, then: int, what: str = "scan") -> str:
        """Says what more scans would bring, and how sure that is.

        Args:
            now: scans the model learned from.
            then: scans it would learn from.
            what: "scan" or "patient".
        """
        gain = self.gain(now, then)
        sizes = [str(size) for size in self.sizes]
        source = f"judged from trainings on {', '.join(sizes[:-1])} and {sizes[-1]} of your {what}s"
        if gain.high < 0.005:
            return (
                f"Labelling {counted(then - now, f'more {what}')} would hardly change the mean Dice (at most by "
                f"{gain.high:.3f}; {source})."
            )
        return (
            f"Labelling {counted(then - now, f'more {what}')} ({then} instead of {now} to learn from) would raise the mean Dice by "
            f"about {gain.gain:.3f} (nine times in ten between {gain.low:.3f} and {gain.high:.3f}; {source})."
        )

    def _range(self, values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        """Median and ends of the middle nine tenths."""
        order = np.argsort(values)
        share = np.cumsum(self.weight[order]) - 0.5 * self.weight[order]
        low, high = (1 - _SHARE) / 2, (1 + _SHARE) / 2
        middle, first, last = np.interp([0.5, low, high], share, values[order])
        return float(middle), float(first), float(last)


def fit_learning_curve(
    sizes: Sequence[int], scores: Sequence[float], noise: float = NOISE, seed: int = 0
) -> LearningCurve:
    """Weighs all curves by how well they agree with the points.

    Args:
        sizes: numbers of scans, in any order; at least three different ones.
        scores: mean Dice reached with them, 0 to 1.
        noise: by how much the score of equal trainings differs (standard deviation).
        seed: start of the random draws.

    Raises:
        ValueError: fewer than three different sizes.
    """
    if len(set(sizes)) < FEWEST_SIZES or len(sizes) != len(scores):
        raise ValueError(f"a learning curve needs scores for at least {FEWEST_SIZES} numbers of scans")
    n, y = np.asarray(sizes, dtype=float), np.asarray(scores, dtype=float)
    order = np.argsort(n, kind="stable")
    n, y = n[order], y[order]
    grid = np.meshgrid(_EXPONENTS, np.linspace(min(1.0, y.max() - noise), 1.0, _LIMITS))
    exponent, limit = grid[0].ravel(), grid[1].ravel()
    # For a given limit and exponent the drop is one number: the slope of a straight line through the origin.
    power = (n[None, :] / n[0]) ** -exponent[:, None]
    below = limit[:, None] - y[None, :]
    square = (power**2).sum(axis=1)
    best = (power * below).sum(axis=1) / square
    spread = noise / np.sqrt(square)
    misfit = ((below - best[:, None] * power) ** 2).sum(axis=1)
    # It is drawn as far as the noise leaves it open; a negative one (more scans, lower score) is not drawn.
    random = np.random.default_rng(seed)
    drop = (best[:, None] + spread[:, None] * random.standard_normal((len(best), _DRAWS))).ravel()
    # What even the best drop leaves unexplained, and how wide the range of drops is, weighs limit and exponent.
    weight = np.repeat(np.exp(-0.5 * (misfit - misfit.min()) / noise**2) * spread, _DRAWS)
    chosen = drop >= 0
    return LearningCurve(
        sizes=tuple(int(v) for v in n),
        scores=tuple(float(v) for v in y),
        limit=np.repeat(limit, _DRAWS)[chosen],
        drop=drop[chosen],
        exponent=np.repeat(exponent, _DRAWS)[chosen],
        weight=weight[chosen] / weight[chosen].sum(),
    )
