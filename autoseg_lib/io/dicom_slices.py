"""From one file's header to its slices: place, values and everything odd that a user should hear of."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from autoseg_lib.io.dicom_localizers import is_localizer
from autoseg_lib.io.dicom_storage import SkipError
from autoseg_lib.io.dicom_values import (
    has_decimal_comma,
    identity_of,
    integer_of,
    many_of,
    name_words_of,
    number_of,
    numbers_of,
    positive_of,
    right_angled,
    shown_value,
    text_of,
    value_of,
)
from autoseg_lib.io.slice_header import PixelStorage, SliceHeader

# CJK ideographs and Korean syllables come after this in Unicode, all alphabets before it.
_FIRST_IDEOGRAPH = 0x2E80

# Pixels of microscopes are down to 0.0001 mm, of anything else far larger; no detector has pixels of a metre.
_SMALLEST_MM, _LARGEST_MM = 1e-5, 1e3
# Grey values beyond this are no measurement of anything.
_LARGEST_RESCALE = 1e12
# Coordinates of patients lie within some metres of the scanner's centre.
_FARTHEST_MM = 1e6

# With several frames, the file's own position belongs to none of them.
_PLACE = {"ImagePositionPatient"}


def slices_of(path: Path, header: Any, storage: PixelStorage, mosaic_tiles: int = 0) -> list[SliceHeader]:
    """Returns one SliceHeader for each frame of a file.

    Args:
        path: the file.
        header: a pydicom dataset or a QuickHeader.
        storage: how its pixels are stored.
        mosaic_tiles: images tiled in one picture, by the scanner's private word; 0 where it says nothing.

    Raises:
        SkipError: the table of frames does not fit the number of frames.
    """
    patient_id = text_of(header, "PatientID")
    key, identity, person = _who(
        patient_id, text_of(header, "PatientName"), text_of(header, "PatientBirthDate")
    )
    image_type = [str(value).strip().upper() for value in many_of(value_of(header, "ImageType"))]
    if mosaic_tiles > 1 and "MOSAIC" not in image_type:
        image_type.append("MOSAIC")  # anonymised files may have lost the word
    modality = text_of(header, "Modality").upper()
    shared = {
        "path": path,
        "series_uid": text_of(header, "SeriesInstanceUID"),
        "study_uid": text_of(header, "StudyInstanceUID"),
        "frame_of_reference_uid": text_of(header, "FrameOfReferenceUID"),
        "sop_uid": text_of(header, "SOPInstanceUID"),
        "patient_key": key,
        "identity": identity,
        "person_name": person,
        "modality": modality,
        "rows": integer_of(header, "Rows"),
        "columns": integer_of(header, "Columns"),
        "series_number": integer_of(header, "SeriesNumber"),
        "pixels": storage,
        "sop_class": text_of(header, "SOPClassUID"),
        "image_type": tuple(image_type),
        "is_localizer": is_localizer(header, modality, image_type),
    }
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame:
        if len(per_frame) != storage.frames:
            raise SkipError(
                "its table of frames does not fit its number of frames; export it again", serious=True
            )
        common = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        return [
            _slice(header, [item, common], frame if storage.frames > 1 else None, shared)
            for frame, item in enumerate(per_frame)
        ]
    if storage.frames > 1:  # cine or tomography without a place for each frame
        return [_slice(header, [], frame, shared) for frame in range(storage.frames)]
    return [_slice(header, [], None, shared)]


@lru_cache(maxsize=64)
def _who(patient_id: str, name: str, birth: str) -> tuple[str, frozenset[str], tuple[str, ...]]:
    """Returns (key, texts that tell who it is, words of the name); the same for all slices of a patient."""
    words = name_words_of(name)
    # One letter is an initial, one Chinese character a name.
    person = tuple(part for part in words if len(part) > 1 or ord(part) >= _FIRST_IDEOGRAPH)
    key = hashlib.sha256(patient_id.encode()).hexdigest()[:12] if patient_id else ""
    return key, identity_of(name, patient_id, birth), person


def _slice(header: Any, groups: list[Dataset], frame: int | None, shared: dict[str, Any]) -> SliceHeader:
    """Builds one slice; ``groups`` are the functional groups of its frame, the frame's own before the shared ones."""

    def look(sequence: str, keyword: str) -> Any:
        for group in groups:
            items = group.get(sequence)
            if items:
                value = value_of(items[0], keyword)
                if value is not None:
                    return value
        return None if frame is not None and keyword in _PLACE else value_of(header, keyword)

    notes: list[str] = []
    raw_spacing = look("PixelMeasuresSequence", "PixelSpacing")
    raw_position = look("PlanePositionSequence", "ImagePositionPatient")
    raw_cosines = look("PlaneOrientationSequence", "ImageOrientationPatient")
    if any(map(has_decimal_comma, (raw_spacing, raw_position, raw_cosines))):
        notes.append("numbers in the header are written with a decimal comma; 0,7 is read as 0.7.")
    spacing = _spacing(raw_spacing)
    position = numbers_of(raw_position, 3)
    if position is not None and max(map(abs, position)) > _FARTHEST_MM:
        position = None
    if position is None and shown_value(raw_position):
        notes.append("the image position in the header cannot be used: it is not three sensible numbers.")
    orientation, doubt = right_angled(numbers_of(raw_cosines, 6))
    if orientation is None and shown_value(raw_cosines):
        notes.append("the image orientation in the header is broken: no two directions at a right angle.")
    elif doubt:
        notes.append("the directions in the header are not quite at a right angle; they were straightened.")
    slope, intercept = _rescale(look, shared, notes)
    if shared["pixels"].extra_bytes:
        notes.append(
            f"the file holds {shared['pixels'].extra_bytes} bytes more of pixels than its header speaks of; they were not used."
        )
    instance = integer_of(header, "InstanceNumber")
    return SliceHeader(
        frame=frame,
        position_xyz_mm=None if position is None else (position[0], position[1], position[2]),
        orientation=orientation,
        pixel_spacing_mm=spacing,
        spacing_source="PixelSpacing" if spacing else "",
        spacing_note="" if spacing else _why_no_spacing(header, raw_spacing),
        slice_thickness_mm=positive_of(look("PixelMeasuresSequence", "SliceThickness")),
        spacing_between_slices_mm=positive_of(look("PixelMeasuresSequence", "SpacingBetweenSlices")),
        instance_number=frame + 1 if frame is not None and instance is None else instance,
        slope=slope,
        intercept=intercept,
        time_key=_time_key(header, look),
        echo_time_ms=number_of(look("MREchoSequence", "EchoTime" if not groups else "EffectiveEchoTime")),
        b_value=number_of(look("MRDiffusionSequence", "DiffusionBValue")),
        stack_id=str(look("FrameContentSequence", "StackID") or "").strip() if groups else "",
        at_detector=_at_detector(header, shared["modality"], spacing),
        notes=tuple(notes),
        **shared,
    )


def _spacing(value: Any) -> tuple[float, float] | None:
    numbers = numbers_of(value, 2)
    if numbers is None or not all(_SMALLEST_MM <= number <= _LARGEST_MM for number in numbers):
        return None
    return numbers[0], numbers[1]


def _rescale(look: Any, shared: dict[str, Any], notes: list[str]) -> tuple[float, float]:
    """Returns (slope, intercept), 1 and 0 where missing or of no use, and says so."""
    raw_slope = look("PixelValueTransformationSequence", "RescaleSlope")
    raw_intercept = look("PixelValueTransformationSequence", "RescaleIntercept")
    slope, intercept = number_of(raw_slope), number_of(raw_intercept)
    broken = [
        name
        for name, raw, number in (("slope", raw_slope, slope), ("intercept", raw_intercept, intercept))
        if (number is None or abs(number) > _LARGEST_RESCALE) and shown_value(raw)
    ]
    if broken:
        notes.append(
            f"the rescale {' and '.join(broken)} in the header cannot be used; values are as stored."
        )
        return 1.0, 0.0
    if slope == 0:
        notes.append("the rescale slope in the header is 0; values are as stored.")
        return 1.0, 0.0
    if slope is None and intercept is None and shared["modality"] == "CT":
        notes.append("no rescale values in a CT: grey values are as stored, perhaps not Hounsfield units.")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)


def _time_key(header: Any, look: Any) -> tuple[float, ...]:
    """Returns what orders several images at one position."""
    values = (
        look("FrameContentSequence", "TemporalPositionIndex"),
        look("FrameContentSequence", "TemporalPositionIdentifier"),
        look("FrameContentSequence", "AcquisitionNumber"),
        look("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        look("CardiacSynchronizationSequence", "TriggerTime"),
    )
    return tuple(number_of(value) or 0.0 for value in values)


def _at_detector(header: Any, modality: str, spacing: tuple[float, float] | None) -> bool:
    """Whether PixelSpacing is the detector's own, not corrected for magnification (PS3.3 10.7.1.1)."""
    imager = numbers_of(value_of(header, "ImagerPixelSpacing"), 2)
    if spacing is None or imager is None or text_of(header, "PixelSpacingCalibrationType"):
        return False
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(spacing, imager, strict=True))


def _why_no_spacing(header: Any, value: Any) -> str:
    numbers = numbers_of(value, 2)
    if numbers is not None and 0 in numbers:
        return "the pixel spacing in the header is 0, so sizes in mm are unknown."
    if shown_value(value):
        return (
            f"the pixel spacing in the header ({shown_value(value)}) is no pair of sensible sizes, so sizes in mm are "
            "unknown."
        )
    text = "no pixel spacing, so sizes in mm are unknown."
    if numbers_of(value_of(header, "ImagerPixelSpacing"), 2):
        text += " A spacing at the detector is given; it is not the size in the patient and was not used."
    elif numbers_of(value_of(header, "NominalScannedPixelSpacing"), 2):
        text += " A spacing on the scanned film is given; it is not the size in the patient and was not used."
    return text
