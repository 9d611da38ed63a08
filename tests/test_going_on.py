"""Going on with a run: with marks, with other scans, with tables that another program has changed, after a signal."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autoseg_lib.events import Event, Message, Progress, StopFlag
from autoseg_lib.export.review import ReviewMark, write_review
from autoseg_lib.export.run_folder import open_run
from autoseg_lib.export.tables import read_measurements
from autoseg_lib.io import csv_files
from autoseg_lib.io.dicom_write import write_dicom_series
from autoseg_lib.io.files import Checksums, sha256_of
from autoseg_lib.io.run_record import PARTS_FOLDER
from autoseg_lib.io.volume_files import read_volume_file
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.settings import SegmentSettings, make_settings
from autoseg_lib.workflow import shared_tables
from autoseg_lib.workflow.case_parts import CaseParts
from autoseg_lib.workflow.claims import Claims
from autoseg_lib.workflow.segmenting import SegmentResult, segment
from autoseg_lib.workflow.shared_tables import SharedTables
from tests.helpers.cohorts import write_model, write_scans


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small_best.safetensors")


def run(folder: Path, model: Path, output: Path, mode: str = "continue", **options: Any) -> SegmentResult:
    values = options.pop("values", {})
    return segment(folder, model, output, make_settings(SegmentSettings, values), mode=mode, **options)


def page_of(output: Path) -> dict[str, Any]:
    """What the page's script is given."""
    text = (output / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    table: dict[str, Any] = json.loads(found.group(1))
    return table


def saved_by_a_spreadsheet(path: Path) -> None:
    """As a spreadsheet of a country with decimal commas saves a table."""
    pd.read_csv(path).to_csv(path, sep=";", decimal=",", index=False)


# --- the page ---------------------------------------------------------------------------------------------------------------


def test_marks_are_shown_when_the_finished_run_is_started_again(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    output = tmp_path / "out"
    run(tmp_path / "in", model, output)
    before = (output / "report.html").stat().st_mtime_ns
    run(tmp_path / "in", model, output)
    assert (output / "report.html").stat().st_mtime_ns == before  # nothing new, nothing written

    write_review(tmp_path / "review.csv", [ReviewMark("scan_02", 3, "fail", "too wide")])
    (tmp_path / "review.csv").rename(output / "review.csv")
    tables = {path: path.stat().st_mtime_ns for path in output.glob("*.csv")}
    again = run(tmp_path / "in", model, output)
    assert all(case.already_done for case in again.cases)
    assert page_of(output)["review"] == [["scan_02", 3, "fail", "too wide"]]
    assert [scan["name"] for scan in page_of(output)["cases"]] == ["scan_01", "scan_02"]
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.csv")} == tables

    (output / "report.html").unlink()
    run(tmp_path / "in", model, output)
    assert page_of(output)["review"] == [["scan_02", 3, "fail", "too wide"]]


def test_other_scans_leave_the_earlier_ones_on_the_page(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    output = tmp_path / "out"
    run(tmp_path / "in", model, output)
    earlier = page_of(output)["cases"]
    (tmp_path / "other").mkdir()
    (tmp_path / "in" / "scan_02.nii.gz").rename(tmp_path / "other" / "new.nii.gz")
    run(tmp_path / "other", model, output)
    scans = page_of(output)["cases"]
    assert [scan["name"] for scan in scans] == ["scan_01", "scan_02", "new"]
    assert [scan["areas"] for scan in scans[:2]] == [scan["areas"] for scan in earlier]
    assert scans[2]["pictures"][1] is not None
    assert scans[0]["pictures"] == [None] * 4
    text = html.unescape((output / "report.html").read_text(encoding="utf-8"))
    assert "It was segmented earlier, and is not among the scans given this time." in text


def test_earlier_scans_with_other_rois_are_named(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 1)
    output = tmp_path / "out"
    run(tmp_path / "in", model, output)
    (tmp_path / "other").mkdir()
    (tmp_path / "in" / "scan_01.nii.gz").rename(tmp_path / "other" / "new.nii.gz")
    values = {"pipeline": {"structure_names": {"bright": "L3 body"}}}
    run(tmp_path / "other", model, output, values=values)
    assert [scan["name"] for scan in page_of(output)["cases"]] == ["new"]
    text = html.unescape((output / "report.html").read_text(encoding="utf-8"))
    assert "segmented earlier with other ROIs: 'scan_01'. The tables hold them." in text


# --- tables -----------------------------------------------------------------------------------------------------------------


def test_a_table_saved_by_a_spreadsheet_does_not_end_the_run(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 4)
    output = tmp_path / "out"
    run(tmp_path / "in", model, tmp_path / "alone", mode="new")

    saved: list[bool] = []

    def saved_meanwhile(event: Event) -> None:
        # The first scan is in the tables at once; the next writing is the last one.
        if isinstance(event, Progress) and event.done == 3 and not saved:
            saved_by_a_spreadsheet(output / "measurements.csv")
            saved.append(True)

    result = run(tmp_path / "in", model, output, mode="new", on_event=saved_meanwhile)
    for name in ("measurements.csv", "volumes.csv", "csa_results.csv"):
        assert (output / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    kept = output / "measurements_unreadable.csv"
    assert kept.read_text(encoding="utf-8").startswith("case;slice_number;")
    assert any(
        "Another program has saved the tables in a form that cannot be read" in n for n in result.notes
    )


def test_scans_whose_rows_cannot_be_read_are_done_again(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    output = tmp_path / "out"
    run(tmp_path / "in", model, output, mode="new")
    before = (output / "measurements.csv").read_bytes()
    saved_by_a_spreadsheet(output / "measurements.csv")
    again = run(tmp_path / "in", model, output)
    assert [case.already_done for case in again.cases] == [False, False]
    assert (output / "measurements.csv").read_bytes() == before
    assert (output / "measurements_unreadable.csv").is_file()


def test_a_table_that_cannot_be_read_is_told_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tables, "_LEAST_SECONDS", 0.0)
    run_folder = open_run(tmp_path / "run")
    row = SliceMeasurement("a", 1, "", 2.5, 1, "psoas", 3, 1.5)
    volume = VolumeMeasurement("a", 1, "psoas", 3, None, None, 1, 1.5, 1)
    with Claims(run_folder.path / PARTS_FOLDER) as claims:
        parts = CaseParts(run_folder.path, claims.token, "key")
        tables = SharedTables(run_folder, ["a"], claims, parts, StopFlag())
        tables.rows.put("a", [row], [volume], {"case": "a"})
        tables.write()
        saved_by_a_spreadsheet(run_folder.measurements)
        time.sleep(0.2)
        said = tables.write_now_and_then()
    assert "'measurements.csv': the columns" in said and "'measurements_unreadable.csv'" in said
    assert read_measurements(run_folder.measurements) == [row]


def test_a_scan_whose_files_are_gone_is_done_again(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    output = tmp_path / "out"
    run(tmp_path / "in", model, output, mode="new")
    lost = sorted((output / "scan_02" / "masks").iterdir())[1]
    lost.unlink()
    again = run(tmp_path / "in", model, output)
    assert [case.already_done for case in again.cases] == [True, False]
    assert lost.is_file()


def test_our_own_tables_are_read_however_large_they_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "_LARGEST_TABLE", 50)
    write_scans(tmp_path / "in", 2)
    output = tmp_path / "out"
    values = {"formats": ["png", "xlsx"]}
    result = run(tmp_path / "in", model, output, mode="new", values=values)
    assert not result.failures and (output / "results.xlsx").is_file()
    (tmp_path / "in" / "scan_01.nii.gz").rename(tmp_path / "in" / "scan_03.nii.gz")
    again = run(tmp_path / "in", model, output, values=values)
    assert [(case.name, case.already_done) for case in again.cases] == [("scan_02", True), ("scan_03", False)]
    assert set(pd.read_csv(output / "measurements.csv")["case"]) == {"scan_01", "scan_02", "scan_03"}


# --- files ------------------------------------------------------------------------------------------------------------------


def test_a_name_of_many_chinese_letters(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    (tmp_path / "in" / "scan_01.nii.gz").rename(tmp_path / "in" / ("脊" * 82 + ".nii.gz"))  # 253 bytes
    result = run(tmp_path / "in", model, tmp_path / "out")
    assert not result.failures
    assert sorted(case.name for case in result.cases) == ["scan_02", "脊" * 60]


def test_a_fault_that_cannot_be_written_down_does_not_end_the_run(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 3, broken=2)
    # Something is in the way of the file that tells other processes.
    (tmp_path / "out" / PARTS_FOLDER / "scan_02.done.json").mkdir(parents=True)
    heard: list[Event] = []
    result = run(tmp_path / "in", model, tmp_path / "out", mode="new", on_event=heard.append)
    assert [case.name for case in result.cases] == ["scan_01", "scan_03"]
    assert [name for name, _ in result.failures] == ["scan_02"]
    assert any(isinstance(event, Message) and "scan_02.done.json" in event.text for event in heard)


def test_nothing_of_the_person_in_what_the_report_says_of_a_scan(model: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "made", 1)
    made = read_volume_file(tmp_path / "made" / "scan_01.nii.gz")
    folder, output = tmp_path / "in" / "first", tmp_path / "out"
    person = {"patient_name": "Mustermann^Max", "patient_id": "8877665544"}
    write_dicom_series(folder, made.array.astype("int16"), made.geometry, **person)
    run(folder.parent, model, output, mode="new")
    report = json.loads((output / "run_report.json").read_text(encoding="utf-8"))
    said = {
        "warnings": ["'Mustermann_Max_03.dcm': odd."],
        "flags": ["as in 8877665544"],
        "how_measured": "Mustermann",
    }
    report["cases"][0] |= said
    (output / "run_report.json").write_text(json.dumps(report), encoding="utf-8")
    write_dicom_series(tmp_path / "in" / "second", made.array.astype("int16")[::-1], made.geometry, **person)
    run(folder.parent, model, output)
    text = (output / "run_report.json").read_text(encoding="utf-8")
    assert len(json.loads(text)["cases"]) == 2
    assert "'***': odd." in text
    assert "ustermann" not in text and "8877665544" not in text


def test_checksums_are_made_once_for_each_state_of_a_file(tmp_path: Path) -> None:
    path, checksum = tmp_path / "a", Checksums()
    path.write_bytes(b"one")
    one, then = checksum(path), path.stat()
    assert one == sha256_of(path)
    # Not read again: other bytes under the same size and time go unseen.
    path.write_bytes(b"two")
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert checksum(path) == one
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns + 1_000_000_000))
    assert checksum(path) == sha256_of(path) != one
    path.unlink()
    with pytest.raises(FileNotFoundError):
        checksum(path)


# --- signals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_list_that_was_cut_short_is_told_by_the_exit_code(
    model: Path, tmp_path: Path, number: int, code: int
) -> None:
    write_scans(tmp_path / "in", 150)
    output = tmp_path / "out"
    command = ["-m", "autoseg_lib", "segment", tmp_path / "in", "--model", model, "--output", output]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not (output / "measurements.csv").exists():
        time.sleep(0.05)
    process.send_signal(number)
    printed, said = process.communicate(timeout=100)
    assert process.returncode == code, said.decode()
    assert "The same command with --continue goes on from here." in printed.decode()
    assert 1 <= pd.read_csv(output / "volumes.csv")["case"].nunique() < 150
