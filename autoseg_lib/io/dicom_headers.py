"""The headers of DICOM files: what is needed to sort, place and read each slice, and why a file is left out."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from autoseg_lib.io.dicom_scan import QuickScanner
from autoseg_lib.io.dicom_slices import slices_of
from autoseg_lib.io.dicom_storage import (
    DEFLATED,
    DICOM_SUFFIXES,
    SkipError,
    find_pixels,
    pixel_storage,
    quick_storage,
    refuse_what_is_no_image,
)
from autoseg_lib.io.files import is_junk
from autoseg_lib.io.slice_header import HeaderScan, PixelStorage, SkippedFile, SliceHeader

__all__ = ["DICOM_SUFFIXES", "open_dicom", "read_headers", "truncated_text"]

# Files of trained_model/; their first bytes are a length, which can look like the beginning of an old DICOM file.
_MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")

# What files begin with that hold others. They are not opened: what is in them may be anything, of any size.
_ARCHIVES = (
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x1f\x8b", "gzip"),
)
_ARCHIVE_SUFFIXES = (".tar", ".tgz", ".iso", ".bz2", ".xz")

_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription", "PatientName",
    "PatientID", "PatientBirthDate", "ProtocolName", "SliceThickness", "NominalScannedPixelSpacing", "ImagerPixelSpacing",
    "TriggerTime", "NominalCardiacTriggerDelayTime", "SpacingBetweenSlices", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "TemporalPositionIdentifier", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "PixelSpacingCalibrationType", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "EchoTime", "DiffusionBValue", "LossyImageCompression",
)  # fmt: skip
_SEQUENCES = (
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DirectoryRecordSequence",
)  # fmt: skip
_SIEMENS_CREATOR, _MOSAIC_TILES = 0x00190010, 0x0019100A
_QUICK = QuickScanner(_KEYWORDS, _SEQUENCES)


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
        except SkipError as skip:
            skipped.append(SkippedFile(path, skip.reason, skip.serious, skip.archive))
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

    Raises whatever pydicom raises for a damaged file, and SkipError for one that unpacks to far more than an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every small breach of the standard
        with path.open("rb") as stream:
            _refuse_deflated_bomb(stream)
        # From memory: from a file, an element that claims 4 GB would be given 4 GB before the end of the file is noticed.
        dataset = pydicom.dcmread(io.BytesIO(path.read_bytes()), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        )
    return dataset


# --- one file ---------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> list[SliceHeader]:
    if is_junk(path):
        raise SkipError("a file of the operating system")
    if path.suffix.lower() in _MODEL_SUFFIXES:
        raise SkipError("a trained model, not an image")
    named = path.suffix.lower() in DICOM_SUFFIXES
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            force = _check_start(path, stream, named)
            quick = None if force else _QUICK.read(stream)
            if quick is not None:
                refuse_what_is_no_image(path, quick)
                return slices_of(path, quick, quick_storage(path, quick, stream), quick.mosaic_tiles)
            stream.seek(0)
            return _read_with_pydicom(path, stream, named, force)
    except OSError as error:
        raise SkipError(f"it cannot be opened ({error.strerror})", serious=True) from None


def _check_start(path: Path, stream: BinaryIO, named: bool) -> bool:
    """Returns whether to read without the "DICM" mark; skips what is no DICOM at all."""
    start = stream.read(132)
    stream.seek(0)
    if not start:
        raise SkipError("the file is empty (0 bytes)", serious=named)
    if start[128:132] == b"DICM":
        return False
    # Old files have no preamble: they begin with a tag of group 2 or 8, little or big endian.
    if start[:2] in (b"\x02\x00", b"\x08\x00") or start[:2] in (b"\x00\x02", b"\x00\x08"):
        return True
    archive = next((name for mark, name in _ARCHIVES if start.startswith(mark)), "")
    if archive or path.suffix.lower() in _ARCHIVE_SUFFIXES:
        kind = f"a {archive} archive" if archive else "an archive"
        raise SkipError(f"{kind}; archives are not opened, unpack it first", archive=True)
    if not start.strip(b"\0"):
        raise SkipError(
            "its beginning is empty (zeros); copy or export it again" if named else "it is not a DICOM file",
            serious=named,
        )
    raise SkipError("it is not a DICOM file" + (", though its name says so" if named else ""), serious=named)


def _read_with_pydicom(path: Path, stream: BinaryIO, named: bool, force: bool) -> list[SliceHeader]:
    _refuse_deflated_bomb(stream)
    names = [*_KEYWORDS, *_SEQUENCES]
    tags = [*(tag for tag in map(tag_for_keyword, names) if tag is not None), _SIEMENS_CREATOR, _MOSAIC_TILES]
    try:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags, force=force)
    except InvalidDicomError:
        raise SkipError("it is not a DICOM file", serious=named) from None
    refuse_what_is_no_image(path, dataset)
    storage = _storage(path, stream, dataset)
    return slices_of(path, dataset, storage, _mosaic_tiles(dataset))


def _storage(path: Path, stream: BinaryIO, dataset: FileDataset) -> PixelStorage:
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
    size = path.stat().st_size
    if syntax == DEFLATED:  # the place in the file says nothing: read it whole
        whole = open_dicom(path)
        kind = next((k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in whole), "")
        if not kind:
            raise SkipError("it holds no image")
        return pixel_storage(dataset, syntax, kind, None, 0, size)
    kind, offset, length = find_pixels(path, stream, dataset, syntax)
    return pixel_storage(dataset, syntax, kind, offset, length, size)


def _mosaic_tiles(dataset: FileDataset) -> int:
    """Returns how many images a Siemens scanner tiled in one picture, by its private word for it."""
    creator = dataset.get(_SIEMENS_CREATOR)
    if creator is None or not str(creator.value).startswith("SIEMENS MR HEADER"):
        return 0
    tiles = dataset.get(_MOSAIC_TILES)
    value = getattr(tiles, "value", 0)
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], "little")
    return value if isinstance(value, int) else 0


# Images of one colour deflate to a thousandth, all others to a tenth at best.
_HARMLESS_BYTES, _DEFLATES_AT_MOST = 128 << 20, 100


def _refuse_deflated_bomb(stream: BinaryIO) -> None:
    """Raises SkipError for a deflated file (PS3.5 A.5) that would fill the memory, without unpacking more than a part."""
    start, syntax = _QUICK.dataset_start(stream)
    if syntax == DEFLATED:
        stream.seek(start)
        engine, packed, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
        while block := stream.read(1 << 20):
            packed += len(block)
            while block:
                try:
                    unpacked += len(engine.decompress(block, 1 << 24))
                except zlib.error:
                    break  # damaged: pydicom says so
                block = engine.unconsumed_tail
                if unpacked > max(_HARMLESS_BYTES, _DEFLATES_AT_MOST * packed):
                    raise SkipError(
                        "it unpacks to far more than an image of its size; it was not opened", serious=True
                    )
    stream.seek(0)
