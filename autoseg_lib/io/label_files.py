"""Writing pictures and volumes again in the format they came in, for corrected copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from autoseg_lib.errors import DataError
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.raster import write_mask_npy, write_mask_png

LabelArray = npt.NDArray[np.unsignedinteger]

_JPG = (".jpg", ".jpeg")


def rewritten_path(path: Path) -> Path:
    """Returns where a picture goes when it is written again: JPG, which would change its values, becomes PNG."""
    return path.with_suffix(".png") if path.suffix.lower() in _JPG else path


def write_label_again(path: Path, array: LabelArray) -> None:
    """Writes label values in the format of the file's name (PNG, TIFF or NPY).

    Raises:
        DataError: a value is none that a label file can hold.
        ExportError: it cannot be written.
    """
    highest = int(array.max(initial=0))
    if highest > np.iinfo(np.uint16).max:
        raise DataError(f"label '{path.name}': it holds colours or planes that no ROI number was given for.")
    plain: LabelArray = array.astype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        write_mask_npy(path, plain)
    elif suffix in (".tif", ".tiff"):
        atomic_write(path, lambda temporary: _write_tiff(temporary, plain))
    else:
        write_mask_png(path, plain)


def write_image_again(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes grey values in the format of the file's name (PNG, TIFF or NPY), each value kept.

    Raises:
        ExportError: it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        write_mask_npy(path, array)
    elif suffix in (".tif", ".tiff"):
        atomic_write(path, lambda temporary: _write_tiff(temporary, array))
    else:
        picture = Image.fromarray(np.ascontiguousarray(array))
        atomic_write(path, lambda temporary: picture.save(temporary, format="PNG"))


def _write_tiff(path: Path, array: npt.NDArray[Any]) -> None:
    tifffile.imwrite(path, array, photometric="minisblack")
