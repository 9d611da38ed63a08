"""How long 300 pairs of PNG image and label take to read: this project, SimpleITK's reader, OpenCV and Pillow in a plain loop.

    python benchmarks/read_pictures.py [--pairs 300] [--rounds 3]

The pairs (512 × 512; images of 16 bits, labels of 8) are written to a temporary folder. The readers take turns, so that
caches favour none; each reading runs in a process of its own, so that the peak memory is its own. The loops only decode and
stack; this project also pairs by name, checks sizes and values, and says what it assumed. Goal: no slower than any, and a
peak memory below twice the pixels.
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

READERS = ("autoseg", "SimpleITK", "OpenCV", "Pillow")
SIZE = 512


def write_pairs(folder: Path, count: int) -> None:
    """Writes pairs of a noisy picture with a few bright shapes and their label."""
    import cv2

    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    for kind in ("images", "labels"):
        (folder / "train" / kind / "scan").mkdir(parents=True)
    for number in range(count):
        label = np.zeros((SIZE, SIZE), np.uint8)
        for value in (1, 2, 3):
            row, column = random.uniform(-0.5, 0.5, 2)
            label[(x - column) ** 2 + ((y - row) / 0.7) ** 2 < 0.04 * value] = value
        image = 1000 + 200.0 * label + random.normal(0, 15, label.shape)
        cv2.imwrite(str(folder / f"train/images/scan/s_{number:04d}.png"), image.astype(np.uint16))
        cv2.imwrite(str(folder / f"train/labels/scan/s_{number:04d}.png"), label)


def read(reader: str, folder: Path) -> dict[str, float]:
    """Reads all pairs once; returns seconds, the growth of the peak memory in MB, and a checksum."""
    load = _loader(reader, folder)
    before = peak_memory_mb()
    start, worked = time.perf_counter(), time.process_time()
    images, labels = load()
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    size = (images.nbytes + labels.nbytes) / 1e6
    return {
        "seconds": seconds,
        "cpu_seconds": worked,
        "peak_mb": peak_memory_mb() - before,
        "pixels_mb": size,
        "checksum": float(images.sum(dtype=np.float64)) + float((labels == 2).sum()),
    }


def peak_memory_mb() -> float:
    """Returns the peak memory of this process in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _loader(reader: str, folder: Path):  # type: ignore[no-untyped-def]
    if reader == "autoseg":
        from autoseg_lib.data.masks import load_case
        from autoseg_lib.data.pairing import pair
        from autoseg_lib.settings import TrainSettings

        def ours():  # type: ignore[no-untyped-def]
            (case,) = pair(TrainSettings(main_dir=str(folder))).cases
            scan, mask, _ = load_case(case)
            return scan.volume.array, mask.array

        return ours
    if reader == "SimpleITK":
        import SimpleITK as sitk

        def decode(path: Path) -> np.ndarray:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))

    elif reader == "OpenCV":
        import cv2

        def decode(path: Path) -> np.ndarray:
            return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

    else:
        from PIL import Image

        def decode(path: Path) -> np.ndarray:
            with Image.open(path) as picture:
                return np.array(picture)

    def loop():  # type: ignore[no-untyped-def]
        return tuple(
            np.stack([decode(path) for path in sorted((folder / "train" / kind / "scan").iterdir())])
            for kind in ("images", "labels")
        )

    return loop


def main() -> None:
    """Runs the comparison and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(read(options.one[0], Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pairs(folder, options.pairs)
        results: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
        for _ in range(options.rounds):
            for reader in READERS:
                command = [sys.executable, __file__, "--one", reader, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results[reader].append(json.loads(done.stdout))
    size = results["autoseg"][0]["pixels_mb"]
    print(f"{options.pairs} pairs of {SIZE} × {SIZE}, {size:.0f} MB of pixels, median of {options.rounds}")
    sums = {round(run["checksum"]) for runs in results.values() for run in runs}
    print(f"{'reader':<12} {'seconds':>8} {'CPU s':>8} {'peak MB':>8} {'peak / pixels':>14}")
    for reader, runs in results.items():
        seconds, worked, peak = (
            statistics.median(run[what] for run in runs) for what in ("seconds", "cpu_seconds", "peak_mb")
        )
        print(
            f"{reader:<12} {seconds:>8.2f} {worked:>8.2f} {peak:>8.0f} {peak / runs[0]['pixels_mb']:>14.2f}"
        )
    print("all readers gave the same pixels" if len(sums) == 1 else f"the pixels differ: {sums}")


if __name__ == "__main__":
    main()
