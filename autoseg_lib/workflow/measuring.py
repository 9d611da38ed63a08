"""``autoseg measure``: areas and volumes of masks that exist already."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.data.label_map import (
    FIRST_CODE,
    LabelMap,
    codes_message,
    look_like_codes,
    map_option,
    propose_map,
)
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import read_slices
from autoseg_lib.data.scan import Scan, load_scan
from autoseg_lib.data.whole_labels import is_whole
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.evaluate.names import RoiNames, find_names, with_files
from autoseg_lib.evaluate.overlapping import one_by_one, said_as_a_whole, tells_overlap
from autoseg_lib.evaluate.reading import read_whole
from autoseg_lib.events import Listener, Message, Progress, nobody
from autoseg_lib.export.report import build_run_report, case_report, write_json
from autoseg_lib.export.run_folder import RunFolder, open_run
from autoseg_lib.export.tables import csa_table, write_csa_results, write_measurements, write_volumes
from autoseg_lib.export.workbook import require_workbooks, run_sheets, write_workbook
from autoseg_lib.io.files import sha256_of
from autoseg_lib.io.label_codes import FIRST_COLOUR, codes_text, is_mark
from autoseg_lib.io.volume_files import all_files
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes
from autoseg_lib.settings import MOST_LABELS
from autoseg_lib.system import versions
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.mask_jobs import MaskJob, find_jobs


@dataclass(frozen=True)
class MeasureResult:
    """What was measured.

    Attributes:
        run_folder: where the tables are.
        labels: the ROIs.
        measurements: rows of measurements.csv.
        volumes: rows of volumes.csv.
        failures: (case, reason) of masks that could not be measured.
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
        lines = []
        for row in self.volumes:
            size = f"{row.volume_ml:.2f} ml" if row.volume_ml is not None else f"no volume ({row.note})"
            mean = f", mean area {row.mean_area_mm2:.1f} mm²" if row.mean_area_mm2 is not None else ""
            lines.append(f"{row.case}: {row.roi} {size}{mean} on {_slices(row.slices)}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"'{case}' was not measured: {reason}" for case, reason in self.failures]
        count = "1 mask" if len(self.cases) == 1 else f"{len(self.cases)} masks"
        return [*lines, f"{count} measured; tables in '{self.run_folder}'."]

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
    """Measures masks on their own pixels and writes csa_results.csv, measurements.csv, volumes.csv and
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
            report are replaced: masks that lie in ``output`` stay.
        on_event: told about progress and notes.

    Raises:
        DataError: no masks there, or nothing could be measured.
        ExportError: the output folder holds results already or cannot be written.
        SettingsError: ``xlsx`` without the package that writes workbooks.
    """
    if xlsx:
        require_workbooks()
    started, clock = datetime.datetime.now().astimezone(), time.monotonic()
    jobs, notes = find_jobs(masks, images, slice_axis)
    greys = GreyImages.find(fat_images, tissue_window, slice_axis)
    if (tissue_window is not None or fat_images) and not any(job.has_image for job in jobs):
        notes.append("no grey values were measured, there are only masks. Give the images (--images).")
    # The output may be the run folder whose masks are measured: nothing but the four tables is ever replaced.
    read = [path for job in jobs for path in job.files]
    run = open_run(
        output, mode, inputs=[*read, *(path for path in (images, fat_images) if path)], tables_only=True
    )
    names, roi_values = _names(masks, jobs, labels, label_map)
    rules = LabelRules(label_map or {}, roi_values, tuple(overlap_priority), seg_threshold)
    table, rules, found = _label_table(names, jobs, rules, notes)
    measurements: list[SliceMeasurement] = []
    volumes: list[VolumeMeasurement] = []
    reports: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    for number, job in enumerate(jobs):
        on_event(Progress("Measuring", number, len(jobs), job.name))
        try:
            _require_names(job, jobs, names, roi_values)
            scan, mask, said = job.load(replace(rules, num_labels=len(table)))
            _require_numbers(mask)
            rows, sizes = _measured(job, scan, mask, table, greys)
            if job.names and tells_overlap(said) and not rules.overlap_priority:
                rows, sizes = _each_alone(job, rules, table, rows, sizes, greys)
                said = said_as_a_whole(said, "measured", _TO_CUT)
        except AutosegError as error:
            failures.append((job.name, str(error)))
            on_event(Message(f"'{job.name}' was not measured: {error}", level="warning"))
            continue
        sizes = [size for size in sizes if size.label in found]
        measurements += [row for row in rows if row.label in found]
        volumes += sizes
        notes += [f"'{job.name}': {text}" for text in said]
        reports.append(_case_report(scan, sizes, job, said))
    on_event(Progress("Measuring", len(jobs), len(jobs)))
    if not volumes:
        raise DataError(
            f"nothing could be measured: {failures[0][1]}" if failures else "nothing could be measured."
        )
    _write(run, measurements, volumes, xlsx)
    report = build_run_report(
        kind="measure",
        started=started.isoformat(timespec="seconds"),
        finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=time.monotonic() - clock,
        versions=versions(),
        labels=table.names,
        cases=reports,
        failures=failures,
        notes=notes,
    )
    write_json(run.report, report)
    return MeasureResult(run.path, table, tuple(measurements), tuple(volumes), tuple(failures), tuple(notes))


_TO_CUT = ". To cut them, set overlap_priority"


def _measured(
    job: MaskJob, scan: Scan, mask: Mask, table: LabelTable, greys: GreyImages
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
    rows = measure_slices(
        mask,
        table,
        case=job.name,
        slice_names=scan.slice_names,
        slice_files=scan.slice_files,
        image=scan.volume if job.has_image else None,
        tissue_window=greys.tissue_window,
        fat_image=greys.fat_of(job.name) if job.has_image else None,
    )
    return rows, measure_volumes(mask, table, case=job.name)


def _each_alone(
    job: MaskJob,
    rules: LabelRules,
    table: LabelTable,
    rows: list[SliceMeasurement],
    sizes: list[VolumeMeasurement],
    greys: GreyImages,
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
    """Measures ROIs that overlap one by one, so that none is cut by another (a tumour lies inside its organ)."""
    alone_rows = {(row.slice_number, row.label): row for row in rows}
    alone_sizes = {size.label: size for size in sizes}
    for value, (scan, mask, _) in one_by_one(job.load, table.values, rules.only):
        more_rows, more_sizes = _measured(job, scan, mask, table, greys)
        alone_rows |= {(row.slice_number, row.label): row for row in more_rows if row.label == value}
        alone_sizes |= {size.label: size for size in more_sizes if size.label == value}
    return list(alone_rows.values()), list(alone_sizes.values())


@dataclass(frozen=True)
class GreyImages:
    """What grey values are measured with, besides the scans themselves.

    Attributes:
        tissue_window: lowest and highest grey value of a tissue, or None.
        fat: name → fat image of a Dixon pair.
        slice_axis: as in ``load_scan``.
    """

    tissue_window: Sequence[float] | None
    fat: dict[str, ImageSource]
    slice_axis: str

    @classmethod
    def find(
        cls, fat_images: Path | None, tissue_window: Sequence[float] | None, slice_axis: str
    ) -> GreyImages:
        """Lists the fat images of a folder by name."""
        sources = discover(fat_images).sources if fat_images is not None else ()
        return cls(tissue_window, {source.name: source for source in sources}, slice_axis)

    def fat_of(self, name: str) -> Volume | None:
        """Returns the fat image of a case; None where no fat images were given.

        Raises:
            DataError: there are fat images, and none of this name.
        """
        if not self.fat:
            return None
        if name not in self.fat:
            raise DataError(
                f"found no fat image of that name; there are {name_list(list(self.fat), 3)}. A fat image needs the name of "
                "its scan."
            )
        return load_scan(self.fat[name], slice_axis=self.slice_axis).volume


def _write(
    run: RunFolder, measurements: list[SliceMeasurement], volumes: list[VolumeMeasurement], xlsx: bool
) -> None:
    # A workbook that an earlier run has left would show figures that are no longer true.
    if xlsx or run.workbook.exists():
        write_workbook(run.workbook, run_sheets(measurements, volumes))
    write_measurements(run.measurements, measurements)
    write_volumes(run.volumes, volumes)
    write_csa_results(run.csa_results, measurements)


def _case_report(
    scan: Scan, sizes: list[VolumeMeasurement], job: MaskJob, said: Sequence[str]
) -> dict[str, Any]:
    files = [part for path in job.files for part in all_files(path)]
    report = case_report(scan, sizes, checksums={path.name: sha256_of(path) for path in files})
    report["warnings"] = list(said)
    return report


# --- names of the ROIs
# ------------------------------------------------------------------------------------------------


def _names(
    masks: Path, jobs: list[MaskJob], given: Sequence[str] | None, label_map: LabelMap | None
) -> tuple[RoiNames, dict[str, int]]:
    """Returns the names of the ROIs, and name → value for the masks that name them."""
    beside = find_names(masks if masks.is_dir() else masks.parent)
    return with_files(
        RoiNames(beside.general), [name for job in jobs for name in job.names], given, label_map
    )


def _label_table(
    names: RoiNames, jobs: list[MaskJob], rules: LabelRules, notes: list[str]
) -> tuple[LabelTable, LabelRules, set[int]]:
    """Returns the ROIs, the rules (with a map where the only ROI has a code such as 255), and the values to report.

    ROIs that someone named are always reported; numbered ones only where a mask has them.
    """
    known = {**names.general, **names.in_files}
    counts = _counts([job for job in jobs if not job.names], rules) if len(known) < 2 else Counter()
    _refuse_codes(counts)
    values = {value for value in counts if value}
    only = next(iter(values)) if len(values) == 1 else 0
    if only >= FIRST_CODE and only not in known and not names.in_files:
        notes.append(f"the masks hold the values 0 and {only}; {only} is taken as ROI 1.")
        return (
            LabelTable([known.get(1, "ROI 1")]),
            replace(rules, label_map={**rules.label_map, only: 1}),
            {1},
        )
    if known:
        table = LabelTable([known.get(value, f"ROI {value}") for value in range(1, max(known) + 1)])
        return table, rules, set(table.values)
    if look_like_codes(values) and max(values) <= MOST_LABELS:
        proposed = propose_map(counts) or {}
        notes.append(
            f"the values {codes_text(values)} look like codes; each is measured as an ROI of that number. To number them 1, 2, "
            f'... give --label-map "{map_option(proposed)}".'
        )
    values = {value for value in values if value <= MOST_LABELS} or {1}
    return LabelTable.numbered(max(values)), rules, values


def _refuse_codes(counts: Counter[int]) -> None:
    """Refuses colours and planes that nobody mapped, and masks that mark what is around the ROI.

    Raises:
        DataError: with the map to give.
    """
    total = sum(counts.values()) or 1
    share = {value: count / total for value, count in counts.items()}
    proposed = propose_map(counts, share)
    marks = {value for value in counts if is_mark(value)}
    if marks or (proposed or {}).get(0) == 1:
        raise DataError(codes_message(counts, share, option="--label-map"))


def _require_numbers(mask: Mask) -> None:
    """Refuses colours and planes that nobody mapped."""
    if int(mask.array.max(initial=0)) >= FIRST_COLOUR:
        values, counts = np.unique(mask.array, return_counts=True)
        _refuse_codes(Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))))


def _require_names(job: MaskJob, jobs: list[MaskJob], names: RoiNames, roi_values: dict[str, int]) -> None:
    """Refuses a mask of numbers among masks that name their ROIs, where nobody said which number is which name.

    Raises:
        DataError: with what to give.
    """
    if roi_values and not job.names and not names.general:
        named = next(other.name for other in jobs if other.names)
        raise DataError(
            f"it holds numbers, and others name their ROIs ('{named}': {name_list(list(roi_values), 5)}), so it is not certain "
            "which number is which ROI. Give --labels with the names in the order of the numbers."
        )


def _counts(jobs: list[MaskJob], rules: LabelRules) -> Counter[int]:
    """Returns value → pixels of all masks of numbers; a file that cannot be read is reported when it is measured."""
    found: Counter[int] = Counter()
    for job in jobs:
        slices = [path for path in job.files if not is_whole(path, 2)]
        for label in read_slices(slices, rules):
            if not isinstance(label, DataError):
                _count(label.array, found)
        for path in set(job.files) - set(slices):
            try:
                _count(read_whole(path, rules)[0].array, found)
            except AutosegError:
                continue
    return found


def _count(array: npt.NDArray[np.unsignedinteger], found: Counter[int]) -> None:
    values, counts = np.unique(array, return_counts=True)
    found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
