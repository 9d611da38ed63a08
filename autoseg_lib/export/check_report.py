"""check_report.html: every slice of a data folder with its ROIs and what the data check found, in one file for any browser.

Grey values lie in sheets of many small pictures, labels as run lengths: 2000 slices make a file of about 10 MB, and the page
draws only what is on the screen. Nothing is loaded from the network.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.doctor.facts import CaseFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.pictures import Gallery, largest
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.io.files import write_text
from autoseg_lib.io.label_codes import code_key
from autoseg_lib.viz.finding_picture import color_of, encode
from autoseg_lib.viz.html import render
from autoseg_lib.viz.packing import MOST_ROIS, runs
from autoseg_lib.viz.view import SliceView, resize, resize_labels, slice_view

# Longest side of a picture in the file. The doctor's own are no larger, unless it is told otherwise.
PICTURE_PX = 96
# Pictures in a row and in a column of a sheet: decoded it takes 4 MB of the browser's memory.
_SHEET_SIDE = 10
# More slices than this are not drawn, and no more than this is spent on larger pictures: the file stays below about 25 MB,
# which browsers open in a few seconds. Slices with findings come first.
MOST_SLICES = 4000
_LARGE_BYTES = 12_000_000
# More names than this in one finding help nobody; the number is said.
_MOST_FILES = 200
_MOST_FINDINGS = 400
# A printer gets at most this many pictures: 15 pages.
_MOST_PRINTED = 600
# Opacity of the fill: weaker than elsewhere, because the pictures are small.
_FILL_ALPHA = 0.12


def write_check_report(
    path: Path,
    report: CheckReport,
    *,
    title: str,
    hide: Callable[[str], str] = str,
) -> Path:
    """Writes check_report.html.

    Args:
        path: the file.
        report: of the data check.
        title: heading of the page.
        hide: takes what tells who a patient is out of a sentence or name.

    Returns:
        The file.
    """
    text = check_report_html(report, title=title, hide=hide)
    write_text(path, text)
    return path


def check_report_html(
    report: CheckReport,
    *,
    title: str,
    hide: Callable[[str], str] = str,
) -> str:
    """Returns the page, see ``write_check_report``."""
    findings = report.findings[:_MOST_FINDINGS]
    concerned = _concerned(findings, report.facts)
    of_scans = _of_scans(findings, report.facts)
    shown = _shown(report.facts, concerned)
    values = sorted({value for case in report.facts for value in case.values} - {0})
    names = {label.value: label.name for label in report.labels}
    # The runs hold places in this list, not values: these may be larger than a byte.
    values = values[:MOST_ROIS]
    place = {value: number for number, value in enumerate(values, start=1)}
    gallery = Gallery(report.facts)
    large = _with_large_picture(shown, concerned)
    samples, pictures = [], []
    for case, index in shown:
        view, item = slice_view(case.geometry), case.slices[index]
        image, shape = _picture(item.small_image, view)
        pictures.append(image)
        about = concerned.get((case.name, index), [])
        samples.append(
            {
                "case": hide(case.name),
                "slice": hide(item.name) if len(case.slices) > 1 or item.name != case.name else "",
                "at": _place_on_sheet(len(pictures) - 1, image.shape),
                "aspect": _aspect(item, view),
                "runs": _runs(item.small_label, view, shape, place),
                "areas": _areas(case, item, values),
                "large": _large(item, view, place) if (case.name, index) in large else None,
                "unit": "mm²" if case.geometry.spacing_known else "pixels",
                "facts": _facts_text(case, index),
                "findings": about,
                "scan": [number for number in of_scans.get(case.name, []) if number not in about],
                "fit": report.fit.get((case.name, index)),
                "proposals": [
                    {"finding": number, "text": text, **_runs_with_size(label, view, place)}
                    for number, text, label in _proposals(findings, about, gallery, case.name, index)
                ],
            }
        )
    data = {
        "samples": samples,
        "sheets": [base64.b64encode(encode(sheet)).decode("ascii") for sheet in _sheets(pictures)],
        "rois": [
            {"value": place[value], "name": names.get(value) or _code_name(value), "color": color_of(value)}
            for value in values
        ],
        "findings": [
            _finding(finding, number, concerned, of_scans, hide) for number, finding in enumerate(findings)
        ],
        "alpha": _FILL_ALPHA,
        "printed": _MOST_PRINTED,
    }
    return str(
        render(
            "check_report.html.j2",
            title=hide(title),
            summary=report.summary,
            roi_rows=_roi_rows(report),
            data=data,
            notes=_notes(report, len(shown), len(findings)),
        )
    )


def _notes(report: CheckReport, slices: int, findings: int) -> list[str]:
    """What the page leaves out, with so many slices and findings on it."""
    notes = ["Pictures are small on purpose; nothing in this file can be measured."] if slices else []
    total = sum(len(case.slices) for case in report.facts)
    if slices < total:
        notes.append(
            f"{slices} of {total} slices are shown, those with findings first, to keep this file small."
        )
    if findings < len(report.findings):
        notes.append(f"The first {findings} of {len(report.findings)} findings are shown.")
    return notes


def _roi_rows(report: CheckReport) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "color": row.color,
            "slices": row.slices,
            "area": f"{row.median_area_pixels:.0f} px"
            if row.median_area_mm2 is None
            else f"{row.median_area_mm2:.1f} mm²",
        }
        for row in report.roi_rows
    ]


# --- what belongs to what -----------------------------------------------------------------------------------------------


def _concerned(findings: Sequence[Finding], facts: Sequence[CaseFacts]) -> dict[tuple[str, int], list[int]]:
    """Returns (case, slice index) → numbers of the findings on that slice.

    A finding on a whole case is one on its slices only where they have one label among them, or there is but one: one slice
    of many that cannot be read says nothing against the others.
    """
    cases = {case.name: case for case in facts}
    concerned: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, finding in enumerate(findings):
        for sample in finding.samples:
            case = cases.get(sample.case)
            if case is None or (sample.slice_index is None and not _is_one(case)):
                continue
            count = len(case.slices)
            for index in range(count) if sample.slice_index is None else (sample.slice_index,):
                if index < count and number not in concerned[sample.case, index]:
                    concerned[sample.case, index].append(number)
    return concerned


def _is_one(case: CaseFacts) -> bool:
    """Whether what is said of the case is said of each slice: it has one slice, or one label volume."""
    return len(case.slices) < 2 or len({item.label_file for item in case.slices}) == 1


def _of_scans(findings: Sequence[Finding], facts: Sequence[CaseFacts]) -> dict[str, list[int]]:
    """Returns case → numbers of the findings on the case as a whole that are none on its slices."""
    several = {case.name for case in facts if not _is_one(case)}
    found: dict[str, list[int]] = defaultdict(list)
    for number, finding in enumerate(findings):
        for name in dict.fromkeys(s.case for s in finding.samples if s.slice_index is None):
            if name in several:
                found[name].append(number)
    return found


def _shown(
    facts: Sequence[CaseFacts], concerned: Mapping[tuple[str, int], list[int]]
) -> list[tuple[CaseFacts, int]]:
    everything = [(case, index) for case in facts for index in range(len(case.slices))]
    if len(everything) <= MOST_SLICES:
        return everything
    first = [place for place in everything if concerned.get((place[0].name, place[1]))][:MOST_SLICES]
    chosen = {(case.name, index) for case, index in first}
    rest = [place for place in everything if (place[0].name, place[1]) not in chosen]
    step = len(rest) / max(1, MOST_SLICES - len(first))
    chosen |= {
        (case.name, index)
        for case, index in (rest[int(number * step)] for number in range(MOST_SLICES - len(first)))
    }
    return [(case, index) for case, index in everything if (case.name, index) in chosen]


def _with_large_picture(
    shown: Sequence[tuple[CaseFacts, int]], concerned: Mapping[tuple[str, int], list[int]]
) -> set[tuple[str, int]]:
    """Returns which slices get a larger picture: those with findings, then the others, as far as the bytes go."""
    places = [(case.name, index, case.slices[index]) for case, index in shown]
    places.sort(key=lambda place: not concerned.get(place[:2]))
    chosen, spent = set(), 0
    for name, index, item in places:
        spent += len(item.view_jpeg) + len(item.view_label_png)
        if spent > _LARGE_BYTES:
            break
        if item.view_jpeg:
            chosen.add((name, index))
    return chosen


def _proposals(
    findings: Sequence[Finding],
    about: Sequence[int],
    gallery: Gallery,
    case: str,
    index: int,
) -> Iterator[tuple[int, str, npt.NDArray[np.unsignedinteger]]]:
    for number in about:
        found = gallery.proposal(findings[number], case, index)
        if found is not None:
            yield number, *found


def _finding(
    finding: Finding,
    number: int,
    concerned: Mapping[tuple[str, int], list[int]],
    of_scans: Mapping[str, list[int]],
    hide: Callable[[str], str],
) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "title": _title(finding.code),
        "text": hide(finding.text),
        "files": [hide(name) for name in finding.files[:_MOST_FILES]],
        "fileCount": len(finding.files),
        "fix": finding.fix.text if finding.fix else "",
        "count": sum(number in numbers for numbers in concerned.values()),
        "scans": sum(number in numbers for numbers in of_scans.values()),
    }


def _title(code: str) -> str:
    """Returns a short name of a finding as a heading: "roi_gap" → "ROI gap"."""
    words = [word.upper() if word in ("roi", "rois", "nan", "ct", "mr") else word for word in code.split("_")]
    return words[0][:1].upper() + words[0][1:] + "".join(f" {word}" for word in words[1:])


def _code_name(value: int) -> str:
    key = code_key(value)
    return key if isinstance(key, str) else f"value {key}"


def _areas(case: CaseFacts, item: SliceFacts, values: Sequence[int]) -> list[float]:
    pixel = case.geometry.pixel_area_mm2 if case.geometry.spacing_known else 1
    return [round(float(item.counts.get(value, 0) * pixel), 1) for value in values]


def _facts_text(case: CaseFacts, index: int) -> str:
    geometry = case.geometry
    parts = [case.modality] if case.modality else []
    if len(case.slices) > 1:
        parts.append(f"slice {index + 1} of {len(case.slices)}")
    parts.append(f"{geometry.shape_zyx[1]} × {geometry.shape_zyx[2]} pixels")
    if geometry.spacing_known:
        row, column = geometry.spacing_zyx_mm[1:]
        parts.append(f"{row:.2f} mm" if abs(row - column) < 0.005 else f"{row:.2f} × {column:.2f} mm")
    else:
        parts.append("pixel size unknown")
    return " · ".join(parts)


# --- pictures ----------------------------------------------------------------------------------------------------------


def _picture(image: npt.NDArray[np.uint8], view: SliceView) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Returns a slice turned for display, no longer than PICTURE_PX, and its (rows, columns)."""
    turned = view.turn(image)
    shrink = min(1.0, PICTURE_PX / max(turned.shape))
    shape = (max(1, round(turned.shape[0] * shrink)), max(1, round(turned.shape[1] * shrink)))
    return (turned if shape == turned.shape else resize(turned, shape)), shape


def _aspect(item: SliceFacts, view: SliceView) -> float:
    """Returns height by width as displayed, pixels may be wider than high."""
    rows, columns = view.turn(item.small_image).shape
    return round(rows * view.pixel_mm[0] / (columns * view.pixel_mm[1]), 4)


def _place_on_sheet(number: int, shape: Sequence[int]) -> list[int]:
    sheet, within = divmod(number, _SHEET_SIDE**2)
    row, column = divmod(within, _SHEET_SIDE)
    return [sheet, column * PICTURE_PX, row * PICTURE_PX, shape[1], shape[0]]


def _sheets(pictures: Sequence[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    """Puts the pictures on sheets; each fills its whole field, so that JPEG draws no edges around it."""
    for first in range(0, len(pictures), _SHEET_SIDE**2):
        some = pictures[first : first + _SHEET_SIDE**2]
        rows = -(-len(some) // _SHEET_SIDE)
        sheet = np.zeros((rows * PICTURE_PX, (_SHEET_SIDE if rows > 1 else len(some)) * PICTURE_PX), np.uint8)
        for number, picture in enumerate(some):
            top, left = (place * PICTURE_PX for place in divmod(number, _SHEET_SIDE))
            rest = ((0, PICTURE_PX - picture.shape[0]), (0, PICTURE_PX - picture.shape[1]))
            sheet[top : top + PICTURE_PX, left : left + PICTURE_PX] = np.pad(picture, rest, mode="edge")
        yield sheet


def _runs(
    label: npt.NDArray[np.unsignedinteger], view: SliceView, shape: tuple[int, int], place: Mapping[int, int]
) -> str:
    turned = view.turn(label)
    return runs(turned if turned.shape == shape else resize_labels(turned, shape), place)


def _runs_with_size(
    label: npt.NDArray[np.unsignedinteger], view: SliceView, place: Mapping[int, int]
) -> dict[str, Any]:
    turned = view.turn(label)
    shape = (turned.shape[0], turned.shape[1])
    return {"rows": shape[0], "columns": shape[1], "runs": _runs(label, view, shape, place)}


def _large(item: SliceFacts, view: SliceView, place: Mapping[int, int]) -> dict[str, Any]:
    image, label = largest(item)
    turns = view.transpose or view.flip_rows or view.flip_columns
    jpeg = encode(view.turn(image)) if turns else item.view_jpeg
    return {"image": base64.b64encode(jpeg).decode("ascii"), **_runs_with_size(label, view, place)}
