"""``autoseg measure``: areas and volumes of masks that exist already."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import AutosegError, DataError
from autoseg_lib.evaluate.names import find_names
from autoseg_lib.events import Listener, Message, Progress, nobody
from autoseg_lib.export.report import build_run_report, case_report, write_json
from autoseg_lib.export.run_folder import RunFolder, open_run
from autoseg_lib.export.tables import csa_table, write_csa_results, write_measurements, write_volumes
from autoseg_lib.io.files import sha256_of
from autoseg_lib.io.raster import read_label
from autoseg_lib.io.volume_files import all_files, is_volume_file, read_label_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes
from autoseg_lib.system import versions
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.mask_jobs import MaskJob, find_jobs

# A file with higher values is an image, or needs names: the setting num_labels ends here too.
_MOST_ROIS = 254

# A lone value from here on is a code for "inside" (63, 64, 100, 127, 128, 200, 255 are in use); a smaller one is a label.
_FIRST_CODE = 63


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
            lines.append(f"{row.case}: {row.roi} {size}{mean} on {row.slices} slices")
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


def measure_masks(
    masks: Path,
    output: Path,
    images: Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    slice_axis: str = "auto",
    mode: str = "new",
    on_event: Listener = nobody,
) -> MeasureResult:
    """Measures masks on their own pixels and writes csa_results.csv, measurements.csv, volumes.csv and
    run_report.json.

    Args:
        masks: folder of masks (volumes; slices, flat or a folder per scan; a run folder), or one file.
        output: the run folder for the tables.
        images: the scans, matched by name; they give pixel spacing and slice positions.
        labels: names of the ROIs in order of label value; None: from run_report.json or labels.csv beside the
            masks,
            else numbered.
        slice_axis: as in ``load_scan``: which way volumes are sliced.
        mode: "new", "continue" or "overwrite", see ``open_run``; here both measure again, and only the tables and the
            report are replaced: masks that lie in ``output`` stay.
        on_event: told about progress and notes.

    Raises:
        DataError: no masks there, or nothing could be measured.
        ExportError: the output folder holds results already or cannot be written.
    """
    started, clock = datetime.datetime.now().astimezone(), time.monotonic()
    jobs, notes = find_jobs(masks, images, slice_axis)
    # The output may be the run folder whose masks are measured: nothing but the four tables is ever replaced.
    read = [path for job in jobs for path in job.files]
    run = open_run(output, mode, inputs=[*read, *([images] if images else [])], tables_only=True)
    table, recode, found = _label_table(masks, labels, jobs, notes)
    measurements: list[SliceMeasurement] = []
    volumes: list[VolumeMeasurement] = []
    reports: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    for number, job in enumerate(jobs):
        on_event(Progress("Measuring", number, len(jobs), job.name))
        try:
            scan, mask, said = job.load(len(table))
            mask = _recoded(mask, recode)
            rows = measure_slices(
                mask, table, case=job.name, slice_names=scan.slice_names, slice_files=scan.slice_files
            )
            sizes = measure_volumes(mask, table, case=job.name)
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
    _write(run, measurements, volumes)
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


def _write(run: RunFolder, measurements: list[SliceMeasurement], volumes: list[VolumeMeasurement]) -> None:
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


def _label_table(
    masks: Path, given: Sequence[str] | None, jobs: list[MaskJob], notes: list[str]
) -> tuple[LabelTable, dict[int, int], set[int]]:
    """Returns the ROIs, value → value where the only ROI has a code (0 and 255), and the values to
    report.

    ROIs that someone named are always reported; numbered ones only where a mask has them.
    """
    names = (
        dict(enumerate(given, start=1))
        if given
        else find_names(masks if masks.is_dir() else masks.parent).general
    )
    values = _values(jobs) if len(names) < 2 else set()
    only = next(iter(values)) if len(values) == 1 else 0
    if only >= _FIRST_CODE and only not in names:
        notes.append(f"the masks hold the values 0 and {only}; {only} is taken as ROI 1.")
        return LabelTable([names.get(1, "ROI 1")]), {only: 1}, {1}
    if names:
        table = LabelTable([names.get(value, f"ROI {value}") for value in range(1, max(names) + 1)])
        return table, {}, set(table.values)
    values = {value for value in values if value <= _MOST_ROIS} or {1}
    return LabelTable.numbered(max(values)), {}, values


def _values(jobs: list[MaskJob]) -> set[int]:
    """All label values of all masks; a file that cannot be read is reported when it is measured."""
    found: set[int] = set()
    for job in jobs:
        for path in job.files:
            try:
                array = read_label_file(path).array if is_volume_file(path) else read_label(path).array
            except AutosegError:
                continue
            found.update(int(value) for value in np.unique(array) if value)
    return found


def _recoded(mask: Mask, recode: dict[int, int]) -> Mask:
    if not recode:
        return mask
    array = np.zeros_like(mask.array)
    for old, new in recode.items():
        array[mask.array == old] = new
    return mask.with_array(array)
