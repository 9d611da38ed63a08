"""Prepared scans, kept so that helper processes share them instead of copying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from autoseg_lib.errors import DataError


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A scan on the network's grid.

    Attributes:
        name: of the case.
        image: (slice, row, column) normalised grey values.
        label: (slice, row, column) label values, uint8.
    """

    name: str
    image: npt.NDArray[np.floating] = field(repr=False)
    label: npt.NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        if self.image.shape != self.label.shape or self.image.ndim != 3:
            raise DataError(
                f"case '{self.name}': image {self.image.shape} and labels {self.label.shape} differ in shape."
            )


class PackedCases:
    """Many arrays in two flat tensors. Helper processes get two handles to them, not copies."""

    def __init__(self, cases: Sequence[PreparedCase]) -> None:
        if not cases:
            raise DataError("there is no scan to learn from. Check the data folder and the split.")
        self.names = [case.name for case in cases]
        self.shapes = [case.image.shape for case in cases]
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        # Half precision: normalised grey values stay within some ±10, where its steps are below 0.01.
        self.images = torch.empty(self.starts[-1], dtype=torch.float16)
        self.labels = torch.empty(self.starts[-1], dtype=torch.uint8)
        for case, start, size in zip(cases, self.starts, sizes, strict=False):
            largest = np.finfo(np.float16).max
            pixels = np.clip(case.image, -largest, largest).astype(np.float16)
            self.images[start : start + size] = torch.from_numpy(pixels.reshape(-1))
            self.labels[start : start + size] = torch.from_numpy(np.ascontiguousarray(case.label).reshape(-1))

    def image(self, case: int) -> npt.NDArray[np.float16]:
        """(slice, row, column) view of a case's image."""
        return self.images[self.starts[case] : self.starts[case + 1]].numpy().reshape(self.shapes[case])

    def label(self, case: int) -> npt.NDArray[np.uint8]:
        """(slice, row, column) view of a case's labels."""
        return self.labels[self.starts[case] : self.starts[case + 1]].numpy().reshape(self.shapes[case])
