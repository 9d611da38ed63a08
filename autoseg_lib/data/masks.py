"""Loading a training case: the scan and its labels on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.pairing import TrainingCase
from autoseg_lib.data.scan import Scan, SpacingOverride, load_scan
from autoseg_lib.errors import DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io import raster
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.volume import Mask, reorient

# Programs round the header's numbers when they save; a tenth of a millimetre is well below a pixel.
LABEL_GRID_TOLERANCE_MM = 0.1


def load_case(
    case: TrainingCase,
    *,
    num_labels: int | None = None,
    slice_axis: str = "auto",
    override: SpacingOverride | None = None,
) -> tuple[Scan, Mask, tuple[str, ...]]:
    """Reads a scan and its labels.

    The range of the label values is not checked here (the data check does).

    Args:
        case: from ``pair``.
        num_labels: number of ROIs where known; JPG labels need it.
        slice_axis: as in ``load_scan``.
        override: as in ``load_scan``.

    Returns:
        The scan, its mask on the grid of ``scan.volume``, and sentences for the user.

    Raises:
        DataError: a file cannot be read, or label and image do not fit together.
    """
    scan = load_scan(case.source, slice_axis=slice_axis, override=override)
    notes = list(scan.warnings)
    if case.label_volume is not None:
        mask = _volume_label(case, scan)
    else:
        mask = Mask(_slice_labels(case, scan.source_geometry, num_labels, notes), scan.source_geometry)
    if scan.is_turned:
        turned = reorient(mask, scan.volume.geometry.orientation_code)
        mask = turned.with_array(turned.array, scan.volume.geometry)
    return scan, mask, tuple(notes)


def _slice_labels(
    case: TrainingCase, geometry: Geometry, num_labels: int | None, notes: list[str]
) -> npt.NDArray[np.unsignedinteger]:
    slices: list[npt.NDArray[Any]] = []
    problems: list[str] = []
    rows, columns = geometry.shape_zyx[1:]
    for image, file in zip(case.source.files, case.label_files, strict=True):
        if file is None:
            problems.append(f"'{image.name}': it has no label. Add the label file, or leave the image out.")
            continue
        try:
            label = raster.read_label(file, num_labels)
        except DataError as error:
            problems.append(str(error))
            continue
        if label.array.shape != (rows, columns):
            found = f"{label.array.shape[0]}×{label.array.shape[1]}"
            problems.append(
                f"label '{file.name}' is {found}, image '{image.name}' is {rows}×{columns}. "
                "They must have the same rows and columns; save the label at the image's own size."
            )
            continue
        if label.warning:
            notes.append(label.warning)
        slices.append(label.array)
    if problems:
        raise DataError("\n".join(problems))
    return np.stack(slices)


def _volume_label(case: TrainingCase, scan: Scan) -> Mask:
    """Reads a label volume and turns it onto the image file's own grid; axes may be stored in another order."""
    if case.label_volume is None:
        raise DataError(f"'{case.name}': it has no label volume.")
    name = case.label_volume.name
    label = read_label_file(case.label_volume)
    target = scan.source_geometry
    if not target.is_even:
        raise DataError(
            f"label '{name}': the slices of '{case.name}' lie {target.spacing_text} apart, which a label volume cannot "
            "hold. Save one label PNG per slice."
        )
    turned = reorient(label, target.orientation_code) if label.geometry.orientation_known else label
    if turned.array.shape != target.shape_zyx:
        raise DataError(
            f"label '{name}' has {_size(label.geometry)} voxels, image '{case.name}' has {_size(target)}. "
            "They must lie on the same grid; save the label on the image's own grid."
        )
    silent = not (label.geometry.orientation_known and target.orientation_known)
    if not silent and not turned.geometry.is_same_grid(target, LABEL_GRID_TOLERANCE_MM):
        shift = float(np.abs(turned.geometry.affine - target.affine).max())
        raise DataError(
            f"label '{name}' and image '{case.name}' have the same size but lie in different places "
            f"(up to {shift:.1f} mm apart at the first voxel, or with another spacing: "
            f"{_spacing(turned.geometry)} and {_spacing(target)} mm). Save the label on the image's own grid."
        )
    return turned.with_array(turned.array, target)


def _size(geometry: Geometry) -> str:
    return " × ".join(str(n) for n in geometry.shape_zyx)


def _spacing(geometry: Geometry) -> str:
    return " × ".join(f"{value:.3g}" for value in geometry.spacing_zyx_mm)
