"""The page of the data check without a browser: what is in the file, what is not, and the pictures of findings."""

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

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample
from autoseg_lib.data.doctor.pictures import Gallery, fullest_slice, largest
from autoseg_lib.export.check_report import check_report_html, write_check_report
from autoseg_lib.io.label_codes import FIRST_COLOUR
from autoseg_lib.viz.finding_picture import draw_small
from autoseg_lib.viz.view import SliceView
from tests.helpers.made_reports import made_case, made_report, made_slice

EVIL = "<script>alert('ä')</script>\"&</SCRIPT>"


def page_data(html: str) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r"^const data = (.*);$", html, flags=re.M)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def label_from(runs: str, shape: tuple[int, int]) -> np.ndarray:
    """Run lengths as the page unpacks them."""
    codes = base64.b64decode(runs)
    values = np.zeros(shape[0] * shape[1], np.uint8)
    at = 0
    for value, length in zip(codes[::2], codes[1::2], strict=True):
        values[at : at + length] = value
        at += length
    return values.reshape(shape)


def with_slice(case: CaseFacts, index: int, **changes: Any) -> CaseFacts:
    """The case with one slice changed."""
    slices = list(case.slices)
    slices[index] = replace(slices[index], **changes)
    return replace(case, slices=tuple(slices))


# --- what is in the file ----------------------------------------------------------------------------------------------


def test_slices_labels_and_areas_are_in_the_page() -> None:
    case = made_case("lumbar_01", 3)
    data = page_data(check_report_html(made_report([case]), title="t"))
    assert [(s["case"], s["slice"]) for s in data["samples"]] == [
        ("lumbar_01", f"slice_00{n}") for n in (1, 2, 3)
    ]
    first, item = data["samples"][0], case.slices[0]
    np.testing.assert_array_equal(label_from(first["runs"], (96, 96)), item.small_label)
    np.testing.assert_array_equal(label_from(first["large"]["runs"], (192, 192)), largest(item)[1])
    # 1.5 mm × 1.5 mm a pixel.
    assert first["areas"] == [round(item.counts[1] * 2.25, 1), round(item.counts[2] * 2.25, 1)]
    assert first["unit"] == "mm²"
    assert first["facts"] == "MR · slice 1 of 3 · 192 × 192 pixels · 1.50 mm"
    sheet = cv2.imdecode(np.frombuffer(base64.b64decode(data["sheets"][0]), np.uint8), 0)
    number, left, top, width, height = data["samples"][1]["at"]
    assert (number, left, top, width, height) == (0, 96, 0, 96, 96)
    shown = sheet[top : top + height, left : left + width].astype(int)
    assert np.abs(shown - case.slices[1].small_image).mean() < 3


def test_a_slice_is_turned_and_keeps_its_proportions() -> None:
    """Rows run towards the patient's front: the picture is turned upside down. Pixels of 1 × 3 mm: three times as wide."""
    from autoseg_lib.geometry import Geometry

    case = made_case("a", 1)
    affine = np.array([[0, 0, 3.0, 0], [0, -1.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    case = replace(case, geometry=Geometry((1, 192, 192), affine))
    (sample,) = page_data(check_report_html(made_report([case]), title="t"))["samples"]
    assert sample["aspect"] == pytest.approx(1 / 3, abs=1e-4)
    np.testing.assert_array_equal(label_from(sample["runs"], (96, 96)), case.slices[0].small_label[::-1])
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(sample["large"]["image"]), np.uint8), 0)
    assert np.abs(picture.astype(int) - largest(case.slices[0])[0][::-1]).mean() < 5


def test_findings_belong_to_their_slices() -> None:
    cases = [made_case("a", 3, 1), made_case("b", 2, 2)]
    findings = [
        Finding("warning", "empty_labels", "empty", (), (Sample("a", 1), Sample("b"))),
        Finding("error", "no_label", "orphans", ("x.dcm", "y.dcm"), (), Fix("Leave out 2 images", ())),
        Finding("warning", "gone", "of a case that could not be read", (), (Sample("c"), Sample("a", 9))),
    ]
    data = page_data(check_report_html(made_report(cases, findings), title="t"))
    assert [(f["severity"], f["title"], f["count"]) for f in data["findings"]] == [
        ("error", "No label", 0),
        ("warning", "Empty labels", 3),
        ("warning", "Gone", 0),
    ]
    assert data["findings"][0]["fix"] == "Leave out 2 images"
    assert [s["findings"] for s in data["samples"]] == [[], [1], [], [1], [1]]


def test_a_finding_on_a_scan_marks_no_slice_unless_they_have_one_label() -> None:
    several = made_case("a", 3, 1)
    for index in range(3):
        several = with_slice(several, index, label_file=Path(f"a_{index}.png"))
    volume = made_case("b", 2, 2)
    for index in range(2):
        volume = with_slice(volume, index, label_file=Path("b.nii.gz"))
    findings = [
        Finding("error", "unreadable", "one label cannot be read", ("a_7.png",), (Sample("a"),)),
        Finding("warning", "empty_labels", "empty", (), (Sample("a", 1), Sample("a"))),
        Finding("warning", "grid", "another grid", (), (Sample("b"),)),
    ]
    data = page_data(check_report_html(made_report([several, volume], findings), title="t"))
    assert [(f["title"], f["count"], f["scans"]) for f in data["findings"]] == [
        ("Unreadable", 0, 1),
        ("Empty labels", 1, 1),
        ("Grid", 2, 0),
    ]
    assert [s["findings"] for s in data["samples"]] == [[], [1], [], [2], [2]]
    assert [s["scan"] for s in data["samples"]] == [[0, 1], [0], [0, 1], [], []]


def test_names_cannot_become_markup_and_patients_are_hidden() -> None:
    case = with_slice(made_case(EVIL, 2), 0, name=EVIL)
    finding = Finding("error", EVIL, f"label '{EVIL}' of Jane Doe", (EVIL, "Doe.dcm"), (Sample(EVIL, 0),))
    html = check_report_html(
        made_report([case], [finding], names=[EVIL, "psoas"]),
        title=f"{EVIL} Doe",
        hide=lambda text: text.replace("Doe", "***"),
    )
    assert html.lower().count("<script") == 1
    assert html.lower().count("</script") == 1
    assert "alert('" not in html
    assert "Doe" not in html
    assert page_data(html)["samples"][0]["slice"] == EVIL


def test_nothing_is_loaded_from_the_network() -> None:
    html = check_report_html(made_report([made_case("a", 2)]), title="t")
    text = re.sub(r'"[A-Za-z0-9+/=]{200,}"', '""', html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|src=", text)
    assert "default-src 'none'" in html


def test_codes_are_drawn_in_their_own_numbers() -> None:
    """Values without a name, and colours, whose codes are huge."""
    red = FIRST_COLOUR + 0xFF0000
    case = made_case("a", 1)
    item = case.slices[0]
    small = item.small_label.astype(np.uint32)
    small[small == 1] = red
    counts = {0: item.counts[0], red: item.counts[1], 2: item.counts[2]}
    # As the facts keep it: places among the values found.
    places = np.searchsorted([0, 2, red], np.where(largest(item)[1] == 1, red, largest(item)[1].astype(int)))
    png = cv2.imencode(".png", places.astype(np.uint8))[1].tobytes()
    case = with_slice(case, 0, small_label=small, counts=counts, view_label_png=png)
    data = page_data(check_report_html(made_report([case]), title="t"))
    assert [(roi["value"], roi["name"], roi["color"]) for roi in data["rois"]] == [
        (1, "psoas right", "#56B4E9"),
        (2, "#FF0000", "#FF0000"),
    ]
    assert set(np.unique(label_from(data["samples"][0]["large"]["runs"], (192, 192)))) == {0, 1, 2}


def test_two_thousand_slices_stay_below_25_megabytes(tmp_path: Path) -> None:
    case = made_case("one", 20)
    cases = [replace(case, name=f"case_{number:03d}") for number in range(100)]
    file = write_check_report(tmp_path / "a b" / "check_report.html", made_report(cases), title="t")
    assert 2e6 < file.stat().st_size < 25e6
    data = page_data(file.read_text(encoding="utf-8"))
    assert len(data["samples"]) == 2000
    assert len(data["sheets"]) == 20


def test_an_empty_report_is_a_page_too() -> None:
    report = made_report([], [Finding("error", "main_dir", "main_dir 'x': not found.")])
    data = page_data(check_report_html(report, title="t"))
    assert data["samples"] == [] and data["sheets"] == []
    assert data["findings"][0]["text"] == "main_dir 'x': not found."


# --- pictures of findings ---------------------------------------------------------------------------------------------


def test_pictures_show_different_cases_first_and_whole_cases_by_their_fullest_slice() -> None:
    cases = [made_case("a", 3, 1), made_case("b", 3, 2)]
    cases[1] = with_slice(cases[1], 0, counts={0: 9216})
    cases[1] = with_slice(cases[1], 2, counts={0: 9000, 1: 216})
    assert fullest_slice(cases[1]) == 1
    finding = Finding("warning", "x", "x", (), (Sample("a", 0), Sample("a", 2), Sample("b"), Sample("gone")))
    pictures = Gallery(cases).pictures(finding, limit=2)
    assert [picture.caption for picture in pictures] == ["a · slice_001", "b · slice_002"]
    decoded = cv2.imdecode(np.frombuffer(pictures[0].jpeg, np.uint8), 1)
    assert decoded.shape == (240, 240, 3)
    assert Gallery(cases).pictures(Finding("error", "x", "x")) == []


def test_outlines_in_the_fixed_colours() -> None:
    image = np.full((96, 96), 100, np.uint8)
    label = np.zeros((96, 96), np.uint16)
    label[20:60, 20:60], label[70:90, 70:90] = 1, 40000
    drawn = draw_small(image, label, SliceView(), 96)
    assert drawn[20, 40].tolist() == [230, 159, 0]
    assert drawn[5, 5].tolist() == [100, 100, 100]
    assert drawn[80, 80].tolist() != [100, 100, 100]


def fix_of(kind: str, files: tuple[Path, ...], **parameters: Any) -> Finding:
    return Finding("warning", "x", "x", fix=Fix("y", (FixAction(kind, files, parameters),)))


def test_a_fix_is_shown_beside_what_is_stored() -> None:
    case, other = made_case("a", 3, 1), made_case("b", 3, 2)
    files = [Path(f"a{index}.png") for index in range(3)]
    for index, file in enumerate(files):
        case = with_slice(case, index, label_file=file)
    other = with_slice(other, 1, label_file=Path("b1.png"))
    gallery = Gallery([case, other])
    stored = [largest(item)[1] for item in case.slices]

    text, label = gallery.proposal(fix_of("transform", (files[1],), transform="flip left-right"), "a", 1)
    assert text == "flip left-right"
    np.testing.assert_array_equal(label, stored[1][:, ::-1])
    assert gallery.proposal(fix_of("transform", (files[1],), transform="transpose"), "a", 0) is None

    # What is drawn on slice i belongs on slice i + 1: slice 2 gets the label of slice 1, the first slice none.
    shift = fix_of("shift", tuple(files), slices=1)
    text, label = gallery.proposal(shift, "a", 1)
    assert text == "label of slice_001"
    np.testing.assert_array_equal(label, stored[0])
    assert gallery.proposal(shift, "a", 0) is None

    _, label = gallery.proposal(fix_of("map_values", tuple(files), map={1: 2, 2: 1}), "a", 0)
    np.testing.assert_array_equal(label, np.array([0, 2, 1])[stored[0]])

    text, label = gallery.proposal(fix_of("swap_labels", (files[0], Path("b1.png"))), "a", 0)
    assert text == "label of b"
    np.testing.assert_array_equal(label, largest(other.slices[1])[1])

    picture = gallery.pictures(replace(shift, samples=(Sample("a", 1),)), limit=4)[0]
    assert picture.caption == "a · slice_002: as stored | label of slice_001"
    assert cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), 1).shape == (240, 2 * 240 + 6, 3)


def test_a_small_picture_stands_where_there_is_no_large_one() -> None:
    item = replace(made_slice("s", 1), view_jpeg=b"", view_label_png=b"")
    image, label = largest(item)
    assert image is item.small_image and label is item.small_label
