"""A folder for large files that are needed only while a process runs."""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from pathlib import Path

import psutil

_PREFIX = "autoseg_scratch"


def scratch_root(fallback: Path | None = None) -> Path:
    """Returns the computer's place for temporary files, or ``fallback`` where that place is memory and not a disk."""
    place = Path(tempfile.gettempdir())
    return fallback if fallback is not None and _is_memory(place) else place


def scratch_folder(root: Path | None = None) -> Path:
    """Makes a new empty folder; what earlier processes that were killed left behind is removed.

    Args:
        root: where; made if missing. None: see ``scratch_root``.
    """
    root = root or scratch_root()
    root.mkdir(parents=True, exist_ok=True)
    _remove_left_over(root)
    process = psutil.Process()
    prefix = f"{_PREFIX}_{_computer()}_{process.pid}_{int(process.create_time())}_"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=root))


def _computer() -> str:
    # Folders may be shared among computers, whose process numbers mean nothing here. A host's name may name a person.
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _remove_left_over(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}_{_computer()}_*"):
        parts = folder.name.split("_")
        try:
            # A corrected clock moves the time at which a process seems to have begun.
            running = abs(psutil.Process(int(parts[3])).create_time() - int(parts[4])) < 60
        except (psutil.Error, ValueError, IndexError):
            running = False
        if not running:
            shutil.rmtree(folder, ignore_errors=True)


def _is_memory(place: Path) -> bool:
    """Whether files in ``place`` are kept in memory (Linux: tmpfs)."""
    best, kind = "", ""
    for part in psutil.disk_partitions(all=True):
        if place.is_relative_to(part.mountpoint) and len(part.mountpoint) >= len(best):
            best, kind = part.mountpoint, part.fstype
    return kind in ("tmpfs", "ramfs")
