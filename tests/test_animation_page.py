"""animation.html in a real browser: opened from disk, clicked through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from autoseg_lib.export.animation import write_animation
from autoseg_lib.labels import LabelTable
from tests.helpers.pages import comes_true, opened, running_browser, wait_until
from tests.helpers.scans import small_scan

pytestmark = pytest.mark.browser

# The colours on the canvas in the middle of an image pixel.
ORANGE, SKY_BLUE = (230, 159, 0), (86, 180, 233)
# The colour of a pixel of a copy: the page's own canvas is not made to be read.
_PIXEL = """([row, column, rows, columns]) => { const c = document.getElementById('picture'), copy = new OffscreenCanvas(c.width, c.height);
const pen = copy.getContext('2d', {willReadFrequently: true}); pen.drawImage(c, 0, 0); const x = Math.floor((column + 0.5) * c.width / columns), y = Math.floor((row + 0.5) * c.height / rows);
return Array.from(pen.getImageData(x, y, 1, 1).data).slice(0, 3); }"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    scan, mask = small_scan(name="Fälle & <b>7</b>")
    path = tmp_path_factory.mktemp("a b ä") / "animation.html"
    write_animation(path, scan, mask, LabelTable(["psoas left", "psoas right"]))
    with running_browser() as browser, opened(browser, path, drawn="#picture") as tab:
        wait_until(tab, "document.getElementById('where').innerText !== ''")
        yield tab


def comes_to(page: Any, row: int, column: int, colour: tuple[int, int, int]) -> bool:
    """Whether the picture soon has that colour there."""
    return comes_true(page, lambda: page.evaluate(_PIXEL, [row, column, 20, 30]) == list(colour))


def comes_to_tint(page: Any, row: int, column: int, tinted: bool) -> bool:
    """Whether orange soon lies over the grey there, or soon no longer does."""

    def is_so() -> bool:
        red, _, blue = page.evaluate(_PIXEL, [row, column, 20, 30])
        return bool(red > blue + 20) if tinted else bool(abs(red - blue) < 4)

    return comes_true(page, is_so)


def test_a_walk_through_the_page(page: Any) -> None:
    assert page.title() == "Fälle & <b>7</b>"
    assert page.inner_text("#where") == "Slice 2 of 4 · IM_0002"
    assert page.inner_text("#area1") == "50.0"
    assert page.inner_text("#area2") == "0.0"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#where") == "Slice 3 of 4 · IM_0003"
    assert page.inner_text("#area2") == "16.0"

    assert comes_to_tint(page, 7, 7, tinted=True)
    assert comes_to_tint(page, 1, 1, tinted=False)
    page.fill("#opacity", "100")
    assert comes_to(page, 7, 7, ORANGE)
    assert comes_to(page, 13, 22, SKY_BLUE)

    page.click("text=psoas left")
    assert comes_to_tint(page, 7, 7, tinted=False)
    assert comes_to(page, 13, 22, SKY_BLUE)
    assert not page.is_checked("#all")
    page.keyboard.press("1")
    assert comes_to(page, 7, 7, ORANGE)
    assert page.is_checked("#all")

    page.fill("#slider", "0")
    assert page.inner_text("#where").startswith("Slice 1 of 4")
    page.click("#play")
    wait_until(page, "document.getElementById('play').innerText === 'Pause'")
    page.click("#play")
    assert page.inner_text("#play") == "Play"


def test_the_picture_keeps_its_proportions(page: Any) -> None:
    """20 rows of 2 mm by 30 columns of 1 mm."""
    width, height = page.evaluate("[picture.width, picture.height]")
    assert (width, height) == (480, 640)
