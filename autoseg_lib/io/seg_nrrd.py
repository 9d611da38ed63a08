"""3D Slicer's segmentations (.seg.nrrd): an NRRD file whose header names the segments.

Sources: teem.sourceforge.net/nrrd/format.html, and Slicer's developer guide, "Segmentation labelmap file format". Where
segments overlap, a fourth axis (the first in the file, kind "list") holds layers; SegmentN_Layer and SegmentN_LabelValue
say where a segment is. Before Slicer 4.11 there were neither: each segment had a layer of its own. The place of the pixels
is NRRD's own (space origin); SegmentN_Extent and Segmentation_ReferenceImageExtentOffset are hints and not needed.
"""

from __future__ import annotations

import bz2
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, GeometryError, name_list
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.io.limits import DEFLATE_RATIO, check_announced
from autoseg_lib.io.segment_file import SegmentFile, SegmentInfo, clean_name, doubled_note

# Headers are text of some kilobytes; Slicer's terminology tags make a few hundred bytes for each segment.
_LONGEST_HEADER = 4_000_000
_BLOCK = 1 << 20
# How many times smaller an encoding can make empty space; bzip2 packs 45 MB of zeros into 45 bytes (bzip.org, manual, 2).
_MOST_RATIO = {"raw": 1, "gzip": DEFLATE_RATIO, "bzip2": 1_000_000}
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# From NRRD's named spaces to LPS: the sign of x, y, z.
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
# Kinds of an axis that is no direction in space.
_LIST_KINDS = {"list", "vector", "point", "scalar", "none", "???"}


@dataclass(frozen=True)
class _Header:
    """What the header says.

    Attributes:
        fields: NRRD's own ("sizes", "type", ...), by lower-case name.
        keys: key := value pairs, by name as written.
        start: byte at which the pixels begin.
    """

    fields: dict[str, str]
    keys: dict[str, str] = field(repr=False)
    start: int


@dataclass(frozen=True)
class _Place:
    layer: int
    value: int | None  # None: every value but 0


class SlicerSegmentation(SegmentFile):
    """A segmentation of 3D Slicer."""

    kind = "3D Slicer segmentation"

    def __init__(self, path: Path) -> None:
        """Args:
            path: the file. Its pixels are read when the first layer is asked for.

        Raises:
            DataError: it is damaged, uses an encoding that is not supported, or holds no segment.
        """
        self._header = _read_header(path)
        self._name = path.name
        self._sizes, self._list_axis = _sizes(self._header, path.name)
        self._dtype = _dtype(self._header, path.name)
        self._pixels: npt.NDArray[Any] | None = None
        notes: list[str] = []
        layers = self._sizes[self._list_axis] if self._list_axis is not None else 1
        self._places = _segment_places(self._header.keys, layers, path.name, notes)
        if not self._places:
            raise DataError(
                f"'{path.name}': its header names no segment. Save the segmentation again in 3D Slicer."
            )
        volume = [size for axis, size in enumerate(self._sizes) if axis != self._list_axis]
        if math.prod(self._sizes) == 1:
            raise DataError(
                f"'{path.name}': the segmentation is empty (nothing was drawn). Draw it, or leave it out."
            )
        check_announced(
            path.name,
            f"{' × '.join(map(str, self._sizes))} voxels",
            math.prod(self._sizes) * self._dtype.itemsize,
            path.stat().st_size - self._header.start,
            _MOST_RATIO[_encoding(self._header, path.name)],
        )
        notes += doubled_note("segments", list(self._places))
        super().__init__(
            path,
            list(self._places),
            notes,
            geometry=_geometry(self._header, (volume[2], volume[1], volume[0]), self._list_axis, path.name),
        )

    def layers(
        self,
        geometry: Geometry,
        sop_uids: Sequence[str] = (),
        *,
        slice_origins_xyz_mm: npt.ArrayLike | None = None,
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        """See ``SegmentFile.layers``.

        Where the file's voxels are the scan's own, cropped or with axes turned round as Slicer saves them, they are put in
        place exactly.

        Raises:
            DataError: nothing of what is drawn lies on the scan (raised after the last layer).
            GeometryError: the file's grid is another one; take ``layers(self.geometry)`` and resample.
        """
        own = self.geometry
        if own is None:
            raise GeometryError(f"'{self._name}': it has no grid.")
        if geometry is own:
            return self._painted(geometry, None)
        return self._painted(geometry, _Paste.between(own, geometry, self._name))

    def _painted(
        self, geometry: Geometry, paste: _Paste | None
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        pixels = self._read()
        drawn = lost_in_all = 0
        for segment, place in self._places.items():
            volume = pixels[place.layer]
            own = volume != 0 if place.value is None else volume == place.value
            if paste is None:
                yield segment, own
                continue
            layer = np.zeros(geometry.shape_zyx, dtype=np.bool_)
            lost = paste.put(own, layer)
            drawn += int(np.count_nonzero(own))
            lost_in_all += lost
            if lost:
                self._note(f"'{segment.name}': {lost} voxels lie outside the scan; left out.")
            yield segment, layer
        if drawn and lost_in_all == drawn:
            raise DataError(
                f"'{self._name}': nothing of what is drawn lies on this scan. It belongs to another scan."
            )

    def _read(self) -> npt.NDArray[Any]:
        """Returns (layer, slice, row, column) values, read once."""
        if self._pixels is None:
            needed = math.prod(self._sizes) * self._dtype.itemsize
            data = _pixel_bytes(self.path, self._header, needed)
            array = np.frombuffer(data, dtype=self._dtype).reshape(self._sizes[::-1])
            if self._list_axis is None:
                array = array[np.newaxis]
            else:  # the array's axes are the file's in reverse
                array = np.moveaxis(array, len(self._sizes) - 1 - self._list_axis, 0)
            self._pixels = array
        return self._pixels


@dataclass(frozen=True)
class _Paste:
    """How the file's voxels lie among the scan's: axes, flips and the index of the first one."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    first: tuple[int, int, int]

    @classmethod
    def between(cls, own: Geometry, scan: Geometry, name: str) -> _Paste:
        """Raises GeometryError where the voxels are not the scan's own."""
        other = GeometryError(f"'{name}': its voxels lie on another grid than the scan's.")
        placed = scan.positions_known or scan.shape_zyx[0] == 1
        if not scan.is_even or not (own.spacing_known and scan.spacing_known and scan.orientation_known):
            raise other
        if not (placed and own.orientation_known):
            raise other
        # Steps and first voxel of the file, in voxels of the scan.
        to_scan = np.linalg.inv(scan.affine[:3, :3])
        steps = to_scan @ own.affine[:3, :3]
        size = np.array(own.shape_zyx) - 1
        whole = np.round(steps)
        if np.abs((steps - whole) * size).max() > _SAME_VOXEL or np.abs(steps - whole).max() > _SAME_VOXEL:
            raise other
        if sorted(np.abs(whole).ravel().tolist()) != [0] * 6 + [1] * 3 or abs(np.linalg.det(whole)) != 1:
            raise other
        start = to_scan @ (own.origin_xyz_mm - scan.origin_xyz_mm)
        if np.abs(start - np.round(start)).max() > _SAME_VOXEL:
            raise other
        axes = tuple(int(np.flatnonzero(whole[row])[0]) for row in range(3))
        flips = tuple(bool(whole[row, axis] < 0) for row, axis in enumerate(axes))
        first = [int(value) for value in np.round(start)]
        for row, axis in enumerate(axes):
            if flips[row]:
                first[row] -= own.shape_zyx[axis] - 1
        return cls(
            (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]), (first[0], first[1], first[2])
        )

    def put(self, own: npt.NDArray[np.bool_], layer: npt.NDArray[np.bool_]) -> int:
        """Copies the voxels into the scan's layer; returns how many found no place."""
        turned = own.transpose(self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        source, target = [], []
        for first, size, space in zip(self.first, turned.shape, layer.shape, strict=True):
            begin, end = max(0, first), min(space, first + size)
            if end <= begin:
                return int(np.count_nonzero(own))
            source.append(slice(begin - first, end - first))
            target.append(slice(begin, end))
        layer[tuple(target)] = turned[tuple(source)]
        return int(np.count_nonzero(own)) - int(np.count_nonzero(layer))


# Corners that agree to a tenth of a voxel are the same voxels; the numbers in headers are rounded.
_SAME_VOXEL = 0.1


# --- the header -------------------------------------------------------------------------------------------------------


def _read_header(path: Path) -> _Header:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LONGEST_HEADER)
    except OSError as error:
        raise DataError(
            f"'{path.name}': it cannot be opened ({error.strerror or error}). Check the file."
        ) from None
    if not raw.startswith(b"NRRD"):
        raise DataError(f"'{path.name}': it is not an NRRD file, though its name says so. Save it again.")
    end = re.search(rb"\r?\n\r?\n", raw)
    if end is None:
        raise DataError(f"'{path.name}': its header has no end; the file is cut off. Copy or save it again.")
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in raw[: end.start()].decode("utf-8", errors="replace").splitlines()[1:]:
        if line.startswith("#"):
            continue
        key = re.match(r"(.+?):=(.*)", line)
        plain = re.match(r"([^:]+): ?(.*)", line)
        if key and (plain is None or len(key[1]) <= len(plain[1])):
            keys[key[1].strip()] = key[2].replace("\\n", "\n").replace("\\\\", "\\")
        elif plain:
            fields[plain[1].strip().lower().replace("datafile", "data file")] = plain[2].strip()
    if "data file" in fields:
        raise DataError(
            f"'{path.name}': its pixels lie in another file. Save the segmentation as one .seg.nrrd file."
        )
    return _Header(fields, keys, end.end())


def _sizes(header: _Header, name: str) -> tuple[tuple[int, ...], int | None]:
    """Returns the sizes in the file's order (the first changes fastest) and the axis of the layers, if there is one."""
    try:
        sizes = tuple(int(value) for value in header.fields.get("sizes", "").split())
    except ValueError:
        sizes = ()
    if (
        len(sizes) not in (3, 4)
        or min(sizes) < 1
        or header.fields.get("dimension", "").strip() != str(len(sizes))
    ):
        raise DataError(
            f"'{name}': its header gives the sizes '{_shown(header, 'sizes')}', expected three, or four with "
            "layers. The file is damaged; save it again."
        )
    if len(sizes) == 3:
        return sizes, None
    kinds = header.fields.get("kinds", "").lower().split()
    directions = _vectors(header.fields.get("space directions", ""))
    for axis in range(4):
        no_direction = len(directions) == 4 and directions[axis] is None
        if no_direction or (len(kinds) == 4 and kinds[axis] in _LIST_KINDS and len(directions) != 4):
            return sizes, axis
    raise DataError(
        f"'{name}': found four dimensions, and none of them holds layers. Save the segmentation again in 3D Slicer."
    )


def _shown(header: _Header, name: str) -> str:
    """Returns what a field holds, for a message: letters, digits and spaces alone, not endless."""
    return re.sub(r"[^\w .+-]", "?", header.fields.get(name, ""), flags=re.ASCII)[:40]


def _dtype(header: _Header, name: str) -> np.dtype[Any]:
    code = _DTYPES.get(" ".join(header.fields.get("type", "").lower().split()))
    if code is None:
        raise DataError(
            f"'{name}': its pixels are of the type '{_shown(header, 'type')}', expected whole numbers. "
            "Export the segmentation as a binary labelmap."
        )
    order = {"big": ">", "little": "<"}.get(header.fields.get("endian", "little").lower(), "<")
    return np.dtype(order + code)


def _vectors(text: str) -> list[FloatArray | None]:
    """Returns "(1,0,0) none ..." as vectors, None for an axis without direction."""
    found: list[FloatArray | None] = []
    for part in re.findall(r"none|\([^)]*\)", text, re.I):
        try:
            vector = np.array([float(value) for value in part.strip("()").split(",")])
        except ValueError:
            found.append(None)
            continue
        found.append(vector if len(vector) == 3 and np.isfinite(vector).all() else None)
    return found


def _geometry(header: _Header, shape: tuple[int, int, int], list_axis: int | None, name: str) -> Geometry:
    directions = _vectors(header.fields.get("space directions", ""))
    steps = [vector for axis, vector in enumerate(directions) if axis != list_axis]
    origin = (_vectors(header.fields.get("space origin", "")) or [None])[0]
    signs = _SPACES.get(header.fields.get("space", "").lower())
    if len(steps) != 3 or any(step is None for step in steps):
        return Geometry.from_spacing(shape)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([step for step in steps[::-1] if step is not None])
    affine[:3, 3] = 0 if origin is None else origin
    affine[:3] *= np.array(signs or (1, 1, 1))[:, np.newaxis]
    known = signs is not None and origin is not None
    try:
        return Geometry(shape, affine, None, True, True, known)
    except GeometryError as error:
        raise DataError(f"'{name}': {error} Save it again.") from None


# --- segments ---------------------------------------------------------------------------------------------------------


def _segment_places(
    keys: dict[str, str], layers: int, name: str, notes: list[str]
) -> dict[SegmentInfo, _Place]:
    numbers = sorted({int(found[1]) for key in keys if (found := re.match(r"Segment(\d{1,6})_", key))})
    if "ractional" in keys.get(
        "Segmentation_SourceRepresentation", keys.get("Segmentation_MasterRepresentation", "")
    ):
        raise DataError(
            f"'{name}': it is a fractional labelmap. In 3D Slicer, convert the segmentation to a binary labelmap and save it."
        )
    placed: dict[SegmentInfo, _Place] = {}
    missing = []
    for number in numbers:
        text = keys.get(f"Segment{number}_Name") or keys.get(f"Segment{number}_ID") or ""
        segment = SegmentInfo(number, clean_name(text, number + 1))
        layer = _whole(keys.get(f"Segment{number}_Layer"))
        value = _whole(keys.get(f"Segment{number}_LabelValue"))
        if value is None and len(numbers) > layers:
            raise DataError(
                f"'{name}': its header does not say which value stands for which segment. Save it again in 3D Slicer."
            )
        if layer is None:  # before Slicer 4.11: a layer each, or one volume with a single segment
            layer = 0 if layers == 1 else numbers.index(number)
        if layer >= layers or value == 0:
            missing.append(segment.name)
            continue
        placed[segment] = _Place(layer, value)
    if missing:
        notes.append(f"segments whose layer is not in the file, left out: {name_list(missing)}.")
    return placed


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*\d{1,9}\s*", text) else None


# --- the pixels -------------------------------------------------------------------------------------------------------


def _encoding(header: _Header, name: str) -> str:
    encoding = _ENCODINGS.get(header.fields.get("encoding", "raw").lower())
    if (
        encoding is None
        or header.fields.get("line skip", "0") != "0"
        or header.fields.get("byte skip", "0") != "0"
    ):
        raise DataError(
            f"'{name}': its pixels are stored in a way that is not supported. Save the segmentation again in 3D Slicer."
        )
    return encoding


def _pixel_bytes(path: Path, header: _Header, needed: int) -> bytearray | bytes:
    """Returns exactly ``needed`` bytes; compressed data are taken apart piece by piece and never beyond that."""
    encoding = _encoding(header, path.name)
    try:
        with path.open("rb") as stream:
            stream.seek(header.start)
            if encoding == "raw":
                found: bytearray | bytes = stream.read(needed)
            else:
                found = bytearray()
                for piece in _gunzipped(stream) if encoding == "gzip" else _bunzipped(stream):
                    found += piece[: needed - len(found)]
                    if len(found) == needed:
                        break
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"'{path.name}': its pixels cannot be unpacked ({type(error).__name__}). The file is damaged; save it again."
        ) from error
    if len(found) < needed:
        raise DataError(
            f"'{path.name}': found {len(found):,} of {needed:,} bytes of pixels; the file is cut off. "
            "Copy or save it again."
        )
    return found


def _gunzipped(stream: BinaryIO) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while block := unpacker.unconsumed_tail or stream.read(_BLOCK):
        yield unpacker.decompress(block, _BLOCK)
        if unpacker.eof:
            return


def _bunzipped(stream: BinaryIO) -> Iterator[bytes]:
    unpacker = bz2.BZ2Decompressor()
    while not unpacker.eof:
        block = stream.read(_BLOCK) if unpacker.needs_input else b""
        if unpacker.needs_input and not block:
            return
        yield unpacker.decompress(block, _BLOCK)
