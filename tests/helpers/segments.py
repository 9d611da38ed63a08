"""Files with named ROIs for tests, written with pydicom and by hand, so that reading is tried against someone else's writer."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.helpers.dicom import item, uid
from tests.helpers.policy import policy_rows

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"


def number_text(value: float) -> str:
    """Returns a number as DICOM's decimal text of at most 16 characters."""
    return f"{value:.10g}"[:16]


def contour(
    points: Sequence[Sequence[float]], *, kind: str | None = "CLOSED_PLANAR", image: str | None = None
) -> Dataset:
    """Returns one contour item.

    Args:
        points: (x, y, z) in mm.
        kind: ContourGeometricType, None leaves it out.
        image: SOPInstanceUID for ContourImageSequence.
    """
    found = item(
        NumberOfContourPoints=len(points),
        ContourData=[number_text(value) for point in points for value in point],
    )
    if kind is not None:
        found.ContourGeometricType = kind
    if image is not None:
        found.ContourImageSequence = DicomSequence([item(ReferencedSOPInstanceUID=image)])
    return found


def write_rtstruct(
    path: Path,
    rois: Sequence[tuple[str, Sequence[Dataset]]],
    *,
    frame: str | None = None,
    series: object | None = 1,
    observations: bool = True,
    frames: Mapping[int, str] | None = None,
    transfer_syntax: str = ImplicitVRLittleEndian,
) -> Path:
    """Writes a structure set.

    Args:
        path: the file.
        rois: (name, contours), numbered from 1; the same name may occur twice.
        frame: FrameOfReferenceUID, None for that of ``write_slice``, "" leaves it out everywhere.
        series: as ``write_slice``; None leaves the references out.
        observations: whether RTROIObservationsSequence is there.
        frames: other frames of reference by ROI number.
        transfer_syntax: UID of an uncompressed encoding.
    """
    frame = uid("frame") if frame is None else frame
    dataset = _dataset(path, RTSTRUCT_CLASS, "RTSTRUCT", transfer_syntax)
    if frame:
        reference = item(FrameOfReferenceUID=frame)
        if series is not None:
            one = item(SeriesInstanceUID=uid("series", series))
            reference.RTReferencedStudySequence = DicomSequence(
                [item(RTReferencedSeriesSequence=DicomSequence([one]))]
            )
        dataset.ReferencedFrameOfReferenceSequence = DicomSequence([reference])
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "test", "", ""
    dataset.StructureSetROISequence = DicomSequence()
    dataset.ROIContourSequence = DicomSequence()
    for number, (name, contours) in enumerate(rois, start=1):
        roi = item(ROINumber=number, ROIName=name, ROIGenerationAlgorithm="MANUAL")
        own = (frames or {}).get(number, frame)
        if own:
            roi.ReferencedFrameOfReferenceUID = own
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(
            item(ReferencedROINumber=number, ContourSequence=DicomSequence(contours))
        )
    if observations:
        dataset.RTROIObservationsSequence = DicomSequence(
            [item(ObservationNumber=n, ReferencedROINumber=n) for n in range(1, len(rois) + 1)]
        )
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_seg(
    path: Path,
    frames: Sequence[tuple[int, Sequence[float] | None, npt.NDArray[Any]]],
    names: Mapping[int, str],
    *,
    kind: str = "BINARY",
    spacing: Sequence[float] = (1, 1),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    between: float | None = None,
    highest: int | None = 255,
    images: Sequence[str] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **tags: Any,
) -> Path:
    """Writes a segmentation.

    Args:
        path: the file.
        frames: (segment number, ImagePositionPatient or None, (row, column) pixels); in a label map the number is not used.
        names: SegmentLabel by segment number.
        kind: "BINARY" (packed bits), "FRACTIONAL" or "LABELMAP".
        spacing, orientation, between: PixelSpacing, ImageOrientationPatient, SpacingBetweenSlices of all frames.
        highest: MaximumFractionalValue.
        images: SOPInstanceUID of the image of each frame, None leaves DerivationImageSequence out.
        transfer_syntax: UID of an uncompressed encoding.
        tags: further values by keyword; None takes one away.
    """
    dataset = _dataset(path, LABEL_MAP_CLASS if kind == "LABELMAP" else SEG_CLASS, "SEG", transfer_syntax)
    array = np.stack([pixels for _, _, pixels in frames])
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = array.shape
    dataset.SegmentationType = kind
    if kind == "FRACTIONAL":
        dataset.SegmentationFractionalType = "PROBABILITY"
        dataset.MaximumFractionalValue = highest
    bits = 1 if kind == "BINARY" else array.dtype.itemsize * 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.SegmentSequence = DicomSequence(
        [item(SegmentNumber=number, SegmentLabel=name) for number, name in names.items()]
    )
    measures = item(PixelSpacing=list(spacing), SliceThickness=between or 1)
    if between is not None:
        measures.SpacingBetweenSlices = between
    shared = item(PixelMeasuresSequence=DicomSequence([measures]))
    shared.PlaneOrientationSequence = DicomSequence([item(ImageOrientationPatient=list(orientation))])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence()
    for index, (number, position, _) in enumerate(frames):
        group = Dataset()
        if position is not None:
            group.PlanePositionSequence = DicomSequence(
                [item(ImagePositionPatient=[number_text(value) for value in position])]
            )
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = DicomSequence([item(ReferencedSegmentNumber=number)])
        if images is not None:
            source = item(SourceImageSequence=DicomSequence([item(ReferencedSOPInstanceUID=images[index])]))
            group.DerivationImageSequence = DicomSequence([source])
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    big = transfer_syntax == ExplicitVRBigEndian
    if kind == "BINARY":
        raw = np.packbits(array.ravel().astype(bool), bitorder="little").tobytes()
    else:
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    raw += b"\0" * (len(raw) % 2)
    dataset.PixelData = np.frombuffer(raw, "<u2").astype(">u2").tobytes() if big else raw
    dataset["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_seg_nrrd(
    path: Path,
    array: npt.NDArray[Any],
    keys: Mapping[str, str],
    *,
    encoding: str = "gzip",
    space: str | None = "left-posterior-superior",
    directions: str = "(1,0,0) (0,1,0) (0,0,1)",
    origin: str = "(0,0,0)",
    **fields: str,
) -> Path:
    """Writes a segmentation as 3D Slicer does.

    Args:
        path: the file.
        array: (slice, row, column), or (layer, slice, row, column) with layers; whole numbers of 8 or 16 bits.
        keys: key := value pairs ("Segment0_Name" ...).
        encoding: "raw", "gzip" or "bzip2".
        space, directions, origin: NRRD's fields, in the file's order (column, row, slice).
        fields: other or changed fields; "_" stands for a space.
    """
    layered = array.ndim == 4
    stored = np.ascontiguousarray(np.moveaxis(array, 0, -1) if layered else array)
    header = {
        "type": {1: "unsigned char", 2: "unsigned short"}[array.dtype.itemsize],
        "dimension": str(stored.ndim),
        "space": space,
        "sizes": " ".join(str(size) for size in stored.shape[::-1]),
        "space directions": f"none {directions}" if layered else directions,
        "kinds": f"{'list ' if layered else ''}domain domain domain",
        "endian": "little",
        "encoding": encoding,
        "space origin": origin,
        **{name.replace("_", " "): value for name, value in fields.items()},
    }
    lines = ["NRRD0004", "# Complete NRRD file format specification at:"]
    lines += [f"{name}: {value}" for name, value in header.items() if value is not None]
    lines += [f"{key}:={value}" for key, value in keys.items()]
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + pack(stored.tobytes()))
    return path


def _dataset(path: Path, sop_class: str, modality: str, transfer_syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid("file", path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128,
        is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian,
        is_little_endian=transfer_syntax != ExplicitVRBigEndian,
    )  # fmt: skip
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.SpecificCharacterSet, dataset.Modality = "ISO_IR 192", modality
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid("series", path.name)
    dataset.PatientName, dataset.PatientID = "", ""
    if modality == "SEG":
        dataset.FrameOfReferenceUID = uid("frame")
        dataset.ReferencedSeriesSequence = DicomSequence([item(SeriesInstanceUID=uid("series", 1))])
    return dataset


def follows(row: str, done: str, texts: Sequence[str] = ()) -> None:
    """Checks what was done and said against the row of docs/reading.md."""
    rows = policy_rows()
    assert row in rows, f"docs/reading.md has no row '{row}'"
    assert rows[row].done == done, row
    assert rows[row].is_said_in(list(texts)), (row, texts)
