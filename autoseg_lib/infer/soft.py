"""How soft the model's answer is: pixels that are likely an ROI, and pixels that surely are.

A pixel where mirrored images, folds or models disagree has an averaged probability between those limits, so a soft boundary
and disagreement both widen the distance between the two counts. The error bars of areas and volumes are made from it
(``measure/calibration.py``), and so is the flag for slices that are probably wrong (``measure/flags.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError

# Half way between "not the ROI" and "as likely as not", and the same on the other side: the quartiles of a pixel's answer.
LIKELY, SURE = 0.25, 0.75


@dataclass(frozen=True)
class SoftSlices:
    """Pixels of the scan's own grid by how probable each ROI is there.

    Attributes:
        likely: (slices, ROIs) pixels with a probability of the ROI of at least ``LIKELY``, ROIs in label order.
        sure: the same with at least ``SURE``.

    Raises:
        DataError: the two tables do not fit each other.
    """

    likely: npt.NDArray[np.int64]
    sure: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.likely.ndim != 2 or self.likely.shape != self.sure.shape:
            raise DataError(
                f"soft counts: found tables of {self.likely.shape} and {self.sure.shape}; two tables (slices, ROIs) of the same "
                "shape are expected."
            )
        if (self.sure < 0).any() or (self.likely < self.sure).any():
            raise DataError(
                "soft counts: found more sure than likely pixels; every sure pixel is a likely one."
            )
