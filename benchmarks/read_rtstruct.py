"""How long an RTSTRUCT of 20 ROIs on 200 slices of 512 × 512 takes to become pixels: this project, plastimatch and pyCERR.

    python benchmarks/read_rtstruct.py [--rois 20] [--slices 200] [--rounds 3] [--pycerr PYTHON]

The same file and the same grid for all. plastimatch is looked for on PATH. pyCERR (GPL, no dependency of this project) is
used from another Python, named by --pycerr or the environment variable PYCERR_PYTHON. The programs take turns, each
reading in a process of its own, so that the peak memory is its own. Times are from the file to all masks: for this project
and pyCERR without starting Python and without the images (pyCERR needs them and reads them before the clock starts); for
plastimatch the whole program, which writes one image of bits. The pixels of all are compared in the same run; the outlines
keep a little away from pixel centres, where plastimatch (32 bits) and pyCERR (edges belong to both sides) decide otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROWS = COLUMNS = 512
SPACING, BETWEEN, FIRST_Z = 0.9765625, 2.5, -310.25
ORIGIN = (-250.0, -250.0)
POINTS = 200
# In pixels; the rounding of 32 bits at 250 mm, some steps of computing on.
CLEARANCE = 3e-4


# --- the file ---------------------------------------------------------------------------------------------------------


def outlines(rois: int, slices: int) -> list[list[tuple[int, npt.NDArray[np.float64]]]]:
    """Returns for each ROI its contours as (slice, (points, 2) of x and y in mm); every fourth ROI has a hole."""
    random = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    found = []
    for roi in range(rois):
        centre = random.uniform(-60, 60, 2)
        size = random.uniform(8, 130) if roi else 200
        waves, phase = int(random.integers(2, 9)), random.uniform(0, 6)
        contours = []
        for index in range(slices):
            shrink = 0.4 + 0.6 * np.sin(np.pi * (index + 0.5) / slices)
            radius = size * shrink * (1 + 0.12 * np.cos(waves * angles + phase + index / 15))
            ring = np.column_stack([np.cos(angles), np.sin(angles) * 0.8])
            outline = centre + ring * radius[:, np.newaxis] + index * 0.05
            contours.append((index, cleared(outline)))
            if roi % 4 == 1:
                hole = centre + ring[::-1] * radius[::-1, np.newaxis] * 0.45 + index * 0.05
                contours.append((index, cleared(hole)))
        found.append(contours)
    return found


def cleared(outline: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns an outline in hundredths of a millimetre, moved until it passes through no pixel centre."""
    for step in range(200):
        points = np.round(outline + np.array([0.01, 0.03]) * step, 2)
        column, row = ((points - ORIGIN) / SPACING).T
        top, bottom = np.minimum(row, np.roll(row, -1)), np.maximum(row, np.roll(row, -1))
        count = (np.ceil(bottom) - np.ceil(top)).astype(int)
        edge = np.repeat(np.arange(len(row)), count)
        level = np.ceil(top)[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        share = (level - row[edge]) / (np.roll(row, -1) - row)[edge]
        crossing = column[edge] + share * (np.roll(column, -1) - column)[edge]
        apart = min(np.abs(value - np.round(value)).min(initial=1) for value in (crossing, row))
        if apart > CLEARANCE:
            break
    return points


def element(group: int, tag: int, value: bytes) -> bytes:
    """Returns one element in implicit VR little endian."""
    value += b" " * (len(value) % 2)
    return struct.pack("<HHI", group, tag, len(value)) + value


def sequence(group: int, tag: int, items: list[bytes]) -> bytes:
    """Returns a sequence of items in implicit VR little endian."""
    return element(
        group, tag, b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    )


def write_structures(path: Path, rois: int, slices: int) -> int:
    """Writes the structure set; returns its number of contours. pydicom would take minutes over the coordinates."""
    from tests.helpers.dicom import uid
    from tests.helpers.segments import write_rtstruct

    write_rtstruct(path, [(f"ROI {number:02d}", []) for number in range(1, rois + 1)], observations=False)
    count, items = 0, []
    for number, contours in enumerate(outlines(rois, slices), start=1):
        written = []
        for index, points in contours:
            z = FIRST_Z + BETWEEN * index
            text = "\\".join(f"{x:.2f}\\{y:.2f}\\{z:.2f}" for x, y in points)
            image = element(8, 0x1150, b"1.2.840.10008.5.1.4.1.1.2\0")
            image += element(8, 0x1155, (uid("image", 1, f"slice_{index + 1:03d}.dcm")).encode())
            written.append(
                sequence(0x3006, 0x16, [image])
                + element(0x3006, 0x42, b"CLOSED_PLANAR")
                + element(0x3006, 0x46, str(len(points)).encode())
                + element(0x3006, 0x50, text.encode())
            )
        count += len(written)
        items.append(sequence(0x3006, 0x40, written) + element(0x3006, 0x84, str(number).encode()))
    raw = path.read_bytes()
    empty = raw.rindex(struct.pack("<HH", 0x3006, 0x39))
    # pyCERR does not do without the observations.
    observed = [
        element(0x3006, 0x82, str(number).encode()) + element(0x3006, 0x84, str(number).encode())
        + element(0x3006, 0xA4, b"ORGAN") + element(0x3006, 0xA6, b"")
        for number in range(1, rois + 1)
    ]  # fmt: skip
    path.write_bytes(raw[:empty] + sequence(0x3006, 0x39, items) + sequence(0x3006, 0x80, observed))
    return count


def write_images(folder: Path, slices: int) -> None:
    """Writes empty CT slices; only pyCERR needs them."""
    from tests.helpers.dicom import write_series

    write_series(
        folder, np.zeros((slices, ROWS, COLUMNS), np.int16), origin=(*ORIGIN, FIRST_Z), step=(0, 0, BETWEEN),
        spacing=(SPACING, SPACING), modality="CT", RescaleSlope=1, RescaleIntercept=0, SliceThickness=BETWEEN,
        PatientPosition="HFS",
    )  # fmt: skip


# --- the readers ------------------------------------------------------------------------------------------------------


def digest(layer: npt.NDArray[np.bool_]) -> str:
    """Returns a short name of the pixels (slice, row, column) of one ROI."""
    return hashlib.sha256(np.packbits(layer).tobytes()).hexdigest()[:12]


def by_autoseg(structures: Path, slices: int) -> tuple[float, list[str]]:
    """Returns seconds and the pixels of each ROI."""
    from autoseg_lib.geometry import Geometry
    from autoseg_lib.io.segments import open_segments
    from tests.helpers.dicom import uid

    affine = np.array(
        [[0, 0, SPACING, ORIGIN[0]], [0, SPACING, 0, ORIGIN[1]], [BETWEEN, 0, 0, FIRST_Z], [0, 0, 0, 1]]
    )
    grid = Geometry((slices, ROWS, COLUMNS), affine, None, True, True, True)
    uids = [uid("image", 1, f"slice_{index + 1:03d}.dcm") for index in range(slices)]
    start, pause, pixels = time.perf_counter(), 0.0, []
    for _, layer in open_segments(structures).layers(grid, uids):
        looked = time.perf_counter()
        pixels.append(digest(layer))
        pause += time.perf_counter() - looked
    return time.perf_counter() - start - pause, pixels


# Runs in pyCERR's own Python, which does not know this project.
PYCERR = """
import hashlib, json, resource, sys, time
import numpy as np
import cerr.plan_container as pc
from cerr.contour import rasterseg as rs
def quiet(call):
    import contextlib, io
    with contextlib.redirect_stdout(io.StringIO()):
        return call()
plan = quiet(lambda: pc.loadDcmDir(sys.argv[1]))
start, pause, pixels = time.perf_counter(), 0.0, []
plan = quiet(lambda: pc.loadDcmDir(sys.argv[2], initplanC=plan))
for number in range(len(plan.structure)):
    mask = rs.getStrMask(number, plan)
    looked = time.perf_counter()
    one = np.ascontiguousarray(np.moveaxis(mask, 2, 0))
    pixels.append([hashlib.sha256(np.packbits(turned).tobytes()).hexdigest()[:12] for turned in (one, one[::-1])])
    pause += time.perf_counter() - looked
seconds = time.perf_counter() - start - pause
print("RESULT" + json.dumps([seconds, pixels, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def by_pycerr(python: str, structures: Path, images: Path) -> tuple[float, list[list[str]], float]:
    """Returns seconds, the pixels of each ROI (slices in both orders: pyCERR keeps its own), and the peak in MB."""
    found = subprocess.run(
        [python, "-c", PYCERR, str(images), str(structures)], check=True, capture_output=True, text=True
    )
    line = next(line for line in found.stdout.splitlines() if line.startswith("RESULT"))
    seconds, pixels, peak = json.loads(line.removeprefix("RESULT"))
    return seconds, pixels, peak


def by_plastimatch(structures: Path, images: Path, folder: Path, rois: int) -> tuple[float, list[str]]:
    """Returns seconds and the pixels of each ROI."""
    import SimpleITK as sitk

    out = folder / "plastimatch.mha"
    command = ["plastimatch", "convert", "--input", str(structures), "--fixed", str(images / "grid.mha")]
    command += ["--output-ss-img", str(out), "--xor-contours"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    bits = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    if bits.ndim == 3:
        pixels = [digest((bits >> number) & 1 > 0) for number in range(rois)]
    else:
        pixels = [digest((bits[..., number // 8] >> (number % 8)) & 1 > 0) for number in range(rois)]
    out.unlink()
    return seconds, pixels


def peak_memory_mb(children: bool = False) -> float:
    """Returns the peak memory of this process (or of its largest child) in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


# --- the comparison ---------------------------------------------------------------------------------------------------


def one_round(reader: str, folder: Path, arguments: argparse.Namespace) -> tuple[float, list[str], float]:
    """Runs one reader in a process of its own (plastimatch and pyCERR are programs of their own already)."""
    command = [sys.executable, __file__, "--one", reader, str(folder)]
    command += [
        "--rois",
        str(arguments.rois),
        "--slices",
        str(arguments.slices),
        "--pycerr",
        arguments.pycerr,
    ]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, pixels, peak = json.loads(answer.splitlines()[-1])
    return seconds, pixels, peak


def run_one(reader: str, folder: Path, arguments: argparse.Namespace) -> int:
    """The part that runs in a process of its own; prints JSON."""
    structures, images = folder / "rt.dcm", folder / "images"
    if reader == "autoseg":
        seconds, pixels = by_autoseg(structures, arguments.slices)
        print(json.dumps([seconds, pixels, peak_memory_mb()]))
    elif reader == "plastimatch":
        seconds, pixels = by_plastimatch(structures, folder, folder, arguments.rois)
        print(json.dumps([seconds, pixels, peak_memory_mb(children=True)]))
    else:
        seconds, both, peak = by_pycerr(arguments.pycerr, structures, images)
        print(json.dumps([seconds, both, peak]))
    return 0


def main() -> int:
    """Runs the comparison; exit code 1 if pixels differ or this project is slower than either of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=20)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--pycerr", default=os.environ.get("PYCERR_PYTHON", ""), help="a Python that has pyCERR"
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return run_one(arguments.one[0], Path(arguments.one[1]), arguments)
    readers = ["autoseg"]
    readers += ["plastimatch"] if shutil.which("plastimatch") else []
    readers += ["pyCERR"] if arguments.pycerr else []
    times: dict[str, list[float]] = {reader: [] for reader in readers}
    memory: dict[str, float] = dict.fromkeys(readers, 0.0)
    pixels: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = write_structures(folder / "rt.dcm", arguments.rois, arguments.slices)
        size = (folder / "rt.dcm").stat().st_size / 1e6
        if "pyCERR" in readers:
            write_images(folder / "images", arguments.slices)
        if "plastimatch" in readers:
            write_grid(folder / "grid.mha", arguments.slices)
        for _ in range(arguments.rounds):
            for reader in readers:
                seconds, found, peak = one_round(reader, folder, arguments)
                times[reader].append(seconds)
                memory[reader] = max(memory[reader], peak)
                pixels[reader] = found
    print(
        f"{arguments.rois} ROIs, {count} contours of {POINTS} points on {arguments.slices} slices of {ROWS} × {COLUMNS} "
        f"({size:.0f} MB); median of {arguments.rounds} rounds"
    )
    ours = statistics.median(times["autoseg"])
    print(f"{'reader':<14}{'seconds':>9}{'of autoseg':>12}{'peak MB':>9}  same pixels as autoseg")
    agree = True
    for reader in ("autoseg", "plastimatch", "pyCERR"):
        if reader not in readers:
            print(f"{reader:<14} not installed")
            continue
        seconds = statistics.median(times[reader])
        same = [mine in theirs for mine, theirs in zip(pixels["autoseg"], pixels[reader], strict=True)]
        agree &= all(same)
        print(
            f"{reader:<14}{seconds:>9.2f}{seconds / ours:>11.1f}x{memory[reader]:>9.0f}  {sum(same)} of {len(same)} ROIs"
        )
    fastest = all(statistics.median(times[reader]) >= ours for reader in readers)
    return 0 if agree and fastest else 1


def write_grid(path: Path, slices: int) -> None:
    """Writes an empty image whose header tells plastimatch the grid."""
    import SimpleITK as sitk

    image = sitk.Image(COLUMNS, ROWS, slices, sitk.sitkUInt8)
    image.SetSpacing((SPACING, SPACING, BETWEEN))
    image.SetOrigin((*ORIGIN, FIRST_Z))
    sitk.WriteImage(image, str(path))


if __name__ == "__main__":
    raise SystemExit(main())
