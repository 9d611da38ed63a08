"""Compares matched masks ROI by ROI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.cases import TrainingCase
from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.data.label_map import LabelMap, codes_message, look_like_codes, propose_map
from autoseg_lib.data.label_names import has_names
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import read_slices
from autoseg_lib.data.whole_labels import holds_names
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.evaluate.match import MaskFolder, MatchedCase, Matching, find_masks, match
from autoseg_lib.evaluate.names import RoiNames, RunMemory, find_names, read_run_memory, with_files
from autoseg_lib.evaluate.reading import case_of, load_two, read_two
from autoseg_lib.evaluate.stacking import slices_and_volume
from autoseg_lib.evaluate.table import EvaluationRow, SummaryRow, summarise, write_rows, write_summary
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.label_codes import is_mark
from autoseg_lib.io.segments import same_name, tells_overlap
from autoseg_lib.measure.volumes import why_no_volume
from autoseg_lib.metrics.overlap import dice
from autoseg_lib.metrics.surface import surface_distances, why_no_distances
from autoseg_lib.volume import Mask

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

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for ``--json``."""
        return {
            "rows": [vars(row) for row in self.rows],
            "summary": [vars(row) for row in self.summary],
            "failures": [{"case": case, "reason": reason} for case, reason in self.failures],
            "notes": list(self.notes),
        }


# How codes and names become ROI numbers in the reference and in the prediction.
_Rules = tuple[LabelRules, LabelRules]


@dataclass(frozen=True)
class _Pair:
    """Two masks of one case.

    Attributes:
        name: the case.
        load: reads them onto one grid; also returns sentences for the user.
        in_files: whether each side's file names its ROIs itself.
        by_name: what was matched without the scan, else None.
    """

    name: str
    load: Callable[[_Rules], tuple[Mask, Mask, tuple[str, ...]]]
    in_files: tuple[bool, bool]
    by_name: MatchedCase | None = None


@dataclass
class _Side:
    """What was found of one side: its values, their share of all pixels, whether numbers (not names) mark its ROIs."""

    word: str
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def values(self) -> set[int]:
        """Values found, 0 left out."""
        return {value for value in self.counts if value}

    @property
    def share(self) -> dict[int, float]:
        """Value → share of all pixels."""
        total = sum(self.counts.values()) or 1
        return {value: count / total for value, count in self.counts.items()}


def evaluate_folders(
    reference: Path,
    prediction: Path,
    on_event: Listener = nobody,
    *,
    images: Path | None = None,
    labels: Sequence[str] | None = None,
    reference_map: LabelMap | None = None,
    prediction_map: LabelMap | None = None,
) -> Evaluation:
    """Compares every mask of ``prediction`` with its partner in ``reference``.

    Args:
        reference: masks held to be right: a folder, one file, or a CSV manifest (columns image, label).
        prediction: masks to judge, likewise (a run folder, for example).
        on_event: told about progress.
        images: the scans, matched by name or by the series an RTSTRUCT or SEG was drawn on; both masks are then put onto
            the scan's grid.
        labels: names of the ROIs in order of their values, for masks that hold numbers; of masks that name their ROIs,
            those of these names are compared.
        reference_map: code or name → ROI number for the reference.
        prediction_map: likewise for the prediction.

    Raises:
        DataError: a side holds no masks, nothing matches, codes need a map, or no case could be compared.
    """
    sides = find_masks(reference), find_masks(prediction)
    maps = reference_map, prediction_map
    tables = [
        with_files(
            find_names(path if path.is_dir() else path.parent),
            [name for file in side.named.values() for name in file.names],
            labels,
            label_map,
        )
        for path, side, label_map in zip((reference, prediction), sides, maps, strict=True)
    ]
    names = tables[0][0], tables[1][0]
    # JPG labels can be told apart only where the number of ROIs is known.
    count = len(labels) if labels else None
    rules = (
        LabelRules(label_map=maps[0] or {}, roi_values=tables[0][1], num_labels=count),
        LabelRules(label_map=maps[1] or {}, roi_values=tables[1][1], num_labels=count),
    )
    memory = {**read_run_memory(sides[0].path), **read_run_memory(sides[1].path)}
    pairs, notes = _pairs(sides, images, memory)
    loaded, failures = [], []
    found = _Side("reference"), _Side("prediction")
    for number, pair in enumerate(pairs):
        on_event(Progress("Reading", number, len(pairs), pair.name))
        try:
            masks = pair.load(rules)
        except AutosegError as error:
            failures.append((pair.name, str(error)))
            continue
        for side, mask, in_file in zip(found, masks[:2], pair.in_files, strict=True):
            if not in_file:
                values, counts = np.unique(mask.array, return_counts=True)
                side.counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        loaded.append(pair)
    rois_of, roi_notes = _choose_rois(names, found, loaded, (has_names(maps[0]), has_names(maps[1])))
    notes += roi_notes
    rows: list[EvaluationRow] = []
    left_out: dict[str, None] = {}
    for number, pair in enumerate(loaded):
        on_event(Progress("Comparing", number, len(loaded), pair.name))
        ours, theirs, said = pair.load(rules)
        rois, alone = rois_of(pair)
        left_out.update(dict.fromkeys(alone))
        if tells_overlap(said):
            # A tumour lies inside its organ: each ROI is compared as a whole, not what others leave of it.
            for roi in rois:
                one = tuple(
                    rule.only(value) if inside else rule
                    for rule, value, inside in zip(rules, roi[1:], pair.in_files, strict=True)
                )
                rows += compare_masks(*pair.load((one[0], one[1]))[:2], [roi], pair.name)
            said = (*(text for text in said if not tells_overlap([text])), _WHOLE)
        else:
            rows += compare_masks(ours, theirs, rois, pair.name)
        tilt = memory[pair.name].tilt_degrees if pair.by_name and pair.name in memory else 0.0
        if tilt > _TILT_WORTH_SAYING and pair.by_name and pair.by_name.is_slices:
            notes.append(
                f"'{pair.name}': its slices are tilted by {tilt:.1f}°; distances between the surfaces are "
                "measured as if "
                "they were not. Areas and volumes are not affected."
            )
        notes += [f"'{pair.name}': {text.rstrip('.')}." for text in said]
    on_event(Progress("Comparing", len(loaded), len(loaded)))
    if left_out:
        notes.append(f"ROIs that only one side names are not compared: {name_list(list(left_out), 10)}.")
    if not rows:
        reason = failures[0][1] if failures else "the two sides name no ROI in common."
        raise DataError(f"nothing could be compared: {reason}")
    return Evaluation(tuple(rows), tuple(summarise(rows)), tuple(dict.fromkeys(notes)), tuple(failures))


_WHOLE = "its ROIs overlap; each was compared by itself, as a whole"


def _pairs(
    sides: tuple[MaskFolder, MaskFolder], images: Path | None, memory: dict[str, RunMemory]
) -> tuple[list[_Pair], list[str]]:
    """Returns what is compared: masks on their scan where that is known, else masks matched by name."""
    sources: dict[str, ImageSource] = {}
    notes: list[str] = []
    if images is not None:
        listing = discover(images)
        notes += listing.notes
        sources = {source.name: source for source in listing.sources}
    for side in sides:
        sources |= {name: case.source for name, case in side.scans.items() if name not in sources}
    pairs: list[_Pair] = []
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


def _on_scan(name: str, ours: TrainingCase, theirs: TrainingCase) -> _Pair:
    in_files = _names_itself(ours.label_volume), _names_itself(theirs.label_volume)
    return _Pair(name, lambda rules: load_two(ours, theirs, rules), in_files)


def _by_name(case: MatchedCase, memory: RunMemory | None) -> _Pair:
    in_files = _names_itself(case.reference), _names_itself(case.prediction)
    return _Pair(case.name, lambda rules: load_pair(case, memory, rules), in_files, case)


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


def _choose_rois(
    names: tuple[RoiNames, RoiNames],
    found: tuple[_Side, _Side],
    pairs: Sequence[_Pair],
    mapped: tuple[bool, bool] = (False, False),
) -> tuple[Callable[[_Pair], tuple[list[_Roi], list[str]]], list[str]]:
    """Decides how ROIs are matched: by name where both sides name them, else by label value.

    Args:
        names: of each side.
        found: values of each side.
        pairs: what is compared.
        mapped: whether the user gave numbers for the names of each side.

    Returns:
        What to compare of a pair (its ROIs, and the names that only one side has), and sentences for the user.
    """
    notes: list[str] = []
    _refuse_codes(found)
    named = [
        bool(side.general or side.by_case or (pairs and all(pair.in_files[number] for pair in pairs)))
        for number, side in enumerate(names)
    ]
    single = [_only_value(*item) for item in zip(names, found, named, strict=True)]
    alias: dict[int, int] = {}
    if not all(named) and None not in single and single[0] != single[1]:
        alias = {int(single[0] or 0): int(single[1] or 0)}
        notes.append(
            f"Each side has one ROI, with the value {single[0]} in the reference and {single[1]} in the "
            "prediction; "
            "they are taken to be the same."
        )
    elif not all(named):
        _refuse_strangers(found, named)
        who = (
            "Neither side names its ROIs"
            if not any(named)
            else f"The {'prediction' if named[0] else 'reference'} names no ROIs"
        )
        notes.append(f"{who}: equal label values are taken to be the same ROI.")
        for side, word, given in zip(names, ("reference", "prediction"), mapped, strict=True):
            if len(side.in_files) > 1 and not side.general and not given:
                # Nobody said these numbers: they are the order of the names.
                numbers = [f"{value} = '{name}'" for value, name in sorted(side.in_files.items())]
                notes.append(
                    f"The ROIs that the {word} names were numbered in the order of their names ({', '.join(numbers[:12])}). If the "
                    "numbers of the other side mean other ROIs, give --labels with the names in the order of these numbers."
                )

    def rois_of(pair: _Pair) -> tuple[list[_Roi], list[str]]:
        ours, theirs = (side.of(pair.name, inside) for side, inside in zip(names, pair.in_files, strict=True))
        if ours and theirs:
            by_name = {same_name(name): value for value, name in theirs.items()}
            rois = [(n, v, by_name[same_name(n)]) for v, n in sorted(ours.items()) if same_name(n) in by_name]
            both = {same_name(name) for name, _, _ in rois}
            return rois, [n for n in (*ours.values(), *theirs.values()) if same_name(n) not in both]
        back = {value: key for key, value in alias.items()}
        if ours:
            return [(name, value, alias.get(value, value)) for value, name in sorted(ours.items())], []
        if theirs:
            return [(name, back.get(value, value), value) for value, name in sorted(theirs.items())], []
        values = set(alias) if alias else found[0].values | found[1].values
        return [(f"ROI {value}", value, alias.get(value, value)) for value in sorted(values)], []

    return rois_of, notes


def _only_value(names: RoiNames, found: _Side, named: bool) -> int | None:
    """Returns the value of a side's only ROI, None where it has several."""
    values = set(names.in_files or names.general) if named else found.values
    return next(iter(values)) if len(values) == 1 and not names.by_case else None


def _refuse_codes(found: tuple[_Side, _Side]) -> None:
    """Refuses colours and planes that nobody mapped, and masks that mark what is around the ROI.

    Raises:
        DataError: with the map to give.
    """
    for side in found:
        proposed = propose_map(side.counts, side.share)
        if any(is_mark(value) for value in side.values) or (proposed or {}).get(0) == 1:
            raise DataError(
                f"{side.word}: {codes_message(side.counts, side.share, option=_option(side.word))}"
            )


def _refuse_strangers(found: tuple[_Side, _Side], named: Sequence[bool]) -> None:
    """Refuses codes on one side that the other side has none of: every comparison would say that nothing agrees.

    Raises:
        DataError: with the map to give.
    """
    for side, other, is_named in zip(found, found[::-1], named, strict=True):
        if not is_named and other.values and look_like_codes(side.values) and not side.values & other.values:
            raise DataError(
                f"{side.word}: {codes_message(side.counts, side.share, option=_option(side.word))}"
            )


def _option(word: str) -> str:
    return f"--{word}-map"


def _unmatched_notes(matching: Matching) -> list[str]:
    notes = []
    for side, missing in (("reference", matching.only_reference), ("prediction", matching.only_prediction)):
        if missing:
            other = "prediction" if side == "reference" else "reference"
            count = "1 mask" if len(missing) == 1 else f"{len(missing)} masks"
            notes.append(f"{count} of the {side} without {other}, left out: {name_list(list(missing))}.")
    return notes


def evaluation_files(path: Path) -> tuple[Path, Path]:
    """Returns the two tables of a comparison: FILE.csv and FILE_summary.csv."""
    return path, path.with_name(f"{path.stem}_summary.csv")


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
    rows, summary = evaluation_files(path)
    write_rows(rows, evaluation.rows)
    write_summary(summary, evaluation.summary)
    return [rows, summary]
