"""Names of ROIs in label files that name them (RTSTRUCT, DICOM SEG, 3D Slicer): read before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.errors import AutosegError, SettingsError, name_list
from autoseg_lib.io.files import natural_key
from autoseg_lib.io.label_codes import code_of
from autoseg_lib.io.segments import identity_in, open_segments, same_name


@dataclass(frozen=True)
class NamedFile:
    """What a file with named ROIs says of itself.

    Attributes:
        path: the file.
        names: names of its ROIs, in its order.
        series_uids: the image series it was drawn on.
        problem: why it cannot be read, "" where it can.
        identity: texts that tell who the patient is; used only to keep them out of outputs.
    """

    path: Path
    names: tuple[str, ...] = ()
    series_uids: frozenset[str] = field(default=frozenset(), repr=False)
    problem: str = ""
    identity: frozenset[str] = field(default=frozenset(), repr=False)


def look_into(path: Path) -> NamedFile:
    """Opens a file with named ROIs and returns what it says; a file that cannot be read says why."""
    identity = identity_in(path)
    try:
        file = open_segments(path)
    except AutosegError as error:
        return NamedFile(path, problem=str(error), identity=identity)
    names = tuple(item.name for item in file.segments)
    return NamedFile(path, names, file.referenced_series_uids, identity=identity)


@dataclass(frozen=True)
class RoiValues:
    """Which ROI number each name stands for.

    Attributes:
        values: name → number, for painting; several names may share one.
        names: the ROIs' names for the numbers 1, 2, ...
    """

    values: dict[str, int]
    names: tuple[str, ...]


def has_names(label_map: LabelMap | None) -> bool:
    """Whether a map names ROIs, and not only codes."""
    return any(code_of(key) is None for key in label_map or {})


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names in natural order, each once; case, spaces, "_" and "-" make no difference."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(same_name(name), name)
    return tuple(sorted(first.values(), key=lambda name: natural_key(same_name(name))))


def roi_values(
    found: Iterable[str], given: Sequence[str] | None, label_map: LabelMap | None = None
) -> RoiValues:
    """Decides the number of each ROI name.

    Args:
        found: names in all files of the folder.
        given: labels_list: numbers 1, 2, ... in its order; None: all names found, in natural order.
        label_map: may name ROIs, which then have the numbers it says ({"GTV-1": 1, "GTV-2": 1}).

    Raises:
        SettingsError: labels_list or label_map names no ROI that the files hold.
    """
    names = distinct_names(found)
    known = {same_name(name) for name in names}
    mapped = {
        str(key): number
        for key, number in (label_map or {}).items()
        if code_of(key) is None or same_name(str(key)) in known
    }
    values: dict[str, int]
    if mapped and not given and not any(mapped.values()):
        # Nothing but names to leave out: the others are numbered as they would be without them.
        none = {same_name(name) for name in mapped}
        names, mapped = tuple(name for name in names if same_name(name) not in none), {}
        known -= none
    if given:
        values = {name: number for number, name in enumerate(given, start=1)}
        values |= {name: number for name, number in mapped.items() if number}
        table = tuple(given)
    elif mapped:
        values = {name: number for name, number in mapped.items() if number}
        by_number: dict[int, str] = {}
        for name, number in values.items():
            by_number.setdefault(number, name)
        table = tuple(
            by_number.get(number, f"ROI {number}") for number in range(1, max(by_number, default=0) + 1)
        )
    else:
        values = {name: number for number, name in enumerate(names, start=1)}
        table = names
    if names and not known & {same_name(name) for name in values}:
        which = "label_map" if mapped and not given else "labels_list"
        raise SettingsError(
            f"{which} names {name_list(list(values))}; the label files hold the ROIs {name_list(list(names), 12)}. "
            f'Correct {which}, or set labels_list = "auto" for all of them.'
        )
    return RoiValues(values, table)
