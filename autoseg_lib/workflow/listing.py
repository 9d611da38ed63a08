"""What a folder holds, series by series: for `autoseg check` on a folder that is no training folder, and the folder picker."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import IMAGE_FOLDERS, Discovery, ImageSource, describe_source, discover
from autoseg_lib.data.manifest import manifest_columns
from autoseg_lib.errors import DataError
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.io.raster import check_picture_header
from autoseg_lib.io.slice_header import SkippedFile
from autoseg_lib.io.volume_files import check_volume_header


@dataclass(frozen=True)
class Listing:
    """The scans of a folder."""

    path: Path
    found: Discovery

    def lines(self) -> list[str]:
        """Returns one line per series, then what was left out."""
        lines = [f"'{self.path.name}' holds {_count(len(self.found.sources), 'scan')}:"]
        for number, source in enumerate(self.found.sources, start=1):
            lines.append(f"  {number}. {source.name}: {describe_source(source)} ✔")
            lines += [f"     ⚠ {text}" for text in source.warnings]
        lines += [
            f"  -  {source.name}: {describe_source(source)} · skipped" for source in self.found.left_out
        ]
        lines += [f"  -  {item.path.name}: {item.reason}" for item in self.found.skipped]
        lines += list(self.found.notes)
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Returns the listing as plain values for ``--json``."""
        return {
            "path": str(self.path),
            "scans": [
                {
                    "name": source.name,
                    "kind": source.kind,
                    "modality": source.modality,
                    "slices": len(source.slice_names),
                    "description": describe_source(source),
                    "warnings": list(source.warnings),
                }
                for source in self.found.sources
            ],
            "left_out": [{"name": s.name, "description": describe_source(s)} for s in self.found.left_out],
            "skipped": [{"file": item.path.name, "reason": item.reason} for item in self.found.skipped],
            "notes": list(self.found.notes),
        }


def holds_training_data(path: Path) -> bool:
    """Whether ``path`` is laid out for training: train/ with labels, labels beside images, or a manifest with labels.

    Folder names count in upper and lower case, as Windows and macOS see them.
    """
    if path.is_file():
        if path.suffix.lower() != ".csv":
            return False
        return "label" in manifest_columns(path)
    try:
        folders = {child.name.lower() for child in path.iterdir() if child.is_dir()}
    except OSError:
        return False  # listing it tells why it cannot be opened
    return "train" in folders or ("labels" in folders and any(name in folders for name in IMAGE_FOLDERS))


def list_scans(path: Path, on_event: Listener = nobody) -> Listing:
    """Looks at the headers below ``path``.

    Raises:
        DataError: nothing there can be read.
    """
    found = discover(path, on_progress=lambda done, total: on_event(Progress("Looking", done, total)))
    sources, damaged = [], []
    for source in found.sources:
        faults = _faults(source)
        damaged += faults
        if not faults:
            sources.append(source)
    if not sources:
        raise DataError(
            f"'{path}': no scan in it can be read: {damaged[0].path.name}: {damaged[0].reason}. Choose another folder or file."
        )
    return Listing(path, replace(found, sources=tuple(sources), skipped=(*found.skipped, *damaged)))


def _faults(source: ImageSource) -> list[SkippedFile]:
    """Returns the files of a scan whose header cannot be read; DICOM headers were read when they were found."""
    faults = []
    for file in source.images if source.series is None else ():
        try:
            if source.kind == "volume":
                check_volume_header(file)
            else:
                check_picture_header(file)
        except DataError as error:
            text = re.sub(rf"^(image )?'{re.escape(file.name)}': ", "", str(error))
            text = text.split(". ")[0].rstrip(".")  # what to do about it is told when it is used
            more = f"; the scan '{source.name}' needs it" if len(source.images) > 1 else ""
            faults.append(SkippedFile(file, text + more, serious=True))
    return faults


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
