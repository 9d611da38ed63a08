"""What a folder holds, series by series: for `autoseg check` on a folder that is no training folder, and the folder picker."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import IMAGE_FOLDERS, Discovery, ImageSource, discover, series_folders
from autoseg_lib.data.manifest import manifest_columns
from autoseg_lib.data.series_table import SeriesFacts, default_choice, how_to_choose, series_table
from autoseg_lib.errors import DataError, counted, name_list
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.io.raster import check_picture_header
from autoseg_lib.io.segments import describe_segments, is_segment_file
from autoseg_lib.io.slice_header import SkippedFile
from autoseg_lib.io.volume_files import check_volume_header
from autoseg_lib.settings import AUTO

# Skipped files named in each group, and files with ROIs that are opened to name these.
_MOST_NAMED = 3
_MOST_OPENED = 10


# Columns of the table of series; the first says whether it is used.
TITLES = ("", "series", "name", "kind", "slices", "matrix", "pixel, mm", "slice distance", "orientation")


@dataclass(frozen=True)
class SkippedGroup:
    """Files that were left out for one reason.

    Attributes:
        reason: in words, without what differs from file to file.
        files: their names.
        contents: what some of them hold (names of ROIs), for files that hold ROIs by name.
    """

    reason: str
    files: tuple[str, ...]
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The scans of a folder.

    Attributes:
        path: what was looked at.
        found: the scans, those that are used first.
        series: number, or numbers, of the series that were asked for; "auto" for none.
    """

    path: Path
    found: Discovery
    series: str | int | list[int] = AUTO

    @cached_property
    def table(self) -> tuple[SeriesFacts, ...]:
        """What each series is: those that are used, then the others."""
        return tuple(series_table(self.found))

    @property
    def choice(self) -> str:
        """A sentence on which series are used, and how to choose."""
        if self.series == AUTO:
            return default_choice(self.found)
        left = sum(not item.chosen for item in self.table)
        numbers = ", ".join(map(str, self.series)) if isinstance(self.series, list) else self.series
        refused = sum(item.chosen and bool(item.problem) for item in self.table)
        of_them = f" ({refused} of them cannot be used)" if refused else ""
        said = (
            f"series = {numbers}: {counted(len(self.table) - left, 'scan')} chosen{of_them}, {left} left out."
        )
        return f"{said} {how_to_choose(self.found)}" if self.in_several_folders else said

    @cached_property
    def in_several_folders(self) -> bool:
        """Whether series lie in several folders, so that one number stands for a series in each."""
        return len(series_folders(self.found)) > 1

    @property
    def titles(self) -> tuple[str, ...]:
        """Columns of the table of series; the first says whether it is used."""
        return tuple(
            "no. in folder" if title == "series" and self.in_several_folders else title for title in TITLES
        )

    @cached_property
    def groups(self) -> tuple[SkippedGroup, ...]:
        """The files that are no scans, by reason, largest group first; damaged ones are not among them."""
        return skipped_groups(self.found.skipped)

    @property
    def damaged(self) -> tuple[SkippedFile, ...]:
        """Files that look like damaged scans."""
        return tuple(item for item in self.found.skipped if item.serious)

    def lines(self, width: int | None = None) -> list[str]:
        """Returns the table of series, which are used, and what was left out, grouped by reason.

        Args:
            width: characters that a line of the table may have; None for all that there is to say.
        """
        used = sum(item.chosen and not item.problem for item in self.table)
        more = sum(not item.chosen for item in self.table)
        refused = len(self.table) - used - more
        rest = f"; {refused} more cannot be used" if refused else ""
        rest += f"; {more} more {'is' if more == 1 else 'are'} left out" if more else ""
        lines = [f"'{self.path.name}' holds {counted(used, 'scan')}{rest}:"]
        rows = [self.titles, *(table_cells(item) for item in self.table)]
        if width is not None:
            rows = _narrowed(rows, width - len(_INDENT))
        lines += [f"{_INDENT}{line}" for line in _columns(rows)]
        # What is odd about a series that is not used is nobody's concern.
        taken = [item for item in self.table if item.chosen]
        lines += [f"  ✘ {text}" for text in _by_text((item.name, item.problem) for item in taken)]
        lines += [f"  ⚠ {text}" for text in _by_text((item.name, odd) for item in taken for odd in item.odd)]
        if self.choice:
            lines.append(self.choice)
        lines += [note for note in self.found.notes if not _said_by_table(note)]
        if self.groups:
            number = sum(len(group.files) for group in self.groups)
            lines.append(f"{counted(number, 'file')} skipped:")
            lines += [f"  {group_text(group)}" for group in self.groups]
        if self.damaged:
            count = "1 file looks" if len(self.damaged) == 1 else f"{len(self.damaged)} files look"
            lines.append(f"{count} damaged:")
            lines += [f"  -  {item.path.name}: {item.reason}" for item in self.damaged]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Returns the listing as plain values for ``--json``."""
        return {
            "path": str(self.path),
            "scans": [_facts_dict(item) for item in self.table if item.chosen],
            "left_out": [_facts_dict(item) for item in self.table if not item.chosen],
            "choice": self.choice,
            "skipped": [
                {"file": item.path.name, "reason": item.reason, "damaged": item.serious}
                for item in self.found.skipped
            ],
            "groups": [asdict(group) for group in self.groups],
            "damaged": len(self.damaged),
            "notes": list(self.found.notes),
        }


def skipped_groups(
    skipped: Sequence[SkippedFile], most_opened: int = _MOST_OPENED
) -> tuple[SkippedGroup, ...]:
    """Groups files that are no scans by reason.

    Args:
        skipped: the files.
        most_opened: of each group so many files are opened, to name the ROIs in them; 0 for a quick look.
    """
    by_reason: dict[str, list[SkippedFile]] = defaultdict(list)
    for item in skipped:
        if not item.serious:
            by_reason[_REASON_END.split(item.reason)[0].removeprefix("it is ")].append(item)
    groups = []
    for reason, items in by_reason.items():
        opened = [item.path for item in items[:most_opened] if is_segment_file(item.path)]
        contents = tuple(dict.fromkeys(describe_segments(path) for path in opened))
        groups.append(SkippedGroup(reason, tuple(item.path.name for item in items), contents))
    return tuple(sorted(groups, key=lambda group: -len(group.files)))


# What follows is a number or an advice that differs from file to file.
_REASON_END = re.compile(r"; |\. | \(\d")


def group_text(group: SkippedGroup) -> str:
    """Returns one line: "12 × contours (RTSTRUCT): 'a.dcm', 'b.dcm' and 10 more"."""
    text = f"{len(group.files)} × {group.reason}: {name_list(list(group.files), _MOST_NAMED)}"
    return f"{text} ({'; '.join(group.contents[:_MOST_NAMED])})" if group.contents else text


def _by_text(said: Iterable[tuple[str, str]]) -> list[str]:
    """Says each sentence once, with the names of all scans that it is about."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, text in said:
        if text:
            names[text].append(name)
    return [f"{', '.join(_shortened(several))}: {text}" for text, several in names.items()]


def _shortened(names: Sequence[str]) -> list[str]:
    return [*names[:_MOST_NAMED], f"and {len(names) - _MOST_NAMED} more"] if len(names) > 4 else list(names)


def table_cells(item: SeriesFacts) -> tuple[str, ...]:
    """Returns one line of the table as texts, see ``TITLES``."""
    spacing = ""
    if item.spacing_mm is not None:
        row, column = item.spacing_mm
        spacing = f"{row:.2f}" if abs(row - column) < 0.005 else f"{row:.2f} × {column:.2f}"
    # Of volumes the description says all that is known without reading them.
    kind = item.description if item.kind == "volume file" else f"{item.modality} {item.kind}".strip()
    return (
        ("✘" if item.problem else "✔") if item.chosen else "·",
        str(item.number) if item.series_number is not None or item.modality else "",
        item.name,
        kind if item.chosen else f"{kind}, left out",
        str(item.slices or ""),
        "×".join(map(str, item.matrix)) if item.matrix else "",
        spacing,
        item.slice_distance,
        item.orientation,
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Sets cells in columns; numbers of slices to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            if width
        ]
        lines.append(_GAP.join(cells).rstrip())
    return lines


_RIGHT = (1, 4)
_INDENT = "  "
_GAP = "  "
_NAME = TITLES.index("name")
_SHORTEST_NAME = 16
# What a narrow terminal does without, in this order.
_LEAST_NEEDED = tuple(
    TITLES.index(title) for title in ("matrix", "pixel, mm", "orientation", "slice distance")
)
# The same in fewer letters. A series that is left out has its sign in the first column.
_BRIEF = (
    (re.compile(r", left out$"), ""),
    (re.compile(r"^no\. in folder$"), "no."),
    (re.compile(r"^slice distance$"), "distance"),
    (re.compile(r", oblique by (?=\d+°$)"), " "),
    (re.compile(r"^several images at one position$"), "repeated"),
    (re.compile(r"^no slice positions$"), "unknown"),
    (re.compile(r"^([\d.]+) to ([\d.]+ mm)$"), r"\1–\2"),
)


def _narrowed(rows: Sequence[Sequence[str]], width: int) -> list[tuple[str, ...]]:
    """Says the table in fewer letters, without the columns least needed, and long names without their middle."""
    cells = [list(row) for row in rows]
    if _table_width(cells) <= width:
        return [tuple(row) for row in cells]
    for row in cells:
        for column, text in enumerate(row):
            if column == _NAME:
                continue
            for pattern, brief in _BRIEF:
                text = pattern.sub(brief, text)
            row[column] = text
    longest = max(len(row[_NAME]) for row in cells)
    for column in _LEAST_NEEDED:
        if _table_width(cells) - longest + min(longest, _SHORTEST_NAME) <= width:
            break
        for row in cells:
            row[column] = ""
    room = max(_SHORTEST_NAME, width - (_table_width(cells) - longest))
    for row in cells:
        row[_NAME] = _without_middle(row[_NAME], room)
    return [tuple(row) for row in cells]


def _table_width(rows: Sequence[Sequence[str]]) -> int:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = [width for width in widths if width]
    return sum(shown) + len(_GAP) * (len(shown) - 1)


def _without_middle(name: str, room: int) -> str:
    """Shortens "a_very_long_name_001" to "a_very…e_001": what tells names apart is often at their ends."""
    if len(name) <= room:
        return name
    end = room // 2
    return f"{name[: room - end - 1]}…{name[-end:]}"


def _facts_dict(item: SeriesFacts) -> dict[str, Any]:
    values = asdict(item)
    values["warnings"] = list(values.pop("odd"))
    return values


def _said_by_table(note: str) -> bool:
    """Whether a note repeats what the table, the choice or the last lines say."""
    return bool(
        re.match(
            r"\d+ files? looks? damaged|(A|\d+) localizer|one folder holds|\d+ scans? left out|\d+ series of screenshots",
            note,
        )
    )


def holds_training_data(path: Path) -> bool:
    """Whether ``path`` is laid out for training: train/ with labels, labels beside images, or a manifest with labels.

    Folder names count in upper and lower case, as Windows and macOS see them.
    """
    if path.is_file():
        if path.suffix.lower() != ".csv":
            return False
        return "label" in manifest_columns(path)
    try:
        folders = {child.name.lower() for child in path.iterdir() if child.is_dir()}
    except OSError:
        return False  # listing it tells why it cannot be opened
    return "train" in folders or ("labels" in folders and any(name in folders for name in IMAGE_FOLDERS))


def list_scans(path: Path, on_event: Listener = nobody, *, series: str | int | list[int] = AUTO) -> Listing:
    """Looks at the headers below ``path``.

    Args:
        path: folder, file or manifest.
        on_event: hears the progress.
        series: as the setting of that name: which series to use.

    Raises:
        DataError: nothing there can be read, or there is no such series.
    """
    found = discover(
        path, series=series, on_progress=lambda done, total: on_event(Progress("Looking", done, total))
    )
    sources, damaged = [], []
    for source in found.sources:
        faults = _faults(source)
        damaged += faults
        if not faults:
            sources.append(source)
    if not sources:
        raise DataError(
            f"'{path}': no scan in it can be read: {damaged[0].path.name}: {damaged[0].reason}. Choose another folder or file."
        )
    return Listing(path, replace(found, sources=tuple(sources), skipped=(*found.skipped, *damaged)), series)


def _faults(source: ImageSource) -> list[SkippedFile]:
    """Returns the files of a scan whose header cannot be read; DICOM headers were read when they were found."""
    faults = []
    for file in source.images if source.series is None else ():
        try:
            if source.kind == "volume":
                check_volume_header(file)
            else:
                check_picture_header(file)
        except DataError as error:
            text = re.sub(rf"^(image )?'{re.escape(file.name)}': ", "", str(error))
            text = text.split(". ")[0].rstrip(".")  # what to do about it is told when it is used
            more = f"; the scan '{source.name}' needs it" if len(source.images) > 1 else ""
            faults.append(SkippedFile(file, text + more, serious=True))
    return faults
