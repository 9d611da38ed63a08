"""What all files with named ROIs have in common: names, warnings, and pixels ROI by ROI on a scan's grid."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import DataError, name_list
from autoseg_lib.geometry import Geometry

# ROIName and SegmentLabel are of VR LO: at most 64 characters (DICOM PS3.5, 6.2). Other files are held to the same.
_LONGEST_NAME = 64


@dataclass(frozen=True)
class SegmentInfo:
    """One ROI of a file.

    Attributes:
        number: the file's own number for it.
        name: ROIName or SegmentLabel, without control characters and spaces around it.
    """

    number: int
    name: str


class SegmentFile(ABC):
    """A file that holds ROIs by name: RTSTRUCT, DICOM SEG or 3D Slicer's segmentation.

    Attributes:
        path: the file.
        kind: "RTSTRUCT", "DICOM SEG" or "3D Slicer segmentation".
        segments: the ROIs that hold something to show, in the file's order.
        geometry: the file's own grid; None for contours, which have none.
        frame_of_reference_uid: which coordinates it is drawn in, "" where the file does not say.
        referenced_series_uids: the image series it says it was drawn on.
        named_sop_uids: the images that its contours or frames say they were drawn on.
    """

    kind: str = ""

    def __init__(
        self,
        path: Path,
        segments: Sequence[SegmentInfo],
        warnings: Sequence[str],
        *,
        geometry: Geometry | None = None,
        frame_of_reference_uid: str = "",
        referenced_series_uids: frozenset[str] = frozenset(),
        named_sop_uids: frozenset[str] = frozenset(),
    ) -> None:
        self.path = path
        self.segments = tuple(segments)
        self.geometry = geometry
        self.frame_of_reference_uid = frame_of_reference_uid
        self.referenced_series_uids = referenced_series_uids
        self.named_sop_uids = named_sop_uids
        self._warnings = list(dict.fromkeys(warnings))

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.path.name}', {[segment.name for segment in self.segments]})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what is odd; complete once ``layers`` has been gone through."""
        return tuple(self._warnings)

    @abstractmethod
    def layers(
        self,
        geometry: Geometry,
        sop_uids: Sequence[str] = (),
        *,
        slice_origins_xyz_mm: npt.ArrayLike | None = None,
    ) -> Iterator[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
        """Returns the ROIs one after the other on a scan's grid, so that one layer is in memory at a time.

        Args:
            geometry: the scan's grid, as it was read (not resampled).
            sop_uids: SOPInstanceUID of each slice, () where unknown.
            slice_origins_xyz_mm: (slices, 3) ImagePositionPatient of each slice, needed only where the slices are shifted
                against each other within their planes.

        Yields:
            The ROI and its (slice, row, column) pixels.

        Raises:
            DataError: nothing of the file lies on this scan.
            GeometryError: the file's grid is another one; take ``layers(self.geometry)`` and resample.
        """

    def check_frame_of_reference(self, uid: str, scan: str, sop_uids: Sequence[str] = ()) -> None:
        """Refuses a file that was drawn in other coordinates than the scan's.

        Some programs invent a frame of reference when they write; a file whose contours or frames name the very images of
        the scan was drawn on them all the same, which is said.

        Args:
            uid: FrameOfReferenceUID of the scan, "" where unknown (then nothing is checked).
            scan: the scan's name, for the message.
            sop_uids: SOPInstanceUIDs of the scan's images.

        Raises:
            DataError: both sides say which coordinates they use, and they differ.
        """
        if not uid or not self.frame_of_reference_uid or uid == self.frame_of_reference_uid:
            return
        if self.named_sop_uids and self.named_sop_uids <= set(sop_uids):
            self._note(
                "it states another frame of reference than the scan, but names the scan's own images; it was placed on them."
            )
            return
        raise DataError(
            f"'{self.path.name}': it was drawn in another frame of reference (another scan session, or after the "
            f"patient was moved) than the scan '{scan}' has, so its ROIs would lie in the wrong place. "
            "Choose the series it was drawn on, or the file that belongs to this scan."
        )

    def _note(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.append(text)


def clean_name(text: str, number: int) -> str:
    """Returns an ROI's name fit to show: no control or invisible characters, no spaces around, not endless.

    Args:
        text: as the file has it.
        number: names an ROI without a name.
    """
    shown = "".join(" " if unicodedata.category(letter) in _UNSHOWN else letter for letter in text)
    shown = re.sub(r"\s+", " ", shown).strip()[:_LONGEST_NAME].strip()
    return shown or f"ROI {number}"


# Unicode's control, format, surrogate and private characters, line and paragraph ends.
_UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def doubled_note(what: str, segments: Sequence[SegmentInfo]) -> list[str]:
    """Returns the sentence on ROIs whose names count as one, if there are any.

    Args:
        what: "ROIs" or "segments".
        segments: of one file.
    """
    times = Counter(same_name(segment.name) for segment in segments)
    doubled = list(dict.fromkeys(s.name for s in segments if times[same_name(s.name)] > 1))
    if not doubled:
        return []
    return [f"several {what} have the same name and are taken together: {name_list(doubled)}."]


def same_name(name: str) -> str:
    """Returns an ROI's name for comparing: case, spaces, "_" and "-" make no difference."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFC", name).casefold())
