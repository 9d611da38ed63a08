"""Step "Segment": a folder of scans and a model → masks, areas, volumes and a report in one run folder."""

from __future__ import annotations

import datetime
import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoseg_lib.data.discover import Discovery, ImageSource, discover
from autoseg_lib.errors import ExportError, SettingsError, name_list
from autoseg_lib.events import Listener, Message, Progress, StopFlag, nobody
from autoseg_lib.export.report import build_run_report, write_json
from autoseg_lib.export.run_folder import RunFolder, open_run, unique_names
from autoseg_lib.export.workbook import require_workbooks
from autoseg_lib.io.run_record import PARTS_FOLDER, RECORD_FILE
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.settings import SegmentSettings, to_table
from autoseg_lib.system import device_name, versions
from autoseg_lib.train.launch import find_place
from autoseg_lib.workflow.case_parts import CaseParts
from autoseg_lib.workflow.claims import Claims
from autoseg_lib.workflow.cohort import Cohort
from autoseg_lib.workflow.finished import SETTINGS_WITH_PATHS, model_key, own_packages
from autoseg_lib.workflow.model_choice import check_against_model, hash_of, load_models, make_predictor
from autoseg_lib.workflow.privacy import without_identity
from autoseg_lib.workflow.run_pages import Hide, page_is_old, write_page, write_run_workbook
from autoseg_lib.workflow.run_rows import RunRows
from autoseg_lib.workflow.segment_case import CaseResult, CaseSegmenter
from autoseg_lib.workflow.shared_tables import SharedTables


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
                    "flags": list(case.flags),
                    "already_done": case.already_done,
                }
                for case in self.cases
            ],
            "failures": [{"case": name, "reason": reason} for name, reason in self.failures],
            "notes": list(self.notes),
            "stopped": self.stopped,
        }


def segment(
    input_path: Path,
    model_paths: Path | Sequence[Path],
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
        model_paths: the model file, or several whose probabilities are averaged.
        output: the run folder.
        settings: see SegmentSettings.
        mode: "new", "continue" or "overwrite", see open_run. Processes that torchrun or SLURM has started together share the
            list: for them "new" is "continue".
        on_event: hears the progress.
        stop: asked between batches.

    Raises:
        ModelError, SettingsError, DataError, ExportError: nothing could be done at all. A fault of a single scan is in
            the result's ``failures``.
    """
    paths = [model_paths] if isinstance(model_paths, Path) else list(model_paths)
    mode = _mode_together(mode, output)
    return _Segmenting(paths, settings, on_event, stop or StopFlag()).run(input_path, output, mode)


class _Segmenting:
    def __init__(
        self, model_paths: Sequence[Path], settings: SegmentSettings, on_event: Listener, stop: StopFlag
    ) -> None:
        self.settings, self.on_event, self.stop = settings, on_event, stop
        if "xlsx" in settings.formats:
            require_workbooks()
        self.model_paths = model_paths
        self.model = load_models(model_paths, device_name(), settings.pipeline)
        check_against_model(settings, self.model)
        self.notes: list[str] = []
        predictor = make_predictor(self.model, settings, self.notes)
        self.segmenter = CaseSegmenter(
            self.model, model_key(model_paths, settings.pipeline), settings, predictor
        )
        self.segmenter.require_sound()
        if self.model.members > 1:
            self._say(
                f"{self.model.members} networks answer together: it takes about {self.model.members} times as long as one, and is "
                "usually a little more accurate."
            )
        self.cases: list[CaseResult] = []
        self.failures: list[tuple[str, str]] = []
        self.stopped = False

    def run(self, input_path: Path, output: Path, mode: str) -> SegmentResult:
        started, clock = datetime.datetime.now().astimezone(), time.monotonic()
        _refuse_input_inside_output(input_path, output, mode)
        found = discover(
            input_path,
            series=self.settings.series,
            on_progress=lambda done, total: self.on_event(
                Progress("Looking for scans", done, total, "files")
            ),
        )
        self.notes += found.notes
        inputs = [path for source in found.sources for path in source.all_files]
        run = open_run(output, mode, inputs=inputs)
        sources = dict(zip(unique_names([s.name for s in found.sources]), found.sources, strict=True))
        self._require_same_key(run, sources)
        with Claims(run.path / PARTS_FOLDER) as claims:
            parts = CaseParts(run.path, claims.token, self._run_key())
            tables = SharedTables(run, sources, claims, parts, self.stop)
            if not (run.path / RECORD_FILE).exists():
                run.save()  # from now on the folder is known to hold results
            cohort = Cohort(
                self.segmenter,
                run,
                sources,
                tables.rows,
                claims,
                parts,
                self.on_event,
                self.stop,
                tables.write_now_and_then,
            )
            cohort.go()
            self._take_in(cohort, sources)
            result = self._put_together(run, tables, list(sources), found, started, clock)
        parts.remove_folder()
        return result

    def _take_in(self, cohort: Cohort, sources: Iterable[str]) -> None:
        self.cases = [cohort.cases[name] for name in sources if name in cohort.cases]
        self.failures += [(name, cohort.failures[name]) for name in sources if name in cohort.failures]
        if cohort.stopped_after is not None:
            self.stopped = True
            total = len(list(sources))
            self.notes.append(f"stopped by the user after {cohort.stopped_after} of {total} scans.")

    def _run_key(self) -> str:
        """What must be equal for two processes to share a list: models and settings."""
        text = self.segmenter.model_hash + repr(sorted(self._settings().items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def _put_together(
        self,
        run: RunFolder,
        tables: SharedTables,
        given: Sequence[str],
        found: Discovery,
        started: datetime.datetime,
        clock: float,
    ) -> SegmentResult:
        """Writes tables, report and page, unless another process has just done so with all that there is."""
        hide = without_identity(found)
        with tables.alone() as anything_new:
            if anything_new:
                tables.write()
                for text in tables.rows.notes:
                    self._say(text)
                if "xlsx" in self.settings.formats and (reason := write_run_workbook(run)):
                    self._failed(run.workbook.name, reason)
                self._write_report(run, tables.rows, found, hide, started, clock)
                self._write_page(run, tables, given, hide)
                tables.tidy_up()
            elif not self.stop.is_set() and page_is_old(run):
                self._write_page(run, tables, given, hide)
        return SegmentResult(
            run.path,
            self.segmenter.labels,
            tuple(self.cases),
            tuple(self.failures),
            tuple(self.notes),
            self.stopped,
        )

    def _write_report(
        self,
        run: RunFolder,
        rows: RunRows,
        found: Discovery,
        hide: Hide,
        started: datetime.datetime,
        clock: float,
    ) -> None:
        report = build_run_report(
            kind="segment",
            started=started.isoformat(timespec="seconds"),
            finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            seconds=time.monotonic() - clock,
            versions=versions() | own_packages(self.model_paths, self.settings.pipeline),
            device=str(self.segmenter.predictor.device),
            models=[
                {"file": path.name, "sha256": hash_of([path]), "epoch": self.model.metadata.get("epoch")}
                for path in self.model_paths
            ],
            labels=self.segmenter.labels.names,
            settings=self._settings(),
            cases=[_without_identity(report, hide) for report in rows.reports()],
            failures=[(name, hide(reason)) for name, reason in self.failures],
            skipped=[(hide(item.path.name), hide(item.reason)) for item in found.skipped],
            warnings=sorted({hide(text) for case in self.cases for text in case.warnings}),
            notes=[hide(text) for text in self.notes],
        )
        write_json(run.report, report)

    def _write_page(self, run: RunFolder, tables: SharedTables, given: Iterable[str], hide: Hide) -> None:
        """The page to look through; where it cannot be written, the results are complete without it."""
        if not self.cases:
            return
        self.on_event(Message("Making the page to look through (report.html) ..."))
        reason = write_page(
            run,
            self.cases,
            tables.rows,
            list(given),
            self.segmenter.labels,
            self.model,
            settings=self._settings(),
            notes=self.notes,
            failures=self.failures,
            hide=hide,
        )
        if reason:
            self._failed(run.dossier.name, reason)

    def _settings(self) -> dict[str, Any]:
        """Those that make a difference to the results."""
        return {k: v for k, v in to_table(self.settings).items() if k not in SETTINGS_WITH_PATHS}

    def _say(self, text: str) -> None:
        """Tells at once, and in the report."""
        self.notes.append(text)
        self.on_event(Message(text))

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
                same = record["key"] == self.segmenter.key(source)
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

    def _failed(self, name: str, reason: str) -> None:
        self.failures.append((name, reason))
        self.on_event(Message(reason, "warning"))


def _without_identity(report: Mapping[str, Any], hide: Hide) -> dict[str, Any]:
    """What run_report.json says of a scan; warnings may name files, and files may be named after patients."""
    said = {key: [hide(str(text)) for text in report.get(key) or ()] for key in ("warnings", "flags")}
    return {**report, **said, "how_measured": hide(str(report.get("how_measured") or ""))}


def _mode_together(mode: str, output: Path) -> str:
    """Returns the mode for processes that were started together, and gives each its GPU; others keep theirs."""
    place = find_place(os.environ)
    if place.world == 1 and "SLURM_ARRAY_TASK_ID" not in os.environ:
        return mode
    if mode == "overwrite":
        raise SettingsError(
            "--overwrite: several processes were started together (torchrun or SLURM), and each would remove what the others "
            f"have done. Remove '{output}' first, or choose another folder."
        )
    if device_name() == "cuda":
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    return "continue"


def _refuse_input_inside_output(input_path: Path, output: Path, mode: str) -> None:
    if mode == "new" or not input_path.exists():
        return
    inside = input_path.resolve()
    if output.resolve() in (inside, *inside.parents):
        raise ExportError(
            f"output '{output}': the scans to segment ('{input_path}') lie inside it. Choose another folder for the results."
        )
