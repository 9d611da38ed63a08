"""From slice headers to series: which slices belong together, in which order, and what is odd about them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg_lib.io.dicom_contrasts import by_contrast
from autoseg_lib.io.dicom_folders import join_folders
from autoseg_lib.io.dicom_geometry import same_place_mm, series_geometry
from autoseg_lib.io.dicom_headers import DICOM_SUFFIXES
from autoseg_lib.io.dicom_notes import series_notes
from autoseg_lib.io.dicom_pixels import read_pixels, same_pixels, why_refused
from autoseg_lib.io.files import is_safe_name, natural_key, sha256_of
from autoseg_lib.io.identity import names_person
from autoseg_lib.io.slice_header import SliceHeader
from autoseg_lib.volume import Volume

# Direction cosines of one series differ by rounding only (1e-6 or so); 0.001 is 0.06 degrees.
_SAME_DIRECTION = 1e-3
# Pixel spacings that differ by less than a ten-thousandth are one spacing written with more or fewer digits.
_SAME_SPACING = 1e-4


@dataclass(frozen=True)
class DicomSeries:
    """Slices of one scan.

    Attributes:
        headers: sorted along the normal, then by time and instance number; by instance number without positions.
        key: short hash of the UIDs and the kind of slices; tells series apart without telling who it is.
        modality: DICOM's word.
        is_localizer: whether the scanner calls it a localizer, scout or survey.
        warnings: sentences on what is odd about it.
        slice_names: one name per slice: the file's base name, NAME_0001 for frames; free of the patient's identity.
    """

    headers: tuple[SliceHeader, ...] = field(repr=False)
    key: str
    modality: str
    is_localizer: bool
    warnings: tuple[str, ...]
    slice_names: tuple[str, ...] = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """One path per slice (a multi-frame file repeats)."""
        return tuple(header.path for header in self.headers)

    @property
    def folder(self) -> Path:
        """The folder of the slices; the one above them where they lie in several."""
        folders = sorted({header.path.parent for header in self.headers})
        try:
            return folders[0] if len(folders) == 1 else Path(os.path.commonpath(folders))
        except ValueError:  # a manifest that names files on two drives
            return self.headers[0].path.parent

    @property
    def kind(self) -> str:
        """ "scan", "localizer", "derived" (worked out from other images: a reformat, a projection), or "screenshot"."""
        return kind_of(self.headers[0]) if not self.is_localizer else "localizer"

    @property
    def problem(self) -> str:
        """Why its pixels will be refused, as a sentence; "" where nothing speaks against reading them."""
        return next((text for text in map(why_refused, self.headers) if text), "")

    @property
    def identity(self) -> frozenset[str]:
        """Lower-case texts that would tell who the patient is."""
        return frozenset().union(*(header.identity for header in self.headers))


def group_series(headers: Iterable[SliceHeader], *, across_folders: bool = False) -> list[DicomSeries]:
    """Groups slices into series, in a fixed order: by folder, series number, then file name.

    Slices belong together that share SeriesInstanceUID, matrix, directions and pixel spacing and lie in one folder
    (a series whose every slice has a folder of its own is put together). The same image stored twice counts once.

    Args:
        headers: slices of any number of series.
        across_folders: whether folders of one SeriesInstanceUID are put together where their slices make one stack.
            False where folders are the user's own division (training data).
    """
    by_uid: dict[str, list[SliceHeader]] = defaultdict(list)
    for header in headers:
        by_uid[header.series_uid].append(header)
    series: list[DicomSeries] = []
    for uid, members in by_uid.items():
        parts = [alike for group in _by_folder(uid, members) for alike in _by_kind(group)]
        whole = join_folders(parts, _alike) if across_folders and uid else parts
        series += [series_from(kind) for part in whole for kind in by_contrast(part)]
    return sorted(series, key=_order)


def spread_series(groups: Sequence[DicomSeries]) -> list[list[DicomSeries]]:
    """Returns the scans that share one SeriesInstanceUID and kind of slices but lie in different folders."""
    clusters: list[list[DicomSeries]] = []
    for group in groups:
        first = group.headers[0]
        for cluster in clusters:
            other = cluster[0].headers[0]
            if first.series_uid == other.series_uid and first.series_uid and _alike(first, other):
                cluster.append(group)
                break
        else:
            clusters.append([group])
    return [cluster for cluster in clusters if len({group.folder for group in cluster}) > 1]


def read_series(series: DicomSeries) -> Volume:
    """Reads all slices of a series.

    Args:
        series: from ``group_series``.

    Returns:
        Volume of (slice, row, column), int16 where that is exact, else float32, rescale values applied; slices in the
        order of ``series.headers``; spacing_source "PixelSpacing" or "".

    Raises:
        DataError: a file is cut off, cannot be decoded, is in colour, or holds many slices tiled in one picture.
    """
    geometry, _ = series_geometry(series.headers)
    return Volume(read_pixels(series.headers), geometry, series.modality, series.headers[0].spacing_source)


def slice_stem(path: Path) -> str:
    """Returns a DICOM file's base name; "1.2.840.5" without a DICOM suffix stays whole."""
    return path.stem if path.suffix.lower() in DICOM_SUFFIXES else path.name


def _by_folder(uid: str, members: list[SliceHeader]) -> list[list[SliceHeader]]:
    # One UID for several patients is a mistake of whoever made the files anonymous; they are never one scan.
    patients = list(dict.fromkeys(header.patient_key for header in members))
    if len(patients) > 1:
        apart = [[h for h in members if h.patient_key == patient] for patient in patients]
        return [group for part in apart for group in _by_folder(uid, part)]
    folders: dict[Path, list[SliceHeader]] = defaultdict(list)
    for header in members:
        folders[header.path.parent].append(header)
    placed = all(header.position_xyz_mm is not None for header in members)
    alone = all(len({h.path for h in group}) == 1 for group in folders.values())
    if uid and len(folders) > 1 and alone and placed:
        return [members]
    return list(folders.values())


def _by_kind(members: list[SliceHeader]) -> list[list[SliceHeader]]:
    groups: list[list[SliceHeader]] = []
    seen: set[tuple[str, int | None]] = set()
    for header in sorted(members, key=lambda h: (natural_key(h.path.name), str(h.path), h.frame or 0)):
        image = (header.sop_uid, header.frame)
        if (
            header.sop_uid
            and image in seen
            and any(_is_copy(header, other) for group in groups for other in group)
        ):
            continue
        seen.add(image)
        for group in groups:
            if _alike(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    return groups


def _is_copy(one: SliceHeader, other: SliceHeader) -> bool:
    return (
        (one.sop_uid, one.frame) == (other.sop_uid, other.frame)
        and one.position_xyz_mm == other.position_xyz_mm
        and one.instance_number == other.instance_number
        and one.time_key == other.time_key
        # Without a position or a number a UID alone is weak evidence: some exports give every picture the same one.
        and (
            (one.position_xyz_mm is not None and one.instance_number is not None)
            or sha256_of(one.path) == sha256_of(other.path)
        )
    )


def _alike(one: SliceHeader, other: SliceHeader) -> bool:
    # Frames without a place belong to their own file only (a cine clip).
    if (
        one.position_xyz_mm is None
        and (one.frame is not None or other.frame is not None)
        and one.path != other.path
    ):
        return False
    same = (
        one.rows,
        one.columns,
        one.samples_per_pixel,
        one.modality,
        one.is_localizer,
        one.stack_id,
        one.position_xyz_mm is None,
    )
    if same != (
        other.rows, other.columns, other.samples_per_pixel, other.modality, other.is_localizer, other.stack_id,
        other.position_xyz_mm is None,
    ):  # fmt: skip
        return False
    return _close(one.orientation, other.orientation, _SAME_DIRECTION, 0) and _close(
        one.pixel_spacing_mm, other.pixel_spacing_mm, 0, _SAME_SPACING
    )


def _close(
    one: Sequence[float] | None, other: Sequence[float] | None, absolute: float, relative: float
) -> bool:
    if one is other:
        return True
    if one is None or other is None or len(one) != len(other):
        return False
    return all(abs(a - b) <= absolute + relative * abs(b) for a, b in zip(one, other, strict=True))


def series_from(members: Sequence[SliceHeader]) -> DicomSeries:
    """Builds one series from slices that are known to belong together (a part of a series, for example)."""
    headers, doubles = _without_doubles(_sorted(members))
    first = headers[0]
    kind = f"{first.rows}x{first.columns} {first.orientation} {first.pixel_spacing_mm}"
    kind += f" {first.image_type} {first.echo_time_ms} {first.stack_id}"
    text = "|".join(
        [first.study_uid, first.series_uid, kind, *([] if first.series_uid else [first.path.name])]
    )
    return DicomSeries(
        headers=headers,
        key=hashlib.sha256(text.encode()).hexdigest()[:8],
        modality=first.modality,
        is_localizer=first.is_localizer,
        warnings=tuple(series_notes(headers, doubles)),
        slice_names=_slice_names(headers),
    )


# Kinds of objects that are pictures of a screen or a paper, not of a patient's slice.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SCREEN_WORDS = {"SCREEN SAVE", "SCREENSHOT", "DOSE_INFO", "CSAREPORT", "REPORT", "CSA REPORT", "EVIDENCE"}


def kind_of(header: SliceHeader) -> str:
    """Returns "screenshot", "derived" or "scan" by ImageType (PS3.3 C.7.6.1.1.2) and the kind of object."""
    words = set(header.image_type)
    captured = header.sop_class.startswith(_SECONDARY_CAPTURE) and header.position_xyz_mm is None
    if words & _SCREEN_WORDS or (captured and header.samples_per_pixel > 1):
        return "screenshot"
    return "derived" if "DERIVED" in words else "scan"


def _without_doubles(headers: Sequence[SliceHeader]) -> tuple[tuple[SliceHeader, ...], int]:
    """Leaves out images that are there twice under different UIDs; returns how many.

    Looked for only where a few places of a stack have more than one image: in cine, dynamic and echo series most have.
    """
    first = headers[0]
    if first.position_xyz_mm is None or first.orientation is None or len(headers) < _FEWEST_FOR_DOUBLES:
        return tuple(headers), 0
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    along = np.array([header.position_xyz_mm for header in headers]) @ normal
    again = np.flatnonzero(np.diff(along) <= same_place_mm(first)) + 1
    if not 0 < len(again) <= len(headers) // _FEWEST_FOR_DOUBLES:
        return tuple(headers), 0
    left_out = {index for index in map(int, again) if same_pixels(headers[index - 1], headers[index])}
    return tuple(h for index, h in enumerate(headers) if index not in left_out), len(left_out)


# Below three slices to one double nobody can tell a double from a second echo.
_FEWEST_FOR_DOUBLES = 3


def _sorted(members: Sequence[SliceHeader]) -> list[SliceHeader]:
    def late(header: SliceHeader) -> tuple[object, ...]:
        number = header.instance_number
        return (
            header.time_key,
            header.echo_time_ms or 0.0,
            header.b_value or 0.0,
            number is None,
            number or 0,
            natural_key(header.path.name),
            header.frame or 0,
        )

    first = members[0]
    if first.position_xyz_mm is None or first.orientation is None:
        return sorted(
            members, key=lambda h: (h.instance_number is None, h.instance_number or 0, *late(h)[5:])
        )
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    along = np.array([np.dot(normal, header.position_xyz_mm or (0, 0, 0)) for header in members])
    order = np.argsort(along, kind="stable")
    # Images at one position stay together although their numbers differ in the last digit.
    places = np.concatenate([[0], np.cumsum(np.diff(along[order]) > same_place_mm(first))])
    place = {int(index): int(number) for index, number in zip(order, places, strict=True)}
    return [members[i] for i in sorted(range(len(members)), key=lambda i: (place[i], *late(members[i])))]


def _slice_names(headers: Sequence[SliceHeader]) -> tuple[str, ...]:
    names = []
    for header in headers:
        stem = slice_stem(header.path)
        names.append(stem if header.frame is None else f"{stem}_{header.frame + 1:04d}")
    doubled = len({name.casefold() for name in names}) < len(names)
    if (
        doubled
        or not all(map(is_safe_name, names))
        or any(names_person(name, header) for name, header in zip(names, headers, strict=True))
    ):
        return tuple(f"slice_{number:04d}" for number in range(1, len(names) + 1))
    return tuple(names)


def _order(series: DicomSeries) -> tuple[object, ...]:
    first = min(series.headers, key=lambda h: natural_key(h.path.name))
    number = first.series_number
    return (
        natural_key(str(series.folder)),
        number is None,
        number or 0,
        natural_key(first.path.name),
        series.key,
    )
