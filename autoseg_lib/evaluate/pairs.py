"""Which masks of two folders are compared with each other, and how the two are read onto one grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.cases import TrainingCase
from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import read_slices
from autoseg_lib.data.whole_labels import holds_names
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.evaluate.match import MaskFolder, MatchedCase, Matching, match
from autoseg_lib.evaluate.names import RunMemory
from autoseg_lib.evaluate.reading import case_of, load_two, read_two
from autoseg_lib.evaluate.stacking import slices_and_volume
from autoseg_lib.geometry import Geometry
from autoseg_lib.volume import Mask

# How codes and names become ROI numbers in the reference and in the prediction.
Rules = tuple[LabelRules, LabelRules]


@dataclass(frozen=True)
class MaskPair:
    """Two masks of one case.

    Attributes:
        name: the case.
        load: reads them onto one grid; also returns sentences for the user.
        in_files: whether each side's file names its ROIs itself.
        by_name: what was matched without the scan, else None.
    """

    name: str
    load: Callable[[Rules], tuple[Mask, Mask, tuple[str, ...]]]
    in_files: tuple[bool, bool]
    by_name: MatchedCase | None = None


def find_pairs(
    sides: tuple[MaskFolder, MaskFolder], images: Path | None, memory: dict[str, RunMemory]
) -> tuple[list[MaskPair], list[str]]:
    """Returns what is compared: masks on their scan where that is known, else masks matched by name."""
    sources: dict[str, ImageSource] = {}
    notes: list[str] = []
    if images is not None:
        listing = discover(images)
        notes += listing.notes
        sources = {source.name: source for source in listing.sources}
    for side in sides:
        sources |= {name: case.source for name, case in side.scans.items() if name not in sources}
    pairs: list[MaskPair] = []
    taken: tuple[set[Path], set[Path]] = (set(), set())
    for name, source in sources.items():
        ours, theirs = (side.scans.get(name) or case_of(source, side) for side in sides)
        if ours is None or theirs is None:
            continue
        if set(ours.labels) & taken[0] or set(theirs.labels) & taken[1]:
            raise DataError(
                f"the masks of '{name}' fit several scans by name, so it is unclear whose they are. Put the masks of each scan "
                "into a folder of the scan's name."
            )
        taken[0].update(ours.labels)
        taken[1].update(theirs.labels)
        pairs.append(_on_scan(name, ours, theirs))
    rest = sides[0].without(taken[0]), sides[1].without(taken[1])
    if pairs and not all(side.cases or side.loose for side in rest):
        matching = Matching((), *((*side.cases, *side.loose) for side in rest))
    else:
        try:
            matching = match(*rest)
        except DataError:
            if not pairs:
                raise
            matching = Matching((), *((*side.cases, *side.loose) for side in rest))
    pairs += [_by_name(case, memory.get(case.name)) for case in matching.cases]
    return pairs, [*notes, *_unmatched_notes(matching)]


def _on_scan(name: str, ours: TrainingCase, theirs: TrainingCase) -> MaskPair:
    in_files = _names_itself(ours.label_volume), _names_itself(theirs.label_volume)
    return MaskPair(name, lambda rules: load_two(ours, theirs, rules), in_files)


def _by_name(case: MatchedCase, memory: RunMemory | None) -> MaskPair:
    in_files = _names_itself(case.reference), _names_itself(case.prediction)
    return MaskPair(case.name, lambda rules: load_pair(case, memory, rules), in_files, case)


def _names_itself(mask: Path | dict[str, Path] | None) -> bool:
    return isinstance(mask, Path) and holds_names(mask)


_PLAIN = LabelRules()


def load_pair(
    case: MatchedCase,
    memory: RunMemory | None = None,
    rules: tuple[LabelRules, LabelRules] = (_PLAIN, _PLAIN),
) -> tuple[Mask, Mask, tuple[str, ...]]:
    """Reads the two masks of a case on one grid: the reference's, or the volume's where only one side is a volume.

    Args:
        case: what belongs together.
        memory: what a run folder remembers of its slices.
        rules: for the reference and for the prediction.

    Returns:
        Reference, prediction, and sentences for the user (slices that only one side has, ...).

    Raises:
        DataError: a file cannot be read, slices differ in size, or their places in a volume are not known.
        GeometryError: the masks lie on different grids.
    """
    noted = (case.note,) if case.note else ()
    if isinstance(case.reference, Path) and isinstance(case.prediction, Path):
        ours, theirs, said = read_two(case.reference, case.prediction, rules)
        return ours, theirs, (*said, *noted)
    if isinstance(case.reference, dict) and isinstance(case.prediction, dict):
        return *_load_slices(case.reference, case.prediction, memory, rules), noted
    if isinstance(case.reference, dict) and isinstance(case.prediction, Path):
        ours, theirs, note = slices_and_volume(case.name, case.reference, case.prediction, memory, rules)
        return ours, theirs, (note,) if note else ()
    if isinstance(case.reference, Path) and isinstance(case.prediction, dict):
        turned = (rules[1], rules[0])
        theirs, ours, note = slices_and_volume(case.name, case.prediction, case.reference, memory, turned)
        return ours, theirs, (note,) if note else ()
    raise TypeError(f"a case is made of paths or slices, found {type(case.reference).__name__}")


def _load_slices(
    reference: dict[str, Path],
    prediction: dict[str, Path],
    memory: RunMemory | None,
    rules: tuple[LabelRules, LabelRules],
) -> tuple[Mask, Mask]:
    names = list(reference)
    if memory:
        order = {name: index for index, name in enumerate(memory.position_mm)}
        names.sort(key=lambda name: order.get(name, len(order)))
    ours_array, theirs_array = _stack(reference, names, rules[0]), _stack(prediction, names, rules[1])
    if ours_array.shape != theirs_array.shape:
        raise DataError(
            f"the reference's slices are {_size(ours_array)}, the prediction's {_size(theirs_array)}. "
            "Masks of the same slice need the same size."
        )
    shape = (ours_array.shape[1], ours_array.shape[2])
    geometry = memory.geometry(names, shape) if memory else Geometry.from_spacing((len(names), *shape))
    return Mask(ours_array, geometry), Mask(theirs_array, geometry)


def _stack(files: dict[str, Path], names: list[str], rules: LabelRules) -> npt.NDArray[np.unsignedinteger]:
    planes: list[npt.NDArray[np.unsignedinteger]] = []
    for name, label in zip(names, read_slices([files[name] for name in names], rules), strict=True):
        if isinstance(label, DataError):
            raise label
        if planes and label.array.shape != planes[0].shape:
            raise DataError(
                f"label '{files[name].name}' differs in size from '{files[names[0]].name}'; "
                "slices of one scan need the same size."
            )
        planes.append(label.array)
    return np.stack(planes)


def _size(array: npt.NDArray[np.generic]) -> str:
    return f"{array.shape[2]}×{array.shape[1]}"


def _unmatched_notes(matching: Matching) -> list[str]:
    notes = list(matching.notes)
    for side, missing in (("reference", matching.only_reference), ("prediction", matching.only_prediction)):
        if missing:
            other = "prediction" if side == "reference" else "reference"
            count = "1 mask" if len(missing) == 1 else f"{len(missing)} masks"
            notes.append(f"{count} of the {side} without {other}, left out: {name_list(list(missing))}.")
    return notes
