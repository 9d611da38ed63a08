"""Remembers the folder that was used last, in the user's own home folder."""

from __future__ import annotations

import os
from pathlib import Path


def _file() -> Path:
    home = os.environ.get("AUTOSEG_HOME")
    return (Path(home) if home else Path.home() / ".autoseg") / "last_folder.txt"


def remember_folder(folder: Path) -> None:
    """Keeps the folder for the next time; a home folder that cannot be written to is no reason to stop."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(str(folder), encoding="utf-8")
    except (OSError, RuntimeError):
        return


def last_folder() -> Path:
    """Returns the folder used last where it is still there, else the home folder, else the working one."""
    try:
        folder = Path(_file().read_text(encoding="utf-8").strip())
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError, ValueError):
        pass
    try:
        return Path.home()
    except RuntimeError:
        return Path.cwd()
