"""Writes a DICOM segmentation (SEG): one binary segment per ROI, on the slices of the series it was made from.

Source: DICOM PS3.3, A.51 (Segmentation IOD) and C.8.20 (Segmentation modules); written with highdicom.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from autoseg_lib import __version__
from autoseg_lib.errors import AutosegError, DataError
from autoseg_lib.geometry import SAME_PLACE_TOLERANCE_MM, FloatArray
from autoseg_lib.io.dicom_source import MANUFACTURER, read_source, why_no_object
from autoseg_lib.io.files import atomic_write
from autoseg_lib.io.slice_header import SliceHeader
from autoseg_lib.labels import Label, LabelTable

# Segments are numbered with 16 bits, and SegmentLabel holds 64 characters (PS3.5, 6.2).
_LONGEST_LABEL = 64
# Series of other numbers are the scanner's; viewers sort by it.
_SERIES_NUMBER = 900


def write_seg(
    path: Path,
    headers: Sequence[SliceHeader],
    array: npt.NDArray[np.unsignedinteger],
    labels: LabelTable,
    *,
    model: str = "",
) -> tuple[str, ...]:
    """Writes segmentation.dcm. Slices without an ROI are left out of it, as the standard allows.

    It carries the patient's identity, copied from the series: DICOM asks for it.

    Args:
        path: the file.
        headers: slices of the series, in the order of the array's slices.
        array: (slice, row, column) label values on the series' own pixels.
        labels: the ROIs; those without a pixel get no segment.
        model: what made the mask, for AlgorithmParameters; "" leaves it out.

    Returns:
        Names of the ROIs without a pixel.

    Raises:
        DataError: the series lacks what a SEG refers to, has several images at one position, or no ROI has a pixel.
        ExportError: the file cannot be written.
    """
    why = why_no_object(headers) or _why_no_frames(headers)
    if why:
        raise DataError(f"a DICOM SEG refers to its series, and {why}.")
    present = set(np.unique(array).tolist())
    shown = [label for label in labels if label.value in present]
    if not shown:
        raise DataError("a DICOM SEG needs a segment, and no ROI was found.")
    dataset = _segmentation(headers, array, shown, model)
    atomic_write(path, lambda target: dataset.save_as(target, enforce_file_format=True))
    return tuple(label.name for label in labels if label.value not in present)


def _why_no_frames(headers: Sequence[SliceHeader]) -> str:
    """Frames are told apart by segment and position, so there can be one image per position only."""
    gaps = np.diff(_positions_mm(headers))
    if gaps.size and float(gaps.min()) <= SAME_PLACE_TOLERANCE_MM / 10:
        return "it has several images at one position (cine or dynamic)"
    return ""


def _positions_mm(headers: Sequence[SliceHeader]) -> FloatArray:
    """Returns the positions of the slices along their normal, in order."""
    cosines = np.array(headers[0].orientation, dtype=np.float64)
    origins = np.array([header.position_xyz_mm for header in headers], dtype=np.float64)
    return np.asarray(np.sort(origins @ np.cross(cosines[:3], cosines[3:])), dtype=np.float64)


def _segmentation(
    headers: Sequence[SliceHeader], array: npt.NDArray[np.unsignedinteger], shown: Sequence[Label], model: str
) -> Dataset:
    # Not at the top: most runs write no such file.
    from highdicom.seg import Segmentation

    sources, pixels = _sources(headers, array)
    # Segments are numbered from 1 without gaps (PS3.3, C.8.20.2).
    numbers = np.zeros(int(array.max()) + 1, dtype=np.uint16)
    for number, label in enumerate(shown, start=1):
        numbers[label.value] = number
    pixels = numbers[pixels]
    if len(shown) <= np.iinfo(np.uint8).max:
        pixels = pixels.astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Segmentation(
                source_images=sources,
                pixel_array=pixels,
                segmentation_type="BINARY",
                segment_descriptions=[_described(n, label, model) for n, label in enumerate(shown, start=1)],
                series_instance_uid=generate_uid(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MANUFACTURER,
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
                series_description="Segmentation",
                omit_empty_frames=True,
            )
        except AutosegError:
            raise
        except (
            Exception
        ) as error:  # highdicom refuses sources that break the standard with errors of many kinds
            raise DataError(
                f"a DICOM SEG refers to its series, and the series' header does not allow it ({_first_line(error)})."
            ) from error


def _sources(
    headers: Sequence[SliceHeader], array: npt.NDArray[np.unsignedinteger]
) -> tuple[list[Dataset], npt.NDArray[np.unsignedinteger]]:
    """Returns the images of the series without their pixels, and the label values in their order.

    Raises:
        DataError: the slices are spread over several multi-frame files.
    """
    if headers[0].frame is None:
        sources = [read_source(header.path) for header in headers]
        for source in sources:
            if not source.get("SliceThickness"):
                source.SliceThickness = _thickness_mm(headers)
        return sources, array
    if len({header.path for header in headers}) > 1:
        raise DataError("its slices are spread over several multi-frame files.")
    source = read_source(headers[0].path)
    frames = np.zeros((int(source.NumberOfFrames), *array.shape[1:]), dtype=array.dtype)
    for header, plane in zip(headers, array, strict=True):
        frames[header.frame or 0] = plane
    return [source], frames


def _thickness_mm(headers: Sequence[SliceHeader]) -> float:
    """How deep a slice is taken to be where the series does not say: as far as to its neighbour."""
    along = _positions_mm(headers)
    return float(np.diff(along).min()) if len(along) > 1 else 1.0


def _described(number: int, label: Label, model: str) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=number,
        segment_label=label.name[:_LONGEST_LABEL],
        # What an ROI is, its name says in the user's own words; the code only says that it is something of the body.
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=MANUFACTURER,
            family=codes.cid7162.ArtificialIntelligence,
            version=__version__,
            parameters={"model": model} if model else None,
        ),
        tracking_uid=generate_uid(),
        tracking_id=label.name[:_LONGEST_LABEL],
        display_color=CIELabColor.from_rgb(*label.color_rgb),
    )


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__
