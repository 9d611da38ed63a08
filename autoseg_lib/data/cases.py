"""What pairing gives: training cases, and what the user should know about the folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from autoseg_lib.data.discover import ImageSource

# A file's place in the layout: the folders between images/ (or labels/) and it, and its base name.
Key = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class PairingIssue:
    """Something the user should know.

    Attributes:
        severity: "error" (training stops) or "warning".
        code: short word for programs.
        text: one sentence or two: what, found / expected, do.
        files: names of the files concerned.
        paths: the files themselves, where a corrected copy of the data could do something about them.
        partners: (label file, image file) that belong together though their names differ.
    """

    severity: str
    code: str
    text: str
    files: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    partners: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True)
class TrainingCase:
    """A scan with its labels.

    Attributes:
        source: the scan; only slices that have a label.
        label_files: one path per slice of ``source`` (2D labels); empty where there is a label volume.
        label_volume: the one file that holds the labels of the whole scan (volume, RTSTRUCT, DICOM SEG, 3D Slicer's, stack of
            pages), else None.
        roi_values: (name, ROI number) for files that name their ROIs; empty: each file's own, in natural order.
    """

    source: ImageSource
    label_files: tuple[Path | None, ...] = field(default=(), repr=False)
    label_volume: Path | None = None
    roi_values: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.source.name

    @property
    def patient(self) -> str:
        """Key of the patient."""
        return self.source.patient

    @property
    def labels(self) -> tuple[Path, ...]:
        """All label files of the case."""
        if self.label_volume is not None:
            return (self.label_volume,)
        return tuple(file for file in self.label_files if file is not None)


@dataclass(frozen=True)
class Pairing:
    """What a training folder holds.

    Attributes:
        cases: scans with labels.
        issues: everything to report, errors first.
        images, labels, pairs: numbers of image files, label files and pairs (files; a volume is one).
        layout: which layout was found, in words.
        notes: sentences for the user.
        roi_names: names of the ROIs for the numbers 1, 2, ... where label files name them; else empty.
    """

    cases: tuple[TrainingCase, ...]
    issues: tuple[PairingIssue, ...]
    images: int
    labels: int
    pairs: int
    layout: str
    notes: tuple[str, ...] = ()
    roi_names: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether training cannot go on."""
        return any(issue.severity == "error" for issue in self.issues)
