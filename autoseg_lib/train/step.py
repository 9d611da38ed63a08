"""One step of learning: forward, loss, backward, optimiser. A batch that does not fit the memory is taken in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from autoseg_lib.errors import ModelError
from autoseg_lib.events import Listener, Message
from autoseg_lib.networks.out_of_memory import OutOfMemoryError, is_out_of_memory, make_room
from autoseg_lib.train.distributed import ALONE, Team

# Largest gradient norm; nnU-Net uses 12, MONAI's bundles 1: in between, only outliers are cut.
LARGEST_GRADIENT = 5.0
# After so many steps in a row without a finite loss the run is beyond repair.
MOST_BAD_STEPS = 20


@dataclass
class Learner:
    """A network that learns.

    Attributes:
        fabric: moves tensors and chooses the number format.
        network, optimizer: set up by ``fabric``.
        loss: see autoseg_lib.losses.
        memory_format: order of the values in memory that the network is quickest with.
        smallest_part: fewest images the network can learn from at a time.
        parts: a batch is taken in so many parts, whose gradients are added up.
        bad_steps: steps in a row, up to now, whose loss was no number.
        team: the processes that share each batch.
    """

    fabric: Fabric
    network: Any
    optimizer: Any
    loss: Any
    memory_format: torch.memory_format
    smallest_part: int = 1
    parts: int = 1
    bad_steps: int = 0
    team: Team = ALONE

    def step(self, batch: dict[str, torch.Tensor], rate: float, seed: int, on_event: Listener) -> float:
        """Learns from a batch.

        Args:
            batch: "image" and "label", both (N, 1, ...).
            rate: learning rate.
            seed: of what the network itself draws (dropout).
            on_event: hears when the memory is too small for the batch.

        Returns:
            the Dice part of the loss, 0 best to ``loss.worst``.

        Raises:
            OutOfMemoryError: even the smallest part of the batch is too large.
            ModelError: training became unstable.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        while True:
            try:
                torch.manual_seed(seed)
                return self._try_step(batch)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.team.world > 1:
                    raise OutOfMemoryError(_too_large_here(batch["image"].shape[0] // self.parts)) from error
            # Outside the except block, so that what the failed step held is free.
            self._take_smaller_parts(batch["image"].shape[0], on_event)

    def _try_step(self, batch: dict[str, torch.Tensor]) -> float:
        size = batch["image"].shape[0]
        told = []
        for part in _split(batch, self.parts):
            image = self.fabric.to_device(part["image"]).contiguous(memory_format=self.memory_format)
            loss, dice = self.loss.parts(
                self.network(image), self.fabric.to_device(part["label"]), part.get("drawn")
            )
            share = image.shape[0] / size
            told.append(torch.stack((loss.detach(), dice.detach())).double() * share)
            self.fabric.backward(loss * share)
        # Asked for once and only now: until here a GPU can work on while this process prepares what comes next.
        total, dice_part = self.team.mean(*torch.stack(told).sum(0).tolist())
        if not -float("inf") < total < float("inf"):
            return self._leave_out()
        self.bad_steps = 0
        self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=LARGEST_GRADIENT, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(dice_part)

    def _leave_out(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        self.bad_steps += 1
        if self.bad_steps >= MOST_BAD_STEPS:
            raise ModelError(
                f"training became unstable: {MOST_BAD_STEPS} steps in a row gave no number for the loss. Lower learning_rate, or "
                'set precision = "32". The last good state is kept.'
            )
        return float(self.loss.worst)

    def _take_smaller_parts(self, size: int, on_event: Listener) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        make_room()
        parts = min(size, self.parts * 2)
        if parts == self.parts or size // parts < self.smallest_part:
            raise OutOfMemoryError(
                f"memory ran out even with {size // self.parts} of the {size} images of a step at a time. Use a smaller input_shape "
                "or patch_size, or a lighter network; or close other programs."
            )
        self.parts = parts
        on_event(
            Message(
                f"Memory ran out at {size} images per step; going on with {-(-size // parts)} and adding up {parts} steps (same "
                "batch). Training takes a little longer.",
                "warning",
            )
        )


def _too_large_here(images: int) -> str:
    return (
        f"memory ran out with {images} images at a time, and processes that train together cannot change that on the way. Use a "
        "smaller batch_size, input_shape or patch_size, or more processes."
    )


def _split(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """Parts of a batch, as equal as they can be."""
    pieces = {name: torch.tensor_split(tensor, parts) for name, tensor in batch.items()}
    return [{name: piece[number] for name, piece in pieces.items()} for number in range(parts)]
