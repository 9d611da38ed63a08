"""Step "Segment": a folder of scans and a model → masks, areas, volumes and a report in one run folder."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.errors import AutosegError, ExportError, OutOfSpaceError, name_list
from autoseg_lib.events import Listener, Message, Progress, StopFlag, nobody
from autoseg_lib.export.dossier import DossierCase, write_dossier
from autoseg_lib.export.report import build_run_report, write_json
from autoseg_lib.export.run_folder import RunFolder, open_run, unique_names
from autoseg_lib.infer.predictor import Stopped
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.networks.model_file import LoadedModel
from autoseg_lib.settings import SegmentSettings, to_table
from autoseg_lib.system import device_name, versions
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.finished import SETTINGS_WITH_PATHS, RunRows
from autoseg_lib.workflow.model_choice import check_against_model, hash_of, load_models, make_predictor
from autoseg_lib.workflow.privacy import without_identity
from autoseg_lib.workflow.segment_case import CaseResult, CaseSegmenter

_log = logging.getLogger(__name__)


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
        mode: "new", "continue" or "overwrite", see open_run.
        on_event: hears the progress.
        stop: asked between batches.

    Raises:
        ModelError, SettingsError, DataError, ExportError: nothing could be done at all. A fault of a single scan is in
            the result's ``failures``.
    """
    paths = [model_paths] if isinstance(model_paths, Path) else list(model_paths)
    return _Segmenting(paths, settings, on_event, stop or StopFlag()).run(input_path, output, mode)


class _Segmenting:
    def __init__(
        self, model_paths: Sequence[Path], settings: SegmentSettings, on_event: Listener, stop: StopFlag
    ) -> None:
        self.settings, self.on_event, self.stop = settings, on_event, stop
        self.model_paths = model_paths
        self.model = load_models(model_paths, device_name())
        check_against_model(settings, self.model)
        self.notes: list[str] = []
        predictor = make_predictor(self.model, settings, self.notes)
        self.segmenter = CaseSegmenter(self.model, hash_of(model_paths), settings, predictor)
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
            on_progress=lambda done, total: self.on_event(Progress("Looking for scans", done, total)),
        )
        self.notes += found.notes
        inputs = [path for source in found.sources for path in source.all_files]
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
            device=str(self.segmenter.predictor.device),
            models=[
                {"file": path.name, "sha256": hash_of([path]), "epoch": self.model.metadata.get("epoch")}
                for path in self.model_paths
            ],
            labels=self.segmenter.labels.names,
            settings={k: v for k, v in to_table(self.settings).items() if k not in SETTINGS_WITH_PATHS},
            cases=self.rows.reports(),
            failures=[(name, hide(reason)) for name, reason in self.failures],
            skipped=[(hide(item.path.name), hide(item.reason)) for item in found.skipped],
            warnings=sorted({hide(text) for case in self.cases for text in case.warnings}),
            notes=[hide(text) for text in self.notes],
        )
        write_json(run.report, report)
        self._write_dossier(run, report, hide)
        return SegmentResult(
            run.path,
            self.segmenter.labels,
            tuple(self.cases),
            tuple(self.failures),
            tuple(self.notes),
            self.stopped,
        )

    def _write_dossier(self, run: RunFolder, report: dict[str, Any], hide: Callable[[str], str]) -> None:
        """The page to look through; where it cannot be written, the results are complete without it."""
        if not self.cases:
            return
        self.on_event(Message("Making the page to look through (report.html) ..."))
        cases = [_shown(case) for case in self.cases]
        try:
            write_dossier(
                run.dossier,
                title=run.path.name,
                cases=cases,
                labels=self.segmenter.labels,
                model=_model_facts(self.model),
                settings=report["settings"],
                notes=self.notes,
                failures=self.failures,
                hide=hide,
            )
        except ExportError as error:
            self._failed("report.html", str(error))

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

    def _segment_all(self, run: RunFolder, sources: dict[str, ImageSource]) -> None:
        for number, (name, source) in enumerate(sources.items()):
            self.on_event(Progress("Scans", number, len(sources), name))
            if self.stop.is_set():
                self._stopped_after(number, len(sources))
                return
            try:
                key = self.segmenter.key(source)
                if name in run.finished_cases({name: key}) and self.rows.has(name):
                    taken = self.segmenter.taken_over(run, name, source, self.rows.of(name))
                    self.cases.append(taken)
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

    def _segment_one(self, run: RunFolder, name: str, source: ImageSource, key: str) -> None:
        clock = time.monotonic()
        scan = self.segmenter.read(name, source)
        answer = self.segmenter.answer(scan, self.on_event, self.stop)
        result, files, report = self.segmenter.write(run, source, scan, answer, clock)
        self.rows.put(name, answer.measurements, answer.volumes, report)
        run.finish_case(name, files, key)
        self.cases.append(result)

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


def _shown(case: CaseResult) -> DossierCase:
    def slices() -> tuple[Volume, Mask]:
        scan, mask = case.look()
        return scan.volume, mask

    return DossierCase(
        case.name, case.measurements, case.volumes, slices, case.how_measured, case.warnings, case.flags
    )


def _model_facts(model: LoadedModel) -> dict[str, Any]:
    """What a reader of the results wants to know of the model."""
    said = model.metadata
    return {
        "model": said.get("name") or model.path.stem,
        "made": str(said.get("created", ""))[:16].replace("T", " "),
        "network": f"{model.spec.dimension} {model.spec.title}",
        "networks that answer together": model.members,
        "scans learned from": (said.get("data") or {}).get("scans"),
        "mean Dice on validation scans": (said.get("validation") or {}).get("mean_dice"),
    }


def _refuse_input_inside_output(input_path: Path, output: Path, mode: str) -> None:
    if mode == "new" or not input_path.exists():
        return
    inside = input_path.resolve()
    if output.resolve() in (inside, *inside.parents):
        raise ExportError(
            f"output '{output}': the scans to segment ('{input_path}') lie inside it. Choose another folder for the results."
        )
