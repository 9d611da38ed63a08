"""run_report.json: everything needed to understand and repeat a run, built by a pure function."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.data.scan import Scan
from autoseg_lib.io.files import write_text
from autoseg_lib.measure.volumes import VolumeMeasurement, why_no_volume

# Raised when a field changes its meaning.
REPORT_FORMAT = 1


def build_run_report(
    *,
    kind: str,
    started: str,
    finished: str,
    seconds: float,
    versions: Mapping[str, str],
    device: str = "",
    models: Sequence[Mapping[str, Any]] = (),
    labels: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    cases: Sequence[Mapping[str, Any]] = (),
    failures: Sequence[tuple[str, str]] = (),
    skipped: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the report as a plain table. Looks at nothing but its arguments.

    Args:
        kind: "segment" or "measure".
        started: time of the start, ISO 8601.
        finished: time of the end, ISO 8601.
        seconds: duration.
        versions: package → version.
        device: what the model ran on.
        models: one table a model file (name, sha256 ...).
        labels: names of the ROIs in label order.
        settings: setting → value.
        cases: one table a scan (``case_report``).
        failures: (case, reason) of scans that did not go through.
        skipped: (file, reason) of files that were left out.
        warnings: sentences for the user.
        notes: sentences of lesser weight.
    """
    return {
        "format": REPORT_FORMAT,
        "kind": kind,
        "started": started,
        "finished": finished,
        "seconds": round(seconds, 2),
        "versions": dict(versions),
        "device": device,
        "models": [dict(model) for model in models],
        "labels": {str(value): name for value, name in enumerate(labels, start=1)},
        "settings": dict(settings or {}),
        "cases": [dict(case) for case in cases],
        "failures": [{"case": case, "reason": reason} for case, reason in failures],
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped],
        "warnings": list(warnings),
        "notes": list(notes),
    }


def case_report(
    scan: Scan,
    volumes: Sequence[VolumeMeasurement] = (),
    *,
    checksums: Mapping[str, str] | None = None,
    seconds: float | None = None,
    files: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns what the report says of one scan: its grid, where the spacing comes from, and what was assumed.

    Args:
        scan: the scan.
        volumes: its rows of volumes.csv.
        checksums: input file name → sha256.
        seconds: time it took.
        files: what was written, relative to the run folder.
    """
    geometry = scan.volume.geometry
    reason = why_no_volume(geometry)
    return {
        "case": scan.name,
        "kind": scan.kind,
        "modality": scan.volume.modality,
        "slices": geometry.shape_zyx[0],
        "rows": geometry.shape_zyx[1],
        "columns": geometry.shape_zyx[2],
        "pixel_spacing_mm": list(geometry.spacing_zyx_mm[1:]) if geometry.spacing_known else None,
        "slice_distance_mm": geometry.spacing_text if geometry.positions_known else None,
        "spacing_source": scan.volume.spacing_source,
        "orientation": geometry.orientation_code if geometry.orientation_known else None,
        "tilt_degrees": round(geometry.shear_degrees, 2),
        "inputs": dict(checksums or {}),
        "volume_missing_because": reason or None,
        "volumes_ml": {row.roi: row.volume_ml for row in volumes},
        "warnings": list(scan.warnings),
        "seconds": None if seconds is None else round(seconds, 2),
        "files": list(files),
    }


def how_measured(scan: Scan, remedy: str) -> str:
    """Returns the sentence that says where the millimetres come from.

    Args:
        scan: the scan.
        remedy: what to do where there are none.
    """
    geometry = scan.volume.geometry
    if not geometry.spacing_known:
        return f"No pixel spacing: areas in mm² are unknown. {remedy}"
    rows, columns = geometry.spacing_zyx_mm[1:]
    text = f"In-plane pixel spacing {rows:.4g} × {columns:.4g} mm ({scan.volume.spacing_source})"
    reason = why_no_volume(geometry)
    if reason:
        return f"{text}; no volume: {reason}"
    return f"{text}; slices {geometry.spacing_text} apart by position."


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Writes a table as JSON, atomically. Paths and numpy numbers become text and numbers, NaN becomes null.

    Raises:
        ExportError: the file cannot be written.
    """
    text = json.dumps(_plain(table), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)
