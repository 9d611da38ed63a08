"""Who works on what: several processes share a list of scans through files in the run folder, without a server.

A claim is a file that can be made only once (``O_EXCL``, on every system). It says which process made it, and that process
touches it every few seconds. The claim of a process that is gone is not removed but outbid: the next one is numbered one
higher, and of a number, too, there can be only one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import threading
import time
import uuid
from pathlib import Path

import psutil

from autoseg_lib.errors import ExportError

# How often a process shows that it is alive.
BEAT_SECONDS = 5.0
# A process of this computer that has ended and has not been heard for three beats is gone. Both are asked, because programs
# in containers may share a computer's name and still not see each other's processes.
GONE_HERE_SECONDS = 15.0
# Of another computer nothing but silence can be known; network drives may show a file's time a minute late.
GONE_ELSEWHERE_SECONDS = 300.0

_REMOVAL_TRIES, _REMOVAL_SECONDS = 4, 0.05

_NAME = re.compile(r"(.+)\.claim(\d+)")


class Claims:
    """What this process and others have claimed in a folder.

    Use as a context manager: at its end everything still held is given back.
    """

    def __init__(self, folder: Path, *, beat_seconds: float = BEAT_SECONDS) -> None:
        """Args:
            folder: where the claims lie; made if missing.
            beat_seconds: how often held claims are touched.

        Raises:
            ExportError: the folder cannot be made or written to.
        """
        self.token = uuid.uuid4().hex
        self._folder, self._beat = folder, beat_seconds
        self._held: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._probe = folder / f".beat-{self.token}"
        self._me = {
            "token": self.token,
            "host": platform.node(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._probe.write_text(json.dumps(self._me), encoding="utf-8")
        except OSError as error:
            raise ExportError(
                f"output '{folder.parent}': no file can be written there ({error.strerror or error}). Choose a folder that you "
                "may write to."
            ) from error
        self._thread = threading.Thread(target=self._keep_alive, name="claims", daemon=True)
        self._thread.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=self._beat)
        for name in list(self._held):
            self.release(name)
        _remove(self._probe)

    def take(self, name: str) -> bool:
        """Claims a scan; False where a living process has it.

        Whoever has claimed one looks once more whether it is done: another process may have finished it and given it back
        in between.

        Args:
            name: of the scan; a safe file name.

        Raises:
            ExportError: the claim cannot be written.
        """
        if name in self._held:
            return True
        newest = self._newest(name)
        if newest is not None and not self._is_left_of_ours(newest[1]) and self._is_alive(newest[1]):
            return False
        path = self._folder / f"{name}.claim{newest[0] + 1 if newest else 1}"
        try:
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        except PermissionError:
            # Windows says this of a file that is just being removed by another process.
            if path.exists() or os.name == "nt":
                return False
            raise ExportError(f"'{path}': no permission to write there. Choose another folder.") from None
        except OSError as error:
            raise ExportError(f"'{path}': it cannot be written ({error.strerror or error}).") from error
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(json.dumps(self._me))
        with self._lock:
            self._held[name] = path
        return True

    def release(self, name: str) -> None:
        """Gives a scan back: it is done, or another process may have it."""
        with self._lock:
            path = self._held.pop(name, None)
        if path is None:
            return
        mine = int(path.name.rpartition(".claim")[2])
        for number, other in self._claims(name):
            if number <= mine:
                _remove(other)

    def is_alive(self, token: str) -> bool:
        """Whether the process that made a claim or wrote a result still runs, as far as its sign of life tells."""
        return token == self.token or self._is_alive(self._folder / f".beat-{token}")

    def is_alone(self) -> bool:
        """Whether no other process is at work in this folder."""
        return not any(self._is_alive(path) for path in self._beats())

    def sweep(self) -> None:
        """Removes what processes that are gone have left; for when nothing is left to do."""
        gone = [path for path in self._beats() if not self._is_alive(path)]
        with contextlib.suppress(OSError):
            gone += [p for p in self._folder.iterdir() if _NAME.fullmatch(p.name) and not self._is_alive(p)]
        for path in gone:
            _remove(path)

    def now(self) -> float:
        """The time as the drive that holds the claims tells it, which may not be this computer's."""
        try:
            os.utime(self._probe)
            return self._probe.stat().st_mtime
        except OSError:
            return time.time()

    # --- who is alive ---------------------------------------------------------------------------------------------------

    def _claims(self, name: str) -> list[tuple[int, Path]]:
        found = []
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match and match[1] == name:
                    found.append((int(match[2]), path))
        return sorted(found)

    def _newest(self, name: str) -> tuple[int, Path] | None:
        claims = self._claims(name)
        return claims[-1] if claims else None

    def _is_left_of_ours(self, path: Path) -> bool:
        """Whether a claim that is not held is of this process: it was given back, but could not be removed."""
        try:
            return bool(json.loads(path.read_text(encoding="utf-8"))["token"] == self.token)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _is_alive(self, path: Path) -> bool:
        try:
            silent = self.now() - path.stat().st_mtime
        except FileNotFoundError:
            return False  # given back just now
        except OSError:
            return True  # the drive does not answer; whoever wants the claim looks again later
        try:
            who = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            # It is being written, or whoever wrote it was killed in that moment.
            return silent < GONE_HERE_SECONDS
        if who.get("host") == platform.node() and not _runs(who.get("pid"), who.get("started")):
            return silent < min(GONE_HERE_SECONDS, 3 * self._beat)
        return silent < GONE_ELSEWHERE_SECONDS

    def _beats(self) -> list[Path]:
        """Signs of life of other processes."""
        with contextlib.suppress(OSError):
            return [path for path in self._folder.glob(".beat-*") if path != self._probe]
        return []

    def _keep_alive(self) -> None:
        while not self._end.wait(self._beat):
            with self._lock:
                paths = [self._probe, *self._held.values()]
            for path in paths:
                with contextlib.suppress(OSError):
                    os.utime(path)


def _remove(path: Path) -> None:
    """Removes a file; Windows refuses while another process reads it, which takes no longer than a moment."""
    for _ in range(_REMOVAL_TRIES):
        try:
            path.unlink(missing_ok=True)
            return
        except OSError:
            time.sleep(_REMOVAL_SECONDS)


def _runs(pid: object, started: object) -> bool:
    """Whether a process of this computer still runs; a number may have been given to another one since."""
    if not isinstance(pid, int) or not isinstance(started, int | float):
        return False
    try:
        # Start times are told to a hundredth of a second, on some systems to a second.
        return abs(psutil.Process(pid).create_time() - started) < 2.0
    except psutil.Error:
        return psutil.pid_exists(pid)
