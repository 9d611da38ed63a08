"""How long the data check takes: 1000 CT slices of 512 × 512 with labels, each file read once.

Usage: python benchmarks/check_speed.py [DATA] [--slices 1000]

DATA is a folder with images/NAME.dcm and labels/NAME.png (default: chaos_ct_liver among the real scans). Its slices are
written again, with other noise and other identifiers, into a temporary folder until there are enough. Prints the time of
each step and the most memory used.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from autoseg_lib.data.doctor import examine as doctor  # noqa: E402
from autoseg_lib.data.doctor.context import Context  # noqa: E402
from autoseg_lib.data.doctor.facts import gather_facts, small_side  # noqa: E402
from autoseg_lib.data.doctor.table import CHECKS  # noqa: E402
from autoseg_lib.data.pairing import pair  # noqa: E402
from autoseg_lib.settings import TrainSettings, make_settings  # noqa: E402
from autoseg_lib.workflow.checking import check_study  # noqa: E402


def replicate(source: Path, folder: Path, slices: int) -> None:
    """Writes patients that differ from the original by noise until there are ``slices`` slices."""
    files = sorted((source / "images").iterdir())
    rng = np.random.default_rng(0)
    for number in range(slices):
        patient, original = divmod(number, len(files))
        place = f"patient_{patient:02d}"
        for kind in ("images", "labels"):
            (folder / "train" / kind / place).mkdir(parents=True, exist_ok=True)
        dataset = pydicom.dcmread(files[original])
        noise = rng.integers(-8, 9, dataset.pixel_array.shape)
        pixels = np.clip(dataset.pixel_array.astype(np.int32) + noise, 0, 65535)
        dataset.PixelData = pixels.astype(dataset.pixel_array.dtype).tobytes()
        dataset.PatientID = place
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
            if keyword in dataset:
                setattr(dataset, keyword, f"{str(getattr(dataset, keyword))[:50]}.{patient + 1}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / "train" / "images" / place / files[original].name)
        shutil.copyfile(
            source / "labels" / f"{files[original].stem}.png",
            folder / "train" / "labels" / place / f"{files[original].stem}.png",
        )


def measure(folder: Path) -> None:
    """Prints the time of each step, then of the check as a user sees it."""
    settings = make_settings(TrainSettings, {"main_dir": str(folder)})
    start = time.perf_counter()
    pairing = pair(settings)
    paired = time.perf_counter()
    side = small_side(sum(len(case.source.slice_names) for case in pairing.cases))
    facts = tuple(gather_facts(case, settings, side) for case in pairing.cases)
    read = time.perf_counter()
    context = Context(settings, pairing, facts, doctor.find_labels(settings, facts))
    times = {}
    for check in CHECKS:
        before = time.perf_counter()
        list(check.function(context))
        times[check.code] = time.perf_counter() - before
    slowest = sorted(times.items(), key=lambda item: -item[1])[:5]
    print(f"finding and pairing   {paired - start:6.1f} s")
    print(f"reading, facts        {read - paired:6.1f} s")
    print(f"all {len(CHECKS)} checks         {sum(times.values()):6.1f} s")
    print("  slowest: " + ", ".join(f"{code} {seconds:.1f} s" for code, seconds in slowest))
    del facts, context
    start, cpu = time.perf_counter(), time.process_time()
    report = check_study(settings).report
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    print(f"the whole check       {wall:6.1f} s ({used:.1f} s of one core)")
    print(report.summary)
    print("findings: " + (", ".join(sorted({f"{f.severity} {f.code}" for f in report.findings})) or "none"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most memory {peak:.0f} MB, {os.cpu_count()} cores")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--slices", type=int, default=1000)
    options = parser.parse_args()
    data = options.data
    if data is None:
        real = Path(os.environ.get("AUTOSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
        data = real / "chaos_ct_liver"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        replicate(data, folder, options.slices)
        measure(folder)


if __name__ == "__main__":
    main()
