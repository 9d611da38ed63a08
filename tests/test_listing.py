"""What `autoseg check` lists: good scans with a tick, damaged files with the reason, and what a training folder is."""

from __future__ import annotations

import io
import json
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
from autoseg_lib.workflow.listing import group_text, holds_training_data, list_scans
from tests.helpers.dicom import write_series
from tests.helpers.folders import mixed_folder
from tests.helpers.real_data import real_data


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
    ("a.nrrd", b"NRRD0004\ntype: short\n", r"its header is damaged: there is no .dimension."),
    ("a.mha", b"\0" * 10, "its header is damaged"),
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
    assert listing.lines()[-2:] == ["1 file looks damaged:", f"  -  {name}: {damaged.reason}"]


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


# --- the table of series ------------------------------------------------------------------------------------------------


def test_the_table_says_what_is_used_and_why(tmp_path: Path) -> None:
    listing = list_scans(mixed_folder(tmp_path / "Reihe Ä"))
    lines = listing.lines()
    assert lines[0] == "'Reihe Ä' holds 1 scan; 1 more is left out:"
    assert lines[1].split() == [
        "series",
        "name",
        "kind",
        "slices",
        "matrix",
        "pixel,",
        "mm",
        "slice",
        "distance",
        "orientation",
    ]
    assert lines[2].split()[:2] == ["✔", "1"]
    assert "MR scan" in lines[2] and "10×12" in lines[2] and "0.90" in lines[2] and "4.0 mm" in lines[2]
    assert "MR localizer, left out" in lines[3]
    assert "The one scan is used; 1 localizer is left out. To choose, set series" in "\n".join(lines)
    assert "2 files skipped:" in lines
    assert "  2 × not a DICOM file: 'notes.txt', 'read me.txt'" in lines
    assert lines[-2] == "1 file looks damaged:"
    assert lines[-1].startswith("  -  cut.dcm: ")
    # The columns lie below each other.
    assert lines[1].index("matrix") == lines[2].index("10×12") == lines[3].index("10×12")


def test_a_scan_that_cannot_be_used_gets_a_cross(tmp_path: Path) -> None:
    folder = mixed_folder(tmp_path / "x")
    whole = sorted((folder / "scan").glob("slice*.dcm"))[0].read_bytes()
    (folder / "apart").mkdir()
    (folder / "apart" / "cut.dcm").write_bytes(whole[: len(whole) - 50])
    listing = list_scans(folder)
    lines = listing.lines()
    assert lines[0] == "'x' holds 1 scan; 1 more cannot be used; 1 more is left out:"
    (cross,) = [line for line in lines if line.startswith("  ✘  ")]
    assert "apart" in cross
    assert any("the file ends early (50 bytes of its pixels are missing)" in line for line in lines)


def test_the_same_in_json(tmp_path: Path) -> None:
    values = json.loads(json.dumps(list_scans(mixed_folder(tmp_path / "x")).to_dict()))
    (scan,) = values["scans"]
    assert (scan["number"], scan["slices"], scan["matrix"], scan["spacing_mm"]) == (
        1,
        4,
        [10, 12],
        [0.9, 0.9],
    )
    assert (scan["orientation"], scan["slice_distance"], scan["chosen"]) == ("axial", "4.0 mm", True)
    assert [item["kind"] for item in values["left_out"]] == ["localizer"]
    assert values["groups"][0]["files"] == ["notes.txt", "read me.txt"]
    assert values["damaged"] == 1


def test_a_series_is_chosen_by_its_number(tmp_path: Path) -> None:
    folder = mixed_folder(tmp_path / "x")
    listing = list_scans(folder, series=2)
    assert [item.kind for item in listing.table if item.chosen] == ["localizer"]
    assert "series = 2: 1 scan chosen, 1 left out." in listing.lines()
    with pytest.raises(DataError, match=r"there is no series \[9\]\. It holds 1: MR, 4 slices"):
        list_scans(folder, series=9)


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_the_terminal(tmp_path: Path, width: int) -> None:
    array = np.arange(96).reshape(2, 6, 8).astype(np.int16)
    tilted = (1, 0, 0, 0, np.cos(0.3), np.sin(0.3))
    for number in (1, 2):
        folder = tmp_path / f"a_very_long_folder_name_from_an_archive_with_dates_{number:03d}"
        write_series(folder, array, series=number, SeriesNumber=1, orientation=tilted, step=(0, -0.9, 2.8))
    write_series(
        tmp_path / "c", array, series=3, SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    listing = list_scans(tmp_path)
    table, whole = listing.lines(width)[1:5], listing.lines()[1:5]
    assert max(map(len, whole)) > width >= max(map(len, table))
    assert [line.split()[0] for line in table[1:]] == ["✔", "✔", "·"]
    # The ends of the names still tell them apart.
    assert "a_very" in table[1] and "…" in table[1] and "_001" in table[1] and "_002" in table[2]
    assert "a_very_long_folder_name_from_an_archive_with_dates_001" in whole[1]
    assert "localizer, left out" in whole[3] and "left out" not in table[3]


def test_a_table_that_fits_stays_whole(tmp_path: Path) -> None:
    listing = list_scans(mixed_folder(tmp_path / "x"))
    assert listing.lines(120) == listing.lines()


def test_numbers_that_begin_anew_in_each_folder_are_said_so(tmp_path: Path) -> None:
    for place in ("a", "b"):
        mixed_folder(tmp_path / place)
    lines = list_scans(tmp_path).lines()
    assert "no. in folder" in lines[1] and "series" not in lines[1]
    (choice,) = [line for line in lines if line.startswith("Both scans are used")]
    assert choice.endswith(
        "To choose, give the folder of the scan. The setting series counts within each folder: series = 2 takes the second "
        "scan of every folder."
    )
    chosen = list_scans(tmp_path, series=[1]).choice
    # Both folders hold the same localizer.
    assert chosen.startswith("series = 1: 2 scans chosen, 1 left out. To choose, give the folder")


def test_what_is_odd_about_a_series_left_out_is_not_said(tmp_path: Path) -> None:
    array = np.arange(96).reshape(2, 6, 8).astype(np.int16)
    write_series(tmp_path, array, prefix="a", series=1, SeriesNumber=1)
    write_series(tmp_path, array, prefix="b", series=2, SeriesNumber=2, orientation=None)
    write_series(
        tmp_path,
        array,
        prefix="c",
        series=3,
        SeriesNumber=3,
        ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
    )
    both = list_scans(tmp_path).lines()
    assert any(line.startswith("  ⚠") for line in both) and any(line.startswith("  ✘ ") for line in both)
    assert both[0].endswith("holds 2 scans; 1 more cannot be used:")
    assert "Both scans that can be used are used." in "\n".join(both)
    two = list_scans(tmp_path, series=[1, 3]).choice
    assert two == "series = 1, 3: 2 scans chosen (1 of them cannot be used), 1 left out."
    one = list_scans(tmp_path, series=1).lines()
    assert not any(line.startswith(("  ⚠", "  ✘")) for line in one)


@pytest.mark.real_data
def test_files_with_rois_are_skipped_with_their_names() -> None:
    listing = list_scans(real_data("radiomics_phantom_rtstruct"))
    contours = next(group for group in listing.groups if "contours" in group.reason)
    assert len(contours.files) == 2
    assert contours.contents == ("RTSTRUCT with 1 ROI: 'GTV-1'",)
    assert "(RTSTRUCT with 1 ROI: 'GTV-1')" in group_text(contours)
