"""The short form of the fuzzer: a few hundred damaged files of every kind, the same ones each time (see tests/fuzz)."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fuzz.mutate import mutate
from tests.fuzz.runner import run
from tests.fuzz.seeds import kinds, seeds_of

# Models need torch, which takes long to import: fewer files, in a process beside the others.
SLOW = ("safetensors",)
FILES, SLOW_FILES = 25, 16


@pytest.mark.skipif(
    sys.platform == "win32", reason="limits on memory are POSIX; damaged files are the same there"
)
def test_damaged_files_are_read_or_refused_in_words() -> None:
    quick = [(kind, 0, FILES) for kind in kinds() if kind not in SLOW]
    slow = [(kind, 0, SLOW_FILES) for kind in SLOW]
    with ThreadPoolExecutor(2) as pool:
        tallies = {kind: tally for found in pool.map(run, (quick, slow)) for kind, tally in found.items()}
    assert set(tallies) == set(kinds())
    faults = [f"{tally.kind} {number}: {text}" for tally in tallies.values() for number, text in tally.faults]
    assert not faults, "\n".join(["replay with: python -m tests.fuzz --replay KIND NUMBER", *faults])
    assert sum(tally.refused for tally in tallies.values()) > 100
    # Something must get through the front door, or the fuzzer tries nothing but "unknown format".
    assert all(tally.files >= SLOW_FILES for tally in tallies.values())
    assert sum(tally.read for tally in tallies.values()) > 50


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind not in SLOW])
def test_a_number_always_means_the_same_file(kind: str) -> None:
    seeds = seeds_of(kind)
    assert mutate(kind, 7, seeds) == mutate(kind, 7, list(seeds))
    assert len({mutate(kind, number, seeds) for number in range(40)}) > 25
