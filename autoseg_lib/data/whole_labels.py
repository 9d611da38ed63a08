"""Label files that hold a whole scan (volume, RTSTRUCT, DICOM SEG, 3D Slicer's, stack of pages): whose scan is it?

By name first (labels/SCAN.dcm, labels/SCAN/any.dcm), else by the image series the file says it was drawn on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from autoseg_lib.data.cases import Key, PairingIssue, TrainingCase
from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.label_names import NamedFile, RoiValues, look_into, roi_values
from autoseg_lib.data.naming import image_stem
from autoseg_lib.data.pairing_issues import folders_of, key_of
from autoseg_lib.errors import SettingsError, name_list
from autoseg_lib.io.files import same_text
from autoseg_lib.io.raster import IMAGE_SUFFIXES, STACK_SUFFIXES, page_count
from autoseg_lib.io.segments import is_segment_file
from autoseg_lib.io.volume_files import is_volume_file
from autoseg_lib.settings import AUTO, TrainSettings

_NEVER_NAMED = (
    *IMAGE_SUFFIXES,
    ".nii",
    ".gz",
    ".mha",
    ".mhd",
    ".csv",
    ".txt",
    ".json",
    ".pdf",
    ".raw",
    ".zraw",
)


def holds_names(path: Path) -> bool:
    """Whether a file holds ROIs by name (RTSTRUCT, DICOM SEG, .seg.nrrd); told by its content."""
    return path.suffix.lower() not in _NEVER_NAMED and is_segment_file(path)


def is_whole(path: Path, slices: int) -> bool:
    """Whether a label file holds all slices of a scan.

    Args:
        path: the label file.
        slices: how many slices the scan has; a stack of pages is one only for more than one.
    """
    if is_volume_file(path) or holds_names(path):
        return True
    return slices > 1 and path.suffix.lower() in STACK_SUFFIXES and page_count(path) > 1


class WholeLabels:
    """The label files of a folder, asked for by scan."""

    def __init__(self, labels: dict[Key, list[Path]], root: Path) -> None:
        """Args:
        labels: label files by their place below the label folder.
        root: the image folder.
        """
        self._labels = labels
        self._root = root

    @cached_property
    def named(self) -> dict[Path, NamedFile]:
        """What each file with named ROIs says of itself."""
        files = [file for files in self._labels.values() for file in files]
        return {file: look_into(file) for file in files if holds_names(file)}

    def by_name(self, source: ImageSource) -> list[Path]:
        """Returns the whole-scan label files that have the name of a scan; more than one is for the caller to refuse."""
        if source.kind == "volume":
            files = self._labels.get(key_of(source.files[0], self._root), [])
            return files if len(files) == 1 and is_whole(files[0], 0) else []
        slices = len(source.files)
        keys: list[Key] = []
        if len(source.images) == 1:
            keys.append(key_of(source.files[0], self._root))
        folder = source.files[0].parent
        if folder != self._root:
            parts = folders_of(folder, self._root)
            keys.append((parts[:-1], parts[-1]))
            stems = {same_text(image_stem(file)) for file in source.files}
            inside = [key for key in self._labels if key[0] == parts]
            if not any(key[1] in stems for key in inside):
                keys += inside
        else:
            keys.append(((), same_text(source.name)))
        files = [file for key in dict.fromkeys(keys) for file in self._labels.get(key, [])]
        whole = [file for file in files if is_whole(file, slices)]
        return whole if len(whole) == len(files) or len(source.images) > 1 else []

    def by_series(self, source: ImageSource, used: Iterable[Path]) -> list[Path]:
        """Returns the unused files with named ROIs that were drawn on this series."""
        uid = _series_uid(source)
        taken = set(used)
        return [
            file for file, said in self.named.items() if uid and uid in said.series_uids and file not in taken
        ]

    def was_drawn_on(self, file: Path, source: ImageSource) -> bool | None:
        """Whether a file says it was drawn on this series; None where it does not say."""
        said = self.named.get(file)
        if said is None or not said.series_uids:
            return None
        return _series_uid(source) in said.series_uids


def _series_uid(source: ImageSource) -> str:
    return source.series.headers[0].series_uid if source.series is not None else ""


def unclear_issue(files: Sequence[Path], source: ImageSource, why: str) -> PairingIssue:
    """Returns the issue that label files cannot be told apart for a scan."""
    names = [file.name for file in files]
    one = "label" if len(names) == 1 else "labels"
    return PairingIssue(
        "error", "unclear_label", f"{one} {name_list(names)}: {why}", tuple(names), tuple(files)
    )


def several_text(source: ImageSource) -> str:
    """Returns what to say where several files hold labels for one scan."""
    return (
        f"all of them are for the scan '{source.name}', so it is not certain which one is meant. Keep one of them, or merge the "
        "ROIs into one file."
    )


def with_names(
    cases: Sequence[TrainingCase],
    named: dict[Path, NamedFile],
    settings: TrainSettings,
    issues: list[PairingIssue],
    notes: list[str],
) -> tuple[tuple[TrainingCase, ...], tuple[str, ...]]:
    """Gives the cases the ROI numbers of the names in their label files.

    Args:
        cases: paired.
        named: what each file with named ROIs says.
        settings: ``labels_list`` and ``label_map`` are used.
        issues: problems are added here.
        notes: what was chosen is added here.

    Returns:
        The cases, and the ROIs' names where the files gave them (labels_list "auto"), else ().
    """
    used = [case.label_volume for case in cases if case.label_volume in named]
    if not used:
        return tuple(cases), ()
    files = [named[path] for path in used if path is not None]
    for file in files:
        if file.problem:
            issues.append(PairingIssue("error", "unreadable", file.problem, (file.path.name,), (file.path,)))
    given = None if settings.labels_list == AUTO else list(settings.labels_list)
    try:
        found: RoiValues = roi_values(
            [name for file in files for name in file.names], given, settings.label_map
        )
    except SettingsError as error:
        issues.append(PairingIssue("error", "roi_names", str(error)))
        return tuple(cases), ()
    pairs = tuple(found.values.items())
    numbered = [case for case in cases if case.label_volume not in named]
    if numbered and given is None:
        issues.append(
            PairingIssue(
                "error",
                "mixed_labels",
                f"some labels name their ROIs ({name_list(list(found.names))}: {name_list([file.path.name for file in files], 2)}), "
                f"others hold numbers ({name_list([file.name for case in numbered for file in case.labels], 2)}). Set labels_list "
                "to the names in the order of these numbers.",
            )
        )
    if given is None:
        shown = ", ".join(f"{value} '{name}'" for value, name in enumerate(found.names[:12], start=1))
        more = f" and {len(found.names) - 12} more" if len(found.names) > 12 else ""
        notes.append(
            f"the ROIs named in the label files are used: {shown}{more}. labels_list chooses some of them."
        )
    result = (replace(case, roi_values=pairs) if case.label_volume in named else case for case in cases)
    return tuple(result), found.names if given is None else ()
