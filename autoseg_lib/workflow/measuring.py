"""``autoseg measure``: areas and volumes of masks that exist already."""

from __future__ import annotations

import datetime
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.errors import DataError, ExportError, SettingsError
from autoseg_lib.evaluate.names import read_report
from autoseg_lib.events import Listener, Message, nobody
from autoseg_lib.export.dossier import write_dossier
from autoseg_lib.export.report import build_run_report, write_json
from autoseg_lib.export.run_folder import RESULT_FILES, RunFolder, open_run
from autoseg_lib.export.tables import csa_table, write_csa_results, write_measurements, write_volumes
from autoseg_lib.export.workbook import require_workbooks, run_sheets, write_workbook
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.system import versions
from autoseg_lib.workflow.mask_jobs import find_jobs
from autoseg_lib.workflow.mask_rois import label_table, roi_names
from autoseg_lib.workflow.mask_work import GreyImages, MaskWork, MeasuredMasks
from autoseg_lib.workflow.privacy import hiding


@dataclass(frozen=True)
class MeasureResult:
    """What was measured.

    Attributes:
        run_folder: where the tables are.
        labels: the ROIs.
        measurements: rows of measurements.csv.
        volumes: rows of volumes.csv.
        failures: (case, reason) of masks that could not be measured; (file, reason) of a workbook that could not be written.
        notes: sentences for the user.
    """

    run_folder: Path
    labels: LabelTable
    measurements: tuple[SliceMeasurement, ...]
    volumes: tuple[VolumeMeasurement, ...]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the measured cases."""
        return tuple(dict.fromkeys(row.case for row in self.volumes))

    def lines(self) -> list[str]:
        """Returns the result as lines of text: volumes, notes, failures, where the files are."""
        lines, shares = [], self._shares_in_window()
        for row in self.volumes:
            size = f"{row.volume_ml:.2f} ml" if row.volume_ml is not None else f"no volume ({row.note})"
            mean = f", mean area {row.mean_area_mm2:.1f} mm²" if row.mean_area_mm2 is not None else ""
            share = shares.get((row.case, row.label))
            window = f", {share:.1f} % in the tissue window" if share is not None else ""
            lines.append(f"{row.case}: {row.roi} {size}{mean} on {_slices(row.slices)}{window}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [_failure_line(case, reason) for case, reason in self.failures]
        count = "1 mask" if len(self.cases) == 1 else f"{len(self.cases)} masks"
        return [*lines, f"{count} measured; tables in '{self.run_folder}'."]

    def _shares_in_window(self) -> dict[tuple[str, int], float]:
        """Returns (case, label value) → share of the ROI's pixels of all slices that lie in the tissue window, in percent."""
        pixels: Counter[tuple[str, int]] = Counter()
        inside: defaultdict[tuple[str, int], float] = defaultdict(float)
        for row in self.measurements:
            if row.in_window_percent is not None:
                pixels[row.case, row.label] += row.pixels
                inside[row.case, row.label] += row.pixels * row.in_window_percent
        return {roi: inside[roi] / count for roi, count in pixels.items() if count}

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for ``--json``."""
        header, rows = csa_table(self.measurements)
        return {
            "run_folder": str(self.run_folder),
            "volumes": [vars(row) for row in self.volumes],
            "areas": {"header": header, "rows": rows},
            "failures": [{"case": case, "reason": reason} for case, reason in self.failures],
            "notes": list(self.notes),
        }


def _failure_line(what: str, reason: str) -> str:
    if what in RESULT_FILES:
        return f"'{what}': {reason}"
    return f"'{what}' was not measured: {reason}"


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def measure_masks(
    masks: Path,
    output: Path,
    images: Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
    slice_axis: str = "auto",
    overlap_priority: Sequence[str] = (),
    seg_threshold: float = 0.5,
    tissue_window: Sequence[float] | None = None,
    fat_images: Path | None = None,
    xlsx: bool = False,
    mode: str = "new",
    on_event: Listener = nobody,
) -> MeasureResult:
    """Measures masks on their own pixels and writes csa_results.csv, measurements.csv, volumes.csv, report.html and
    run_report.json.

    Args:
        masks: folder of masks (volumes; RTSTRUCT or DICOM SEG files; slices, flat or a folder per scan; a run folder), one
            file, or a CSV manifest (columns image, label).
        output: the run folder for the tables.
        images: the scans, matched by name or by the series that a mask says it was drawn on; they give pixel spacing and
            slice positions.
        labels: names of the ROIs in order of label value; None: those in the files, from run_report.json or labels.csv beside
            the masks, else numbered.
        label_map: code or name → ROI number.
        slice_axis: as in ``load_scan``: which way volumes are sliced.
        overlap_priority: names of ROIs, the first on top where they overlap.
        seg_threshold: share of a pixel from which a fractional DICOM SEG counts.
        tissue_window: lowest and highest grey value of a tissue; its share of each ROI is measured on ``images``.
        fat_images: the fat images of Dixon pairs, of the same names as ``images``, which are the water images then.
        xlsx: whether all tables are written into one workbook too.
        mode: "new", "continue" or "overwrite", see ``open_run``; here both measure again, and only the tables and the
            reports are replaced: masks that lie in ``output`` stay.
        on_event: told about progress and notes.

    Raises:
        DataError: no masks there, or nothing could be measured.
        ExportError: the output folder holds results already or cannot be written.
        SettingsError: ``xlsx`` without the package that writes workbooks.
    """
    started, clock = datetime.datetime.now().astimezone(), time.monotonic()
    xlsx = _writes_workbook(output, xlsx)
    found = find_jobs(masks, images, slice_axis)
    jobs, hide = found.jobs, hiding(found.told)
    greys = GreyImages.find(fat_images, tissue_window, slice_axis)
    notes = list(found.notes)
    if (tissue_window is not None or fat_images) and not any(job.has_image for job in jobs):
        notes.append("no grey values were measured, there are only masks. Give the images (--images).")
    # The output may be the run folder whose masks are measured: nothing but its tables and reports is ever replaced.
    read = [path for job in jobs for path in job.files]
    run = open_run(
        output, mode, inputs=[*read, *(path for path in (images, fat_images) if path)], tables_only=True
    )
    was_segmented = read_report(run.report).get("kind") == "segment"
    names, roi_values = roi_names(masks, jobs, labels, label_map)
    rules = LabelRules(label_map or {}, roi_values, tuple(overlap_priority), seg_threshold)
    table, rules, reported = label_table(names, jobs, rules, notes)
    work = MaskWork(found, hide, table, replace(rules, num_labels=len(table)), greys, frozenset(reported))
    done = work.measure_all((names, roi_values), on_event)
    if not done.volumes:
        why = f": {done.failures[0][1]}" if done.failures else "."
        raise DataError(f"nothing could be measured{why}")
    if was_segmented:
        notes.append(_REPLACED)
    failed = _write_tables(run, done, xlsx)
    settings = {
        "slice_axis": slice_axis,
        "label_map": {str(code): str(roi) for code, roi in (label_map or {}).items()} or None,
        "overlap_priority": list(overlap_priority) or None,
        "seg_threshold": seg_threshold,
        "tissue_window": None if tissue_window is None else list(tissue_window),
    }
    on_event(Message("Making the page to look through (report.html) ..."))
    failed += _write_page(run, done, table, settings, notes, failed, hide)
    result = MeasureResult(
        run.path,
        table,
        tuple(done.measurements),
        tuple(done.volumes),
        (*done.failures, *failed),
        (*notes, *done.notes),
    )
    _write_report(run, result, done.reports, settings, started, time.monotonic() - clock)
    return result


def _writes_workbook(output: Path, asked: bool) -> bool:
    """Returns whether a workbook is to be written: an earlier one would show figures that are no longer true.

    Raises:
        SettingsError: it is, and the package for it is missing; said before the work begins.
    """
    there = RunFolder(output).workbook.exists()
    try:
        if asked or there:
            require_workbooks()
    except SettingsError as error:
        if asked:
            raise
        raise SettingsError(
            f"'{output}' holds a results.xlsx, which would no longer be true beside the new tables; to write it anew, the "
            'package openpyxl is needed. Install it with pip install "autoseg-workbench[excel]", or remove results.xlsx.'
        ) from error
    return asked or there


# --- files
# ------------------------------------------------------------------------------------------------------


_REPLACED = (
    "the tables of the segmenting run in this folder, with its error bars and flags, and its report.html were replaced by those "
    "measured on the masks, which have neither."
)


def _write_tables(run: RunFolder, done: MeasuredMasks, xlsx: bool) -> list[tuple[str, str]]:
    """Writes the tables, the workbook last; returns (file, reason) where that could not be written.

    Raises:
        ExportError: one of the CSV files cannot be written.
    """
    write_measurements(run.measurements, done.measurements)
    write_volumes(run.volumes, done.volumes)
    write_csa_results(run.csa_results, done.measurements)
    if xlsx:
        try:
            write_workbook(run.workbook, run_sheets(done.measurements, done.volumes))
        except ExportError as error:
            return [(run.workbook.name, f"{error} The CSV files are complete.")]
    return []


def _write_page(
    run: RunFolder,
    done: MeasuredMasks,
    table: LabelTable,
    settings: Mapping[str, Any],
    notes: Sequence[str],
    failed: Sequence[tuple[str, str]],
    hide: Callable[[str], str],
) -> list[tuple[str, str]]:
    """Writes report.html of the ROIs that have rows; returns (file, reason) where it could not be written."""
    measured = {row.label for row in done.volumes}
    try:
        write_dossier(
            run.dossier,
            title=run.path.name,
            cases=done.cases,
            labels=[label for label in table if label.value in measured],
            settings=settings,
            notes=notes,
            failures=[*done.failures, *failed],
            flagged=False,
            hide=hide,
        )
    except ExportError as error:
        return [(run.dossier.name, f"{error} The CSV files are complete.")]
    return []


def _write_report(
    run: RunFolder,
    result: MeasureResult,
    cases: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    started: datetime.datetime,
    seconds: float,
) -> None:
    report = build_run_report(
        kind="measure",
        started=started.isoformat(timespec="seconds"),
        finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=seconds,
        versions=versions(),
        labels=result.labels.names,
        settings=settings,
        cases=cases,
        failures=result.failures,
        notes=result.notes,
    )
    write_json(run.report, report)
