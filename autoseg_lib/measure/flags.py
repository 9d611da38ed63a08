"""Do not trust: reasons to look at a slice or a scan again, each in plain words.

Nothing is flagged without a reason that a reader can check in the picture. Every limit is a named constant, or was learned
from the training scans and is kept in the model file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.calibration import Calibration
from autoseg_lib.measure.softness import SoftCounts
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.volume import Mask, Volume


@dataclass(frozen=True)
class ScanFacts:
    """What flags need to know of a scan beside its measurements; made by ``scan_facts``.

    Attributes:
        geometry: its own grid.
        modality: DICOM's word, "" where unknown.
        grey: numbers on its grey values, see scan_facts.
    """

    geometry: Geometry
    modality: str
    grey: dict[str, float]


def scan_facts(volume: Volume, mask: Mask) -> ScanFacts:
    """Returns what flags need to know of a scan and the answer for it."""
    raise NotImplementedError


@dataclass(frozen=True)
class TrainingFacts:
    """What the training scans were like: ranges over all of them, of no single one; kept in the model file's "data"."""

    table: dict[str, Any]

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> TrainingFacts:
        """Returns the facts of a model file; those that an older file does not tell are not compared."""
        raise NotImplementedError


def add_flags(
    rows: Sequence[SliceMeasurement],
    volumes: Sequence[VolumeMeasurement],
    scan: ScanFacts,
    training: TrainingFacts,
    labels: LabelTable,
    soft: SoftCounts | None = None,
    calibration: Calibration | None = None,
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement], tuple[str, ...]]:
    """Fills ``flag`` of rows and volumes, after ``add_intervals``.

    Args:
        rows: of measurements.csv, slice by slice, ROIs in label order.
        volumes: of volumes.csv, ROIs in label order.
        scan: see scan_facts.
        training: of the model file.
        labels: the ROIs.
        soft: likely and sure pixels, where there are any.
        calibration: of the model file.

    Returns:
        rows and volumes with reasons joined by "; ", and the reasons not to trust the scan as a whole.
    """
    raise NotImplementedError
