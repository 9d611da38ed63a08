"""Writes a scan as a DICOM series (MR or CT Image Storage, one file a slice), the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from autoseg_lib import __version__
from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry

_STORAGE = {"MR": MRImageStorage, "CT": CTImageStorage}

# Written scans are nobody's; a fixed date keeps the bytes the same from run to run.
_DATE = "20200101"
_TIME = "120000"


def write_dicom_series(
    folder: Path,
    array: npt.NDArray[np.int16],
    geometry: Geometry,
    *,
    modality: str = "MR",
    names: Sequence[str] | None = None,
    patient_id: str = "EXAMPLE-01",
    patient_name: str = "Example^Study",
    description: str = "",
    uid_seed: str = "",
) -> list[Path]:
    """Writes one file a slice into ``folder`` (made if missing) and returns their paths in array order.

    All UIDs are derived from ``uid_seed``, ``patient_id`` and ``description``: the same call, the same bytes.

    Args:
        folder: where to write.
        array: (slice, row, column) stored values; CT in HU (the intercept is 0).
        geometry: the grid; evenly spaced, in mm and with known orientation.
        modality: "MR" or "CT".
        names: file names without ".dcm", one a slice; ``slice_0001`` ... by default. Instance numbers follow
            the order of these names, so that files named against the order of positions look like real ones.
        patient_id: what the header says.
        patient_name: what the header says.
        description: series description.
        uid_seed: changes the UIDs.

    Raises:
        DataError: array and geometry do not fit, or the names are not one a slice.
        GeometryError: the geometry is not known well enough to be written.

    Source: DICOM PS3.3, A.4 (MR Image IOD), A.3 (CT Image IOD) and C.7.6.2 (Image Plane Module).
    """
    if array.shape != geometry.shape_zyx:
        raise DataError(f"the pixels have the shape {array.shape}, their grid says {geometry.shape_zyx}.")
    if array.dtype != np.int16:
        raise DataError(f"DICOM slices are written from 16-bit whole numbers, found {array.dtype}.")
    if modality not in _STORAGE:
        raise DataError(f"series are written as MR or CT, found '{modality}'.")
    if not (
        geometry.is_even
        and geometry.spacing_known
        and geometry.positions_known
        and geometry.orientation_known
    ):
        raise GeometryError(
            "writing DICOM needs evenly spaced slices with known spacing, positions and orientation."
        )
    count = array.shape[0]
    stems = list(names) if names is not None else [f"slice_{index + 1:04d}" for index in range(count)]
    if len(set(stems)) != count:
        raise DataError(f"expected {count} different file names, one a slice, found {len(set(stems))}.")

    folder.mkdir(parents=True, exist_ok=True)
    key = (uid_seed, patient_id, description)
    instance_numbers = {stem: number for number, stem in enumerate(sorted(stems), start=1)}
    paths = []
    for index, stem in enumerate(stems):
        dataset = _series_header(modality, patient_id, patient_name, description, key)
        _add_plane(dataset, geometry, index)
        dataset.InstanceNumber = instance_numbers[stem]
        dataset.SOPInstanceUID = _uid(key, "image", str(index))
        _add_pixels(dataset, array[index])
        path = folder / f"{stem}.dcm"
        save_dataset(dataset, path)
        paths.append(path)
    return paths


def _uid(key: Sequence[str], *parts: str) -> str:
    return str(generate_uid(entropy_srcs=["autoseg_lib", *key, *parts]))


def _series_header(
    modality: str, patient_id: str, patient_name: str, description: str, key: Sequence[str]
) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"]
    dataset.SOPClassUID = _STORAGE[modality]
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = _DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = _TIME
    dataset.AccessionNumber = ""
    dataset.Modality = modality
    dataset.Manufacturer = "AutoSeg Workbench"
    dataset.ManufacturerModelName = "example study"
    dataset.SoftwareVersions = __version__
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = description
    dataset.PatientName = patient_name
    dataset.PatientID = patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = _uid(key, "study")
    dataset.SeriesInstanceUID = _uid(key, "series")
    dataset.FrameOfReferenceUID = _uid(key, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1
    if modality == "MR":
        dataset.ScanningSequence = "SE"
        dataset.SequenceVariant = "NONE"
        dataset.ScanOptions = ""
        dataset.MRAcquisitionType = "2D"
        dataset.RepetitionTime = "600"
        dataset.EchoTime = "12"
        dataset.EchoTrainLength = 1
    else:
        dataset.KVP = "120"
        dataset.RescaleIntercept = "0"
        dataset.RescaleSlope = "1"
        dataset.RescaleType = "HU"
    return dataset


def _number_text(value: float) -> str:
    """Decimal text of at most 16 characters, which is what DICOM's DS allows."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    if len(text) > 16:
        text = f"{value:.6f}"[:16]
    return "0" if text in ("", "-0") else text


def _add_plane(dataset: Dataset, geometry: Geometry, index: int) -> None:
    affine = geometry.affine
    slice_mm, row_mm, column_mm = geometry.spacing_zyx_mm
    along_row, along_column = affine[:3, 2] / column_mm, affine[:3, 1] / row_mm
    position = affine[:3, 3] + index * affine[:3, 0]
    dataset.ImagePositionPatient = [_number_text(v) for v in position]
    dataset.ImageOrientationPatient = [_number_text(v) for v in (*along_row, *along_column)]
    dataset.PixelSpacing = [_number_text(row_mm), _number_text(column_mm)]
    dataset.SliceThickness = _number_text(slice_mm)
    if dataset.Modality == "MR":
        dataset.SpacingBetweenSlices = _number_text(slice_mm)
    dataset.SliceLocation = _number_text(float(position @ geometry.normal_xyz))


def _add_pixels(dataset: Dataset, pixels: npt.NDArray[np.int16]) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    low, high = int(pixels.min()), int(pixels.max())
    dataset.WindowCenter = _number_text((low + high) / 2)
    dataset.WindowWidth = _number_text(max(1, high - low))
    dataset.PixelData = np.ascontiguousarray(pixels).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"


def save_dataset(dataset: Dataset, path: Path, transfer_syntax: UID = ExplicitVRLittleEndian) -> None:
    """Writes a DICOM file with its preamble and meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
