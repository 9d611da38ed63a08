"""DICOM files for tests, written with pydicom alone so that reading is tried against someone else's writer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)


def uid(*parts: object) -> str:
    """Returns a UID made from the parts, the same every time."""
    return "1.2.826.0.1.3680043.8.498." + ".".join(str(hash_number(part)) for part in parts)


def hash_number(part: object) -> int:
    """Returns a number of up to nine digits for a text or number."""
    return int(hashlib.sha256(str(part).encode()).hexdigest()[:7], 16) + 1


def write_slice(
    path: Path,
    pixels: npt.NDArray[Any],
    *,
    position: Sequence[float] | None = (0, 0, 0),
    orientation: Sequence[float] | None = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] | None = (1, 1),
    modality: str = "MR",
    series: object = 1,
    number: int | None = 1,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **tags: Any,
) -> Path:
    """Writes one slice; ``tags`` are DICOM keywords, None leaves one out.

    Args:
        path: the file.
        pixels: (row, column) integers of 8, 16 or 32 bits.
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing.
        modality: Modality.
        series: anything; slices with equal values share the SeriesInstanceUID.
        number: InstanceNumber.
        transfer_syntax: UID of an uncompressed encoding.
        tags: further values by keyword.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid("image", series, path.name)
    big = transfer_syntax == ExplicitVRBigEndian
    implicit = transfer_syntax == ImplicitVRLittleEndian
    dataset = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=not big
    )
    values: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series", series),
        "FrameOfReferenceUID": uid("frame"),
        "Modality": modality,
        "PatientName": "",
        "PatientID": "",
        "InstanceNumber": number,
        "ImagePositionPatient": position,
        "ImageOrientationPatient": orientation,
        "PixelSpacing": spacing,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **tags,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, list(value) if isinstance(value, tuple) else value)
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    array: npt.NDArray[Any],
    *,
    step: Sequence[float] = (0, 0, 1),
    origin: Sequence[float] = (0, 0, 0),
    prefix: str = "slice",
    **options: Any,
) -> list[Path]:
    """Writes (slice, row, column) as PREFIX_001.dcm ..., each ``step`` mm after the one before."""
    paths = []
    for index, pixels in enumerate(array):
        position = tuple(float(o) + index * float(s) for o, s in zip(origin, step, strict=True))
        path = folder / f"{prefix}_{index + 1:03d}.dcm"
        paths.append(write_slice(path, pixels, position=position, number=index + 1, **options))
    return paths


def item(**tags: Any) -> Dataset:
    """Returns one item of a DICOM sequence."""
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset
