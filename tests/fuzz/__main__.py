"""The long run: python -m tests.fuzz --files 20000 (see the package's description)."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.fuzz.runner import HEADER, Tally, run, save_file
from tests.fuzz.seeds import kinds
from tests.fuzz.targets import try_command, try_file

# Every network is built to open a model, which takes longest; text is quick, but there is less of it to get wrong.
_SHARES = {"dicom": 5, "png": 2, "tiff": 2, "nifti": 2, "nrrd": 2, "mha": 2, "safetensors": 1.5}


def main() -> int:
    """Runs the fuzzer, or one file of it; returns 1 where there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Tries damaged files.")
    parser.add_argument("--files", type=int, default=1000, help="how many files, all kinds together")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first file of each kind (to go on later)"
    )
    parser.add_argument("--kinds", default=",".join(kinds()), help="which kinds, with commas between")
    parser.add_argument("--workers", type=int, default=1, help="kinds tried at the same time")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time")
    parser.add_argument(
        "--replay", nargs=2, metavar=("KIND", "NUMBER"), help="one file again, with the traceback"
    )
    parser.add_argument(
        "--keep", type=Path, default=None, metavar="FOLDER", help="with --replay: keep the file there"
    )
    options = parser.parse_args()
    if options.replay:
        return _replay(options.replay[0], int(options.replay[1]), options.keep)
    chosen = options.kinds.split(",")
    total = sum(_SHARES.get(kind, 1) for kind in chosen)
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes

    def one_kind(kind: str) -> Tally:
        count = max(1, round(options.files * _SHARES.get(kind, 1) / total))
        jobs = [(kind, options.first, options.first + count)]
        return run(jobs, say=lambda line: print(line, file=sys.stderr, flush=True), end=end)[kind]

    print(HEADER)
    with ThreadPoolExecutor(options.workers) as pool:
        tallies = []
        for done in as_completed([pool.submit(one_kind, kind) for kind in chosen]):
            tallies.append(done.result())
            print(tallies[-1].line(), flush=True)
    faults = sum(len(tally.faults) for tally in tallies)
    print(f"{sum(tally.files for tally in tallies)} files, {faults} faults")
    return 1 if faults else 0


def _replay(kind: str, number: int, keep: Path | None) -> int:
    with tempfile.TemporaryDirectory() as name:
        path = save_file(kind, number, keep or Path(name) / "data")
        print(f"{path} ({path.stat().st_size} bytes)")
        print("read" if try_file(kind, path) else "refused")
        try_command(kind, path, Path(name) / "output")
    return 0


if __name__ == "__main__":
    sys.exit(main())
