"""The series that a DICOM object refers to: its header for copying patient and study, and which image each slice is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from autoseg_lib.errors import DataError
from autoseg_lib.io.slice_header import SliceHeader

# Attributes that may be empty but must be there (type 2: PS3.3, C.7.1.1 Patient and C.7.2.1 General Study).
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)

# What describes the patient and the study; copied into objects made from the series (PS3.3, C.7.1 and C.7.2).
_COPIED = (
    *_MAY_BE_EMPTY,
    "StudyInstanceUID",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "FrameOfReferenceUID",
)
# UTF-8 (PS3.3, C.12.1.1.2): whatever letters the source was written in, and whatever the ROIs are called.
_UTF_8 = "ISO_IR 192"

MANUFACTURER = "AutoSeg Workbench"


@dataclass(frozen=True)
class Reference:
    """Where one slice comes from: kind of object, image, and frame from 1 in a multi-frame file (else None)."""

    sop_class: str
    sop_uid: str
    frame: int | None


def reference_of(header: SliceHeader) -> Reference:
    """Returns the image of one slice."""
    return Reference(header.sop_class, header.sop_uid, None if header.frame is None else header.frame + 1)


def read_source(path: Path) -> Dataset:
    """Returns the header of a file without its pixels; its texts decoded; attributes that may be empty are there.

    Raises:
        DataError: the file is gone, or cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every small breach of the standard
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            dataset.decode()
        except Exception as error:  # a damaged file makes pydicom raise almost anything
            raise DataError(
                f"'{path.name}': it cannot be read again. Check that it is still there."
            ) from error
    for keyword in _MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    dataset.SpecificCharacterSet = _UTF_8
    return dataset


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Copies whose scan it is and of which study, as DICOM asks of every object made from it."""
    target.SpecificCharacterSet = _UTF_8
    for keyword in _COPIED:
        if keyword in source:
            target[keyword] = source[keyword]


def why_no_object(headers: Sequence[SliceHeader]) -> str:
    """Returns what a series lacks for an object to refer to it, "" where it has all."""
    first = headers[0]
    checks = (
        (
            all(header.sop_uid and header.sop_class for header in headers),
            "its images have no UID of their own",
        ),
        (bool(first.study_uid and first.series_uid), "its study or series has no UID"),
        (bool(first.frame_of_reference_uid), "it has no frame of reference"),
        (
            len({header.frame_of_reference_uid for header in headers}) == 1,
            "its images lie in several frames of reference",
        ),
        (first.orientation is not None, "it has no image orientation"),
        (all(header.position_xyz_mm is not None for header in headers), "its slices have no positions"),
        (first.pixel_spacing_mm is not None, "it has no pixel spacing"),
    )
    return next((text for fine, text in checks if not fine), "")
