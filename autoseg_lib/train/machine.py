"""What the computer lets training use: device, number format, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from autoseg_lib.system import GB, cpu_cores, find_gpu


@dataclass(frozen=True)
class Machine:
    """What planning needs to know of the computer.

    Attributes:
        device: "cpu", "cuda" or "mps".
        cores: processor cores this process may use.
        ram_available_gb: memory that is free.
        precision: number format to train with.
        gpu_free_gb: memory of the GPU that is free; None without one, or where it does not tell.
    """

    device: str
    cores: int
    ram_available_gb: float
    precision: str
    gpu_free_gb: float | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether training runs on a GPU."""
        return self.device != "cpu"

    @property
    def kind(self) -> Literal["cpu", "gpu"]:
        """Which of the defaults hold."""
        return "gpu" if self.has_gpu else "cpu"

    @property
    def memory_gb(self) -> float | None:
        """Memory that training can use; None where unknown."""
        return self.gpu_free_gb if self.has_gpu else self.ram_available_gb


def find_machine() -> Machine:
    """Looks at this computer."""
    gpu = find_gpu()
    device = gpu.kind if gpu else "cpu"
    return Machine(
        device=device,
        cores=cpu_cores(),
        ram_available_gb=psutil.virtual_memory().available / GB,
        precision=best_precision(device),
        gpu_free_gb=gpu.memory_free_gb if gpu else None,
    )


def best_precision(device: str) -> str:
    """Returns "bf16", "16" or "32": the fastest number format that trains as well as 32 bits on this device."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    if device == "cpu":
        # bfloat16 pays only where the processor has instructions for it; elsewhere it is emulated and slower.
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return "bf16" if probe is not None and probe() else "32"
    return "32"
