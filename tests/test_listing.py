"""What `autoseg check` lists: good scans with a tick, damaged files with the reason, and what a training folder is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg_lib.data.discover import describe_source, discover
from autoseg_lib.errors import DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.nifti import write_nifti
from autoseg_lib.io.raster import picture_size, write_mask_png
from autoseg_lib.workflow.listing import holds_training_data, list_scans


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.eye(3))
    return stream.getvalue()


def npy(array: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def cut_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "PNG")
    return stream.getvalue()[:20]


def cut_tif() -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((4, 8, 8), np.uint8))
    return stream.getvalue()[:60]


JUNK = [
    ("a.npy", npz(), "found an archive of arrays, expected one array"),
    ("a.npy", npy(3.0), r"found the shape \(\), expected \(rows, columns\)"),
    ("a.npy", npy(np.ones((0, 5))), r"found the shape \(0, 5\), expected \(rows, columns\)\. Choose"),
    ("a.npy", npy(np.array([{}], dtype=object)), "found Python objects instead of numbers"),
    ("a.npy", b"", r"the file is empty \(0 bytes\)"),
    ("a.tif", b"hello world this is text", "it cannot be read as a picture"),
    ("a.tif", cut_tif(), "it cannot be read as a picture"),
    ("a.png", cut_png(), "it cannot be read as a picture"),
    ("a.nii.gz", b"junk", "found 4 bytes, which is no NIfTI file"),
    ("a.nrrd", b"NRRD0004\ntype: short\n", "it cannot be read as NRRD header"),
    ("a.mha", b"\0" * 10, r"it cannot be read as MetaImage header \(unknown format\)\. Choose"),
]


@pytest.mark.parametrize(("name", "content", "reason"), JUNK)
def test_files_that_cannot_be_read_get_no_tick(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"no scan in it can be read: {name}: {reason}"):
        list_scans(tmp_path)
    write_mask_png(tmp_path / "good.png", np.zeros((5, 6), np.uint8))
    listing = list_scans(tmp_path)
    assert [source.name for source in listing.found.sources] == ["good"]
    (damaged,) = listing.found.skipped
    assert (damaged.path.name, damaged.serious) == (name, True)
    assert sum("✔" in line for line in listing.lines()) == 1
    assert any(line.startswith(f"  -  {name}: ") for line in listing.lines())


def test_one_damaged_slice_makes_its_scan_unusable(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_mask_png(tmp_path / "scan" / f"{number}.png", np.zeros((5, 6), np.uint8))
    write_mask_png(tmp_path / "good.png", np.zeros((5, 6), np.uint8))
    (tmp_path / "scan" / "2.png").write_bytes(b"junk")
    listing = list_scans(tmp_path)
    assert [source.name for source in listing.found.sources] == ["good"]
    assert listing.found.skipped[0].reason.endswith("; the scan 'scan' needs it")


def test_an_archive_has_no_picture_size(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npz())
    assert picture_size(tmp_path / "a.npy") is None


def test_a_tilted_volume_is_described(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 1, 0], [1.5, 1, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "a.nii.gz", np.zeros((6, 5, 4), np.int16), Geometry((6, 5, 4), affine))
    (source,) = discover(tmp_path / "a.nii.gz").sources
    # The way from slice to slice: sqrt(1.5² + 2²) = 2.5 mm.
    assert describe_source(source) == "volume, 4×5×6, 1.00 × 1.00 × 2.50 mm"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["m.csv", "M.CSV"])
def test_a_manifest_with_labels_is_for_training(tmp_path: Path, delimiter: str, name: str) -> None:
    (tmp_path / name).write_text(delimiter.join(["Image", " Label "]) + "\n", encoding="utf-8")
    assert holds_training_data(tmp_path / name)
    (tmp_path / name).write_text(delimiter.join(["image", "case"]) + "\n", encoding="utf-8")
    assert not holds_training_data(tmp_path / name)


@pytest.mark.parametrize(
    ("folders", "training"),
    [
        (("train",), True),
        (("Train",), True),
        (("images", "labels"), True),
        (("Images", "Labels"), True),
        (("DICOMS", "labels"), True),
        (("images",), False),
        (("labels",), False),
        (("scans",), False),
    ],
)
def test_training_folders_in_any_case(tmp_path: Path, folders: tuple[str, ...], training: bool) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert holds_training_data(tmp_path) is training
