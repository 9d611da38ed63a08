"""Labels and answers of the scans kept back, kept small, so that post-processing can be tried without predicting again.

A label mask is mostly the same value over and over: packed it takes about a hundredth of its size.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import AutosegError, ExportError
from autoseg_lib.events import Listener, Message
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.files import atomic_write
from autoseg_lib.train.validate import ValidationScan
from autoseg_lib.volume import Mask

# No scan has more pixels; a damaged file could otherwise unpack to more than fits into memory.
_MOST_PIXELS = 4_000_000_000


@dataclass(frozen=True)
class _Kept:
    name: str
    patient: str
    geometry: Geometry
    dtypes: tuple[str, str]
    truth: bytes
    answer: bytes

    def masks(self) -> tuple[Mask, Mask]:
        """Returns label and answer."""
        return self._mask(self.truth, self.dtypes[0]), self._mask(self.answer, self.dtypes[1])

    def _mask(self, packed: bytes, dtype: str) -> Mask:
        size = int(np.prod(self.geometry.shape_zyx)) * np.dtype(dtype).itemsize
        plain = zlib.decompressobj().decompress(packed, size)
        return Mask(np.frombuffer(plain, dtype=dtype).reshape(self.geometry.shape_zyx), self.geometry)


class KeptAnswers:
    """Label and answer of each scan kept back, on the scan's own grid, before any post-processing."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, scan: ValidationScan, answer: npt.NDArray[np.unsignedinteger]) -> None:
        """Keeps the model's answer for a scan, with the scan's label.

        Args:
            scan: the scan.
            answer: (slice, row, column) label values as the model gives them.
        """
        self._kept[scan.name] = _Kept(
            scan.name,
            scan.patient or scan.name,
            scan.mask.geometry,
            (scan.mask.array.dtype.str, answer.dtype.str),
            zlib.compress(np.ascontiguousarray(scan.mask.array).tobytes(), 1),
            zlib.compress(np.ascontiguousarray(answer).tobytes(), 1),
        )

    def pairs(self) -> Iterator[tuple[str, Mask, Mask]]:
        """Gives patient, label and answer of each scan, one in memory at a time."""
        for one in self._kept.values():
            yield (one.patient, *one.masks())

    def of(self, name: str) -> tuple[Mask, Mask] | None:
        """Returns label and answer of a scan; None where it was not kept."""
        one = self._kept.get(name)
        return None if one is None else one.masks()

    def join(self, other: KeptAnswers) -> None:
        """Takes over all that ``other`` keeps."""
        self._kept.update(other._kept)

    def save(self, path: Path) -> None:
        """Writes everything to one file. Patients are numbered, not named.

        Raises:
            ExportError: the file cannot be written.
        """
        numbers = {p: n for n, p in enumerate(sorted({k.patient for k in self._kept.values()}), start=1)}
        table = [
            {
                "name": one.name,
                "patient": numbers[one.patient],
                "shape": list(one.geometry.shape_zyx),
                "affine": one.geometry.affine.tolist(),
                "positions_mm": one.geometry.slice_positions_mm,
                "known": [
                    one.geometry.spacing_known,
                    one.geometry.positions_known,
                    one.geometry.orientation_known,
                ],
                "dtypes": list(one.dtypes),
            }
            for one in self._kept.values()
        ]

        def write(target: Path) -> None:
            with zipfile.ZipFile(target, "w") as file:
                file.writestr("scans.json", json.dumps(table))
                for number, one in enumerate(self._kept.values()):
                    file.writestr(f"{number}_label", one.truth)
                    file.writestr(f"{number}_answer", one.answer)

        atomic_write(path, write)

    @classmethod
    def load(cls, path: Path) -> KeptAnswers | None:
        """Returns what ``save`` wrote; None where the file is missing or damaged."""
        kept = cls()
        try:
            with zipfile.ZipFile(path) as file:
                for number, row in enumerate(json.loads(file.read("scans.json"))):
                    one = _from_row(
                        row, path.stem, file.read(f"{number}_label"), file.read(f"{number}_answer")
                    )
                    one.masks()  # damage is found here, not in the middle of the work
                    kept._kept[one.name] = one
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, AutosegError):
            return None
        return kept


def keep_answers(path: Path, kept: KeptAnswers, on_event: Listener) -> None:
    """Writes the answers of a fold; that they cannot be written must not end a training."""
    try:
        kept.save(path)
    except ExportError as error:
        on_event(Message(f"{error} No post-processing is proposed without it.", "warning"))


def _from_row(row: dict[str, Any], where: str, truth: bytes, answer: bytes) -> _Kept:
    shape = tuple(int(n) for n in row["shape"])
    if len(shape) != 3 or not 0 < np.prod(shape, dtype=float) <= _MOST_PIXELS:
        raise ValueError("sizes of a scan")
    positions = row["positions_mm"]
    geometry = Geometry(
        (shape[0], shape[1], shape[2]),
        np.array(row["affine"], dtype=np.float64),
        None if positions is None else tuple(positions),
        *(bool(flag) for flag in row["known"]),
    )
    first, second = (np.dtype(text) for text in row["dtypes"])
    if first.kind != "u" or second.kind != "u":
        raise ValueError("label values that are no whole numbers")
    # Patients are numbered in each file by itself.
    return _Kept(
        str(row["name"]), f"{where} {row['patient']}", geometry, (first.str, second.str), truth, answer
    )
