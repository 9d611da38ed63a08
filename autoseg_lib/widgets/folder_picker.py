"""Choosing a folder of scans by clicking: sub-folders, the way up, what a folder holds, and which of its series to take."""

from __future__ import annotations

import asyncio
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as W
from markupsafe import Markup

from autoseg_lib.data.series_table import SeriesFacts
from autoseg_lib.io.files import natural_key
from autoseg_lib.settings import AUTO
from autoseg_lib.viz.html import note_html
from autoseg_lib.widgets.folder_view import Series, look_into
from autoseg_lib.widgets.last_folder import last_folder, remember_folder

# A list longer than this is no help to anybody.
_MOST_SHOWN = 500
_NONE_BELOW = "(no folders in here)"


class FolderPicker:
    """The widget. ``widget`` is what to show; ``on_select`` hears the folder that was accepted."""

    def __init__(
        self, on_select: Callable[[Path, Series], None], start: Path | None = None, series: Series = AUTO
    ) -> None:
        """Args:
        on_select: called with the folder and the series that were ticked when Select is pressed.
        start: folder to open in; by default the last one used.
        series: the setting of that name; it says which series are ticked at first.
        """
        self._on_select = on_select
        self._series = series
        self._boxes: list[tuple[Any, int, bool]] = []
        self._folder: Path | None = None
        self._ticket = 0
        self._quiet = False
        self._tasks: set[Any] = set()
        self._path = W.Text(
            placeholder="or type the folder here and press Enter",
            continuous_update=False,
            layout=W.Layout(width="620px", max_width="80%"),
        )
        self._up = W.Button(
            description="Up", icon="arrow-up", tooltip="the folder above", layout=W.Layout(width="80px")
        )
        self._list = W.Select(options=[], rows=8, layout=W.Layout(width="708px", max_width="97%"))
        self._info = W.HTML()
        self._ticks = W.VBox([])
        self._select = W.Button(
            description="Select this folder",
            icon="check",
            button_style="primary",
            layout=W.Layout(width="200px"),
        )
        self._path.observe(self._typed, "value")
        self._up.on_click(lambda _: self.go_up())
        self._list.observe(self._clicked, "value")
        self._select.on_click(lambda _: self.accept())
        self.widget = W.VBox(
            [W.HBox([self._up, self._path]), self._list, self._info, self._ticks, self._select]
        )
        self.open(start or last_folder())

    @property
    def folder(self) -> Path | None:
        """The folder shown now; None while Windows drives are shown."""
        return self._folder

    @property
    def folder_names(self) -> list[str]:
        """Names of the sub-folders in the list."""
        return [name for name, value in self._list.options if value]

    @property
    def info(self) -> str:
        """What is said about the folder, as HTML."""
        return str(self._info.value)

    @property
    def series(self) -> Series:
        """What the setting ``series`` becomes: as given while nothing else was ticked, else the numbers ticked."""
        ticked = [number for box, number, _ in self._boxes if box.value]
        if not ticked or all(box.value == at_first for box, _, at_first in self._boxes):
            return self._series
        return ticked

    def open(self, folder: Path) -> None:
        """Goes to a folder and says what it holds."""
        try:
            folder = folder.expanduser().absolute()
            names = _sub_folders(folder)
        except PermissionError:
            self._say("warning", f"'{folder}': you may not look into this folder. Choose another one.")
            return
        except (OSError, RuntimeError, ValueError):
            self._say("warning", f"'{folder}': no such folder. Check the spelling, or click your way to it.")
            return
        self._folder = folder
        self._fill(str(folder), [(name, str(folder / name)) for name in names])
        self._select.disabled = False
        self._describe(folder)

    def go_up(self) -> None:
        """Goes to the folder above; above a Windows drive, to the list of drives."""
        if self._folder is None:
            return
        if self._folder.parent != self._folder:
            self.open(self._folder.parent)
        elif os.name == "nt":
            self._folder = None
            self._fill("", [(drive, drive) for drive in _drives()])
            self._select.disabled = True
            self._info.value = ""

    def accept(self) -> None:
        """Takes the folder shown, as the button does."""
        if self._folder is not None:
            remember_folder(self._folder)
            self._on_select(self._folder, self.series)

    def _fill(self, path: str, options: list[tuple[str, str]]) -> None:
        self._quiet = True
        self._path.value = path
        self._list.options = options or [(_NONE_BELOW, "")]
        # Nothing is chosen yet: a click on any entry, the first one too, is a change and opens it.
        self._list.value = None
        self._quiet = False

    def _typed(self, change: Any) -> None:
        if not self._quiet and change["new"].strip():
            # Paths copied from a file manager often come in quotes.
            self.open(Path(change["new"].strip().strip("\"'")))

    def _clicked(self, change: Any) -> None:
        if not self._quiet and change["new"]:
            self.open(Path(change["new"]))

    def _say(self, kind: str, text: str) -> None:
        self._info.value = str(note_html(kind, text))

    def _describe(self, folder: Path) -> None:
        self._ticket += 1
        self._say("info", "Looking into the folder ...")
        self._offer([])
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._show(*look_into(folder, self._series))
            return
        task = loop.create_task(self._describe_later(folder, self._ticket))
        # The loop itself keeps no hold on its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _describe_later(self, folder: Path, ticket: int) -> None:
        html, series = await asyncio.to_thread(look_into, folder, self._series)
        # Somebody who clicked on meanwhile gets to see the newer folder only.
        if ticket == self._ticket:
            self._show(html, series)

    def _show(self, html: Markup, series: list[SeriesFacts]) -> None:
        self._info.value = str(html)
        self._offer(series)

    def _offer(self, series: list[SeriesFacts]) -> None:
        """Shows a box to tick for each series."""
        self._boxes = []
        for item in series:
            slices = "1 slice" if item.slices == 1 else f"{item.slices} slices"
            text = f"series {item.number}: {item.name}, {item.kind}, {slices}"
            box = W.Checkbox(
                value=item.chosen, description=text, indent=False, layout=W.Layout(width="auto", margin="0")
            )
            self._boxes.append((box, item.number, item.chosen))
        self._ticks.children = [box for box, _, _ in self._boxes]


def _sub_folders(folder: Path) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if not entry.name.startswith((".", "$")) and entry.is_dir():
                    names.append(entry.name)
            except OSError:
                continue  # a broken link is no folder
    return sorted(names, key=natural_key)[:_MOST_SHOWN]


def _drives() -> list[str]:
    return [f"{letter}:\\" for letter in string.ascii_uppercase if Path(f"{letter}:\\").exists()]
