"""The list of all checks. To add one: write the function, add a line here, test it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from autoseg_lib.data.doctor.checks import (
    amount,
    duplicates,
    files,
    fitting,
    grids,
    kinds,
    patients,
    pixels,
    rois,
    values,
)
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
    # files
    Check("pairing", "every image has its label, and every label its image", files.check_pairing),
    Check("unreadable", "every file can be read; labels lie on their images' grids", files.check_unreadable),
    Check("swapped_files", "no image and label have changed places", files.check_swapped_files),
    Check("foreign_label", "every label lies on its own scan", files.check_foreign_labels),
    # label values and ROIs
    Check("label_values", "label values are ROI numbers", values.check_label_values),
    Check("missing_roi", "every ROI is drawn somewhere", values.check_missing_rois),
    Check("empty_labels", "no label is empty", values.check_empty_labels),
    Check("roi_gap", "no ROI is missing between slices that have it", values.check_roi_gaps),
    Check("roi_at_border", "no ROI reaches the image's border", rois.check_border),
    Check("roi_vanishes", "every ROI is large enough for the network's resolution", rois.check_vanishing),
    Check("rare_roi", "no ROI is rare", rois.check_rare),
    Check("imbalance", "ROIs are of comparable size", rois.check_imbalance),
    Check("side_alone", "every side has its other side", rois.check_sides),
    # pixels
    Check("nan", "every pixel has a number", pixels.check_nan),
    Check("constant", "no image is of one single grey value", pixels.check_constant),
    Check("inverted", "no image is the negative of the others", kinds.check_inverted),
    Check(
        "intensity_slices", "grey values change smoothly from slice to slice", kinds.check_intensity_slices
    ),
    Check("intensity_outlier", "grey values of all scans are alike", kinds.check_intensity_cases),
    Check("modalities", "all scans are of one kind", kinds.check_modalities),
    # grids
    Check("spacing", "the size of a pixel is known everywhere", grids.check_spacing_known),
    Check(
        "spacing_outlier", "pixels and slice distances are alike in all scans", grids.check_spacing_outliers
    ),
    Check("matrix_outlier", "pictures are of one size", grids.check_matrix),
    Check("orientation_outlier", "all slices lie in one plane", grids.check_orientation),
    Check("missing_slices", "no slice is missing in the middle of a scan", grids.check_missing_slices),
    Check("uneven_slices", "slices are spaced as the training needs", grids.check_even_slices),
    # the same thing twice, and whose it is
    Check("same_image", "no image is there twice", duplicates.check_same_image),
    Check("near_image", "no image is there nearly twice", duplicates.check_near_image),
    Check("same_label", "no two images have the same label", duplicates.check_same_label),
    Check("patient_conflict", "no patient counts as several", patients.check_patient_conflicts),
    Check("one_patient", "there are several patients", patients.check_one_patient),
    Check("unknown_patients", "images tell whose they are", patients.check_unknown_patients),
    # labels against their images, judged by all the others
    Check("labels_turned", "labels lie on their images' edges", fitting.check_whole_set_turned),
    Check("label_turned", "no label is turned or flipped", fitting.check_turned),
    Check("label_swapped", "no two labels have changed places", fitting.check_exchanged),
    Check("label_shifted", "no label belongs to another slice", fitting.check_shifted),
    Check("roi_numbers", "ROIs are numbered alike in all labels", fitting.check_renumbered),
    Check("label_unlike", "every label fits its image", fitting.check_unlike),
    # the study
    Check("few_cases", "there is enough to learn from", amount.check_amount),
    Check("names", "ROIs are named", files.check_names),
    Check("reading", "nothing had to be assumed in reading", files.check_assumptions),
)
