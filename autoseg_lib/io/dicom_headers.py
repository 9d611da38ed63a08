"""The headers of DICOM files: what is needed to sort, place and read each slice, and why a file is left out."""

from __future__ import annotations

import hashlib
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from autoseg_lib.io.dicom_values import (
    cosines_of,
    identity_of,
    integer_of,
    many_of,
    name_words_of,
    number_of,
    numbers_of,
    positive_of,
    text_of,
    time_key_of,
)
from autoseg_lib.io.files import is_junk
from autoseg_lib.io.slice_header import HeaderScan, PixelStorage, SkippedFile, SliceHeader

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", ".dc3")
# Files of trained_model/; their first bytes are a length, which can look like the beginning of an old DICOM file.
_MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")

# What is not a picture of the patient, by Modality. RTDOSE and SEG have pixels all the same.
_NOT_IMAGES = {
    "RTSTRUCT": "contours (RTSTRUCT), not an image",
    "RTPLAN": "a radiotherapy plan, not an image",
    "RTDOSE": "a radiotherapy dose, not an image",
    "RTRECORD": "a treatment record, not an image",
    "SEG": "a DICOM segmentation, not an image",
    "SR": "a structured report, not an image",
    "KO": "a list of key images, not an image",
    "PR": "a display setting, not an image",
    "REG": "a registration, not an image",
    "ECG": "an ECG, not an image",
    "AU": "a sound recording, not an image",
    "DOC": "a document, not an image",
}
# What scanners call them in SeriesDescription or ProtocolName where ImageType does not say LOCALIZER.
_LOCALIZER = re.compile(r"locali[sz]er|scout|survey|topogram|scanogram|3[ -]plane|\bloc\b")

_PIXEL_TAGS = {
    (0x7FE0, 0x0010): "PixelData",
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
}
_KEYWORDS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime", "Modality",
    "SeriesDescription", "PatientName", "PatientID", "PatientBirthDate", "ProtocolName", "SliceThickness",
    "NominalScannedPixelSpacing", "ImagerPixelSpacing", "TriggerTime", "SpacingBetweenSlices", "StudyInstanceUID",
    "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "FrameOfReferenceUID", "TemporalPositionIdentifier", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence",
]  # fmt: skip


# CJK ideographs and Korean syllables come after this in Unicode, all alphabets before it.
_FIRST_IDEOGRAPH = 0x2E80


class _SkipError(Exception):
    """Raised inside this module where a file is to be left out."""

    def __init__(self, reason: str, serious: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.serious = reason, serious


def read_headers(paths: Iterable[Path], on_progress: Callable[[int, int], None] | None = None) -> HeaderScan:
    """Reads the headers of all DICOM images among ``paths``; never raises for one bad file.

    A file whose pixels are cut off is listed as a serious SkippedFile *and* kept among the headers, so that reading its
    series is refused instead of giving a volume with a hole.

    Args:
        paths: files of any kind.
        on_progress: called with (done, total).
    """
    paths = list(paths)
    headers: list[SliceHeader] = []
    skipped: list[SkippedFile] = []
    for done, path in enumerate(paths, start=1):
        try:
            found = _read_file(path)
            headers += found
            if found[0].pixels.missing_bytes:
                skipped.append(SkippedFile(path, truncated_text(found[0].pixels), serious=True))
        except _SkipError as skip:
            skipped.append(SkippedFile(path, skip.reason, skip.serious))
        except Exception as error:  # noqa: BLE001  # a damaged file makes pydicom raise almost anything
            skipped.append(
                SkippedFile(path, f"it cannot be read as DICOM ({type(error).__name__})", serious=True)
            )
        if on_progress is not None:
            on_progress(done, len(paths))
    return HeaderScan(headers, skipped)


def truncated_text(pixels: PixelStorage) -> str:
    """Returns the sentence for a file that ends early."""
    return f"the file ends early ({pixels.missing_bytes} bytes of its pixels are missing); copy or export it again"


def open_dicom(path: Path) -> FileDataset:
    """Returns the whole file; a missing transfer syntax is filled in from how the file was read.

    Raises whatever pydicom raises for a damaged file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every small breach of the standard
        dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        )
    return dataset


# --- one file ---------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> list[SliceHeader]:
    if is_junk(path):
        raise _SkipError("a file of the operating system")
    if path.suffix.lower() in _MODEL_SUFFIXES:
        raise _SkipError("a trained model, not an image")
    named = path.suffix.lower() in DICOM_SUFFIXES
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            force = _check_start(stream, named)
            try:
                dataset = pydicom.dcmread(
                    stream, stop_before_pixels=True, specific_tags=list(_KEYWORDS), force=force
                )
            except InvalidDicomError:
                raise _SkipError("it is not a DICOM file", serious=named) from None
            storage = _pixel_storage(path, stream, dataset)
            return _headers_of(path, dataset, storage)
    except OSError as error:
        raise _SkipError(f"it cannot be opened ({error.strerror})", serious=True) from None


def _check_start(stream: BinaryIO, named: bool) -> bool:
    """Returns whether to read without the "DICM" mark; skips what is no DICOM at all."""
    start = stream.read(132)
    stream.seek(0)
    if not start:
        raise _SkipError("the file is empty (0 bytes)", serious=named)
    if start[128:132] == b"DICM":
        return False
    # Old files have no preamble: they begin with a tag of group 2 or 8, little or big endian.
    if start[:2] in (b"\x02\x00", b"\x08\x00") or start[:2] in (b"\x00\x02", b"\x00\x08"):
        return True
    raise _SkipError("it is not a DICOM file" + (", though its name says so" if named else ""), serious=named)


def _pixel_storage(path: Path, stream: BinaryIO, dataset: FileDataset) -> PixelStorage:
    modality = str(dataset.get("Modality", "") or "").upper()
    if "DirectoryRecordSequence" in dataset or path.name.upper().startswith("DICOMDIR"):
        raise _SkipError("a DICOMDIR (table of contents), not an image")
    if modality in _NOT_IMAGES:
        raise _SkipError(_NOT_IMAGES[modality])
    sop_name = getattr(dataset.get("SOPClassUID", ""), "name", "")
    for word, key in (
        ("Segmentation", "SEG"),
        ("RT Dose", "RTDOSE"),
        ("RT Structure", "RTSTRUCT"),
        ("Plan", "RTPLAN"),
    ):
        if word in sop_name and "Storage" in sop_name:
            raise _SkipError(_NOT_IMAGES[key])
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
    deflated = bool(getattr(syntax, "is_deflated", False)) and str(syntax) == "1.2.840.10008.1.2.1.99"
    offset, missing = None, 0
    if deflated:  # the place in the file says nothing: read it whole
        if not any(tag in open_dicom(path) for tag in _PIXEL_TAGS):
            raise _SkipError("it holds no image")
    else:
        plain = not syntax.is_encapsulated and str(syntax) != "1.2.840.10008.1.2.2"
        kind, offset, length = _find_pixels(path, stream, dataset, big=str(syntax) == "1.2.840.10008.1.2.2")
        if not plain or length == _UNDEFINED or kind != "PixelData":
            offset = None
    rows, columns = integer_of(dataset, "Rows"), integer_of(dataset, "Columns")
    bits = integer_of(dataset, "BitsAllocated")
    if not rows or not columns or not bits:
        raise _SkipError("it has pixels, but no matrix size or bit depth", serious=True)
    stored = integer_of(dataset, "BitsStored") or bits
    high = integer_of(dataset, "HighBit")
    frames = max(1, integer_of(dataset, "NumberOfFrames") or 1)
    samples = integer_of(dataset, "SamplesPerPixel") or 1
    if offset is not None:
        needed = math.ceil(rows * columns * samples * frames * bits / 8)
        missing = max(0, needed - max(0, path.stat().st_size - offset), needed - length if length else needed)
    return PixelStorage(
        transfer_syntax=str(syntax),
        photometric=str(dataset.get("PhotometricInterpretation", "") or "MONOCHROME2").upper(),
        samples_per_pixel=samples,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        signed=integer_of(dataset, "PixelRepresentation") == 1,
        frames=frames,
        offset=offset,
        has_modality_lut=bool(dataset.get("ModalityLUTSequence")),
        missing_bytes=missing,
    )


# The length that says "until the end mark"; pixels stored so are compressed, whatever the transfer syntax says.
_UNDEFINED = 0xFFFFFFFF


def _find_pixels(
    path: Path, stream: BinaryIO, dataset: FileDataset, big: bool
) -> tuple[str, int | None, int]:
    """Returns (keyword, offset, length) of the pixel element at which pydicom stopped reading."""
    start = stream.tell()
    head = stream.read(12)
    order = ">" if big else "<"
    keyword = _PIXEL_TAGS.get(struct.unpack(order + "HH", head[:4]), "") if len(head) >= 8 else ""
    if not keyword:
        kind = dataset.get("SOPClassUID")
        # Without a kind the file was cut off before it, or is no image of any sort.
        image = kind is None or "Image Storage" in getattr(kind, "name", "")
        cut = image and not head and path.suffix.lower() in DICOM_SUFFIXES
        more = "; the file ends before its pixels, copy or export it again" if cut else ""
        raise _SkipError("it holds no image" + more, serious=cut)
    implicit = dataset.original_encoding[0]
    if implicit or (implicit is None and not head[4:6].isalpha()):  # the length follows the tag at once
        return keyword, start + 8, struct.unpack(order + "I", head[4:8])[0]
    if len(head) < 12:
        raise _SkipError("the file ends before its pixels; copy or export it again", serious=True)
    return keyword, start + 12, struct.unpack(order + "I", head[8:12])[0]


def _headers_of(path: Path, dataset: FileDataset, storage: PixelStorage) -> list[SliceHeader]:
    patient_id = text_of(dataset, "PatientID")
    shared = {
        "path": path,
        "series_uid": text_of(dataset, "SeriesInstanceUID"),
        "study_uid": text_of(dataset, "StudyInstanceUID"),
        "frame_of_reference_uid": text_of(dataset, "FrameOfReferenceUID"),
        "sop_uid": text_of(dataset, "SOPInstanceUID"),
        "patient_key": hashlib.sha256(patient_id.encode()).hexdigest()[:12] if patient_id else "",
        "identity": identity_of(dataset, patient_id),
        "person_name": tuple(
            # One letter is an initial, one Chinese character a name.
            part
            for part in name_words_of(dataset)
            if len(part) > 1 or ord(part) >= _FIRST_IDEOGRAPH
        ),
        "modality": text_of(dataset, "Modality").upper(),
        "rows": integer_of(dataset, "Rows"),
        "columns": integer_of(dataset, "Columns"),
        "series_number": integer_of(dataset, "SeriesNumber"),
        "pixels": storage,
        "sop_class": text_of(dataset, "SOPClassUID"),
    }
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame:
        if len(per_frame) != storage.frames:
            raise _SkipError(
                "its table of frames does not fit its number of frames; export it again", serious=True
            )
        common = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        return [
            _slice(dataset, [item, common], frame if storage.frames > 1 else None, shared)
            for frame, item in enumerate(per_frame)
        ]
    if storage.frames > 1:  # cine or tomography without a place for each frame
        return [_slice(dataset, [], frame, shared) for frame in range(storage.frames)]
    return [_slice(dataset, [], None, shared)]


def _slice(dataset: Dataset, groups: list[Dataset], frame: int | None, shared: dict[str, Any]) -> SliceHeader:
    """Builds one slice; ``groups`` are the functional groups of its frame, the frame's own before the shared ones."""

    def look(sequence: str, keyword: str) -> Any:
        for group in groups:
            items = group.get(sequence)
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return None if frame is not None and keyword in _PLACE else dataset.get(keyword)

    image_type = tuple(str(value).upper() for value in many_of(dataset.get("ImageType")))
    words = f"{text_of(dataset, 'SeriesDescription')} {text_of(dataset, 'ProtocolName')}".lower()
    said = "LOCALIZER" in image_type or _LOCALIZER.search(words) is not None
    spacing = numbers_of(look("PixelMeasuresSequence", "PixelSpacing"), 2)
    spacing_good = spacing is not None and min(spacing) > 0
    position = numbers_of(look("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = cosines_of(numbers_of(look("PlaneOrientationSequence", "ImageOrientationPatient"), 6))
    slope = number_of(look("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = number_of(look("PixelValueTransformationSequence", "RescaleIntercept"))
    instance = integer_of(dataset, "InstanceNumber")
    return SliceHeader(
        frame=frame,
        position_xyz_mm=None if position is None else (position[0], position[1], position[2]),
        orientation=orientation,
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing is not None and spacing_good else None,
        spacing_source="PixelSpacing" if spacing_good else "",
        spacing_note="" if spacing_good else _why_no_spacing(dataset, spacing),
        slice_thickness_mm=positive_of(look("PixelMeasuresSequence", "SliceThickness")),
        spacing_between_slices_mm=positive_of(look("PixelMeasuresSequence", "SpacingBetweenSlices")),
        instance_number=frame + 1 if frame is not None and instance is None else instance,
        image_type=image_type,
        is_localizer=said and shared["modality"] in ("MR", "CT", "PT", "NM", ""),
        slope=1.0 if slope is None or slope == 0 else slope,
        intercept=0.0 if intercept is None else intercept,
        time_key=time_key_of(dataset),
        **shared,
    )


# With several frames, the file's own position belongs to none of them.
_PLACE = {"ImagePositionPatient"}


def _why_no_spacing(dataset: Dataset, spacing: list[float] | None) -> str:
    if spacing is not None:
        return "the pixel spacing in the header is 0, so sizes in mm are unknown."
    text = "no pixel spacing, so sizes in mm are unknown."
    if any(numbers_of(dataset.get(key), 2) for key in ("ImagerPixelSpacing", "NominalScannedPixelSpacing")):
        text += " A spacing at the detector is given; it is not the size in the patient and was not used."
    return text
