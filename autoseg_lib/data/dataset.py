"""Prepared scans as torch datasets: slices for 2D, patches for 3D.

A sample is asked for by (epoch, index) and depends on nothing but these and the seed: not on the order of
asking, not on the number of helper processes. Prepared pixels are kept in memory in two long tensors, which
helper processes share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from autoseg_lib.augment.patches import augment_patch
from autoseg_lib.augment.plan import AugmentPlan, SeedKey, generator, is_mirrored, swap_channels
from autoseg_lib.augment.slices import augment_slice
from autoseg_lib.data.packed import PackedCases, PreparedCase, packed
from autoseg_lib.errors import DataError

Key = tuple[int, int]

# Share of patches placed on an ROI; the rest lie anywhere. nnU-Net forces a third; small ROIs learn faster
# with more.
DEFAULT_POSITIVE_SHARE = 0.6

# Label values there can be.
_LABEL_VALUES = 256

# Voxels remembered per ROI and scan as places for a patch.
_PLACES_PER_ROI = 2000


Sample = dict[str, torch.Tensor]


def _sample(
    image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], drawn: npt.NDArray[np.bool_]
) -> Sample:
    """A sample from (channel, ...) image and labels; ``drawn``: the label values that were drawn in its scan or slice."""
    return {
        "image": torch.from_numpy(image),
        "label": torch.from_numpy(label)[None],
        "drawn": torch.from_numpy(drawn),
    }


def _drawn(values: npt.NDArray[np.integer], plan: AugmentPlan | None, key: SeedKey) -> npt.NDArray[np.bool_]:
    """Whether each label value was drawn, after the sample's changes; the background always counts as drawn."""
    drawn = np.zeros(_LABEL_VALUES, bool)
    drawn[0] = True
    drawn[values] = True
    if plan is not None and plan.mirror_pairs and is_mirrored(plan, key):
        drawn = drawn[swap_channels(_LABEL_VALUES, plan.mirror_pairs)]
    return drawn


class SliceDataset(Dataset[Sample]):
    """Every slice of every case once per epoch, changed at random.

    ``dataset[epoch, index]`` gives {"image": (channels * (1 + 2 * neighbours), row, column) float32, "label": (1, row,
    column) uint8, "drawn": (256,) whether each label value occurs in the slice}. Of several channels, each comes with its
    neighbouring slices before the next.
    """

    def __init__(
        self,
        cases: PackedCases | Sequence[PreparedCase],
        plan: AugmentPlan | None,
        seed: int,
        slices: Sequence[tuple[int, int]] | None = None,
        *,
        neighbours: int = 0,
        first_cases: int | None = None,
    ) -> None:
        """Args:
            cases: prepared scans; all slices of one size.
            plan: how to change them; None: not at all.
            seed: start of all random numbers.
            slices: (case, slice) pairs to use; None: all.
            neighbours: slices on each side that become channels beside the slice itself; see ``neighbour_order``.
            first_cases: learn from so many cases at first, from all of them later; None: from all of them always.

        Raises:
            DataError: no slice, or slices of different sizes.
        """
        self._packed = packed(cases)
        sizes = {shape[1:] for shape in self._packed.shapes}
        if len(sizes) > 1:
            raise DataError(f"slices of one size are expected, found {sorted(sizes)}.")
        if slices is None:
            slices = [(case, k) for case, shape in enumerate(self._packed.shapes) for k in range(shape[0])]
        if not slices:
            raise DataError("there is no slice to learn from. Check the data folder and the split.")
        self.slices = [(int(case), int(k)) for case, k in slices]
        self.plan = plan
        self.seed = int(seed)
        self.neighbours = int(neighbours)
        self._at_first = sum(first_cases is None or case < first_cases for case, _ in self.slices)

    def __len__(self) -> int:
        return self._at_first

    @property
    def everything(self) -> range:
        """The indices of an epoch in which all cases are learned from."""
        return range(len(self.slices))

    def __getitem__(self, key: Key) -> Sample:
        return self._slice(*key, self.plan)

    def stored(self, epoch: int, index: int) -> Sample:
        """Returns the sample as it is without any change, for comparison."""
        return self._slice(epoch, index, None)

    def _slice(self, epoch: int, index: int, plan: AugmentPlan | None) -> Sample:
        case, k = self.slices[index]
        pixels = self._packed.image_channels(case)
        seen = neighbour_order(k, pixels.shape[1], self.neighbours)
        image = pixels[:, seen].astype(np.float32).reshape(-1, *pixels.shape[2:])
        label = self._packed.label(case)[k].copy()
        drawn = _drawn(np.unique(label), plan, (self.seed, epoch, index))
        if plan is not None:
            image, label = augment_slice(
                image, label, plan, (self.seed, epoch, index), groups=self._packed.channels
            )
        return _sample(image, label, drawn)


def neighbour_order(k: int, count: int, neighbours: int) -> list[int]:
    """Returns the slices that a network sees for slice ``k``, in the order of its channels.

    The slice itself is in the middle. At the ends, and in a scan of a single slice, the outermost slice stands in for
    those that are missing.

    Args:
        k: the slice.
        count: slices of the scan.
        neighbours: slices on each side.
    """
    return [min(max(k + step, 0), count - 1) for step in range(-neighbours, neighbours + 1)]


class PatchDataset(Dataset[Sample]):
    """Patches of 3D scans, a set share of them placed on an ROI, each ROI equally often.

    ``dataset[epoch, index]`` gives {"image": (channels, slice, row, column) float32, "label": (1, ...) uint8,
    "drawn": (256,) whether each label value occurs in the patch's scan}.
    """

    def __init__(
        self,
        cases: PackedCases | Sequence[PreparedCase],
        patch_size: Sequence[int],
        plan: AugmentPlan | None,
        seed: int,
        *,
        length: int | None = None,
        positive_share: float = DEFAULT_POSITIVE_SHARE,
        first_cases: int | None = None,
    ) -> None:
        """Args:
            cases: prepared scans, of any size; smaller ones than the patch are padded.
            patch_size: (slices, rows, columns).
            plan: how to change the patches; None: not at all.
            seed: start of all random numbers.
            length: patches per epoch; None: one per case.
            positive_share: share of patches placed on a voxel of an ROI, as long as there is any.
            first_cases: learn from so many cases at first, from all of them later; None: from all of them always.

        Raises:
            DataError: there is no case.
        """
        self._packed = packed(cases)
        self.patch_size = tuple(int(n) for n in patch_size)
        self.plan = plan
        self.seed = int(seed)
        self._first_cases = len(self._packed) if first_cases is None else int(first_cases)
        self.length = self._first_cases if length is None else int(length)
        self.positive_share = float(positive_share)
        self._values: list[npt.NDArray[np.uint8]] = []  # of each case
        # ROI value → [(case, (n, 3) voxels)]
        self._places: dict[int, list[tuple[int, npt.NDArray[np.int32]]]] = {}
        # The same of the cases that are learned from at first.
        self._first_places = self._places
        for number in range(len(self._packed)):
            if number == self._first_cases:
                self._first_places = {value: list(found) for value, found in self._places.items()}
            self._remember_places(number, self._packed.label(number))

    def _remember_places(self, number: int, label: npt.NDArray[np.uint8]) -> None:
        random = generator((self.seed, 0, number), purpose=2)
        flat = label.reshape(-1)
        inside = np.flatnonzero(flat)
        values = flat[inside]
        self._values.append(np.unique(values))
        for value in self._values[-1]:
            where = inside[values == value]
            if where.size > _PLACES_PER_ROI:
                where = np.sort(random.choice(where, _PLACES_PER_ROI, replace=False))
            places = np.stack(np.unravel_index(where, label.shape), axis=1).astype(np.int32)
            self._places.setdefault(int(value), []).append((number, places))

    def __len__(self) -> int:
        return self.length

    @property
    def everything(self) -> range:
        """The indices of an epoch in which all cases are learned from."""
        return range(self.length, 2 * self.length)

    def __getitem__(self, key: Key) -> Sample:
        return self._patch(*key, self.plan)

    def stored(self, epoch: int, index: int) -> Sample:
        """Returns the same patch without any change, for comparison."""
        return self._patch(epoch, index, None)

    def _patch(self, epoch: int, index: int, plan: AugmentPlan | None) -> Sample:
        case, first = self.place_of(epoch, index)
        image, label = augment_patch(
            self._packed.image_channels(case),
            self._packed.label(case),
            first,
            self.patch_size,
            plan,
            (self.seed, epoch, index),
            self._packed.fills[case],
        )
        return _sample(image, label, _drawn(self._values[case], plan, (self.seed, epoch, index)))

    def place_of(self, epoch: int, index: int) -> tuple[int, tuple[int, int, int]]:
        """Returns (case, first voxel) of a patch before any change; may start outside a small scan."""
        random = generator((self.seed, epoch, index), purpose=1)
        of_all = index >= self.length
        cases = len(self._packed) if of_all else self._first_cases
        known = self._places if of_all else self._first_places
        on_roi = bool(known) and random.random() < self.positive_share
        centre: npt.NDArray[np.int32] | None = None
        if on_roi:
            values = sorted(known)
            choices = known[values[int(random.integers(len(values)))]]
            case, places = choices[int(random.integers(len(choices)))]
            centre = places[int(random.integers(len(places)))]
        else:
            # Every case in turn, so that none is forgotten in a short run.
            case = (index + epoch * self.length) % cases
        first = []
        for axis, (size, length) in enumerate(zip(self.patch_size, self._packed.shapes[case], strict=True)):
            room = length - size
            if room <= 0:  # the scan is smaller than the patch: it lies anywhere inside
                start = -int(random.integers(-room + 1))
            elif centre is None:
                start = int(random.integers(room + 1))
            else:
                start = min(max(int(centre[axis]) - size // 2, 0), room)
            first.append(start)
        return case, (first[0], first[1], first[2])


class KeyedBatches(Sampler[list[Key]]):
    """Batches of (epoch, index) keys: the order depends on (seed, epoch) alone, and can start in the middle.

    Attributes:
        epoch: the epoch, counted from 0, that the next pass belongs to.
        first: the batch that the next pass begins with.
        all_from: the epoch, counted from 0, from which on all cases are learned from; None: not yet. The steps of an epoch stay
            as many as before.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        everything: range | None = None,
    ) -> None:
        """Args:
        length: samples per epoch.
        batch_size: samples per batch.
        seed: start of the random order.
        rank: number of this process; it takes every ``world``-th sample of each batch.
        world: processes that share each batch.
        everything: the indices of an epoch in which all cases are learned from; None: there are no further ones.
        """
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.everything = rank, world, everything
        self.epoch, self.first = 0, 0
        self.all_from: int | None = None

    def __len__(self) -> int:
        return math.ceil(self.length / self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        indices = range(self.length)
        if self.everything is not None and self.all_from is not None and self.epoch >= self.all_from:
            indices = self.everything
        order = np.random.default_rng([self.seed, self.epoch]).permutation(np.asarray(indices))
        # The last batch is filled up from the start of the order, so that no step sees a single image.
        order = np.resize(order, len(self) * self.batch_size)
        for step in range(self.first, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in chosen[self.rank :: self.world]]
