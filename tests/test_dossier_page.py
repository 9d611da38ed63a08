"""report.html in a real browser: from a number to its slice, filtered, marked, saved, printed, by mouse and keyboard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoseg_lib.export.dossier import write_dossier
from autoseg_lib.export.review import ReviewMark, read_review, write_review
from autoseg_lib.labels import LabelTable
from tests.helpers.made_runs import made_case
from tests.helpers.pages import comes_true, opened, running_browser, shut_large, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

EVIL = "Fälle & <b>7</b>"
LABELS = LabelTable([f"psoas {EVIL}", "right"])
# The colour on the enlarged canvas at a share of its height and width.
_PIXEL = """([row, column]) => { const c = document.getElementById('picture'), copy = new OffscreenCanvas(c.width, c.height);
const pen = copy.getContext('2d', {willReadFrequently: true}); pen.drawImage(c, 0, 0);
return Array.from(pen.getImageData(Math.floor(column * c.width), Math.floor(row * c.height), 1, 1).data).slice(0, 3); }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    cases = [
        made_case(EVIL, 12, labels=LABELS, flags={(3, 1): EVIL, (3, 2): EVIL, (5, 2): "touches the border"}),
        replace(made_case("lumbar_02", 12, seed=1, labels=LABELS), flags=("CT, the model knows MR",)),
    ]
    write_review(tmp_path / "review.csv", [ReviewMark("lumbar_02", 4, "pass"), ReviewMark("gone", 1, "fail")])
    path = write_dossier(
        tmp_path / "report.html",
        title=f"Run {EVIL}",
        cases=cases,
        labels=LABELS,
        model={"model": EVIL},
        settings={"overlap": 0.5, "tta": True},
        failures=[("lumbar_03", "'lumbar_03': two rows are missing.")],
    )
    with opened(browser, path) as tab:
        yield tab


def tiles(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".tile .name").all_text_contents()]


def large(page: Any) -> str:
    return str(page.inner_text("#name")) if page.evaluate("dialog.open") else ""


def comes_to(page: Any, row: float, column: float, inked: bool) -> bool:
    """Whether the enlarged picture is soon coloured there by an ROI's fill, or not; the picture itself is grey."""

    def is_so() -> bool:
        red, _, blue = page.evaluate(_PIXEL, [row, column])
        return (abs(red - blue) > 8) == inked

    return comes_true(page, is_so)


def test_summary_and_what_to_know_first(page: Any) -> None:
    assert page.title() == f"Run {EVIL}"
    assert page.locator(".fact").all_inner_texts() == [
        "2 scans", "2 ROIs", "24 slices", "2 flagged slices", "1 scan not to trust unseen", "1 failed",
        "1 of 24 slices marked",
    ]  # fmt: skip
    said = page.locator(".said").all_inner_texts()
    assert said[0] == "✖ lumbar_03: 'lumbar_03': two rows are missing."
    assert said[1] == "⚠ lumbar_02: CT, the model knows MR"
    made = page.inner_text("section[aria-labelledby=made]")
    assert "How lumbar_02 was measured. (lumbar_02)" in made
    assert EVIL in made and "tta\tyes" in made


def test_from_a_volume_and_from_an_area_to_their_slice(page: Any) -> None:
    # The discs shrink from the first slice on, so that is the largest one.
    page.locator("button.go[data-case='1'][data-slice='1']").first.click()
    assert large(page) == "lumbar_02 · slice 1"
    shut_large(page)
    assert page.evaluate("document.activeElement.dataset.case") == "1"

    assert "Choose a scan above" in page.inner_text("#unit")
    page.select_option("#scan", "0")
    assert page.inner_text("#unit").startswith(f"{EVIL}, mm²")
    rows = page.locator("#numbers tbody tr")
    assert rows.count() == 12
    assert page.locator("#numbers tfoot td").first.inner_text() == "mean"
    area = page.evaluate("data.cases[0].areas[1][4]")
    number = rows.nth(4).locator("button.go").nth(2)
    assert number.inner_text() == f"{area:.1f}"
    assert "touches the border" in rows.nth(4).inner_text()
    number.click()
    assert large(page) == f"{EVIL} · slice 5"
    assert page.locator("#measured tr.now").inner_text().startswith("right")
    assert f"{area:.1f}" in page.locator("#measured tr.now").inner_text()
    assert page.inner_text("#reasons") == "⚠ right: touches the border"
    # ROI 1 lies at 0.3, 0.3 and ROI 2 at 0.7, 0.7; the corner is grey.
    assert (
        comes_to(page, 0.3, 0.3, inked=True)
        and comes_to(page, 0.7, 0.7, inked=True)
        and comes_to(page, 0.85, 0.15, inked=False)
    )


def test_clicking_in_the_plot_shows_that_slice(page: Any) -> None:
    page.select_option("#scan", "1")
    page.wait_for_selector("#plots svg")
    assert page.locator("#plots svg .band").count() == 2
    page.locator("#plots svg").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = page.locator("#plots svg").bounding_box()
    x = page.evaluate("""() => { const svg = document.querySelector('#plots svg'), dot = svg.querySelectorAll('circle')[7];
        return dot.getBoundingClientRect().left + 2; }""")
    page.mouse.click(x, box["y"] + 60)
    assert large(page) == "lumbar_02 · slice 8"
    shut_large(page)
    page.locator("#plots svg").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert large(page) == "lumbar_02 · slice 3"


def test_filters_and_flagged_slices(page: Any) -> None:
    assert page.inner_text("#shown") == "24 slices"
    page.select_option("#filter", "flagged")
    assert tiles(page) == ["slice 3", "slice 5"]
    assert page.inner_text("#shown") == "2 of 24 slices"
    assert page.locator("#grid h3").all_inner_texts() == [EVIL]
    page.locator(".tile").first.click()
    # Both ROIs have it, so it is said of the slice.
    assert page.inner_text("#reasons") == f"⚠ {EVIL}"
    page.keyboard.press("ArrowRight")
    assert large(page) == f"{EVIL} · slice 5"
    shut_large(page)
    page.select_option("#filter", "pass")
    assert page.inner_text("#shown") == "1 of 24 slices"
    page.select_option("#filter", "fail")
    assert "No slice matches" in page.inner_text("#nothing")
    page.select_option("#filter", "all")


def test_marks_are_saved_as_a_table_that_is_read_back(page: Any, tmp_path: Path) -> None:
    page.select_option("#scan", "0")
    page.locator(".tile").nth(1).click()
    page.click("#fail")
    assert page.get_attribute("#fail", "aria-pressed") == "true"
    page.fill("#comment", '=leaks, "left"')
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("f")
    page.keyboard.press("u")
    shut_large(page)
    assert page.inner_text("#looked") == "3"
    assert page.locator(".tile .mark").all_inner_texts() == ["✖", "✔"]
    with page.expect_download() as waiting:
        page.click("#save")
    saved = tmp_path / "downloaded.csv"
    waiting.value.save_as(saved)
    assert waiting.value.suggested_filename == "review.csv"
    text = saved.read_bytes().decode("utf-8")
    assert text == (
        "case,slice_number,mark,comment\n"
        f'{EVIL},2,fail,"\'=leaks, ""left"""\n'
        f"{EVIL},3,pass,\n"
        "lumbar_02,4,pass,\n"
        "gone,1,fail,\n"
    )
    assert page.input_value("#text") == text
    assert read_review(saved) == (
        ReviewMark(EVIL, 2, "fail", '=leaks, "left"'),
        ReviewMark(EVIL, 3, "pass"),
        ReviewMark("lumbar_02", 4, "pass"),
        ReviewMark("gone", 1, "fail"),
    )


def test_keyboard_and_roi_buttons(page: Any) -> None:
    page.keyboard.press("n")
    assert large(page) == f"{EVIL} · slice 3"
    page.keyboard.press("n")
    assert large(page) == f"{EVIL} · slice 5"
    assert comes_to(page, 0.3, 0.3, inked=True)
    page.keyboard.down(" ")
    assert comes_to(page, 0.3, 0.3, inked=False)
    page.keyboard.up(" ")
    page.keyboard.press("2")
    assert comes_to(page, 0.3, 0.3, inked=False) and comes_to(page, 0.7, 0.7, inked=True)
    page.keyboard.press("0")
    page.keyboard.press("ArrowLeft")
    assert large(page) == f"{EVIL} · slice 4"
    shut_large(page)
    assert large(page) == ""
    # Escape leads back to the tile of the slice that was looked at last.
    assert page.evaluate("document.activeElement.dataset.index") == "3"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert large(page) == f"{EVIL} · slice 5"
    shut_large(page)
    assert page.locator(".roi").all_inner_texts() == [f"psoas {EVIL}", "right"]
    page.click(".roi >> nth=0")
    assert page.get_attribute(".roi >> nth=0", "aria-pressed") == "false"
    page.keyboard.press("0")
    assert page.get_attribute(".roi >> nth=0", "aria-pressed") == "true"


def test_printed_with_every_picture(page: Any, tmp_path: Path) -> None:
    page.emulate_media(media="print")
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    wait_until(page, "document.querySelectorAll('.tile canvas').length === 24")
    assert page.locator("#plots svg").count() == 2
    assert not page.is_visible("#save")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")


def test_a_thousand_slices_open_fast_and_scroll(browser: Any, tmp_path: Path) -> None:
    cases = [made_case(f"scan_{n}", 500, size=192, seed=n, labels=LABELS) for n in range(2)]
    path = write_dossier(tmp_path / "report.html", title="many", cases=cases, labels=LABELS)
    assert path.stat().st_size < 30_000_000
    started = time.monotonic()
    with opened(browser, path, scheme="dark") as tab:
        assert time.monotonic() - started < 15  # about 1.5 s on an idle computer
        tab.locator(".tile").nth(900).scroll_into_view_if_needed()
        wait_until(tab, "document.querySelectorAll('.tile')[900].querySelector('canvas') !== null")
        # Those that left the screen are given back.
        wait_until(tab, "document.querySelectorAll('.tile canvas').length < 200")
