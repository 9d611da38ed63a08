"""Reads masks of every kind on the grid where they can be compared or measured: their scan's, their own, or the other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.label_map import apply_map
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import load_case
from autoseg_lib.data.naming import image_stem
from autoseg_lib.data.other_grid import (
    LABEL_GRID_TOLERANCE_MM,
    covering_grid,
    has_places,
    on_grid_text,
    same_frame,
)
from autoseg_lib.data.pairing import TrainingCase, labelled_part
from autoseg_lib.data.whole_labels import holds_names
from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.evaluate.match import MaskFolder
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.files import same_text
from autoseg_lib.io.raster import STACK_SUFFIXES, read_label_stack
from autoseg_lib.io.segments import open_segments, paint
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.preprocess.resample import index_map, resample
from autoseg_lib.volume import Mask, reorient_like

# Headers are rounded; pixels that are apart by less than this share of a pixel are the same pixels.
_SAME_PIXEL = 0.01

# --- one mask ---------------------------------------------------------------------------------------------------------


def read_whole(path: Path, rules: LabelRules, target: Geometry | None = None) -> tuple[Mask, tuple[str, ...]]:
    """Reads the one file that holds a whole mask.

    Args:
        path: volume, RTSTRUCT, DICOM SEG, 3D Slicer's segmentation, or stack of pages.
        rules: how codes and names become ROI numbers.
        target: grid to put contours on; files with a grid of their own keep it.

    Returns:
        The mask, and sentences for the user.

    Raises:
        DataError: it cannot be read, or contours have no grid to be put on.
    """
    if not holds_names(path):
        if path.suffix.lower() in STACK_SUFFIXES:
            array = apply_map(read_label_stack(path), rules.label_map)
            return Mask(array, Geometry.from_spacing(array.shape)), ()
        mask = read_label_file(path)
        return mask.with_array(apply_map(mask.array, rules.label_map)), ()
    file = open_segments(path, fractional_threshold=rules.seg_threshold)
    grid = file.geometry or target
    if grid is None:
        why = (
            "contours have no pixels of their own"
            if file.kind == "RTSTRUCT"
            else "its frames make no single stack"
        )
        raise DataError(
            f"'{path.name}' is an {file.kind}: {why}. Give the scan that it was drawn on (--images)."
        )
    values = rules.values_for(item.name for item in file.segments)
    array, said = paint(file.layers(grid), values, priority=rules.overlap_priority)
    return Mask(array, grid), tuple(f"'{path.name}': {text}" for text in (*file.warnings, *said))


def read_two(
    reference: Path, prediction: Path, rules: tuple[LabelRules, LabelRules]
) -> tuple[Mask, Mask, tuple[str, ...]]:
    """Reads two masks of one scan onto one grid: the reference's.

    Masks that lie on the same pixels but cover another part of them are filled up with background. Other grids of the same
    frame are resampled (nearest label value) and said.

    Args:
        reference: file of the mask held to be right.
        prediction: file of the mask to judge.
        rules: for the reference and for the prediction.

    Raises:
        DataError: a file cannot be read, or neither has a grid.
        GeometryError: the two do not lie in the same place.
    """
    ours_alone, theirs_alone = _has_grid(reference), _has_grid(prediction)
    if not ours_alone and theirs_alone:
        theirs, said = read_whole(prediction, rules[1])
        ours, more = read_whole(reference, rules[0], theirs.geometry)
    else:
        ours, said = read_whole(reference, rules[0])
        theirs, more = read_whole(prediction, rules[1], ours.geometry)
    ours, theirs, note = _on_one_grid(ours, theirs, reference.name, prediction.name)
    return ours, theirs, (*said, *more, *([note] if note else []))


def _has_grid(path: Path) -> bool:
    return not holds_names(path) or open_segments(path).geometry is not None


def _on_one_grid(ours: Mask, theirs: Mask, our_name: str, their_name: str) -> tuple[Mask, Mask, str]:
    if theirs.geometry.is_same_grid(ours.geometry, LABEL_GRID_TOLERANCE_MM):
        return ours, theirs.with_array(theirs.array, ours.geometry), ""
    try:
        return ours, reorient_like(theirs, ours.geometry), ""
    except GeometryError:
        different = GeometryError(
            f"'{their_name}' ({on_grid_text(theirs.geometry)}) and '{our_name}' ({on_grid_text(ours.geometry)}) lie on "
            "different grids. Export both on the grid of the same scan."
        )
    same_size = sorted(ours.array.shape) == sorted(theirs.array.shape)
    if same_size or not (
        has_places(ours.geometry, theirs.geometry) and same_frame(ours.geometry, theirs.geometry)
    ):
        raise different
    grid = covering_grid(ours.geometry, theirs.geometry)
    whole, moved = resample(ours, grid), resample(theirs, grid)
    steps = index_map(theirs.geometry, grid)
    if np.allclose(steps, np.round(steps), atol=_SAME_PIXEL):
        return whole, moved, ""  # the same pixels, another part of the scan
    note = (
        f"'{their_name}' lies on another grid ({on_grid_text(theirs.geometry)}) than '{our_name}' "
        f"({on_grid_text(ours.geometry)}); it was placed by position, each pixel taking the nearest label value."
    )
    return whole, moved, note


# --- masks on their scan ----------------------------------------------------------------------------------------------

# Names that say what a folder holds, not whose it is.
_LAYOUT_NAMES = {"labels", "label", "masks", "mask", "segmentations", "segmentation"}


def case_of(source: ImageSource, found: MaskFolder) -> TrainingCase | None:
    """Returns a scan with its masks: those of its name, slice by slice or whole, else the file drawn on its series."""
    names = (source.name, source.files[0].parent.name, image_stem(source.files[0]))
    wanted = dict.fromkeys(same_text(name) for name in names)
    named = [found.cases[name] for name in wanted if name in found.cases]
    for pool in [*(case.slices for case in named), found.loose, *_only_fit(source, found)]:
        case = labelled_part(source, partners(source, pool)) if pool else None
        if case is not None:
            return case
    volumes = [case.volume for case in named if case.volume is not None]
    if not volumes and source.series is not None:
        uid = source.series.headers[0].series_uid
        drawn = [file for file, said in found.named.items() if uid and uid in said.series_uids]
        volumes = drawn if len(drawn) == 1 else []
    if not volumes and found.is_single and len(found.named) == 1:
        ((file, said),) = found.named.items()
        volumes = [file] if not said.series_uids else []
    return TrainingCase(source, label_volume=volumes[0]) if volumes else None


def partners(source: ImageSource, pool: dict[str, Path]) -> list[Path | None]:
    """The mask of each slice, by the slice's name or its file's."""
    frames = len(set(source.files)) < len(source.files)
    result: list[Path | None] = []
    for index, file in enumerate(source.images if source.kind == "volume" else source.files):
        name = same_text(source.slice_names[index]) if source.slice_names else ""
        result.append(pool.get(name) or (None if frames else pool.get(same_text(image_stem(file)))))
    return result


def _only_fit(source: ImageSource, found: MaskFolder) -> list[dict[str, Path]]:
    """The slices in a folder "labels" or "masks", where that is all there is and it has a mask for every slice.

    A folder of any other name belongs to the scan of that name: slice names such as "IM_0001" fit every scan.
    """
    if len(found.cases) != 1:
        return []
    ((name, case),) = found.cases.items()
    fits = name.lower() in _LAYOUT_NAMES and case.slices and None not in partners(source, case.slices)
    return [case.slices] if fits else []


def load_two(
    reference: TrainingCase, prediction: TrainingCase, rules: tuple[LabelRules, LabelRules]
) -> tuple[Mask, Mask, tuple[str, ...]]:
    """Reads two masks onto the grid of their scan: the slices that both have.

    Raises:
        DataError: a file cannot be read or does not fit its scan, or no slice has both.
    """
    (first, ours, said), (second, theirs, more) = (
        load_case(case, rules=rule) for case, rule in zip((reference, prediction), rules, strict=True)
    )
    notes = tuple(dict.fromkeys((*said, *more)))
    if first.slice_names == second.slice_names:
        return ours, theirs.with_array(theirs.array, ours.geometry), notes
    common = [name for name in first.slice_names if name in set(second.slice_names)]
    if not common:
        raise DataError("no slice has both a reference and a prediction.")
    ours, theirs = _part(ours, first.slice_names, common), _part(theirs, second.slice_names, common)
    alone = len(set(first.slice_names) ^ set(second.slice_names))
    count = "1 slice has" if alone == 1 else f"{alone} slices have"
    return (
        ours,
        theirs.with_array(theirs.array, ours.geometry),
        (*notes, f"{count} no partner and are left out."),
    )


def _part(mask: Mask, names: Sequence[str], wanted: Sequence[str]) -> Mask:
    if len(names) == len(wanted):
        return mask
    planes = [names.index(name) for name in wanted]
    return Mask(mask.array[planes], part_of(mask.geometry, planes))


def part_of(geometry: Geometry, planes: Sequence[int]) -> Geometry:
    """Returns the grid of some of its slices, gaps included."""
    if len(planes) == geometry.shape_zyx[0]:
        return geometry
    first, last = planes[0], planes[-1]
    if last - first + 1 == len(planes):
        return geometry.slices(first, last + 1)
    positions = tuple(float(geometry.positions_mm[plane]) for plane in planes)
    start = geometry.slices(first, first + 1)
    return replace(start, shape_zyx=(len(planes), *geometry.shape_zyx[1:]), slice_positions_mm=positions)
