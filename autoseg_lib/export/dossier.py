"""report.html: a whole run to look through and to sign off, in one file for any browser.

Summary, areas along each scan with their intervals, every slice with its outlines, every number linked to its slice, how it
was made, and pass or fail marks that are saved to review.csv. Nothing is loaded from the network.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg_lib.errors import AutosegError, counted
from autoseg_lib.export.dossier_pictures import MOST_SLICES, PAGE_BYTES, CasePictures, draw_case
from autoseg_lib.export.review import REVIEW_COLUMNS, REVIEW_NAME, ReviewMark, read_review
from autoseg_lib.io.files import write_text
from autoseg_lib.labels import Label
from autoseg_lib.measure.areas import SliceMeasurement, mean_and_std
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.viz.html import render
from autoseg_lib.viz.overlay import FILL_ALPHA
from autoseg_lib.viz.packing import MOST_ROIS
from autoseg_lib.volume import Mask, Volume

__all__ = ["DOSSIER_NAME", "DossierCase", "ReviewMark", "dossier_html", "read_review", "write_dossier"]

DOSSIER_NAME = "report.html"
# More sentences than this are counted, not listed: run_report.json has them all.
_MOST_NOTES = 40
# A printer gets at most this many pictures: 20 pages.
_MOST_PRINTED = 600

Hide = Callable[[str], str]


@dataclass(frozen=True)
class DossierCase:
    """One scan of a run.

    Attributes:
        name: of the case.
        measurements: its rows of measurements.csv.
        volumes: its rows of volumes.csv.
        slices: reads image (None: there is none) and mask when their pictures are made; called once, nothing is kept.
        how_measured: one sentence on where spacing and slice distances come from.
        warnings: what was assumed.
        flags: why the scan as a whole should be looked at.
    """

    name: str
    measurements: Sequence[SliceMeasurement]
    volumes: Sequence[VolumeMeasurement]
    slices: Callable[[], tuple[Volume | None, Mask]] = field(repr=False)
    how_measured: str = ""
    warnings: Sequence[str] = ()
    flags: Sequence[str] = ()


def write_dossier(
    path: Path,
    *,
    title: str,
    cases: Sequence[DossierCase],
    labels: Sequence[Label],
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    failures: Sequence[tuple[str, str]] = (),
    review: Sequence[ReviewMark] | None = None,
    flagged: bool = True,
    hide: Hide = str,
) -> Path:
    """Writes report.html.

    Args:
        path: the file, in the run folder.
        title: heading of the page, e.g. the run's name.
        cases: the scans.
        labels: the ROIs.
        model: what is to be said of the model (name, made, validation Dice ...), empty for masks made elsewhere.
        settings: setting → value.
        notes: sentences on the run as a whole.
        failures: (case, reason) of scans that did not go through.
        review: marks to show; None reads review.csv beside ``path``, where there is one.
        flagged: whether flags were looked for; otherwise their number is not told.
        hide: takes what tells who a patient is out of a sentence; names of cases and slices are shown as they are.

    Returns:
        The file.

    Raises:
        ExportError: the file cannot be written.
    """
    said = list(notes)
    if review is None:
        try:
            review = read_review(path.parent / REVIEW_NAME)
        except AutosegError as error:
            review = ()
            said.append(f"The marks were not taken over. {error}")
    text = dossier_html(
        title=title,
        cases=cases,
        labels=labels,
        model=model,
        settings=settings,
        notes=said,
        failures=failures,
        review=review,
        flagged=flagged,
        hide=hide,
    )
    write_text(path, text)
    return path


def dossier_html(
    *,
    title: str,
    cases: Sequence[DossierCase],
    labels: Sequence[Label],
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    failures: Sequence[tuple[str, str]] = (),
    review: Sequence[ReviewMark] = (),
    flagged: bool = True,
    hide: Hide = str,
) -> str:
    """Returns the page, see ``write_dossier``."""
    shown = labels[:MOST_ROIS]
    # Names of cases are free of who the patient is wherever they come from; hidden, two scans would look like one.
    drawn, missing = _pictures(cases, {label.value: n for n, label in enumerate(shown, start=1)}, hide)
    said = [*(hide(text) for text in notes), *missing]
    data = {
        "cases": [_case(case, shown, drawn.get(case.name)) for case in cases],
        "rois": [{"name": label.name, "color": label.color} for label in shown],
        # Marks on slices of other runs are kept too, so that saving loses nothing.
        "review": [[mark.case, mark.slice_number, mark.mark, mark.comment] for mark in review],
        "columns": list(REVIEW_COLUMNS),
        "file": REVIEW_NAME,
        "alpha": FILL_ALPHA,
        "printed": _MOST_PRINTED,
    }
    warnings = [(case.name, hide(text)) for case in cases for text in (*case.flags, *case.warnings)]
    volumes = _volume_rows(cases, shown, hide)
    return str(
        render(
            "dossier.html.j2",
            title=hide(title),
            summary=_summary(cases, labels, failures, flagged),
            failures=[(name, hide(reason)) for name, reason in failures],
            warnings=warnings[:_MOST_NOTES],
            more_warnings=max(0, len(warnings) - _MOST_NOTES),
            notes=said[:_MOST_NOTES],
            volumes=volumes,
            ranged=any(row["range"] for row in volumes),
            flagged=any(row["flag"] for row in volumes),
            ways=_ways(cases, hide),
            model=_plain(model or {}, hide),
            settings=_plain(settings or {}, hide),
            data=data,
        )
    )


# --- pictures -----------------------------------------------------------------------------------------------------------


def _pictures(
    cases: Sequence[DossierCase], place: Mapping[int, int], hide: Hide
) -> tuple[dict[str, CasePictures], list[str]]:
    """Returns the scans' pictures, and a sentence on each that there are none of."""
    wanted = _chosen(cases)
    total = sum(len(numbers) for numbers in wanted.values())
    drawn: dict[str, CasePictures] = {}
    said = []
    for case in cases:
        numbers = wanted[case.name]
        if not numbers:
            continue
        try:
            volume, mask = case.slices()
        except (AutosegError, OSError) as error:
            said.append(
                f"'{case.name}': there are no pictures, because the scan could not be read again. {hide(str(error))}"
            )
            continue
        there = [number for number in numbers if number <= mask.array.shape[0]]
        drawn[case.name] = draw_case(volume, mask, there, place, PAGE_BYTES / total)
    slices = sum(len(_numbers(case)) for case in cases)
    if total < slices:
        said.append(
            f"{total} of {slices} slices have a picture, those with flags first, to keep this file small; the numbers are "
            "complete."
        )
    return drawn, said


def _chosen(cases: Sequence[DossierCase]) -> dict[str, list[int]]:
    """Returns which slices are drawn: all, or those with flags, then those with ROIs, evenly thinned out."""
    everything = [(case, number) for case in cases for number in _numbers(case)]
    if len(everything) > MOST_SLICES:
        flagged = {(c.name, row.slice_number) for c in cases for row in c.measurements if row.flag}
        filled = {(c.name, row.slice_number) for c in cases for row in c.measurements if row.pixels}
        first = [place for place in everything if (place[0].name, place[1]) in flagged][:MOST_SLICES]
        rest = [
            place
            for place in everything
            if (place[0].name, place[1]) in filled and (place[0].name, place[1]) not in flagged
        ]
        step = max(1.0, len(rest) / max(1, MOST_SLICES - len(first)))
        count = min(len(rest), MOST_SLICES - len(first))
        everything = first + [rest[int(number * step)] for number in range(count)]
    chosen: dict[str, list[int]] = {case.name: [] for case in cases}
    for case, number in everything:
        chosen[case.name].append(number)
    return {name: sorted(numbers) for name, numbers in chosen.items()}


def _numbers(case: DossierCase) -> list[int]:
    return sorted({row.slice_number for row in case.measurements})


# --- numbers ------------------------------------------------------------------------------------------------------------


def _case(case: DossierCase, labels: Sequence[Label], pictures: CasePictures | None) -> dict[str, Any]:
    numbers = _numbers(case)
    rows = {(row.slice_number, row.label): row for row in case.measurements}
    by_roi = [[rows.get((number, label.value)) for number in numbers] for label in labels]
    in_mm2 = all(row.area_mm2 is not None for row in case.measurements)
    first = {row.slice_number: row for row in reversed(case.measurements)}
    areas = [
        [None if row is None else _short(row.area_mm2 if in_mm2 else row.pixels) for row in column]
        for column in by_roi
    ]
    return {
        "name": case.name,
        "unit": "mm²" if in_mm2 else "pixels",
        "numbers": numbers,
        "positions": [_short(first[number].slice_position_mm, 2) for number in numbers],
        "names": [first[number].slice_name or first[number].slice_file for number in numbers],
        "areas": areas,
        "low": [[None if row is None else _short(row.area_mm2_low) for row in column] for column in by_roi],
        "high": [[None if row is None else _short(row.area_mm2_high) for row in column] for column in by_roi],
        "spread": [[_short(value) for value in mean_and_std(column)] for column in areas],
        "flags": {
            str(index): said for index, number in enumerate(numbers) if (said := _flags(rows, number, labels))
        },
        "shape": None if pictures is None else list(pictures.shape),
        "aspect": 1 if pictures is None else pictures.aspect,
        "widthMm": None if pictures is None else pictures.width_mm,
        "edges": [] if pictures is None else list(pictures.edges),
        "pictures": [None if pictures is None else pictures.items.get(number) for number in numbers],
    }


def _flags(
    rows: Mapping[tuple[int, int], SliceMeasurement], number: int, labels: Sequence[Label]
) -> list[dict[str, Any]]:
    """Returns the reasons on a slice, each once, with the ROIs (their places from 0) that it is about."""
    about: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        row = rows.get((number, label.value))
        for reason in [] if row is None else row.flag.split("; "):
            if reason:
                about[reason].append(place)
    return [{"text": reason, "rois": places} for reason, places in about.items()]


def _volume_rows(cases: Sequence[DossierCase], labels: Sequence[Label], hide: Hide) -> list[dict[str, Any]]:
    color = {label.value: label.color for label in labels}
    return [
        {
            "place": place,
            "case": case.name,
            "first": number == 0,
            "count": len(case.volumes),
            "roi": row.roi,
            "color": color.get(row.label, "#808080"),
            "volume": _text(row.volume_ml, 2),
            "range": _range(row.volume_ml_low, row.volume_ml_high, 2),
            "mean": _text(row.mean_area_mm2, 1),
            "largest": _text(row.max_area_mm2, 1),
            "at": row.max_area_slice,
            "slices": row.slices,
            "flag": hide(row.flag or ("" if row.volume_ml is not None else row.note)),
            "flagged": bool(row.flag),
        }
        for place, case in enumerate(cases)
        for number, row in enumerate(case.volumes)
    ]


def _summary(
    cases: Sequence[DossierCase],
    labels: Sequence[Label],
    failures: Sequence[tuple[str, str]],
    with_flags: bool,
) -> list[tuple[str, str, str]]:
    """Returns (kind, number, what it counts) of each tile of the summary."""
    slices = sum(len(_numbers(case)) for case in cases)
    flagged = sum(len({row.slice_number for row in case.measurements if row.flag}) for case in cases)
    scans = sum(bool(case.flags) for case in cases)
    tiles = [
        ("", str(len(cases)), "scan" if len(cases) == 1 else "scans"),
        ("", str(len(labels)), "ROI" if len(labels) == 1 else "ROIs"),
        ("", str(slices), "slice" if slices == 1 else "slices"),
    ]
    if with_flags:
        kind = "warning" if flagged else "fine"
        tiles.append((kind, str(flagged), f"flagged slice{'' if flagged == 1 else 's'}"))
    if scans:
        tiles.append(("warning", str(scans), f"scan{'' if scans == 1 else 's'} not to trust unseen"))
    if failures:
        tiles.append(("error", str(len(failures)), "failed"))
    return tiles


def _ways(cases: Sequence[DossierCase], hide: Hide) -> list[tuple[str, str]]:
    """Returns (sentence on how it was measured, scans that it holds for)."""
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.how_measured:
            found[case.how_measured].append(case.name)
    one = len(found) == 1
    return [
        (
            hide(text),
            "" if one else ", ".join(names) if len(names) <= 5 else counted(len(names), "scan"),
        )
        for text, names in found.items()
    ]


def _plain(table: Mapping[str, Any], hide: Hide) -> list[tuple[str, str]]:
    return [(str(name), hide(_value(value))) for name, value in table.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(value: float | None, digits: int = 1) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def _text(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _range(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
