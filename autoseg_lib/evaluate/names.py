"""Which ROIs a folder of masks names, and the pixel sizes that a run folder remembers of its scans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.data.label_names import distinct_names, has_names, roi_values
from autoseg_lib.geometry import EVEN_SPACING_TOLERANCE, Geometry
from autoseg_lib.io.csv_files import read_csv
from autoseg_lib.io.files import same_text
from autoseg_lib.io.segments import same_name

_VALUE_COLUMNS = ("value", "label", "key")
_NAME_COLUMNS = ("name", "roi")


@dataclass(frozen=True)
class RoiNames:
    """ROI names by label value.

    Attributes:
        general: value → name for every case.
        by_case: case → value → name, where a table names files.
        in_files: value → name, for cases whose file names its ROIs itself (RTSTRUCT, DICOM SEG, 3D Slicer's).
    """

    general: dict[int, str] = field(default_factory=dict)
    by_case: dict[str, dict[int, str]] = field(default_factory=dict)
    in_files: dict[int, str] = field(default_factory=dict)

    def of(self, case: str, in_file: bool = False) -> dict[int, str]:
        """Returns value → name for a case; empty where nobody named them.

        Args:
            case: its name.
            in_file: whether its file names its ROIs itself.
        """
        return self.in_files if in_file else self.by_case.get(case, self.general)


def find_names(folder: Path) -> RoiNames:
    """Looks for ROI names: ``run_report.json`` or ``labels.csv`` in the folder, then in the folders one and
    two above.

    labels.csv has the columns ``value`` (or label, key) and ``name`` (or roi), and perhaps ``file``.
    """
    for place in (folder, *folder.resolve().parents[:2]):
        names = _from_report(place / "run_report.json") or _from_table(place / "labels.csv")
        if names:
            return names
    return RoiNames()


def with_files(
    names: RoiNames,
    found: Iterable[str],
    given: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
) -> tuple[RoiNames, dict[str, int]]:
    """Adds the ROIs that files name themselves.

    Args:
        names: from ``find_names``.
        found: names in all files with named ROIs; empty where there are none.
        given: names that the user gave, in order of value; they replace those found.
        label_map: the user's map, which may name ROIs.

    Returns:
        The names, and name → value for painting those files.

    Raises:
        SettingsError: none of the given names is in the files.
    """
    if given:
        names = RoiNames(dict(enumerate(given, start=1)))
    found = list(found)
    if not found:
        return names, {}
    if given or not names.general or has_names(label_map):
        values = roi_values(found, given, label_map)
        table = dict(enumerate(values.names, start=1))
        return replace(names, in_files=table), values.values
    # A table beside the files says the numbers; ROIs that it does not know come after them.
    known = {same_name(name): value for value, name in names.general.items()}
    table = {}
    following = max(names.general) + 1
    for name in distinct_names(found):
        value = known.get(same_name(name), following)
        following += value == following
        table[value] = name
    return replace(names, in_files=table), {name: value for value, name in table.items()}


def _from_report(path: Path) -> RoiNames | None:
    labels = read_report(path).get("labels")
    if not isinstance(labels, dict) or not labels:
        return None
    return RoiNames({int(value): str(name) for value, name in labels.items() if str(value).isdecimal()})


def _from_table(path: Path) -> RoiNames | None:
    if not path.is_file():
        return None
    header, rows = read_csv(path)
    columns = {name.strip().lower(): name for name in header}
    value_column = next((columns[name] for name in _VALUE_COLUMNS if name in columns), None)
    name_column = next((columns[name] for name in _NAME_COLUMNS if name in columns), None)
    if value_column is None or name_column is None:
        return None
    names = RoiNames()
    for row in rows:
        value, name = row[value_column].strip(), row[name_column].strip()
        if not value.isdecimal() or int(value) == 0 or not name:
            continue
        case = same_text(row.get(columns.get("file", ""), "").strip())
        table = names.by_case.setdefault(case, {}) if case else names.general
        table[int(value)] = name
    return names if names.general or names.by_case else None


def read_report(path: Path) -> dict[str, Any]:
    """Returns run_report.json as a table, empty where there is none that can be read."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


@dataclass(frozen=True)
class RunMemory:
    """What a run folder knows of a scan's slices.

    Attributes:
        pixel_mm: distance of rows and of columns; None where unknown.
        position_mm: slice name → position along the normal, in order; None where unknown.
        tilt_degrees: angle between the way from slice to slice and the slices' normal (tilted gantry).
        orientation: directions in which slices, rows and columns grow ("SPL"); "" where unknown.
        kind: "dicom", "volume" or "raster"; "" where unknown.
    """

    pixel_mm: tuple[float, float] | None
    position_mm: dict[str, float | None]
    tilt_degrees: float = 0.0
    orientation: str = ""
    kind: str = ""

    def geometry(self, slice_names: list[str], shape: tuple[int, int]) -> Geometry:
        """Returns the grid of these slices (in order of position), axes along the scan's own."""
        positions = [self.position_mm.get(name) for name in slice_names]
        known = [position for position in positions if position is not None]
        size = (len(slice_names), *shape)
        rows, columns = self.pixel_mm or (1.0, 1.0)
        if len(known) < len(positions) or len(known) < 2:
            return Geometry.from_spacing(size, (1.0, rows, columns), spacing_known=self.pixel_mm is not None)
        gaps = [abs(after - before) for before, after in pairwise(known)]
        step = sum(gaps) / len(gaps)
        even = step > 0 and all(abs(gap - step) <= EVEN_SPACING_TOLERANCE * step for gap in gaps)
        grid = Geometry.from_spacing(
            size, (step or 1.0, rows, columns), spacing_known=self.pixel_mm is not None, positions_known=True
        )
        if even:
            return grid
        return Geometry(
            grid.shape_zyx,
            grid.affine,
            tuple(known),
            grid.spacing_known,
            positions_known=True,
            orientation_known=False,
        )


def read_run_memory(folder: Path) -> dict[str, RunMemory]:
    """Returns case → what measurements.csv and run_report.json of a run folder say of its slices."""
    scans: dict[str, dict[str, Any]] = {}
    for case in read_report(folder / "run_report.json").get("cases", []):
        if isinstance(case, dict):
            scans[same_text(str(case.get("case")))] = case
    path = folder / "measurements.csv"
    if not path.is_file():
        return {}
    positions: dict[str, dict[str, float | None]] = {}
    for row in read_csv(path)[1]:
        name = same_text(row.get("slice_name", ""))
        if name:
            text = row.get("slice_position_mm", "")
            positions.setdefault(same_text(row.get("case", "")), {})[name] = float(text) if text else None
    return {case: _memory(scans.get(case, {}), table) for case, table in positions.items()}


def _memory(scan: dict[str, Any], positions: dict[str, float | None]) -> RunMemory:
    spacing = scan.get("pixel_spacing_mm")
    known = isinstance(spacing, list) and len(spacing) == 2
    return RunMemory(
        (float(spacing[0]), float(spacing[1])) if known and isinstance(spacing, list) else None,
        positions,
        float(scan.get("tilt_degrees") or 0.0) if known else 0.0,
        str(scan.get("orientation") or ""),
        str(scan.get("kind") or ""),
    )
