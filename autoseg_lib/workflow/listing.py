"""What a folder holds, series by series: for `autoseg check` on a folder that is no training folder, and the folder picker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import Discovery, describe_source, discover
from autoseg_lib.events import Listener, Progress, nobody


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
    """Whether ``path`` is laid out for training: train/ with labels, labels beside images, or a manifest with labels."""
    if path.is_file():
        if path.suffix.lower() != ".csv":
            return False
        first = path.open(encoding="utf-8-sig", errors="replace").readline()
        return "label" in [cell.strip().lower() for cell in first.split(",")]
    return (path / "train").is_dir() or (
        (path / "labels").is_dir() and any((path / n).is_dir() for n in ("images", "dicoms"))
    )


def list_scans(path: Path, on_event: Listener = nobody) -> Listing:
    """Looks at the headers below ``path``.

    Raises:
        DataError: nothing there can be read.
    """
    return Listing(
        path, discover(path, on_progress=lambda done, total: on_event(Progress("Looking", done, total)))
    )


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
