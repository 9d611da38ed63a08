"""A written page in a headless Chromium, for tests that click."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.lab import find_chromium


@contextmanager
def running_browser() -> Iterator[Any]:
    """Chromium itself; skips where playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(browser: Any, path: Path, scheme: str = "light", drawn: str = ".tile canvas") -> Iterator[Any]:
    """The page once its pictures are there; fails where it reports an error or asks for anything on a network."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda note: faults.append(note.text) if note.type in ("error", "warning") else None)
    tab.on(
        "request",
        lambda ask: faults.append(ask.url) if ask.url[:5] not in ("file:", "data:", "blob:") else None,
    )
    tab.on("dialog", lambda question: question.accept())
    tab.goto(path.as_uri())
    tab.wait_for_selector(drawn)
    yield tab
    assert faults == []
    tab.close()


def shut_large(tab: Any) -> None:
    """Escape in the enlarged slice, and waits for what the page does then: the focus goes back in a task of its own."""
    tab.evaluate("""() => { window.isShut = new Promise(
        (done) => dialog.addEventListener("close", () => setTimeout(done, 50), {once: true})); }""")
    tab.keyboard.press("Escape")
    tab.evaluate("window.isShut")


def wait_until(tab: Any, expression: str) -> None:
    """Asks until it is so; the page forbids evaluating text, with which Playwright's own waiting asks again."""
    assert comes_true(tab, lambda: bool(tab.evaluate(expression)), tries=120), (
        f"never became true: {expression}"
    )


def comes_true(tab: Any, ask: Callable[[], bool], tries: int = 40) -> bool:
    """Whether it is so soon; the page gets a quarter of a second before each time it is asked."""
    for _ in range(tries):
        tab.wait_for_timeout(250)
        if ask():
            return True
    return False
