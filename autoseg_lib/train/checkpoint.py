"""The resume file: written whole, checked when read, and the one before it is kept.

The end of the file is a SHA-256 of everything before it. A file that was cut off at any length or changed anywhere, by a
full disk, a power cut or a cloud folder, is noticed, and the one before it is used.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from autoseg_lib.errors import ModelError
from autoseg_lib.io.files import atomic_write
from autoseg_lib.train.files import previous_of

FORMAT = "autoseg-training"
FORMAT_VERSION = 2
# The last bytes of a file that is complete; before them the checksum.
_SEAL = b"AUTOSEG-COMPLETE"
_DIGEST_BYTES = 32
_BLOCK = 1 << 20


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Writes all that resuming needs. The file before it stays whole if the disk is full.

    Args:
        path: NAME_last.ckpt.
        state: tensors and plain values only, so that reading runs no code.
        keep_previous: the file of this name becomes NAME_last.previous.ckpt; only for one that is known to be sound.

    Raises:
        OutOfSpaceError: the disk is full.
        ExportError: the file cannot be written.
    """
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **state}

    def write(target: Path) -> None:
        with target.open("wb") as stream:
            sealed = _Hashing(stream)
            torch.save(content, cast(IO[bytes], sealed))  # write and flush are all it asks for
            stream.write(sealed.digest.digest() + _SEAL)
        if keep_previous and path.is_file():
            # Killed right here, there is no file of the first name: reading then takes the previous one.
            path.replace(previous_of(path))

    atomic_write(path, write)


class _Hashing:
    """A stream that sums up what goes through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def write(self, block: bytes) -> int:
        """Passes ``block`` on."""
        self.digest.update(block)
        return self.stream.write(block)

    def flush(self) -> None:
        """For torch.save, which asks for it."""
        self.stream.flush()


def is_sound(path: Path) -> bool:
    """Whether the file is there, complete, and as it was written."""
    try:
        length = path.stat().st_size - _DIGEST_BYTES - len(_SEAL)
        if length <= 0:
            return False
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            left = length
            while left and (block := stream.read(min(_BLOCK, left))):
                digest.update(block)
                left -= len(block)
            return stream.read() == digest.digest() + _SEAL
    except OSError:
        return False


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns what save_checkpoint wrote, tensors on the CPU.

    Raises:
        ModelError: the file is missing, damaged, or of another program.
    """
    if not path.is_file():
        raise ModelError(
            f"'{path.name}' was not found in '{path.parent}'. Leave resume = \"auto\", or give the path of a NAME_last.ckpt."
        )
    damaged = ModelError(
        f"'{path.name}' cannot be read as a training checkpoint. It is damaged, was not written to its end, or was made by "
        "another program. Set resume = False to start over; the old files are set aside."
    )
    if not is_sound(path):
        raise damaged
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise damaged from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ModelError(
            f"'{path.name}' is no checkpoint of this workbench. Set resume = False, or choose another name."
        )
    if state["format_version"] > FORMAT_VERSION:
        raise ModelError(
            f"'{path.name}' was made by a newer version of the workbench. Update it to go on with this run."
        )
    return state


def is_there(path: Path) -> bool:
    """Whether there is anything to go on from: the resume file or the one before it."""
    return path.is_file() or previous_of(path).is_file()


def load_newest(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the newest state that can be read, and a sentence for the user where that is not the newest written.

    Args:
        path: NAME_last.ckpt; where it is damaged or missing, the one before it is taken.

    Raises:
        ModelError: see load_checkpoint; none of the two can be used.
    """
    try:
        return load_checkpoint(path), ""
    except ModelError:
        before = previous_of(path)
        if not is_sound(before):
            raise
        what = "is damaged or was not written to its end" if path.is_file() else "is missing"
        state = load_checkpoint(before)
        when = datetime.datetime.fromtimestamp(before.stat().st_mtime).strftime("%d %B %Y, %H:%M")
        return state, f"'{path.name}' {what}: going on from the one before it, of {when}."
