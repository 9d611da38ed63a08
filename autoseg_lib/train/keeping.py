"""Saving that never ends a training: what cannot be written now is said once, kept in memory, and written when it can be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from autoseg_lib.errors import ExportError, OutOfSpaceError
from autoseg_lib.events import Listener, Message, StopFlag

# While nothing can be written, it is tried again so often at most: each try may write much before it fails.
SECONDS_BETWEEN_TRIES = 20.0
# At the end of a run: how long to wait for room on the disk before giving up, and how often to try.
PATIENCE_SECONDS = 600.0
SECONDS_BETWEEN_LAST_TRIES = 5.0


class Keeper:
    """Writes the files of a run.

    Attributes:
        waiting: files that could not be written, and how to write them now.
    """

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Args:
        patience_seconds: how long ``finish`` waits for room on the disk.
        """
        self.patience_seconds = patience_seconds
        self.waiting: dict[Path, Callable[[], None]] = {}
        self._next_try, self._in_trouble = 0.0, False

    def keep(self, path: Path, write: Callable[[], None], on_event: Listener, *, later: bool = True) -> bool:
        """Writes a file, or takes note of it; returns whether it was written.

        Args:
            path: the file.
            write: writes what the file is to hold at the time it is called.
            on_event: hears of trouble, once, and of its end.
            later: whether to write it later where it fails now.
        """
        if self.waiting and time.monotonic() < self._next_try:
            if later:
                self.waiting[path] = write
            return False
        try:
            write()
        except ExportError as error:
            if not self._in_trouble:
                on_event(Message(_trouble(path, error), "warning"))
            self._in_trouble = True
            if later:
                self.waiting[path] = write
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
            return False
        self.waiting.pop(path, None)
        self._say_when_over(on_event)
        return True

    def try_again(self, on_event: Listener) -> None:
        """Writes what is waiting, if it is time to try and it can be."""
        if not self.waiting or time.monotonic() < self._next_try:
            return
        error = self._write_waiting()
        if error is not None:
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
        self._say_when_over(on_event)

    def finish(self, on_event: Listener, stop: StopFlag) -> None:
        """Waits for what is still unwritten at the end of a run.

        Raises:
            ExportError: it cannot be written; ``stop`` was set or the patience is at its end.
        """
        until = time.monotonic() + self.patience_seconds
        told = False
        while (error := self._write_waiting()) is not None:
            if stop.is_set() or time.monotonic() >= until:
                raise error
            if not told:
                on_event(Message(_last_call(error, self.patience_seconds), "warning"))
                told = True
            time.sleep(min(SECONDS_BETWEEN_LAST_TRIES, max(0.0, until - time.monotonic())))
        self._say_when_over(on_event)

    def _say_when_over(self, on_event: Listener) -> None:
        if self._in_trouble and not self.waiting:
            self._in_trouble = False
            on_event(Message("Saving works again: all files are up to date."))

    def _write_waiting(self) -> ExportError | None:
        for path, write in list(self.waiting.items()):
            try:
                write()
            except ExportError as error:
                return error
            del self.waiting[path]
        return None


def _trouble(path: Path, error: ExportError) -> str:
    if isinstance(error, OutOfSpaceError):
        return (
            f"The disk is full, so '{path.name}' was not saved; what was saved before is intact. Training goes on in memory and "
            "saves as soon as there is room: free some on this disk, and do not close the program before."
        )
    return f"{error} Training goes on in memory and saves as soon as it can."


def _last_call(error: ExportError, seconds: float) -> str:
    return (
        f"Training has ended, but it cannot be saved yet. {error} It is tried again for {seconds / 60:.0f} minutes; "
        "Stop gives up at once."
    )
