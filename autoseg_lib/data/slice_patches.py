"""2D: learning from a part of each slice, where the ROIs take up a small part of it.

The network sees whole slices when it is used; that works because a convolution does the same everywhere. It learns from
patches, most of them placed on an ROI: a step costs less, and fewer of its pixels are background that was long understood.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from autoseg_lib.augment.plan import generator
from autoseg_lib.data.dataset import Key, Sample, SliceDataset

# A pixel of the ROI lies in the middle half of the patch, so that the ROI is seen with its surroundings.
_MIDDLE = (0.25, 0.75)
# Tells the random numbers for places from those for changes of the same sample.
_PLACES = 3


class SlicePatches(Dataset[Sample]):
    """A patch of every slice once per epoch, a set share of them placed on an ROI, each ROI of the slice equally often.

    ``dataset[epoch, index]`` gives what SliceDataset gives, image and label cut to the patch.
    """

    def __init__(self, slices: SliceDataset, patch_size: Sequence[int], positive_share: float) -> None:
        """Args:
        slices: whole slices, changed at random.
        patch_size: (rows, columns), at most those of the slices.
        positive_share: share of patches placed on an ROI, where the slice has any.
        """
        self.slices = slices
        self.patch_size = (int(patch_size[0]), int(patch_size[1]))
        self.positive_share = float(positive_share)

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def everything(self) -> range:
        """The indices of an epoch in which all cases are learned from."""
        return self.slices.everything

    def __getitem__(self, key: Key) -> Sample:
        sample = self.slices[key]
        return self._cut(sample, self._first(key, sample))

    def stored(self, epoch: int, index: int) -> Sample:
        """Returns the same place of the slice as it is without any change, for comparison."""
        first = self._first((epoch, index), self.slices[epoch, index])
        return self._cut(self.slices.stored(epoch, index), first)

    def _first(self, key: Key, sample: Sample) -> tuple[int, int]:
        """First row and column of the patch in the changed slice."""
        label = sample["label"][0].numpy()
        random = generator((self.slices.seed, *key), purpose=_PLACES)
        on_roi = random.random() < self.positive_share
        centre = _roi_pixel(label, random) if on_roi else None
        first = []
        for axis, (size, length) in enumerate(zip(self.patch_size, label.shape, strict=True)):
            if centre is None:
                first.append(int(random.integers(length - size + 1)))
            else:
                offset = int(random.uniform(*_MIDDLE) * size)
                first.append(min(max(centre[axis] - offset, 0), length - size))
        return first[0], first[1]

    def _cut(self, sample: Sample, first: tuple[int, int]) -> Sample:
        (row, column), (rows, columns) = first, self.patch_size
        return {
            name: pixels[:, row : row + rows, column : column + columns].contiguous()
            if pixels.ndim == 3
            else pixels
            for name, pixels in sample.items()
        }


def _roi_pixel(label: npt.NDArray[np.uint8], random: np.random.Generator) -> tuple[int, int] | None:
    """A pixel of one of the slice's ROIs, each ROI equally likely; None where nothing is drawn."""
    inside = np.flatnonzero(label)
    if inside.size == 0:
        return None
    values = label.reshape(-1)[inside]
    present = np.unique(values)
    chosen = inside[values == present[int(random.integers(present.size))]]
    row, column = divmod(int(chosen[int(random.integers(chosen.size))]), label.shape[1])
    return row, column
