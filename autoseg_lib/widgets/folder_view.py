"""What a folder holds, series by series, as a table: for the folder picker, and where there are no widgets."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from autoseg_lib.data.series_table import SeriesFacts
from autoseg_lib.errors import AutosegError
from autoseg_lib.io.files import walk_files
from autoseg_lib.settings import AUTO
from autoseg_lib.viz.html import css, note_html, render
from autoseg_lib.workflow.listing import Listing, list_scans, skipped_groups, table_cells

# Reading the headers of this many files takes a few seconds; a folder with more is described only once it is chosen.
_MOST_FILES = 1500
# Scans listed, and series to tick; the command line lists them all.
_MOST_ROWS = 12

# What the setting ``series`` takes.
Series = str | int | list[int]


def look_into(folder: Path, series: Series = AUTO) -> tuple[Markup, list[SeriesFacts]]:
    """Returns what a folder holds, series by series, from the headers alone; and the series to choose from.

    Series are offered where one number means one series, that is, where they all lie in one folder.

    Args:
        folder: the folder.
        series: which are used, as the setting of that name.
    """
    count = 0
    for _ in walk_files(folder):
        count += 1
        if count > _MOST_FILES:
            text = f"More than {_MOST_FILES} files in here and below. Open a sub-folder, or select this one to take all."
            return note_html("info", text), []
    if count == 0:
        return note_html("info", "No files in here."), []
    try:
        listing = list_scans(folder, series=series)
    except AutosegError as error:
        return note_html("info", str(error)), []
    offered = [item for item in listing.table if item.series_number is not None or item.modality]
    numbers = [item.number for item in offered if not item.problem]
    to_tick = 1 < len(numbers) <= _MOST_ROWS and len(set(numbers)) == len(numbers)
    return folder_html(listing, to_tick), [i for i in offered if not i.problem] if to_tick else []


def folder_html(listing: Listing, to_tick: bool = False) -> Markup:
    """Returns the table of series in short, what is odd, and what was skipped.

    Args:
        listing: of the folder.
        to_tick: whether boxes follow, to choose series with.
    """
    used = sum(item.chosen and not item.problem for item in listing.table)
    said = [
        f"{item.name}: {text}"
        for item in listing.table
        if item.chosen
        for text in (item.problem, *item.odd)
        if text
    ]
    groups = skipped_groups(listing.found.skipped, most_opened=0)
    skipped = ", ".join(f"{len(group.files)} × {group.reason}" for group in groups[:4])
    number = sum(len(group.files) for group in groups)
    damaged = len(listing.damaged)
    return render(
        "folder.html.j2",
        css=css(),
        title=f"This folder holds {'1 scan' if used == 1 else f'{used} scans'}",
        titles=listing.titles,
        rows=[
            {"cells": table_cells(item), "used": item.chosen and not item.problem}
            for item in listing.table[:_MOST_ROWS]
        ],
        more=max(0, len(listing.table) - _MOST_ROWS),
        said=list(dict.fromkeys(said))[:4],
        unsaid=max(0, len(dict.fromkeys(said)) - 4),
        skipped=f"{number} other file{'s' if number > 1 else ''} skipped: {skipped}" if number else "",
        damaged=f"{damaged} file{'s look' if damaged > 1 else ' looks'} damaged" if damaged else "",
        choose="Ticked series are segmented. At first these are all scans, no localizers." if to_tick else "",
    )
