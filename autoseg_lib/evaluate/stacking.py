"""A mask kept slice by slice against one kept as a volume: which plane of the volume each slice is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import read_slice
from autoseg_lib.data.scan import shown_orientation
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.evaluate.names import RunMemory
from autoseg_lib.evaluate.reading import part_of, read_whole
from autoseg_lib.volume import Mask, reorient

# What slices are called that have no file of their own: numbered from 1 as the scan is sliced and shown.
_NUMBERED = re.compile(r"slice_(\d{4,})")


def slices_and_volume(
    name: str,
    files: dict[str, Path],
    volume: Path,
    memory: RunMemory | None = None,
    rules: tuple[LabelRules, LabelRules] = (LabelRules(), LabelRules()),
) -> tuple[Mask, Mask, str]:
    """Reads slices and a volume of one case onto one grid: the volume's, turned as the slices are.

    A volume is sliced here exactly as ``load_scan`` slices an image. Slices of a run folder are placed by what the run
    remembers of them, others by their number ("slice_0001"). Where neither tells the place, nothing is guessed.

    Args:
        name: the case, for messages.
        files: slice name → file.
        volume: file of the volume.
        memory: what the run folder remembers of the case, if one of the two comes from a run.
        rules: for the slices and for the volume.

    Returns:
        The mask of the slices, the mask of the volume, and a sentence where planes have no slice ("" otherwise).

    Raises:
        DataError: the slices' places cannot be known, or the two differ in size.
    """
    planes, memory = _planes(name, list(files), volume, memory)
    whole = _turned(read_whole(volume, rules[1])[0], memory)
    count, rows, columns = whole.array.shape
    order = sorted(files, key=lambda item: planes[item])
    if (memory is not None and len(memory.position_mm) != count) or planes[order[-1]] >= count:
        slices = len(memory.position_mm) if memory else planes[order[-1]] + 1
        raise DataError(
            f"'{volume.name}' has {count} slices the way '{name}' is sliced, the other side {slices}. "
            "Masks of the same scan need the same slices."
        )
    chosen = [planes[item] for item in order]
    array: npt.NDArray[np.unsignedinteger] = np.zeros((len(order), rows, columns), np.uint16)
    for place, item in enumerate(order):
        plane = read_slice(files[item], rules[0]).array
        if plane.shape != (rows, columns):
            raise DataError(
                f"'{files[item].name}' is {plane.shape[1]}×{plane.shape[0]}, the slices of '{volume.name}' are "
                f"{columns}×{rows}. Masks of the same slice need the same size."
            )
        array = array.astype(np.promote_types(array.dtype, plane.dtype), copy=False)
        array[place] = plane
    geometry = part_of(whole.geometry, chosen)
    missing = count - len(chosen)
    verb = (
        "slice of '{0}' has no partner and is" if missing == 1 else "slices of '{0}' have no partner and are"
    )
    note = f"{missing} {verb.format(volume.name)} left out" if missing else ""
    return Mask(array, geometry), Mask(whole.array[chosen], geometry), note


def _planes(
    name: str, slices: Sequence[str], volume: Path, memory: RunMemory | None
) -> tuple[dict[str, int], RunMemory | None]:
    """Returns slice name → plane from 0, and the memory where that told it."""
    if memory is not None:
        known = {item: index for index, item in enumerate(memory.position_mm)}
        if all(item in known for item in slices):
            return known, memory
    numbers = {item: _NUMBERED.fullmatch(item) for item in slices}
    if all(found is not None and int(found.group(1)) > 0 for found in numbers.values()):
        return {item: int(found.group(1)) - 1 for item, found in numbers.items() if found}, None
    raise DataError(
        f"one side is the volume '{volume.name}', the other slices ({name_list(list(slices), 3)}) whose places in it are "
        "not known: slices need the names slice_0001, slice_0002, ... or those of the run folder that the other side "
        "comes from. Give both sides as volumes, or both as slices."
    )


def _turned(mask: Mask, memory: RunMemory | None) -> Mask:
    if memory is None or memory.kind == "volume":
        return reorient(mask, (memory.orientation if memory else "") or shown_orientation(mask.geometry))
    # A series or pictures: sliced as they are; without directions the file's own order is the slices' order.
    return reorient(mask, memory.orientation) if memory.orientation else mask
