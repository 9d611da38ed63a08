"""What the data doctor has to say: findings, the samples they are about, and what would put them right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "fine"]


@dataclass(frozen=True)
class Sample:
    """A place in the data: one slice of a case, or (``slice_index`` None) the whole case.

    Attributes:
        case: name of the case.
        slice_index: index of the slice in the case's facts, from 0.
    """

    case: str
    slice_index: int | None = None


@dataclass(frozen=True)
class FixAction:
    """One change to files of the data folder; ``data/doctor/fixing.py`` holds a function for each kind.

    Kinds and their parameters:
        rename: ``to`` (Path) where the one file would lie in the data folder.
        leave_out: ``reason`` (str); images go with their labels, so name both.
        map_values: ``map`` (stored value → value) of label files.
        transform: ``transform`` (a name of ``data/doctor/transforms.py``) done to label files; ``slices`` (indices in the
            case as it was loaded) where only some slices of a label volume are meant.
        shift: ``slices`` (int): what is drawn on slice i belongs on slice i + slices; the label files of one scan in the
            order of its slices, or its label volume. Slices that are left without a label are left out.
        swap_labels: the two label files change places.
        swap_image_label: an image file and its label file change places.
        resample: ``like`` (the case's name): a label volume is put onto its image's grid.
        clear_nan: pixels without a number become the smallest of the others; not for DICOM.
        invert: dark becomes bright; not for DICOM.

    Attributes:
        kind: one of the above.
        files: the files to change, as they lie in the data folder.
        parameters: what the kind needs to know.
    """

    kind: str
    files: tuple[Path, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fix:
    """What would put a finding right in a corrected copy of the data.

    Attributes:
        text: what it does, for a button ("Rename 4 label files").
        actions: the changes, in order.
        sure: False where the finding rests on statistics, so that the result needs a look.
    """

    text: str
    actions: tuple[FixAction, ...]
    sure: bool = True


@dataclass(frozen=True)
class Finding:
    """One thing the data doctor has to say.

    Attributes:
        severity: "error" (training would be wasted or wrong), "warning", or "fine" (looked at, nothing found).
        code: short name of the finding, for programs.
        text: the sentence for the user: what, found / expected, do.
        files: names of the files it is about.
        samples: the slices or cases it is about, for pictures.
        fix: what would put it right, where that is known.
        details: what else programs and pictures want to know, e.g. {"transform": "flip left-right"}.
    """

    severity: Severity
    code: str
    text: str
    files: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    fix: Fix | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as plain values for ``--json``."""
        return {
            "severity": self.severity,
            "code": self.code,
            "text": self.text,
            "files": list(self.files),
            "samples": [{"case": item.case, "slice_index": item.slice_index} for item in self.samples],
            "fix": None if self.fix is None else self.fix.text,
        }
