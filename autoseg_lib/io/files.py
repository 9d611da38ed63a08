"""Finding files in the order people expect, and writing them so that a crash never leaves half a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from autoseg_lib.errors import DataError, ExportError, OutOfSpaceError

# Files that operating systems and viewers leave in folders; never a scan, never worth a warning.
_JUNK_NAMES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_JUNK_FOLDERS = {"__macosx", "$recycle.bin", "system volume information"}
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# What drives that know no fsync answer to it (some network and cloud folders).
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.EINVAL), errno.ENOTTY}
_PART = ".part-"


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a sort key under which "slice_9" comes before "slice_10"."""
    parts = re.split(r"(\d+)", name.casefold())
    # The text itself comes last so that "1" and "01" keep one fixed order.
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
    return (*key, (2, 0, name))


# What some operating system forbids; what does not show but changes how the rest is read (control characters, changes of
# the writing direction); and the halves of characters that stand for bytes of a name that are no Unicode.
_FORBIDDEN = re.compile(
    r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]'
)
# Names of devices on Windows, with any suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# File systems take 255 bytes (ext4, NFS) or 255 characters (NTFS, APFS); suffixes and numbers follow. A letter of Chinese,
# Japanese or Korean takes three bytes.
_LONGEST_NAME, _MOST_BYTES = 100, 180


def safe_name(name: str) -> str:
    """Returns a name that is one file name on Linux, macOS and Windows ("../../x" → "_.._x"); most come back as they are."""
    short = _FORBIDDEN.sub("_", name)[:_LONGEST_NAME].encode("utf-8")[:_MOST_BYTES].decode("utf-8", "ignore")
    cleaned = short.strip(" .") or "scan"
    return f"{cleaned}_" if _DEVICES.fullmatch(cleaned) else cleaned


def is_safe_name(name: str) -> bool:
    """Whether a name can be a file's name everywhere, as it is, long or short."""
    return (
        _FORBIDDEN.search(name) is None
        and _DEVICES.fullmatch(name) is None
        and name == name.strip(" .") != ""
    )


def same_text(name: str) -> str:
    """Returns a name for comparing: "é" as one letter, however a file system or archive stores it (Unicode NFC).

    macOS takes letters and accents apart, Windows and Linux keep them together; files travel between them.
    """
    return unicodedata.normalize("NFC", name)


def is_junk(path: Path) -> bool:
    """Whether a file or folder is hidden or left behind by the operating system ("._x", "Thumbs.db", "__MACOSX")."""
    name = path.name.lower()
    return name.startswith(".") or name in _JUNK_NAMES or name in _JUNK_FOLDERS


def walk_files(folder: Path, *, include_junk: bool = False) -> Iterator[Path]:
    """Yields the files below ``folder`` in natural order: a folder's own files first, then its sub-folders.

    Links that lead back to a folder already visited are not followed twice.

    Args:
        folder: where to start.
        include_junk: also yield hidden and junk files (their folders are never entered).

    Raises:
        DataError: ``folder`` itself cannot be listed.
    """
    seen: set[str] = set()

    def visit(place: Path, top: bool) -> Iterator[Path]:
        real = os.path.realpath(place)
        if real in seen:
            return
        seen.add(real)
        try:
            entries = sorted(place.iterdir(), key=lambda item: natural_key(item.name))
        except OSError as error:
            if not top:
                return
            raise DataError(
                f"folder '{place}': it cannot be opened ({error.strerror}). Check the path and your rights."
            ) from None
        folders = []
        for entry in entries:
            if entry.is_dir():
                if not is_junk(entry):
                    folders.append(entry)
            elif entry.is_file() and (include_junk or not is_junk(entry)):
                yield entry
        for entry in folders:
            yield from visit(entry, False)

    yield from visit(folder, True)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Checksums:
    """SHA-256 of files, each read once as long as its size and time stay the same."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def __call__(self, path: Path) -> str:
        """Returns what ``sha256_of`` does.

        Raises:
            OSError: the file cannot be read.
        """
        status = path.stat()
        state = (status.st_size, status.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != state:
            known = self._known[path] = (state, sha256_of(path))
        return known[1]


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, then puts it in place in one step.

    A file of that name that was there before stays whole until the new one is complete, whatever goes wrong. The
    temporary file has the same suffix, for writers that choose the format by it.

    Args:
        path: the file to make; its folder is made if missing.
        write: called with the temporary path.

    Raises:
        OutOfSpaceError: the disk is full.
        ExportError: the folder or file may not be written.
    """
    temporary = path.with_name(f"{_PART}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("r+b") as stream:
            _to_the_disk(stream.fileno())
        temporary.replace(path)
    except Exception as error:  # whatever the writer raises, the text below names file and remedy
        told = _told(path, error)
        if told is error:
            raise
        raise told from error
    finally:
        # What went wrong above must be told, not that there is nothing to tidy up.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as UTF-8 in one step (see ``atomic_write``).

    What no Unicode stands for (halves of characters out of damaged file names) is written as an escape rather than refused.
    """
    atomic_write(path, lambda target: _write_utf8(target, text))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _to_the_disk(file: int) -> None:
    """Waits until a file is on the disk, so that a power cut cannot leave an empty one under the final name."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def remove_unfinished(folder: Path, of: Callable[[str], bool]) -> None:
    """Removes temporary files that atomic_write left in a folder when its process was killed.

    Args:
        folder: where to look; may be missing.
        of: whether a file of this name is the caller's, so that nobody else is writing it.
    """
    for path in folder.glob(f"{_PART}*"):
        if of(path.name[len(_PART) + 9 :]):
            with contextlib.suppress(OSError):
                path.unlink()


def _says_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it came from, says that the disk is full: torch.save hides it behind its own."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or "no space left" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _told(path: Path, error: Exception) -> Exception:
    """Returns the error to show instead of ``error``; writers wrap a full disk in errors of their own."""
    number = getattr(error, "errno", None)
    if _says_full(error):
        return OutOfSpaceError(
            f"'{path}': the disk is full, so it was not saved. What was saved before is intact. "
            "Make room on this disk, or choose another folder, and run again."
        )
    if isinstance(error, PermissionError) or number == errno.EROFS:
        return ExportError(
            f"'{path}': no permission to write there. Choose a folder of your own, or close the program that has "
            "this file open (a CSV in Excel, for example)."
        )
    if isinstance(error, OSError):
        return ExportError(
            f"'{path}': it cannot be written ({error.strerror or error}). Choose another folder."
        )
    return error
