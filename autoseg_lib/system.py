"""What this computer offers: memory, cores, GPU, disk, versions, and one plain sentence of advice."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

GB = 1e9

# What a 2D run on 256 x 256 images needs at least, measured with the default network and batch: about 3 GB of RAM.
COMFORTABLE_RAM_GB = 4.0
# Model files are 20-120 MB each, the resume file three times that; below this a long run may fill the disk.
COMFORTABLE_DISK_GB = 2.0

PACKAGES = (
    "torch",
    "torchvision",
    "monai",
    "segmentation-models-pytorch",
    "albumentations",
    "lightning-fabric",
    "pydicom",
    "SimpleITK",
    "numpy",
    "ipywidgets",
    "jupyterlab",
)


@dataclass(frozen=True)
class Gpu:
    """A device that training can run on besides the CPU. Memory in GB; None where the system does not tell."""

    kind: str
    name: str
    memory_total_gb: float | None
    memory_used_gb: float | None
    memory_free_gb: float | None


@dataclass(frozen=True)
class SystemReport:
    """What `autoseg system` and the notebook's first cell show."""

    ram_available_gb: float
    ram_total_gb: float
    cpu_cores: int
    cpu_name: str
    gpu_enabled: bool
    gpu: Gpu | None
    disk_free_gb: float
    disk_path: str
    operating_system: str
    python_version: str
    versions: dict[str, str]
    ready: bool
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns the report as text lines, as shown in a terminal."""
        gpu = "False"
        if self.gpu:
            gpu = f"True · {self.gpu.name}"
            if self.gpu.memory_total_gb is not None:
                gpu += f" · {self.gpu.memory_total_gb:.1f} GB total"
            if self.gpu.memory_used_gb is not None and self.gpu.memory_free_gb is not None:
                gpu += f", {self.gpu.memory_used_gb:.1f} used, {self.gpu.memory_free_gb:.1f} free"
        versions = " · ".join(f"{name} {version}" for name, version in self.versions.items())
        mark = "✔" if self.ready else "⚠"
        return [
            f"RAM          {self.ram_available_gb:.1f} GB available of {self.ram_total_gb:.1f}",
            f"CPU          {self.cpu_cores} cores · {self.cpu_name}",
            f"GPU enabled  {gpu}",
            f"Disk         {self.disk_free_gb:.0f} GB free where models are saved",
            f"System       {self.operating_system} · Python {self.python_version}",
            f"Versions     {versions}",
            f"{mark} {self.advice}",
        ]


def check_system(save_dir: Path | None = None) -> SystemReport:
    """Looks at the computer.

    Args:
        save_dir: folder the models are saved in; its disk is looked at.
    """
    memory = psutil.virtual_memory()
    folder = _existing(save_dir or Path.cwd())
    disk_free_gb = psutil.disk_usage(str(folder)).free / GB
    gpu = find_gpu()
    available_gb = memory.available / GB
    ready, advice = _advice(gpu, available_gb, disk_free_gb, cpu_cores())
    return SystemReport(
        ram_available_gb=round(available_gb, 1),
        ram_total_gb=round(memory.total / GB, 1),
        cpu_cores=cpu_cores(),
        cpu_name=platform.processor() or platform.machine(),
        gpu_enabled=gpu is not None,
        gpu=gpu,
        disk_free_gb=round(disk_free_gb, 1),
        disk_path=str(folder),
        operating_system=f"{platform.system()} {platform.release()}",
        python_version=platform.python_version(),
        versions=versions(),
        ready=ready,
        advice=advice,
    )


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Returns package name → version of those installed, without importing them."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def find_gpu() -> Gpu | None:
    """Returns the GPU that training would use: CUDA first, then Apple's MPS; None without one."""
    import torch  # here, so that reading a scan never loads it

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        name = torch.cuda.get_device_name(0)
        return Gpu("cuda", name, round(total / GB, 1), round((total - free) / GB, 1), round(free / GB, 1))
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        used = torch.mps.driver_allocated_memory()
        name = f"Apple {platform.machine()} (MPS)"
        return Gpu("mps", name, round(total / GB, 1), round(used / GB, 1), round((total - used) / GB, 1))
    return None


def device_name() -> str:
    """Returns "cuda", "mps" or "cpu": what training and segmenting use on this computer."""
    gpu = find_gpu()
    return gpu.kind if gpu else "cpu"


def cpu_cores() -> int:
    """Cores this process may use (a container or a cluster job may be given fewer than the computer has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _advice(gpu: Gpu | None, ram_gb: float, disk_gb: float, cores: int) -> tuple[bool, str]:
    if ram_gb < COMFORTABLE_RAM_GB:
        return False, (
            f"Only {ram_gb:.1f} GB of memory is free: close other programs, "
            f"or use a smaller input_shape (128) and batch_size (2). At least {COMFORTABLE_RAM_GB:.0f} GB is comfortable."
        )
    if disk_gb < COMFORTABLE_DISK_GB:
        return False, (
            f"Only {disk_gb:.1f} GB is free where models are saved: free some space, or set model_dir to another disk. "
            f"At least {COMFORTABLE_DISK_GB:.0f} GB is comfortable."
        )
    if gpu:
        return True, "Ready. 2D and 3D training will run on the GPU."
    return True, (
        f"No GPU found. 2D at 256 × 256 is comfortable on these {cores} CPU cores; 3D on small regions too. How long your own data "
        "take is measured and said before training starts. If this computer has an NVIDIA card, its driver or the CUDA "
        "build of torch is missing: see README, 'GPU'."
    )
