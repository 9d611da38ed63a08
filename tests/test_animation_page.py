"""animation.html in a real browser: opened from disk, clicked through."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoseg_lib.export.animation import write_animation
from autoseg_lib.labels import LabelTable
from tests.helpers.scans import small_scan

pytestmark = pytest.mark.browser

# The colours on the canvas in the middle of an image pixel.
_PIXEL = """([row, column, rows, columns]) => { const c = document.getElementById('picture');
const x = Math.floor((column + 0.5) * c.width / columns), y = Math.floor((row + 0.5) * c.height / rows);
return Array.from(c.getContext('2d').getImageData(x, y, 1, 1).data).slice(0, 3); }"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("AUTOSEG_REQUIRE_ALL") == "1":
            pytest.fail("Chromium is required (AUTOSEG_REQUIRE_ALL=1), but was not found.")
        pytest.skip("Chromium was not found")
    sync_api = pytest.importorskip("playwright.sync_api")
    scan, mask = small_scan(name="Fälle & <b>7</b>")
    path = tmp_path_factory.mktemp("a b ä") / "animation.html"
    write_animation(path, scan, mask, LabelTable(["psoas left", "psoas right"]))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.faults = []
        tab.on("pageerror", lambda error: tab.faults.append(str(error)))
        tab.on("console", lambda note: tab.faults.append(note.text) if note.type == "error" else None)
        tab.on(
            "request", lambda request: tab.faults.append(request.url) if "http" in request.url[:5] else None
        )
        tab.goto(Path(path).as_uri())
        tab.wait_for_timeout(400)
        yield tab
        assert not tab.faults
        browser.close()


def pixel(page: Any, row: int, column: int) -> list[int]:
    page.wait_for_timeout(150)
    return page.evaluate(_PIXEL, [row, column, 20, 30])


def test_a_walk_through_the_page(page: Any) -> None:
    assert page.title() == "Fälle & <b>7</b>"
    assert page.inner_text("#where") == "Slice 2 of 4 · IM_0002"
    assert page.inner_text("#area1") == "50.0"
    assert page.inner_text("#area2") == "0.0"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#where") == "Slice 3 of 4 · IM_0003"
    assert page.inner_text("#area2") == "16.0"

    red, _, blue = pixel(page, 7, 7)
    assert red > blue + 20  # orange fill over grey
    red, _, blue = pixel(page, 1, 1)
    assert abs(red - blue) < 4
    page.fill("#opacity", "100")
    assert pixel(page, 7, 7) == [230, 159, 0]
    assert pixel(page, 13, 22) == [86, 180, 233]

    page.click("text=psoas left")
    red, _, blue = pixel(page, 7, 7)
    assert abs(red - blue) < 4
    assert pixel(page, 13, 22) == [86, 180, 233]
    assert not page.is_checked("#all")
    page.keyboard.press("1")
    assert pixel(page, 7, 7) == [230, 159, 0]
    assert page.is_checked("#all")

    page.fill("#slider", "0")
    assert page.inner_text("#where").startswith("Slice 1 of 4")
    page.click("#play")
    page.wait_for_timeout(500)
    assert page.inner_text("#play") == "Pause"
    page.click("#play")
    assert page.inner_text("#play") == "Play"


def test_the_picture_keeps_its_proportions(page: Any) -> None:
    """20 rows of 2 mm by 30 columns of 1 mm."""
    width, height = page.evaluate("[picture.width, picture.height]")
    assert (width, height) == (480, 640)
