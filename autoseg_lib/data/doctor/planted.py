"""How suspicious a label is, learnt from the set itself: labels as stored against the same labels with faults planted.

Nobody can say beforehand how well a label fits its image in a given set of scans: a liver fits to the pixel, the tip of a
ventricle hardly. So the set says it. For every sample some wrong labels are made (turned, taken from another sample,
renumbered); a logistic regression learns from a dozen measures of fit what tells them from the labels as stored. Most
stored labels are right, which is all that is assumed; those that look wrong are left out of the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from autoseg_lib.data.doctor.fit import Fit, Fitter, FloatArray, UInt8Array, each, fitted, one_hot
from autoseg_lib.data.doctor.transforms import TRANSFORMS, transformed

# A planted label counts as wrong where it overlaps the stored one less than this; above, nobody need find it.
WRONG_BELOW_DICE = 0.8
_LEAST_PROBABILITY = 0.005
_SQUARE_ONLY = ("rotate 90", "rotate 270", "transpose", "transpose other diagonal")
# Small displacements tried, in pixels of the small picture.
_NEAR = ((-2, 0), (2, 0), (0, 2), (0, -2))
_FAR = ((-5, 0), (5, 0), (0, 5), (0, -5), (3, 3), (-3, 3), (3, -3), (-3, -3))
_PARTS = 5
_RIDGE = 3.0

# The median absolute deviation of normally distributed numbers times this is their standard deviation.
MAD_TO_SIGMA = 1.4826


def possible_transforms(label: npt.NDArray[np.uint8]) -> list[str]:
    """Returns the transformations that keep the size of a (slice, row, column) label."""
    square = label.shape[-1] == label.shape[-2]
    return [name for name in TRANSFORMS if square or name not in _SQUARE_ONLY]


def overlap(first: UInt8Array, second: UInt8Array) -> float:
    """Returns the mean Dice of all ROIs of either label; 1 where both are empty."""
    top = int(max(first.max(initial=0), second.max(initial=0))) + 1
    both = np.bincount(first[first == second], minlength=top)[1:]
    sizes = np.bincount(first.ravel(), minlength=top)[1:] + np.bincount(second.ravel(), minlength=top)[1:]
    if not sizes.any():
        return 1.0
    return float(np.mean(2 * both[sizes > 0] / sizes[sizes > 0]))


def exchanged(label: UInt8Array, first: int, second: int) -> UInt8Array:
    """Returns a label with two ROI numbers exchanged."""
    table = np.arange(256, dtype=np.uint8)
    table[[first, second]] = second, first
    return table[label]


class Judge:
    """Measures how well labels fit one unit, by what the other units let one expect.

    Args:
        fitter: the set.
        fit: what is expected.
        index: which unit.
    """

    def __init__(self, fitter: Fitter, fit: Fit, index: int) -> None:
        self._rois = fitter.rois
        mixed = 0.85 * fit.transferred[index] + 0.15 * fit.expected[index]
        self._maps = (fit.expected[index], mixed, fit.first[index])
        self._logs = tuple(_logarithms(probability) for probability in self._maps)
        self._squares = [float(np.square(probability).sum()) for probability in self._maps]
        self.likeliest: UInt8Array = self._logs[0].argmax(axis=-1).astype(np.uint8)
        self._odds = tuple((logs[..., 1:] - logs[..., :1]).ravel() for logs in self._logs)
        self._nothing = tuple(float(logs[..., 0].sum()) for logs in self._logs)
        self._best = [self.likelihood(self.likeliest, layer) for layer in (0, 1)]
        self._area = float(self._maps[0].sum())
        self._doubt = (np.exp(self._logs[0]) * self._logs[0]).sum(axis=-1)
        self._similarity = fit.similarity[index]
        grey = fitter.crop(index, fitter.units[index].image).astype(np.float32)
        grey = (grey - grey.mean()) / (grey.std() + 1e-3)
        self._grey = grey
        self._steps = (np.diff(grey, axis=1), np.diff(grey, axis=2))
        self._roughness = float(np.mean([np.abs(step).mean() for step in self._steps if step.size])) + 1e-3

    def log_odds(self) -> FloatArray:
        """Returns (slice, row, column, ROI) the logarithm of each ROI's odds against background."""
        return self._logs[0][..., 1:] - self._logs[0][..., :1]

    def likelihood(self, label: UInt8Array, layer: int = 0) -> float:
        """Returns the logarithm of a label's probability, pixels taken on their own."""
        flat = label.ravel()
        drawn = np.flatnonzero(flat)
        return self._nothing[layer] + float(self._odds[layer][drawn * self._rois + (flat[drawn] - 1)].sum())

    def region_values(self, label: UInt8Array) -> FloatArray:
        """Returns (ROI as drawn, ROI number) how likely the pixels drawn as one ROI are those of each ROI."""
        table = np.zeros((self._rois, self._rois), np.float32)
        for drawn in range(1, self._rois + 1):
            inside = label == drawn
            if inside.any():
                table[drawn - 1] = self._logs[0][inside][:, 1:].sum(axis=0)
        return table

    def likelier_numbers(self, label: UInt8Array) -> dict[int, int]:
        """Returns which ROI each drawn region is most likely meant to be; nothing where that is how they are numbered."""
        drawn = [int(value) for value in np.unique(label) if value]
        if self._rois < 2 or not drawn:
            return {}
        table = self.region_values(label)[[value - 1 for value in drawn]]
        _, columns = linear_sum_assignment(-table)
        best = {old: int(column) + 1 for old, column in zip(drawn, columns, strict=True)}
        return {} if all(old == new for old, new in best.items()) else best

    def measures(self, label: UInt8Array) -> FloatArray:
        """Returns the measures of fit of one label (slice, row, column)."""
        drawn = label > 0
        hot = one_hot(label, self._rois)
        size = float(drawn.sum())
        either = drawn | (self.likeliest > 0)
        pixels = float(either.sum()) + 10
        found: list[float] = []
        for layer, probability in enumerate(self._maps):
            found.append((2 * float(np.vdot(probability, hot)) + 2) / (self._squares[layer] + size + 2))
            # Outside of both, the label is background: what is left of the whole sum is that of the region looked at.
            outside = self._nothing[layer] - float(self._logs[layer][..., 0][either].sum())
            found.append((self.likelihood(label, layer) - outside) / pixels)
        found.append(float(self._doubt[either].sum()) / pixels)
        own = [self.likelihood(label, layer) for layer in (0, 1)]
        found += [(self._best[0] - own[0]) / pixels, (self._best[0] - own[0]) / pixels**0.5]
        turned = [transformed(label, name) for name in possible_transforms(label)]
        for layer in (0, 1):
            gain = max(self.likelihood(other, layer) for other in turned) - own[layer]
            found.append(float(np.clip(gain / pixels, -3, 3)))
        for steps in (_NEAR, _FAR):
            gain = max(self.likelihood(np.roll(label, step, axis=(1, 2))) for step in steps) - own[0]
            found.append(float(np.clip(gain / pixels, -2, 2)))
        ratio = float(np.log((size + 5) / (self._area + 5)))
        found += [ratio, abs(ratio), *self._edges(drawn)]
        inside = self._grey[drawn]
        found += [float(inside.mean()), float(inside.std())] if inside.size else [0.0, 0.0]
        found.append(self._similarity)
        return np.array(found, np.float32)

    def _edges(self, drawn: npt.NDArray[np.bool_]) -> list[float]:
        """Returns how much brighter it gets going into the ROIs, and how much brightness changes at their outline."""
        inward = change = 0.0
        length = 4.0
        for axis, step in zip((1, 2), self._steps, strict=True):
            outline = np.diff(drawn.astype(np.float32), axis=axis)
            inward += float((outline * step).sum())
            change += float((np.abs(outline) * np.abs(step)).sum())
            length += float(np.abs(outline).sum())
        return [inward / length / self._roughness, change / length / self._roughness]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """How suspicious each stored label is.

    Attributes:
        scores: one per unit, about the logarithm of the odds that the label is wrong.
        limit: above it a label is accused.
        weights: 1 for units that look right, 0 for the others.
        power: share of planted labels above the limit.
        judges: one per unit.
        model: scores further labels.
    """

    scores: npt.NDArray[np.float64]
    limit: float
    weights: FloatArray
    power: float
    judges: list[Judge]
    model: _Model


class _Model:
    """Scores measures; units of one part are scored by what was learnt from the other parts."""

    def __init__(
        self, center: FloatArray, scale: FloatArray, coefficients: list[npt.NDArray[np.float64]]
    ) -> None:
        self._center, self._scale, self._coefficients = center, scale, coefficients

    def score(self, index: int, measures: FloatArray) -> float:
        """Returns the score of a label's measures for unit ``index``."""
        lifted = _lifted(measures[None], self._center, self._scale)
        return float((lifted @ self._coefficients[index % _PARTS])[0])


def judge_labels(fitter: Fitter, fit: Fit, weights: FloatArray, seed: int = 0) -> Verdicts:
    """Scores every stored label.

    Args:
        fitter: the set.
        fit: what is expected of each unit.
        weights: 0 for units already under suspicion.
        seed: draws the planted faults.
    """
    count = len(fitter.units)
    judges = each(lambda index: Judge(fitter, fit, index), range(count))
    stored = np.stack(each(lambda index: judges[index].measures(fitter.labels[index]), range(count)))

    def wrong(index: int) -> list[FloatArray]:
        generator = np.random.default_rng((seed, index))
        return [judges[index].measures(label) for label in _planted(fitter, index, generator)]

    planted_of = each(wrong, range(count))
    owner = np.repeat(np.arange(count), [len(item) for item in planted_of])
    if not owner.size:
        planted = np.zeros((0, stored.shape[1]), np.float32)
    else:
        planted = np.stack([measures for item in planted_of for measures in item])
    parts = np.arange(count) % _PARTS
    center = np.median(stored, axis=0)
    scale = np.maximum(
        MAD_TO_SIGMA * np.median(np.abs(stored - center), axis=0), 0.2 * stored.std(axis=0) + 1e-4
    )
    right, false = _lifted(stored, center, scale), _lifted(planted, center, scale)
    # The same renumbering in many labels must not be taken for how labels are in this set.
    plain = np.array([not judges[index].likelier_numbers(fitter.labels[index]) for index in range(count)])
    trusting = plain if plain.mean() > 0.5 else np.ones(count, bool)
    weights = weights * trusting.astype(np.float32)
    for _ in range(4):
        scores, found, coefficients = _cross_scores(right, false, owner, parts, weights)
        # At most four in ten are set aside: a set where more are wrong cannot tell right from wrong.
        weights = (scores <= max(-1.0, float(np.quantile(scores, 0.6)))).astype(np.float32)
        weights *= trusting
    trusted = found[weights[owner] > 0] if owner.size else found
    limit = _limit(scores, trusted)
    power = float(np.mean(trusted > limit)) if trusted.size else 0.0
    return Verdicts(scores, limit, weights, power, judges, _Model(center, scale, coefficients))


# Odds of being wrong at which a label is accused, as a logarithm: about 2 to 1, the share of wrong labels taken into account.
_SURE = 0.75
_LOWEST_LIMIT, _HIGHEST_LIMIT = 1.5, 4.5
# The share of wrong labels is taken to be at most this.
_MOST_WRONG = 0.45


def _limit(scores: npt.NDArray[np.float64], planted: npt.NDArray[np.float64]) -> float:
    """Returns the score above which a label is accused.

    The scores are logarithms of odds as if every second label were wrong. The share that really is follows from the scores
    themselves: it is the one at which the probabilities of all labels have it as their mean. With few wrong labels a high
    score is asked for, so that few right ones are accused; with many a lower one will do.
    """
    if not planted.size:
        return float("inf")
    share = 0.05
    for _ in range(50):
        odds = np.clip(scores + np.log(share / (1 - share)), -30, 30)
        share = float(np.clip(np.mean(1 / (1 + np.exp(-odds))), 1 / len(scores), _MOST_WRONG))
    return float(np.clip(np.log((1 - share) / share) + _SURE, _LOWEST_LIMIT, _HIGHEST_LIMIT))


def _planted(fitter: Fitter, index: int, generator: np.random.Generator) -> list[UInt8Array]:
    """Returns some wrong labels for a unit: two turned, two of other samples, one renumbered."""
    label = fitter.labels[index]
    names = possible_transforms(label)
    wrong = [transformed(label, names[k]) for k in generator.permutation(len(names))[:2]]
    others = [k for k in generator.permutation(len(fitter.units))[:3] if k != index][:2]
    wrong += [fitted(fitter.labels[k], label.shape) for k in others]
    values = [int(value) for value in np.unique(label) if value]
    if len(values) > 1:
        first, second = generator.choice(values, 2, replace=False)
        wrong.append(exchanged(label, int(first), int(second)))
    if len(values) > 3:  # two pairs, as when left and right are exchanged
        one, two, three, four = (int(value) for value in generator.choice(values, 4, replace=False))
        wrong.append(exchanged(exchanged(label, one, two), three, four))
    return [other for other in wrong if overlap(other, label) < WRONG_BELOW_DICE]


def _logarithms(probability: FloatArray) -> FloatArray:
    rest = 1 - probability.sum(axis=-1, keepdims=True)
    every = np.maximum(np.concatenate([rest, probability], axis=-1), _LEAST_PROBABILITY)
    logs: FloatArray = np.log(every / every.sum(axis=-1, keepdims=True))
    return logs


def _lifted(measures: FloatArray, center: FloatArray, scale: FloatArray) -> npt.NDArray[np.float64]:
    """Scales measures and adds their bends, so that "too much" and "too little" can count differently."""
    z = np.clip((measures - center) / scale, -6, 6).astype(np.float64)
    bends = [np.maximum(sign * z - at, 0) for at in (1, 3) for sign in (1, -1)]
    return np.concatenate([np.ones((len(z), 1)), z, *bends], axis=1)


def _cross_scores(
    right: npt.NDArray[np.float64],
    false: npt.NDArray[np.float64],
    owner: npt.NDArray[np.intp],
    parts: npt.NDArray[np.intp],
    weights: FloatArray,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[npt.NDArray[np.float64]]]:
    """Scores stored and planted labels by models that have not seen their unit."""
    scores, found = np.zeros(len(right)), np.zeros(len(false))
    coefficients = []
    for part in range(_PARTS):
        a, b = parts != part, parts[owner] != part
        heavy = weights[owner][b]
        balance = weights[a].sum() / max(1.0, float(heavy.sum()))
        fitted_to = _logistic(
            np.concatenate([right[a], false[b]]),
            np.concatenate([np.zeros(int(a.sum())), np.ones(int(b.sum()))]),
            np.concatenate([weights[a], heavy * balance]),
        )
        coefficients.append(fitted_to)
        scores[~a] = right[~a] @ fitted_to
        found[~b] = false[~b] @ fitted_to
    return scores, found, coefficients


def _logistic(
    features: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], weights: Sequence[float] | FloatArray
) -> npt.NDArray[np.float64]:
    """Logistic regression with a ridge, by Newton's method."""
    weight = np.asarray(weights, np.float64)
    coefficients = np.zeros(features.shape[1])
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[0] = 1e-6
    for _ in range(25):
        odds = 1 / (1 + np.exp(-np.clip(features @ coefficients, -30, 30)))
        slope = features.T @ (weight * (odds - truth)) + ridge * coefficients
        curve = (features * (weight * odds * (1 - odds) + 1e-6)[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        coefficients -= step
        if np.abs(step).max() < 1e-3:
            break
    return coefficients
