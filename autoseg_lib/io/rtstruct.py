"""Radiotherapy structure sets (RTSTRUCT): closed contours in the patient's space, turned into pixels of a scan."""

from __future__ import annotations

import struct
import warnings as python_warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from autoseg_lib.errors import DataError, GeometryError, name_list
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM, FloatArray, Geometry
from autoseg_lib.io.contours import combine, contour_pixels
from autoseg_lib.io.dicom_values import integer_of, text_of
from autoseg_lib.io.segment_file import SegmentFile, SegmentInfo, clean_name, doubled_note
from autoseg_lib.io.slice_planes import SlicePlanes

# A contour lies on a slice when it is nearer to it than this share of the way to the next slice. Planning systems round
# positions to 0.1 mm or keep them in 32 bits; a contour further off was drawn on another series.
_ON_SLICE_SHARE = 0.25
# With the slice named in the file (ContourImageSequence), everything that is nearer to it than to its neighbours will do.
_NAMED_SLICE_SHARE = 0.5
# More than this share of contours off the slices means that they were drawn on other slices than these.
_MOST_OFF_SLICES = 0.1

# Half a pixel around the centres belongs to the picture; the rest is rounding of decimal text.
_TO_THE_EDGE = 0.501

# Fewer slices than this, apart from each other, are rather pieces of their own than a gap in the drawing.
_FEWEST_IN_A_ROW = 3

_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
_SKIPPED_KINDS = {"POINT": "point", "OPEN_PLANAR": "open line", "OPEN_NONPLANAR": "open line"}
_CONTOUR_DATA = 0x30060050
# No point of a patient is a kilometre away from the origin; such numbers are damaged.
_FARTHEST_MM = 1e6
# x, y, z of three corners.
_FEWEST_NUMBERS = 9


@dataclass(frozen=True)
class _Contour:
    """One closed contour: (points, 3) in LPS mm, and the images it names."""

    points: FloatArray = field(repr=False)
    sop_uids: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class _Roi:
    info: SegmentInfo
    contours: tuple[_Contour, ...] = field(repr=False)


@dataclass
class _Placing:
    """How the contours of a file found their slices."""

    placed: int = 0
    beyond: int = 0
    between: int = 0
    oblique: int = 0
    outside: int = 0
    cut: int = 0
    ambiguous: int = 0
    wrong_reference: int = 0


class RtStruct(SegmentFile):
    """A radiotherapy structure set."""

    kind = "RTSTRUCT"

    def __init__(self, path: Path, dataset: Dataset) -> None:
        """Args:
            path: the file, for messages.
            dataset: the file, read.

        Raises:
            DataError: it is damaged, or holds no closed contour.
        """
        notes: list[str] = []
        names, frames = _named_rois(dataset)
        frame_uid, series_uids = _references(dataset, frames)
        foreign = [names[number] for number, uid in frames.items() if uid and frame_uid and uid != frame_uid]
        if foreign:
            notes.append(
                f"drawn in another frame of reference than the rest of the file, left out: {name_list(foreign)}."
            )
        contours, skipped = _contours(path, dataset)
        notes += skipped
        rois, empty = [], []
        for number in dict.fromkeys([*names, *contours]):
            name = names.get(number) or clean_name("", number)
            if name in foreign and frames.get(number) not in ("", frame_uid):
                continue
            if contours.get(number):
                rois.append(_Roi(SegmentInfo(number, name), tuple(contours[number])))
            else:
                empty.append(name)
        if empty:
            notes.append(f"ROIs without a closed contour, left out: {name_list(empty)}.")
        notes += doubled_note("ROIs", [roi.info for roi in rois])
        if not names and not contours:
            raise DataError(
                f"'{path.name}': found no ROI at all; it is empty, or the file ends early. Copy or export it again."
            )
        if not rois:
            raise DataError(
                f"'{path.name}': found no usable contour (closed, of at least 3 points) in {len(names)} ROIs. "
                "Export the structure set again, with its contours."
            )
        super().__init__(
            path,
            [roi.info for roi in rois],
            notes,
            frame_of_reference_uid=frame_uid,
            referenced_series_uids=series_uids,
            named_sop_uids=frozenset(uid for roi in rois for one in roi.contours for uid in one.sop_uids),
        )
        self._rois = rois

    def layers(
        self,
        geometry: Geometry,
        sop_uids: Sequence[str] = (),
        *,
        slice_origins_xyz_mm: npt.ArrayLike | None = None,
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        """See ``SegmentFile.layers``. Contours are placed at once, so errors come before the first layer.

        Raises:
            DataError: the scan has no positions in the patient, or the contours do not lie on its slices.
        """
        if not (geometry.spacing_known and geometry.orientation_known):
            raise DataError(
                f"'{self.path.name}': contours are given in mm in the patient, and the scan has no "
                f"{'pixel spacing' if not geometry.spacing_known else 'image orientation'}, so they cannot be placed on it. "
                "Use the original DICOM images."
            )
        if not geometry.positions_known and geometry.shape_zyx[0] > 1 and slice_origins_xyz_mm is None:
            raise DataError(
                f"'{self.path.name}': contours are given in mm in the patient, and the scan has no slice positions, so they "
                "cannot be placed on it. Use the original DICOM images."
            )
        planes = SlicePlanes(geometry, slice_origins_xyz_mm)
        by_uid: dict[str, list[int]] = defaultdict(list)
        for index, uid in enumerate(sop_uids):
            by_uid[uid].append(index)
        counts = _Placing()
        placed = [_place(roi, planes, by_uid, counts) for roi in self._rois]
        self._judge(counts, planes, geometry)
        return self._painted(placed, geometry)

    def _painted(
        self, placed: list[dict[int, list[FloatArray]]], geometry: Geometry
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        shape = (geometry.shape_zyx[1], geometry.shape_zyx[2])
        for roi, slices in zip(self._rois, placed, strict=True):
            layer = np.zeros(geometry.shape_zyx, dtype=np.bool_)
            repeated = crossing = 0
            for index, contours in slices.items():
                found = [pixels for contour in contours if (pixels := contour_pixels(contour, shape))]
                odd = combine(layer[index], found)
                repeated += odd.repeated
                crossing += odd.crossing_pixels
            self._note_gaps(
                roi.info.name, [index for index, contours in slices.items() if contours], geometry
            )
            if repeated:
                self._note(
                    f"'{roi.info.name}': {_times(repeated, 'contour')} stored twice; each counts once."
                )
            if crossing:
                self._note(
                    f"'{roi.info.name}': contours on one slice cross each other; the {crossing} pixels inside both count "
                    "as outside (even-odd rule). Please look."
                )
            yield roi.info, layer

    def _note_gaps(self, name: str, slices: list[int], geometry: Geometry) -> None:
        """Says where an ROI was drawn on every second or third slice only: what lies between counts as empty."""
        if len(slices) < _FEWEST_IN_A_ROW or np.diff(sorted(slices)).min() < 2:
            return
        if (np.abs(np.diff(geometry.positions_mm)) <= SAME_PLACE_TOLERANCE_MM).any():
            return  # several images at one position: neighbours in the list are none in the patient
        self._note(
            f"'{name}': it has contours on {len(slices)} of the {max(slices) - min(slices) + 1} slices from its first to its "
            "last, never on two in a row; the slices between count as empty. If it was drawn on every few slices only, fill in "
            "the others where it was drawn, and export it again."
        )

    def _judge(self, counts: _Placing, planes: SlicePlanes, geometry: Geometry) -> None:
        """Says what could not be placed.

        Raises:
            DataError: too little lies on the scan for the rest to be trusted.
        """
        name = self.path.name
        off = counts.between + counts.oblique
        if off > _MOST_OFF_SLICES * (off + counts.placed) or (off and not counts.placed):
            if counts.oblique > counts.between:
                raise DataError(
                    f"'{name}': {counts.oblique} of {off + counts.placed} contours do not lie in the planes of the "
                    "scan's slices; they were drawn in another direction. Choose the series they were drawn on."
                )
            raise DataError(
                f"'{name}': {counts.between} of {off + counts.placed} contours lie between the slices of the scan "
                f"(slices {geometry.spacing_text} apart); they were drawn on other slices, or slices are missing. "
                "Choose the series they were drawn on."
            )
        if counts.ambiguous and not counts.placed:
            raise DataError(
                f"'{name}': the scan has several images at one position, and the contours do not say which image they "
                "belong to. Choose a series with one image per position."
            )
        if not counts.placed:
            depths = np.concatenate([planes.along(c.points[:1]) for roi in self._rois for c in roi.contours])
            raise DataError(
                f"'{name}': no contour lies on this scan (contours from {depths.min():.1f} to {depths.max():.1f} mm along "
                f"the slices' normal, slices from {planes.positions_mm.min():.1f} to {planes.positions_mm.max():.1f} mm). "
                "It belongs to another scan."
            )
        for number, text in (
            (counts.beyond, "{} beyond the first or last slice of the scan; left out."),
            (counts.between, "{} between the slices of the scan; left out. Slices may be missing."),
            (counts.oblique, "{} not in the plane of a slice; left out."),
            (counts.outside, "{} outside the picture; left out."),
            (counts.cut, "{} over the edge of the picture; cut off there."),
            (counts.ambiguous, "{} at positions with several images, without saying which one; left out."),
        ):
            if number:
                self._note(text.format(f"{number} contour{' lies' if number == 1 else 's lie'}"))
        if counts.wrong_reference:
            self._note(
                f"{_times(counts.wrong_reference, 'contour')} named an image at another position; placed by position."
            )


# --- reading the file -------------------------------------------------------------------------------------------------


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return [] if value is None or isinstance(value, str | bytes) else list(value)


def _number(dataset: Dataset, keyword: str) -> int | None:
    try:
        return integer_of(dataset, keyword)
    except (ValueError, TypeError, OverflowError):
        return None


def _named_rois(dataset: Dataset) -> tuple[dict[int, str], dict[int, str]]:
    """Returns the names of the ROIs by number, and their frames of reference."""
    names: dict[int, str] = {}
    frames: dict[int, str] = {}
    for item in _items(dataset, "StructureSetROISequence"):
        number = _number(item, "ROINumber")
        if number is None or number in names:
            continue
        names[number] = clean_name(text_of(item, "ROIName"), number)
        frames[number] = text_of(item, "ReferencedFrameOfReferenceUID")
    return names, frames


def _references(dataset: Dataset, roi_frames: dict[int, str]) -> tuple[str, frozenset[str]]:
    """Returns the frame of reference of most ROIs (else of the file), and the series that the file refers to."""
    series: set[str] = set()
    listed: list[str] = []
    for frame in _items(dataset, "ReferencedFrameOfReferenceSequence"):
        listed.append(text_of(frame, "FrameOfReferenceUID"))
        for study in _items(frame, "RTReferencedStudySequence"):
            for one in _items(study, "RTReferencedSeriesSequence"):
                series.add(text_of(one, "SeriesInstanceUID"))
    used = Counter(uid for uid in roi_frames.values() if uid)
    frame_uid = used.most_common(1)[0][0] if used else ""
    frame_uid = (
        frame_uid or next((uid for uid in listed if uid), "") or text_of(dataset, "FrameOfReferenceUID")
    )
    return frame_uid, frozenset(series - {""})


def _contours(path: Path, dataset: Dataset) -> tuple[dict[int, list[_Contour]], list[str]]:
    """Returns the closed contours by ROI number, and sentences on what was left out."""
    found: dict[int, list[_Contour]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for item in _items(dataset, "ROIContourSequence"):
        number = _number(item, "ReferencedROINumber")
        if number is None:
            left_out["contour that belongs to no ROI"] += len(_items(item, "ContourSequence"))
            continue
        for contour in _items(item, "ContourSequence"):
            kind = text_of(contour, "ContourGeometricType").upper()
            if kind and kind not in _CLOSED:
                left_out[_SKIPPED_KINDS.get(kind, "contour of an unknown kind")] += 1
                continue
            numbers = _numbers(path, contour)
            if numbers.size % 3:
                raise DataError(
                    f"'{path.name}': a contour has {numbers.size} coordinates, expected three for each point. "
                    "The file is damaged; export it again."
                )
            if numbers.size < _FEWEST_NUMBERS:
                left_out["contour of fewer than 3 points"] += 1
                continue
            images = _items(contour, "ContourImageSequence")
            uids = (text_of(image, "ReferencedSOPInstanceUID") for image in images)
            found[number].append(_Contour(numbers.reshape(-1, 3), tuple(uid for uid in uids if uid)))
    return found, [f"left out: {count} × {what}." for what, count in left_out.items() if count]


def _numbers(path: Path, contour: Dataset) -> FloatArray:
    """Returns the coordinates of a contour, read from the file's text at once (pydicom makes an object of each)."""
    if _CONTOUR_DATA not in contour:
        return np.empty(0)
    raw: Any = contour.get_item(_CONTOUR_DATA).value
    try:
        if isinstance(raw, bytes):
            text = raw.rstrip(b"\0 \\")
            numbers = np.array(text.split(b"\\") if text else [], dtype=np.float64)
        else:
            numbers = np.array(raw if raw is not None else [], dtype=np.float64).ravel()
    except (ValueError, TypeError):
        numbers = np.array([np.nan])
    if not (np.abs(numbers) <= _FARTHEST_MM).all():
        raise DataError(
            f"'{path.name}': a contour holds coordinates that are no places in a scanner. The file is damaged; export it again."
        )
    return numbers


# --- placing ----------------------------------------------------------------------------------------------------------


def _place(
    roi: _Roi, planes: SlicePlanes, by_uid: dict[str, list[int]], counts: _Placing
) -> dict[int, list[FloatArray]]:
    """Returns the contours of one ROI as (points, 2) of row and column, by slice."""
    placed: dict[int, list[FloatArray]] = defaultdict(list)
    for contour in roi.contours:
        index = _slice_of(contour, planes, by_uid, counts)
        if index is None:
            continue
        points = planes.in_plane(contour.points, index)
        low, high = points.min(axis=0), points.max(axis=0)
        rows, columns = planes.shape
        if high[0] < 0 or high[1] < 0 or low[0] > rows - 1 or low[1] > columns - 1:
            counts.outside += 1
            continue
        counts.cut += bool(
            low.min() < -_TO_THE_EDGE
            or high[0] > rows - 1 + _TO_THE_EDGE
            or high[1] > columns - 1 + _TO_THE_EDGE
        )
        counts.placed += 1
        placed[index].append(points)
    return placed


def _slice_of(
    contour: _Contour, planes: SlicePlanes, by_uid: dict[str, list[int]], counts: _Placing
) -> int | None:
    """Returns the slice that a contour lies on; None where there is none, counted."""
    along = planes.along(contour.points)
    position = float(along.mean())
    spread = float(along.max() - along.min())
    named = [index for uid in contour.sop_uids for index in by_uid.get(uid, [])]
    nearest = planes.nearest(position)
    gap = float(planes.gaps_mm[nearest[0]])
    if spread > _NAMED_SLICE_SHARE * gap:
        counts.oblique += 1
        return None
    good = [
        index
        for index in named
        if abs(planes.positions_mm[index] - position) <= _NAMED_SLICE_SHARE * planes.gaps_mm[index]
    ]
    if good:
        return min(good, key=lambda index: abs(planes.positions_mm[index] - position))
    if planes.is_beyond(position):
        counts.beyond += 1
        return None
    if abs(planes.positions_mm[nearest[0]] - position) > _ON_SLICE_SHARE * gap:
        counts.between += 1
        return None
    if len(nearest) > 1:
        counts.ambiguous += 1
        return None
    counts.wrong_reference += bool(named)
    return int(nearest[0])


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def parse(path: Path, dataset: Dataset) -> RtStruct:
    """Returns the structure set of a dataset.

    Raises:
        DataError: as ``RtStruct``; also for headers so damaged that pydicom cannot take them apart.
    """
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            return RtStruct(path, dataset)
    except (DataError, GeometryError):
        raise
    except (EOFError, OSError, struct.error) as error:  # pydicom's words for a sequence that ends too early
        raise DataError(
            f"'{path.name}': the file ends early or is damaged. Copy or export it again."
        ) from error
    except Exception as error:  # a damaged file makes pydicom raise almost anything
        raise DataError(
            f"'{path.name}': its contours cannot be read. The file is damaged; export it again."
        ) from error
