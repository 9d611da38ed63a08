"""Terms that are added up pixel by pixel, from the probability of the true label alone."""

from __future__ import annotations

import torch

Tensor = torch.Tensor

# Lin et al. 2017.
FOCAL_EXPONENT = 2
# Distances from the border are counted up to so many pixels: beyond, a wrong pixel is as bad as it gets.
BORDER_REACH = 5


def cross_entropy(log_true: Tensor, target: Tensor) -> Tensor:
    """Returns the mean cross-entropy, background included.

    Args:
        log_true: (batch, 1, ...) logarithm of the probability given to the true label.
        target: (batch, 1, ...) label values; unused.
    """
    return -log_true.mean()


def focal(log_true: Tensor, target: Tensor) -> Tensor:
    """Returns the mean focal loss: cross-entropy in which what is learned already counts little (Lin et al. 2017).

    Args: see cross_entropy.
    """
    return -((1 - log_true.exp()) ** FOCAL_EXPONENT * log_true).mean()


def boundary(log_true: Tensor, target: Tensor) -> Tensor:
    """Returns the mean share of wrong labelling, each pixel weighted by its distance from the labels' border.

    With one ROI this is the boundary loss of Kervadec et al. 2019 (arXiv:1812.07032) but for a constant, with
    distances that end at BORDER_REACH. MONAI's HausdorffDTLoss needs a distance map of the prediction in
    every step, which takes longer on a CPU than the step itself.

    Args: see cross_entropy.
    """
    return ((1 - log_true.exp()) * border_distance(target)).mean()


def border_distance(target: Tensor) -> Tensor:
    """Returns each pixel's distance from the nearest border between two label values, as a share of BORDER_REACH.

    0 for pixels that touch another label across a side; pixels far from any border 1. Exact Euclidean
    distances in pixels, axis by axis (Felzenszwalb & Huttenlocher 2012), cut off at BORDER_REACH.

    Args:
        target: (batch, 1, ...) label values.
    """
    far = BORDER_REACH**2
    labels = target.to(torch.uint8)
    squared = torch.full_like(labels, far)
    for axis in range(2, labels.ndim):
        count = labels.shape[axis] - 1
        differs = labels.narrow(axis, 0, count) != labels.narrow(axis, 1, count)
        squared.narrow(axis, 0, count).masked_fill_(differs, 0)
        squared.narrow(axis, 1, count).masked_fill_(differs, 0)
    for axis in range(2, labels.ndim):
        before = squared.clone()
        for step in range(1, min(BORDER_REACH, labels.shape[axis])):
            count = labels.shape[axis] - step
            for to, start in ((0, step), (step, 0)):
                nearest = squared.narrow(axis, to, count)
                torch.minimum(nearest, before.narrow(axis, start, count) + step**2, out=nearest)
    return squared.float().sqrt() / BORDER_REACH
