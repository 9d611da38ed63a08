"""Small scans and a small model that finds something in each, for runs over many scans.

Run as a program it segments a list and ends without a word, as if it were killed, when it comes to scan number N:

    python -m tests.helpers.cohorts INPUT MODEL OUTPUT N
"""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import torch

from autoseg_lib.events import Event, Progress
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import write_volume_file
from autoseg_lib.networks.model_file import save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.settings import SegmentSettings, make_settings
from autoseg_lib.volume import Volume
from autoseg_lib.workflow.segmenting import segment


def write_scans(folder: Path, count: int, *, broken: int | None = None) -> list[str]:
    """Writes scans of 4 slices of 32 x 32 pixels, each different; returns their names. Of one the end may be missing."""
    folder.mkdir(parents=True)
    names = []
    for number in range(1, count + 1):
        generator = np.random.default_rng(number)
        array = generator.normal(100, 20, (4, 32, 32)).astype(np.float32)
        array[1:3, 8 : 12 + number % 8, 8:20] += 200
        geometry = Geometry.from_spacing(
            array.shape, (4.0, 1.0, 0.9), spacing_known=True, positions_known=True, orientation_known=True
        )
        name = f"scan_{number:02d}"
        write_volume_file(folder / f"{name}.nii.gz", Volume(array, geometry))
        if number == broken:
            whole = gzip.decompress((folder / f"{name}.nii.gz").read_bytes())
            (folder / f"{name}.nii.gz").write_bytes(gzip.compress(whole[:-2000]))
        names.append(name)
    return names


def write_model(path: Path) -> Path:
    """Writes an untrained network that says one of two ROIs here and there."""
    spec = NetworkSpec("2D", "light_unet", 3, (32, 32))
    torch.manual_seed(3)
    network = build_network(spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    preprocessing = Preprocessing("2D", IntensityPlan("percentile"), input_shape=(32, 32))
    metadata = {
        "labels": ["bright", "dark"],
        "network": spec.to_dict(),
        "preprocessing": preprocessing.to_dict(),
    }
    save_model(path, network, metadata)
    return path


def main() -> None:
    source, model, output, last = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])

    def until_then(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "Scans" and event.done >= last:
            os._exit(9)

    segment(source, model, output, make_settings(SegmentSettings, {}), mode="continue", on_event=until_then)


if __name__ == "__main__":
    main()
