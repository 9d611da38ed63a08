"""NIfTI-1 headers, and the cases SimpleITK does not take: tilted (sheared) grids, written and read exactly.

Source: the NIfTI-1 standard, nifti1.h. NIfTI's world is RAS; it appears in this module and nowhere else.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError
from autoseg_lib.geometry import FloatArray, Geometry

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
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Unit axes whose products differ from zero by more than this are not at right angles (0.06 degrees).
_SHEAR_TOLERANCE = 1e-3


@dataclass(frozen=True)
class NiftiHeader:
    """The parts of a NIfTI-1 header that are needed.

    Attributes:
        shape: sizes along i, j, k, ...
        type_code: NIfTI's number for the type of the pixels.
        order: "<" or ">".
        data_start: byte at which the pixels begin.
        slope, intercept: scaling of stored values (1, 0 where none).
        sform: (4, 4) RAS affine of (i, j, k) where sform_code > 0, else None.
        spacing_known: whether all three distances are above zero.
        orientation_known: whether sform or qform is given.
        sheared: whether the sform's axes are not at right angles.
    """

    shape: tuple[int, ...]
    type_code: int
    order: str
    data_start: int
    slope: float
    intercept: float
    sform: FloatArray | None
    spacing_known: bool
    orientation_known: bool
    sheared: bool


def read_header(path: Path) -> NiftiHeader:
    """Reads the header of a .nii or .nii.gz file. NIfTI-2 is passed on to SimpleITK with what is known of it.

    Raises:
        DataError: it is no NIfTI file, or damaged.
    """
    raw = _bytes(path, _HEADER_BYTES)
    if len(raw) < _HEADER_BYTES:
        raise DataError(
            f"'{path.name}': found {len(raw)} bytes, which is no NIfTI file. Copy or save it again."
        )
    sizes = {order: struct.unpack(order + "i", raw[:4])[0] for order in "<>"}
    if 540 in sizes.values():  # NIfTI-2: SimpleITK reads it
        return NiftiHeader((), 0, "<", 0, 1.0, 0.0, None, True, True, False)
    order = next((order for order, size in sizes.items() if size == _HEADER_BYTES), None)
    if order is None:
        raise DataError(
            f"'{path.name}': it is not a NIfTI file, though its name says so. Copy or save it again."
        )
    dim = struct.unpack(order + "8h", raw[40:56])
    pixdim = struct.unpack(order + "8f", raw[76:108])
    type_code = struct.unpack(order + "h", raw[70:72])[0]
    start, slope, intercept = struct.unpack(order + "3f", raw[108:120])
    qform, sform_code = struct.unpack(order + "2h", raw[252:256])
    rows = np.array(struct.unpack(order + "12f", raw[280:328]), dtype=np.float64).reshape(3, 4)
    sform = (
        np.vstack([rows, [0, 0, 0, 1]]) if sform_code > 0 and abs(np.linalg.det(rows[:, :3])) > 1e-9 else None
    )
    sheared = False
    if sform is not None:
        unit = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
        sheared = float(np.abs(unit.T @ unit - np.eye(3)).max()) > _SHEAR_TOLERANCE
    return NiftiHeader(
        shape=tuple(dim[1 : 1 + max(0, min(7, dim[0]))]),
        type_code=type_code,
        order=order,
        data_start=int(start),
        slope=slope if slope not in (0.0,) and np.isfinite(slope) else 1.0,
        intercept=intercept if slope not in (0.0,) and np.isfinite(intercept) else 0.0,
        sform=sform,
        spacing_known=sform is not None or min(abs(value) for value in pixdim[1:4]) > 0,
        orientation_known=qform > 0 or sform is not None,
        sheared=sheared,
    )


def read_nifti(path: Path) -> tuple[npt.NDArray[Any], FloatArray]:
    """Reads a three-dimensional NIfTI-1 file by its sform, which may be sheared.

    Returns:
        The (k, j, i) array with scaling applied, and the (4, 4) affine from (k, j, i) to LPS.

    Raises:
        DataError: damaged, of an odd pixel type, or not three-dimensional.
    """
    header = read_header(path)
    shape = header.shape
    if (
        len(shape) < 3
        or any(size != 1 for size in shape[3:])
        or header.type_code not in _TYPES
        or header.sform is None
    ):
        raise DataError(
            f"'{path.name}': found a tilted NIfTI grid with the shape {shape}, which cannot be read."
        )
    kind = np.dtype(header.order + _TYPES[header.type_code])
    count = int(np.prod(shape[:3]))
    raw = _bytes(path, header.data_start + count * kind.itemsize)[header.data_start :]
    if len(raw) < count * kind.itemsize:
        raise DataError(f"'{path.name}': the file ends early. Copy it again.")
    array = (
        np.frombuffer(raw, kind, count).reshape(shape[2], shape[1], shape[0]).astype(kind.newbyteorder("="))
    )
    if (header.slope, header.intercept) != (1.0, 0.0):
        array = (array * header.slope + header.intercept).astype(np.float32)
    affine = _LPS_TO_RAS @ header.sform
    return array, affine[:, [2, 1, 0, 3]]


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


def _bytes(path: Path, count: int) -> bytes:
    """Returns the first ``count`` bytes of a file, decompressed where it is compressed (whatever its name says)."""
    try:
        with path.open("rb") as stream:
            compressed = stream.read(2) == b"\x1f\x8b"
        if compressed:
            with gzip.open(path, "rb") as stream:
                return stream.read(count)
        with path.open("rb") as stream:
            return stream.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"'{path.name}': it cannot be opened or is damaged ({error}). Copy it again."
        ) from None
