"""What the computer's memory decides: images at a time, and where prepared scans are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.packed import IMAGE_TYPE, LABEL_TYPE
from autoseg_lib.errors import SettingsError
from autoseg_lib.networks.registry import NetworkSpec, smallest_batch
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.system import GB
from autoseg_lib.train import defaults
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.grids import shapes_on_grid
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.memory import images_that_fit, step_gb


def choose_batch(
    chooser: Chooser, spec: NetworkSpec, machine: Machine, precision: str, samples: int
) -> tuple[int, int, float | None]:
    """Returns images per step, parts they go through the network in, and the memory this takes in GB."""
    smallest, kind = smallest_batch(spec), machine.kind
    if spec.dimension == "2D":
        auto = defaults.BATCH_2D[kind] // (2 if max(spec.input_shape) > defaults.LARGE_SIDE else 1)
    else:
        small = math.prod(spec.input_shape) <= defaults.SMALL_PATCH_VOXELS
        auto = defaults.BATCH_3D[kind] // (1 if small else 2)
    auto = max(smallest, min(auto, samples))
    available = None if machine.memory_gb is None else defaults.MEMORY_SHARE[kind] * machine.memory_gb
    fitting = images_that_fit(spec, auto, precision, kind, available, smallest)
    reason = "fits the memory and keeps each step quick" if fitting == auto else "as many as fit the memory"
    batch = int(chooser.choose("batch_size", fitting, reason))
    if batch < smallest:
        raise SettingsError(
            f'batch_size = {batch}: network = "{spec.name}" needs at least {smallest} images per step.'
        )
    together = images_that_fit(spec, batch, precision, kind, available, smallest)
    needed = step_gb(spec, together, precision, kind)
    if needed is not None and available is not None and machine.memory_gb is not None:
        text = f"of {machine.memory_gb:.1f} GB free"
        if together < batch:
            text += f"; {together} of {batch} images at a time, added up to the same step"
        if needed > available:
            text += "; it may be too little: a smaller input_shape or patch_size needs less"
        chooser.note("memory", f"about {needed:.1f} GB", text)
    return batch, math.ceil(batch / together), needed


def choose_cache(
    chooser: Chooser,
    dimension: str,
    prepared: Sequence[CaseFacts],
    preprocessing: Preprocessing,
    machine: Machine,
) -> None:
    if dimension == "2D":
        voxels = sum(len(f.counts) for f in prepared) * math.prod(preprocessing.input_shape or (1, 1))
    else:
        voxels = sum(math.prod(shape) for shape in shapes_on_grid(prepared, preprocessing.spacing_zyx_mm))
    size = len(preprocessing.channels) * IMAGE_TYPE.itemsize + LABEL_TYPE.itemsize
    needed, most = voxels * size / GB, defaults.CACHE_SHARE * machine.ram_available_gb
    text = f"{needed:.1f} GB" if needed >= 0.1 else f"{1000 * needed:.0f} MB"
    if 1000 * needed < 1:
        text = "under 1 MB"
    if needed <= most:
        chooser.choose("cache", "ram", f"prepared scans take {text}")
    else:
        chooser.choose(
            "cache", "disk", f"prepared scans take {text}; {machine.ram_available_gb:.1f} GB are free"
        )
