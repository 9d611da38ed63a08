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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.real_data import REPOSITORY

# A file may take 5 s of computing (worker.py); this is for one that waits for ever, on a computer that is busy besides.
_SILENCE_SECONDS = 120.0
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


Job = tuple[str, int, int]


def run(
    jobs: Sequence[Job], say: Callable[[str], None] = lambda _: None, end: float | None = None
) -> dict[str, Tally]:
    """Tries damaged files, kind after kind, in worker processes one after the other.

    Args:
        jobs: kind, first number and number after the last.
        say: called with a line for each fault.
        end: time.monotonic() at which to stop early.
    """
    tallies = {kind: Tally(kind) for kind, _, _ in jobs}
    left, deaths = list(jobs), 0
    while left and deaths < _MOST_DEATHS and (end is None or time.monotonic() < end):
        left = _run_worker(tallies, left, say, end)
        deaths += 1
    return tallies


def _run_worker(
    tallies: dict[str, Tally], jobs: list[Job], say: Callable[[str], None], end: float | None
) -> list[Job]:
    """Runs one worker until it is through or dies; returns what is left to do."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            "HOME": name,
            "TMPDIR": name,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", json.dumps(jobs), name],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        lines: queue.Queue[bytes | None] = queue.Queue()
        errors: deque[bytes | None] = deque(maxlen=40)
        threads = [
            threading.Thread(target=_pump, args=(process.stdout, lines.put), daemon=True),
            threading.Thread(target=_pump, args=(process.stderr, errors.append), daemon=True),
        ]
        for thread in threads:
            thread.start()
        left, fault, current = list(jobs), "", None
        while left and (end is None or time.monotonic() < end):
            try:
                line = lines.get(timeout=_START_SECONDS if current is None else _SILENCE_SECONDS)
            except queue.Empty:
                fault = "no answer (it hangs)"
                break
            if line is None:
                fault = "the process died"
                break
            event = json.loads(line)
            if "begin" in event:
                current = (event["kind"], event["begin"])
                continue
            current = None
            _add(tallies[event["kind"]], event, say)
            left = _after(left, event["kind"], event["done"])
        process.kill()
        code = process.wait()
        threads[1].join(5)
    if fault:
        kind, number = current or left[0][:2]
        text = b"".join(item for item in errors if item).decode("utf-8", "replace").strip()
        tallies[kind].faults.append((number, f"{fault} ({code}): {text[-600:]}"))
        say(f"FAULT {kind} {number}: {fault} ({code}): {text[-600:]}")
        left = _after(left, kind, number)
    return left


def _after(jobs: list[Job], kind: str, number: int) -> list[Job]:
    """Returns the jobs that are left when a file is done."""
    place = next(index for index, job in enumerate(jobs) if job[0] == kind)
    stop = jobs[place][2]
    rest = jobs[place + 1 :]
    return [(kind, number + 1, stop), *rest] if number + 1 < stop else rest


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
