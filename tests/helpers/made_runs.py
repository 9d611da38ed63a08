"""Segmented scans made in memory: discs of known place and size, rows measured on them, intervals and flags as a test wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from autoseg_lib.export.dossier import DossierCase
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask, Volume

LABELS = LabelTable(["left psoas", "right psoas"])


def made_scan(slices: int, size: int = 64, seed: int = 0) -> tuple[Volume, Mask]:
    """A dark scan with two bright discs that shrink from slice to slice: ROI 1 left above, ROI 2 right below; 2 × 1.5 × 1 mm."""
    geometry = Geometry.from_spacing(
        (slices, size, size),
        (2.0, 1.5, 1.0),
        spacing_known=True,
        positions_known=True,
        orientation_known=True,
    )
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = rng.normal(60, 8, (slices, size, size)).astype(np.float32)
    labels = np.zeros((slices, size, size), np.uint8)
    for number in range(slices):
        radius = 0.2 - 0.1 * number / slices
        for value, row, column in ((1, 0.3, 0.3), (2, 0.7, 0.7)):
            inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
            labels[number][inside] = value
            image[number][inside] += 90
    return Volume(image.astype(np.int16), geometry, "MR", "PixelSpacing"), Mask(labels, geometry)


def made_case(
    name: str,
    slices: int = 12,
    *,
    size: int = 64,
    seed: int = 0,
    flags: Mapping[tuple[int, int], str] | None = None,
    labels: LabelTable = LABELS,
) -> DossierCase:
    """Such a scan as the report takes it; areas ± 10 % as intervals.

    Args:
        name: of the case.
        slices: how many.
        size: rows and columns.
        seed: of the noise.
        flags: (slice number, label value) → reasons.
        labels: two ROIs.
    """
    volume, mask = made_scan(slices, size, seed)
    names = [f"slice_{number + 1:04d}" for number in range(slices)]
    rows = []
    for row in measure_slices(mask, labels, case=name, slice_names=names):
        area = row.area_mm2 or 0.0
        flag = (flags or {}).get((row.slice_number, row.label), "")
        rows.append(replace(row, area_mm2_low=area * 0.9, area_mm2_high=area * 1.1, flag=flag))
    volumes = [
        replace(row, volume_ml_low=(row.volume_ml or 0) * 0.9, volume_ml_high=(row.volume_ml or 0) * 1.1)
        for row in measure_volumes(mask, labels, case=name)
    ]
    return DossierCase(name, rows, volumes, lambda: (volume, mask), f"How {name} was measured.")
