"""A lab's own step after the network: a function of an installed package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.sizes import Labels
from autoseg_lib.postprocess.step import Step
from autoseg_lib.preprocess.entry_points import call_step, entry_point_operation
from autoseg_lib.preprocess.operations import Operation


@dataclass(frozen=True)
class OwnStep(Step):
    """Runs a function that an installed package offers; see preprocess/entry_points.py.

    Attributes:
        name: the name under which it is offered.
        options: keyword arguments for it.
    """

    operation: ClassVar[Operation] = entry_point_operation(
        "after",
        "A lab's own step, offered by an installed package: a function of the label values (slice, row, column) and the "
        "spacing (slice, row, column) in mm that returns label values of the same shape.",
    )
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def to_table(self) -> dict[str, Any]:
        table: dict[str, Any] = {"step": self.operation.name, "name": self.name}
        return {**table, "options": dict(self.options)} if self.options else table

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        result = np.asarray(call_step(self.name, array.copy(), geometry.spacing_zyx_mm, **self.options))
        if result.shape != array.shape or result.dtype.kind not in "iub":
            raise ModelError(
                f"the step '{self.name}' returned {result.dtype} pixels of the shape {result.shape}; label values of the shape "
                f"{array.shape} are expected. Ask whoever wrote it, or take it out of the pipeline."
            )
        if result.size and not 0 <= int(result.min()) <= int(result.max()) <= len(labels):
            raise ModelError(
                f"the step '{self.name}' returned the label values {int(result.min())} to {int(result.max())}; 0 to {len(labels)} "
                "are expected. Ask whoever wrote it, or take it out of the pipeline."
            )
        changed = int(np.count_nonzero(result != array))
        array[...] = result
        return [f"'{self.name}' changed {changed} pixels"] if changed else []
