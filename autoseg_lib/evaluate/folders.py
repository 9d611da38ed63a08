"""Compares two folders of masks: find pairs, read each once, decide which ROIs go together, compare."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.data.label_names import has_names
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.evaluate.compare import RoiPair, compare_masks
from autoseg_lib.evaluate.match import MaskFolder, find_masks
from autoseg_lib.evaluate.names import RoiNames, RunMemory, find_names, read_run_memory, with_files
from autoseg_lib.evaluate.overlapping import one_by_one, said_as_a_whole, tells_overlap
from autoseg_lib.evaluate.pairs import MaskPair, Rules, find_pairs
from autoseg_lib.evaluate.result import Evaluation
from autoseg_lib.evaluate.rois import Side, choose_rois
from autoseg_lib.evaluate.table import EvaluationRow, summarise
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.volume import Mask

# Degrees; below this the shift from one slice to the next is less than a hundredth of their distance.
_TILT_WORTH_SAYING = 0.5


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
    names, rules = _names_and_rules((reference, prediction), sides, maps, labels)
    memory = {**read_run_memory(sides[0].path), **read_run_memory(sides[1].path)}
    pairs, notes = find_pairs(sides, images, memory)
    reading = _read_all(pairs, rules, on_event)
    rois_of, told = choose_rois(
        names,
        reading.found,
        [one.pair for one in reading.loaded],
        (has_names(maps[0]), has_names(maps[1])),
    )
    notes += told
    rows: list[EvaluationRow] = []
    left_out: dict[str, None] = {}
    for number, one in enumerate(reading.loaded):
        on_event(Progress("Comparing", number, len(reading.loaded), one.pair.name))
        rois, alone = rois_of(one.pair)
        left_out.update(dict.fromkeys(alone))
        more, said = _compared(one, rois, rules)
        rows += more
        notes += [
            *_tilt_note(one.pair, memory),
            *(f"'{one.pair.name}': {text.rstrip('.')}." for text in said),
        ]
    on_event(Progress("Comparing", len(reading.loaded), len(reading.loaded)))
    if left_out:
        notes.append(f"ROIs that only one side names are not compared: {name_list(list(left_out), 10)}.")
    failures = reading.failures
    if not rows:
        reason = failures[0][1] if failures else "the two sides name no ROI in common."
        raise DataError(f"nothing could be compared: {reason}")
    return Evaluation(tuple(rows), tuple(summarise(rows)), tuple(dict.fromkeys(notes)), tuple(failures))


def _names_and_rules(
    paths: tuple[Path, Path],
    sides: tuple[MaskFolder, MaskFolder],
    maps: tuple[LabelMap | None, LabelMap | None],
    labels: Sequence[str] | None,
) -> tuple[tuple[RoiNames, RoiNames], Rules]:
    """Returns how each side names its ROIs, and how codes and names become numbers."""
    tables = [
        with_files(
            find_names(path if path.is_dir() else path.parent),
            [name for file in side.named.values() for name in file.names],
            labels,
            label_map,
        )
        for path, side, label_map in zip(paths, sides, maps, strict=True)
    ]
    # JPG labels can be told apart only where the number of ROIs is known.
    count = len(labels) if labels else None
    first, second = (
        LabelRules(label_map=label_map or {}, roi_values=table[1], num_labels=count)
        for label_map, table in zip(maps, tables, strict=True)
    )
    return (tables[0][0], tables[1][0]), (first, second)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Loaded:
    """A pair that was read. Label values pack well, so hundreds of scans wait in little memory until they are compared.

    Attributes:
        pair: what it is.
        packed: reference and prediction.
        dtypes: of both.
        geometry: their grid.
        said: sentences for the user.
    """

    pair: MaskPair
    packed: tuple[bytes, bytes] = field(repr=False)
    dtypes: tuple[str, str]
    geometry: Geometry
    said: tuple[str, ...]

    @classmethod
    def of(cls, pair: MaskPair, ours: Mask, theirs: Mask, said: tuple[str, ...]) -> _Loaded:
        arrays = ours.array, theirs.array
        return cls(
            pair,
            (zlib.compress(arrays[0].tobytes(), 1), zlib.compress(arrays[1].tobytes(), 1)),
            (str(arrays[0].dtype), str(arrays[1].dtype)),
            ours.geometry,
            said,
        )

    def masks(self) -> tuple[Mask, Mask]:
        first, second = (
            Mask(np.frombuffer(zlib.decompress(data), dtype).reshape(self.geometry.shape_zyx), self.geometry)
            for data, dtype in zip(self.packed, self.dtypes, strict=True)
        )
        return first, second


@dataclass
class _Reading:
    """All pairs that could be read, the values found on each side, and why others could not."""

    loaded: list[_Loaded] = field(default_factory=list)
    found: tuple[Side, Side] = field(default_factory=lambda: (Side("reference"), Side("prediction")))
    failures: list[tuple[str, str]] = field(default_factory=list)


def _read_all(pairs: Sequence[MaskPair], rules: Rules, on_event: Listener) -> _Reading:
    reading = _Reading()
    for number, pair in enumerate(pairs):
        on_event(Progress("Reading", number, len(pairs), pair.name))
        try:
            ours, theirs, said = pair.load(rules)
        except AutosegError as error:
            reading.failures.append((pair.name, str(error)))
            continue
        for side, mask, in_file in zip(reading.found, (ours, theirs), pair.in_files, strict=True):
            if not in_file:
                values, counts = np.unique(mask.array, return_counts=True)
                side.counts.update(Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))))
        reading.loaded.append(_Loaded.of(pair, ours, theirs, said))
    return reading


# --- comparing --------------------------------------------------------------------------------------------------------


def _compared(one: _Loaded, rois: list[RoiPair], rules: Rules) -> tuple[list[EvaluationRow], tuple[str, ...]]:
    pair = one.pair
    if not tells_overlap(one.said):
        return compare_masks(*one.masks(), rois, pair.name), one.said
    rows: list[EvaluationRow] = []
    for number, loaded in one_by_one(pair.load, range(len(rois)), _only(pair, rois, rules)):
        rows += compare_masks(*loaded[:2], [rois[number]], pair.name)
    return rows, said_as_a_whole(one.said, "compared")


def _only(pair: MaskPair, rois: list[RoiPair], rules: Rules) -> Callable[[int], Rules]:
    """Returns number of the ROI → rules that paint it alone, in files that name their ROIs."""

    def only(number: int) -> Rules:
        first, second = (
            rule.only(value) if inside else rule
            for rule, value, inside in zip(rules, rois[number][1:], pair.in_files, strict=True)
        )
        return first, second

    return only


def _tilt_note(pair: MaskPair, memory: dict[str, RunMemory]) -> list[str]:
    tilt = memory[pair.name].tilt_degrees if pair.by_name and pair.name in memory else 0.0
    if tilt <= _TILT_WORTH_SAYING or pair.by_name is None or not pair.by_name.is_slices:
        return []
    return [
        f"'{pair.name}': its slices are tilted by {tilt:.1f}°; distances between the surfaces are measured as if "
        "they were not. Areas and volumes are not affected."
    ]
