"""Split conformal prediction for slices that come in patients: how large an error must be allowed for.

The slices of one patient are alike, so they are not so many independent observations. Each patient has the same weight, shared
by the patient's slices, and one further patient counts with an error as large as can be: the pooled (hierarchical) conformal
quantile of Dunn, Wasserman & Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA 2022, and Lee,
Barber & Willett, "Distribution-free inference with hierarchical data", 2023. For a slice drawn from a new patient of the same
kind, the error is at most this quantile with at least the probability asked for, whatever the errors' distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Sums of fractions such as 18 × 1/20 must not miss 0.9 by rounding.
_ROUNDING = 1e-9


def pooled_quantile(errors: Sequence[npt.NDArray[np.float64]], level: float) -> float:
    """Returns the error that a slice of a new patient stays within, with probability ``level`` or more.

    Args:
        errors: of each patient the errors of the slices, any number of them; patients without slices do not count.
        level: e.g. 0.9.

    Returns:
        one of the errors, or infinity where there are too few patients for the level (fewer than 9 for 0.9).
    """
    filled = [np.asarray(part, dtype=np.float64).ravel() for part in errors if np.size(part)]
    if not filled:
        return math.inf
    values = np.concatenate(filled)
    weights = np.concatenate([np.full(part.size, 1.0 / ((len(filled) + 1) * part.size)) for part in filled])
    order = np.argsort(values, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - _ROUNDING)
    return float(values[order][reached[0]]) if reached.size else math.inf
