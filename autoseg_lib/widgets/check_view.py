"""The data check as a notebook shows it: counts, ROIs, findings with pictures, and where the full report is."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.pictures import Gallery
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.io.label_codes import code_of
from autoseg_lib.viz.finding_picture import color_of
from autoseg_lib.viz.html import css, finding_item, note_html, render, table_html

# Findings shown in the notebook, those with pictures, and pictures of each; the full report has everything.
_MOST_FINDINGS = 30
_MOST_ILLUSTRATED = 12
_MOST_PICTURES = 4


def check_html(report: CheckReport, pairs: int, page: Markup | str = "") -> Markup:
    """Returns summary, table of ROIs and findings of the data check, with small pictures.

    Args:
        report: of the data check.
        pairs: pairs of image and label.
        page: where the full report is, ``check_page_html``.
    """
    rows = [
        (
            row.name,
            row.value,
            row.slices,
            row.cases,
            "unknown" if row.median_area_mm2 is None else f"{row.median_area_mm2:.1f}",
            f"{row.share_percent:.2f} %",
        )
        for row in report.roi_rows
    ]
    header = ("ROI", "label value", "slices", "scans", "median area, mm²", "share of pixels")
    colors = [row.color for row in report.roi_rows]
    table = table_html(rows, header, colors=colors, numeric=(1, 2, 3, 4, 5)) if rows else Markup("")
    gallery = Gallery(report.facts)
    items: list[dict[str, Any]] = []
    seen: set[tuple[tuple[str, int], ...]] = set()
    for number, finding in enumerate(report.findings[:_MOST_FINDINGS]):
        item = finding_item(finding)
        places = tuple(gallery.places(finding))
        # The same slices, with nothing to show beside them, were just looked at.
        again = finding.fix is None and places in seen
        seen.add(places)
        pictures = []
        if number < _MOST_ILLUSTRATED and not again:
            pictures = gallery.pictures(finding, _MOST_PICTURES)
        item["fix"] = _fix_text(finding)
        item["codes"] = _codes(finding)
        item["more"] = max(0, len(places) - len(pictures))
        item["pictures"] = [
            {
                "caption": picture.caption,
                "data": base64.b64encode(picture.jpeg).decode("ascii"),
                "width": picture.width_px,
            }
            for picture in pictures
        ]
        items.append(item)
    left = len(report.findings) - len(items)
    what = "1 pair" if pairs == 1 else f"{pairs} pairs"
    return render(
        "check.html.j2",
        css=css(),
        summary=note_html("info", report.summary),
        table=table,
        items=items,
        good=f"No problems found in {what}.",
        left=f"{left} more findings are in the full report." if left else "",
        fine=[finding.text for finding in report.fine],
        page=page,
    )


def check_text(report: CheckReport, fix_hint: str = "") -> str:
    """Returns the data check as plain lines, for where HTML cannot be drawn."""
    lines = report.lines()
    fixes = [finding.fix.text for finding in report.fixable if finding.fix is not None]
    if fixes:
        lines.append("Fixes offered: " + "; ".join(fixes) + ".")
        if fix_hint:
            lines.append(fix_hint)
    return "\n".join(lines)


def check_page_html(path: Path, link: str) -> Markup:
    """Returns where the full report is.

    Args:
        path: the file.
        link: its address as seen from the notebook, "" where the notebook cannot reach it.
    """
    return render("check_page.html.j2", path=str(path), link=quote(link))


def _codes(finding: Finding) -> list[dict[str, str]]:
    """Returns colour and text of each code that a map is proposed for, to tell them apart in the pictures."""
    codes = []
    for key, value in (finding.details.get("label_map") or {}).items():
        code = code_of(key)
        if code:
            codes.append(
                {"color": color_of(code), "text": f"{key} → ROI {value}" if value else f"{key} → background"}
            )
    return codes


def _fix_text(finding: Finding) -> str:
    if finding.fix is None:
        return ""
    look = "" if finding.fix.sure else " Please look at the result."
    return f"Fix offered: {finding.fix.text}.{look}"


def link_to(file: Path, here: Path, served: Path | None) -> str:
    """Returns the address of a file as a notebook's output links to it, "" where Jupyter does not serve it.

    Args:
        file: the file.
        here: the notebook's folder.
        served: the folder that Jupyter serves, see ``served_folder``; None where that is not known.
    """
    if served is None or not file.resolve().is_relative_to(served.resolve()):
        return ""
    return os.path.relpath(file.resolve(), here.resolve()).replace(os.sep, "/")


def served_folder() -> Path | None:
    """Returns the folder whose files the Jupyter that started this kernel serves; None where there is no such Jupyter.

    Jupyter keeps a note on each of its running servers (jpserver-PID.json), and starts kernels as children.
    """
    from jupyter_core.paths import jupyter_runtime_dir  # comes with every kernel

    try:
        note = Path(jupyter_runtime_dir()) / f"jpserver-{os.getppid()}.json"
        return Path(json.loads(note.read_text(encoding="utf-8"))["root_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
