"""A written page in a headless Chromium, for tests that click."""

from __future__ import annotations

from collections.abc import Iterator
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
def opened(browser: Any, path: Path, scheme: str = "light") -> Iterator[Any]:
    """The page once its pictures are drawn; fails where it reports an error or asks for anything on a network."""
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
    tab.wait_for_selector(".tile canvas")
    yield tab
    assert faults == []
    tab.close()
