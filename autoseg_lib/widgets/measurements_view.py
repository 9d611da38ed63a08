"""Section "Calculate cross-sectional area": how it was measured, the plot along the scan, the tables."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from autoseg_lib.export.tables import csa_table
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.viz.figures import area_plot
from autoseg_lib.viz.html import note_html, picture_html, render, table_html
from autoseg_lib.widgets.display import Spot
from autoseg_lib.widgets.live_run import LiveRun
from autoseg_lib.workflow.segmenting import SegmentResult

# More scans than this are not plotted one by one where there are no widgets; their tables and files hold everything.
_MOST_PLOTS = 6
# A longer table makes the notebook slow; csa_results.csv has it whole.
_MOST_ROWS = 600


class MeasurementsView:
    """Places for the plot and the tables, filled again with each segmented folder."""

    def __init__(self, run: LiveRun) -> None:
        """Args:
        run: its slice browser and the plot follow each other.
        """
        self._run = run
        self._spots = [Spot(), Spot(), Spot()]
        for spot in self._spots:
            spot.show_html("")

    def show(self, result: SegmentResult) -> None:
        """Shows the measurements of a run."""
        above, plot, below = self._spots
        above.show_html(how_measured_html(result))
        below.show_html(tables_html(result))
        browser = self._run.browser
        if browser is None:
            plot.show_html(plots_html(result))
            return
        from autoseg_lib.widgets.area_plot import AreaPlot  # needs ipywidgets

        cases = [(case.name, case.measurements) for case in result.cases]
        plot.show_widget(AreaPlot(cases, result.labels, browser).widget, plots_html(result))


def how_measured_html(result: SegmentResult) -> Markup:
    """Returns the sentences on where the millimetres come from."""
    if not result.cases:
        return note_html("warning", "Nothing was measured, because no scan could be segmented.")
    said = [case.how_measured for case in result.cases] + [case.error_bars for case in result.cases]
    ways = list(dict.fromkeys(text for text in said if text))
    more = [f"and {len(ways) - 4} more ways, see run_report.json"] if len(ways) > 4 else []
    return Markup("").join(note_html("info", text) for text in ways[:4] + more)


def plots_html(result: SegmentResult) -> Markup:
    """Returns pictures of the areas along each scan, for front ends without widgets."""
    parts = []
    for case in result.cases[:_MOST_PLOTS]:
        parts.append(render("caption.html.j2", text=f"Areas along {case.name}"))
        parts.append(
            picture_html(area_plot(case.measurements, result.labels), f"areas along the scan {case.name}")
        )
    return Markup("").join(parts)


def tables_html(result: SegmentResult) -> Markup:
    """Returns the wide table of areas and the table of volumes with their intervals."""
    return _areas_html(result.measurements) + _volumes_html(result) if result.cases else Markup("")


def _areas_html(measurements: Sequence[SliceMeasurement]) -> Markup:
    header, table = csa_table(measurements)
    first = 2 if header[0] == "case" else 1
    rows = [[cell if isinstance(cell, str) else _number(cell, 1) for cell in row] for row in table]
    numeric = tuple(range(first, len(header)))
    caption = "Cross-sectional areas in mm²"
    if any(row.flag for row in measurements):
        rows = _with_flags(rows, measurements, first)
        header = [*header, "flag"]
        caption += "; look at the flagged slices before you use their numbers"
    if len(rows) > _MOST_ROWS:
        caption += f" (the first {_MOST_ROWS} of {len(rows)} rows; csa_results.csv has them all)"
        rows = rows[:_MOST_ROWS]
    return table_html(rows, header, caption=caption, numeric=numeric, strong_last=2 if first == 1 else 0)


def _with_flags(
    rows: Sequence[Sequence[str]], measurements: Sequence[SliceMeasurement], first: int
) -> list[list[str]]:
    """Adds the reasons on each slice as a last column."""
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in measurements:
        for reason in filter(None, row.flag.split("; ")):
            place = (row.case if first == 2 else "", f"slice number {row.slice_number}")
            reasons.setdefault(place, {}).setdefault(reason, []).append(row.roi)
    told = []
    for cells in rows:
        found = reasons.get((cells[0] if first == 2 else "", cells[first - 1]), {})
        text = "; ".join(
            f"{', '.join(rois[:3])}{' ...' if len(rois) > 3 else ''}: {why}" for why, rois in found.items()
        )
        told.append([*cells, f"⚠ {text}" if text else ""])
    return told


def _volumes_html(result: SegmentResult) -> Markup:
    ranged = any(row.volume_ml_low is not None for row in result.volumes)
    noted = any(row.flag or row.note for row in result.volumes)
    titles = ["scan", "ROI", "volume, ml", *(["90 % interval"] if ranged else []), "slices", "mean area, mm²"]
    titles += ["largest area, mm²", "on slice", *(["remark"] if noted else [])]
    rows = []
    for row in result.volumes:
        low, high = row.volume_ml_low, row.volume_ml_high
        interval = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        cells = [
            row.case,
            row.roi,
            _number(row.volume_ml, 2),
            *([interval] if ranged else []),
            str(row.slices),
        ]
        cells += [_number(row.mean_area_mm2, 1), _number(row.max_area_mm2, 1), str(row.max_area_slice or "")]
        rows.append([*cells, *([f"⚠ {row.flag}" if row.flag else row.note] if noted else [])])
    numeric = tuple(range(2, len(titles) - noted))
    return table_html(rows, titles, caption="Volumes", numeric=numeric)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
