"""Writes a mask as DICOM objects, on request: segmentation.dcm (DICOM SEG) and rtstruct.dcm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg_lib.data.scan import Scan, mask_to_source
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.labels import LabelTable
from autoseg_lib.volume import Mask

SEG_NAME = "segmentation.dcm"
RTSTRUCT_NAME = "rtstruct.dcm"

_FILES = {"seg": SEG_NAME, "rtstruct": RTSTRUCT_NAME}


def write_segmentation_objects(
    folder: Path, scan: Scan, mask: Mask, labels: LabelTable, formats: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Writes segmentation.dcm and rtstruct.dcm where ``formats`` asks for them and the scan allows it.

    They are the only files of a run that say who the patient is: a DICOM object belongs to a patient, and its identity is
    copied from the series.

    Args:
        folder: folder of the case.
        scan: the image that the mask belongs to.
        mask: label values on the scan's slices.
        labels: the ROIs.
        formats: "seg" and "rtstruct" are written here, others are left to their own functions.

    Returns:
        The files, and sentences for the user: what was left out and why, and what the files hold of the patient.

    Raises:
        ExportError: a file cannot be written.
    """
    wanted = [kind for kind in _FILES if kind in formats]
    if not wanted:
        return [], []
    if scan.series is None:
        names = " and ".join(_FILES[kind] for kind in wanted)
        verb = "was" if len(wanted) == 1 else "were"
        return [], [f"{names} {verb} left out: DICOM objects refer to a DICOM series, and this scan is none."]
    # Not at the top: most runs write no such file.
    from autoseg_lib.io.rtstruct_write import write_rtstruct
    from autoseg_lib.io.seg_write import write_seg

    own = mask_to_source(mask, scan).array
    files: list[Path] = []
    notes: list[str] = []
    for kind in wanted:
        path = folder / _FILES[kind]
        try:
            write = write_seg if kind == "seg" else write_rtstruct
            empty = write(path, scan.series.headers, own, labels)
        except DataError as error:
            notes.append(f"{path.name} was left out: {error}")
            continue
        files.append(path)
        if empty:
            notes.append(f"{path.name} does not hold the ROIs that were not found: {name_list(list(empty))}.")
    if files:
        names = " and ".join(path.name for path in files)
        notes.append(
            f"{names} hold{'s' if len(files) == 1 else ''} the patient's name and number, copied from the scan: DICOM asks "
            "for them. The other files do not."
        )
    return files, notes
