"""Runs that exist already: found again for the same input, model and settings, and their masks read back."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.data.discover import Discovery, ImageSource
from autoseg_lib.data.naming import hashed_name, image_stem
from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import DataError
from autoseg_lib.export.masks import NIFTI_NAME, slice_file_names
from autoseg_lib.export.run_folder import RunFolder, next_free_name, read_record, safe_name, unique_names
from autoseg_lib.export.tables import (
    read_measurements,
    read_volumes,
    write_csa_results,
    write_measurements,
    write_volumes,
)
from autoseg_lib.io.files import sha256_of
from autoseg_lib.io.identity import tells_identity
from autoseg_lib.io.raster import read_label
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.networks.model_file import read_metadata
from autoseg_lib.preprocess.entry_points import own_steps_in, package_of
from autoseg_lib.volume import Mask, reorient_like
from autoseg_lib.workflow.model_choice import hash_of
from autoseg_lib.workflow.pipeline_editing import edit_pipeline, is_pipeline_key, pipeline_of
from autoseg_lib.workflow.privacy import identities
from autoseg_lib.workflow.region_masks import RegionMasks

# Where results go and which folder was chosen changes nothing in them; of masks to crop to the bytes count.
SETTINGS_WITH_PATHS = ("input_dir", "predictions_dir", "model_dir", "model_filename", "region_masks")


def result_key(
    source: ImageSource,
    model_hash: str,
    settings: Mapping[str, Any],
    *,
    regions: RegionMasks | None = None,
) -> str:
    """Returns what must be equal for an earlier result of a scan to hold.

    Args:
        source: the scan; the bytes of its files count.
        model_hash: from ``model_key``.
        settings: all settings as a plain table.
        regions: the masks to crop to; None: as the settings say. The bytes of the scan's own one count.

    Raises:
        DataError: the folder of these masks does not exist or holds none.
    """
    digest = hashlib.sha256(model_hash.encode())
    regions = RegionMasks(settings.get("region_masks") or "") if regions is None else regions
    for path in (*source.all_files, *(regions.files(source) if regions.folder else ())):
        digest.update(sha256_of(path).encode())
    relevant = {key: value for key, value in settings.items() if key not in SETTINGS_WITH_PATHS}
    digest.update(repr(sorted(relevant.items())).encode())
    return digest.hexdigest()


def model_key(paths: Sequence[Path], changes: Mapping[str, Any] | None) -> str:
    """Returns what must be equal for results to be of the same model: its files, and the packages of a lab's own steps.

    Args:
        paths: the model files.
        changes: to what is done before and after the network, see ``model_choice.edited``.

    Raises:
        ModelError: a file is no model, or a step is not installed.
        SettingsError: the changes do not work.
    """
    packages = own_packages(paths, changes)
    if not packages:
        return hash_of(paths)
    return hashlib.sha256((hash_of(paths) + repr(sorted(packages.items()))).encode()).hexdigest()


def own_packages(paths: Sequence[Path], changes: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns name → package and version of each of a lab's own steps, before and after the network.

    Args:
        paths: the model files.
        changes: see ``model_key``.

    Raises:
        ModelError, SettingsError: see ``model_key``.
    """
    rest = {key: value for key, value in (changes or {}).items() if is_pipeline_key(key)}
    sections = [pipeline_of(read_metadata(path)) for path in paths]
    if rest:
        sections = [edit_pipeline(section, rest) for section in sections]
    return {name: package_of(name) for name in own_steps_in(sections)}


def input_checksums(source: ImageSource, scan: Scan) -> dict[str, str]:
    """Returns sha256 of each input file, under the name of its slice (file names may tell who the patient is)."""
    files = list(dict.fromkeys(source.files))
    names = list(scan.slice_names) if len(scan.slice_names) == len(files) else []
    if not names:
        names = [scan.name] if len(files) == 1 else [f"file_{number}" for number in range(1, len(files) + 1)]
    sums = {name: sha256_of(path) for name, path in zip(names, files, strict=True)}
    beside = [path for path in source.all_files if path not in set(files)]
    return sums | {f"beside_{number}": sha256_of(path) for number, path in enumerate(beside, start=1)}


class RunRows:
    """The tables of a run folder: rows of earlier sessions stay until their case is done again."""

    def __init__(self, run: RunFolder) -> None:
        """Args:
        run: the folder; what it holds already (mode "continue") is read.
        """
        self._run = run
        # One thread reads ahead, another one writes.
        self._lock = threading.RLock()
        self._rows: dict[str, tuple[list[SliceMeasurement], list[VolumeMeasurement]]] = {}
        self._reports: dict[str, dict[str, Any]] = {}
        self.read_again()

    def read_again(self) -> None:
        """Takes over what another process has put into the tables; what is known here already stays as it is."""
        with self._lock:
            self._read_again()

    def _read_again(self) -> None:
        run, known, told = self._run, set(self._rows), set(self._reports)
        if run.measurements.is_file():
            for row in read_measurements(run.measurements):
                if row.case in known:
                    continue
                self._rows.setdefault(row.case, ([], []))[0].append(row)
        if run.volumes.is_file():
            for volume in read_volumes(run.volumes):
                if volume.case in known:
                    continue
                self._rows.setdefault(volume.case, ([], []))[1].append(volume)
        for report in _earlier_reports(run.report):
            if str(report.get("case")) not in told:
                self._reports[str(report.get("case"))] = report

    def has(self, case: str) -> bool:
        """Whether there are rows of this case."""
        return case in self._rows and bool(self._rows[case][0])

    def of(self, case: str) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
        """Returns the rows of a case."""
        return self._rows.get(case, ([], []))

    def put(
        self,
        case: str,
        measurements: Sequence[SliceMeasurement],
        volumes: Sequence[VolumeMeasurement],
        report: dict[str, Any],
    ) -> None:
        """Adds or replaces a case."""
        with self._lock:
            self._rows[case] = (list(measurements), list(volumes))
            self._reports[case] = report

    def report(self, case: str) -> dict[str, Any]:
        """Returns what run_report.json says of a case; empty where it says nothing."""
        return self._reports.get(case, {})

    def order(self, cases: Sequence[str]) -> None:
        """Puts the cases in this order, others before them, whoever finished first."""
        last = {name: number for number, name in enumerate(cases)}
        with self._lock:
            self._rows = dict(sorted(self._rows.items(), key=lambda item: last.get(item[0], -1)))
            self._reports = dict(sorted(self._reports.items(), key=lambda item: last.get(item[0], -1)))

    def reports(self) -> list[dict[str, Any]]:
        """Returns what run_report.json says of each case."""
        return list(self._reports.values())

    def write(self) -> None:
        """Writes the three tables; with no case done yet there are none to write.

        Raises:
            ExportError: one cannot be written (open in another program, disk full).
        """
        with self._lock:
            both = list(self._rows.values())
        rows = [row for measurements, _ in both for row in measurements]
        if not rows and not self._run.measurements.exists():
            return
        write_measurements(self._run.measurements, rows)
        write_csa_results(self._run.csa_results, rows)
        write_volumes(self._run.volumes, [row for _, volumes in both for row in volumes])


def _earlier_reports(path: Path) -> list[dict[str, Any]]:
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [case for case in cases if isinstance(case, dict)] if isinstance(cases, list) else []


def choose_run_folder(
    predictions_dir: Path, input_path: Path, found: Discovery, model_hash: str, settings: Mapping[str, Any]
) -> tuple[Path, str]:
    """Returns the run folder for an input and the mode to open it with.

    A folder that this input, model and settings have gone into already is continued (all of it done: just shown);
    otherwise a new name is taken, so that nothing is overwritten.

    Args:
        predictions_dir: folder of all runs.
        input_path: what is segmented.
        found: the scans in it.
        model_hash: from ``model_key``.
        settings: all settings as a plain table.
    """
    name = run_name(input_path, found)
    sources = dict(zip(unique_names([source.name for source in found.sources]), found.sources, strict=True))
    keys: dict[str, str] = {}
    regions = RegionMasks(settings.get("region_masks") or "")
    number, folder = 1, predictions_dir / safe_name(name)
    while folder.exists():
        record = read_record(folder)
        # Somebody else's scans may well lie in a folder of the same name ("DICOM"): every case must be ours.
        if record and set(record) <= set(sources):
            for case in record:
                keys.setdefault(case, result_key(sources[case], model_hash, settings, regions=regions))
            if all(record[case]["key"] == keys[case] for case in record):
                return folder, "continue"
        number += 1
        folder = predictions_dir / f"{safe_name(name)}_{number}"
    return next_free_name(predictions_dir, name), "new"


def run_name(input_path: Path, found: Discovery) -> str:
    """Returns the name of a run: the folder's or file's, or a hash where that name tells who the patient is."""
    name = input_path.name if input_path.is_dir() else image_stem(input_path)
    if not name:
        return "scan"  # the root of a drive
    return hashed_name(name) if tells_identity(name, identities(found)) else name


def read_mask(folder: Path, scan: Scan) -> Mask:
    """Reads back the mask of a case that was written earlier.

    Args:
        folder: the case's folder.
        scan: the scan it belongs to.

    Raises:
        DataError: no mask files are there, or they do not fit the scan.
    """
    geometry = scan.volume.geometry
    names = slice_file_names(scan.slice_names, geometry.shape_zyx[0])
    for suffix in ("png", "npy"):
        paths = [folder / "masks" / f"{name}.{suffix}" for name in names]
        if all(path.is_file() for path in paths):
            planes = [np.asarray(read_label(path, None).array) for path in paths]
            return Mask(np.stack(planes).astype(np.uint16), geometry)
    if (folder / NIFTI_NAME).is_file():
        mask = read_label_file(folder / NIFTI_NAME)
        return reorient_like(mask.with_array(mask.array, scan.source_geometry), geometry)
    raise DataError(
        f"'{folder.name}': its mask files are not there any more, so it cannot be shown. "
        "Remove the run folder and segment the scan again."
    )
