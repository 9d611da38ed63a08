"""Each kind of fix does in the copy what it says, logs it, and leaves the user's own files alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from autoseg_lib.cli import main
from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction
from autoseg_lib.data.doctor.fixing import FixLog, apply_fixes
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.doctor.table import CHECKS
from autoseg_lib.data.doctor.transforms import TRANSFORMS
from autoseg_lib.data.pairing import pair
from autoseg_lib.errors import ExportError
from autoseg_lib.io.csv_files import read_csv
from autoseg_lib.labels import LabelTable
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.workflow.correcting import correction_lines, free_folder
from tests.helpers.dicom import write_series
from tests.helpers.studies import write_png_study, write_volume_study


@pytest.fixture(autouse=True)
def only_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well labels fit their images has tests of its own, and takes its time."""
    kept = tuple(check for check in CHECKS if not check.function.__module__.endswith(".fitting"))
    monkeypatch.setattr("autoseg_lib.data.doctor.examine.CHECKS", kept)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_png_study(tmp_path / "data", patients=3, slices=2, size=32)


def fixed(folder: Path, out: Path, *actions: FixAction, sure: bool = True, **values: object) -> FixLog:
    settings = make_settings(TrainSettings, {"main_dir": str(folder), **values})
    finding = Finding("error", "test", "a fault", fix=Fix("mend it", actions, sure))
    before = hashes(folder)
    log = apply_fixes([finding], settings, pair(settings), out)
    assert hashes(folder) == before
    return log


def hashes(folder: Path) -> dict[str, str]:
    place = folder if folder.is_dir() else folder.parent
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in place.rglob("*") if p.is_file()}


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def label(folder: Path, name: str) -> Path:
    return folder / "train" / "labels" / name


def image(folder: Path, name: str) -> Path:
    return folder / "train" / "images" / name


def test_the_copy_is_the_whole_folder(folder: Path, tmp_path: Path):
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "test" / "images" / "a.png").write_bytes(b"a")
    log = fixed(folder, tmp_path / "out")
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    copied = {
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert copied == {*names, "fix_log.csv"}
    assert (log.changes, log.folder) == ((), tmp_path / "out")


def test_rename_and_leave_out(folder: Path, tmp_path: Path):
    log = fixed(
        folder,
        tmp_path / "out",
        FixAction(
            "leave_out", (image(folder, "p0_0.png"), label(folder, "p0_0.png")), {"reason": "too dark"}
        ),
        FixAction("rename", (label(folder, "p0_1.png"),), {"to": label(folder, "other.png")}),
    )
    out = tmp_path / "out"
    assert not image(out, "p0_0.png").exists()
    assert (out / "left_out" / "train" / "images" / "p0_0.png").exists()
    assert picture(label(out, "other.png")).max() == 2
    assert not label(out, "p0_1.png").exists()
    header, rows = read_csv(log.log_file)
    assert header == ["file", "what", "before", "after", "finding", "please look"]
    assert [row["what"] for row in rows] == ["renamed", "left out: too dark", "left out: too dark"]
    assert {row["finding"] for row in rows} == {"test"}


@pytest.mark.parametrize("suffix", ["png", "npy", "tif"])
def test_values_are_mapped_in_the_files_own_format(folder: Path, tmp_path: Path, suffix: str):
    old = label(folder, "p1_0.png")
    codes = np.array([0, 63, 126], np.uint8)[picture(old)]
    old.unlink()
    path = old.with_suffix(f".{suffix}")
    if suffix == "npy":
        np.save(path, codes)
    elif suffix == "tif":
        tifffile.imwrite(path, codes)
    else:
        Image.fromarray(codes).save(path)
    log = fixed(folder, tmp_path / "out", FixAction("map_values", (path,), {"map": {63: 1, 126: 2}}))
    new = label(tmp_path / "out", path.name)
    array = np.load(new) if suffix == "npy" else tifffile.imread(new) if suffix == "tif" else picture(new)
    assert np.array_equal(array, codes // 63)
    (change,) = log.changes
    assert (change.before, change.after) == ("0, 63, 126", "0, 1, 2")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_labels_are_turned(folder: Path, tmp_path: Path, name: str):
    path = label(folder, "p1_0.png")
    log = fixed(folder, tmp_path / "out", FixAction("transform", (path,), {"transform": name}), sure=False)
    before, after = picture(path), picture(label(tmp_path / "out", path.name))
    by_hand = {
        "flip left-right": np.fliplr(before),
        "flip up-down": np.flipud(before),
        "rotate 90": np.rot90(before),
        "rotate 180": np.rot90(before, 2),
        "rotate 270": np.rot90(before, 3),
        "transpose": before.T,
        "transpose other diagonal": np.rot90(before.T, 2),
    }
    assert np.array_equal(after, by_hand[name])
    assert not log.changes[0].sure
    assert "1 of them rest on statistics" in log.sentence


def test_a_label_that_cannot_be_turned_is_told(folder: Path, tmp_path: Path):
    for path in (image(folder, "p1_0.png"), label(folder, "p1_0.png")):
        Image.fromarray(picture(path)[:20]).save(path)
    log = fixed(
        folder,
        tmp_path / "out",
        FixAction("transform", (label(folder, "p1_0.png"),), {"transform": "transpose"}),
    )
    assert log.changes == ()
    assert "another number of rows and columns" in log.failed[0]
    assert [finding.code for finding in log.not_fixed] == ["test"]


def test_labels_change_places(folder: Path, tmp_path: Path):
    first, second = label(folder, "p0_0.png"), label(folder, "p1_0.png")
    fixed(folder, tmp_path / "out", FixAction("swap_labels", (first, second)))
    assert label(tmp_path / "out", "p0_0.png").read_bytes() == second.read_bytes()
    assert label(tmp_path / "out", "p1_0.png").read_bytes() == first.read_bytes()


def test_one_label_is_changed_once_only(folder: Path, tmp_path: Path):
    path = label(folder, "p0_0.png")
    log = fixed(
        folder,
        tmp_path / "out",
        FixAction("transform", (path,), {"transform": "flip up-down"}),
        FixAction("swap_labels", (path, label(folder, "p1_0.png"))),
    )
    assert len(log.changes) == 1
    assert "changed for another finding already" in log.failed[0]


def test_contrast_and_pixels_without_a_number(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=2, size=8)
    first, second = (image(folder, f"scan_{n}.nii.gz") for n in (0, 1))
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(first)))
    spoilt = array.copy()
    spoilt[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(spoilt), str(first))
    fixed(folder, tmp_path / "out", FixAction("clear_nan", (first,)), FixAction("invert", (second,)))
    clear = sitk.GetArrayFromImage(sitk.ReadImage(str(image(tmp_path / "out", first.name))))
    assert clear[0, 0, 0] == pytest.approx(np.nanmin(spoilt))
    before = sitk.GetArrayFromImage(sitk.ReadImage(str(second)))
    after = sitk.GetArrayFromImage(sitk.ReadImage(str(image(tmp_path / "out", second.name))))
    assert np.allclose(before + after, before.min() + before.max(), atol=1e-3)


def write_scan(folder: Path, slices: int = 5) -> list[Path]:
    """A DICOM series with labels: slice k has a square of k + 1 pixels a side."""
    write_series(folder / "train" / "images" / "scan", np.zeros((slices, 16, 16), np.int16) + np.arange(16))
    target = folder / "train" / "labels" / "scan"
    target.mkdir(parents=True)
    files = []
    for index in range(slices):
        array = np.zeros((16, 16), np.uint8)
        array[: index + 1, : index + 1] = 1
        files.append(target / f"slice_{index + 1:03d}.png")
        Image.fromarray(array).save(files[-1])
    return files


@pytest.mark.parametrize("step", [1, -2])
def test_labels_of_a_scan_are_shifted(tmp_path: Path, step: int):
    files = write_scan(tmp_path / "data")
    fixed(tmp_path / "data", tmp_path / "out", FixAction("shift", tuple(files), {"slices": step}), sure=False)
    left = sorted((tmp_path / "out" / "train" / "labels" / "scan").iterdir())
    sizes = {path.stem: round(np.sqrt(picture(path).sum())) for path in left}
    expected = {f"slice_{k + 1:03d}": k - step + 1 for k in range(5) if 0 <= k - step < 5}
    assert sizes == expected
    images = {path.stem for path in (tmp_path / "out" / "train" / "images" / "scan").iterdir()}
    assert images == set(expected)


def test_a_label_volume_is_shifted_and_turned_as_it_is_seen(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=2, size=12)
    paths = [label(folder, f"scan_{n}.nii.gz") for n in (0, 1)]
    before = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths]
    fixed(
        folder,
        tmp_path / "out",
        FixAction("shift", (paths[0],), {"slices": 2}),
        FixAction("transform", (paths[1],), {"transform": "flip up-down", "slices": (4, 5)}),
    )
    # SimpleITK's (z, y, x) of these files grow towards S, P, L: as the slices are shown.
    first, second = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(label(tmp_path / "out", p.name)))) for p in paths
    )
    assert np.array_equal(first[2:], before[0][:-2])
    assert not first[:2].any()
    assert np.array_equal(second[4:6], before[1][4:6, ::-1])
    assert np.array_equal(second[6:], before[1][6:])


def test_dicom_files_are_copied_bit_for_bit_and_never_changed(tmp_path: Path):
    write_scan(tmp_path / "data")
    source = sorted((tmp_path / "data" / "train" / "images" / "scan").iterdir())
    log = fixed(tmp_path / "data", tmp_path / "out", FixAction("invert", (source[0],)))
    assert "DICOM files are never changed" in log.failed[0]
    for path in source:
        copied = tmp_path / "out" / path.relative_to(tmp_path / "data")
        assert copied.read_bytes() == path.read_bytes()


def test_a_manifest_is_copied_with_what_it_lists(folder: Path, tmp_path: Path):
    manifest = tmp_path / "lists" / "study.csv"
    manifest.parent.mkdir()
    names = sorted(path.name for path in (folder / "train" / "images").iterdir())
    lines = [f"../data/train/images/{n},../data/train/labels/{n},,{n[:2]}" for n in names]
    manifest.write_text("\n".join(["image,label,case,patient", *lines]), encoding="utf-8")
    listed = pair(make_settings(TrainSettings, {"main_dir": str(manifest)}))
    bad = next(case for case in listed.cases if "p1_0" in case.name)
    files = (*bad.source.files, *bad.labels)
    log = fixed(manifest, tmp_path / "out", FixAction("leave_out", files, {"reason": "damaged"}))
    assert log.folder == tmp_path / "out" / "study.csv"
    again = pair(make_settings(TrainSettings, {"main_dir": str(log.folder)}))
    assert (len(again.cases), again.has_errors) == (len(names) - 1, False)
    assert {case.patient for case in again.cases} == {"p0", "p1", "p2"}


def test_the_copy_needs_a_place_of_its_own(folder: Path, tmp_path: Path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x", encoding="utf-8")
    for out, words in (
        (folder / "fixed", "inside the data folder"),
        (folder, "inside the data folder"),
        (tmp_path, "inside the data folder, or around it"),
        (full, "not empty"),
    ):
        with pytest.raises(ExportError, match=words):
            fixed(folder, out)
    assert replace(fixed(folder, tmp_path / "new" / "deep")).changes == ()


def test_paths_that_go_up_are_written_out(folder: Path, tmp_path: Path):
    log = fixed(folder, folder / ".." / "out")
    assert log.folder == tmp_path / "out"
    assert free_folder(folder / "train" / "..") == tmp_path / "data_corrected"
    (tmp_path / "data_corrected").mkdir()
    assert free_folder(folder) == tmp_path / "data_corrected_2"


def test_a_file_that_cannot_be_copied_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr("shutil.copyfile", refuse)
    with pytest.raises(ExportError, match=r"the copy of 'p0_0.png' cannot be written \(Permission denied\)"):
        fixed(folder, tmp_path / "out")


# --- the command ------------------------------------------------------------------------------------------------------


def test_check_writes_page_and_corrected_copy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    label(folder, "p0_0.png").rename(label(folder, "P0_0.png"))
    (image(folder, "p1_1.png")).write_bytes(b"no picture")
    out, page = tmp_path / "fixed", tmp_path / "page.html"
    code = main(["check", str(folder), "--fix", str(out), "--report", str(page), "--set", "num_labels=2"])
    text = capsys.readouterr().out
    assert code == 0
    assert "1 label looks like a match" in text
    assert "The copy, checked again:" in text
    assert page.stat().st_size > 1000
    assert main(["check", str(folder)]) == 1
    assert main(["check", str(out)]) == 0


def test_check_says_each_thing_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number in (0, 1, 2):
        label(folder, f"p{number}_0.png").rename(label(folder, f"P{number}_0.png"))
    main(["check", str(folder), "--fix", str(tmp_path / "fixed"), "--set", "num_labels=2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(set(lines)) == len(lines)
    assert sum("look like" in line for line in lines) == 1
    (renamed,) = [line for line in lines if line.startswith("  renamed: ")]
    assert renamed.endswith(" and 1 more")
    again = next(i for i, line in enumerate(lines) if line.startswith("The copy, checked again: "))
    assert again > lines.index(renamed)
    # What was said of the original is counted, not repeated.
    first = {line for line in lines[:again] if line[0] in "✘⚠"}
    assert not first & set(lines[again:])


def test_what_is_left_is_counted(tmp_path: Path):
    def report(*findings: Finding) -> CheckReport:
        return CheckReport("2 images", findings, (), LabelTable(["a"]), ())

    bad, odd = Finding("error", "a", "bad."), Finding("warning", "b", "odd.")
    log = FixLog(tmp_path, (), tmp_path / "fix_log.csv", (), ("it is locked",))
    lines = correction_lines(report(bad, odd), log, report(bad, odd, Finding("warning", "c", "new.")))
    assert lines[1:] == [
        "could not be done: it is locked",
        "",
        "The copy, checked again: 2 images",
        "⚠ new.",
        "2 findings above are still there (1 ✘ and 1 ⚠): look at the files, only you can know what is right.",
    ]
    assert correction_lines(report(bad), log, report())[-1] == "✔ No problems found."


def test_check_as_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    label(folder, "p0_0.png").rename(label(folder, "P0_0.png"))
    assert main(["check", str(folder), "--json", "--fix", str(tmp_path / "fixed")]) == 0
    result = json.loads(capsys.readouterr().out)
    (error,) = result["errors"]
    assert error == {
        "severity": "error",
        "code": "near_miss",
        "text": error["text"],
        "files": ["P0_0.png"],
        "samples": [],
        "fix": "Rename 1 label file",
    }
    assert "Rename 1 label file" in result["fixes"]
    assert {finding["severity"] for finding in result["findings"]} == {"error", "warning", "fine"}
    assert result["corrected"]["changes"][0]["what"] == "renamed"
    assert result["corrected"]["check"]["errors"] == []


def test_check_refuses_a_fix_of_what_is_no_training_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["check", str(folder / "train" / "images"), "--fix", str(tmp_path / "fixed")]) == 2
    assert "are for training data" in capsys.readouterr().err
    assert main(["check", str(folder), "--fix", str(folder / "inside")]) == 1
    assert "inside the data folder" in capsys.readouterr().err
    assert not (folder / "inside").exists()


# --- fixes that meet ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_left_out_does_not_keep_the_others_from_being_changed(folder: Path, tmp_path: Path):
    labels = tuple(label(folder, f"p{n}_0.png") for n in (0, 1, 2))
    log = fixed(
        folder,
        tmp_path / "out",
        FixAction("map_values", labels, {"map": {2: 5}}),
        FixAction("leave_out", (image(folder, "p1_0.png"), labels[1]), {"reason": "there twice"}),
    )
    out = tmp_path / "out"
    assert [picture(label(out, f"p{n}_0.png")).max() for n in (0, 2)] == [5, 5]
    assert picture(label(out / "left_out", "p1_0.png")).max() == 2
    assert (len(log.changes), log.failed) == (4, ())


def test_labels_change_places_before_one_is_left_out(folder: Path, tmp_path: Path):
    first, second = label(folder, "p0_0.png"), label(folder, "p1_0.png")
    fixed(
        folder,
        tmp_path / "out",
        FixAction("swap_labels", (first, second)),
        FixAction("leave_out", (image(folder, "p0_0.png"), first), {"reason": "too dark"}),
    )
    # The label that stays with p1_0 is the one that was drawn for it.
    assert label(tmp_path / "out", "p1_0.png").read_bytes() == first.read_bytes()


def test_new_numbers_are_written_as_the_codes_that_label_map_reads(folder: Path, tmp_path: Path):
    path = label(folder, "p1_0.png")
    Image.fromarray(np.array([0, 63, 126], np.uint8)[picture(path)]).save(path)
    swapped = FixAction("map_values", (path,), {"map": {1: 2, 2: 1}})
    fixed(folder, tmp_path / "out", swapped, label_map={63: 1, 126: 2})
    before, after = picture(path), picture(label(tmp_path / "out", path.name))
    assert np.array_equal(after, np.select([before == 63, before == 126], [126, 63], 0))


def test_a_number_that_label_map_reads_as_another_is_not_written(folder: Path, tmp_path: Path):
    path = label(folder, "p1_0.png")
    action = FixAction("map_values", (path,), {"map": {2: 1}})
    log = fixed(folder, tmp_path / "out", action, label_map={1: 2})
    assert log.changes == ()
    assert "label_map reads 1 as 2 and nothing as 1" in log.failed[0]


def test_a_volume_is_turned_as_stored_where_label_map_holds(tmp_path: Path):
    folder = write_volume_study(tmp_path / "v", scans=1, size=12)
    path = label(folder, "scan_0.nii.gz")
    before = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    turned = FixAction("transform", (path,), {"transform": "flip up-down"})
    fixed(folder, tmp_path / "out", turned, label_map={1: 2, 2: 1})
    after = sitk.GetArrayFromImage(sitk.ReadImage(str(label(tmp_path / "out", path.name))))
    assert np.array_equal(after, before[:, ::-1])


def test_a_series_of_a_manifest_that_is_left_out_is_listed_no_more(tmp_path: Path):
    files = write_scan(tmp_path / "data")
    write_png_study(tmp_path / "data" / "more", patients=1, slices=1, size=16)
    (tmp_path / "data" / "labels.csv").write_text("value,name\n1,liver\n", encoding="utf-8")
    manifest = tmp_path / "data" / "study.csv"
    more = "more/train/{}/p0_0.png"
    lines = [
        "image,label",
        "train/images/scan,train/labels/scan",
        f"{more.format('images')},{more.format('labels')}",
    ]
    manifest.write_text("\n".join(lines), encoding="utf-8")
    images = sorted((tmp_path / "data" / "train" / "images" / "scan").iterdir())
    log = fixed(manifest, tmp_path / "out", FixAction("leave_out", (*images, *files), {"reason": "dark"}))
    _, rows = read_csv(log.folder)
    assert [row["image"] for row in rows] == [more.format("images")]
    assert (tmp_path / "out" / "labels.csv").exists()


def test_a_name_that_differs_in_case_only_is_the_file_itself(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on Windows and macOS, where P0_0.png is there already when p0_0.png is to be called so."""
    path = label(folder, "p0_0.png")
    there = Path.exists
    same = Path.samefile
    monkeypatch.setattr(Path, "exists", lambda self: self.name == "P0_0.png" or there(self))
    monkeypatch.setattr(Path, "samefile", lambda self, other: self.name == "P0_0.png" or same(self, other))
    log = fixed(folder, tmp_path / "out", FixAction("rename", (path,), {"to": label(folder, "P0_0.png")}))
    assert log.failed == ()
    assert "P0_0.png" in {p.name for p in label(tmp_path / "out", "x").parent.iterdir()}


def test_a_full_disk_ends_the_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    swap = FixAction("swap_labels", (label(folder, "p0_0.png"), label(folder, "p1_0.png")))
    with pytest.raises(ExportError, match=r"cannot be finished \(No space left on device\). Delete it"):
        fixed(folder, tmp_path / "out", swap)
