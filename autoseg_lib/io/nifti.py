"""NIfTI files, read and written exactly (NIfTI-2, for huge volumes, is only read).

SimpleITK's reader turns NaN into 0, fills up files that were cut off with 0, and refuses tilted grids; none of that may
happen to data that are measured. Source: the standards, nifti1.h and nifti2.h. NIfTI's world is RAS; it appears in this
module and nowhere else.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.io.limits import DEFLATE_RATIO, check_announced, check_memory

_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
_HEADER_BYTES, _DATA_START = 348, 352
_HEADER_2_BYTES, _DATA_2_START = 540, 544
# Extensions (text of other programs) lie between header and pixels; nobody has more than this.
_LATEST_START = 1 << 30
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Unit axes whose products differ from zero by more than this are not at right angles (0.06 degrees).
_SHEAR_TOLERANCE = 1e-3


# What the number for the type of the pixels can also say.
_OTHER_TYPES = {
    128: "colour",
    2304: "colour",
    32: "complex numbers",
    1792: "complex numbers",
    1: "single bits",
}
# nifti1.h: units of length, as factors to mm. 0 (unknown) is mm in practice.
_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True)
class NiftiHeader:
    """The parts of a NIfTI header that are needed.

    Attributes:
        shape: sizes along i, j, k, ...
        type_code: NIfTI's number for the type of the pixels.
        order: "<" or ">".
        data_start: byte at which the pixels begin.
        slope, intercept: scaling of stored values (1, 0 where none).
        affine: (4, 4) from (k, j, i) to LPS mm: by sform, else qform, else along the axes.
        spacing_known: whether all three distances are given.
        orientation_known: whether sform or qform is given.
    """

    shape: tuple[int, ...]
    type_code: int
    order: str
    data_start: int
    slope: float
    intercept: float
    affine: FloatArray
    spacing_known: bool
    orientation_known: bool


def read_header(path: Path) -> NiftiHeader:
    """Reads the header of a .nii or .nii.gz file.

    Raises:
        DataError: it is no NIfTI file, or damaged.
    """
    with np.errstate(all="ignore"):  # a damaged header holds NaN and infinity; they are looked for below
        return _header(_bytes(path, _HEADER_2_BYTES), path.name)


def read_nifti(path: Path) -> tuple[npt.NDArray[Any], NiftiHeader]:
    """Reads a three-dimensional NIfTI file.

    Returns:
        The (k, j, i) array with scaling applied (NaN and infinities kept), and the header.

    Raises:
        DataError: damaged, cut off, of an odd pixel type, not three-dimensional, or too large for the memory.
    """
    header = read_header(path)
    check_kind(header, path.name)
    kind = np.dtype(header.order + _TYPES[header.type_code])
    shape = (*header.shape[:3], 1, 1)[:3]
    count = math.prod(shape)
    needed = count * kind.itemsize
    stored, end = path.stat().st_size, header.data_start + needed
    if _is_compressed(path):
        check_announced(path.name, _voxels(shape), end, stored, DEFLATE_RATIO)
    elif stored < end:
        raise _ends_early(path, end - stored)
    check_memory(path.name, _voxels(shape), needed)
    # Never more than the header announces, however much a compressed file would unpack to.
    raw = memoryview(_bytes(path, end))[header.data_start :]
    if len(raw) < needed:
        raise _ends_early(path, needed - len(raw))
    array = np.frombuffer(raw, kind, count).reshape(shape[::-1]).astype(kind.newbyteorder("="))
    if (header.slope, header.intercept) != (1.0, 0.0):
        array = (array.astype(np.float64) * header.slope + header.intercept).astype(np.float32)
    return array, header


def check_kind(header: NiftiHeader, name: str) -> None:
    """Checks that a header speaks of one plain number per voxel in three dimensions.

    Raises:
        DataError: it does not.
    """
    shape = header.shape
    if any(size > 1 for size in shape[3:]):
        raise DataError(
            f"'{name}': found {len(shape)} dimensions ({' × '.join(map(str, shape))}), expected 3. "
            "Split the time points into files of their own."
        )
    if header.type_code not in _TYPES:
        what = _OTHER_TYPES.get(header.type_code, f"values of type {header.type_code}")
        raise DataError(f"'{name}': found {what}, expected one plain number per voxel. Save it as such.")


def _voxels(shape: tuple[int, ...]) -> str:
    return " × ".join(str(size) for size in shape) + " voxels"


def _ends_early(path: Path, missing: int) -> DataError:
    return DataError(f"'{path.name}': the file ends early ({missing} bytes are missing). Copy it again.")


@dataclass(frozen=True)
class _Layout:
    """Where the fields lie (bytes) and how they are packed: nifti1.h and nifti2.h say the same in different places."""

    size: int
    start: int
    magic: tuple[int, bytes, bytes]
    dim: tuple[int, str]
    kind: int
    pixdim: tuple[int, str]
    data: tuple[tuple[int, str], tuple[int, str]]
    forms: tuple[int, str]
    quaternion: tuple[int, str]
    rows: tuple[int, str]
    units: tuple[int, str]


_LAYOUTS = (
    _Layout(
        _HEADER_BYTES, _DATA_START, (344, b"n+1", b"ni1"), (40, "8h"), 70, (76, "8f"), ((108, "f"), (112, "2f")),
        (252, "2h"), (256, "6f"), (280, "12f"), (123, "B"),
    ),
    _Layout(
        _HEADER_2_BYTES, _DATA_2_START, (4, b"n+2", b"ni2"), (16, "8q"), 12, (104, "8d"), ((168, "q"), (176, "2d")),
        (344, "2i"), (352, "6d"), (400, "12d"), (500, "i"),
    ),
)  # fmt: skip


def _layout(raw: bytes, name: str) -> tuple[_Layout, str]:
    """Returns the layout and the byte order of a header."""
    for layout in _LAYOUTS:
        for order in "<>":
            if len(raw) < layout.size or struct.unpack(order + "i", raw[:4])[0] != layout.size:
                continue
            place, one_file, two_files = layout.magic
            magic = raw[place : place + 3]
            if magic == one_file:
                return layout, order
            if magic == two_files:
                raise DataError(f"'{name}': its pixels lie in another file (.img). Save it as one .nii.gz.")
    if len(raw) < _HEADER_BYTES:
        raise DataError(f"'{name}': found {len(raw)} bytes, which is no NIfTI file. Copy or save it again.")
    raise DataError(f"'{name}': it is not a NIfTI file, though its name says so. Copy or save it again.")


def _header(raw: bytes, name: str) -> NiftiHeader:
    layout, order = _layout(raw, name)

    def values(field: tuple[int, str]) -> tuple[Any, ...]:
        return struct.unpack_from(order + field[1], raw, field[0])

    dim = values(layout.dim)
    pixdim = np.array(values(layout.pixdim), dtype=np.float64)
    (start,), (slope, intercept) = values(layout.data[0]), values(layout.data[1])
    qform, sform = values(layout.forms)
    if not 1 <= dim[0] <= 7 or min(dim[1 : 1 + dim[0]]) < 1:
        raise DataError(
            f"'{name}': its header gives the sizes {dim[1:4]}, which is no volume. Save it again."
        )
    if not 0 <= start <= _LATEST_START:  # also where it is no number
        raise DataError(f"'{name}': its header gives no place for the pixels. Save it again.")
    lengths = np.abs(pixdim[1:4])
    rows = np.array(values(layout.rows), dtype=np.float64).reshape(3, 4)
    if sform > 0 and np.isfinite(rows).all() and abs(np.linalg.det(rows[:, :3])) > _FLAT:
        ras, given = np.vstack([rows, [0, 0, 0, 1]]), True
    else:
        sform = 0
        given = bool(np.all(lengths > 0))
        scale = np.where(lengths > 0, lengths, 1.0)
        ras = np.diag([*scale, 1.0])
        if qform > 0:
            b, c, d, *offset = values(layout.quaternion)
            scale[2] *= -1 if pixdim[0] < 0 else 1
            ras[:3, :3] = _rotation(b, c, d) * scale
            ras[:3, 3] = offset
        else:
            ras = _LPS_TO_RAS @ ras  # nothing is known: along the project's own axes
    to_mm = _TO_MM.get(values(layout.units)[0] & 7, 1.0)
    affine = _LPS_TO_RAS @ ras
    affine[:3] *= to_mm
    if not np.isfinite(affine).all():
        raise DataError(f"'{name}': its header gives no finite place. Save it again.")
    scaled = np.isfinite(slope) and slope != 0
    return NiftiHeader(
        shape=tuple(dim[1 : 1 + dim[0]]),
        type_code=values((layout.kind, "h"))[0],
        order=order,
        data_start=max(layout.start, int(start)),
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled and np.isfinite(intercept) else 0.0,
        affine=affine[:, [2, 1, 0, 3]],
        spacing_known=given,
        orientation_known=qform > 0 or sform > 0,
    )


# A voxel of less than this many mm³ is a broken header.
_FLAT = 1e-9


def _rotation(b: float, c: float, d: float) -> FloatArray:
    """Returns the rotation matrix of nifti1.h's quaternion (a is what is left of a unit length)."""
    rest = b * b + c * c + d * d
    if rest > 1:  # rounding
        b, c, d = (value / np.sqrt(rest) for value in (b, c, d))
    a = np.sqrt(max(0.0, 1 - rest))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )


def write_nifti(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Writes a NIfTI-1 file whose sform is the grid exactly, sheared or not; compressed where the name ends in .gz.

    The same pixels give the same bytes (no time stamp inside).

    Args:
        path: ends in .nii or .nii.gz.
        array: (slice, row, column) numbers of a type NIfTI knows.
        geometry: an even grid.
    """
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    kind = array.dtype.newbyteorder("=")
    if kind not in _CODES:
        array = array.astype("<f4")
        kind = np.dtype("f4")
    affine = (_LPS_TO_RAS @ geometry.affine)[:, [2, 1, 0, 3]]  # from (i, j, k) to RAS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    unit = affine[:3, :3] / spacing
    straight = float(np.abs(unit.T @ unit - np.eye(3)).max()) < _SHEAR_TOLERANCE
    handed = 1.0 if np.linalg.det(unit) > 0 else -1.0
    quaternion = _quaternion(unit * [1, 1, handed]) if straight else np.zeros(3)
    code = 1 if geometry.orientation_known else 0  # 1: the scanner's own space; 0: nothing is known
    header = bytearray(_DATA_START)
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _CODES[kind], kind.itemsize * 8)
    struct.pack_into("<8f", header, 76, handed, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, _DATA_START, 1.0, 0.0)
    header[123] = 2  # lengths are in mm
    struct.pack_into("<2h", header, 252, code if straight else 0, code)
    struct.pack_into("<6f", header, 256, *quaternion, *affine[:3, 3])
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    data = bytes(header) + array.tobytes()
    path.write_bytes(
        gzip.compress(data, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else data
    )


def _quaternion(rotation: FloatArray) -> FloatArray:
    """Returns (b, c, d) of the unit quaternion (a ≥ 0) of a proper rotation matrix.

    From the eigenvector of Bar-Itzhack's symmetric matrix (J. Guidance 23:1085, 2000): stable for every rotation.
    """
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    _, vectors = np.linalg.eigh(k / 3.0)  # eigh reads the lower triangle
    b, c, d, a = vectors[:, -1]
    return np.array([b, c, d]) * (-1 if a < 0 else 1)


def _is_compressed(path: Path) -> bool:
    """Whether a file is a gzip archive, whatever its name says."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _bytes(path: Path, count: int) -> bytes:
    """Returns the first ``count`` bytes of a file, decompressed where it is compressed."""
    try:
        if _is_compressed(path):
            with gzip.open(path, "rb") as stream:
                return stream.read(count)
        with path.open("rb") as stream:
            return stream.read(count)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)[:100]
        raise DataError(
            f"'{path.name}': it cannot be opened or is damaged ({reason}). Copy it again."
        ) from None
