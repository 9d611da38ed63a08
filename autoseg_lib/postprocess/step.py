"""What every step has in common: its options as a table, and the ROIs it is for."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from autoseg_lib.errors import SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import Label, LabelTable
from autoseg_lib.postprocess.sizes import Labels
from autoseg_lib.preprocess.operations import Operation, Parameter, unknown_name

# ROIs by name, or by label value as text.
Rois = tuple[str, ...] | Literal["all"]

ROIS = Parameter(
    "rois", "texts", 'the ROIs it is for, by name or label value; "all" for every one', "all", single=True
)
PER = Parameter(
    "per",
    "choice",
    'the "scan" in three dimensions, or every "slice" by itself',
    "scan",
    choices=("scan", "slice"),
)
NEIGHBOURS = Parameter(
    "neighbours",
    "choice",
    'pixels hang together when they share a side, an edge or a corner ("all": 26 neighbours, 8 in a slice), or a side only '
    '("sides": 6, 4)',
    "all",
    choices=("all", "sides"),
)


@dataclass(frozen=True)
class Step(ABC):
    """One thing done to a mask. Its fields are its options, as they stand in the model file.

    Attributes:
        operation: what it does and accepts; the documentation is made from it.
    """

    operation: ClassVar[Operation]

    @abstractmethod
    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        """Changes ``array`` in place, and returns what was done, in words; nothing where nothing was.

        Args:
            array: (slice, row, column) label values on the scan's own grid.
            geometry: that grid.
            labels: the ROIs.

        Raises:
            GeometryError: an option is in mm and the scan does not know its millimetres.
        """

    def problems(self) -> list[str]:
        """Returns what is wrong with options that are each fine by themselves; one sentence each, without its end."""
        return []

    def named(self) -> list[str]:
        """Returns every ROI that the options name."""
        found: list[str] = []
        for name in ("rois", "within", "over", "priority"):
            value = getattr(self, name, "all")
            found += [] if value == "all" else value
        return found

    def to_table(self) -> dict[str, Any]:
        """Returns the step as it stands in the model file; options left at their defaults are left out."""
        table: dict[str, Any] = {"step": self.operation.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                table[field.name] = list(value) if isinstance(value, tuple) else value
        return table

    @classmethod
    def from_checked(cls, table: dict[str, Any]) -> Step:
        """Returns the step of a table that ``operation`` accepts; lists become tuples, a lone ROI a list of one."""
        values: dict[str, Any] = {}
        for name, value in table.items():
            kind = next(p for p in cls.operation.parameters if p.name == name)
            if kind.single and isinstance(value, str) and value != "all":
                value = [value]
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def doubled(name: str, rois: Rois) -> str:
    """Returns what is wrong with a list of ROIs: none, or one of them twice; "" where it is fine."""
    if rois == "all" or (rois and len(set(rois)) == len(rois)):
        return ""
    return f"{name} names a ROI twice" if rois else f"{name} names no ROI"


def chosen(rois: Rois, labels: LabelTable) -> list[Label]:
    """Returns the ROIs meant by names or values, in the order given; "all" gives every one.

    Raises:
        SettingsError: there is no such ROI.
    """
    if rois == "all":
        return list(labels)
    found = [find_roi(roi, labels) for roi in rois]
    missing = [roi for roi, label in zip(rois, found, strict=True) if label is None]
    if missing:
        raise SettingsError("\n".join(unknown_name("ROI", roi, labels.names) for roi in missing))
    return [label for label in found if label is not None]


def find_roi(roi: str, labels: LabelTable) -> Label | None:
    """Returns the ROI with this name, or else with this label value; None where there is none."""
    for label in labels:
        if label.name == roi.strip():
            return label
    value = int(roi) if roi.strip().isdecimal() else 0
    return next((label for label in labels if label.value == value), None)
