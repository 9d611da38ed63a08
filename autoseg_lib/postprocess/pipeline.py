"""The post-processing of a model: steps as data, checked as a whole and applied in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg_lib.errors import SettingsError
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.holes import FillHoles
from autoseg_lib.postprocess.own import OwnStep
from autoseg_lib.postprocess.pieces import KeepLargest, RemoveSmall, RemoveSmallRoi
from autoseg_lib.postprocess.places import KeepApart, OnlyWithin, SliceRange
from autoseg_lib.postprocess.smoothing import Smooth
from autoseg_lib.postprocess.step import Step, find_roi
from autoseg_lib.preprocess.operations import MOST_ITEMS, check_table, shown, unknown_name
from autoseg_lib.volume import Mask

STEPS: dict[str, type[Step]] = {
    kind.operation.name: kind
    for kind in (
        KeepLargest,
        RemoveSmall,
        RemoveSmallRoi,
        FillHoles,
        OnlyWithin,
        KeepApart,
        SliceRange,
        Smooth,
        OwnStep,
    )
}


@dataclass(frozen=True)
class Postprocessing:
    """What is done to a mask between the network and the measuring, in order.

    Attributes:
        steps: the steps; none leaves every mask as it is.
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def from_list(cls, tables: Sequence[Mapping[str, Any]]) -> Postprocessing:
        """Returns the post-processing that a list of tables describes, as in the model file.

        Args:
            tables: one table {"step": name, option: value, ...} for each step.

        Raises:
            SettingsError: steps or options that do not exist, or values that do not work; all of them at once.
        """
        if not isinstance(tables, list | tuple) or len(tables) > MOST_ITEMS:
            raise SettingsError(f"postprocessing: a list of steps is expected, found {shown(tables)}.")
        steps: list[Step] = []
        problems: list[str] = []
        for number, table in enumerate(tables, start=1):
            step, wrong = _step_of(table, f"postprocessing, step {number}")
            problems += wrong
            if step is not None:
                steps.append(step)
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(tuple(steps))

    def to_list(self) -> list[dict[str, Any]]:
        """Returns one table for each step, for JSON."""
        return [step.to_table() for step in self.steps]

    def check(self, labels: LabelTable) -> None:
        """Checks that every ROI named by a step exists.

        Raises:
            SettingsError: some do not; all of them at once.
        """
        problems = [
            f"postprocessing, step {number} ({step.operation.name}): {unknown_name('ROI', roi, labels.names)}"
            for number, step in enumerate(self.steps, start=1)
            for roi in step.named()
            if find_roi(roi, labels) is None
        ]
        if problems:
            raise SettingsError("\n".join(problems))

    def apply(self, mask: Mask, labels: LabelTable) -> tuple[Mask, tuple[str, ...]]:
        """Returns the mask after all steps, and what they did in words.

        Args:
            mask: label values on the scan's own grid; it is not changed.
            labels: the ROIs.

        Returns:
            the new mask, with no label value that was not there before; sentences like "removed 3 islands (2.1 ml) of liver".

        Raises:
            SettingsError: a step names a ROI that does not exist.
            GeometryError: a step works in mm, and the scan does not know its millimetres.
        """
        if not self.steps:
            return mask, ()
        self.check(labels)
        array = np.ascontiguousarray(mask.array).copy()
        notes: list[str] = []
        for step in self.steps:
            notes += step.apply(array, mask.geometry, labels)
        return mask.with_array(array), tuple(notes)


def _step_of(table: Any, where: str) -> tuple[Step | None, list[str]]:
    """Returns the step of a table, or what is wrong with it."""
    name = table.get("step") if isinstance(table, Mapping) else None
    if not isinstance(name, str):
        return None, [f'{where}: found {shown(table)}, expected a table with the key "step".']
    if name not in STEPS:
        return None, [f"{where}: {unknown_name('step', name, tuple(STEPS))}"]
    where = f"{where} ({name})"
    checked, problems = check_table(STEPS[name].operation, table, where, also=("step",))
    if problems:
        return None, problems
    step = STEPS[name].from_checked(checked)
    problems = [f"{where}: {text}." for text in step.problems() if text]
    return (None if problems else step), problems
