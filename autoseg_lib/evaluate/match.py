"""Which mask of one folder goes with which of another: by case and slice name, never by order.

One folder holds, for a case NAME: ``NAME.nii.gz`` (or another volume), ``NAME/segmentation.nii.gz``, a folder
``NAME`` or
``NAME/masks`` of slices, or lone slices ``NAME.png`` (in the folder itself or in ``masks``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from autoseg_lib.data.cases import TrainingCase
from autoseg_lib.data.label_names import NamedFile, look_into
from autoseg_lib.data.naming import image_stem
from autoseg_lib.data.pairing import pair
from autoseg_lib.data.whole_labels import holds_names, is_whole
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.io.files import natural_key, same_text
from autoseg_lib.io.raster import LABEL_SUFFIXES
from autoseg_lib.io.volume_files import is_volume_file, stem_of
from autoseg_lib.settings import TrainSettings

SEGMENTATION = "segmentation"

# Folders of a case that hold pictures to look at, not masks.
_NOT_MASKS = {"overlays"}

# Issues of pairing that are about labels_list.
_ABOUT_NAMES = ("mixed_labels", "roi_names")

# One slice may lie there as PNG and NPY: the first of these is taken.
_PREFERENCE = (".npy", ".png", ".tif", ".tiff", ".jpg", ".jpeg")


@dataclass(frozen=True)
class MaskCase:
    """The masks of one case in one folder.

    Attributes:
        name: the case.
        volume: file with the whole mask (volume, RTSTRUCT, DICOM SEG, 3D Slicer's, stack of pages), or None.
        slices: slice name → file, in natural order; empty where there are none.
    """

    name: str
    volume: Path | None = None
    slices: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskFolder:
    """Everything that one folder holds.

    Attributes:
        path: the folder.
        cases: case name → masks.
        loose: lone slices: name → file.
        scans: for a manifest: case name → the scan with its mask, as the manifest says.
        is_single: whether the user named one file.
    """

    path: Path
    cases: dict[str, MaskCase]
    loose: dict[str, Path]
    scans: dict[str, TrainingCase] = field(default_factory=dict)
    is_single: bool = False

    @cached_property
    def named(self) -> dict[Path, NamedFile]:
        """What the files with named ROIs say of themselves."""
        files = [case.volume for case in self.cases.values() if case.volume]
        files += [case.label_volume for case in self.scans.values() if case.label_volume]
        return {file: look_into(file) for file in files if holds_names(file)}

    def without(self, files: set[Path]) -> MaskFolder:
        """Returns the same without the cases and slices that ``files`` belong to."""
        cases = {
            name: case
            for name, case in self.cases.items()
            if not files & {*case.slices.values(), *([case.volume] if case.volume else [])}
        }
        loose = {name: path for name, path in self.loose.items() if path not in files}
        return replace(self, cases=cases, loose=loose, scans={})


@dataclass(frozen=True)
class MatchedCase:
    """A case that both folders hold: two volumes, the slices that both have, or slices and a volume.

    Attributes:
        name: the case.
        reference: volume file, or slice name → file.
        prediction: likewise; one side may be a volume and the other slices.
        note: slices without partner, "" where all have one.
    """

    name: str
    reference: Path | dict[str, Path]
    prediction: Path | dict[str, Path]
    note: str = ""

    @property
    def is_slices(self) -> bool:
        """Whether both sides are slices."""
        return isinstance(self.reference, dict) and isinstance(self.prediction, dict)


@dataclass(frozen=True)
class Matching:
    """Result of matching two folders.

    Attributes:
        cases: what belongs together.
        only_reference, only_prediction: what has no partner.
        notes: sentences on slices whose name does not say whose they are.
    """

    cases: tuple[MatchedCase, ...]
    only_reference: tuple[str, ...]
    only_prediction: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find_masks(path: Path) -> MaskFolder:
    """Lists the masks of a folder, a single file, or a CSV manifest (columns image, label).

    Raises:
        DataError: it does not exist or holds no masks.
    """
    if not path.exists():
        raise DataError(f"'{path}': not found. Give a folder of masks, one file, or a CSV manifest.")
    if path.is_dir():
        return _masks_in(path)
    if path.suffix.lower() == ".csv":
        return _masks_listed(path)
    if is_whole(path, 2):
        name = same_text(image_stem(path))
        return MaskFolder(path.parent, {name: MaskCase(name, path)}, {}, is_single=True)
    if path.suffix.lower() in LABEL_SUFFIXES:
        return MaskFolder(path.parent, {}, {same_text(path.stem): path}, is_single=True)
    raise DataError(
        f"'{path.name}': found no mask. Expected .nii.gz, .nrrd, .mha, .png, .npy, .tif, an RTSTRUCT or a DICOM SEG."
    )


def _masks_listed(path: Path) -> MaskFolder:
    """Returns what a manifest lists: each scan with its mask."""
    found = pair(TrainSettings(main_dir=str(path)))
    # Which number is which name is for the caller to say, not for the settings of training.
    errors = [
        issue.text for issue in found.issues if issue.severity == "error" and issue.code not in _ABOUT_NAMES
    ]
    if errors:
        raise DataError("\n".join(errors))
    return MaskFolder(path.parent, {}, {}, {case.name: case for case in found.cases})


def _masks_in(folder: Path) -> MaskFolder:
    cases: dict[str, MaskCase] = {}
    loose = slice_files(folder)
    for path in _entries(folder):
        if path.is_file() and _is_whole_file(path):
            name = same_text(image_stem(path))
            loose.pop(name, None)
            cases[name] = MaskCase(name, path, cases[name].slices if name in cases else {})
        elif path.is_dir() and path.name == "masks":
            loose = {**slice_files(path), **loose}
        elif path.is_dir() and path.name not in _NOT_MASKS:
            found = mask_case(path)
            if found:
                volume = cases[found.name].volume if found.name in cases else None
                cases[found.name] = MaskCase(found.name, volume or found.volume, found.slices)
            else:
                cases |= _several(path)
    if not cases and not loose:
        raise DataError(
            f"'{folder}': found no masks. Expected volumes (NAME.nii.gz, .nrrd, .mha), RTSTRUCT or DICOM SEG files, folders "
            "of slices, or slices (.png, .npy)."
        )
    return MaskFolder(folder, cases, loose)


def mask_case(folder: Path) -> MaskCase | None:
    """Returns the masks in the folder of one case, None where there are none."""
    files = [path for path in _entries(folder) if path.is_file()]
    volumes = [path for path in files if is_volume_file(path)] or [
        path for path in files if _is_whole_file(path)
    ]
    named = [path for path in volumes if stem_of(path) == SEGMENTATION]
    volume = named[0] if named else volumes[0] if len(volumes) == 1 else None
    masks = folder / "masks"
    slices = slice_files(masks) if masks.is_dir() else slice_files(folder)
    if volume is not None:
        slices.pop(same_text(volume.stem), None)
    return MaskCase(same_text(folder.name), volume, slices) if volume or slices else None


def _several(folder: Path) -> dict[str, MaskCase]:
    """Returns the files with named ROIs in a folder that holds several: each is a case of its own."""
    files = [path for path in _entries(folder) if path.is_file() and holds_names(path)]
    names = [same_text(f"{folder.name}_{image_stem(path)}") for path in files]
    return {name: MaskCase(name, path) for name, path in zip(names, files, strict=True)}


def _is_whole_file(path: Path) -> bool:
    return is_whole(path, 2)


def slice_files(folder: Path) -> dict[str, Path]:
    """Returns slice name → file of the slices in a folder (not below it), in natural order."""
    found: dict[str, Path] = {}
    for path in _entries(folder):
        suffix = path.suffix.lower()
        if not path.is_file() or suffix not in LABEL_SUFFIXES:
            continue
        name = same_text(path.stem)
        other = found.get(name)
        if other is None or _PREFERENCE.index(suffix) < _PREFERENCE.index(other.suffix.lower()):
            found[name] = path
    return found


def match(reference: MaskFolder, prediction: MaskFolder) -> Matching:
    """Matches the masks of two folders by case and slice name.

    Raises:
        DataError: nothing matches.
    """
    if reference.is_single and prediction.is_single:
        return Matching((_two_files(reference, prediction),), (), ())
    matched: list[MatchedCase] = []
    used_reference: set[str] = set()
    used_prediction: set[str] = set()
    lone = _telling(prediction.loose, reference)
    for name, ours in reference.cases.items():
        theirs = prediction.cases.get(name)
        pair = _pair(name, ours, theirs) if theirs else None
        if pair is None and not ours.volume and lone:
            pair = _pair(name, ours, MaskCase(name, None, _only(lone, ours.slices)))
            used_prediction |= set(pair.prediction) if pair and isinstance(pair.prediction, dict) else set()
        if pair:
            matched.append(pair)
            used_reference.add(name)
            used_prediction.add(name)
    left_loose = dict(reference.loose)
    telling = _telling(left_loose, prediction)
    for name, theirs in prediction.cases.items():
        if name in used_prediction or not telling:
            continue
        pair = _pair(name, MaskCase(name, None, _only(telling, theirs.slices)), theirs)
        if pair and isinstance(pair.reference, dict):
            matched.append(pair)
            used_prediction.add(name)
            for slice_name in pair.reference:
                left_loose.pop(slice_name)
    for name in list(left_loose):
        if name in prediction.loose:
            matched.append(MatchedCase(name, {name: left_loose.pop(name)}, {name: prediction.loose[name]}))
            used_prediction.add(name)
    only_prediction = [name for name in (*prediction.cases, *prediction.loose) if name not in used_prediction]
    notes = (
        *_unclear_notes("reference", left_loose, prediction),
        *_unclear_notes("prediction", only_prediction, reference),
    )
    if not matched:
        raise DataError(
            f"nothing matches: '{reference.path}' holds {_what(reference)}, '{prediction.path}' holds "
            f"{_what(prediction)}. {' '.join(notes) or _SAME_NAME}"
        )
    return Matching(
        tuple(matched),
        (*(name for name in reference.cases if name not in used_reference), *left_loose),
        tuple(only_prediction),
        notes,
    )


_SAME_NAME = "Masks of the same scan need the same name in both folders."


def _uses(other: MaskFolder) -> Counter[str]:
    """Returns slice name → in how many cases of a folder it occurs."""
    return Counter(name for case in other.cases.values() for name in case.slices)


def _telling(loose: dict[str, Path], other: MaskFolder) -> dict[str, Path]:
    """Returns the lone slices whose names say which case of the other folder they belong to: those that one case uses.

    A slice name that several cases use (slice_0001 ...) does not say which case is meant.
    """
    uses = _uses(other)
    return {name: path for name, path in loose.items() if uses[name] == 1}


def _unclear_notes(side: str, left: Iterable[str], other: MaskFolder) -> list[str]:
    """Returns the sentence on lone slices of one side that were left out because several cases have their name."""
    uses = _uses(other)
    unclear = [name for name in left if uses[name] > 1]
    if not unclear:
        return []
    whose = [name for name, case in other.cases.items() if case.slices.keys() & set(unclear)]
    count = "1 slice" if len(unclear) == 1 else f"{len(unclear)} slices"
    return [
        f"{count} of the {side} ({name_list(unclear, 3)}) could belong to several scans of the other folder "
        f"({name_list(whose, 3)}), which all have slices of these names, and were left out. Put the slices of each scan into "
        "a folder of the scan's name."
    ]


def _two_files(reference: MaskFolder, prediction: MaskFolder) -> MatchedCase:
    """Two files that the user named belong together, whatever their names."""
    ours, theirs = (
        next(iter(case.volume for case in side.cases.values()), None) or dict(side.loose)
        for side in (reference, prediction)
    )
    name = next(iter((*reference.cases, *reference.loose)))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        theirs = {name: next(iter(theirs.values()))}
    return MatchedCase(name, ours, theirs)


def _pair(name: str, ours: MaskCase, theirs: MaskCase) -> MatchedCase | None:
    # Slices are compared with slices where both have them: no axis has to be turned.
    common = [slice_name for slice_name in ours.slices if slice_name in theirs.slices]
    if common:
        note = ""
        alone = [n for n in (*ours.slices, *theirs.slices) if not (n in ours.slices and n in theirs.slices)]
        if alone:
            note = f"{len(alone)} slices have no partner and are left out: {name_list(alone, 3)}"
        return MatchedCase(
            name, {n: ours.slices[n] for n in common}, {n: theirs.slices[n] for n in common}, note
        )
    if ours.volume and theirs.volume:
        return MatchedCase(name, ours.volume, theirs.volume)
    if ours.volume and theirs.slices:
        return MatchedCase(name, ours.volume, theirs.slices)
    if ours.slices and theirs.volume:
        return MatchedCase(name, ours.slices, theirs.volume)
    return None


def _only(loose: dict[str, Path], wanted: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in loose.items() if name in wanted}


def _what(folder: MaskFolder) -> str:
    names = [*folder.cases, *folder.loose]
    count = "1 mask" if len(names) == 1 else f"{len(names)} masks"
    return f"{count} ({name_list(names, 3)})"


def _entries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir(), key=lambda item: natural_key(item.name)):
        if not path.name.startswith("."):
            yield path
