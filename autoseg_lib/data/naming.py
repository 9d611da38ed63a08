"""Names of cases and keys of patients, free of anything a DICOM header says of a person."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from autoseg_lib.errors import SettingsError
from autoseg_lib.io.dicom_headers import DICOM_SUFFIXES
from autoseg_lib.io.files import safe_name, same_text
from autoseg_lib.io.identity import tells_identity
from autoseg_lib.io.raster import IMAGE_SUFFIXES
from autoseg_lib.io.volume_files import is_volume_file, stem_of


def image_stem(path: Path) -> str:
    """Returns a file's base name without a known image suffix; other dots stay ("1.2.840.5" is a whole name)."""
    if is_volume_file(path):
        return stem_of(path)
    return path.stem if path.suffix.lower() in (*DICOM_SUFFIXES, *IMAGE_SUFFIXES) else path.name


def hashed_name(name: str) -> str:
    """Returns "case_" and 8 hexadecimal digits that stand for ``name``."""
    return "case_" + hashlib.sha256(name.encode()).hexdigest()[:8]


def shown_name(name: str, identity: Iterable[str]) -> str:
    """Returns a name, or what stands for it where it tells who the patient is.

    Args:
        name: of a case.
        identity: texts that must not occur in it.
    """
    return hashed_name(name) if tells_identity(name, identity) else name


class CaseNamer:
    """Gives each case a name of its own that is a valid folder name everywhere.

    The name is the folder's or file's; where two would be equal, the folders above come before it ("A_T1", "B_T1").
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._used: set[str] = set()

    def name(self, base: str, folder: Path, identity: Iterable[str]) -> str:
        """Returns the name of a case and keeps it for this case alone.

        Args:
            base: the name wished for.
            folder: where its files lie; its parents tell equal names apart.
            identity: texts that must not occur in it.
        """
        identity = frozenset(identity)
        parents = [part for part in self._relative(folder).parts if part not in ("", ".")]
        if parents and base.startswith(parents[-1]):
            parents = parents[:-1]
        candidate = base
        while self._taken(candidate) and parents:
            candidate = f"{parents.pop()}_{candidate}"
        candidate = safe_name(shown_name(candidate, identity))
        name, number = candidate, 2
        while self._taken(name):
            name, number = f"{candidate}_{number}", number + 1
        self._used.add(_used_name(name))
        return name

    def _taken(self, name: str) -> bool:
        return _used_name(safe_name(name)) in self._used

    def _relative(self, folder: Path) -> Path:
        try:
            return folder.relative_to(self._root)
        except ValueError:
            return Path(folder.name)


def _used_name(name: str) -> str:
    return same_text(name).casefold()


def patient_of(
    name: str, pattern: str | None, folder: Path, root: Path, layout_folders: Collection[str]
) -> str:
    """Returns the patient's key for a file that says nothing of the patient: by pattern, by folder, else the scan itself.

    Raises:
        SettingsError: the pattern is no regular expression.
    """
    if pattern:
        try:
            match = re.search(pattern, name)
        except re.error as error:
            raise SettingsError(
                f"patient_pattern = {pattern!r}: it is not a regular expression ({error}). Correct it."
            ) from None
        if match:
            return match.group(1) if match.groups() and match.group(1) else match.group(0)
    if folder != root and folder.name.lower() not in layout_folders:
        return folder.name
    return name
