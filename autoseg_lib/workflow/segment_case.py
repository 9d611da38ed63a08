"""One scan through everything: read → predict → post-process → measure → write.

The three steps of ``CaseSegmenter`` (read, answer, finish) share nothing but their arguments, so that reading the next scan, and
measuring and writing the last one may go on while the network works.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.scan import Scan, SpacingOverride, load_scan
from autoseg_lib.errors import DataError
from autoseg_lib.events import Listener, StopFlag
from autoseg_lib.export.animation import write_animation
from autoseg_lib.export.dicom_objects import write_segmentation_objects
from autoseg_lib.export.masks import NIFTI_NAME, write_masks, write_nifti, write_overlays
from autoseg_lib.export.report import case_report, how_measured
from autoseg_lib.export.run_folder import RunFolder, safe_name
from autoseg_lib.infer.prediction import Prediction
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.io.files import Checksums
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.calibration import Calibration
from autoseg_lib.measure.flags import add_flags
from autoseg_lib.measure.intervals import add_intervals
from autoseg_lib.measure.scan_facts import scan_facts
from autoseg_lib.measure.training_facts import TrainingFacts
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.networks.model_file import LoadedModel
from autoseg_lib.postprocess.names import with_structure_names
from autoseg_lib.postprocess.pipeline import Postprocessing
from autoseg_lib.settings import SegmentSettings, to_table
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.finished import input_checksums, read_mask, result_key
from autoseg_lib.workflow.pipeline_editing import POSTPROCESSING, STRUCTURE_NAMES
from autoseg_lib.workflow.region_masks import RegionMasks
from autoseg_lib.workflow.scan_measures import measure_scan

_NO_SPACING = "Fill in fov and matrix_size (from the scan protocol) in Settings."


@dataclass(frozen=True)
class CaseResult:
    """What came out for one scan. Pixels are read again, and masks unpacked, only when someone looks at them.

    Attributes:
        name: the case.
        folder: its sub-folder of the run.
        measurements: its rows of measurements.csv.
        volumes: its rows of volumes.csv.
        warnings: what was assumed.
        how_measured: one sentence on where spacing and slice distances come from.
        already_done: it was finished by an earlier run into the same folder.
        flags: reasons not to trust the scan as a whole; those of a slice are in its rows.
        error_bars: one sentence on what the intervals rest on, or why there are none.
    """

    name: str
    folder: Path
    measurements: tuple[SliceMeasurement, ...]
    volumes: tuple[VolumeMeasurement, ...]
    warnings: tuple[str, ...]
    how_measured: str
    already_done: bool = False
    flags: tuple[str, ...] = ()
    error_bars: str = ""
    _source: ImageSource | None = field(default=None, repr=False)
    _load: tuple[Any, ...] = field(default=(), repr=False)
    _packed: bytes = field(default=b"", repr=False)
    _dtype: str = "uint8"

    @property
    def flagged_slices(self) -> int:
        """Number of slices with a reason to look again."""
        return len({row.slice_number for row in self.measurements if row.flag})

    @cached_property
    def scan(self) -> Scan:
        """The scan, read from its files.

        Raises:
            DataError: the files are gone.
        """
        if self._source is None:
            raise DataError(
                f"'{self.name}': the scan's files are not known any more. Segment it again to look at it."
            )
        return load_scan(self._source, slice_axis=self._load[0], override=self._load[1])

    @cached_property
    def mask(self) -> Mask:
        """The label values on the scan's slices; those of an earlier run are read back from its files.

        Raises:
            DataError: the files are gone.
        """
        if not self._packed:
            return read_mask(self.folder, self.scan)
        geometry = self.scan.volume.geometry
        array = np.frombuffer(zlib.decompress(self._packed), dtype=self._dtype).reshape(geometry.shape_zyx)
        return Mask(array, geometry)

    def look(self) -> tuple[Scan, Mask]:
        """Returns scan and label values, read anew; unlike with ``scan`` and ``mask`` nothing is kept, for going through many.

        Raises:
            DataError: the files are gone.
        """
        anew = replace(self)
        return anew.scan, anew.mask


@dataclass(frozen=True)
class Measured:
    """What was measured on an answer.

    Attributes:
        rows: of measurements.csv.
        volumes: rows of volumes.csv.
        flags: reasons not to trust the scan as a whole.
        error_bars: one sentence on what the intervals rest on, or why there are none.
    """

    rows: tuple[SliceMeasurement, ...]
    volumes: tuple[VolumeMeasurement, ...]
    flags: tuple[str, ...]
    error_bars: str


@dataclass(frozen=True, eq=False)
class CaseSegmenter:
    """Everything that is the same for all scans of a run.

    Attributes:
        model: the network with what its file says.
        model_hash: of the model, from ``finished.model_key``.
        settings: of the run.
        predictor: the network with all that is done before and after it.
    """

    model: LoadedModel
    model_hash: str
    settings: SegmentSettings
    predictor: Predictor

    @cached_property
    def labels(self) -> LabelTable:
        """The ROIs, under the names that tables and DICOM objects show.

        Raises:
            SettingsError: the model's names of structures do not fit its ROIs.
        """
        return with_structure_names(self.model.labels, self.model.metadata.get(STRUCTURE_NAMES) or {})

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Label values of the two sides of a structure, (left, right).

        As the names that are shown tell, and for the ROIs that those say nothing of, as the model's own names do.
        """
        shown = self.labels.left_right_pairs
        told = {value for pair in shown for value in pair}
        return shown + tuple(pair for pair in self.model.labels.left_right_pairs if not told & set(pair))

    @cached_property
    def postprocessing(self) -> Postprocessing:
        """What is done to the network's answer before it is measured.

        Raises:
            SettingsError: the model's section does not fit its ROIs.
        """
        steps = Postprocessing.from_list(self.model.metadata.get(POSTPROCESSING) or [])
        steps.check(self.model.labels)
        return steps

    @cached_property
    def calibration(self) -> Calibration:
        """What the error bars rest on.

        Raises:
            ModelError: the model's section is damaged.
        """
        return Calibration.from_dict(self.model.metadata.get("calibration"))

    @cached_property
    def training_facts(self) -> TrainingFacts:
        """What the training scans were like."""
        return TrainingFacts.from_metadata(self.model.metadata)

    def require_sound(self) -> None:
        """Looks at all sections of the model file before the first scan is read.

        Raises:
            ModelError, SettingsError: one is damaged or does not fit the ROIs.
            DataError: masks to crop to are asked for, and there are none.
        """
        _ = self.labels, self.postprocessing, self.calibration, self.training_facts
        self.regions.check(self.model.preprocessing)

    @cached_property
    def _checksum(self) -> Checksums:
        # The same files are asked for again and again: before the run, before the scan, and for its report.
        return Checksums()

    @cached_property
    def regions(self) -> RegionMasks:
        """The masks of the setting ``region_masks``."""
        return RegionMasks(self.settings.region_masks)

    @cached_property
    def _override(self) -> SpacingOverride:
        return SpacingOverride.from_settings(self.settings)

    def key(self, source: ImageSource) -> str:
        """Returns what must be equal for an earlier result of this scan to hold."""
        return result_key(
            source, self.model_hash, to_table(self.settings), self._checksum, regions=self.regions
        )

    def read(self, name: str, source: ImageSource) -> Scan:
        """Returns the scan under the name it has in this run.

        Raises:
            DataError: it cannot be read.
        """
        scan = load_scan(source, slice_axis=self.settings.slice_axis, override=self._override)
        scan = replace(scan, name=name)
        if self.regions.folder:
            region = self.regions.read(source, scan, self.settings.slice_axis, self._override)
            scan = replace(scan, region=region)
        return scan

    def answer(self, scan: Scan, on_event: Listener, stop: StopFlag) -> Prediction:
        """Returns what the model finds, post-processed.

        Raises:
            DataError: the scan does not suit the model.
            Stopped: the user asked to stop.
        """
        found = self.predictor.predict_soft(scan.volume, on_event, stop, scan.region)
        mask, tidied = self.postprocessing.apply(found.mask, self.model.labels)
        return replace(found, mask=mask, notes=(*found.notes, *tidied))

    def measure(self, scan: Scan, answer: Prediction) -> Measured:
        """Measures an answer on the scan's own grid, with error bars and flags."""
        mask, soft = answer.mask, answer.soft
        rows, volumes = measure_scan(
            scan,
            mask,
            self.labels,
            case=scan.name,
            image=scan.volume,
            tissue_window=self.settings.tissue_window,
            pairs=self.pairs,
        )
        rows, volumes, bars = add_intervals(rows, volumes, soft, self.calibration, scan.volume.geometry)
        rows, volumes, flags = add_flags(
            rows,
            volumes,
            scan_facts(scan.volume, mask),
            self.training_facts,
            self.model.labels,
            soft,
            self.calibration,
        )
        return Measured(tuple(rows), tuple(volumes), tuple(flags), bars)

    def finish(
        self, run: RunFolder, source: ImageSource, scan: Scan, answer: Prediction, clock: float
    ) -> tuple[CaseResult, list[Path], dict[str, Any]]:
        """Measures an answer and writes the files of the scan, both at the same time.

        Args:
            run: the run folder.
            source: where the scan comes from.
            scan: the scan.
            answer: what was found.
            clock: ``time.monotonic()`` when the scan was begun.

        Returns:
            the result, the files, and what run_report.json says of the scan.
        """
        folder = run.begin_case(scan.name)
        with ThreadPoolExecutor(1) as thread:
            writing = thread.submit(self._write_files, folder, scan, answer.mask)
            measured = self.measure(scan, answer)
            files, notes = writing.result()
        scan = replace(scan, warnings=(*scan.warnings, *answer.notes, *notes))
        report = case_report(
            scan,
            measured.volumes,
            checksums=input_checksums(source, scan, self._checksum),
            seconds=time.monotonic() - clock,
            files=[path.relative_to(run.path).as_posix() for path in files],
        )
        report["how_measured"] = how_measured(scan, _NO_SPACING)
        report["flags"] = list(measured.flags)
        report["error_bars"] = measured.error_bars
        result = CaseResult(
            scan.name,
            folder,
            measured.rows,
            measured.volumes,
            tuple(scan.warnings),
            how_measured(scan, _NO_SPACING),
            flags=measured.flags,
            error_bars=measured.error_bars,
            _source=source,
            _load=(self.settings.slice_axis, self._override),
            _packed=zlib.compress(answer.mask.array.tobytes(), level=1),
            _dtype=str(answer.mask.array.dtype),
        )
        return result, files, report

    def taken_over(
        self,
        run: RunFolder,
        name: str,
        source: ImageSource,
        rows: tuple[list[SliceMeasurement], list[VolumeMeasurement]],
        report: Mapping[str, Any],
    ) -> CaseResult:
        """Returns a scan that is done already, by an earlier run into this folder or another process: shown, not done again.

        Args:
            run: the run folder.
            name: the case.
            source: where the scan comes from.
            rows: its rows of measurements.csv and volumes.csv.
            report: what run_report.json says of it; where that is too little, the scan is read.
        """
        measured, warnings = report.get("how_measured"), report.get("warnings", [])
        if not measured:
            scan = self.read(name, source)
            measured, warnings = how_measured(scan, _NO_SPACING), scan.warnings
        return CaseResult(
            name,
            run.path / safe_name(name),
            tuple(rows[0]),
            tuple(rows[1]),
            tuple(str(text) for text in warnings),
            str(measured),
            already_done=True,
            flags=tuple(str(text) for text in report.get("flags", [])),
            error_bars=str(report.get("error_bars", "")),
            _source=source,
            _load=(self.settings.slice_axis, self._override),
        )

    def _write_files(self, folder: Path, scan: Scan, mask: Mask) -> tuple[list[Path], list[str]]:
        formats, notes = self.settings.formats, []
        files = write_masks(folder, mask, scan.slice_names, formats)
        if "jpg" in formats:
            files += write_overlays(folder, scan, mask, self.labels)
        if "nifti" in formats and scan.source_geometry.is_even:
            files += write_nifti(folder / NIFTI_NAME, scan, mask)
        elif "nifti" in formats:
            notes.append(
                f"{NIFTI_NAME} was left out: NIfTI cannot hold slices that are not evenly spaced, or several images at one "
                "position. masks/ and the tables are complete."
            )
        objects, said = write_segmentation_objects(folder, scan, mask, self.labels, formats)
        files += objects
        files += write_animation(folder / "animation.html", scan, mask, self.labels)
        return files, notes + said
