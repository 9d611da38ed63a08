"""Terms that compare ROIs as a whole. Each needs three sums per ROI, taken over the whole batch.

Over the batch, not per slice: in 2D many slices lack an ROI, and a batch is less often without it.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

# Salehi et al. 2017 (arXiv:1706.05721) found 0.3 and 0.7 best: a missed pixel costs more than a wrong one.
TVERSKY_WRONG, TVERSKY_MISSED = 0.3, 0.7


def roi_sums(probabilities: Tensor, target: Tensor, power: int) -> Tensor:
    """Returns (3, ROIs), background left out: overlap, predicted and true size of each ROI.

    Sums over all pixels of all samples. Several processes add theirs up before a term is computed from them,
    which then is the term of all their samples together.

    Args:
        probabilities: (batch, classes, ...), float32.
        target: (batch, 1, ...) label values.
        power: exponent of the probabilities in the predicted size.
    """
    labels = target[:, 0]
    overlap, predicted, true = [], [], []
    for value in range(1, probabilities.shape[1]):
        inside = labels == value
        soft = probabilities[:, value]
        overlap.append((soft * inside).sum())
        predicted.append((soft * soft if power == 2 else soft).sum())
        true.append(inside.sum().to(soft.dtype))
    return torch.stack([torch.stack(overlap), torch.stack(predicted), torch.stack(true)])


def dice(sums: Tensor) -> Tensor:
    """Returns 1 - mean soft Dice of the ROIs that occur, 0 best to 1 (Milletari et al. 2016).

    An ROI that no sample shows has no Dice: it is left out. With none at all the result is 0.

    Args:
        sums: see roi_sums.
    """
    overlap, predicted, true = sums
    return _mean_of_present(1 - 2 * overlap / _not_zero(predicted + true), true)


def tversky(sums: Tensor) -> Tensor:
    """Returns 1 - mean Tversky index of the ROIs that occur, 0 best to 1 (Salehi et al. 2017).

    Args:
        sums: see roi_sums, with power 1.
    """
    overlap, predicted, true = sums
    wrong, missed = predicted - overlap, true - overlap
    index = overlap / _not_zero(overlap + TVERSKY_WRONG * wrong + TVERSKY_MISSED * missed)
    return _mean_of_present(1 - index, true)


def generalized_dice(sums: Tensor) -> Tensor:
    """Returns 1 - generalized Dice: ROIs weighted by 1 / size², 0 best to 1 (Sudre et al. 2017).

    Args:
        sums: see roi_sums, with power 1.
    """
    overlap, predicted, true = sums
    present = true > 0
    # Shares of the largest weight: 1 / size² of a large organ is too small for float32.
    smallest = torch.where(present, true, torch.inf).min()
    weight = torch.where(present, (smallest / _not_zero(true)).square(), 0.0)
    score = 2 * (weight * overlap).sum() / _not_zero((weight * (predicted + true)).sum())
    return (1 - score) * present.any()


def _mean_of_present(values: Tensor, true: Tensor) -> Tensor:
    present = true > 0
    return (values * present).sum() / present.sum().clamp_min(1)


def _not_zero(value: Tensor) -> Tensor:
    return value.clamp_min(torch.finfo(value.dtype).tiny)
