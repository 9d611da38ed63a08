"""What the computer lets training use: device, number format, memory."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from autoseg_lib.system import GB, cpu_cores, device_name


@dataclass(frozen=True)
class Machine:
    """What planning needs to know of the computer."""

    device: str
    cores: int
    ram_available_gb: float
    precision: str

    @property
    def has_gpu(self) -> bool:
        """Whether training runs on a GPU."""
        return self.device != "cpu"


def find_machine() -> Machine:
    """Looks at this computer."""
    device = device_name()
    return Machine(device, cpu_cores(), psutil.virtual_memory().available / GB, best_precision(device))


def best_precision(device: str) -> str:
    """Returns "bf16", "16" or "32": the fastest number format that trains as well as 32 bits on this device."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    if device == "cpu":
        # bfloat16 pays only where the processor has instructions for it; elsewhere it is emulated and slower.
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return "bf16" if probe is not None and probe() else "32"
    return "32"
