"""The list of all checks. To add one: write the function, add a line here, test it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from autoseg_lib.data.doctor.checks import files, grids, kinds, patients, pixels, values
from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        code: short name, for programs.
        title: what is right when nothing is found, for the line "✔ ...".
        function: looks and yields what it finds.
    """

    code: str
    title: str
    function: Callable[[Context], Iterable[Finding]]


CHECKS = (
    Check("pairing", "every image has its label, and every label its image", files.check_pairing),
    Check("unreadable", "every file can be read; labels lie on their images' grids", files.check_unreadable),
    Check("swapped_files", "no image and label have changed places", files.check_swapped_files),
    Check("label_values", "label values are ROI numbers", values.check_label_values),
    Check("missing_roi", "every ROI is drawn somewhere", values.check_missing_rois),
    Check("nan", "every pixel has a number", pixels.check_nan),
    Check("constant", "no image is of one single grey value", pixels.check_constant),
    Check("spacing", "the size of a pixel is known everywhere", grids.check_spacing_known),
    Check("uneven_slices", "slices are spaced as the training needs", grids.check_even_slices),
    Check("empty_labels", "no label is empty", values.check_empty_labels),
    Check("roi_gap", "no ROI is missing between slices that have it", values.check_roi_gaps),
    Check("one_patient", "there are several patients", patients.check_one_patient),
    Check("unknown_patients", "images tell whose they are", patients.check_unknown_patients),
    Check("modalities", "all scans are of one kind", kinds.check_modalities),
    Check("reading", "nothing had to be assumed in reading", files.check_assumptions),
)
