"""Prepared scans, kept in memory or on disk so that helper processes share them instead of copying."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from autoseg_lib.errors import DataError, OutOfSpaceError
from autoseg_lib.io.scratch import scratch_folder

# Half precision: normalised grey values stay within some ±10, where its steps are below 0.01.
IMAGE_TYPE, LABEL_TYPE = np.dtype(np.float16), np.dtype(np.uint8)
BYTES_PER_VOXEL = IMAGE_TYPE.itemsize + LABEL_TYPE.itemsize

# Voxels in one block of memory. Scans are laid into some large blocks: helper processes get a handle to each, and
# handles are few; one block for all would have to be copied to grow.
VOXELS_PER_BLOCK = 2**26

Cache = Literal["ram", "disk"]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A scan on the network's grid.

    Attributes:
        name: of the case.
        image: (slice, row, column) or (channel, slice, row, column) normalised grey values.
        label: (slice, row, column) label values, uint8.
    """

    name: str
    image: npt.NDArray[np.floating] = field(repr=False)
    label: npt.NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        if self.image.shape[-3:] != self.label.shape or self.image.ndim not in (3, 4):
            raise DataError(
                f"case '{self.name}': image {self.image.shape} and labels {self.label.shape} differ in shape."
            )


class PackedCases:
    """Many scans, of which each process holds no more than it looks at.

    Attributes:
        names: of the cases.
        shapes: (slices, rows, columns) of each.
        darkest: smallest grey value of each, over all its channels.
        fills: smallest grey value of each channel of each, what lies outside the scan is filled with.
        channels: of every scan.
    """

    def __init__(self, cases: Iterable[PreparedCase], store: _Store) -> None:
        """Packs one case after the other; see ``build``."""
        self.names: list[str] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.darkest: list[float] = []
        self.fills: list[tuple[float, ...]] = []
        self.channels = 0
        self._store = store
        for case in cases:
            slices, rows, columns = case.label.shape
            image = case.image.reshape(-1, slices, rows, columns)
            if self.channels and len(image) != self.channels:
                raise DataError(
                    f"case '{case.name}' has {len(image)} channels, '{self.names[0]}' has {self.channels}; all need the same."
                )
            self.channels = len(image)
            self.names.append(case.name)
            self.shapes.append((slices, rows, columns))
            store.add(_half(image).reshape(-1), np.ascontiguousarray(case.label, LABEL_TYPE).reshape(-1))
            self.fills.append(tuple(float(channel.min()) for channel in image))
            self.darkest.append(min(self.fills[-1]))
        if not self.names:
            raise DataError("there is no scan to learn from. Check the data folder and the split.")
        store.close()

    @classmethod
    def build(
        cls, cases: Iterable[PreparedCase], cache: Cache = "ram", folder: Path | None = None
    ) -> PackedCases:
        """Packs cases as they come, so that never more than one lies in memory twice.

        Args:
            cases: prepared scans, e.g. from a generator.
            cache: "ram", or "disk" for data larger than the memory.
            folder: where files of the disk cache are kept until the process ends; None: the computer's own place.

        Raises:
            DataError: there is no case.
            OutOfSpaceError: the disk is full.
        """
        return cls(cases, _Disk(folder) if cache == "disk" else _Memory())

    def __len__(self) -> int:
        return len(self.names)

    def image(self, case: int) -> npt.NDArray[np.float16]:
        """(slice, row, column) view of a case's image; of several channels the first."""
        return self.image_channels(case)[0]

    def image_channels(self, case: int) -> npt.NDArray[np.float16]:
        """(channel, slice, row, column) view of a case's channels."""
        return self._store.image(case).reshape(self.channels, *self.shapes[case])

    def label(self, case: int) -> npt.NDArray[np.uint8]:
        """(slice, row, column) view of a case's labels."""
        return self._store.label(case).reshape(self.shapes[case])


def packed(cases: PackedCases | Iterable[PreparedCase]) -> PackedCases:
    """Returns cases packed, where they are not yet."""
    return cases if isinstance(cases, PackedCases) else PackedCases.build(cases)


def _half(image: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    largest = np.finfo(IMAGE_TYPE).max
    return np.clip(image, -largest, largest).astype(IMAGE_TYPE)


class _Store(Protocol):
    """Flat pixels and labels of cases, in the order they were added."""

    def add(self, pixels: npt.NDArray[np.float16], labels: npt.NDArray[np.uint8]) -> None: ...

    def close(self) -> None: ...

    def image(self, case: int) -> npt.NDArray[Any]: ...

    def label(self, case: int) -> npt.NDArray[Any]: ...


class _Memory:
    """Cases in some large tensors, which torch shares with helper processes."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.places: list[tuple[int, int, int]] = []  # block, first voxel, last voxel + 1
        self.used = 0
        self.channels = 1

    def add(self, pixels: npt.NDArray[np.float16], labels: npt.NDArray[np.uint8]) -> None:
        self.channels = pixels.size // labels.size
        if not self.images or self.used + labels.size > self.labels[-1].numel():
            self.close()
            size = max(labels.size, VOXELS_PER_BLOCK // self.channels)
            self.images.append(torch.empty(size * self.channels, dtype=torch.float16))
            self.labels.append(torch.empty(size, dtype=torch.uint8))
            self.used = 0
        first, self.used = self.used, self.used + labels.size
        self.images[-1][first * self.channels : self.used * self.channels] = torch.from_numpy(pixels)
        self.labels[-1][first : self.used] = torch.from_numpy(labels)
        self.places.append((len(self.images) - 1, first, self.used))

    def close(self) -> None:
        """Gives back what the last block has too much."""
        if self.images and self.used < self.labels[-1].numel():
            self.images[-1] = self.images[-1][: self.used * self.channels].clone()
            self.labels[-1] = self.labels[-1][: self.used].clone()

    def image(self, case: int) -> npt.NDArray[np.float16]:
        block, first, last = self.places[case]
        return self.images[block][first * self.channels : last * self.channels].numpy()

    def label(self, case: int) -> npt.NDArray[np.uint8]:
        block, first, last = self.places[case]
        return self.labels[block][first:last].numpy()


class _Disk:
    """Cases in two files. Each view maps them anew, so that what was looked at does not stay in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = scratch_folder(folder)
        self.starts = [0]
        self.channels = 1
        self._open: tuple[BinaryIO, BinaryIO] | None = (
            (self.folder / "images").open("wb"),
            (self.folder / "labels").open("wb"),
        )
        # The process that made the files removes them; helper processes get a copy of this object without it.
        self._cleaner = weakref.finalize(self, _remove, self.folder, self._open)

    def add(self, pixels: npt.NDArray[np.float16], labels: npt.NDArray[np.uint8]) -> None:
        if self._open is None:
            raise ValueError("the cache is complete")
        try:
            for file, data in zip(self._open, (pixels.data, labels.data), strict=True):
                file.write(data)
        except OSError as error:
            raise OutOfSpaceError(
                f"the prepared scans could not be written to '{self.folder.parent}' ({error.strerror}). "
                'Free some space there, or set cache = "ram".'
            ) from error
        self.channels = pixels.size // labels.size
        self.starts.append(self.starts[-1] + labels.size)

    def close(self) -> None:
        """Ends writing."""
        for file in self._open or ():
            file.close()
        self._open = None

    def image(self, case: int) -> npt.NDArray[np.float16]:
        return self._view("images", case, IMAGE_TYPE, self.channels)

    def label(self, case: int) -> npt.NDArray[np.uint8]:
        return self._view("labels", case, LABEL_TYPE)

    def _view(self, name: str, case: int, kind: np.dtype[Any], channels: int = 1) -> npt.NDArray[Any]:
        first, last = self.starts[case] * channels, self.starts[case + 1] * channels
        return np.memmap(
            self.folder / name, kind, mode="r", offset=first * kind.itemsize, shape=(last - first,)
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "starts": self.starts, "channels": self.channels, "_open": None}


def _remove(folder: Path, files: tuple[BinaryIO, BinaryIO]) -> None:
    for file in files:
        file.close()
    shutil.rmtree(folder, ignore_errors=True)
