"""One predictor for validation while training, for test.ipynb and for the command line.

The scan is prepared as the model says, predicted slice by slice (2D) or window by window (3D), and its probabilities are
brought back onto the scan's own grid in one resampling before the most likely label is taken.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from autoseg_lib.augment.plan import swap_channels
from autoseg_lib.data.dataset import neighbour_order
from autoseg_lib.errors import DataError
from autoseg_lib.events import Listener, Progress, StopFlag, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.prediction import Prediction
from autoseg_lib.infer.soft import LIKELY, SURE, SoftSlices
from autoseg_lib.preprocess.pipeline import Preprocessing, runs_backwards
from autoseg_lib.volume import Mask, Volume

# Half-overlapping windows with Gaussian weights, as in nnU-Net.
DEFAULT_OVERLAP = 0.5
DEFAULT_SLICES_AT_A_TIME = 8
DEFAULT_WINDOWS_AT_A_TIME = 2
# 64 slices of 512 x 512 with 10 classes are 0.7 GB of probabilities.
SLICES_PER_PART = 64


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The user asked to stop in the middle of a scan."""


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
        half_precision: use bfloat16 (CPU) or float16 (CUDA) arithmetic where the device is faster with it.
        mirror_pairs: with ``mirror_axis``: pairs of label values that trade places in the mirrored image.
        mirror_axis: axis of the network grid that crosses left–right; the mirrored image is then predicted too and
            averaged (test-time augmentation). None: no mirroring.
        neighbours: 2D: slices on each side that the network sees beside the slice itself.
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: int
    device: torch.device
    window: tuple[int, int, int] | None = None
    overlap: float = DEFAULT_OVERLAP
    batch_size: int | None = None
    half_precision: bool = False
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    mirror_axis: int | None = None
    neighbours: int = 0

    def predict(self, volume: Volume, on_event: Listener = nobody, stop: StopFlag | None = None) -> Mask:
        """Returns the label values of a scan on its own grid; see ``predict_soft``."""
        return self.predict_soft(volume, on_event, stop).mask

    def predict_soft(
        self, volume: Volume, on_event: Listener = nobody, stop: StopFlag | None = None
    ) -> Prediction:
        """Returns the label values of a scan on its own grid, and how soft the answer is.

        Args:
            volume: the scan.
            on_event: hears the progress.
            stop: asked between two batches.

        Raises:
            DataError: the scan does not suit the model.
            Stopped: ``stop`` was set.
        """
        count = volume.array.shape[0]
        step = count if self.window else SLICES_PER_PART
        parts = []
        for first in range(0, count, step):
            last = min(first + step, count)
            # With the neighbours that the outermost slices need.
            begin, end = max(0, first - self.neighbours), min(last + self.neighbours, count)
            part = volume.with_array(volume.array[begin:end], volume.geometry.slices(begin, end))
            heard = on_event if self.window else nobody
            probabilities = self.probabilities(part, heard, stop)
            if not self.window:
                probabilities = probabilities[:, first - begin : last - begin]
            own = volume.geometry.slices(first, last)
            network = self.preprocessing.network_geometry(own)
            back = self.preprocessing.way_back(network, own, self.classes, (LIKELY, SURE))
            back.take(probabilities)
            parts.append(back.finish())
            if not self.window:
                on_event(Progress("Slices", last, count))
        labels = np.concatenate([part.labels for part in parts])
        likely, sure = (np.concatenate([part.counts[i] for part in parts]) for i in range(2))
        return Prediction(Mask(labels, volume.geometry), SoftSlices(likely, sure))

    def probabilities(
        self, volume: Volume, on_event: Listener = nobody, stop: StopFlag | None = None
    ) -> npt.NDArray[np.float32]:
        """Returns (classes, slice, row, column) probabilities on the network's grid."""
        if self.window is not None and not volume.geometry.is_even:
            raise DataError(
                f"the slices lie {volume.geometry.spacing_text} apart; a 3D model needs evenly spaced slices. "
                "Use a 2D model for this scan, or export the complete series."
            )
        prepared = self.preprocessing.prepare(volume)
        order = slice(None, None, -1 if self.neighbours and runs_backwards(prepared.geometry) else 1)
        image = np.ascontiguousarray(prepared.array[order], dtype=np.float32)
        values = self._forward(image, on_event, stop)
        if self.mirror_axis is not None and self._crosses_left_right(prepared.geometry):
            mirrored = self._forward(np.ascontiguousarray(np.flip(image, self.mirror_axis)), on_event, stop)
            mirrored = np.flip(mirrored, self.mirror_axis + 1)
            values = np.float32(0.5) * (values + mirrored[swap_channels(self.classes, self.mirror_pairs)])
        return values[:, order]

    def _crosses_left_right(self, grid: Geometry) -> bool:
        """Whether ``mirror_axis`` runs from the patient's left to right in this scan; another plane has no sides."""
        return (
            grid.orientation_known
            and self.mirror_axis is not None
            and grid.orientation_code[self.mirror_axis] in "LR"
        )

    def _forward(
        self, image: npt.NDArray[np.float32], on_event: Listener, stop: StopFlag | None
    ) -> npt.NDArray[np.float32]:
        self.network.eval()
        with torch.inference_mode(), self._precision():
            return (
                self._windows(image, self.window, stop)
                if self.window
                else self._slices(image, on_event, stop)
            )

    def _slices(
        self, image: npt.NDArray[np.float32], on_event: Listener, stop: StopFlag | None
    ) -> npt.NDArray[np.float32]:
        count = image.shape[0]
        step = self.batch_size or DEFAULT_SLICES_AT_A_TIME
        result = np.empty((self.classes, *image.shape), dtype=np.float32)
        for first in range(0, count, step):
            _check(stop)
            seen = [
                neighbour_order(k, count, self.neighbours) for k in range(first, min(first + step, count))
            ]
            batch = torch.from_numpy(image[np.array(seen)]).to(self.device)
            batch = batch.contiguous(memory_format=torch.channels_last)
            soft = torch.softmax(self.network(batch).float(), dim=1)
            result[:, first : first + step] = soft.movedim(1, 0).cpu().numpy()
            on_event(Progress("Slices", min(first + step, count), count))
        return result

    def _windows(
        self, image: npt.NDArray[np.float32], window: tuple[int, int, int], stop: StopFlag | None
    ) -> npt.NDArray[np.float32]:
        def network(windows: torch.Tensor) -> torch.Tensor:
            _check(stop)
            return torch.softmax(self.network(windows).float(), dim=1)

        soft = sliding_window_inference(
            torch.from_numpy(image[None, None]),
            roi_size=window,
            sw_batch_size=self.batch_size or DEFAULT_WINDOWS_AT_A_TIME,
            predictor=network,
            overlap=self.overlap,
            mode="gaussian",
            padding_mode="constant",
            cval=float(image.min()),
            sw_device=self.device,
            device=torch.device("cpu"),
            progress=False,
        )
        return soft[0].numpy()

    def _precision(self) -> AbstractContextManager[object]:
        if not self.half_precision or self.device.type == "mps":
            return nullcontext()
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype)


def _check(stop: StopFlag | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped
