"""Asking the network: probabilities of some slices or windows, mirrored too if wanted, fewer at a time where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from autoseg_lib.augment.plan import swap_channels
from autoseg_lib.errors import ModelError
from autoseg_lib.events import StopFlag
from autoseg_lib.networks.out_of_memory import OutOfMemoryError, is_out_of_memory, make_room

# Windows are not made smaller than this many of the network's smallest steps along a side: it would see too little.
_FEWEST_STEPS = 2
_IN_32_BITS = (
    "in half-precision arithmetic the network's answer was not a number in places: there it was asked again in 32 bits, which "
    "takes longer."
)


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The user asked to stop in the middle of a scan."""


@dataclass(frozen=True)
class Mirror:
    """A mirror image: axes that run backwards, and channels that trade places (left and right ROIs).

    Attributes:
        axes: of the image, 0 the first after the channels.
        order: where each channel of the mirrored answer comes from.
    """

    axes: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def across(cls, axis: int, classes: int, pairs: Sequence[tuple[int, int]]) -> Mirror:
        """Returns the mirror image across one axis, in which the label values of each pair trade places.

        Raises:
            ValueError: mirrored twice, the channels would not be what they were.
        """
        order = swap_channels(classes, tuple(pairs))
        if [order[source] for source in order] != list(range(classes)):
            raise ValueError(
                f"mirrored twice, labels must be what they were; pairs {list(pairs)} do not do that"
            )
        return cls((axis,), tuple(order))

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns the mirrored (N, channels, ...) images."""
        return batch.flip([axis + 2 for axis in self.axes])

    def undo(self, answer: torch.Tensor) -> torch.Tensor:
        """Returns what the answer (N, classes, ...) to the mirrored images says of the images themselves."""
        return answer.flip([axis + 2 for axis in self.axes])[:, list(self.order)]


@dataclass
class MemoryLimits:
    """What was learned of the memory; kept from scan to scan.

    Attributes:
        at_a_time: most slices or windows the network is given together; None: not known to be limited.
        window: the size of windows, where the model's own was too large.
    """

    at_a_time: int | None = None
    window: tuple[int, int, int] | None = None


@dataclass(eq=False)
class Answering:
    """The network with all that is done around one batch.

    Attributes:
        network: gives logits (N, classes, ...) of (N, channels, ...), in evaluation mode.
        device: where it is.
        half_precision: compute in 16 bits, where the answer is a number in them.
        mirrors: mirror images that are asked for too; the mean of all answers is taken.
        limits: how much fits into memory.
        stop: asked before each batch.
        notes: what has to be said.
        half: CUDA: which 16 bits, "bf16" (bfloat16) or all else (float16). A processor always takes bfloat16.
        half_network: the network for 16 bits; None: ``network`` itself.
    """

    network: nn.Module
    device: torch.device
    half_precision: bool = False
    mirrors: tuple[Mirror, ...] = ()
    limits: MemoryLimits = field(default_factory=MemoryLimits)
    stop: StopFlag | None = None
    notes: list[str] = field(default_factory=list)
    half: str = "16"
    half_network: nn.Module | None = None

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (N, classes, ...) float32 probabilities of (N, channels, ...) images.

        Raises:
            OutOfMemoryError: not even one image fits into memory.
            ModelError: the answer is not a number, in 32 bits neither.
            Stopped: ``stop`` was set.
        """
        parts, first = [], 0
        while first < len(batch):
            if self.stop is not None and self.stop.is_set():
                raise Stopped
            size = min(self.limits.at_a_time or len(batch), len(batch) - first)
            part = _unless_out_of_memory(lambda: self._finite(batch[first : first + size]))  # noqa: B023 - called at once
            if part is None:
                self._take_fewer(size)
                continue
            parts.append(part)
            first += size
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _finite(self, batch: torch.Tensor) -> torch.Tensor:
        """The answer in 16 bits if asked for; in 32 where it is not a number, which no label would tell of."""
        batch = batch.to(self.device)
        half = self.half_precision and self.device.type != "mps"
        mean = self._mean(batch, half)
        if half and not _is_finite(mean):
            del mean
            mean = self._mean(batch, half=False)
            if _IN_32_BITS not in self.notes:
                self.notes.append(_IN_32_BITS)
        if not _is_finite(mean):
            raise ModelError(
                "the network's answer is not a number, in 32-bit arithmetic too: its weights are damaged, or its training went "
                "wrong. Use another model file, or train again with a smaller learning_rate."
            )
        return mean

    def _mean(self, batch: torch.Tensor, half: bool) -> torch.Tensor:
        mean = self._probabilities(batch, half)
        for mirror in self.mirrors:
            mean += mirror.undo(self._probabilities(mirror.image(batch), half))
        return mean.div_(1 + len(self.mirrors)) if self.mirrors else mean

    def _probabilities(self, batch: torch.Tensor, half: bool) -> torch.Tensor:
        last = torch.channels_last if batch.ndim == 4 else torch.channels_last_3d
        with torch.inference_mode(), self._arithmetic(half):
            network = self.half_network if half and self.half_network is not None else self.network
            logits = network(batch.contiguous(memory_format=last))
        # With the classes of a voxel side by side in memory it takes a third longer.
        return torch.softmax(logits.contiguous().float(), dim=1)

    def _arithmetic(self, half: bool) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.half_type) if half else nullcontext()

    @property
    def half_type(self) -> torch.dtype:
        """The 16 bits of this device."""
        return torch.float16 if self.device.type == "cuda" and self.half != "bf16" else torch.bfloat16

    def _take_fewer(self, size: int) -> None:
        make_room()
        if size == 1:
            raise OutOfMemoryError(
                "memory ran out with a single slice or window at a time. Close other programs, or use a lighter network."
            )
        self.limits.at_a_time = max(1, size // 2)
        self.notes.append(f"memory ran out with {size} at a time: going on with {self.limits.at_a_time}.")


def smaller_window(window: tuple[int, int, int], multiple: int | None) -> tuple[int, int, int] | None:
    """Returns the window with its longest side halved; None where the network takes no smaller one.

    Args:
        window: sides in voxels.
        multiple: what each side must be a multiple of; None: the network takes no other size.
    """
    if multiple is None:
        return None
    axis = max(range(3), key=lambda i: window[i])
    side = window[axis] // 2 // multiple * multiple
    if side < _FEWEST_STEPS * multiple or side >= window[axis]:
        return None
    sides = list(window)
    sides[axis] = side
    return sides[0], sides[1], sides[2]


def _is_finite(probabilities: torch.Tensor) -> bool:
    # Values of 0 to 1 cannot add up to infinity; a single NaN makes the sum one.
    return bool(torch.isfinite(probabilities.sum()))


def _unless_out_of_memory(work: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """None where memory ran out; by then nothing holds on to what the failed work had made."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None
