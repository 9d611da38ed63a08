"""Names of structures: what the ROIs of a model are called in tables and DICOM objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoseg_lib.errors import SettingsError
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.step import find_roi
from autoseg_lib.preprocess.operations import shown, unknown_name


def with_structure_names(labels: LabelTable, names: Mapping[str, Any]) -> LabelTable:
    """Returns the ROIs under the names that a lab wants to see.

    Values and order stay. Steps of the post-processing go on naming ROIs as the model does.

    Args:
        labels: the model's ROIs.
        names: ROI (its name, or its label value as text) → name in csa_results.csv, measurements.csv, volumes.csv, DICOM
            SEG and RTSTRUCT. ROIs that are not named keep their own.

    Raises:
        SettingsError: ROIs that do not exist, names that are no text or that two ROIs would share; all of them at once.
    """
    if not isinstance(names, Mapping):
        raise SettingsError(f"structure_names: a table of ROI and name is expected, found {shown(names)}.")
    new, problems = list(labels.names), []
    by_whom: dict[int, str] = {}
    for roi, name in names.items():
        key = str(roi)
        label = find_roi(key, labels)
        if label is None:
            problems.append(f"structure_names: {unknown_name('ROI', key, labels.names)}")
        elif not isinstance(name, str) or not name.strip():
            problems.append(f"structure_names, '{key}': a name is expected, found {shown(name)}.")
        elif label.value in by_whom:
            problems.append(
                f"structure_names: '{by_whom[label.value]}' and '{key}' are the same ROI; name it once."
            )
        else:
            by_whom[label.value] = key
            new[label.value - 1] = name.strip()
    doubles = sorted({name for name in new if new.count(name) > 1})
    problems += [
        f"structure_names: two ROIs would be called '{name}'; give each its own name." for name in doubles
    ]
    if problems:
        raise SettingsError("\n".join(problems))
    return LabelTable(new)
