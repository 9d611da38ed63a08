"""The Data check section of the notebook: what it says, and where the full report is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from autoseg_lib.data.doctor.finding import Finding, Fix, Sample
from autoseg_lib.widgets.check_view import check_html, check_page_html, check_text, link_to, served_folder
from tests.helpers.made_reports import made_case, made_report

EVIL = "<img src=x onerror=alert(1)>"


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", str(html), flags=re.S))


def test_findings_are_sorted_counted_and_illustrated() -> None:
    cases = [made_case(f"scan_{number}", 2, number) for number in range(7)]
    findings = [
        Finding("warning", "small", "small things", (), tuple(Sample(case.name, 0) for case in cases)),
        Finding("error", "grave", "grave things", tuple(f"f{i}" for i in range(17)), fix=Fix("Rename 17 files", ())),
        Finding("warning", "flip", "turned", (), (Sample("scan_1", 1),), Fix("Turn 1 label file", (), sure=False)),
    ]  # fmt: skip
    html = check_html(made_report(cases, findings), 14)
    text = plain(html)
    assert text.index("grave things") < text.index("small things")
    assert "'f0', 'f1', 'f2', 'f3', 'f4' and 12 more" in text
    assert "Fix offered: Rename 17 files." in text
    assert "Fix offered: Turn 1 label file. Please look at the result." in text
    assert html.count("data:image/jpeg;base64,") == 4 + 1
    assert "scan_3 · slice_001 and 3 more" in text
    assert "No problems found" not in text


def test_no_findings_is_one_line() -> None:
    assert "✔ No problems found in 78 pairs." in plain(check_html(made_report([made_case("a", 1)]), 78))
    assert "No problems found in 1 pair." in plain(check_html(made_report([made_case("a", 1)]), 1))


def test_names_are_escaped() -> None:
    finding = Finding("error", "x", EVIL, (EVIL + "2",), (Sample(EVIL, 0),), Fix(EVIL, ()))
    html = check_html(made_report([made_case(EVIL, 2)], [finding], names=[EVIL, "b"]), 2)
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html
    assert "<img src=x" not in check_page_html(Path(EVIL), EVIL)


def test_a_great_many_findings_are_cut_and_said() -> None:
    findings = [Finding("warning", "x", f"finding {number:02d}") for number in range(45)]
    text = plain(check_html(made_report([made_case("a", 1)], findings), 1))
    assert "finding 29" in text and "finding 30" not in text
    assert "15 more findings are in the full report." in text


def test_plain_text_for_where_nothing_can_be_drawn() -> None:
    report = made_report(
        [made_case("a", 1)], [Finding("error", "x", "bad file", fix=Fix("Leave out 1 image", ()))]
    )
    text = check_text(report, "To apply them: autoseg check DATA_DIR --fix NEW_FOLDER.")
    assert text.endswith(
        "✘ bad file\nFixes offered: Leave out 1 image.\nTo apply them: autoseg check DATA_DIR --fix NEW_FOLDER."
    )


def test_the_folder_that_jupyter_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    assert served_folder() is None
    note = tmp_path / f"jpserver-{os.getppid()}.json"
    note.write_text('{"root_dir": "/home/étude", "pid": 1}', encoding="utf-8")
    assert served_folder() == Path("/home/étude")
    note.write_text("{", encoding="utf-8")
    assert served_folder() is None


def test_the_link_to_the_full_report_stays_below_what_jupyter_serves(tmp_path: Path) -> None:
    project = tmp_path / "Étude 1"
    page, notebooks = project / "trained_model" / "x_check_report.html", project / "notebooks"
    assert link_to(page, notebooks, project) == "../trained_model/x_check_report.html"
    assert link_to(page, notebooks, tmp_path) == "../trained_model/x_check_report.html"
    # Jupyter was started for a notebook, and serves notebooks/: nothing above it can be opened.
    assert link_to(page, notebooks, notebooks) == ""
    assert link_to(tmp_path / "models" / "x.html", notebooks, project) == ""
    # No Jupyter at all.
    assert link_to(page, notebooks, None) == ""
    linked = check_page_html(page, "../trained model/x_check_report.html")
    assert 'href="../trained%20model/x_check_report.html"' in linked
    assert "<a " not in check_page_html(page, "") and str(page) in plain(check_page_html(page, ""))
