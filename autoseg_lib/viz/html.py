"""The one place that makes HTML: notes, tables and reports with the same look in notebooks and files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autoseg_lib.labels import LabelTable

# Kinds of notes and the sign each opens with.
NOTE_SIGNS = {"good": "✔", "info": "ℹ", "warning": "⚠", "error": "✖"}


@cache
def _environment() -> Environment:
    # autoescape: names of files and ROIs come from users and must never become markup.
    return Environment(
        loader=PackageLoader("autoseg_lib.viz", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context: Any) -> Markup:
    """Returns the HTML of a template in ``viz/templates``; every value is escaped unless it is Markup
    already."""
    return Markup(_environment().get_template(template).render(**context))


def css() -> Markup:
    """Returns the one style sheet (inside a <style> element): light and dark by JupyterLab's variables,
    with fallbacks."""
    return render("style.html.j2")


def note_html(kind: str, text: str) -> Markup:
    """Returns a note with a sign and colour.

    Args:
        kind: "good", "info", "warning" or "error".
        text: plain words; line breaks are kept.
    """
    return render("note.html.j2", css=css(), kind=kind, sign=NOTE_SIGNS[kind], text=text)


def table_html(
    rows: Sequence[Sequence[Any]],
    header: Sequence[str] = (),
    *,
    caption: str = "",
    colors: Sequence[str | None] = (),
    numeric: Sequence[int] | None = None,
    strong_last: int = 0,
    whole: bool = False,
) -> Markup:
    """Returns a table that copies cleanly into a spreadsheet.

    Args:
        rows: cells, row by row; None becomes an empty cell, Markup stays as it is, all else is escaped.
        header: column names, or none.
        caption: a sentence above the table.
        colors: one colour (``#RRGGBB``) or None for each row, drawn before its first cell.
        numeric: columns set to the right; None: those that hold numbers only.
        strong_last: how many of the last rows (mean, std) are set off by a line.
        whole: as tall as it is; otherwise a long table scrolls.
    """
    shown = [["" if cell is None else cell for cell in row] for row in rows]
    width = max((len(row) for row in shown), default=0)
    if numeric is None:
        numeric = [
            i for i in range(width) if shown and all(_is_number(row[i]) for row in shown if i < len(row))
        ]
    return render(
        "table.html.j2",
        css=css(),
        rows=shown,
        header=list(header),
        caption=caption,
        colors=list(colors) or [None] * len(shown),
        numeric=set(numeric),
        strong_from=len(shown) - strong_last,
        whole=whole,
    )


def finding_item(finding: Any) -> dict[str, Any]:
    """Returns a finding as the templates take it: kind of note, sign, sentence, and files that the sentence does not name."""
    return {
        "kind": finding.severity if finding.severity in NOTE_SIGNS else "info",
        "sign": NOTE_SIGNS.get(finding.severity, NOTE_SIGNS["info"]),
        "text": finding.text,
        "files": [name for name in finding.files if name not in finding.text],
    }


def legend_html(labels: LabelTable) -> Markup:
    """Returns the ROIs' colours and names in one line."""
    return render("legend.html.j2", css=css(), labels=labels)


def picture_html(png: bytes, alt: str, width_px: int | None = None) -> Markup:
    """Returns a picture inside the page.

    Args:
        png: the file's bytes.
        alt: what it shows, for screen readers.
        width_px: width on the page; None: its own, at most the page's.
    """
    return render("picture.html.j2", data=base64.b64encode(png).decode("ascii"), alt=alt, width_px=width_px)


def _is_number(cell: Any) -> bool:
    if isinstance(cell, (int, float)):
        return True
    text = str(cell).replace("\u2212", "-").replace("%", "").strip()
    if not text:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
