"""How long a 1000-slice CT series takes to read: this project, SimpleITK's ImageSeriesReader, and a plain pydicom loop.

    python benchmarks/read_series.py [--slices 1000] [--rounds 3] [--kinds plain,jpeg-ls,jpeg-2000,rle]

The series is written to a temporary folder, once uncompressed and once in each compression; the readers take turns, so
that caches favour none. Each reading runs in a process of its own, so that the peak memory is its own. Times include
finding and sorting the slices; CPU seconds, helpers included, say what is spent where other work runs beside it. Goal: no
slower than either, and a peak memory below twice the volume.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

READERS = ("autoseg", "SimpleITK", "pydicom")
SYNTAXES = {
    "plain": "",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
    "rle": "1.2.840.10008.1.2.5",
}
SIZE = 512
# Different pictures of a compressed series; packing a thousand would take longer than the comparison.
PICTURES = 40


def phantom(count: int) -> np.ndarray:
    """Returns CT-like slices (count, 512, 512): a body with organs in air, and noise as a scanner's."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    slices = np.zeros((count, SIZE, SIZE), np.int16)
    for index in range(count):
        shift = 0.1 * np.sin(index / 7)
        picture = np.where((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1, 1040.0, 20.0)
        for column, row, radius, value in (
            (-0.3, 0.1, 0.25, 1100),
            (0.35, -0.1, 0.2, 1070),
            (0, 0.4, 0.1, 1800),
        ):
            picture[(x - column - shift) ** 2 + (y - row) ** 2 < radius**2] = value
        slices[index] = picture + generator.normal(0, 12, picture.shape)
    return slices.clip(0, 4095)


def write_example(folder: Path, slices: int, kind: str) -> None:
    """Writes ``slices`` CT slices of 512 × 512 in shuffled file order."""
    from pydicom import dcmread
    from pydicom.uid import UID

    from tests.helpers.dicom import uid, write_slice

    names = np.random.default_rng(1).permutation(slices)
    pictures = phantom(min(PICTURES, slices))
    packed = []
    for pixels in pictures:
        path = write_slice(
            folder / "picture.dcm", pixels, spacing=(0.7, 0.7), modality="CT", RescaleSlope=1, RescaleIntercept=-1024,
            SliceThickness=1.25,
        )  # fmt: skip
        dataset = dcmread(path)
        if SYNTAXES[kind]:
            dataset.compress(SYNTAXES[kind])
        packed.append(dataset)
    (folder / "picture.dcm").unlink()
    for index in range(slices):
        dataset = packed[index % len(packed)]
        dataset.ImagePositionPatient = [-180, -180, index * 1.25]
        dataset.InstanceNumber = index + 1
        dataset.SOPInstanceUID = uid("image", index)
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
        dataset.save_as(folder / f"IM{names[index]:04d}.dcm")


def load(reader: str) -> None:
    """Imports what a reader needs, which takes a program's time once and is none of reading."""
    modules = {"autoseg": "autoseg_lib.data.discover", "SimpleITK": "SimpleITK", "pydicom": "pydicom"}
    importlib.import_module(modules[reader])


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


def peak_memory_mb() -> tuple[float, float]:
    """Returns the peak memory in MB of this process and of its largest helper; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0, 0.0
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit


def compare(folder: Path, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]], set[int]]:
    """Returns seconds, (peak MB, peak MB of a helper, CPU seconds) by reader, and the sums they found."""
    times: dict[str, list[float]] = {reader: [] for reader in READERS}
    memory: dict[str, list[float]] = {reader: [0.0, 0.0, math.inf] for reader in READERS}
    sums: set[int] = set()
    for _ in range(rounds):
        for reader in READERS:
            command = [sys.executable, __file__, "--one", reader, str(folder)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, total, own, helper, cpu = json.loads(answer.splitlines()[-1])
            times[reader].append(seconds)
            sums.add(total)
            most = memory[reader]
            memory[reader] = [max(most[0], own), max(most[1], helper), min(most[2], cpu)]
    return times, memory, sums


def main() -> int:
    """Runs the comparison; exit code 1 if this project's reader is slower than another or takes too much memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(SYNTAXES))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        load(arguments.one[0])
        before = sum(os.times()[:2])
        seconds, total = read(arguments.one[0], Path(arguments.one[1]))
        spent = os.times()
        cpu = spent.user + spent.system + spent.children_user + spent.children_system - before
        print(json.dumps([seconds, total, *peak_memory_mb(), cpu]))
        return 0
    volume_mb = arguments.slices * SIZE * SIZE * 2 / 1024**2
    print(
        f"{arguments.slices} slices of {SIZE} × {SIZE}, {volume_mb:.0f} MB, median of {arguments.rounds} rounds"
    )
    print(
        f"{'series':<11}{'reader':<11}{'seconds':>8}{'of SimpleITK':>14}{'CPU s':>8}{'peak MB':>9}{'each helper MB':>16}"
    )
    good = True
    for kind in arguments.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            write_example(Path(folder), arguments.slices, kind)
            times, memory, sums = compare(Path(folder), arguments.rounds)
        medians = {reader: statistics.median(times[reader]) for reader in READERS}
        for reader in READERS:
            share = medians[reader] / medians["SimpleITK"]
            own, helper, cpu = memory[reader]
            print(
                f"{kind:<11}{reader:<11}{medians[reader]:>8.2f}{share:>13.0%} {cpu:>8.2f}{own:>9.0f}{helper:>16.0f}",
                flush=True,
            )
        if len(sums) > 1:
            print("THE READERS DISAGREE")
        slower = medians["autoseg"] > min(medians["SimpleITK"], medians["pydicom"])
        good = good and len(sums) == 1 and not slower and memory["autoseg"][0] < 2 * volume_mb
    print("goal met" if good else "goal not met")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
