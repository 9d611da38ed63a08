"""docs/measurements.md lists every column, in order, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.volumes import VolumeMeasurement

PAGE = Path(__file__).resolve().parents[1] / "docs" / "measurements.md"


@pytest.mark.parametrize(
    ("heading", "kind"), [("measurements.csv", SliceMeasurement), ("volumes.csv", VolumeMeasurement)]
)
def test_the_page_lists_the_columns(heading: str, kind: type) -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    (section,) = [text for text in sections if text.startswith(heading)]
    listed = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert listed == [item.name for item in dataclasses.fields(kind)]


def test_units_are_those_of_the_names() -> None:
    units = {"mm": "mm", "mm2": "mm²", "mm3": "mm³", "ml": "ml", "percent": "%", "degrees": "°"}
    for name, unit in re.findall(
        r"^\| `(\w+)` \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        words = [word for word in name.split("_") if word in units]
        if words:
            assert unit.strip() == units[words[-1]], name
