"""Figures of a fixed set: a change in any of them is seen here, and named in CHANGELOG.

The set is the example study (written as DICOM and read back) and a few shapes; the file holds what this software measured,
so this test says nothing about what is right. That is what the other tests of measuring are for.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.measuring import measure_masks
from tests.helpers.phantoms import turn
from tests.helpers.shapes import ellipse_mask, ellipsoid_mask, tilted_tube

FIGURES = Path(__file__).with_name("fixed_figures.json")
WRITE = "AUTOSEG_WRITE_FIGURES"

# Texts that name things, and what belongs to other parts (intervals and flags).
_LEFT_OUT = ("case", "slice_file", "slice_name", "roi", "note", "flag")

# Smoothing runs in 32 bits, which computers round differently.
_RELATIVE = 1e-4


def columns(rows: list[Any]) -> dict[str, list[Any]]:
    """Rows as column → values to five digits after the point; columns without any value are left out."""
    names = [name for name in vars(rows[0]) if name not in _LEFT_OUT]
    table = {name: [_short(getattr(row, name)) for row in rows] for name in names}
    return {name: values for name, values in table.items() if any(v not in (None, "") for v in values)}


def _short(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def of_mask(mask: Mask, every: int = 1) -> dict[str, dict[str, list[Any]]]:
    labels = LabelTable(["shape"])
    slices = [row for row in measure_slices(mask, labels, case="x") if row.pixels][::every]
    return {"slices": columns(slices), "volumes": columns(measure_volumes(mask, labels, case="x"))}


def measured(folder: Path) -> dict[str, Any]:
    study = folder / "study"
    write_example_study(study, scans=3, seed=0)
    found = {}
    for part in ("train", "test"):
        result = measure_masks(
            study / part / "labels",
            folder / part,
            study / part / "images",
            labels=_names(study),
            tissue_window=(100, 300),
        )
        for case in result.cases:
            rows = [row for row in result.measurements if row.case == case]
            found[f"example study, {part}, {case}"] = {
                "slices": columns(rows[:: 1 if case == result.cases[0] else 5]),
                "volumes": columns([row for row in result.volumes if row.case == case]),
            }
    found["ellipse of 30 x 12 mm, turned by 33 degrees, pixels 0.8 x 1.3 mm"] = of_mask(
        ellipse_mask(30, 12, 33, (0.8, 1.3), (0.2, -0.3))
    )
    found["ellipsoid of 30 x 15 x 10 mm, turned, voxels 3 x 1 x 1 mm"] = of_mask(
        ellipsoid_mask((30, 15, 10), (3, 1, 1), turn(25)), every=4
    )
    found["tube of 10 mm radius, tilted by 30 degrees, voxels 4 x 0.7 x 0.7 mm"] = of_mask(
        tilted_tube(10, 30, 35, (4, 0.7, 0.7), 16), every=4
    )
    return found


def test_no_measured_figure_has_changed(tmp_path: Path) -> None:
    now = json.loads(json.dumps(measured(tmp_path)))
    if os.environ.get(WRITE) == "1":
        FIGURES.write_text(json.dumps(now, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.skip(f"{FIGURES.name} was written anew")
    before = json.loads(FIGURES.read_text(encoding="utf-8"))
    changed = list(differences(before, now))
    if changed:
        shown = "\n  ".join(changed[:12])
        pytest.fail(
            f"{len(changed)} measured figures have changed, the first of them:\n  {shown}\n"
            "If that was not meant, correct the code. If it was: name the change and its reason in CHANGELOG.md under "
            f"'Measured figures', then write the new ones with {WRITE}=1 python -m pytest tests/test_fixed_figures.py "
            f"and commit {FIGURES.name}.",
            pytrace=False,
        )


def differences(before: Any, now: Any, where: str = "") -> Any:
    """Sentences on what differs between two tables."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            if name not in now or name not in before:
                yield f"{where}{name}: {'new' if name in now else 'gone'}"
            else:
                yield from differences(before[name], now[name], f"{where}{name} · ")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (old, new) in enumerate(zip(before, now, strict=True), start=1):
            yield from differences(old, new, f"{where}row {number}")
    elif isinstance(before, float) and isinstance(now, int | float):
        if now != pytest.approx(before, rel=_RELATIVE, abs=2e-5):
            yield f"{where}: {before} -> {now}"
    elif before != now:
        yield f"{where}: {before} -> {now}"


def _names(study: Path) -> list[str]:
    """Names of the ROIs in order of value, from labels.csv."""
    lines = (study / "labels.csv").read_text(encoding="utf-8").strip().splitlines()[1:]
    return [line.split(",")[1] for line in lines]


def test_a_change_is_told_with_its_place() -> None:
    old = {"a": {"slices": {"area_mm2": [1.0, 2.0], "components": [1, 1]}, "volumes": {}}}
    new = {"a": {"slices": {"area_mm2": [1.0, 2.1], "components": [1, 2], "more": [1]}, "volumes": {}}}
    assert list(differences(old, old)) == []
    assert list(differences(old, new)) == [
        "a · slices · area_mm2 · row 2: 2.0 -> 2.1",
        "a · slices · components · row 2: 1 -> 2",
        "a · slices · more: new",
    ]
