"""Slice by slice: differences of areas, and how much of a contour a person would have to draw again.

What each number is when an ROI is missing is written in docs/metrics.md.

Sources: Vaassen et al., "Evaluation of measures for assessing time-saving of automatic organ-at-risk segmentation in
radiotherapy", Phys Imaging Radiat Oncol 13 (2020), for the added path length; Kiser et al., "Novel autosegmentation spatial
similarity metrics capture the time required to correct segmentations better than traditional metrics in a thoracic cavity
segmentation workflow", J Digit Imaging 34 (2021), for false-negative path length and volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg_lib.metrics.overlap import Binary, check_same_shape


@dataclass(frozen=True)
class ContourCounts:
    """Two masks of one ROI compared in their slices, in pixels.

    Attributes:
        path: pixels of the reference's contour that are not on the prediction's contour.
        false_negative_path: pixels of the reference's contour that are not in the prediction at all.
        area_difference: sum over slices of the absolute difference of the areas.
        slices: slices that have the ROI on either side.
        reference: pixels of the reference.
        prediction: pixels of the prediction.
    """

    path: int
    false_negative_path: int
    area_difference: int
    slices: int
    reference: int
    prediction: int

    @property
    def mean_area_difference(self) -> float | None:
        """Mean over the slices that have the ROI on either side; None where no slice has it."""
        return self.area_difference / self.slices if self.slices else None

    @property
    def area_difference_percent(self) -> float | None:
        """Sum of the absolute differences as a share of the reference's area; None without a reference."""
        return 100 * self.area_difference / self.reference if self.reference else None


def count_contours(reference: Binary, prediction: Binary) -> ContourCounts:
    """Compares the contours and areas of two masks slice by slice.

    A contour is made of the ROI's pixels that have one of four neighbours outside it on their slice; beyond the edge of the
    picture is outside.

    Args:
        reference: (slices, rows, columns) boolean.
        prediction: same shape.

    Raises:
        GeometryError: the shapes differ.
    """
    check_same_shape(reference, prediction)
    ours, theirs = reference.sum(axis=(1, 2)), prediction.sum(axis=(1, 2))
    path = missed = 0
    for index in np.flatnonzero(ours).tolist():
        contour = slice_contour(reference[index])
        path += int(np.count_nonzero(contour & ~slice_contour(prediction[index])))
        missed += int(np.count_nonzero(contour & ~prediction[index]))
    return ContourCounts(
        path,
        missed,
        int(np.abs(ours.astype(np.int64) - theirs).sum()),
        int(np.count_nonzero((ours > 0) | (theirs > 0))),
        int(ours.sum()),
        int(theirs.sum()),
    )


def slice_contour(plane: Binary) -> Binary:
    """Returns the contour pixels of a (row, column) mask, same shape."""
    inner = np.zeros_like(plane)
    inner[1:-1, 1:-1] = plane[:-2, 1:-1] & plane[2:, 1:-1] & plane[1:-1, :-2] & plane[1:-1, 2:]
    return np.asarray(plane & ~inner)


def relative_error(reference: float | None, prediction: float | None) -> float | None:
    """Returns |prediction - reference| / reference, 1 at most; None where the reference is unknown, absent or 0.

    Capped so that one wild answer does not outweigh all others in a mean; 1 is also what a missed ROI gives.

    Args:
        reference: a length or volume held to be right.
        prediction: the same as predicted; 0 for an absent ROI.
    """
    if not reference or prediction is None:
        return None
    return min(1.0, abs(prediction - reference) / reference)
