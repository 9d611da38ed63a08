"""One predictor for validation while training, for test.ipynb and for the command line.

The scan is prepared as the model says and predicted slice by slice (2D) or window by window (3D). What is finished goes back
onto the scan's own grid at once, in one resampling of its probabilities, before the likeliest label is taken: neither the
probabilities of the whole scan nor anything else that grows with the number of classes is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoseg_lib.data.dataset import neighbour_order
from autoseg_lib.errors import DataError
from autoseg_lib.events import Listener, Progress, StopFlag, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.answering import Answering, MemoryLimits, Mirror, Stopped, smaller_window
from autoseg_lib.infer.prediction import Prediction
from autoseg_lib.infer.region import (
    LARGEST_SHARE,
    CutOff,
    RegionFinder,
    bordered,
    share_of,
    with_border,
)
from autoseg_lib.infer.soft import LIKELY, SURE, SoftSlices
from autoseg_lib.infer.windows import Shape, windowed
from autoseg_lib.networks.out_of_memory import OutOfMemoryError, make_room
from autoseg_lib.preprocess.pipeline import Preprocessing, runs_backwards
from autoseg_lib.preprocess.resample import resample_array
from autoseg_lib.preprocess.way_back import OwnGrid
from autoseg_lib.volume import Box, Mask, Volume

__all__ = ["DEFAULT_OVERLAP", "Predictor", "Stopped"]

# Half-overlapping windows with Gaussian weights, as in nnU-Net.
DEFAULT_OVERLAP = 0.5
DEFAULT_SLICES_AT_A_TIME = 8
# A processor is busy with one window; two together took 1.4 times as long for each (light U-Net, bf16).
WINDOWS_AT_A_TIME = {"cuda": 2}
# 64 prepared slices of 512 x 512 take 67 MB.
SLICES_PER_PART = 64

Image = npt.NDArray[np.float32]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Predictor:
    """A network and all that is done before and after it.

    Attributes:
        network: gives logits (N, classes, ...) for normalised images (N, channels, ...); in evaluation mode.
        preprocessing: as recorded in the model.
        classes: number of label values, background included.
        device: where the network is.
        window: 3D: window size in voxels; None in 2D.
        overlap: 3D: share by which neighbouring windows overlap.
        batch_size: slices or windows at a time; None for a default that fits every computer.
        half_precision: compute in 16 bits: bfloat16 on a processor, ``half`` on a GPU.
        mirror_pairs: with ``mirror_axis``: pairs of label values that trade places in the mirrored image.
        mirror_axis: axis of the network grid that crosses left–right; each slice or window is then predicted mirrored
            too and averaged (test-time augmentation). None: no mirroring.
        neighbours: 2D: slices on each side that the network sees beside the slice itself.
        window_multiple: 3D: where memory runs out, windows may have other sides that are multiples of this; None: the
            network takes no other window than its own.
        finder: 3D: look for the region on large voxels first, then closely only there; None: closely everywhere.
        half: number format of ``half_precision`` on a GPU: "bf16" (bfloat16), all else float16.
        half_network: the network for 16 bits, see ``with_half_weights``; None: ``network`` itself.
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: int
    device: torch.device
    window: Shape | None = None
    overlap: float = DEFAULT_OVERLAP
    batch_size: int | None = None
    half_precision: bool = False
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    mirror_axis: int | None = None
    neighbours: int = 0
    window_multiple: int | None = None
    finder: RegionFinder | None = None
    half: str = "16"
    half_network: nn.Module | None = None
    _limits: MemoryLimits = field(default_factory=MemoryLimits, repr=False, compare=False)

    def predict(self, volume: Volume, on_event: Listener = nobody, stop: StopFlag | None = None) -> Mask:
        """Returns the label values of a scan on its own grid; see ``predict_soft``."""
        return self.predict_soft(volume, on_event, stop).mask

    def predict_soft(
        self,
        volume: Volume,
        on_event: Listener = nobody,
        stop: StopFlag | None = None,
        region: Mask | None = None,
    ) -> Prediction:
        """Returns the label values of a scan on its own grid, and how soft the answer is.

        Args:
            volume: the scan.
            on_event: hears the progress.
            stop: asked between two batches.
            region: for a crop to a mask: what to keep, on the scan's grid.

        Raises:
            DataError: the scan does not suit the model.
            ModelError: the network's answer is not a number.
            OutOfMemoryError: memory is too small for the smallest part of the work.
            Stopped: ``stop`` was set.
        """
        notes: list[str] = []
        part, box = self.preprocessing.start(volume, region)
        work = self._by_slices if self.window is None else self._by_windows
        found = work(part, on_event, stop, notes)
        if box is not None:
            found = found.laid_into(volume.geometry.shape_zyx, box)
        likely, sure = found.counts
        return Prediction(Mask(found.labels, volume.geometry), SoftSlices(likely, sure), tuple(notes))

    def probabilities(
        self, volume: Volume, on_event: Listener = nobody, stop: StopFlag | None = None
    ) -> npt.NDArray[np.float32]:
        """Returns (classes, slice, row, column) probabilities on the network's grid, all of them at once.

        Args:
            volume: what ``preprocessing.start`` left of the scan.
            on_event: hears the progress.
            stop: asked between two batches.

        Raises:
            DataError, ModelError, OutOfMemoryError, Stopped: see predict_soft.
        """
        image, grid = self._prepared(volume)
        answering = self._answering(grid, stop, [])
        if self.window is None:
            return np.concatenate(list(self._slices(image, grid, range(image.shape[1]), answering)), axis=1)
        return self._fitting(
            lambda window: np.concatenate(list(self._windows(image, window, answering, on_event)), axis=1),
            answering.notes,
        )

    def _prepared(self, volume: Volume) -> tuple[Image, Geometry]:
        """The scan as the network sees it: (channel, slice, row, column), and the grid of it."""
        if self.window is not None and not volume.geometry.is_even:
            raise DataError(
                f"the slices lie {volume.geometry.spacing_text} apart; a 3D model needs evenly spaced slices. "
                "Use a 2D model for this scan, or export the complete series."
            )
        return self.preprocessing.prepare_channels(volume)

    def _answering(self, grid: Geometry, stop: StopFlag | None, notes: list[str]) -> Answering:
        if self.network.training:
            self.network.eval()
        mirrors: tuple[Mirror, ...] = ()
        if self.mirror_axis is not None and self._crosses_left_right(grid):
            # 2D: an image has no axis of slices.
            axis = self.mirror_axis - (1 if self.window is None else 0)
            mirrors = (Mirror.across(axis, self.classes, self.mirror_pairs),)
        return Answering(
            self.network,
            self.device,
            self.half_precision,
            mirrors,
            self._limits,
            stop,
            notes,
            half=self.half,
            half_network=self.half_network,
        )

    def _crosses_left_right(self, grid: Geometry) -> bool:
        """Whether ``mirror_axis`` runs from the patient's left to right in this scan; another plane has no sides."""
        return (
            grid.orientation_known
            and self.mirror_axis is not None
            and grid.orientation_code[self.mirror_axis] in "LR"
        )

    # --- 2D -----------------------------------------------------------------------------------------------------------

    def _by_slices(
        self, volume: Volume, on_event: Listener, stop: StopFlag | None, notes: list[str]
    ) -> OwnGrid:
        """Some slices at a time from image to labels, so that memory does not grow with the scan."""
        count = volume.geometry.shape_zyx[0]
        parts = []
        for first in range(0, count, SLICES_PER_PART):
            last = min(first + SLICES_PER_PART, count)
            # With the neighbours that the outermost slices need.
            begin, end = max(0, first - self.neighbours), min(last + self.neighbours, count)
            image, grid = self._prepared(volume.slices(begin, end))
            answering = self._answering(grid, stop, notes)
            back = self.preprocessing.way_back(
                grid.slices(first - begin, last - begin),
                volume.geometry.slices(first, last),
                self.classes,
                (LIKELY, SURE),
            )
            done = first
            for answer in self._slices(image, grid, range(first - begin, last - begin), answering):
                back.take(answer)
                done += answer.shape[1]
                on_event(Progress("Slices", done, count))
            parts.append(back.finish())
        return OwnGrid.joined(parts)

    def _slices(
        self, image: Image, grid: Geometry, wanted: range, answering: Answering
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Gives (classes, some slices, rows, columns) probabilities of the wanted slices of an image."""
        count = image.shape[1]
        upwards = -1 if self.neighbours and runs_backwards(grid) else 1
        step = self.batch_size or DEFAULT_SLICES_AT_A_TIME
        for first in range(wanted.start, wanted.stop, step):
            some = range(first, min(first + step, wanted.stop))
            seen = np.array([neighbour_order(k, count, self.neighbours)[::upwards] for k in some])
            # For each channel of the scan, the slice with its neighbours.
            batch = image[:, seen].swapaxes(0, 1).reshape(len(some), -1, *image.shape[2:])
            yield answering(torch.from_numpy(batch)).movedim(1, 0).cpu().numpy()

    # --- 3D -----------------------------------------------------------------------------------------------------------

    def _by_windows(
        self, volume: Volume, on_event: Listener, stop: StopFlag | None, notes: list[str]
    ) -> OwnGrid:
        image, grid = self._prepared(volume)
        answering = self._answering(grid, stop, notes)
        box = None if self.finder is None else self._region(image, grid, answering)
        try:
            return self._closely(image, grid, box, volume.geometry, answering, on_event)
        except CutOff:
            notes.append(
                "an ROI reached the edge of the region that was found: the whole scan was looked at closely."
            )
        return self._closely(image, grid, None, volume.geometry, answering, on_event)

    def _closely(
        self,
        image: Image,
        grid: Geometry,
        box: Box | None,
        target: Geometry,
        answering: Answering,
        on_event: Listener,
    ) -> OwnGrid:
        """The answer for the box, background around it.

        Raises:
            CutOff: an ROI reaches the edge of the box, and the scan goes on there.
        """
        outer = None if box is None else with_border(box, grid.shape_zyx)
        seen = image if box is None else np.ascontiguousarray(image[(slice(None), *box)])
        source = grid if outer is None else grid.boxed(outer)

        def with_window(window: Shape) -> OwnGrid:
            back = self.preprocessing.way_back(source, target, self.classes, (LIKELY, SURE))
            slabs = self._windows(seen, window, answering, on_event)
            for slab in slabs if box is None else bordered(slabs, box, grid.shape_zyx):
                back.take(slab)
            return back.finish()

        return self._fitting(with_window, answering.notes)

    def region(self, volume: Volume, stop: StopFlag | None = None) -> tuple[Box | None, Geometry]:
        """Returns the part of the network's grid that is looked at closely, None for all of it, and that grid.

        Args:
            volume: what ``preprocessing.start`` left of the scan.
            stop: asked between two batches.
        """
        image, grid = self._prepared(volume)
        return self._region(image, grid, self._answering(grid, stop, [])), grid

    def _region(self, image: Image, grid: Geometry, answering: Answering) -> Box | None:
        if self.finder is None or self.window is None:
            return None
        coarse = self.finder.coarse(grid)
        small = np.stack([resample_array(one, grid, coarse, fill=None) for one in image])
        plain = replace(answering, mirrors=())
        slabs = self._fitting(
            lambda window: [
                slab.argmax(axis=0) > 0 for slab in self._windows(small, window, plain, nobody, overlap=0.0)
            ],
            answering.notes,
        )
        box = self.finder.box(np.concatenate(slabs), coarse, grid, self._limits.window or self.window)
        if box is None:
            answering.notes.append("the region finder found nothing: the whole scan was looked at closely.")
        elif share_of(box, grid.shape_zyx) > LARGEST_SHARE:
            answering.notes.append(
                "the region finder's box is hardly smaller than the scan: the whole scan was looked at closely."
            )
            return None
        return box

    def _windows(
        self,
        image: Image,
        window: Shape,
        answering: Answering,
        on_event: Listener,
        overlap: float | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Gives (classes, some slices, rows, columns) probabilities, from the first slice to the last."""
        slabs = windowed(
            torch.from_numpy(image),
            window,
            self.classes,
            answering,
            overlap=self.overlap if overlap is None else overlap,
            at_a_time=self.batch_size or WINDOWS_AT_A_TIME.get(self.device.type, 1),
            on_window=lambda done, total: on_event(Progress("Windows", done, total)),
        )
        return (slab.numpy() for slab in slabs)

    def _fitting(self, work: Callable[[Shape], Result], notes: list[str]) -> Result:
        """Does the work with windows that fit into memory: the model's own, smaller ones only where memory runs out."""
        window = self._limits.window or self.window
        if window is None:
            raise DataError("a 2D model has no windows.")
        while True:
            try:
                return work(window)
            except OutOfMemoryError:
                smaller = smaller_window(window, self.window_multiple)
                if smaller is None:
                    raise
            make_room()
            self._limits.window = window = smaller
            sides = " × ".join(str(side) for side in window)
            notes.append(
                f"memory ran out: going on with smaller windows ({sides} voxels). The network then sees less around each place, "
                "so the answer may differ a little."
            )
