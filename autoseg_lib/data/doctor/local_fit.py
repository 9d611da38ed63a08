"""Which way a whole set of labels is turned, judged by what lies under each pixel alone.

Where every label of a set is turned the same way, no sample sticks out. But the labels then no longer lie on the tissue they
mean: grey values, edges and texture under a pixel tell less about its label than they could. So the labels are tried in
every way, and the one that the image itself predicts best, out of fold and without knowing any place, is the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg_lib.data.doctor.fit import Fitter, FloatArray, UInt8Array, _Lift, base_planes, each, one_hot
from autoseg_lib.data.doctor.planted import possible_transforms
from autoseg_lib.data.doctor.transforms import transformed

# Of the planes of a slice those that know neither place nor direction.
_LOCAL_PLANES = (0, 1, 2, 3, 11, 12, 13, 14, 15)
_PIXELS = 300
_MOST_SLICES = 600
_RIDGE = 1e-3
# How far, in standard errors, another way must fit better, and how much more of the labels it must explain. Of 27 planted
# turns of whole sets (CT of a liver, two sets of cardiac MR, drawn spines, hippocampi) these two find 24; three turns of the
# hippocampi, small volumes cut out around them, are missed. In the sets as they are no way gave more than -1.7 and -0.05.
_CLEAR_SIGMAS = 3.0
_CLEAR_SHARE = 0.05
# Slices next to each other are alike: about so many of them count as one.
_ALIKE_SLICES = 3
Version = Callable[[int, int], UInt8Array]


@dataclass(frozen=True)
class WholeSet:
    """How all labels should be turned.

    Attributes:
        transform: name of the transformation.
        gain: share of the labels' variation that is explained so, more than as stored.
        sigmas: gain in standard errors.
    """

    transform: str
    gain: float
    sigmas: float


def whole_set_transform(fitter: Fitter) -> WholeSet | None:
    """Returns the transformation that fits all labels clearly better than as they are stored, or None."""
    names = possible_transforms(fitter.units[0].label)
    for unit in fitter.units:
        names = [name for name in names if name in possible_transforms(unit.label)]
    versions: list[Version] = [lambda index, k: fitter.labels[index][k]]
    for name in names:
        versions.append(lambda index, k, name=name: transformed(fitter.labels[index][k], name))  # type: ignore[misc]
    losses, spread = _losses(fitter, versions)
    return _clearly_best(names, losses, spread)


def _clearly_best(names: Sequence[str], losses: FloatArray, spread: FloatArray) -> WholeSet | None:
    """Compares each way with the labels as stored."""
    best: WholeSet | None = None
    for number, name in enumerate(names, start=1):
        gain = (losses[:, 0] - losses[:, number]).astype(np.float64)
        share = float(gain.mean() / max(1e-6, float(spread.mean())))
        error = float(gain.std()) / (len(gain) / _ALIKE_SLICES) ** 0.5 + 1e-9
        found = WholeSet(name, share, float(gain.mean()) / error)
        if (
            found.sigmas > _CLEAR_SIGMAS
            and found.gain > _CLEAR_SHARE
            and (best is None or found.gain > best.gain)
        ):
            best = found
    return best


def _losses(fitter: Fitter, versions: Sequence[Version]) -> tuple[FloatArray, FloatArray]:
    """Returns how badly each version of the labels is predicted.

    Returns:
        (slice, version) mean squared error when the fit learns from that version, and the variation of the stored labels.
    """
    slices = [(index, k) for index, unit in enumerate(fitter.units) for k in range(len(unit.label))]
    if len(slices) > _MOST_SLICES:
        slices = [slices[k] for k in np.linspace(0, len(slices) - 1, _MOST_SLICES).round().astype(int)]

    def look(item: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        index, k = item
        rows, columns = fitter.boxes[index]
        planes = base_planes(fitter.units[index].image[k])[list(_LOCAL_PLANES), rows, columns]
        flat = planes.reshape(len(planes), -1)
        chosen = np.random.default_rng((5, index, k)).integers(0, flat.shape[1], _PIXELS)
        truths = [one_hot(version(index, k).ravel()[chosen], fitter.rois) for version in versions]
        return flat[:, chosen].T, np.stack(truths, axis=1)

    looked = each(look, slices)
    features = np.concatenate([item[0] for item in looked])
    truth = np.concatenate([item[1] for item in looked])
    owners = np.array([index for index, _ in slices], np.intp)
    fold = np.repeat(fitter.folds[owners], _PIXELS)
    lifted = _Lift(features, seed=3)(features)
    known = truth.reshape(len(truth), -1)
    grams, products = [], []
    folds = range(int(fitter.folds.max()) + 1)
    for number in folds:
        part = fold == number
        grams.append((lifted[part].T @ lifted[part]).astype(np.float64))
        products.append((lifted[part].T @ known[part]).astype(np.float64))
    gram, product = np.sum(grams, axis=0), np.sum(products, axis=0)
    ridge = (_RIDGE * np.trace(gram) / len(gram) + 1e-6) * np.eye(len(gram))
    expected = np.zeros_like(known)
    for number in folds:
        part = fold == number
        solved = np.linalg.solve(gram - grams[number] + ridge, product - products[number]).astype(np.float32)
        expected[part] = lifted[part] @ solved
    expected = expected.reshape(truth.shape)
    centered = truth[:, 0] - truth[:, 0].mean(axis=0)
    return _per_slice((truth - expected) ** 2), _per_slice((centered**2)[:, None])[:, 0]


def _per_slice(values: FloatArray) -> FloatArray:
    """Mean over the pixels of a slice, summed over ROIs: (slice × pixel, version, ROI) → (slice, version)."""
    summed = values.sum(axis=-1)
    means: FloatArray = summed.reshape(-1, _PIXELS, summed.shape[1]).mean(axis=1)
    return means
