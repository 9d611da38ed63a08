"""Writes a radiotherapy structure set (RTSTRUCT): one ROI per label, contours along the edges of its pixels.

Read back with the even-odd rule at pixel centres (``io.rtstruct``, plastimatch, pyCERR) it gives the same pixels again.

Source: DICOM PS3.3, A.19 (RT Structure Set IOD), C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour), C.8.8.8 (RT ROI
Observations).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from autoseg_lib import __version__
from autoseg_lib.errors import DataError
from autoseg_lib.geometry import FloatArray
from autoseg_lib.io.contour_trace import trace
from autoseg_lib.io.dicom_source import (
    MANUFACTURER,
    Reference,
    copy_patient_and_study,
    read_source,
    reference_of,
    why_no_object,
)
from autoseg_lib.io.dicom_write import save_dataset
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.slice_header import SliceHeader
from autoseg_lib.labels import LabelTable

# A millionth of a millimetre: far below half of the smallest pixel (micro-CT: 0.004 mm), and short enough for the 16
# characters of a decimal text (PS3.5, 6.2) up to 10 m from the origin.
_DECIMALS = 6
# Retired (PS3.3, C.8.8.5), but readers follow it down to the series.
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
_CONTOUR_DATA = 0x30060050
# SH and LO: at most so many characters (PS3.5, 6.2).
_LONGEST_NAME, _LONGEST_LABEL = 64, 16


def write_rtstruct(
    path: Path,
    headers: Sequence[SliceHeader],
    array: npt.NDArray[np.unsignedinteger],
    labels: LabelTable,
) -> tuple[str, ...]:
    """Writes rtstruct.dcm.

    It carries the patient's identity, copied from the series: DICOM asks for it.

    Args:
        path: the file.
        headers: slices of the series, in the order of the array's slices.
        array: (slice, row, column) label values on the series' own pixels.
        labels: the ROIs; those without a pixel get no contour.

    Returns:
        Names of the ROIs without a pixel.

    Raises:
        DataError: the series lacks what an RTSTRUCT refers to, or no ROI has a pixel.
        ExportError: the file cannot be written.
    """
    why = why_no_object(headers)
    if why:
        raise DataError(f"an RTSTRUCT refers to its series, and {why}.")
    present = set(np.unique(array).tolist())
    if not present & set(labels.values):
        raise DataError("an RTSTRUCT needs a contour, and no ROI was found.")
    dataset = _header(headers)
    dataset.StructureSetROISequence = DicomSequence()
    dataset.ROIContourSequence = DicomSequence()
    dataset.RTROIObservationsSequence = DicomSequence()
    for label in labels:
        if label.value not in present:
            continue
        roi = Dataset()
        roi.ROINumber = label.value
        roi.ReferencedFrameOfReferenceUID = headers[0].frame_of_reference_uid
        roi.ROIName = label.name[:_LONGEST_NAME]
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        dataset.StructureSetROISequence.append(roi)
        contours = Dataset()
        contours.ROIDisplayColor = list(label.color_rgb)
        contours.ContourSequence = DicomSequence(_contours(headers, array, label.value))
        contours.ReferencedROINumber = label.value
        dataset.ROIContourSequence.append(contours)
        seen = Dataset()
        seen.ObservationNumber = seen.ReferencedROINumber = label.value
        seen.RTROIInterpretedType = "ORGAN"
        seen.ROIInterpreter = ""
        dataset.RTROIObservationsSequence.append(seen)
    # Contours are longer than the 64 KiB that a value may have in the encoding with explicit types.
    atomic_write(path, lambda target: save_dataset(dataset, target, ImplicitVRLittleEndian))
    return tuple(label.name for label in labels if label.value not in present)


def _header(headers: Sequence[SliceHeader]) -> Dataset:
    """Returns a structure set of the patient and study without ROIs, referring to all images of the series."""
    first, dataset = headers[0], Dataset()
    copy_patient_and_study(read_source(first.path), dataset)
    now = datetime.datetime.now()
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.SeriesDescription = "Segmentation"
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = MANUFACTURER
    dataset.DeviceSerialNumber = ""
    dataset.SoftwareVersions = __version__
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.StructureSetLabel = "Segmentation"[:_LONGEST_LABEL]
    dataset.ApprovalStatus = "UNAPPROVED"
    series = Dataset()
    series.SeriesInstanceUID = first.series_uid
    images = {(header.sop_uid, header.frame): reference_of(header) for header in headers}
    by_file: dict[str, list[Reference]] = {}
    for reference in images.values():
        by_file.setdefault(reference.sop_uid, []).append(reference)
    series.ContourImageSequence = DicomSequence([_image(refs) for refs in by_file.values()])
    study = Dataset()
    study.ReferencedSOPClassUID = _DETACHED_STUDY
    study.ReferencedSOPInstanceUID = first.study_uid
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = first.frame_of_reference_uid
    frame.RTReferencedStudySequence = DicomSequence([study])
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    return dataset


def _image(references: Sequence[Reference]) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = references[0].sop_class
    item.ReferencedSOPInstanceUID = references[0].sop_uid
    frames = [reference.frame for reference in references if reference.frame is not None]
    if frames:
        item.ReferencedFrameNumber = frames
    return item


def _contours(
    headers: Sequence[SliceHeader], array: npt.NDArray[np.unsignedinteger], value: int
) -> list[Dataset]:
    """Returns the contours of one ROI on all slices."""
    items: list[Dataset] = []
    for index in np.flatnonzero((array == value).any(axis=(1, 2))).tolist():
        image = DicomSequence([_image([reference_of(headers[index])])])
        for corners in trace(array[index] == value):
            points = _in_patient(corners, headers[index])
            item = Dataset()
            item.ContourImageSequence = image
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(points)
            # As bytes: pydicom would make an object of each number, and this encoding writes no type beside them.
            item.add(DataElement(_CONTOUR_DATA, "OB", _texts(points)))
            item.ContourNumber = len(items) + 1
            items.append(item)
    return items


def _in_patient(corners: FloatArray, header: SliceHeader) -> FloatArray:
    """Returns the (points, 3) LPS mm of (points, 2) row and column on a slice: PS3.3, C.7.6.2.1.1."""
    cosines = np.array(header.orientation, dtype=np.float64)
    row_mm, column_mm = header.pixel_spacing_mm or (1.0, 1.0)
    steps = np.stack([cosines[3:] * row_mm, cosines[:3] * column_mm])
    return np.asarray(corners @ steps + np.array(header.position_xyz_mm), dtype=np.float64)


def _texts(points: FloatArray) -> bytes:
    """Returns coordinates as DICOM's decimal text, of even length."""
    texts = (f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".") for value in points.ravel().tolist())
    joined = "\\".join("0" if text in ("", "-0") else text for text in texts)
    return (joined + " " * (len(joined) % 2)).encode("ascii")
