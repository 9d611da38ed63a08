"""Tries one damaged file after the other, in a process of its own that may die: python -m tests.fuzz.worker JOBS FOLDER.

Prints one JSON line before and one after each file, so that whoever started it knows what it was doing when it died.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

from tests.fuzz.mutate import mutate
from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import FILE_NAMES, prepare, try_command, try_file

MOST_SECONDS = 5.0
MOST_BYTES = 1 << 30
# The command line is tried on every so many-th file: it does the same once more, and starts slowly.
COMMAND_EVERY = 8


def main(jobs: list[tuple[str, int, int]], folder: Path) -> None:
    """Tries files kind by kind.

    Args:
        jobs: kind, first number and number after the last.
        folder: an empty folder; "data" and "output" in it are the only places where files may be written.
    """
    report = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    _be_quiet()
    warnings.simplefilter("ignore")
    watch = _Watch(folder)
    for kind, start, stop in jobs:
        seeds = seeds_of(kind)
        _lift_memory_limit()
        # A whole file first: it pays for imports. Only then does a limit on memory mean anything.
        with contextlib.suppress(Exception):
            _one(kind, _put(kind, seeds[0], folder), folder, command=True)
        watch.settle()
        _limit_memory()
        for number in range(start, stop):
            _tell(report, kind=kind, begin=number)
            _tell(report, kind=kind, done=number, **_try(kind, number, seeds, folder, watch))


def _try(kind: str, number: int, seeds: list[bytes], folder: Path, watch: _Watch) -> dict[str, Any]:
    path = _put(kind, mutate(kind, number, seeds), folder)
    watch.begin()
    began = time.process_time()
    fault = ""
    read = False
    try:
        read = _one(kind, path, folder, command=number % COMMAND_EVERY == 0)
    except Exception as error:  # noqa: BLE001  # every exception that comes out is what is looked for
        fault = f"{type(error).__name__}: {str(error)[:300]} at {_where(error)}"
    seconds = time.process_time() - began
    used = watch.peak_bytes()
    if seconds > MOST_SECONDS:
        fault = fault or f"took {seconds:.1f} s"
    if used > MOST_BYTES:
        fault = fault or f"took {used / 1e9:.2f} GB"
    fault = fault or watch.trespass()
    return {"read": read, "fault": fault, "seconds": round(seconds, 3), "bytes": used}


def _put(kind: str, data: bytes, folder: Path) -> Path:
    """Writes one file, alone in its folder but for what it refers to."""
    place = folder / "data"
    for old in (place, folder / "output"):
        shutil.rmtree(old, ignore_errors=True)
    place.mkdir()
    prepare(kind, place)
    path = place / FILE_NAMES[kind]
    path.write_bytes(data)
    return path


def _one(kind: str, path: Path, folder: Path, *, command: bool) -> bool:
    read = try_file(kind, path)
    if command:
        try_command(kind, path, folder / "output")
    return read


def _tell(report: TextIO, **values: Any) -> None:
    report.write(json.dumps(values) + "\n")
    report.flush()


def _where(error: BaseException) -> str:
    """Returns the last places in the workbench that the error came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "autoseg_lib" in f.filename]
    return (
        " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-3:])) or "outside"
    )


def _be_quiet() -> None:
    """Sends what C libraries print to nowhere; results go through ``report``."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)


def _limit_memory() -> None:
    """Lets the process grow by 1 GB from here on (POSIX only; elsewhere the measured peak alone counts)."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(
            resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, resource.RLIM_INFINITY)
        )
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _lift_memory_limit() -> None:
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class _Watch:
    """Notices memory use, and files written or programs started where they have no business."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._allowed = tuple(str(self._folder / name) for name in ("data", "output"))
        self._found: list[str] = []
        self._active = False
        self._base = 0
        self._before: set[str] = set()
        sys.addaudithook(self._audit)

    def settle(self) -> None:
        """Takes what lies there now, such as caches of libraries, as given."""
        self._before = self._listing()

    def begin(self) -> None:
        """Starts watching one file."""
        self._found.clear()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: starts the peak anew
        self._base = _resident("VmRSS:")
        self._active = True

    def peak_bytes(self) -> int:
        """Returns how much memory was taken at most since ``begin`` (0 where the system does not tell)."""
        self._active = False
        return max(0, _resident("VmHWM:") - self._base)

    def trespass(self) -> str:
        """Returns what was done outside the allowed folders, or ""."""
        if self._found:
            return "; ".join(self._found[:3])
        new = self._listing() - self._before
        return f"made {sorted(new)[:3]}" if new else ""

    def _listing(self) -> set[str]:
        return {item.name for item in self._folder.iterdir()} - {"data", "output"}

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active or "autoseg_lib.io.decode_worker" in str(arguments[1:2]):
            return  # compressed slices are unpacked by helper processes of our own
        if event == "open":
            path, mode, flags = arguments
            writes = (
                flags & (os.O_WRONLY | os.O_RDWR)
                if isinstance(flags, int)
                else any(c in str(mode) for c in "wax+")
            )
            if writes and isinstance(path, str | bytes | os.PathLike):
                self._judge("wrote", os.fsdecode(path))
        elif event in (
            "os.mkdir",
            "os.remove",
            "os.rmdir",
            "os.rename",
            "os.symlink",
            "os.link",
            "os.truncate",
        ):
            self._judge(event, os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else "")
        elif event in (
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "socket.connect",
            "pickle.find_class",
            "ctypes.dlopen",
        ):
            self._found.append(f"{event} {str(arguments)[:120]}")

    def _judge(self, what: str, path: str) -> None:
        full = os.path.realpath(path)
        if full != os.devnull and not full.startswith(self._allowed):
            self._found.append(f"{what} {full}")


def _resident(name: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main([(kind, int(start), int(stop)) for kind, start, stop in json.loads(sys.argv[1])], Path(sys.argv[2]))
