"""How good is the model now: whole validation scans through the predictor that test.ipynb uses, scored on their own grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.events import StopFlag, nobody
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.calibration import CalibrationScan
from autoseg_lib.metrics.overlap import dice_per_roi
from autoseg_lib.metrics.surface import surface_distances, why_no_distances
from autoseg_lib.preprocess.pipeline import lay_back
from autoseg_lib.volume import Mask, Volume


@dataclass(frozen=True)
class ValidationScan:
    """A scan kept back from training, with its truth; ``patient`` is the same for scans of one patient."""

    name: str
    volume: Volume = field(repr=False)
    mask: Mask = field(repr=False)
    slice_names: tuple[str, ...] = ()
    patient: str = ""


@dataclass(frozen=True)
class CaseScore:
    """Scores of one scan and its slice to look at.

    Attributes:
        name: the scan.
        loss: soft Dice loss on the network's grid (of the part that a crop leaves), 0 best to 1; NaN in a thorough look.
        dice: Dice per ROI on the scan's own grid; None where neither truth nor prediction holds it.
        area_error_percent: per ROI, mean absolute difference of the areas, in percent of the mean true area; None where
            the truth does not hold it.
        slice_index: the slice with the most wrong pixels.
        image, truth, prediction: that slice.
        hd95_mm: per ROI, the larger of the two directed 95th percentiles of the surfaces' distances; None where one of them
            is empty or the scan does not say how large it is. Empty unless asked for.
        answer: the whole scan's prediction on its own grid. None unless asked for.
        counts: pixels of label and answer slice by slice, to calibrate error bars on. None unless asked for.
    """

    name: str
    loss: float
    dice: tuple[float | None, ...]
    area_error_percent: tuple[float | None, ...]
    slice_index: int
    image: npt.NDArray[np.generic] = field(repr=False)
    truth: npt.NDArray[np.unsignedinteger] = field(repr=False)
    prediction: npt.NDArray[np.unsignedinteger] = field(repr=False)
    hd95_mm: tuple[float | None, ...] = ()
    answer: npt.NDArray[np.unsignedinteger] | None = field(default=None, repr=False)
    counts: CalibrationScan | None = field(default=None, repr=False)

    @property
    def mean_dice(self) -> float:
        """Mean over the ROIs that truth or prediction hold; 1 where there is nothing to find and nothing was found."""
        present = [value for value in self.dice if value is not None]
        return float(np.mean(present)) if present else 1.0


# Everything of a CaseScore that is a number, or says whose.
_NUMBERS = ("name", "loss", "dice", "area_error_percent", "slice_index", "hd95_mm")


@dataclass(frozen=True)
class Scores:
    """Scores of all validation scans."""

    cases: tuple[CaseScore, ...]

    @property
    def loss(self) -> float:
        """Mean soft Dice loss."""
        return float(np.mean([case.loss for case in self.cases]))

    @property
    def per_roi(self) -> tuple[float | None, ...]:
        """Mean Dice of each ROI over the scans that hold it; None where none does."""
        return tuple(_mean([case.dice[i] for case in self.cases]) for i in range(len(self.cases[0].dice)))

    @property
    def sd_per_roi(self) -> tuple[float | None, ...]:
        """Standard deviation (n - 1) of each ROI's Dice over the scans; None with fewer than two."""
        columns = [
            [c.dice[i] for c in self.cases if c.dice[i] is not None] for i in range(len(self.cases[0].dice))
        ]
        return tuple(
            float(np.std(np.array(column, dtype=float), ddof=1)) if len(column) > 1 else None
            for column in columns
        )

    @property
    def area_error_per_roi(self) -> tuple[float | None, ...]:
        """Mean area error of each ROI over the scans, in percent."""
        return tuple(
            _mean([case.area_error_percent[i] for case in self.cases]) for i in range(len(self.cases[0].dice))
        )

    @property
    def hd95_per_roi(self) -> tuple[float | None, ...]:
        """Mean 95th percentile of the surfaces' distances of each ROI over the scans, in mm; None where it was not measured."""
        return tuple(
            _mean([case.hd95_mm[i] for case in self.cases if case.hd95_mm])
            for i in range(len(self.cases[0].dice))
        )

    @property
    def mean(self) -> float:
        """Mean of ``per_roi``."""
        value = _mean(list(self.per_roi))
        return 0.0 if value is None else value

    def to_plain(self) -> list[dict[str, Any]]:
        """Returns the numbers without the pictures, for the resume file."""
        return [{name: getattr(case, name) for name in _NUMBERS} for case in self.cases]

    @classmethod
    def from_plain(cls, cases: list[dict[str, Any]]) -> Scores | None:
        """Returns what ``to_plain`` gave, with empty pictures; None where there was no scan."""
        empty = np.zeros((1, 1), dtype=np.uint8)
        scores = tuple(CaseScore(**case, image=empty, truth=empty, prediction=empty) for case in cases)
        return cls(scores) if scores else None


def validate(
    predictor: Predictor, scans: Iterable[ValidationScan], labels: LabelTable, stop: StopFlag | None = None
) -> Scores | None:
    """Scores every scan.

    Args:
        predictor: the network with its preprocessing.
        scans: kept-back scans; may be a generator that reads them one at a time.
        labels: the ROIs.
        stop: asked between batches.

    Returns:
        the scores, or None without scans.

    Raises:
        Stopped: ``stop`` was set.
    """
    cases = tuple(score_case(predictor, scan, labels, stop) for scan in scans)
    return Scores(cases) if cases else None


def score_case(
    predictor: Predictor,
    scan: ValidationScan,
    labels: LabelTable,
    stop: StopFlag | None = None,
    *,
    thorough: bool = False,
) -> CaseScore:
    """Predicts and scores one scan.

    Args:
        predictor: the network with its preprocessing.
        scan: the scan and its truth.
        labels: the ROIs.
        stop: asked between batches.
        thorough: predicts just as segmenting does, also measures distances, and keeps the whole answer.

    Raises:
        DataError, GeometryError: the scan does not suit the preprocessing, such as a crop that leaves nothing.
        ModelError: a lab's own step failed, or the network's answer is not a number.
        Stopped: ``stop`` was set.
    """
    counts = None
    if thorough:
        loss, answer = float("nan"), predictor.predict_soft(scan.volume, nobody, stop)
        prediction = answer.mask.array
        if answer.soft is not None:
            counts = CalibrationScan.compare(
                scan.mask, answer.mask, answer.soft, labels, scan.name, scan.patient
            )
    else:
        steps = predictor.preprocessing
        part, box = steps.start(scan.volume)
        probabilities = predictor.probabilities(part, nobody, stop)
        truth_on_grid = steps.prepare_mask(scan.mask if box is None else scan.mask.cut(box))
        loss = soft_dice_loss(probabilities, truth_on_grid.array)
        found = steps.restore(probabilities, part.geometry)
        prediction = lay_back(found, box, scan.volume.geometry.shape_zyx)
    truth = scan.mask.array
    dice = dice_per_roi(truth, prediction, labels)
    wrong = np.count_nonzero(truth != prediction, axis=(1, 2))
    worst = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(np.count_nonzero(truth, axis=(1, 2))))
    return CaseScore(
        name=scan.name,
        loss=loss,
        dice=tuple(dice),
        area_error_percent=tuple(_area_error(truth, prediction, value) for value in labels.values),
        slice_index=worst,
        image=scan.volume.array[worst],
        truth=truth[worst],
        prediction=prediction[worst],
        hd95_mm=_distances(scan.mask, prediction, labels) if thorough else (),
        answer=prediction if thorough else None,
        counts=counts,
    )


def rescored(case: CaseScore, truth: Mask, answer: Mask, labels: LabelTable) -> CaseScore:
    """Returns the scores of a scan after its answer was post-processed.

    Args:
        case: the scores of a thorough look before.
        truth: the label.
        answer: the new answer, on the same grid.
        labels: the ROIs.
    """
    counts = case.counts
    if counts is not None:
        counts = CalibrationScan.compare(truth, answer, counts, labels, counts.name, counts.patient)
    has_picture = case.image.size > 0
    return replace(
        case,
        dice=tuple(dice_per_roi(truth.array, answer.array, labels)),
        area_error_percent=tuple(_area_error(truth.array, answer.array, value) for value in labels.values),
        prediction=answer.array[case.slice_index] if has_picture else case.prediction,
        hd95_mm=_distances(truth, answer.array, labels),
        answer=None if case.answer is None else answer.array,
        counts=counts,
    )


def soft_dice_loss(probabilities: npt.NDArray[np.float32], truth: npt.NDArray[np.unsignedinteger]) -> float:
    """Returns 1 - mean soft Dice with squared denominators over the ROIs that the truth holds.

    Args:
        probabilities: (classes, slice, row, column), background first.
        truth: (slice, row, column) label values.
    """
    terms = []
    for value in range(1, probabilities.shape[0]):
        target = truth == value
        soft = probabilities[value]
        size = float(np.count_nonzero(target))
        if size:
            overlap = float(soft[target].sum(dtype=np.float64))
            squared = float(np.einsum("ijk,ijk->", soft, soft, dtype=np.float64))
            terms.append(2 * overlap / (squared + size))
    return 1.0 - float(np.mean(terms)) if terms else 0.0


def _area_error(
    truth: npt.NDArray[np.unsignedinteger], prediction: npt.NDArray[np.unsignedinteger], value: int
) -> float | None:
    true_pixels = np.count_nonzero(truth == value, axis=(1, 2))
    if not true_pixels.any():
        return None
    found_pixels = np.count_nonzero(prediction == value, axis=(1, 2))
    drawn = true_pixels > 0
    return float(100 * np.abs(found_pixels - true_pixels)[drawn].mean() / true_pixels[drawn].mean())


def _distances(
    truth: Mask, prediction: npt.NDArray[np.unsignedinteger], labels: LabelTable
) -> tuple[float | None, ...]:
    if why_no_distances(truth.geometry):
        return (None,) * len(labels)
    found = [
        surface_distances(truth.array == value, prediction == value, truth.geometry)
        for value in labels.values
    ]
    return tuple(None if distances is None else distances.hd95_mm for distances in found)


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
