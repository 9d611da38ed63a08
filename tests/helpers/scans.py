"""Small scans made in memory."""

from __future__ import annotations

import numpy as np

from autoseg_lib.data.scan import Scan
from autoseg_lib.geometry import Geometry
from autoseg_lib.volume import Mask, Volume


def small_scan(
    shape: tuple[int, int, int] = (4, 20, 30),
    spacing: tuple[float, float, float] = (4.0, 2.0, 1.0),
    *,
    name: str = "scan_1",
    known: bool = True,
    slice_names: tuple[str, ...] | None = None,
) -> tuple[Scan, Mask]:
    """Returns a scan of rising grey values and a mask with two boxes: ROI 1 on slices 2 and 3, ROI 2 on slice
    3.
    """
    geometry = Geometry.from_spacing(
        shape, spacing, spacing_known=known, positions_known=known, orientation_known=known
    )
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 5:10, 5:10] = 1
    labels[2, 12:14, 20:24] = 2
    names = slice_names or tuple(f"IM_{number:04d}" for number in range(1, shape[0] + 1))
    scan = Scan(
        name=name,
        volume=Volume(array, geometry, "MR", "PixelSpacing" if known else ""),
        source_geometry=geometry,
        slice_names=names,
        slice_files=tuple(f"{item}.dcm" for item in names),
        kind="dicom",
        patient="p",
    )
    return scan, Mask(labels, geometry)
