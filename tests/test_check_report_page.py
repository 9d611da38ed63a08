"""The page of the data check in a real browser: filtered, sorted, enlarged, by mouse and keyboard, with 2000 slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoseg_lib.data.doctor.finding import Finding, Fix, Sample
from autoseg_lib.export.check_report import write_check_report
from tests.helpers.made_reports import made_case, made_report
from tests.helpers.pages import comes_true, opened, running_browser, shut_large, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

EVIL = "Fälle & <b>7</b>"
# The colour on the enlarged canvas at a share of its height and width.
_PIXEL = """([number, row, column]) => { const c = document.querySelectorAll('#stage canvas')[number];
return Array.from(c.getContext('2d').getImageData(Math.floor(column * c.width), Math.floor(row * c.height), 1, 1).data).slice(0, 3); }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    cases = [made_case(EVIL, 12, 1), made_case("lumbar_02", 12, 2), made_case("lumbar_03", 12, 3)]
    findings = [
        Finding("error", "near_miss", "1 label looks like a match", ("x.png",), (), Fix("Rename 1 file", ())),
        Finding("warning", "turned_label", "2 labels are turned", (), (Sample("lumbar_02", 3), Sample(EVIL, 5)),
                details={"transform": "flip left-right"}),
        Finding("warning", "shifted", "all of lumbar_03", (), (Sample("lumbar_03"),)),
    ]  # fmt: skip
    report = made_report(cases, findings, names=[f"psoas {EVIL}", "right"])
    fit = {(case.name, index): 0.9 - 0.01 * index for case in cases for index in range(12)}
    path = tmp_path_factory.mktemp("a b ä") / "check_report.html"
    write_check_report(path, replace(report, fit=fit), title=f"Data check · {EVIL}")
    with opened(browser, path) as tab:
        yield tab


def names(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".tile .name").all_text_contents()]


def test_filtering_by_finding_search_and_sorting(page: Any) -> None:
    assert page.title() == f"Data check · {EVIL}"
    assert page.inner_text("#shown") == "36 slices"
    assert page.inner_text("#verdict") == "1 error, 2 warnings. Click one to see its slices."
    assert "Fix offered: Rename 1 file" in page.inner_text("#findings")
    assert page.locator("button.finding", has_text="Near miss").count() == 0  # no slices to show

    page.click("button.finding >> text=Turned label")
    assert names(page) == [f"{EVIL} slice_006", "lumbar_02 slice_004"]
    assert page.inner_text("#shown") == "2 of 36 slices"
    page.click("button.finding >> text=Turned label")
    assert page.inner_text("#shown") == "36 slices"
    page.click("button.finding >> text=Slices without findings")
    assert page.inner_text("#shown") == "22 of 36 slices"
    page.keyboard.press("Escape")
    assert page.inner_text("#shown") == "36 slices"
    page.check("#flagged")
    assert page.inner_text("#shown") == "14 of 36 slices"
    page.uncheck("#flagged")

    page.fill("#search", "lumbar_02 slice_01")
    assert names(page) == ["lumbar_02 slice_010", "lumbar_02 slice_011", "lumbar_02 slice_012"]
    page.fill("#search", "<b>7")
    assert page.inner_text("#shown") == "12 of 36 slices"
    page.fill("#search", "nowhere")
    assert "No slice matches" in page.inner_text("#nothing")
    page.fill("#search", "")

    page.select_option("#sort", "fit")
    assert names(page)[0] == f"{EVIL} slice_012"
    page.select_option("#sort", "large:1")
    areas = page.evaluate("list.map((index) => data.samples[index].areas[0])")
    assert areas == sorted(areas, reverse=True)
    page.select_option("#sort", "small:2")
    areas = page.evaluate("list.map((index) => data.samples[index].areas[1])")
    assert areas == sorted(areas)
    page.select_option("#sort", "findings")
    assert page.evaluate("list[0]") == 5
    page.select_option("#sort", "name")


def test_larger_view_with_what_would_be_right(page: Any) -> None:
    page.click("button.finding >> text=Turned label")
    page.locator(".tile").nth(1).click()
    assert page.inner_text("#name") == "lumbar_02 · slice_004"
    assert page.inner_text("#place") == "2 of 2"
    assert "2 labels are turned" in page.inner_text("#said")
    assert "label fits the image to 0.87" in page.inner_text("#facts")
    assert page.locator("#stage figcaption").all_inner_texts() == ["as stored", "flip left-right"]

    def comes_to(number: int, inked: bool) -> bool:
        """Whether the disc's fill is soon there, or not: ROI 1 lies left of the middle as stored, right of it when flipped."""

        def is_so() -> bool:
            red, _, blue = page.evaluate(_PIXEL, [number, 0.35, 0.35])
            return (red > blue + 8) == inked

        return comes_true(page, is_so)

    assert comes_to(0, inked=True) and comes_to(1, inked=False)
    page.keyboard.down(" ")
    assert comes_to(0, inked=False)
    page.keyboard.up(" ")
    assert comes_to(0, inked=True)
    page.keyboard.press("2")
    assert comes_to(0, inked=False)
    page.keyboard.press("0")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#name") == f"{EVIL} · slice_006"
    shut_large(page)
    assert page.evaluate("document.activeElement.dataset.index") == "5"
    page.keyboard.press("Escape")


def test_keyboard_and_roi_buttons(page: Any) -> None:
    page.keyboard.press("n")
    assert page.inner_text("#shown") == "2 of 36 slices"
    page.keyboard.press("n")
    assert page.inner_text("#shown") == "12 of 36 slices"
    page.keyboard.press("p")
    assert page.inner_text("#shown") == "2 of 36 slices"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("lumbar_03")
    assert page.inner_text("#shown") == "12 of 36 slices"
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#name") == f"{EVIL} · slice_002"
    shut_large(page)
    assert page.locator(".roi").all_inner_texts() == [f"psoas {EVIL}", "right"]
    page.click(".roi >> nth=0")
    assert page.get_attribute(".roi >> nth=0", "aria-pressed") == "false"
    page.keyboard.press("0")
    assert page.get_attribute(".roi >> nth=0", "aria-pressed") == "true"


def test_a_finding_on_a_scan_shows_its_slices_unmarked(browser: Any, tmp_path: Path) -> None:
    case = made_case("lumbar_09", 3, 1)
    slices = tuple(replace(s, label_file=Path(f"{i}.png")) for i, s in enumerate(case.slices))
    cases = [replace(case, slices=slices), made_case("lumbar_10", 2, 2)]
    finding = Finding("error", "unreadable", "a label cannot be read", ("x.png",), (Sample("lumbar_09"),))
    path = tmp_path / "check_report.html"
    write_check_report(path, made_report(cases, [finding]), title="Data check")
    with opened(browser, path) as tab:
        assert tab.locator(".tile .mark").count() == 0
        assert tab.inner_text("button.finding >> nth=1").startswith("✖ Unreadable")
        assert "1 scan" in tab.inner_text("button.finding >> nth=1")
        tab.click("button.finding >> text=Unreadable")
        assert tab.inner_text("#shown") == "3 of 5 slices"
        tab.locator(".tile").first.click()
        assert "Of the scan: a label cannot be read" in tab.inner_text("#said")


def test_two_thousand_slices_open_scroll_and_print(browser: Any, tmp_path: Path) -> None:
    case = made_case("one", 20)
    cases = [replace(case, name=f"case_{number:03d}") for number in range(100)]
    findings = [Finding("warning", "x", "some", (), tuple(Sample(case.name, 3) for case in cases[::10]))]
    path = write_check_report(tmp_path / "check_report.html", made_report(cases, findings), title="t")
    with opened(browser, path) as page:
        assert page.inner_text("#shown") == "2000 slices"
        # Only what is near the screen is drawn, wherever one scrolls.
        for share in (0.5, 1.0):
            page.evaluate("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", share)
            wait_until(
                page,
                """(() => { const seen = tiles.filter((tile) => { const box = tile.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; });
                return seen.length > 10 && seen.every((tile) => tile.querySelector('canvas')); })()""",
            )
            assert page.locator(".tile canvas").count() < 300
        started = page.evaluate("performance.now()")
        page.fill("#search", "case_07 slice_004")
        assert page.inner_text("#shown") == "10 of 2000 slices"
        page.fill("#search", "")
        page.select_option("#sort", "large:1")
        assert page.evaluate("performance.now()") - started < 10_000
        # Paper gets what is chosen, not what is on the screen.
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".tile canvas").count() == 600
        assert "the first 600 are printed" in page.inner_text("#shown")
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.inner_text("#shown") == "2000 slices"


def test_without_scripts_the_page_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    path = write_check_report(tmp_path / "r.html", made_report([made_case("a", 1)]), title="t")
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto(path.as_uri())
    assert 'press "Trust HTML" above' in tab.inner_text("body")
