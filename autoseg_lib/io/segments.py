"""Files that hold ROIs by name: radiotherapy structure sets, DICOM segmentations and 3D Slicer's own files.

One way for all of them: ``open_segments`` reads the file, ``SegmentFile.layers`` gives the ROIs one after the other on a
scan's grid, and ``paint`` turns them into one label array.
"""

from __future__ import annotations

import struct
import warnings as python_warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import BaseTag

from autoseg_lib.errors import DataError, name_list
from autoseg_lib.io.dicom_values import identity_of, text_of
from autoseg_lib.io.limits import is_regular
from autoseg_lib.io.segment_file import SegmentFile, SegmentInfo, same_name

__all__ = [
    "SegmentFile",
    "SegmentInfo",
    "describe_segments",
    "identity_in",
    "is_segment_file",
    "open_segments",
    "paint",
    "same_name",
    "tells_overlap",
]

# What ``paint`` says of ROIs that share pixels; measuring and comparing then take each ROI alone.
_OVERLAP = "overlap in"

# SOP classes: RT Structure Set; Segmentation; Label Map Segmentation (DICOM PS3.6, A).
_SOP_KINDS = {
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
}
_NRRD_SUFFIXES = (".nrrd", ".nhdr")
# Old DICOM files have no preamble: they begin with a tag of group 2 or 8, little or big endian.
_DICOM_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_MODALITY = 0x00080060


def is_segment_file(path: Path) -> bool:
    """Whether a file holds ROIs by name, told by its content; quick, and never raises."""
    return _kind(path) != ""


def open_segments(path: Path, *, fractional_threshold: float = 0.5) -> SegmentFile:
    """Opens a file that holds ROIs by name.

    Args:
        path: an RTSTRUCT, a DICOM SEG or a .seg.nrrd.
        fractional_threshold: share (0 to 1) from which a pixel of a fractional DICOM SEG counts as inside.

    Raises:
        DataError: it cannot be opened, is no such file, is damaged, or holds nothing to show.
    """
    kind = _kind(path)
    if kind == "SLICER":
        from autoseg_lib.io.seg_nrrd import SlicerSegmentation

        return SlicerSegmentation(path)
    if not kind:
        if not is_regular(path):
            raise DataError(f"'{path}': not found. Check the path.")
        raise DataError(
            f"'{path.name}': it holds no ROIs by name. Expected an RTSTRUCT, a DICOM SEG or a 3D Slicer segmentation "
            "(.seg.nrrd)."
        )
    dataset = _read_dicom(path)
    if kind == "RTSTRUCT":
        from autoseg_lib.io.rtstruct import parse

        return parse(path, dataset)
    from autoseg_lib.io.dicom_seg import parse as parse_seg

    return parse_seg(path, dataset, fractional_threshold)


def describe_segments(path: Path, shown: int = 5) -> str:
    """Returns one line on what a file holds: "RTSTRUCT with 2 ROIs: 'GTV-1', 'Lung left'"; never raises."""
    try:
        file = open_segments(path)
    except DataError:
        return "a file with ROIs that cannot be read"
    names = [segment.name for segment in file.segments]
    return f"{file.kind} with {len(names)} ROI{'' if len(names) == 1 else 's'}: {name_list(names, shown)}"


def paint(
    layers: Iterable[tuple[SegmentInfo, npt.NDArray[np.bool_]]],
    values: Mapping[str, int],
    *,
    priority: Sequence[str] = (),
) -> tuple[npt.NDArray[np.unsignedinteger], tuple[str, ...]]:
    """Paints ROIs into one label array.

    Where ROIs overlap, the one named earlier in ``priority`` lies on top; those not named there lie below, the later in
    ``values`` above the earlier. ROIs with one value are united.

    Args:
        layers: from ``SegmentFile.layers``.
        values: label value (from 1) of each ROI name; case, spaces, "_" and "-" make no difference.
        priority: names of ROIs, the first on top.

    Returns:
        (slice, row, column) label values, and sentences on overlaps and on ROIs that were left out.

    Raises:
        DataError: there is no layer at all, or a value is no label value.
    """
    wanted = {same_name(name): int(value) for name, value in values.items()}
    bad = [value for value in wanted.values() if not 0 < value <= np.iinfo(np.uint16).max]
    if bad:
        raise DataError(f"label values go from 1 to 65535, found {bad[0]}.")
    dtype = np.uint8 if max(wanted.values(), default=0) <= np.iinfo(np.uint8).max else np.uint16
    ranks = _ranks(values, priority)
    shown: dict[int, str] = {}
    # ROIs with one value lie as high as the highest of them, in whatever order a file holds them.
    heights = np.zeros(max(wanted.values(), default=0) + 1, dtype=np.int64)
    for name, number in wanted.items():
        heights[number] = max(heights[number], ranks[name])
    labels: npt.NDArray[np.unsignedinteger] | None = None
    overlaps: dict[tuple[int, int], int] = {}
    left_out: list[str] = []
    for segment, layer in layers:
        if labels is None:
            labels = np.zeros(layer.shape, dtype=dtype)
        value = wanted.get(same_name(segment.name))
        if value is None:
            left_out.append(segment.name)
            continue
        shown.setdefault(value, segment.name)
        below = labels[layer]  # values already there, one for each pixel of this ROI
        counts = np.bincount(below, minlength=1)
        others = [other for other in np.flatnonzero(counts).tolist() if other not in (0, value)]
        if not others:
            labels[layer] = value
            continue
        for other in others:
            overlaps[value, other] = overlaps.get((value, other), 0) + int(counts[other])
        labels[layer] = np.where(heights[below] > heights[value], below, np.array(value, dtype=dtype))
    if labels is None:
        raise DataError("there is no ROI to paint. Check the file.")
    notes = []
    for (one, other), pixels in overlaps.items():
        top, under = (one, other) if heights[one] > heights[other] else (other, one)
        notes.append(
            f"'{shown[top]}' and '{shown[under]}' {_OVERLAP} {pixels} pixels, which count as '{shown[top]}'. "
            "For another order, set overlap_priority."
        )
    if left_out:
        notes.append(f"ROIs that are not in labels_list, left out: {name_list(left_out)}.")
    return labels, tuple(notes)


def tells_overlap(notes: Iterable[str]) -> bool:
    """Whether one of the sentences from ``paint`` says that ROIs overlap."""
    return any(f" {_OVERLAP} " in note for note in notes)


def _ranks(values: Mapping[str, int], priority: Sequence[str]) -> dict[str, int]:
    """Returns how high each ROI lies by name for comparing; every height is used once."""
    order = [same_name(name) for name in values]
    first = [name for name in dict.fromkeys(same_name(name) for name in priority) if name in order]
    upwards = [name for name in order if name not in first] + first[::-1]
    return {name: height for height, name in enumerate(upwards, start=1)}


# --- telling what a file is -------------------------------------------------------------------------------------------


def _kind(path: Path) -> str:
    """Returns "RTSTRUCT", "SEG", "SLICER" or ""; never raises."""
    try:
        if not is_regular(path):
            return ""
        name = path.name.lower()
        if name.endswith(_NRRD_SUFFIXES):
            return "SLICER" if _is_slicer(path) else ""
        return _dicom_kind(path)
    except Exception:  # noqa: BLE001  # a damaged file makes pydicom raise almost anything; it is no such file then
        return ""


def _is_slicer(path: Path) -> bool:
    if path.name.lower().endswith((".seg.nrrd", ".seg.nhdr")):
        return path.is_file()
    with path.open("rb") as stream:
        head = stream.read(100_000).split(b"\n\n")[0].replace(b"\r", b"")
    return head.startswith(b"NRRD") and b"\nSegment0_" in head


def _dicom_kind(path: Path) -> str:
    with path.open("rb") as stream, python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        start = stream.read(132)
        marked = start[128:132] == b"DICM"
        if not marked and start[:2] not in _DICOM_STARTS:
            return ""
        if marked:
            meta = read_file_meta_info(path)
            kind = _SOP_KINDS.get(str(meta.get("MediaStorageSOPClassUID", "")))
            if kind or str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
                return kind or ""
        stream.seek(0)
        found = read_partial(stream, stop_when=_after_modality, force=True)
        # Still inside: values are looked at when they are asked for, and pydicom warns with what they hold.
        modality = str(found.get("Modality", "") or "").upper()
        kind = _SOP_KINDS.get(str(found.get("SOPClassUID", "")))
    return kind or (modality if modality in ("RTSTRUCT", "SEG") else "")


_DEFLATED = "1.2.840.10008.1.2.1.99"


def identity_in(path: Path) -> frozenset[str]:
    """Returns what an RTSTRUCT or DICOM SEG says of its patient (name, number, birth date); used only to keep it out of
    outputs. Empty for other files; never raises, a damaged file tells what can still be read.
    """
    try:
        if _kind(path) not in ("RTSTRUCT", "SEG"):
            return frozenset()
        with path.open("rb") as stream, python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            marked = stream.read(132)[128:] == b"DICM"
            if marked and str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == _DEFLATED:
                header = _read_dicom(path)  # which looks first how much it unpacks to
            else:
                stream.seek(0)
                header = read_partial(stream, stop_when=_after_patient, force=True)
            name, number, birth = (text_of(header, keyword) for keyword in _PATIENT)
        return identity_of(name, number, birth)
    except Exception:  # noqa: BLE001  # a damaged file makes pydicom raise almost anything; why is said when it is opened
        return frozenset()


_PATIENT = ("PatientName", "PatientID", "PatientBirthDate")
_LAST_OF_PATIENT = 0x0010FFFF


def _after_patient(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag > _LAST_OF_PATIENT


def _after_modality(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag > _MODALITY


def _read_dicom(path: Path) -> pydicom.Dataset:
    # Not at the top: most runs never meet such a file.
    from autoseg_lib.io.dicom_headers import open_dicom
    from autoseg_lib.io.dicom_storage import SkipError

    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(
            f"'{path.name}': it cannot be opened ({error.strerror or error}). Check the file."
        ) from None
    try:
        dataset = open_dicom(path)
        if _is_cut(dataset):
            raise EOFError
        return dataset
    except (EOFError, OSError, struct.error) as error:  # pydicom's words for a file that ends too early
        raise DataError(
            f"'{path.name}': the file ends early or is damaged. Copy or export it again."
        ) from error
    except SkipError as skip:
        raise DataError(f"'{path.name}': {skip.reason}. Export it again.") from None
    except Exception as error:  # a damaged file makes pydicom raise almost anything
        raise DataError(
            f"'{path.name}': it cannot be read as DICOM. The file is damaged; export it again."
        ) from error


def _is_cut(dataset: pydicom.Dataset) -> bool:
    """Whether an element is shorter than it says; pydicom takes what there is of it in silence."""
    for tag in dataset.keys():  # noqa: SIM118  # a dataset's own iteration would convert every element
        raw = dataset.get_item(tag)
        if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
            continue
        if raw.length != _UNDEFINED and len(raw.value) < raw.length:
            return True
    return False


_UNDEFINED = 0xFFFFFFFF
