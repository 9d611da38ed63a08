"""Which ROI each value of existing masks stands for: by the masks' own names, the user's, or by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.label_map import (
    FIRST_CODE,
    LabelMap,
    codes_message,
    look_like_codes,
    map_option,
    propose_map,
)
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import read_slices
from autoseg_lib.data.whole_labels import is_whole
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.evaluate.names import RoiNames, find_names, with_files
from autoseg_lib.evaluate.reading import read_whole
from autoseg_lib.io.label_codes import FIRST_COLOUR, codes_text, is_mark
from autoseg_lib.labels import LabelTable
from autoseg_lib.settings import MOST_LABELS
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.mask_jobs import MaskJob


def roi_names(
    masks: Path, jobs: Sequence[MaskJob], given: Sequence[str] | None, label_map: LabelMap | None
) -> tuple[RoiNames, dict[str, int]]:
    """Returns the names of the ROIs, and name → value for the masks that name them."""
    beside = find_names(masks if masks.is_dir() else masks.parent)
    return with_files(
        RoiNames(beside.general), [name for job in jobs for name in job.names], given, label_map
    )


def label_table(
    names: RoiNames, jobs: Sequence[MaskJob], rules: LabelRules, notes: list[str]
) -> tuple[LabelTable, LabelRules, set[int]]:
    """Returns the ROIs, the rules (with a map where the only ROI has a code such as 255), and the values
    that are reported whether a mask has them or not: those that someone named, and numbered ones that some mask has.
    """
    known = {**names.general, **names.in_files}
    counts = _counts([job for job in jobs if not job.names], rules) if len(known) < 2 else Counter()
    _refuse_codes(counts)
    values = {value for value in counts if value}
    only = next(iter(values)) if len(values) == 1 else 0
    if only >= FIRST_CODE and only not in known and not names.in_files:
        notes.append(f"the masks hold the values 0 and {only}; {only} is taken as ROI 1.")
        return (
            LabelTable([known.get(1, "ROI 1")]),
            replace(rules, label_map={**rules.label_map, only: 1}),
            {1},
        )
    if known:
        table = LabelTable([known.get(value, f"ROI {value}") for value in range(1, max(known) + 1)])
        return table, rules, set(known)
    if look_like_codes(values) and max(values) <= MOST_LABELS:
        proposed = propose_map(counts) or {}
        notes.append(
            f"the values {codes_text(values)} look like codes; each is measured as an ROI of that number. To number them 1, 2, "
            f'... give --label-map "{map_option(proposed)}".'
        )
    values = {value for value in values if value <= MOST_LABELS} or {1}
    return LabelTable.numbered(max(values)), rules, values


def _refuse_codes(counts: Counter[int]) -> None:
    """Refuses colours and planes that nobody mapped, and masks that mark what is around the ROI.

    Raises:
        DataError: with the map to give.
    """
    total = sum(counts.values()) or 1
    share = {value: count / total for value, count in counts.items()}
    proposed = propose_map(counts, share)
    marks = {value for value in counts if is_mark(value)}
    if marks or (proposed or {}).get(0) == 1:
        raise DataError(codes_message(counts, share, option="--label-map"))


def require_numbers(mask: Mask) -> None:
    """Refuses colours and planes that nobody mapped."""
    if int(mask.array.max(initial=0)) >= FIRST_COLOUR:
        values, counts = np.unique(mask.array, return_counts=True)
        _refuse_codes(Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))))


def require_names(job: MaskJob, jobs: Sequence[MaskJob], names: RoiNames, roi_values: dict[str, int]) -> None:
    """Refuses a mask of numbers among masks that name their ROIs, where nobody said which number is which name.

    Raises:
        DataError: with what to give.
    """
    if roi_values and not job.names and not names.general:
        named = next(other.name for other in jobs if other.names)
        raise DataError(
            f"it holds numbers, and others name their ROIs ('{named}': {name_list(list(roi_values), 5)}), so it is not certain "
            "which number is which ROI. Give --labels with the names in the order of the numbers."
        )


def _counts(jobs: Sequence[MaskJob], rules: LabelRules) -> Counter[int]:
    """Returns value → pixels of all masks of numbers; a file that cannot be read is reported when it is measured."""
    found: Counter[int] = Counter()
    for job in jobs:
        slices = [path for path in job.files if not is_whole(path, 2)]
        for label in read_slices(slices, rules):
            if not isinstance(label, DataError):
                _count(label.array, found)
        for path in set(job.files) - set(slices):
            try:
                _count(read_whole(path, rules)[0].array, found)
            except AutosegError:
                continue
    return found


def _count(array: npt.NDArray[np.unsignedinteger], found: Counter[int]) -> None:
    values, counts = np.unique(array, return_counts=True)
    found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
