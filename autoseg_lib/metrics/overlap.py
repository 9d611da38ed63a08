"""How much two masks overlap.

What each number is when an ROI is missing, for every metric of this package:

    reference   prediction   dice   hd95_mm   surface_dice   mean_surface_distance_mm
    present     present      0..1   mm        0..1           mm
    present     absent       0.0    none      0.0            none
    absent      present      0.0    none      0.0            none
    absent      absent       none   none      none           none

"None" is never replaced by a number: 1.0 would reward agreement on nothing, and no distance to nothing
exists. Tables leave the cell empty and count how often that happened.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError
from autoseg_lib.labels import LabelTable

Binary = npt.NDArray[np.bool_]


def dice(reference: Binary, prediction: Binary) -> float | None:
    """Returns 2 × overlap / (size of both), Dice (1945); None when both are empty.

    Args:
        reference: boolean, any shape.
        prediction: boolean, same shape.

    Raises:
        GeometryError: the shapes differ.
    """
    check_same_shape(reference, prediction)
    both = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    if both == 0:
        return None
    return 2 * int(np.count_nonzero(reference & prediction)) / both


def dice_per_roi(
    reference: npt.NDArray[np.unsignedinteger],
    prediction: npt.NDArray[np.unsignedinteger],
    labels: LabelTable,
) -> list[float | None]:
    """Returns the Dice of each ROI in label order; None where neither mask has it.

    Args:
        reference: label values, any shape.
        prediction: label values, same shape.
        labels: the ROIs.

    Raises:
        GeometryError: the shapes differ.
    """
    check_same_shape(reference, prediction)
    number = len(labels) + 1
    # Counting three histograms reads each array once, whatever the number of ROIs.
    in_reference = np.bincount(reference.ravel(), minlength=number)
    in_prediction = np.bincount(prediction.ravel(), minlength=number)
    in_both = np.bincount(reference[reference == prediction], minlength=number)
    result: list[float | None] = []
    for value in labels.values:
        total = int(in_reference[value]) + int(in_prediction[value])
        result.append(2 * int(in_both[value]) / total if total else None)
    return result


def check_same_shape(reference: npt.NDArray[np.generic], prediction: npt.NDArray[np.generic]) -> None:
    """Refuses masks of different shapes.

    Raises:
        GeometryError: the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"the two masks have different sizes: {reference.shape} and {prediction.shape}. "
            "Compare masks of the same scan on the same grid."
        )
