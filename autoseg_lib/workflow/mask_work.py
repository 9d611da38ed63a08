"""Measures masks one by one: areas, volumes and grey values, and what run_report.json says of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.naming import hashed_name
from autoseg_lib.data.scan import Scan, load_scan
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.evaluate.names import RoiNames
from autoseg_lib.evaluate.overlapping import one_by_one, said_as_a_whole, tells_overlap
from autoseg_lib.events import Listener, Message, Progress
from autoseg_lib.export.dossier import DossierCase
from autoseg_lib.export.report import case_report, how_measured
from autoseg_lib.io.files import sha256_of
from autoseg_lib.io.volume_files import all_files
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.mask_jobs import FoundMasks, MaskJob
from autoseg_lib.workflow.mask_rois import require_names, require_numbers
from autoseg_lib.workflow.scan_measures import measure_scan


@dataclass
class MeasuredMasks:
    """What was measured so far: rows, what run_report.json and report.html say of each mask, failures and notes."""

    measurements: list[SliceMeasurement] = field(default_factory=list)
    volumes: list[VolumeMeasurement] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    cases: list[DossierCase] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out_all_but(self, values: Collection[int]) -> None:
        """Takes the rows of other ROIs out, those that nobody named and no mask has."""
        self.measurements = [row for row in self.measurements if row.label in values]
        self.volumes = [row for row in self.volumes if row.label in values]
        self.cases = [
            replace(
                case,
                measurements=[row for row in case.measurements if row.label in values],
                volumes=[row for row in case.volumes if row.label in values],
            )
            for case in self.cases
        ]
        kept = {row.roi for row in self.volumes}
        for report in self.reports:
            report["volumes_ml"] = {roi: ml for roi, ml in report["volumes_ml"].items() if roi in kept}


@dataclass(frozen=True)
class MaskWork:
    """How masks are measured.

    Attributes:
        found: the masks.
        hide: takes what tells who a patient is out of a sentence.
        table: the ROIs.
        rules: how codes and names become ROI numbers.
        greys: what grey values are measured with.
        reported: values of the ROIs that are reported in any case; others only if some mask has them.
    """

    found: FoundMasks
    hide: Callable[[str], str]
    table: LabelTable
    rules: LabelRules
    greys: GreyImages
    reported: frozenset[int]

    def measure_all(self, names: tuple[RoiNames, dict[str, int]], on_event: Listener) -> MeasuredMasks:
        """Measures mask by mask; one that cannot be measured does not stop the others."""
        done, jobs = MeasuredMasks(), self.found.jobs
        for number, job in enumerate(jobs):
            on_event(Progress("Measuring", number, len(jobs), job.name))
            try:
                require_names(job, jobs, *names)
                self._measure_one(job, done)
            except AutosegError as error:
                reason = self.hide(str(error))
                done.failures.append((job.name, reason))
                on_event(Message(f"'{job.name}' was not measured: {reason}", level="warning"))
        on_event(Progress("Measuring", len(jobs), len(jobs)))
        done.leave_out_all_but(self.reported.union(size.label for size in done.volumes if size.voxels))
        return done

    def _measure_one(self, job: MaskJob, done: MeasuredMasks) -> None:
        scan, mask, said = job.load(self.rules)
        scan = self.found.nameless(scan, job)
        require_numbers(mask)
        rows, sizes = self._measured(job, scan, mask)
        only_here = []
        if job.names and tells_overlap(said) and not self.rules.overlap_priority:
            rows, sizes = self._each_alone(job, rows, sizes)
            said = said_as_a_whole(said, "measured", _TO_CUT)
            only_here = [_ONE_DRAWN]
        texts = [self.hide(text) for text in said]
        how = self.hide(how_measured(scan, "Give the images (--images)."))
        done.reports.append({**_case_report(scan, sizes, job, texts), "how_measured": how})
        done.cases.append(
            DossierCase(job.name, rows, sizes, lambda: self._look(job), how, [*texts, *only_here])
        )
        done.measurements += rows
        done.volumes += sizes
        done.notes += [f"'{job.name}': {text}" for text in texts]

    def _look(self, job: MaskJob) -> tuple[Volume | None, Mask]:
        """Reads image and mask again for their pictures; nothing is kept in memory meanwhile."""
        scan, mask, _ = job.load(self.rules)
        return (scan.volume if job.has_image else None), mask

    def _measured(
        self, job: MaskJob, scan: Scan, mask: Mask
    ) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
        return measure_scan(
            scan,
            mask,
            self.table,
            case=job.name,
            image=scan.volume if job.has_image else None,
            tissue_window=self.greys.tissue_window,
            fat_image=self.greys.fat_of(job.name) if job.has_image else None,
        )

    def _each_alone(
        self, job: MaskJob, rows: list[SliceMeasurement], sizes: list[VolumeMeasurement]
    ) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
        """Measures ROIs that overlap one by one, so that none is cut by another (a tumour lies inside its organ)."""
        alone_rows = {(row.slice_number, row.label): row for row in rows}
        alone_sizes = {size.label: size for size in sizes}
        for value, (scan, mask, _) in one_by_one(job.load, self.table.values, self.rules.only):
            more_rows, more_sizes = self._measured(job, self.found.nameless(scan, job), mask)
            alone_rows |= {(row.slice_number, row.label): row for row in more_rows if row.label == value}
            alone_sizes |= {size.label: size for size in more_sizes if size.label == value}
        return list(alone_rows.values()), list(alone_sizes.values())


_ONE_DRAWN = "where ROIs overlap, the pictures here show one of them; the numbers are those of the whole ROIs"
_TO_CUT = ". To cut them, set overlap_priority"


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
        # Beside DICOM files a scan named after its patient has another name than its fat image, which lies alone.
        by_name = {hashed_name(known): source for known, source in self.fat.items()} | self.fat
        if name not in by_name:
            raise DataError(
                f"found no fat image of that name; there are {name_list(list(self.fat), 3)}. A fat image needs the name of "
                "its scan."
            )
        return load_scan(by_name[name], slice_axis=self.slice_axis).volume


def _case_report(
    scan: Scan, sizes: list[VolumeMeasurement], job: MaskJob, said: Sequence[str]
) -> dict[str, Any]:
    report = case_report(scan, sizes, checksums=_checksums(scan, job))
    report["warnings"] = list(said)
    return report


def _checksums(scan: Scan, job: MaskJob) -> dict[str, str]:
    """Returns sha256 of each file of a mask, under the name of its slice (file names may tell who the patient is)."""
    files = list(dict.fromkeys(part for path in job.files for part in all_files(path)))
    names = list(scan.slice_names) if len(scan.slice_names) == len(files) else []
    if not names:
        names = [scan.name] if len(files) == 1 else [f"file_{number}" for number in range(1, len(files) + 1)]
    return {name: sha256_of(path) for name, path in zip(names, files, strict=True)}
