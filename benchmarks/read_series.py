"""How long a 500-slice CT series takes to read: this project, SimpleITK's ImageSeriesReader, and a plain pydicom loop.

    python benchmarks/read_series.py [--slices 500] [--rounds 3]

The series is written to a temporary folder; the readers take turns, so that caches favour none. Each reading runs in a
process of its own, so that the peak memory is its own. Times include finding and sorting the slices.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

READERS = ("autoseg", "SimpleITK", "pydicom")


def write_example(folder: Path, slices: int) -> None:
    """Writes ``slices`` CT slices of 512 × 512 in shuffled file order."""
    from tests.helpers.dicom import write_slice

    generator = np.random.default_rng(0)
    names = generator.permutation(slices)
    for index in range(slices):
        pixels = generator.integers(0, 3000, (512, 512)).astype(np.int16)
        write_slice(
            folder / f"IM{names[index]:04d}.dcm", pixels, position=(-180, -180, index * 1.25), spacing=(0.7, 0.7),
            modality="CT", number=index + 1, RescaleSlope=1, RescaleIntercept=-1024, SliceThickness=1.25,
        )  # fmt: skip


def read(reader: str, folder: Path) -> tuple[float, int]:
    """Returns (seconds, sum of all values) of one reading."""
    if reader == "autoseg":
        from autoseg_lib.data.discover import discover
        from autoseg_lib.io.dicom_series import read_series

        start = time.perf_counter()
        source = discover(folder).sources[0]
        array = read_series(source.series).array if source.series else np.zeros(1)
    elif reader == "SimpleITK":
        import SimpleITK as sitk

        start = time.perf_counter()
        series = sitk.ImageSeriesReader()
        series.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        image = series.Execute()
        array = sitk.GetArrayViewFromImage(image)
    else:
        import pydicom

        start = time.perf_counter()
        datasets = [pydicom.dcmread(path) for path in folder.iterdir()]
        datasets.sort(key=lambda d: float(d.ImagePositionPatient[2]))
        array = np.stack([d.pixel_array * int(d.RescaleSlope) + int(d.RescaleIntercept) for d in datasets])
    seconds = time.perf_counter() - start
    return seconds, int(array.sum(dtype=np.int64))


def peak_memory_mb() -> float:
    """Returns the peak memory of this process in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def main() -> int:
    """Runs the comparison; exit code 1 if this project's reader is slower than SimpleITK's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        seconds, total = read(arguments.one[0], Path(arguments.one[1]))
        print(json.dumps([seconds, total, peak_memory_mb()]))
        return 0
    times: dict[str, list[float]] = {reader: [] for reader in READERS}
    sums: set[int] = set()
    memory: dict[str, float] = dict.fromkeys(READERS, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        write_example(Path(folder), arguments.slices)
        for _ in range(arguments.rounds + 1):
            for reader in READERS:
                command = [sys.executable, __file__, "--one", reader, folder]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds, total, peak = json.loads(answer.splitlines()[-1])
                times[reader].append(seconds)
                sums.add(total)
                memory[reader] = max(memory[reader], peak)
    print(f"{arguments.slices} slices of 512 × 512, median of {arguments.rounds} rounds after one to warm up")
    reference = statistics.median(times["SimpleITK"][1:])
    print(f"{'reader':<12}{'seconds':>9}{'of SimpleITK':>14}{'peak MB':>9}")
    for reader in READERS:
        seconds = statistics.median(times[reader][1:])
        print(f"{reader:<12}{seconds:>9.2f}{seconds / reference:>13.0%} {memory[reader]:>8.0f}")
    print("all readers gave the same values" if len(sums) == 1 else "THE READERS DISAGREE")
    return 0 if len(sums) == 1 and statistics.median(times["autoseg"][1:]) <= reference else 1


if __name__ == "__main__":
    raise SystemExit(main())
