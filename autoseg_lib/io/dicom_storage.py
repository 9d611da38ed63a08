"""How the pixels of one DICOM file are stored, and which files hold no picture of the patient at all."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.dataset import FileDataset
from pydicom.uid import UID

from autoseg_lib.io.dicom_scan import UNDEFINED, QuickHeader
from autoseg_lib.io.dicom_values import integer_of, text_of
from autoseg_lib.io.slice_header import PixelStorage

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", ".dc3")

BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
# Transfer syntaxes whose pixels lie in the file as they are (PS3.5 A.1 to A.3).
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")

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
    "FID": "a list of marked points, not an image",
    "ECG": "an ECG, not an image",
    "AU": "a sound recording, not an image",
    "DOC": "a document, not an image",
}
# The same by words of the kind of object (SOP class), for files without or with another Modality.
_NOT_IMAGE_WORDS = (
    ("Presentation State", "PR"),  # before "Plan": there are planar ones
    ("Surface Segmentation", "SEG"),
    ("Segmentation", "SEG"),
    ("RT Dose", "RTDOSE"),
    ("RT Structure", "RTSTRUCT"),
    ("Plan", "RTPLAN"),
    ("Treatment Record", "RTRECORD"),
    ("Encapsulated", "DOC"),
    ("Key Object", "KO"),
    ("Registration", "REG"),
    (" SR Storage", "SR"),
    ("Structured Report", "SR"),
    ("ECG", "ECG"),
)
_OTHER_WORDS = (
    ("Raw Data", "the scanner's raw data, not an image"),
    ("Waveform", "a waveform, not an image"),
    ("Spectroscopy", "a spectrum, not an image"),
)
_DIRECTORY = "1.2.840.10008.1.3.10"

# A picture this large (bytes, unpacked) is opened without further thought: 4096 × 4096 pixels of 32 bits.
_HARMLESS_BYTES = 64 << 20
# Images that are wholly black shrink to a thousandth in the best methods, real scans to a half or a tenth.
_SHRINKS_AT_MOST = 1000
# Whole-body dynamic studies have some ten thousand frames.
_MOST_FRAMES = 100_000


class SkipError(Exception):
    """Raised where a file is to be left out, with the reason a user sees."""

    def __init__(self, reason: str, serious: bool = False, archive: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.serious, self.archive = reason, serious, archive


def refuse_what_is_no_image(path: Path, header: Any) -> None:
    """Raises SkipError for plans, contours, reports, tables of contents and the like.

    Args:
        path: the file.
        header: a pydicom dataset or a QuickHeader.
    """
    kind = UID(text_of(header, "SOPClassUID"))
    if "DirectoryRecordSequence" in header or kind == _DIRECTORY:
        raise SkipError("a DICOMDIR (table of contents), not an image")
    modality = text_of(header, "Modality").upper()
    if modality in _NOT_IMAGES:
        raise SkipError(_NOT_IMAGES[modality])
    name = kind.name
    if "Storage" in name:
        for word, key in _NOT_IMAGE_WORDS:
            if word in name:
                raise SkipError(_NOT_IMAGES[key])
        for word, reason in _OTHER_WORDS:
            if word in name:
                raise SkipError(reason)


def find_pixels(path: Path, stream: BinaryIO, dataset: FileDataset, syntax: str) -> tuple[str, int, int]:
    """Returns (keyword, offset, length) of the pixel element at which pydicom stopped reading.

    Raises:
        SkipError: there is none.
    """
    start = stream.tell()
    head = stream.read(12)
    order = ">" if syntax == BIG_ENDIAN else "<"
    keyword = _PIXEL_TAGS.get(struct.unpack(order + "HH", head[:4]), "") if len(head) >= 8 else ""
    if not keyword:
        kind = text_of(dataset, "SOPClassUID")
        # Without a kind the file was cut off before it, or is no image of any sort.
        image = not kind or "Image Storage" in UID(kind).name
        cut = image and not head and path.suffix.lower() in DICOM_SUFFIXES
        more = "; the file ends before its pixels, copy or export it again" if cut else ""
        raise SkipError("it holds no image" + more, serious=cut)
    implicit = dataset.original_encoding[0]
    if implicit or (implicit is None and not head[4:6].isalpha()):  # the length follows the tag at once
        return keyword, start + 8, struct.unpack(order + "I", head[4:8])[0]
    if len(head) < 12:
        raise SkipError("the file ends before its pixels; copy or export it again", serious=True)
    return keyword, start + 12, struct.unpack(order + "I", head[8:12])[0]


_PIXEL_TAGS = {
    (0x7FE0, 0x0010): "PixelData",
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
}


def pixel_storage(
    header: Any, syntax: str, kind: str, offset: int | None, length: int, size: int
) -> PixelStorage:
    """Returns how the pixels are stored.

    Args:
        header: a pydicom dataset or a QuickHeader.
        syntax: UID of the transfer syntax.
        kind: keyword of the pixel element.
        offset: byte where its value begins; None where the place in the file says nothing (deflated).
        length: its length, UNDEFINED for fragments.
        size: bytes of the file.

    Raises:
        SkipError: matrix or depth are missing, or the file promises far more pixels than can be in it.
    """
    rows, columns = integer_of(header, "Rows"), integer_of(header, "Columns")
    bits = integer_of(header, "BitsAllocated")
    if kind != "PixelData":
        bits = 32 if kind == "FloatPixelData" else 64
    if not rows or not columns or not bits or min(rows, columns, bits) < 0:
        raise SkipError("it has pixels, but no matrix size or bit depth", serious=True)
    stored = integer_of(header, "BitsStored") or bits
    stored = stored if 0 < stored <= bits else bits
    high = integer_of(header, "HighBit")
    frames = max(1, integer_of(header, "NumberOfFrames") or 1)
    samples = max(1, integer_of(header, "SamplesPerPixel") or 1)
    photometric = (text_of(header, "PhotometricInterpretation") or "MONOCHROME2").upper()
    # Colour at half or a quarter of the resolution of brightness takes less (PS3.3 C.7.6.3.1.2).
    share = 2 / 3 if photometric.endswith("_422") else 1 / 2 if photometric.endswith("_420") else 1
    needed = math.ceil(rows * columns * samples * frames * bits / 8 * share)
    in_file = size - (offset or 0)
    plain = syntax in PLAIN and length != UNDEFINED and kind == "PixelData" and offset is not None
    missing = 0
    if plain:
        missing = max(0, needed - max(0, in_file), needed - length if length else needed)
    _refuse_the_impossible(needed, in_file, frames, plain)
    return PixelStorage(
        transfer_syntax=syntax,
        photometric=photometric,
        samples_per_pixel=samples,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=high if high is not None and stored - 1 <= high < bits else stored - 1,
        signed=integer_of(header, "PixelRepresentation") == 1,
        frames=frames,
        offset=offset if plain else None,
        has_modality_lut=bool(header.get("ModalityLUTSequence")),
        missing_bytes=missing,
        # One byte makes an odd number even.
        extra_bytes=max(0, length - needed) if plain and length - needed > 1 else 0,
        lossy=text_of(header, "LossyImageCompression") == "01",
    )


def _refuse_the_impossible(needed: int, in_file: int, frames: int, plain: bool) -> None:
    """Raises SkipError before anything of the promised size is made."""
    # A frame of its own needs a byte at least, a compressed one an item of 8 bytes and a beginning.
    most = min(_MOST_FRAMES, in_file if plain else max(1, in_file // 10))
    if frames > 1 and frames > most:
        raise SkipError(
            f"its header promises {frames} frames, which cannot be in a file of {_size(in_file)}; it was not opened",
            serious=True,
        )
    if needed > _HARMLESS_BYTES and needed > _SHRINKS_AT_MOST * max(1, in_file):
        raise SkipError(
            f"its header promises {_size(needed)} of pixels, which cannot be in a file of {_size(in_file)}; it was not "
            "opened",
            serious=True,
        )


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if count >= unit:
            return f"{count / unit:.0f} {name}"
    return f"{count} bytes"


def quick_storage(path: Path, header: QuickHeader, stream: BinaryIO) -> PixelStorage:
    """Returns ``pixel_storage`` of a header that was read the quick way."""
    size = os.fstat(stream.fileno()).st_size
    return pixel_storage(header, header.transfer_syntax, header.kind, header.offset, header.length, size)
