"""Fixes, carried out in a copy: the data folder as it would be right, with a log of every change.

The user's own files are only read. To add a kind of fix: write the function, add it to ``ACTIONS``, test it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.cases import Pairing, TrainingCase
from autoseg_lib.data.doctor.finding import Finding, FixAction
from autoseg_lib.data.doctor.names import NAME_FILES
from autoseg_lib.data.doctor.transforms import transformed
from autoseg_lib.data.label_map import LabelMap, apply_map, map_option
from autoseg_lib.data.manifest import ManifestRow, read_manifest
from autoseg_lib.data.scan import mask_to_source
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.errors import AutosegError, DataError, ExportError
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.io import raster
from autoseg_lib.io.csv_files import write_csv
from autoseg_lib.io.files import walk_files
from autoseg_lib.io.label_codes import code_key, code_of, codes_text, is_mark
from autoseg_lib.io.label_files import rewritten_path, write_image_again, write_label_again
from autoseg_lib.io.segments import is_segment_file
from autoseg_lib.io.volume_files import (
    all_files,
    is_volume_file,
    read_label_file,
    read_volume_file,
    stem_of,
    write_mask_file,
    write_volume_file,
)
from autoseg_lib.settings import TrainSettings

LOG_NAME = "fix_log.csv"
LEFT_OUT = "left_out"

LabelArray = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Change:
    """One line of the log.

    Attributes:
        file: the file, from the copy's folder on.
        what: what was done to it.
        before: what was there.
        after: what is there now.
        finding: code of the finding that led to it.
        sure: False where the finding rests on statistics, so that the result needs a look.
    """

    file: str
    what: str
    before: str
    after: str
    finding: str
    sure: bool = True


@dataclass(frozen=True)
class FixLog:
    """A corrected copy of a data folder.

    Attributes:
        folder: what to set main_dir to: the copy, or the manifest in it.
        changes: what is different in it.
        log_file: the same as a table.
        not_fixed: findings that nothing, or not everything, could be done about.
        failed: why some changes could not be made.
    """

    folder: Path
    changes: tuple[Change, ...]
    log_file: Path
    not_fixed: tuple[Finding, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What was done, in a sentence or two."""
        count = "1 change" if len(self.changes) == 1 else f"{len(self.changes)} changes"
        unsure = sum(not change.sure for change in self.changes)
        look = f" {unsure} of them rest on statistics: please look at them." if unsure else ""
        return f"A corrected copy is in '{self.folder}' ({count}, listed in {self.log_file.name}).{look}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the log as plain values for ``--json``."""
        return {
            "folder": str(self.folder),
            "changes": [asdict(change) for change in self.changes],
            "not_fixed": [finding.to_dict() for finding in self.not_fixed],
            "failed": list(self.failed),
        }


def apply_fixes(
    findings: Sequence[Finding],
    settings: TrainSettings,
    pairing: Pairing,
    out_dir: Path,
    on_event: Listener = nobody,
) -> FixLog:
    """Writes a copy of the data folder (or of all that a manifest lists) with the fixes of ``findings``.

    Args:
        findings: what is to be put right; those without a fix are listed.
        settings: as the findings were made with; ``main_dir`` names the folder.
        pairing: as the findings were made with.
        out_dir: a new or empty folder, neither inside the data nor around them.
        on_event: hears the progress.

    Raises:
        ExportError: ``out_dir`` is not free, or cannot be written.
    """
    data = Path(settings.main_dir).expanduser()
    rows = read_manifest(data) if data.is_file() else []
    require_free(out_dir, [data] if data.is_dir() else [p for r in rows for p in (r.image, r.label) if p])
    try:
        copy = _Copy(data, rows, without_dots(out_dir), settings, pairing)
        copy.make(on_event)
    except OSError as error:
        file = f" of '{Path(os.fsdecode(error.filename)).name}'" if error.filename else ""
        raise ExportError(
            f"'{out_dir}': the copy{file} cannot be written ({error.strerror or error}). Delete what is there of it, then choose another "
            "folder, or make room."
        ) from None
    tasks = [
        (finding, action) for finding in findings if finding.fix is not None for action in finding.fix.actions
    ]
    tasks.sort(key=lambda task: _ORDER.index(task[1].kind) if task[1].kind in _ORDER else len(_ORDER))
    leaving = {_key(file) for _, action in tasks if action.kind == "leave_out" for file in action.files}
    failed: list[str] = []
    unfinished: set[int] = set()
    for number, (finding, action) in enumerate(tasks):
        on_event(Progress("Corrected copy: changes", number, len(tasks)))
        if action.kind in _SINGLY:  # what is left out needs no change; the other files of the action do
            staying = tuple(file for file in action.files if _key(file) not in leaving)
            if not staying:
                continue
            action = replace(action, files=staying)
        copy.finding = finding
        try:
            ACTIONS[action.kind](copy, action)
        except OSError as error:
            # A half-written label must not be taken for a right one.
            raise ExportError(
                f"'{out_dir}': the copy cannot be finished ({error.strerror or error}). Delete it, then choose another folder, or "
                "make room."
            ) from None
        except (AutosegError, KeyError, ValueError) as error:
            failed.append(str(error))
            unfinished.add(id(finding))
    on_event(Progress("Corrected copy: changes", len(tasks), len(tasks)))
    folder = copy.write_manifest() if rows else copy.out
    log_file = copy.out / LOG_NAME
    header = ("file", "what", "before", "after", "finding", "please look")
    write_csv(
        log_file,
        header,
        [(c.file, c.what, c.before, c.after, c.finding, "" if c.sure else "yes") for c in copy.changes],
    )
    open_findings = tuple(
        f for f in findings if f.severity != "fine" and (f.fix is None or id(f) in unfinished)
    )
    return FixLog(folder, tuple(copy.changes), log_file, open_findings, tuple(dict.fromkeys(failed)))


def require_free(out_dir: Path, data: Sequence[Path]) -> None:
    """Refuses a folder that holds something, or that lies inside the data or around them.

    Raises:
        ExportError: it is not free.
    """
    out = out_dir.expanduser().resolve()
    for path in data:
        place = path.resolve()
        if out == place or out.is_relative_to(place) or place.is_relative_to(out):
            raise ExportError(
                f"'{out_dir}': it lies inside the data folder, or around it. Choose a folder beside it, e.g. "
                f"'{place.with_name(place.name.split('.')[0] + '_corrected')}'."
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(
            f"'{out_dir}': it is there already and not empty. Choose a new folder; nothing is overwritten."
        )


def without_dots(path: Path) -> Path:
    """Returns a path from the root on, without ".." in it; links stay what they are where there is none."""
    path = path.expanduser()
    return path.resolve() if ".." in path.parts else path.absolute()


def _key(path: Path) -> str:
    # Not resolved: links keep the place at which the user put them.
    return os.path.normpath(path.expanduser().absolute())


@dataclass
class _Copy:
    """The copy while it is being made."""

    data: Path
    rows: Sequence[ManifestRow]
    out: Path
    settings: TrainSettings
    pairing: Pairing
    changes: list[Change] = field(default_factory=list)
    finding: Finding | None = None
    _places: dict[str, Path] = field(default_factory=dict)
    _edited: set[str] = field(default_factory=set)
    maps: dict[str, list[LabelMap]] = field(default_factory=dict)

    def make(self, on_event: Listener) -> None:
        """Copies every file."""
        wanted = self._manifest_files() if self.rows else self._folder_files()
        self.out.mkdir(parents=True, exist_ok=True)
        for number, (file, place) in enumerate(wanted):
            on_event(Progress("Corrected copy: files", number, len(wanted), file.name))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
            self._places[_key(file)] = place
        if self.rows:
            for name in NAME_FILES:  # the ROIs' names lie beside a manifest
                if (self.data.parent / name).is_file() and not (self.out / name).exists():
                    shutil.copyfile(self.data.parent / name, self.out / name)
        on_event(Progress("Corrected copy: files", len(wanted), len(wanted)))

    def _folder_files(self) -> list[tuple[Path, Path]]:
        return [
            (file, self.out / file.relative_to(self.data))
            for file in walk_files(self.data, include_junk=True)
        ]

    def _manifest_files(self) -> list[tuple[Path, Path]]:
        found: dict[str, tuple[Path, Path]] = {}
        for row in self.rows:
            for path in (row.image, row.label):
                if path is None:
                    continue
                place = self._manifest_place(path)
                if path.is_dir():
                    for file in walk_files(path, include_junk=True):
                        found[_key(file)] = (file, place / file.relative_to(path))
                else:
                    for file in all_files(path) if is_volume_file(path) else (path,):
                        found[_key(file)] = (file, place.with_name(file.name) if file != path else place)
        return list(found.values())

    def _manifest_place(self, path: Path) -> Path:
        """Where a file or folder that the manifest names goes: below the copy as it lies below the manifest."""
        root, place = Path(_key(self.data.parent)), Path(_key(path))
        if place.is_relative_to(root):
            return self.out / place.relative_to(root)
        return self.out.joinpath("elsewhere", *place.parts[1:])

    def write_manifest(self) -> Path:
        """Writes the manifest of what is left; returns it."""
        rows = []
        for row in self.rows:
            image = self._what_is_left(row.image)
            label = None if row.label is None else self._what_is_left(row.label)
            if image is None or (row.label is not None and label is None):
                continue
            rows.append((self.name(image), self.name(label) if label else "", row.case, row.patient))
        path = self.out / self.data.name
        write_csv(path, ("image", "label", "case", "patient"), rows)
        return path

    def _what_is_left(self, path: Path) -> Path | None:
        """Where a file or folder that the manifest names lies in the copy; None where all of it was left out."""
        if not path.is_dir():
            return self._places.get(_key(path))
        place = self._manifest_place(path)
        return place if place.is_dir() and next(walk_files(place), None) is not None else None

    # --- for the actions ----------------------------------------------------------------------------------------------

    def has(self, file: Path) -> bool:
        """Whether a file of the data is still in the copy."""
        return _key(file) in self._places

    def place(self, file: Path) -> Path:
        """Returns where a file of the data lies in the copy.

        Raises:
            DataError: it is not there (any more).
        """
        place = self._places.get(_key(file))
        if place is None:
            raise DataError(f"'{file.name}': it is not in the copy any more.")
        return place

    def name(self, place: Path) -> str:
        """Returns the name of a file of the copy from its folder on."""
        return place.relative_to(self.out).as_posix()

    def moved(self, file: Path, target: Path) -> None:
        """Moves a file within the copy."""
        place = self.place(file)
        # Where upper and lower case are one, a name that differs in case only is the file itself.
        if target.exists() and not target.samefile(place):
            raise DataError(
                f"'{file.name}': there is a file '{self.name(target)}' already, so it was not renamed."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        place.replace(target)
        self._places[_key(file)] = target

    def gone(self, file: Path) -> None:
        """Forgets a file."""
        self._places.pop(_key(file), None)

    def written(self, file: Path, place: Path) -> None:
        """Notes that a file now lies at ``place`` (another suffix)."""
        old = self.place(file)
        if old != place:
            old.unlink(missing_ok=True)
        self._places[_key(file)] = place

    def once(self, *files: Path) -> None:
        """Lets each label be turned, shifted or changed for another once only: a second guess would undo the first.

        Raises:
            DataError: one of them was changed before.
        """
        for file in files:
            if _key(file) in self._edited:
                raise DataError(
                    f"'{file.name}': it was changed for another finding already; check the copy again."
                )
        self._edited.update(_key(file) for file in files)

    def log(self, place: Path | str, what: str, before: str, after: str) -> None:
        """Adds a line to the log."""
        name = place if isinstance(place, str) else self.name(place)
        finding = self.finding
        sure = finding is None or finding.fix is None or finding.fix.sure
        self.changes.append(Change(name, what, before, after, finding.code if finding else "", sure))

    def case_of(self, label: Path) -> TrainingCase:
        """Returns the case that a label file belongs to.

        Raises:
            DataError: there is none.
        """
        case = self._owners.get(label)
        if case is None:
            raise DataError(f"'{label.name}': it belongs to no scan.")
        return case

    @cached_property
    def _owners(self) -> dict[Path, TrainingCase]:
        owners: dict[Path, TrainingCase] = {}
        for case in self.pairing.cases:
            for label in case.labels:
                owners.setdefault(label, case)
        return owners

    def image_of(self, label: Path) -> Path:
        """Returns the image file of a slice's label."""
        case = self.case_of(label)
        return case.source.files[case.label_files.index(label)] if case.label_files else case.source.files[0]


# --- the kinds of fixes -----------------------------------------------------------------------------------------------


def _leave_out(copy: _Copy, action: FixAction) -> None:
    reason = str(action.parameters.get("reason", ""))
    for file in action.files:
        if not copy.has(file):
            continue  # two findings may leave out one file
        place = copy.place(file)
        before = copy.name(place)
        target = copy.out / LEFT_OUT / before
        target.parent.mkdir(parents=True, exist_ok=True)
        place.replace(target)
        copy.gone(file)
        copy.log(before, f"left out: {reason}", before, copy.name(target))


def _rename(copy: _Copy, action: FixAction) -> None:
    (file,) = action.files
    before = copy.name(copy.place(file))
    target = copy.out / Path(_key(Path(action.parameters["to"]))).relative_to(_key(copy.data))
    copy.moved(file, target)
    copy.log(target, "renamed", before, copy.name(target))


def _map_values(copy: _Copy, action: FixAction) -> None:
    mapping = _stored_map(action.parameters["map"], copy.settings.label_map or {})
    for file in action.files:
        values: dict[str, str] = {}

        def change(array: LabelArray, values: dict[str, str] = values) -> LabelArray:
            result = apply_map(array, mapping)
            values["before"] = codes_text(np.unique(array).tolist())
            values["after"] = codes_text(np.unique(result).tolist())
            return result

        if _edit(copy, file, change):
            copy.maps.setdefault(_key(file), []).append(mapping)
            copy.log(
                copy.place(file), f"values mapped ({map_option(mapping)})", values["before"], values["after"]
            )


def _stored_map(mapping: LabelMap, label_map: LabelMap) -> LabelMap:
    """Returns a map of values as they are read for the values as they are stored, where label_map stands between the two.

    label_map goes on to hold in the copy, so what is written are its codes.

    Raises:
        DataError: label_map has no code that would be read as the right number.
    """
    numbers = {code: number for key, number in label_map.items() if (code := code_of(key)) is not None}
    # Colours and planes are not written: a label that is changed is written with numbers.
    code_for = {number: code for code, number in reversed(numbers.items()) if not is_mark(code)}

    def stored(number: int) -> int:
        if number not in code_for and number in numbers:
            raise DataError(
                f"label_map reads {number} as {numbers[number]} and nothing as {number}, so that no label can be given the value "
                f"{number}. Complete label_map."
            )
        return code_for.get(number, number)

    wanted = {code_of(key): number for key, number in mapping.items()}
    result: dict[int | str, int] = {
        code_key(code): stored(wanted[number]) for code, number in numbers.items() if number in wanted
    }
    result.update({key: stored(number) for key, number in mapping.items() if code_of(key) not in numbers})
    return result


def _transform(copy: _Copy, action: FixAction) -> None:
    name = str(action.parameters["transform"])
    chosen = action.parameters.get("slices")
    copy.once(*action.files)
    for file in action.files:
        if copy.case_of(file).label_volume is None:
            changed = _edit(copy, file, partial(_turned_slices, name=name, chosen=None, file=file))
        else:
            changed = _edit_loaded(copy, file, partial(_turned_slices, name=name, chosen=chosen, file=file))
        if changed:
            where = "" if chosen is None else f" (slices {', '.join(str(i + 1) for i in list(chosen)[:10])})"
            copy.log(copy.place(file), f"label turned{where}", "as stored", name)


def _turned_slices(array: LabelArray, *, name: str, chosen: Sequence[int] | None, file: Path) -> LabelArray:
    if chosen is None:
        return _same_shape(array, transformed(array, name), file)
    result = array.copy()
    for index in chosen:
        result[index] = _same_shape(array[index], transformed(array[index], name), file)
    return result


def _same_shape(before: LabelArray, after: LabelArray, file: Path) -> LabelArray:
    if before.shape != after.shape:
        raise DataError(
            f"label '{file.name}': turned, it would have another number of rows and columns than its image."
        )
    return after


def _shift(copy: _Copy, action: FixAction) -> None:
    step = int(action.parameters["slices"])
    copy.once(*action.files)
    text = f"labels moved by {step:+d} slice{'s' if abs(step) != 1 else ''}"
    if len(action.files) == 1 and copy.case_of(action.files[0]).label_volume is not None:
        (file,) = action.files
        if _edit_loaded(copy, file, lambda array: _moved(array, step)):
            copy.log(copy.place(file), text, "as stored", "moved; slices without a label are empty")
        return
    places = [copy.place(file) for file in action.files]
    contents = [(place.read_bytes(), place.suffix) for place in places]
    lonely = []
    for index, file in enumerate(action.files):
        source = index - step
        if not 0 <= source < len(places):
            lonely.append(file)
            continue
        data, suffix = contents[source]
        target = places[index].with_suffix(suffix)
        target.write_bytes(data)
        copy.written(file, target)
        copy.log(target, text, places[index].name, f"what was in {places[source].name}")
    reason = "its label would come from beyond the end of the scan"
    _leave_out(
        copy,
        FixAction("leave_out", tuple(f for x in lonely for f in (copy.image_of(x), x)), {"reason": reason}),
    )


def _moved(array: LabelArray, step: int) -> LabelArray:
    result = np.zeros_like(array)
    if step > 0:
        result[step:] = array[:-step]
    elif step < 0:
        result[:step] = array[-step:]
    else:
        result[:] = array
    return result


def _swap(copy: _Copy, action: FixAction) -> None:
    first, second = action.files
    copy.once(first, second)
    ours, theirs = copy.place(first), copy.place(second)
    data, other = ours.read_bytes(), theirs.read_bytes()
    for file, place, content, suffix_of in ((first, ours, other, theirs), (second, theirs, data, ours)):
        target = place.with_name(stem_of(place) + suffix_of.name[len(stem_of(suffix_of)) :])
        target.write_bytes(content)
        copy.written(file, target)
    copy.log(copy.place(first), "changed places", ours.name, f"what was in {copy.name(theirs)}")
    copy.log(copy.place(second), "changed places", theirs.name, f"what was in {copy.name(ours)}")


def _resample(copy: _Copy, action: FixAction) -> None:
    for file in action.files:
        if _edit_loaded(copy, file, lambda array: array):
            copy.log(copy.place(file), "put onto its image's grid", "another grid", "nearest label values")


def _clear_nan(copy: _Copy, action: FixAction) -> None:
    for file in action.files:
        _edit_image(copy, file, _without_nan)
        copy.log(
            copy.place(file),
            "pixels without a number replaced",
            "NaN or infinite",
            "the smallest number in it",
        )


def _without_nan(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite = np.isfinite(array)
    return np.where(finite, array, array[finite].min() if finite.any() else 0).astype(array.dtype)


def _invert(copy: _Copy, action: FixAction) -> None:
    for file in action.files:
        _edit_image(copy, file, _negative)
        copy.log(copy.place(file), "contrast inverted", "as stored", "darkest and brightest changed")


def _negative(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = array.min(), array.max()
    # Written so that unsigned numbers never fall below 0 on the way.
    return (high - (array - low)).astype(array.dtype)


ACTIONS: dict[str, Callable[[_Copy, FixAction], None]] = {
    "swap_image_label": _swap,
    "map_values": _map_values,
    "resample": _resample,
    "clear_nan": _clear_nan,
    "invert": _invert,
    "transform": _transform,
    "swap_labels": _swap,
    "shift": _shift,
    "rename": _rename,
    "leave_out": _leave_out,
}

# Kinds that change each of their files by itself.
_SINGLY = frozenset({"map_values", "resample", "clear_nan", "invert", "transform", "rename"})

# Contents before names, and leaving out last: later steps still find the files by the names they had.
_ORDER = tuple(ACTIONS)


# --- changing files ---------------------------------------------------------------------------------------------------


def _edit(copy: _Copy, file: Path, change: Callable[[LabelArray], LabelArray]) -> bool:
    """Changes the stored values of a label file; returns whether it is different now."""
    place = copy.place(file)
    if is_segment_file(place):
        raise DataError(
            f"label '{place.name}': its ROIs have names, and its contents are not changed by this program."
        )
    if is_volume_file(place):
        mask = read_label_file(place)
        result = change(mask.array)
        if np.array_equal(result, mask.array):
            return False
        write_mask_file(place, mask.with_array(result))
        return True
    stack = copy.case_of(file).label_volume is not None
    count = copy.settings.num_labels if isinstance(copy.settings.num_labels, int) else None
    before = raster.read_label_stack(place) if stack else raster.read_label(place, count).array
    after = change(before)
    if np.array_equal(before, after):
        return False
    target = rewritten_path(place)
    write_label_again(target, after)
    copy.written(file, target)
    return True


def _edit_loaded(copy: _Copy, file: Path, change: Callable[[LabelArray], LabelArray]) -> bool:
    """Changes a label volume as it is seen when its scan is loaded (slices first), and writes it on the scan's own grid."""
    place = copy.place(file)
    if not is_volume_file(place) or is_segment_file(place):
        raise DataError(f"label '{place.name}': files of this kind are not changed by this program.")
    # As stored: label_map goes on to hold in the copy.
    scan, mask, _ = load_training_case(copy.case_of(file), replace(copy.settings, label_map=None))
    array = mask.array
    for mapping in copy.maps.get(_key(file), []):  # what is loaded are the user's own files, as they were
        array = apply_map(array, mapping)
    write_mask_file(place, mask_to_source(mask.with_array(change(array)), scan))
    return True


def _edit_image(copy: _Copy, file: Path, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    place = copy.place(file)
    if is_volume_file(place):
        volume = read_volume_file(place)
        write_volume_file(place, volume.with_array(change(volume.array)))
        return
    if place.suffix.lower() not in raster.IMAGE_SUFFIXES:
        raise DataError(f"image '{place.name}': DICOM files are never changed.")
    target = rewritten_path(place)
    write_image_again(target, change(raster.read_image(place)))
    copy.written(file, target)
