"""DICOM segmentations (SEG): binary, fractional and label maps, frame by frame on a scan's grid."""

from __future__ import annotations

import math
import struct
import warnings as python_warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from autoseg_lib.errors import DataError, GeometryError, name_list
from autoseg_lib.geometry import EVEN_SPACING_TOLERANCE, SAME_PLACE_TOLERANCE_MM, FloatArray, Geometry
from autoseg_lib.io.dicom_values import integer_of, number_of, numbers_of, positive_of, text_of
from autoseg_lib.io.limits import check_memory
from autoseg_lib.io.seg_frames import SegFrames
from autoseg_lib.io.segment_file import SegmentFile, SegmentInfo, clean_name, doubled_note
from autoseg_lib.io.slice_planes import SlicePlanes

# Frames belong to a slice when they lie nearer to it than this share of the way to its neighbour, and their corners lie
# within this share of a pixel from the slice's own; anything more is another grid and is resampled.
_ON_SLICE_SHARE = 0.1
_SAME_PIXEL_SHARE = 0.1
# Frames may lie beside the straight line through their origins by this much (see the grid of a series).
_SHIFT_TOLERANCE_MM = 0.1
# No scan has more slices; a header could ask for billions of empty ones between two frames.
_MOST_SLICES = 10_000
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


@dataclass(frozen=True)
class _Frame:
    """Where one frame lies, and whose it is.

    Attributes:
        segment: its segment's number; 0 in a label map, whose frames hold all segments.
        position, orientation, spacing: of the frame, None where the file does not say.
        sop_uids: images it was drawn on.
    """

    index: int
    segment: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    sop_uids: tuple[str, ...] = field(repr=False)


class DicomSeg(SegmentFile):
    """A DICOM segmentation."""

    kind = "DICOM SEG"

    def __init__(self, path: Path, dataset: Dataset, fractional_threshold: float = 0.5) -> None:
        """Args:
            path: the file, for messages.
            dataset: the file, read.
            fractional_threshold: share (0 to 1) from which a pixel of a fractional segmentation counts as inside.

        Raises:
            DataError: it is damaged, of a whole slide, or holds no segment.
        """
        if "TotalPixelMatrixRows" in dataset or "TILED" in text_of(dataset, "DimensionOrganizationType"):
            raise DataError(
                f"'{path.name}': it is the segmentation of a tiled microscope slide, which is not supported."
            )
        self._pixels = SegFrames(path, dataset)
        notes: list[str] = []
        kind = text_of(dataset, "SegmentationType").upper()
        self._is_label_map = kind == "LABELMAP" or text_of(dataset, "SOPClassUID") == _LABEL_MAP
        self._least = _least_value(dataset, kind, self._pixels.bits, fractional_threshold, notes)
        self._frames = _frames(path, dataset, self._pixels.count, self._is_label_map)
        names = _named_segments(dataset)
        self._label_map: npt.NDArray[np.unsignedinteger] | None = None
        self._used = self._used_numbers(names)
        for number in self._used - set(names):
            names[number] = clean_name("", number)
            notes.append(f"segment {number} is not described in the file; it is called '{names[number]}'.")
        empty = [name for number, name in names.items() if number not in self._used]
        if empty:
            notes.append(f"segments without a frame, left out: {name_list(empty)}.")
        segments = [SegmentInfo(number, name) for number, name in names.items() if number in self._used]
        if not segments:
            raise DataError(f"'{path.name}': it holds no segment with pixels. Export it again.")
        notes += doubled_note("segments", segments)
        super().__init__(
            path,
            segments,
            notes,
            geometry=_own_geometry(self._frames, self._pixels, dataset),
            frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
            referenced_series_uids=_series(dataset),
            named_sop_uids=frozenset(uid for frame in self._frames for uid in frame.sop_uids),
        )

    def layers(
        self,
        geometry: Geometry,
        sop_uids: Sequence[str] = (),
        *,
        slice_origins_xyz_mm: npt.ArrayLike | None = None,
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        """See ``SegmentFile.layers``. Frames are placed at once, so errors come before the first layer.

        Raises:
            DataError: no frame belongs to this scan.
            GeometryError: the frames lie on another grid; take ``layers(self.geometry)`` and resample.
        """
        check_memory(self.path.name, f"{geometry.shape_zyx[0]} slices", math.prod(geometry.shape_zyx))
        shape = (self._pixels.rows, self._pixels.columns)
        if shape != geometry.shape_zyx[1:]:
            raise GeometryError(
                f"'{self.path.name}': its frames have {shape[0]} × {shape[1]} pixels, the scan's slices "
                f"{geometry.shape_zyx[1]} × {geometry.shape_zyx[2]}."
            )
        known = geometry.orientation_known and (geometry.positions_known or geometry.shape_zyx[0] == 1)
        if known and all(_is_placed(frame) for frame in self._frames):
            placed = self._by_position(SlicePlanes(geometry, slice_origins_xyz_mm), geometry, sop_uids)
        elif geometry is self.geometry:
            placed = [(frame, frame.index) for frame in self._frames]
        else:
            placed = self._by_image(sop_uids)
        return self._painted(placed, geometry)

    def _painted(
        self, placed: list[tuple[_Frame, int]], geometry: Geometry
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        for segment in self.segments:
            layer = np.zeros(geometry.shape_zyx, dtype=np.bool_)
            for frame, index in placed:
                if self._is_label_map:
                    layer[index] |= self._labels()[frame.index] == segment.number
                elif frame.segment == segment.number:
                    layer[index] |= self._pixels.read(frame.index) >= self._least
            yield segment, layer

    def _labels(self) -> npt.NDArray[np.unsignedinteger]:
        """Returns the (frame, row, column) values of a label map, decoded once."""
        if self._label_map is None:
            kind = np.dtype(np.uint8 if self._pixels.bits <= 8 else np.uint16)
            pixels = self._pixels.count * self._pixels.rows * self._pixels.columns
            check_memory(self._pixels.name, f"{self._pixels.count} frames", pixels * kind.itemsize)
            found = np.empty((self._pixels.count, self._pixels.rows, self._pixels.columns), dtype=kind)
            for index in range(self._pixels.count):
                found[index] = self._pixels.read(index)
            self._label_map = found
        return self._label_map

    def _used_numbers(self, names: dict[int, str]) -> set[int]:
        if not self._is_label_map:
            return {frame.segment for frame in self._frames}
        found: set[int] = set()
        for frame in self._labels():
            found |= set(np.flatnonzero(np.bincount(frame.ravel())).tolist())
        return found - {0}

    # --- placing --------------------------------------------------------------------------------------------------

    def _by_position(
        self, planes: SlicePlanes, geometry: Geometry, sop_uids: Sequence[str]
    ) -> list[tuple[_Frame, int]]:
        by_uid = _by_uid(sop_uids)
        placed, beyond = [], 0
        step = np.column_stack([geometry.affine[:3, 1], geometry.affine[:3, 2]])
        rows, columns = planes.shape
        size = np.array([rows - 1, columns - 1])
        for frame in self._frames:
            position = np.array(frame.position)
            index = self._slice_of(frame, position, planes, by_uid)
            if index is None:
                beyond += bool(self._holds_something(frame))
                continue
            off = np.abs(planes.in_plane(position[np.newaxis], index)[0]).max()
            own = _in_plane_steps(frame)
            # How far the frame's last pixels lie from the slice's, in pixels.
            ends = np.linalg.norm((own - step) * size, axis=0) / np.linalg.norm(step, axis=0)
            other = off > _SAME_PIXEL_SHARE or ends.max() > _SAME_PIXEL_SHARE
            if other and geometry is not self.geometry:
                raise GeometryError(
                    f"'{self.path.name}': its pixels lie on another grid than the scan's (other place, size or direction)."
                )
            placed.append((frame, index))
        if not placed:
            raise DataError(
                f"'{self.path.name}': no frame lies on a slice of this scan. It belongs to another scan."
            )
        if beyond:
            self._note(
                f"{beyond} frame{' lies' if beyond == 1 else 's lie'} beyond the first or last slice of the scan; left out."
            )
        return placed

    def _slice_of(
        self, frame: _Frame, position: FloatArray, planes: SlicePlanes, by_uid: dict[str, list[int]]
    ) -> int | None:
        along = float(planes.along(position[np.newaxis])[0])
        nearest = planes.nearest(along)
        distance = abs(planes.positions_mm[nearest[0]] - along)
        if distance > _ON_SLICE_SHARE * planes.gaps_mm[nearest[0]]:
            if planes.is_beyond(along):
                return None
            raise GeometryError(
                f"'{self.path.name}': frames lie between the slices of the scan ({distance:.2f} mm from the nearest)."
            )
        if len(nearest) > 1:
            named = {index for uid in frame.sop_uids for index in by_uid.get(uid, [])} & set(nearest.tolist())
            if len(named) != 1:
                raise DataError(
                    f"'{self.path.name}': the scan has several images at one position, and the file does not say which "
                    "image it was drawn on. Choose a series with one image per position."
                )
            return int(named.pop())
        return int(nearest[0])

    def _by_image(self, sop_uids: Sequence[str]) -> list[tuple[_Frame, int]]:
        by_uid = _by_uid(sop_uids)
        placed = []
        for frame in self._frames:
            found = {index for uid in frame.sop_uids for index in by_uid.get(uid, [])}
            if len(found) == 1:
                placed.append((frame, found.pop()))
        if not placed:
            raise DataError(
                f"'{self.path.name}': the segmentation or the scan has no positions in the patient, and the file names no "
                "image of this scan. It belongs to another scan, or its references are lost."
            )
        if len(placed) < len(self._frames):
            self._note(
                f"{len(self._frames) - len(placed)} frames belong to images that are not in this scan; left out."
            )
        return placed

    def _holds_something(self, frame: _Frame) -> bool:
        return bool((self._pixels.read(frame.index) >= self._least).any())


# --- reading the header -----------------------------------------------------------------------------------------------


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return [] if value is None or isinstance(value, str | bytes) else list(value)


def _named_segments(dataset: Dataset) -> dict[int, str]:
    """Returns the names of the segments by number; 0 is the background of a label map."""
    names: dict[int, str] = {}
    for item in _items(dataset, "SegmentSequence"):
        number = integer_of(item, "SegmentNumber")
        if number and number > 0 and number not in names:
            text = text_of(item, "SegmentLabel") or text_of(item, "SegmentDescription")
            names[number] = clean_name(text, number)
    return names


def _least_value(dataset: Dataset, kind: str, bits: int, threshold: float, notes: list[str]) -> int:
    """Returns the stored value from which a pixel counts as inside."""
    if kind != "FRACTIONAL":
        return 1
    highest = integer_of(dataset, "MaximumFractionalValue")
    if not highest or highest < 1:
        highest = (1 << bits) - 1
        notes.append(f"the highest fractional value is missing; {highest} was taken.")
    what = text_of(dataset, "SegmentationFractionalType").lower() or "unknown meaning"
    notes.append(f"fractional segmentation ({what}): pixels of at least {threshold:g} count as inside.")
    return max(1, int(np.ceil(threshold * highest - 1e-9)))


def _frames(path: Path, dataset: Dataset, count: int, is_label_map: bool) -> list[_Frame]:
    shared = (_items(dataset, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    each = _items(dataset, "PerFrameFunctionalGroupsSequence")
    if not each and count == 1:
        each = [Dataset()]
    if len(each) != count:
        raise DataError(
            f"'{path.name}': it has {count} frames and a table of {len(each)}. The file is damaged; export it again."
        )
    frames = []
    for index, own in enumerate(each):

        def look(sequence: str, keyword: str, own: Dataset = own) -> Any:
            for group in (own, shared):
                items = _items(group, sequence)
                if items and items[0].get(keyword) is not None:
                    return items[0].get(keyword)
            return None

        number = number_of(look("SegmentIdentificationSequence", "ReferencedSegmentNumber"))
        if number is None and not is_label_map:
            raise DataError(
                f"'{path.name}': frame {index + 1} does not say which segment it belongs to. Export it again."
            )
        position = numbers_of(look("PlanePositionSequence", "ImagePositionPatient"), 3)
        spacing = numbers_of(look("PixelMeasuresSequence", "PixelSpacing"), 2)
        frames.append(
            _Frame(
                index,
                0 if is_label_map or number is None else int(number),
                None if position is None else tuple(position),
                _directions(look("PlaneOrientationSequence", "ImageOrientationPatient")),
                None if spacing is None or min(spacing) <= 0 else (spacing[0], spacing[1]),
                _sources(own, shared),
            )
        )
    return frames


# Directions this far from unit length or a right angle are a broken header; scanners round to about 1e-6.
_SKEW_TOLERANCE = 1e-2


def _directions(value: Any) -> tuple[float, ...] | None:
    """Returns six unit direction cosines (along a row, along a column), None where they are broken."""
    numbers = numbers_of(value, 6)
    if numbers is None:
        return None
    row, column = np.array(numbers[:3]), np.array(numbers[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > _SKEW_TOLERANCE:
        return None
    row, column = row / lengths[0], column / lengths[1]
    return None if abs(float(row @ column)) > _SKEW_TOLERANCE else (*row.tolist(), *column.tolist())


def _sources(own: Dataset, shared: Dataset) -> tuple[str, ...]:
    """Returns the images a frame was drawn on."""
    uids = []
    for group in (own, shared):
        for derivation in _items(group, "DerivationImageSequence"):
            for source in _items(derivation, "SourceImageSequence"):
                uids.append(text_of(source, "ReferencedSOPInstanceUID"))
    return tuple(uid for uid in uids if uid)


def _series(dataset: Dataset) -> frozenset[str]:
    uids = {text_of(item, "SeriesInstanceUID") for item in _items(dataset, "ReferencedSeriesSequence")}
    return frozenset(uids - {""})


def _by_uid(sop_uids: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, uid in enumerate(sop_uids):
        if uid:
            found[uid].append(index)
    return found


# --- the file's own grid ----------------------------------------------------------------------------------------------


def _is_placed(frame: _Frame) -> bool:
    return frame.position is not None and frame.orientation is not None and frame.spacing is not None


def _in_plane_steps(frame: _Frame) -> FloatArray:
    """Returns (3, 2): the steps from row to row and from column to column."""
    orientation, spacing = frame.orientation or (1, 0, 0, 0, 1, 0), frame.spacing or (1.0, 1.0)
    return np.column_stack([np.array(orientation[3:]) * spacing[0], np.array(orientation[:3]) * spacing[1]])


def _own_geometry(frames: list[_Frame], pixels: SegFrames, dataset: Dataset) -> Geometry | None:
    """Returns the grid of all frames, with empty slices where no segment has a frame.

    None where the frames do not make one stack of parallel slices. Without positions the frames are slices in the order
    of the file, of unknown size and place.
    """
    if not all(_is_placed(frame) for frame in frames):
        if any(frame.position is not None for frame in frames):
            return None
        return Geometry.from_spacing((pixels.count, pixels.rows, pixels.columns))
    first = frames[0]
    steps = _in_plane_steps(first)
    if any(np.abs(_in_plane_steps(frame) - steps).max() > SAME_PLACE_TOLERANCE_MM / 10 for frame in frames):
        return None
    normal = np.cross(steps[:, 1], steps[:, 0])
    normal /= np.linalg.norm(normal)
    origins = np.array([frame.position for frame in frames], dtype=np.float64)
    order = np.argsort(origins @ normal, kind="stable")
    along = (origins @ normal)[order]
    new = np.concatenate([[True], np.diff(along) > SAME_PLACE_TOLERANCE_MM])
    origins, along = origins[order][new], along[new]
    affine = np.eye(4)
    affine[:3, 1], affine[:3, 2], affine[:3, 3] = steps[:, 0], steps[:, 1], origins[0]
    given = _measure(dataset, "SpacingBetweenSlices")
    if len(along) == 1:
        affine[:3, 0] = normal * (given or _measure(dataset, "SliceThickness") or 1.0)
        return Geometry((1, pixels.rows, pixels.columns), affine, None, True, False, True)
    places = _places(along, given)
    if places is None:
        affine[:3, 0] = normal * float(along[-1] - along[0]) / (len(along) - 1)
        positions: tuple[float, ...] | None = tuple(float(value) for value in along)
        count = len(along)
        beside = origins - origins[0]
        beside -= np.outer(beside @ normal, normal)
    else:
        affine[:3, 0] = (origins[-1] - origins[0]) / places[-1]
        positions, count = None, int(places[-1]) + 1
        beside = origins - origins[0] - np.outer(places, affine[:3, 0])
    if np.linalg.norm(beside, axis=1).max() > _SHIFT_TOLERANCE_MM:
        return None
    return Geometry((count, pixels.rows, pixels.columns), affine, positions)


def _measure(dataset: Dataset, keyword: str) -> float | None:
    """Returns a length of the first frame or of all, None where it is not given."""
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in _items(dataset, sequence)[:1]:
            for measures in _items(group, "PixelMeasuresSequence"):
                value = positive_of(measures.get(keyword))
                if value:
                    return value
    return None


def _places(along: FloatArray, given: float | None) -> npt.NDArray[np.int64] | None:
    """Returns the slice number of each position on an even grid, None where there is no such grid.

    The distance is the one the file gives, else the smallest one between two frames.
    """
    gaps = np.diff(along)
    for step in dict.fromkeys(value for value in (given, float(gaps.min())) if value):
        numbers = np.round(gaps / step)
        slack = max(SAME_PLACE_TOLERANCE_MM, EVEN_SPACING_TOLERANCE * step)
        fits = numbers.min() >= 1 and float(np.abs(gaps - numbers * step).max()) <= slack
        if fits and numbers.sum() < _MOST_SLICES:
            return np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64)
    return None


def parse(path: Path, dataset: Dataset, fractional_threshold: float) -> DicomSeg:
    """Returns the segmentation of a dataset.

    Raises:
        DataError: as ``DicomSeg``; also for headers so damaged that pydicom cannot take them apart.
    """
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            return DicomSeg(path, dataset, fractional_threshold)
    except (DataError, GeometryError):
        raise
    except (EOFError, OSError, struct.error) as error:  # pydicom's words for a sequence that ends too early
        raise DataError(
            f"'{path.name}': the file ends early or is damaged. Copy or export it again."
        ) from error
    except Exception as error:  # a damaged file makes pydicom raise almost anything
        raise DataError(
            f"'{path.name}': it cannot be read as a segmentation. The file is damaged; export it again."
        ) from error
