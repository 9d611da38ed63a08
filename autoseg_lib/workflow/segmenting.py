"""Step "Segment": a folder of scans and a model → masks, areas, volumes and a report in one run folder."""

from __future__ import annotations

import datetime
import logging
import re
import time
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.data.scan import Scan, SpacingOverride, load_scan
from autoseg_lib.errors import (
    AutosegError,
    DataError,
    ExportError,
    ModelError,
    OutOfSpaceError,
    SettingsError,
    name_list,
)
from autoseg_lib.events import Listener, Message, Progress, StopFlag, nobody
from autoseg_lib.export.animation import write_animation
from autoseg_lib.export.masks import NIFTI_NAME, write_masks, write_nifti, write_overlays
from autoseg_lib.export.report import build_run_report, case_report, write_json
from autoseg_lib.export.run_folder import RunFolder, open_run, safe_name, unique_names
from autoseg_lib.infer.predictor import DEFAULT_OVERLAP, Predictor, Stopped
from autoseg_lib.io.files import sha256_of
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes, why_no_volume
from autoseg_lib.networks.model_file import LoadedModel, load_model, read_metadata
from autoseg_lib.settings import AUTO, SegmentSettings, to_table
from autoseg_lib.system import device_name, versions
from autoseg_lib.train.machine import best_precision
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.finished import SETTINGS_WITH_PATHS, RunRows, input_checksums, read_mask, result_key
from autoseg_lib.workflow.privacy import without_identity

_log = logging.getLogger(__name__)
_PART = re.compile(r"_(fold|part)\d+_best$")


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
    """

    name: str
    folder: Path
    measurements: tuple[SliceMeasurement, ...]
    volumes: tuple[VolumeMeasurement, ...]
    warnings: tuple[str, ...]
    how_measured: str
    already_done: bool = False
    _source: ImageSource | None = field(default=None, repr=False)
    _load: tuple[Any, ...] = field(default=(), repr=False)
    _packed: bytes = field(default=b"", repr=False)
    _dtype: str = "uint8"

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


@dataclass(frozen=True)
class SegmentResult:
    """A finished (or stopped) run."""

    run_folder: Path
    labels: LabelTable
    cases: tuple[CaseResult, ...]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    stopped: bool = False

    @property
    def measurements(self) -> tuple[SliceMeasurement, ...]:
        """All rows of measurements.csv."""
        return tuple(row for case in self.cases for row in case.measurements)

    @property
    def volumes(self) -> tuple[VolumeMeasurement, ...]:
        """All rows of volumes.csv."""
        return tuple(row for case in self.cases for row in case.volumes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the run as plain values for ``--json``."""
        return {
            "run_folder": str(self.run_folder),
            "cases": [
                {
                    "case": case.name,
                    "folder": str(case.folder),
                    "volumes_ml": {row.roi: row.volume_ml for row in case.volumes},
                    "warnings": list(case.warnings),
                    "already_done": case.already_done,
                }
                for case in self.cases
            ],
            "failures": [{"case": name, "reason": reason} for name, reason in self.failures],
            "notes": list(self.notes),
            "stopped": self.stopped,
        }


def list_models(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Returns the model files of a folder with their metadata, newest first; files that are no models are left out."""
    found = []
    for path in sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            found.append((path, read_metadata(path)))
        except ModelError:
            continue
    return found


def find_model(settings: SegmentSettings, model_dir: Path) -> Path:
    """Returns the model file that ``model_filename`` means.

    Args:
        settings: a path, a file name or a model's name; "auto" takes the newest best model of the folder.
        model_dir: folder the models are in.

    Raises:
        ModelError: there is none.
    """
    wanted = settings.model_filename
    if wanted != AUTO:
        for candidate in (
            Path(wanted).expanduser(),
            model_dir / wanted,
            model_dir / f"{wanted}.safetensors",
            model_dir / f"{wanted}_best.safetensors",
        ):
            if candidate.is_file():
                return candidate
        if Path(wanted).is_dir() or len(Path(wanted).parts) > 1:
            raise ModelError(
                f"model '{wanted}': there is no such file. Give the path of a model file (NAME_best.safetensors), or the name of "
                f"a model in '{model_dir}'."
            )
        known = [path.stem for path, _ in list_models(model_dir)]
        there = f" There are: {', '.join(known)}." if known else ""
        raise ModelError(
            f"model '{wanted}': not found in '{model_dir}'.{there} Correct model_filename, or train one with train.ipynb."
        )
    models = list_models(model_dir)
    best = [path for path, _ in models if path.stem.endswith("_best")] or [path for path, _ in models]
    # A fold, or a part of a learning curve, is no model of its own while the one it belongs to is there.
    best = [path for path in best if not _PART.search(path.stem)] or best
    if not best:
        raise ModelError(
            f"no model was found in '{model_dir}'. Train one with train.ipynb first, or set model_filename."
        )
    return best[0]


def check_against_model(settings: SegmentSettings, model: LoadedModel) -> None:
    """Compares what the user said of the model with what it is.

    Raises:
        SettingsError: the number of ROIs, their names or the input size differ.
    """
    problems = []
    if settings.labels_list != AUTO and list(settings.labels_list) != list(model.labels.names):
        given, known = len(settings.labels_list), len(model.labels)
        what = (
            f"the model knows {known} ROI{'s' if known != 1 else ''}, labels_list names {given} besides the background"
            if given != known
            else f"the model's ROIs are {', '.join(model.labels.names)}, labels_list names {', '.join(settings.labels_list)}"
        )
        problems.append(f'{what}. Leave labels_list = "auto" to use the model\'s own names.')
    if settings.input_shape != AUTO and model.preprocessing.input_shape is not None:
        given_shape = settings.input_shape
        pair = (given_shape, given_shape) if isinstance(given_shape, int) else tuple(given_shape)
        if pair != model.preprocessing.input_shape:
            own = " × ".join(str(n) for n in model.preprocessing.input_shape)
            problems.append(
                f'the model works on {own} pixels, input_shape = {settings.input_shape}. Leave input_shape = "auto".'
            )
    if problems:
        raise SettingsError("\n".join(problems))


def make_predictor(model: LoadedModel, settings: SegmentSettings, notes: list[str]) -> Predictor:
    """Returns the predictor for a model, and adds to ``notes`` what could not be done as asked."""
    device = next(model.network.parameters()).device
    augmentation = AugmentPlan.from_dict(model.metadata.get("augmentation", {}))
    mirror_axis = None
    # hippocampus_msd: about 0.002 of Dice better in eight of nine trials (docs/learning.md); 2D was not measured and takes longer.
    wanted = model.spec.dimension == "3D" if settings.tta == AUTO else settings.tta
    if wanted:
        if augmentation.mirrors and augmentation.mirror_axis is not None:
            # The plan counts from a sample's first axis; a prepared scan has the slices in front in 2D too.
            mirror_axis = augmentation.mirror_axis + (1 if model.spec.dimension == "2D" else 0)
        elif settings.tta != AUTO:
            notes.append(
                "tta was left out: this model was not trained with mirrored images, so mirroring would harm."
            )
    window = model.spec.input_shape if model.spec.dimension == "3D" else None
    return Predictor(
        network=model.network,
        preprocessing=model.preprocessing,
        classes=len(model.labels) + 1,
        device=device,
        window=None if window is None else (window[0], window[1], window[2]),
        overlap=DEFAULT_OVERLAP if settings.overlap == AUTO else settings.overlap,
        batch_size=None if settings.batch_size == AUTO else settings.batch_size,
        half_precision=best_precision(device.type) != "32",
        mirror_pairs=augmentation.mirror_pairs,
        mirror_axis=mirror_axis,
        neighbours=model.spec.neighbours,
    )


def segment(
    input_path: Path,
    model_path: Path,
    output: Path,
    settings: SegmentSettings,
    *,
    mode: str = "new",
    on_event: Listener = nobody,
    stop: StopFlag | None = None,
) -> SegmentResult:
    """Segments every scan below ``input_path`` and measures the ROIs.

    Args:
        input_path: folder, file or CSV manifest.
        model_path: the model file.
        output: the run folder.
        settings: see SegmentSettings.
        mode: "new", "continue" or "overwrite", see open_run.
        on_event: hears the progress.
        stop: asked between batches.

    Raises:
        ModelError, SettingsError, DataError, ExportError: nothing could be done at all. A fault of a single scan is in
            the result's ``failures``.
    """
    return _Segmenting(model_path, settings, on_event, stop or StopFlag()).run(input_path, output, mode)


class _Segmenting:
    def __init__(
        self, model_path: Path, settings: SegmentSettings, on_event: Listener, stop: StopFlag
    ) -> None:
        self.settings, self.on_event, self.stop = settings, on_event, stop
        self.model = load_model(model_path, torch.device(device_name()))
        check_against_model(settings, self.model)
        self.model_hash = sha256_of(model_path)
        self.notes: list[str] = []
        self.predictor = make_predictor(self.model, settings, self.notes)
        if self.model.members > 1:
            self.notes.append(
                f"the model holds {self.model.members} networks that answer together: it takes about {self.model.members} times as "
                "long as one, and is usually a little more accurate."
            )
        self.override = SpacingOverride.from_settings(settings)
        self.cases: list[CaseResult] = []
        self.failures: list[tuple[str, str]] = []
        self.stopped = False

    def run(self, input_path: Path, output: Path, mode: str) -> SegmentResult:
        started, clock = datetime.datetime.now().astimezone(), time.monotonic()
        _refuse_input_inside_output(input_path, output, mode)
        found = discover(
            input_path,
            series=self.settings.series,
            on_progress=lambda done, total: self.on_event(Progress("Looking for scans", done, total)),
        )
        self.notes += found.notes
        inputs = [path for source in found.sources for path in source.files]
        run = open_run(output, mode, inputs=inputs)
        self.rows = RunRows(run)
        sources = dict(zip(unique_names([s.name for s in found.sources]), found.sources, strict=True))
        self._require_same_key(run, sources)
        self._segment_all(run, sources)
        self.rows.write()
        hide = without_identity(found)
        report = build_run_report(
            kind="segment",
            started=started.isoformat(timespec="seconds"),
            finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            seconds=time.monotonic() - clock,
            versions=versions(),
            device=str(self.predictor.device),
            models=[
                {
                    "file": self.model.path.name,
                    "sha256": self.model_hash,
                    "epoch": self.model.metadata.get("epoch"),
                }
            ],
            labels=self.model.labels.names,
            settings={k: v for k, v in to_table(self.settings).items() if k not in SETTINGS_WITH_PATHS},
            cases=self.rows.reports(),
            failures=[(name, hide(reason)) for name, reason in self.failures],
            skipped=[(hide(item.path.name), hide(item.reason)) for item in found.skipped],
            warnings=sorted({hide(text) for case in self.cases for text in case.warnings}),
            notes=[hide(text) for text in self.notes],
        )
        write_json(run.report, report)
        return SegmentResult(
            run.path,
            self.model.labels,
            tuple(self.cases),
            tuple(self.failures),
            tuple(self.notes),
            self.stopped,
        )

    def _require_same_key(self, run: RunFolder, sources: dict[str, ImageSource]) -> None:
        """A case that is done already must have been done from the same input, model and settings.

        Raises:
            ExportError: it was not; nothing is touched.
        """
        other = []
        for name, source in sources.items():
            record = run.cases.get(name)
            if record is None or not record["complete"]:
                continue
            try:
                same = record["key"] == self._key(source)
            except OSError:
                continue  # the scan's turn will come, and its fault be told
            if not same:
                other.append(name)
        if other:
            raise ExportError(
                f"output '{run.path}': {name_list(other)} {'was' if len(other) == 1 else 'were'} segmented into it before with "
                "another model, other settings or other images, and nothing is overwritten unasked. "
                "Choose another folder, or add --overwrite to replace them."
            )

    def _segment_all(self, run: RunFolder, sources: dict[str, ImageSource]) -> None:
        for number, (name, source) in enumerate(sources.items()):
            self.on_event(Progress("Scans", number, len(sources), name))
            if self.stop.is_set():
                self._stopped_after(number, len(sources))
                return
            try:
                key = self._key(source)
                if name in run.finished_cases({name: key}) and self.rows.has(name):
                    self._take_over(run, name, source)
                else:
                    self._segment_one(run, name, source, key)
            except Stopped:
                self._stopped_after(number, len(sources))
                return
            except OutOfSpaceError:
                raise
            except AutosegError as error:
                self._failed(name, str(error))
            except Exception as error:  # noqa: BLE001 - one bad scan must not stop a night's work
                _log.debug("segmenting %s failed", name, exc_info=True)
                self._failed(name, f"'{name}': it could not be segmented ({type(error).__name__}: {error}).")
            # After every scan, so that an interrupted run loses nothing.
            self._write_tables_if_possible()
        self.on_event(Progress("Scans", len(sources), len(sources)))

    def _stopped_after(self, number: int, total: int) -> None:
        self.stopped = True
        self.notes.append(f"stopped by the user after {number} of {total} scans.")

    def _failed(self, name: str, reason: str) -> None:
        self.failures.append((name, reason))
        self.on_event(Message(reason, "warning"))

    def _write_tables_if_possible(self) -> None:
        """A table that is open in Excel must not end the run; the last writing will tell if it still is."""
        try:
            self.rows.write()
        except OutOfSpaceError:
            raise
        except ExportError as error:
            self.on_event(
                Message(f"{error} Going on; the tables are written again after the next scan.", "warning")
            )

    def _key(self, source: ImageSource) -> str:
        return result_key(source, self.model_hash, to_table(self.settings))

    def _segment_one(self, run: RunFolder, name: str, source: ImageSource, key: str) -> None:
        clock = time.monotonic()
        scan = load_scan(source, slice_axis=self.settings.slice_axis, override=self.override)
        scan = replace(scan, name=name)
        scan = replace(scan, warnings=(*scan.warnings, *self._modality_warning(scan)))
        mask = self.predictor.predict(scan.volume, self.on_event, self.stop)
        measurements = measure_slices(
            mask, self.model.labels, slice_names=scan.slice_names, slice_files=scan.slice_files, case=name
        )
        volumes = measure_volumes(mask, self.model.labels, case=name)
        folder = run.begin_case(name)
        files, notes = self._write_files(folder, scan, mask)
        scan = replace(scan, warnings=(*scan.warnings, *notes))
        report = case_report(
            scan,
            volumes,
            checksums=input_checksums(source, scan),
            seconds=time.monotonic() - clock,
            files=[path.relative_to(run.path).as_posix() for path in files],
        )
        self.rows.put(name, measurements, volumes, report)
        run.finish_case(name, files, key)
        self.cases.append(
            CaseResult(
                name,
                folder,
                tuple(measurements),
                tuple(volumes),
                tuple(scan.warnings),
                how_measured(scan),
                _source=source,
                _load=(self.settings.slice_axis, self.override),
                _packed=zlib.compress(mask.array.tobytes(), level=1),
                _dtype=str(mask.array.dtype),
            )
        )

    def _modality_warning(self, scan: Scan) -> list[str]:
        """A model of one kind of image finds something in every other kind, too."""
        trained = str(self.model.metadata.get("data", {}).get("modality", ""))
        given = scan.volume.modality
        if not trained or not given or given in trained.split("/"):
            return []
        return [
            f"this is a {given} scan, and the model was trained on {trained}: do not trust what it found."
        ]

    def _write_files(self, folder: Path, scan: Scan, mask: Mask) -> tuple[list[Path], list[str]]:
        formats, notes = self.settings.formats, []
        files = write_masks(folder, mask, scan.slice_names, formats)
        if "jpg" in formats:
            files += write_overlays(folder, scan, mask, self.model.labels)
        if "nifti" in formats and scan.source_geometry.is_even:
            files += write_nifti(folder / NIFTI_NAME, scan, mask)
        elif "nifti" in formats:
            notes.append(
                f"{NIFTI_NAME} was left out: NIfTI cannot hold slices that are not evenly spaced, or several images at one "
                "position. masks/ and the tables are complete."
            )
        files += write_animation(folder / "animation.html", scan, mask, self.model.labels)
        return files, notes

    def _take_over(self, run: RunFolder, name: str, source: ImageSource) -> None:
        """A scan that an earlier run into this folder has finished: shown, not done again."""
        scan = load_scan(source, slice_axis=self.settings.slice_axis, override=self.override)
        measurements, volumes = self.rows.of(name)
        self.cases.append(
            CaseResult(
                name,
                run.path / safe_name(name),
                tuple(measurements),
                tuple(volumes),
                tuple(scan.warnings),
                how_measured(scan),
                already_done=True,
                _source=source,
                _load=(self.settings.slice_axis, self.override),
            )
        )


def _refuse_input_inside_output(input_path: Path, output: Path, mode: str) -> None:
    if mode == "new" or not input_path.exists():
        return
    inside = input_path.resolve()
    if output.resolve() in (inside, *inside.parents):
        raise ExportError(
            f"output '{output}': the scans to segment ('{input_path}') lie inside it. Choose another folder for the results."
        )


def how_measured(scan: Scan) -> str:
    """Returns the sentence that says where the millimetres come from."""
    geometry = scan.volume.geometry
    if not geometry.spacing_known:
        return "No pixel spacing: areas in mm² are unknown. Fill in fov and matrix_size (from the scan protocol) in Settings."
    rows, columns = geometry.spacing_zyx_mm[1:]
    text = f"In-plane pixel spacing {rows:.4g} × {columns:.4g} mm ({scan.volume.spacing_source})"
    reason = why_no_volume(geometry)
    if reason:
        return f"{text}; no volume: {reason}"
    return f"{text}; slices {geometry.spacing_text} apart by position."
