"""Small files that speak of, or hide, enormous ones; and things in folders that are no plain files."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from autoseg_lib import cli
from autoseg_lib.data.discover import discover
from autoseg_lib.data.manifest import read_manifest
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import AutosegError, DataError, SettingsError
from autoseg_lib.io import nifti, raster, volume_files
from autoseg_lib.io.files import safe_name
from autoseg_lib.io.limits import MOST_PIXELS, size_text
from autoseg_lib.settings import TrainSettings, make_settings, parse_assignments, read_settings_file
from tests.helpers.dicom import write_series
from tests.helpers.real_data import REPOSITORY

# What reading such a file may take at most; each of them would take gigabytes if it were believed.
MOST_BYTES = 100_000_000


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path: Path, rows: int, columns: int, depth: int = 8, colour: int = 0) -> Path:
    """A PNG with a few bytes of pixels that says it is of any size."""
    header = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def npy(path: Path, shape: str, kind: str = "<f8") -> Path:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\0" * 500)
    return path


def nifti_of(path: Path, sizes: tuple[int, int, int], content: bytes, compressed: bool) -> Path:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *sizes, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[344:348] = b"n+1\0"
    whole = bytes(header) + content
    path.write_bytes(gzip.compress(whole, 9) if compressed else whole)
    return path


def mha(path: Path, sizes: str, *lines: str, data: str = "LOCAL", content: bytes = b"\0" * 500) -> Path:
    head = ["ObjectType = Image", "NDims = 3", "BinaryData = True", *lines, f"DimSize = {sizes}"]
    text = "\n".join([*head, "ElementType = MET_DOUBLE", f"ElementDataFile = {data}", ""])
    path.write_bytes(text.encode() + (content if data == "LOCAL" else b""))
    return path


def nrrd(path: Path, sizes: str, encoding: str = "raw", *lines: str, content: bytes = b"\0" * 500) -> Path:
    head = [
        "NRRD0004",
        "type: double",
        "dimension: 3",
        f"sizes: {sizes}",
        f"encoding: {encoding}",
        "endian: little",
    ]
    path.write_bytes("\n".join([*head, *lines, "", ""]).encode() + content)
    return path


def tiff_bomb(path: Path) -> Path:
    """A TIFF of 16 × 16 pixels whose compressed strip unpacks to 100 MB."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((16, 16), np.uint8), compression="zlib")
    data = bytearray(stream.getvalue())
    packed = zlib.compress(bytes(100_000_000), 9)
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        tags = tiff.pages.first.tags
        places = {name: tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")}
        widths = {name: "<I" if tags[name].dtype == 4 else "<H" for name in places}
    assert set(widths.values()) == {"<I"}
    struct.pack_into("<I", data, places["StripOffsets"], len(data))
    struct.pack_into("<I", data, places["StripByteCounts"], len(packed))
    path.write_bytes(bytes(data) + packed)
    return path


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "png, more than it can hold": (
        lambda p: png(p / "a.png", 8000, 8000),
        r"announces 8000 × 8000 pixels \(64 MB\), but the file holds only \d+ bytes",
    ),
    "png, larger than any": (lambda p: png(p / "a.png", 60_000, 60_000), r"found 60000 × 60000 pixels"),
    "png, 16-bit colours": (lambda p: png(p / "a.png", 8000, 8000, 16, 6), r"announces 8000 × 8000 pixels \(512 MB\)"),
    "npy": (lambda p: npy(p / "a.npy", "(100000, 100000)"), r"announces 100000 × 100000 values \(80 GB\)"),
    "npy, long texts": (lambda p: npy(p / "a.npy", "(5, 5)", "<U90000000"), r"announces 5 × 5 values \(9.0 GB\)"),
    "nifti": (
        lambda p: nifti_of(p / "a.nii", (30000, 30000, 30000), b"", False),
        r"the file ends early \(27000000000000 bytes are missing\)",
    ),
    "nifti, compressed": (
        lambda p: nifti_of(p / "a.nii.gz", (30000, 30000, 30000), bytes(1000), True),
        r"announces 30000 × 30000 × 30000 voxels \(27 TB\), but the file holds only \d+ bytes",
    ),
    "nrrd": (lambda p: nrrd(p / "a.nrrd", "30000 30000 30000"), r"announces 30000 × 30000 × 30000 voxels \(216 TB\)"),
    "nrrd, compressed": (
        lambda p: nrrd(p / "a.nrrd", "3000 3000 3000", "gzip", content=gzip.compress(b"1")),
        r"announces 3000 × 3000 × 3000 voxels \(216 GB\)",
    ),
    "nrrd, a line without end": (
        lambda p: nrrd(p / "a.nrrd", "2 2 2", "raw", f"kinds: {'(' * 50_000}"),
        r"its header is damaged: '\(+' is no value for 'kinds'",
    ),
    "mha": (lambda p: mha(p / "a.mha", "30000 30000 30000"), r"announces 30000 × 30000 × 30000 voxels \(216 TB\)"),
    "mha, packed pixels longer than the file": (
        lambda p: mha(p / "a.mha", "2 2 2", "CompressedData = True", "CompressedDataSize = 9000000000"),
        r"the file ends early \(at least 8999\d+ bytes are missing\)",
    ),
    "mha, LIST misspelt": (
        lambda p: mha(p / "a.mhd", "2 2 2", data="LIST" * 50),
        r"its header is damaged: 'LISTLIST.*' is no value for 'elementdatafile'",
    ),
    "tiff, unpacks to more": (
        lambda p: tiff_bomb(p / "a.tif"),
        r"its pixels unpack to more than its header announces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    make, message = BOMBS[name]
    path = make(tmp_path)
    read = volume_files.read_volume_file if volume_files.is_volume_file(path) else raster.read_image
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_compressed_nifti_is_unpacked_no_further_than_it_announces(tmp_path: Path) -> None:
    """2 × 2 × 2 voxels, and behind them a hundred megabytes of zeros in a tenth of one."""
    path = nifti_of(tmp_path / "a.nii.gz", (2, 2, 2), bytes(range(8)) + bytes(100_000_000), True)
    tracemalloc.start()
    array, _ = nifti.read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.ravel().tolist() == list(range(8))
    assert peak < 20_000_000


def test_the_widest_radiograph_is_read(tmp_path: Path) -> None:
    assert MOST_PIXELS > 3000 * 9000  # a stitched spine
    Image.new("L", (9000, 3000), 7).save(tmp_path / "a.png")
    assert raster.read_image(tmp_path / "a.png").shape == (3000, 9000)


def test_foreign_formats_under_a_picture_name(tmp_path: Path) -> None:
    """Pillow would start another program for this one."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(DataError, match=r"image 'a\.png': it cannot be read as a picture"):
        raster.read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 bytes"), (1200, "1.2 kB"), (45_600_000, "46 MB"), (2.16e14, "216 TB")]
)
def test_sizes_in_words(count: float, text: str) -> None:
    assert size_text(count) == text


# --- headers that point elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["/etc/hostname", "../secret.raw", "sub/../../secret.raw", "C:\\secret.raw", "..\\x.raw"]
)
@pytest.mark.parametrize("kind", ["mhd", "nhdr"])
def test_pixels_outside_the_folder_are_not_opened(tmp_path: Path, kind: str, place: str) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.raw").write_bytes(bytes(64))
    path = folder / f"a.{kind}"
    if kind == "mhd":
        mha(path, "2 2 2", data=place)
    else:
        nrrd(path, "2 2 2", "raw", f"data file: {place}", content=b"")
    with pytest.raises(DataError, match="outside its own folder"):
        volume_files.read_volume_file(path)
    with pytest.raises(DataError):
        volume_files.check_volume_header(path)


def test_pixels_in_the_folder_are_read(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    for name in ("a.mhd", "b.nhdr"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert volume_files.read_volume_file(tmp_path / name).array.ravel().tolist() == list(range(24))


# --- settings ---------------------------------------------------------------------------------------------------------

BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BILLION,
        "epochs: 2024-13-45",
        "epochs: " + "[" * 5_000,
        "!!python/object/apply:os.system ['true']",
        "epochs: " + "9" * 5000,
    ],
    ids=["aliases", "no such date", "brackets", "code", "digits"],
)
def test_settings_files_that_harm(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        SettingsError, match=r"settings file 's.yaml': it is not valid YAML.*Write one `name: value` a line"
    ):
        read_settings_file(path)
    with pytest.raises(SettingsError, match="takes name=value"):
        parse_assignments([f"epochs={text.replace('epochs: ', '')}"])


def test_long_values_make_short_messages() -> None:
    with pytest.raises(SettingsError) as told:
        make_settings(TrainSettings, {"epochs": "x" * 100_000, "y" * 100_000: 1})
    assert len(str(told.value)) < 1000


# --- names and things in folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("liver_1", "liver_1"),
        ("Müller 山田", "Müller 山田"),
        ("../../x", "_.._x"),
        ("C:\\x", "C__x"),
        ("a\nb\x1b[31mc", "a_b_[31mc"),
        ("x\u202egnp.exe", "x_gnp.exe"),
        ("caf\udce9", "caf_"),
        ("NUL", "NUL_"),
        ("com1.nii", "com1.nii_"),
        (" . ", "scan"),
        ("", "scan"),
        ("x" * 300, "x" * 100),
        ("腰椎磁共振扫描" * 20, ("腰椎磁共振扫描" * 20)[:60]),  # three bytes a letter
        ("xx" + "한" * 99, "xx" + "한" * 59),  # 179 bytes, not a letter in half
        ("𝄞" * 90, "𝄞" * 45),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_manifest_names_stay_in_the_run_folder(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("image,case\na.png,../../evil\n", encoding="utf-8")
    assert [row.case for row in read_manifest(tmp_path / "m.csv")] == ["_.._evil"]
    assert [source.name for source in discover(tmp_path / "m.csv").sources] == ["_.._evil"]


def test_file_names_never_come_from_headers(tmp_path: Path) -> None:
    hostile = {
        "PatientID": "../../x",
        "SeriesDescription": "../../y",
        "StudyID": "/etc/z",
        "ProtocolName": "..\\q",
    }
    write_series(tmp_path / "scan", np.zeros((3, 8, 8), np.int16), **hostile)
    [source] = discover(tmp_path).sources
    assert source.name == "scan"
    assert source.slice_names == ("slice_001", "slice_002", "slice_003")


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes or such names in folders")


@posix
def test_pipes_and_devices_in_a_folder_are_passed_by(tmp_path: Path) -> None:
    """Opening a pipe waits for ever; in a process of its own, so that a failure does not hang the tests."""
    write_series(tmp_path / "scan", np.zeros((2, 8, 8), np.int16))
    for name in ("pipe.dcm", "pipe.png", "pipe.nii.gz", "pipe"):
        os.mkfifo(tmp_path / "scan" / name)
    (tmp_path / "scan" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "scan" / "loop").symlink_to(tmp_path)
    (tmp_path / "scan" / "nowhere.dcm").symlink_to(tmp_path / "missing")
    mha(tmp_path / "scan" / "b.mhd", "2 2 2", data="pipe")
    (tmp_path / "m.csv").write_text("image\nscan/pipe.dcm\n", encoding="utf-8")
    places = [tmp_path, tmp_path / "m.csv", tmp_path / "scan" / "pipe.png", tmp_path / "scan" / "b.mhd"]
    program = (
        "import sys; from autoseg_lib.cli import main; print([main(['check', p]) for p in sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, places)],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


@posix
def test_names_that_are_no_text_or_hold_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scan"
    paths = write_series(folder, np.zeros((3, 8, 8), np.int16))
    for path, name in zip(paths, (b"caf\xe9.dcm", b"two\nlines.dcm", b"\x1b[31mred.dcm"), strict=True):
        path.rename(folder / os.fsdecode(name))
    [source] = discover(tmp_path).sources
    assert load_scan(source).volume.array.shape == (3, 8, 8)
    assert source.slice_names == ("slice_0001", "slice_0002", "slice_0003")
    # The lines that name the files are written all the same, and do not steer the terminal.
    assert cli.main(["check", str(tmp_path)]) == 0
    assert cli.main(["check", str(tmp_path), "--json"]) == 0
    paths[0].parent.joinpath("\x1b[31mbroken.dcm").write_bytes(b"\0" * 300)
    assert cli.main(["check", str(tmp_path)]) in (0, 1)
    said = "".join(capsys.readouterr())
    assert "broken.dcm" in said
    assert "\x1b" not in said


@posix
def test_masks_with_such_names_are_measured(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in (b"caf\xe9.png", b"two\nlines.png", b"=1+1.png", b"<b>.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(masks / os.fsdecode(name))
    assert cli.main(["measure", str(masks), "--output", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "measurements.csv").read_text(encoding="utf-8")
    assert "'=1+1" in table
    assert not any(line.startswith(("=", "+", "-", "@")) for line in table.splitlines())


def test_a_refusal_is_always_an_autoseg_error(tmp_path: Path) -> None:
    for suffix in (*raster.IMAGE_SUFFIXES, *volume_files.VOLUME_SUFFIXES, ".dcm"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"\0" * 300)
        with pytest.raises(AutosegError, match=r"'a\."):
            load_scan(discover(path).sources[0])
