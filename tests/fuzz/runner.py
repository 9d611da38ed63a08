"""Starts the workers, notices when one dies or hangs, and adds up what they found."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.real_data import REPOSITORY

# A file may take 5 s of computing (worker.py); this is for one that waits for ever, on a computer that is busy besides.
_SILENCE_SECONDS = 30.0
_START_SECONDS = 180.0
# A worker that dies again and again is a finding in itself; its kind is given up.
_MOST_DEATHS = 25


@dataclass
class Tally:
    """What became of the files of one kind.

    Attributes:
        kind: which kind.
        read: files that were read all the same.
        refused: files refused with a sentence.
        faults: (number, what happened).
        seconds: the longest time.
        bytes: the most memory.
    """

    kind: str
    read: int = 0
    refused: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0

    @property
    def files(self) -> int:
        """How many files were tried."""
        return self.read + self.refused + len(self.faults)

    def line(self) -> str:
        """One line of the table."""
        return (
            f"{self.kind:<12}{self.files:>8}{self.read:>8}{self.refused:>9}{len(self.faults):>8}"
            f"{self.seconds:>10.2f} s{self.bytes / 1e6:>9.0f} MB"
        )


HEADER = f"{'kind':<12}{'files':>8}{'read':>8}{'refused':>9}{'faults':>8}{'longest':>12}{'memory':>12}"


def run_kind(
    kind: str, start: int, count: int, say: Callable[[str], None] = lambda _: None, end: float | None = None
) -> Tally:
    """Tries ``count`` damaged files of a kind, from number ``start`` on.

    Args:
        kind: which kind.
        start: first number.
        count: how many.
        say: called with a line for each fault.
        end: time.monotonic() at which to stop early.
    """
    tally = Tally(kind)
    number, deaths = start, 0
    while number < start + count and deaths < _MOST_DEATHS:
        number, died = _run_worker(tally, number, start + count, say, end)
        deaths += died
        if end is not None and time.monotonic() > end:
            break
    return tally


def _run_worker(
    tally: Tally, start: int, stop: int, say: Callable[[str], None], end: float | None
) -> tuple[int, bool]:
    """Runs one worker until it is through or dies; returns the next number, and whether it died."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        command = [sys.executable, "-m", "tests.fuzz.worker", tally.kind, str(start), str(stop), name]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HOME": name,
            "PYTHONFAULTHANDLER": "1",
            "TMPDIR": name,
        }
        environment.pop("PYTHONPATH", None)
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        lines: queue.Queue[bytes | None] = queue.Queue()
        errors: list[bytes] = []
        threads = [
            threading.Thread(target=_pump, args=(process.stdout, lines.put), daemon=True),
            threading.Thread(target=_pump, args=(process.stderr, errors.append), daemon=True),
        ]
        for thread in threads:
            thread.start()
        current: int | None = None
        following = start
        fault = ""
        try:
            while True:
                try:
                    line = lines.get(timeout=_START_SECONDS if current is None else _SILENCE_SECONDS)
                except queue.Empty:
                    fault = "no answer (it hangs)"
                    break
                if line is None:
                    break
                event = json.loads(line)
                if "begin" in event:
                    current = int(event["begin"])
                    continue
                _add(tally, event, say)
                following = int(event["done"]) + 1
                if end is not None and time.monotonic() > end:
                    return following, False
        finally:
            if fault or (process.poll() is None and following < stop):
                process.kill()
            process.wait()
            threads[1].join(5)
    if following < stop:
        text = b"".join(item for item in errors if item).decode("utf-8", "replace").strip()
        fault = fault or f"the process died ({process.returncode}): {text[-600:]}"
        broken = following if current is None else current
        tally.faults.append((broken, fault))
        say(f"FAULT {tally.kind} {broken}: {fault}")
        return broken + 1, True
    return following, False


def _add(tally: Tally, event: dict[str, Any], say: Callable[[str], None]) -> None:
    tally.seconds = max(tally.seconds, event["seconds"])
    tally.bytes = max(tally.bytes, event["bytes"])
    if event["fault"]:
        tally.faults.append((event["done"], event["fault"]))
        say(f"FAULT {tally.kind} {event['done']}: {event['fault']}")
    elif event["read"]:
        tally.read += 1
    else:
        tally.refused += 1


def _pump(stream: Any, put: Callable[[Any], None]) -> None:
    for line in stream:
        put(line)
    put(None)


def save_file(kind: str, number: int, folder: Path) -> Path:
    """Writes damaged file ``number`` of a kind into a folder and returns its path."""
    from tests.fuzz.mutate import mutate
    from tests.fuzz.seeds import seeds_of
    from tests.fuzz.targets import FILE_NAMES, prepare

    folder.mkdir(parents=True, exist_ok=True)
    prepare(kind, folder)
    path = folder / FILE_NAMES[kind]
    path.write_bytes(mutate(kind, number, seeds_of(kind)))
    return path
