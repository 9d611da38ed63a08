"""Writes masks as label pictures and volumes, and overlays to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.scan import Scan, mask_to_source
from autoseg_lib.errors import DataError
from autoseg_lib.export.run_folder import make_folder, unique_names
from autoseg_lib.io.raster import write_jpg, write_mask_npy, write_mask_png
from autoseg_lib.io.volume_files import write_mask_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.overlay import grey_range, picture
from autoseg_lib.viz.view import slice_view
from autoseg_lib.volume import Mask

NIFTI_NAME = "segmentation.nii.gz"
# Slices written at a time.
_AT_A_TIME = min(4, os.cpu_count() or 1)


def slice_file_names(slice_names: Sequence[str], count: int) -> tuple[str, ...]:
    """Returns a base name for each slice's files: its own, or slice_0001 ... where slices have none.

    Raises:
        DataError: some slices have a name and some have not.
    """
    if not slice_names:
        return tuple(f"slice_{number:04d}" for number in range(1, count + 1))
    if len(slice_names) != count:
        raise DataError(
            f"found {count} slices, but {len(slice_names)} names for them. One name each is expected."
        )
    return unique_names(slice_names)


def write_masks(folder: Path, mask: Mask, slice_names: Sequence[str], formats: Sequence[str]) -> list[Path]:
    """Writes masks/SLICE.png and masks/SLICE.npy, label values as they are, the scan's own rows × columns.

    Args:
        folder: folder of the case.
        mask: label values, one slice per file.
        slice_names: base names of the slices, or none.
        formats: "png" and "npy" are written here, others are left to their own functions.

    Returns:
        The files.

    Raises:
        ExportError: a file cannot be written.
    """
    writers = {"png": write_mask_png, "npy": write_mask_npy}
    wanted = [kind for kind in writers if kind in formats]
    if not wanted:
        return []
    target = folder / "masks"
    make_folder(target)

    def write(name: str, plane: npt.NDArray[Any]) -> list[Path]:
        paths = [target / f"{name}.{kind}" for kind in wanted]
        for path, kind in zip(paths, wanted, strict=True):
            writers[kind](path, np.ascontiguousarray(plane))
        return paths

    names = slice_file_names(slice_names, mask.array.shape[0])
    return _several_at_a_time(write, names, mask.array)


def write_overlays(folder: Path, scan: Scan, mask: Mask, labels: LabelTable) -> list[Path]:
    """Writes overlays/SLICE.jpg: true proportions, turned as radiology shows it, ROIs in their colours.

    Args:
        folder: folder of the case.
        scan: the image.
        mask: label values on the scan's slices.
        labels: the ROIs.

    Returns:
        The files.

    Raises:
        ExportError: a file cannot be written.
    """
    target = folder / "overlays"
    make_folder(target)
    volume = scan.volume
    view, limits = slice_view(volume.geometry), grey_range(volume.array, volume.modality)

    def write(name: str, image: npt.NDArray[Any], plane: npt.NDArray[Any]) -> list[Path]:
        path = target / f"{name}.jpg"
        write_jpg(path, picture(image, plane, labels, view, limits=limits))
        return [path]

    names = slice_file_names(scan.slice_names, mask.array.shape[0])
    return _several_at_a_time(write, names, volume.array, mask.array)


def _several_at_a_time(write: Callable[..., list[Path]], *slices: Iterable[Any]) -> list[Path]:
    """Writes slice by slice in a few threads; returns the files in order. Packing and the disk need no Python."""
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        done = threads.map(lambda parts: write(*parts), zip(*slices, strict=True))
        return [path for paths in done for path in paths]


def write_nifti(path: Path, scan: Scan, mask: Mask) -> list[Path]:
    """Writes segmentation.nii.gz on the grid of the scan's own file.

    Args:
        path: the file.
        scan: the image that the mask belongs to.
        mask: label values on the scan's slices.

    Returns:
        The file.

    Raises:
        ExportError: the file cannot be written.
    """
    write_mask_file(path, mask_to_source(mask, scan))
    return [path]
