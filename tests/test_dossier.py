"""report.html and review.csv: what the page holds, how large it gets, and what is read back."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from autoseg_lib.errors import DataError
from autoseg_lib.export import dossier_pictures
from autoseg_lib.export.dossier import DossierCase, dossier_html, write_dossier
from autoseg_lib.export.review import ReviewMark, read_review, write_review
from autoseg_lib.labels import LabelTable
from tests.helpers.made_runs import LABELS, made_case


def data_of(html: str) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    table: dict[str, Any] = json.loads(found.group(1))
    return table


def test_numbers_intervals_and_flags_reach_the_page() -> None:
    case = made_case("lumbar_01", 4, flags={(2, 1): "wide; jumps", (2, 2): "wide"})
    scan = data_of(dossier_html(title="run", cases=[case], labels=LABELS))["cases"][0]
    # A pixel is 1.5 × 1 mm, slices lie 2 mm apart.
    pixels = [[row.pixels for row in case.measurements if row.label == value] for value in (1, 2)]
    assert scan["areas"] == [[round(n * 1.5, 1) for n in column] for column in pixels]
    assert scan["low"][0][0] == round(pixels[0][0] * 1.5 * 0.9, 1)
    assert scan["high"][1][3] == round(pixels[1][3] * 1.5 * 1.1, 1)
    assert scan["numbers"] == [1, 2, 3, 4]
    assert scan["positions"] == [0.0, 2.0, 4.0, 6.0]
    assert scan["unit"] == "mm²"
    assert scan["flags"] == {"1": [{"text": "wide", "rois": [0, 1]}, {"text": "jumps", "rois": [0]}]}
    mean = sum(pixels[0]) * 1.5 / 4
    assert scan["spread"][0][0] == pytest.approx(mean, abs=0.06)


def test_pictures_are_turned_and_hold_the_labels() -> None:
    case = made_case("lumbar_01", 3, size=40)
    scan = data_of(dossier_html(title="run", cases=[case], labels=LABELS))["cases"][0]
    assert scan["shape"] == [40, 40]
    assert scan["aspect"] == 1.5
    assert scan["widthMm"] == 40.0
    assert scan["edges"] == ["A", "L", "P", "R"]
    _, mask = case.slices()
    for picture, plane in zip(scan["pictures"], mask.array, strict=True):
        content = base64.b64decode(picture["runs"])
        values = np.repeat(np.frombuffer(content[::2], np.uint8), np.frombuffer(content[1::2], np.uint8))
        flat = np.zeros(plane.size, np.uint8)
        flat[: values.size] = values
        assert (flat.reshape(plane.shape) == plane).all()
        image = np.frombuffer(base64.b64decode(picture["image"]), np.uint8)
        grey = cv2.imdecode(image, cv2.IMREAD_GRAYSCALE)
        assert grey[plane == 1].mean() > grey[plane == 0].mean() + 80


def test_every_slice_has_a_picture_and_the_page_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg_lib.export.dossier.PAGE_BYTES", 400_000)
    cases = [made_case(f"scan_{n}", 40, size=256, seed=n) for n in range(3)]
    html = dossier_html(title="run", cases=cases, labels=LABELS)
    scans = data_of(html)["cases"]
    assert all(picture for scan in scans for picture in scan["pictures"])
    assert max(scans[0]["shape"]) < 256
    assert len(html) < 700_000  # the numbers and the page itself come on top


def test_of_more_slices_than_fit_those_with_flags_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg_lib.export.dossier.MOST_SLICES", 10)
    cases = [made_case("a", 30, flags={(17, 2): "wide"}), made_case("b", 30)]
    html = dossier_html(title="run", cases=cases, labels=LABELS)
    scans = data_of(html)["cases"]
    assert sum(picture is not None for scan in scans for picture in scan["pictures"]) == 10
    assert scans[0]["pictures"][16] is not None
    assert any(scans[1]["pictures"])
    assert "10 of 60 slices have a picture, those with flags first" in html


def test_a_scan_that_is_gone_and_one_without_image_are_said() -> None:
    def gone() -> Any:
        raise DataError("'lumbar_02': the files are gone.")

    there = made_case("lumbar_01", 3)
    _, mask = there.slices()
    bare = replace(there, name="masks only", slices=lambda: (None, mask))
    html = dossier_html(
        title="run", cases=[bare, replace(made_case("lumbar_02", 3), slices=gone)], labels=LABELS
    )
    assert "the scan could not be read again" in html
    scans = data_of(html)["cases"]
    assert all(scans[0]["pictures"]) and not any(scans[1]["pictures"])
    assert scans[1]["areas"][0][0] > 0


def test_names_never_become_markup_and_what_is_to_be_hidden_is() -> None:
    evil = "</script><script>alert(1)</script>&<b>'\""
    case = replace(made_case(evil, 2, flags={(1, 1): evil}), warnings=[evil], how_measured=evil, flags=[evil])
    html = dossier_html(
        title=evil,
        cases=[case],
        labels=LabelTable([evil, "b"]),
        model={evil: evil},
        settings={evil: [evil]},
        notes=[evil],
        failures=[(evil, evil)],
        review=[ReviewMark(evil, 1, "fail", evil)],
    )
    assert "<script>alert" not in html and "<b>'" not in html
    assert data_of(html)["cases"][0]["name"] == evil
    hidden = dossier_html(
        title="of Miller",
        cases=[replace(case, name=name, warnings=["of Miller"]) for name in ("case_1", "case_2")],
        labels=LABELS,
        notes=["Miller"],
        settings={"input_dir": "Miller"},
        failures=[("case_3", "'Miller.dcm' is torn")],
        review=[ReviewMark("case_1", 1, "pass")],
        hide=lambda text: "…",
    )
    assert "Miller" not in hidden
    # Names of cases tell nothing, and hidden they could not be told apart.
    assert [scan["name"] for scan in data_of(hidden)["cases"]] == ["case_1", "case_2"]
    assert data_of(hidden)["review"][0][0] == "case_1" and "case_3" in hidden


def test_nothing_is_asked_of_the_network() -> None:
    html = dossier_html(title="run", cases=[made_case("a", 2)], labels=LABELS)
    assert "default-src 'none'" in html
    addresses = set(re.findall(r"[a-z]+://[^\"'\s<)]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of SVG's vocabulary; nothing is fetched


def test_marks_of_an_earlier_review_are_shown_and_kept(tmp_path: Path) -> None:
    marks = (
        ReviewMark("lumbar_01", 2, "fail", 'leaks, "left"\nand below'),
        ReviewMark("lumbar_01", 3, "", "=1+1"),
        ReviewMark("another run", 7, "pass"),
    )
    write_review(tmp_path / "review.csv", marks)
    assert (tmp_path / "review.csv").read_text(encoding="utf-8").splitlines()[
        0
    ] == "case,slice_number,mark,comment"
    assert read_review(tmp_path / "review.csv") == marks
    path = write_dossier(
        tmp_path / "report.html", title="run", cases=[made_case("lumbar_01", 4)], labels=LABELS
    )
    shown = data_of(path.read_text(encoding="utf-8"))["review"]
    assert shown == [[mark.case, mark.slice_number, mark.mark, mark.comment] for mark in marks]


def test_review_that_is_none_is_said_and_the_page_is_made(tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    assert read_review(review) == ()
    review.write_text("scan,slice\na,1\n", encoding="utf-8")
    with pytest.raises(DataError, match="the columns case, slice_number, mark are missing"):
        read_review(review)
    review.write_text("case,slice_number,mark\na,0,pass\na,2,good\na,3,Pass\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: found the slice number '0'.*line 3: found the mark 'good'"):
        read_review(review)
    case = made_case("a", 2)
    html = write_dossier(tmp_path / "report.html", title="run", cases=[case], labels=LABELS).read_text(
        encoding="utf-8"
    )
    assert "The marks were not taken over" in html
    review.write_text("case;slice_number;mark\na;2;pass\na;2;fail\n", encoding="utf-8")
    assert read_review(review) == (
        ReviewMark("a", 2, "fail"),
    )  # the last one counts; semicolons as Excel saves


def test_a_slice_that_the_noise_makes_large_is_drawn_smaller() -> None:
    case: DossierCase = made_case("a", 6, size=512)
    volume, mask = case.slices()
    place = {1: 1, 2: 2}
    large = dossier_pictures.draw_case(volume, mask, [1, 2, 3], place, 1e9)
    small = dossier_pictures.draw_case(volume, mask, [1, 2, 3], place, 20_000)
    assert max(large.shape) == 512
    assert 96 <= max(small.shape) < 512
    assert sum(len(item["image"]) + len(item["runs"]) for item in small.items.values()) <= 3.3 * 20_000
