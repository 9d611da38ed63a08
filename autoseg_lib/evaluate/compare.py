"""Compares matched masks ROI by ROI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import AutosegError, DataError, GeometryError, name_list
from autoseg_lib.evaluate.match import MatchedCase, Matching, find_masks, match
from autoseg_lib.evaluate.names import RoiNames, RunMemory, find_names, read_run_memory
from autoseg_lib.evaluate.stacking import slices_and_volume
from autoseg_lib.evaluate.table import EvaluationRow, SummaryRow, summarise, write_rows, write_summary
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.raster import read_label
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.measure.volumes import why_no_volume
from autoseg_lib.metrics.overlap import dice
from autoseg_lib.metrics.surface import surface_distances, why_no_distances
from autoseg_lib.volume import Mask, reorient_like

# Two programs write the same grid with slightly different rounding; a tenth of a millimetre is far below a
# pixel.
_SAME_GRID_TOLERANCE_MM = 0.1

# Degrees; below this the shift from one slice to the next is less than a hundredth of their distance.
_TILT_WORTH_SAYING = 0.5

# An ROI as compared: its name, its value in the reference, its value in the prediction.
_Roi = tuple[str, int, int]


@dataclass(frozen=True)
class Evaluation:
    """Result of comparing two folders.

    Attributes:
        rows: one per case and ROI.
        summary: one per ROI, over all cases.
        notes: what was left out or assumed, for the user.
        failures: (case, reason) of cases that could not be compared.
    """

    rows: tuple[EvaluationRow, ...]
    summary: tuple[SummaryRow, ...]
    notes: tuple[str, ...]
    failures: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """Returns the summary as lines of text: one per ROI, then notes and failures."""
        lines = []
        for row in self.summary:
            parts = [f"{row.roi}: Dice {_shown(row.dice_mean, 3)} (worst {_shown(row.dice_min, 3)})"]
            if row.hd95_mm_mean is not None:
                parts.append(f"HD95 {row.hd95_mm_mean:.2f} mm")
            if row.volume_difference_percent_abs_mean is not None:
                parts.append(f"volume difference {row.volume_difference_percent_abs_mean:.1f} %")
            counts = f"{row.cases} case{'s' if row.cases != 1 else ''}, absent in both {row.absent_in_both}"
            counts += f", only reference {row.only_reference}, only prediction {row.only_prediction}"
            lines.append(" · ".join([*parts, counts]))
        lines += [f"note: {note}" for note in self.notes]
        return lines + [f"'{case}' was not compared: {reason}" for case, reason in self.failures]


def evaluate_folders(reference: Path, prediction: Path, on_event: Listener = nobody) -> Evaluation:
    """Compares every mask in ``prediction`` with its partner in ``reference``.

    Args:
        reference: folder of the masks held to be right.
        prediction: folder of the masks to judge (a run folder, for example).
        on_event: told about progress.

    Raises:
        DataError: a folder holds no masks, nothing matches, or no case could be compared.
    """
    matching = match(find_masks(reference), find_masks(prediction))
    names = find_names(reference), find_names(prediction)
    memory = {**read_run_memory(reference), **read_run_memory(prediction)}
    notes = _unmatched_notes(matching)
    loaded, failures = [], []
    values: tuple[set[int], set[int]] = (set(), set())
    for case in matching.cases:
        try:
            pair = load_pair(case, memory.get(case.name))
        except AutosegError as error:
            failures.append((case.name, str(error)))
            continue
        for side, mask in zip(values, pair[:2], strict=True):
            side.update(int(value) for value in np.unique(mask.array) if value)
        loaded.append(case)
    rois_of, roi_notes = _choose_rois(names, values)
    notes += roi_notes
    rows: list[EvaluationRow] = []
    left_out: dict[str, None] = {}
    for number, case in enumerate(loaded):
        on_event(Progress("Comparing", number, len(loaded), case.name))
        ours, theirs, said = load_pair(case, memory.get(case.name))
        rois, alone = rois_of(case.name)
        left_out.update(dict.fromkeys(alone))
        rows += compare_masks(ours, theirs, rois, case.name)
        tilt = memory[case.name].tilt_degrees if case.name in memory else 0.0
        if tilt > _TILT_WORTH_SAYING and case.is_slices:
            notes.append(
                f"'{case.name}': its slices are tilted by {tilt:.1f}°; distances between the surfaces are "
                "measured as if "
                "they were not. Areas and volumes are not affected."
            )
        if said:
            notes.append(f"'{case.name}': {said}.")
    on_event(Progress("Comparing", len(loaded), len(loaded)))
    if left_out:
        notes.append(f"ROIs that only one side names are not compared: {name_list(list(left_out), 10)}.")
    if not rows:
        reason = failures[0][1] if failures else "the two sides name no ROI in common."
        raise DataError(f"nothing could be compared: {reason}")
    return Evaluation(tuple(rows), tuple(summarise(rows)), tuple(notes), tuple(failures))


def load_pair(case: MatchedCase, memory: RunMemory | None = None) -> tuple[Mask, Mask, str]:
    """Reads the two masks of a case on one grid: the reference's, or the volume's where only one side is a volume.

    Args:
        case: what belongs together.
        memory: what a run folder remembers of its slices.

    Returns:
        Reference, prediction, and a sentence on slices that only one side has ("" where there are none).

    Raises:
        DataError: a file cannot be read, slices differ in size, or their places in a volume are not known.
        GeometryError: the masks lie on different grids.
    """
    if isinstance(case.reference, Path) and isinstance(case.prediction, Path):
        ours, theirs = read_label_file(case.reference), read_label_file(case.prediction)
        return ours, _onto(theirs, ours, case.prediction.name, case.reference.name), case.note
    if isinstance(case.reference, dict) and isinstance(case.prediction, dict):
        return *_load_slices(case.reference, case.prediction, memory), case.note
    if isinstance(case.reference, dict) and isinstance(case.prediction, Path):
        return slices_and_volume(case.name, case.reference, case.prediction, memory)
    if isinstance(case.reference, Path) and isinstance(case.prediction, dict):
        theirs, ours, note = slices_and_volume(case.name, case.prediction, case.reference, memory)
        return ours, theirs, note
    raise TypeError(f"a case is made of paths or slices, found {type(case.reference).__name__}")


def _load_slices(
    reference: dict[str, Path], prediction: dict[str, Path], memory: RunMemory | None
) -> tuple[Mask, Mask]:
    names = list(reference)
    if memory:
        order = {name: index for index, name in enumerate(memory.position_mm)}
        names.sort(key=lambda name: order.get(name, len(order)))
    ours_array, theirs_array = _stack(reference, names), _stack(prediction, names)
    if ours_array.shape != theirs_array.shape:
        raise DataError(
            f"the reference's slices are {_size(ours_array)}, the prediction's {_size(theirs_array)}. "
            "Masks of the same slice need the same size."
        )
    shape = (ours_array.shape[1], ours_array.shape[2])
    geometry = memory.geometry(names, shape) if memory else Geometry.from_spacing((len(names), *shape))
    return Mask(ours_array, geometry), Mask(theirs_array, geometry)


def compare_masks(reference: Mask, prediction: Mask, rois: list[_Roi], case: str) -> list[EvaluationRow]:
    """Compares two masks on the same grid.

    Args:
        reference: label values held to be right.
        prediction: label values to judge, same grid.
        rois: (name, value in the reference, value in the prediction).
        case: name of the case.

    Returns:
        One row per ROI; what cannot be told is None and ``note`` says why.

    Raises:
        GeometryError: the shapes differ.
    """
    geometry = reference.geometry
    no_volume, no_distance = why_no_volume(geometry), why_no_distances(geometry)
    # Volume of one pixel of each slice, in ml.
    pixel_ml = None if no_volume else geometry.slice_extents_mm * geometry.pixel_area_mm2 / 1000
    rows = []
    for name, reference_value, prediction_value in rois:
        ours, theirs = reference.array == reference_value, prediction.array == prediction_value
        distances = None if no_distance else surface_distances(ours, theirs, geometry)
        only_one = bool(ours.any()) != bool(theirs.any())
        volumes: list[float | None] = [None, None]
        if pixel_ml is not None:
            volumes = [float(mask.sum(axis=(1, 2)) @ pixel_ml) for mask in (ours, theirs)]
        # Nothing of an ROI that the other side has lies within 1 mm of it; with neither there is nothing to
        # tell.
        nothing_close = 0.0 if only_one and not no_distance else None
        rows.append(
            EvaluationRow(
                case=case,
                label=reference_value,
                roi=name,
                dice=dice(ours, theirs),
                hd95_mm=distances.hd95_mm if distances else None,
                surface_dice_1mm=distances.surface_dice() if distances else nothing_close,
                mean_surface_distance_mm=distances.mean_mm if distances else None,
                volume_reference_ml=volumes[0],
                volume_prediction_ml=volumes[1],
                volume_difference_percent=_percent(*volumes),
                voxels_reference=int(ours.sum()),
                voxels_prediction=int(theirs.sum()),
                note=no_distance or no_volume,
            )
        )
    return rows


def _shown(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _percent(reference: float | None, prediction: float | None) -> float | None:
    if not reference or prediction is None:
        return None
    return 100 * (prediction - reference) / reference


def _onto(theirs: Mask, ours: Mask, their_name: str, our_name: str) -> Mask:
    """Turns the axes of the prediction onto the reference's grid; never resamples."""
    if theirs.geometry.is_same_grid(ours.geometry, _SAME_GRID_TOLERANCE_MM):
        return theirs.with_array(theirs.array, ours.geometry)
    try:
        return reorient_like(theirs, ours.geometry)
    except GeometryError:
        raise GeometryError(
            f"'{their_name}' ({_grid_text(theirs.geometry)}) and '{our_name}' "
            f"({_grid_text(ours.geometry)}) lie on "
            "different grids. Export both on the grid of the same scan."
        ) from None


def _grid_text(geometry: Geometry) -> str:
    size = " × ".join(str(n) for n in geometry.shape_zyx[::-1])
    spacing = " × ".join(f"{n:.3g}" for n in geometry.spacing_zyx_mm[::-1])
    origin = ", ".join(f"{n:.1f}" for n in geometry.origin_xyz_mm)
    return f"{size} pixels of {spacing} mm from ({origin})"


def _stack(files: dict[str, Path], names: list[str]) -> npt.NDArray[np.unsignedinteger]:
    planes = [read_label(files[name]).array for name in names]
    sizes = {plane.shape for plane in planes}
    if len(sizes) > 1:
        odd = next(name for name, plane in zip(names, planes, strict=True) if plane.shape != planes[0].shape)
        raise DataError(
            f"label '{files[odd].name}' differs in size from '{files[names[0]].name}'; "
            "slices of one scan need the same size."
        )
    return np.stack(planes).astype(np.uint16)


def _size(array: npt.NDArray[np.generic]) -> str:
    return f"{array.shape[2]}×{array.shape[1]}"


def _choose_rois(
    names: tuple[RoiNames, RoiNames], values: tuple[set[int], set[int]]
) -> tuple[Callable[[str], tuple[list[_Roi], list[str]]], list[str]]:
    """Decides how ROIs are matched: by name where both sides name them, else by label value."""
    notes = []
    named = [bool(side.general or side.by_case) for side in names]
    single = [next(iter(side)) if len(side) == 1 else None for side in values]
    alias: dict[int, int] = {}
    if not any(named) and None not in single and single[0] != single[1]:
        alias = {int(single[0] or 0): int(single[1] or 0)}
        notes.append(
            f"Each side has one ROI, with the value {single[0]} in the reference and {single[1]} in the "
            "prediction; "
            "they are taken to be the same."
        )
    elif not all(named):
        who = (
            "Neither side names its ROIs"
            if not any(named)
            else f"The {'prediction' if named[0] else 'reference'} names no ROIs"
        )
        notes.append(f"{who}: equal label values are taken to be the same ROI.")

    def rois_of(case: str) -> tuple[list[_Roi], list[str]]:
        ours, theirs = names[0].of(case), names[1].of(case)
        if ours and theirs:
            by_name = {name.casefold(): value for value, name in theirs.items()}
            rois = [(n, v, by_name[n.casefold()]) for v, n in sorted(ours.items()) if n.casefold() in by_name]
            both = {name.casefold() for name, _, _ in rois}
            return rois, [n for n in (*ours.values(), *theirs.values()) if n.casefold() not in both]
        table = ours or theirs
        if table:
            return [(name, value, value) for value, name in sorted(table.items())], []
        found = set(alias) if alias else values[0] | values[1]
        return [(f"ROI {value}", value, alias.get(value, value)) for value in sorted(found)], []

    return rois_of, notes


def _unmatched_notes(matching: Matching) -> list[str]:
    notes = []
    for side, missing in (("reference", matching.only_reference), ("prediction", matching.only_prediction)):
        if missing:
            other = "prediction" if side == "reference" else "reference"
            count = "1 mask" if len(missing) == 1 else f"{len(missing)} masks"
            notes.append(f"{count} of the {side} without {other}, left out: {name_list(list(missing))}.")
    return notes


def write_evaluation(path: Path, evaluation: Evaluation) -> list[Path]:
    """Writes FILE.csv (one row per case and ROI) and FILE_summary.csv (one row per ROI, with counts).

    Args:
        path: the CSV file.
        evaluation: what to write.

    Returns:
        The two files.

    Raises:
        ExportError: a file cannot be written.
    """
    summary = path.with_name(f"{path.stem}_summary.csv")
    write_rows(path, evaluation.rows)
    write_summary(summary, evaluation.summary)
    return [path, summary]
