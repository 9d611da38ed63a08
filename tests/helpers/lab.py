"""A real JupyterLab in a headless Chromium, for tests that click."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.real_data import REPOSITORY


def find_chromium() -> str:
    """Path of Chromium; skips the test where there is none, fails it with AUTOSEG_REQUIRE_ALL=1."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        path = shutil.which(name)
        if path:
            return path
    text = "no Chromium on this computer"
    if os.environ.get("AUTOSEG_REQUIRE_ALL") == "1":
        pytest.fail(text)
    pytest.skip(text)


class Lab:
    """A running JupyterLab with one browser page on it."""

    def __init__(
        self, page: Any, address: str, token: str, folder: Path, timeout_error: type[Exception]
    ) -> None:
        self.page = page
        self.address = address
        self.token = token
        self.folder = folder
        self.timeout_error = timeout_error
        self.dialogs: list[str] = []  # text of every dialog that was closed

    def open(self, notebook: str) -> None:
        """Opens a notebook of the served folder and waits until its kernel is idle."""
        path = urllib.parse.quote(notebook)
        self.page.goto(f"{self.address}/lab/tree/{path}?reset&token={self.token}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        for _ in range(240):
            self._close_dialogs()
            states = [
                session["kernel"]["execution_state"]
                for session in self.api("sessions")
                if session["path"] == notebook
            ]
            if states == ["idle"] and self.page.locator(".jp-StatusBar-TextItem", has_text="| Idle").count():
                return
            self.page.wait_for_timeout(500)
        raise AssertionError(f"the kernel did not start: {states}")

    def _close_dialogs(self) -> None:
        for _ in range(3):
            buttons = self.page.locator(".jp-Dialog button.jp-mod-accept")
            if buttons.count() == 0:
                return
            self.dialogs.append(self.page.locator(".jp-Dialog").first.inner_text())
            buttons.first.click()
            self.page.wait_for_timeout(300)

    def menu(self, *path: str) -> None:
        """Chooses an entry of the menu bar, as a user does."""
        bar = self.page.locator(".lm-MenuBar-itemLabel", has_text=path[0]).first
        for attempt in range(10):
            # A dialog ("Select Kernel", "File changed") may open at any moment, even between two lines here.
            self._close_dialogs()
            try:
                bar.click(timeout=3000)
                break
            except self.timeout_error:
                if attempt == 9:
                    raise
        for entry in path[1:]:
            self.page.locator(".lm-Menu-itemLabel", has_text=entry).first.click()

    def run_all(self) -> None:
        """Run > Run All Cells, from the top of the notebook; returns once the cells have been taken in."""
        before = self.prompts()
        self.page.locator(".jp-Notebook .jp-Cell").first.click()
        self.menu("Run", "Run All Cells")
        self._wait_for_other_prompts(before)

    def run_cell(self, text: str) -> None:
        """Runs the one code cell that holds a text, with Ctrl+Enter."""
        before = self.prompts()
        cell = self.page.locator(".jp-CodeCell", has_text=text).first
        cell.scroll_into_view_if_needed()
        cell.locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Control+Enter")
        self._wait_for_other_prompts(before)

    def _wait_for_other_prompts(self, before: list[str]) -> None:
        """A page that is slow to answer must not be taken for one whose cells are done."""

        def other() -> bool:
            self._close_dialogs()
            return self.prompts() != before

        self._wait(other, 60, lambda: f"no cell was run: {before}")

    def _wait(self, ask: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
        """Asks four times a second until it is so; fails with the complaint when the time is over."""
        deadline = time.monotonic() + seconds
        while not ask():
            if time.monotonic() > deadline:
                raise AssertionError(f"after {seconds:.0f} s: {complaint()}")
            self.page.wait_for_timeout(250)

    def api(self, path: str) -> Any:
        """JSON answer of the server's REST interface."""
        request = urllib.request.Request(
            f"{self.address}/api/{path}", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def interrupt(self) -> None:
        """Kernel > Interrupt Kernel."""
        self.menu("Kernel", "Interrupt Kernel")

    def prompts(self) -> list[str]:
        """The prompt of each code cell: "[ ]:" not run, "[*]:" running, "[3]:" done."""
        texts = self.page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
        return [text.strip() for text in texts]

    def code_cells(self) -> list[str]:
        """Text of each code cell with its outputs, as one reads it; paths with forward slashes."""
        # Cells far from the middle of the page may not be drawn; a page as tall as the notebook draws them all.
        size = self.page.viewport_size
        self.page.set_viewport_size({"width": size["width"], "height": 9000})
        texts = self._come_to_rest(lambda: self.page.locator(".jp-CodeCell").all_inner_texts())
        self.page.set_viewport_size(size)
        return [text.replace("\\", "/") for text in texts]

    def _come_to_rest(self, look: Callable[[], list[str]]) -> list[str]:
        """What is seen when three looks in a row see the same; while training goes on, after a few seconds."""
        seen: list[list[str]] = []
        while len(seen) < 3 or (seen[-3:] != [seen[-1]] * 3 and len(seen) < 12):
            self.page.wait_for_timeout(400)
            seen.append(look())
        return seen[-1]

    def wait_for_text(self, *texts: str | re.Pattern[str], seconds: float = 60) -> str:
        """Waits until all the texts are to be read somewhere in the notebook.

        After anything that fills outputs without running cells (a button), this is how to ask: the cells are
        filled one after the other, and a text of the first says nothing of the last.

        Args:
            texts: to be found, in any order; a pattern where the text itself may be gone before it is looked at.
            seconds: to wait at most.

        Returns:
            Everything that is to be read then.
        """
        looks = 0
        shown = ""

        def missing() -> list[str | re.Pattern[str]]:
            return [
                text for text in texts if not (text in shown if isinstance(text, str) else text.search(shown))
            ]

        def all_there() -> bool:
            nonlocal looks, shown
            looks += 1
            # Looking at the whole notebook makes the page draw it all: done less often than at what is drawn.
            outputs = self.page.locator(".jp-Notebook .jp-OutputArea")
            cells = self.code_cells() if looks % 20 == 0 else outputs.all_inner_texts()
            shown = "\n".join(cells).replace("\\", "/")
            return not missing()

        self._wait(all_there, seconds, lambda: f"{missing()} did not appear; shown: {shown[-3000:]}")
        return shown

    def click_button(self, text: str) -> None:
        """Presses a widget's button."""
        button = self.page.locator(".jupyter-button", has_text=text).first
        button.scroll_into_view_if_needed()
        button.click()

    def click_folder(self, name: str) -> None:
        """Clicks an entry of the folder picker's list and waits until that folder is open."""
        entry = self.page.locator(".widget-select option", has_text=re.compile(f"^{re.escape(name)}$")).first

        def path() -> str:
            shown: str = self.page.locator(".widget-text input").first.input_value()
            return shown.replace("\\", "/")

        def opened() -> bool:
            return path().endswith("/" + name)

        entry.wait_for(state="attached", timeout=60_000)
        for attempt in range(3):
            try:
                self.page.locator(".widget-select select").first.scroll_into_view_if_needed()
                self._come_to_rest(lambda: [str(entry.bounding_box(timeout=2000))])
                # The page may move once more, so the click may miss; it is repeated unless it has hit after all.
                if not opened():
                    box = entry.bounding_box(timeout=2000)
                    self.page.mouse.click(box["x"] + 20, box["y"] + box["height"] / 2)
                self._wait(opened, 20, lambda: f"the picker did not open '{name}', it shows '{path()}'")
                return
            except (AssertionError, self.timeout_error):
                if opened():
                    return
                if attempt == 2:
                    raise

    def keep_picture(self, name: str) -> None:
        """Keeps a picture of the page where AUTOSEG_SCREENSHOTS names a folder, for people to look at."""
        folder = os.environ.get("AUTOSEG_SCREENSHOTS")
        if folder:
            size = self.page.viewport_size
            self.picture(Path(folder) / f"{name}.png")
            self.page.set_viewport_size({"width": size["width"], "height": 6000})
            self.page.wait_for_timeout(1500)
            self.picture(Path(folder) / f"{name}_tall.png")
            self.page.set_viewport_size(size)

    def wait_until_done(self, seconds: float) -> None:
        """Waits until no cell of the page is running or waiting."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while time.monotonic() < deadline:
            busy = "[*]:" in self.prompts()
            quiet = 0 if busy else quiet + 1
            if quiet >= 3:
                return
            self.page.wait_for_timeout(500)
        raise AssertionError(f"cells still running after {seconds:.0f} s: {self.prompts()}")

    def saved(self, notebook: str) -> Any:
        """The notebook as saved now, outputs included."""
        path = self.folder / notebook
        before = path.stat().st_mtime_ns
        self.menu("File", "Save Notebook")

        def is_whole() -> bool:
            try:
                return path.stat().st_mtime_ns != before and bool(
                    json.loads(path.read_text(encoding="utf-8"))
                )
            except ValueError:
                return False

        self._wait(is_whole, 60, lambda: f"{notebook} was not saved")
        return json.loads(path.read_text(encoding="utf-8"))

    def errors(self, notebook: str) -> list[str]:
        """Text of every cell that failed."""
        texts = []
        for cell in self.saved(notebook)["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    texts.append(f"{output['ename']}: {output['evalue']}\n" + "\n".join(output["traceback"]))
        return texts

    def picture(self, path: Path, full: bool = False) -> None:
        """Takes a screenshot."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), full_page=full)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_lab(folder: Path, home: Path, width: int = 1280, height: int = 800) -> Iterator[Lab]:
    """Serves ``folder`` with JupyterLab and opens a browser page of a 13-inch laptop's size.

    Args:
        folder: what JupyterLab shows.
        home: stands for the user's home folder, so that nothing is left behind.
        width: of the page.
        height: of the page.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = find_chromium()
    port, token = _free_port(), secrets.token_hex(16)
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "AUTOSEG_HOME": str(home / "autoseg"),
    }
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8"
    )
    log = (home / "server.log").open("wb")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *(f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={token}"),
            *(f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"),
        ],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for_server(server, f"{address}/api?token={token}", home / "server.log")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": width, "height": height})
            yield Lab(page, address, token, folder, playwright.TimeoutError)
            browser.close()
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _wait_for_server(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            raise AssertionError(
                f"JupyterLab ended: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
            )
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("JupyterLab did not start within two minutes")
