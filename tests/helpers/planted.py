"""A person's data planted in every text, name, number and date of DICOM files, and a search for them in what is written."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

TEXT, DATE, TIME, AGE = "ZQXVIKMARK", "18870614", "235147.918273", "117Y"
_BY_KIND = {
    **dict.fromkeys(("PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"), TEXT),
    "DA": DATE,
    "TM": TIME,
    "DT": DATE + TIME,
    "AS": AGE,
}
# What a label file has to say for the ROIs to be found at all, and what tells how the pixels are coded.
_NEEDED = {"ROIName", "SegmentLabel"}
# The ways in which people and programs write what was planted; upper case.
_TRACES = (
    TEXT, TEXT[:6], DATE, "1887-06-14", "14.06.1887", "14/06/1887", "06/14/1887", "14061887", "06141887", "235147.9", "23:51:47",
)  # fmt: skip
# Too short to mean anything among random bytes.
_TRACES_IN_TEXT = (AGE,)


def plant(path: Path, number: int = 1) -> set[str]:
    """Writes the marker into every element of a DICOM file that can hold text, a name, a number or a date of a person.

    Args:
        path: the file, changed in place.
        number: tells patients apart.

    Returns:
        The file's own UIDs.
    """
    dataset = pydicom.dcmread(path)
    for tag, (kind, many, _, retired, keyword) in DicomDictionary.items():
        if (
            tag >> 16 >= 8
            and keyword
            and keyword not in _NEEDED
            and not retired
            and kind in _BY_KIND
            and many[0] == "1"
        ):
            dataset.add_new(tag, kind, _BY_KIND[kind])
    # Scans that were made as different patients', for splitting by patient.
    dataset.PatientID = f"{TEXT}{number}"
    dataset.PatientName = f"{TEXT}{number}^{TEXT}"
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID = TEXT, TEXT
    dataset.OtherPatientIDsSequence = Sequence([item])
    block = dataset.private_block(0x0011, TEXT, create=True)
    block.add_new(1, "PN", TEXT)
    block.add_new(2, "DA", DATE)
    dataset.file_meta.SourceApplicationEntityTitle = TEXT
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = TEXT.encode()
    dataset.preamble = (TEXT.encode() * 20)[:128]
    dataset.save_as(path, enforce_file_format=True)
    return {
        str(element.value)
        for element in dataset.iterall()
        if element.VR == "UI"
        and re.fullmatch(r"[\d.]{20,}", str(element.value))
        and "Class" not in element.keyword
    }


def traces_in(name: str, content: bytes, also: tuple[str, ...] = ()) -> list[str]:
    """Returns which of the planted texts occur in a file's bytes, unpacked where it is an archive or a picture.

    Args:
        name: the file's name, for the answer; it is searched too.
        content: its bytes.
        also: further texts to look for.
    """
    found = []
    for part in [name.encode(), *_unpacked(content)]:
        for text in (part.decode("latin-1").upper(), part.decode("utf-16-le", "ignore").upper()):
            found += [f"{name}: {trace}" for trace in (*_TRACES, *also) if trace.upper() in text]
        if _is_text(part):
            found += [f"{name}: {trace}" for trace in _TRACES_IN_TEXT if trace in part.decode().upper()]
    return sorted(set(found))


def traces_below(folder: Path, also: tuple[str, ...] = (), leave_out: tuple[str, ...] = ()) -> list[str]:
    """Returns the planted texts found in the files below a folder, file by file.

    Args:
        folder: where to look.
        also: further texts to look for.
        leave_out: suffixes of files that are the scans themselves.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() not in leave_out:
            found += traces_in(str(path.relative_to(folder)), path.read_bytes(), also)
    return found


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unpacked(content: bytes) -> list[bytes]:
    parts = [content]
    if content[:2] == b"\x1f\x8b":
        parts.append(gzip.decompress(content))
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts += [archive.read(member) for member in archive.namelist()]
    if content[:4] == b"\x89PNG" or content[:2] == b"\xff\xd8":
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            parts.append(repr(picture.info).encode())
    return parts
