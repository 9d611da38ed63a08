"""Folders as a hospital hands them over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_write import write_dicom_series


def mixed_folder(folder: Path) -> Path:
    """A scan of 4 slices, a localizer, two texts, a structure set, and a file that is DICOM in name only."""
    scan = Geometry.from_spacing(
        (4, 10, 12), (4.0, 0.9, 0.9), spacing_known=True, positions_known=True, orientation_known=True
    )
    write_dicom_series(folder / "scan", np.zeros((4, 10, 12), np.int16), scan, modality="MR")
    scout = Geometry.from_spacing(
        (1, 10, 12), (4.0, 2.0, 2.0), spacing_known=True, positions_known=True, orientation_known=True
    )
    write_dicom_series(
        folder / "scan", np.zeros((1, 10, 12), np.int16), scout, names=["scout"], uid_seed="scout"
    )
    header = pydicom.dcmread(folder / "scan" / "scout.dcm")
    header.ImageType, header.SeriesNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], 2
    header.save_as(folder / "scan" / "scout.dcm")
    for name in ("read me.txt", "notes.txt"):
        (folder / name).write_text("no scan", encoding="utf-8")
    (folder / "cut.dcm").write_bytes(b"This was a slice once.")
    return folder
