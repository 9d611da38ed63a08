"""What comes out of predicting a scan."""

from __future__ import annotations

from dataclasses import dataclass

from autoseg_lib.infer.soft import SoftSlices
from autoseg_lib.volume import Mask


@dataclass(frozen=True)
class Prediction:
    """The answer to one scan.

    Attributes:
        mask: label values on the scan's own grid.
        soft: how soft the answer is, slice by slice; None where it was not counted.
        notes: what has to be said of how it came about, as sentences; usually none.
    """

    mask: Mask
    soft: SoftSlices | None = None
    notes: tuple[str, ...] = ()
