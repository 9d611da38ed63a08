"""What a folder, a file or a list of files holds: one ImageSource per scan, and why the rest was left out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoseg_lib.data.naming import CaseNamer, image_stem, patient_of, shown_name
from autoseg_lib.errors import DataError, counted, name_list
from autoseg_lib.io import raster
from autoseg_lib.io.dicom_geometry import series_geometry
from autoseg_lib.io.dicom_headers import read_headers
from autoseg_lib.io.dicom_series import DicomSeries, group_series, spread_series
from autoseg_lib.io.files import is_junk, is_safe_name, natural_key, walk_files
from autoseg_lib.io.identity import names_person
from autoseg_lib.io.run_record import own_results
from autoseg_lib.io.segments import is_segment_file
from autoseg_lib.io.slice_header import SkippedFile, SliceHeader
from autoseg_lib.io.volume_files import all_files, describe_volume_file, is_volume_file

# Folders whose names speak of the layout, not of a scan.
LAYOUT_FOLDERS = {"images", "dicoms", "train", "test", "data", "imagestr", "imagests"}
IMAGE_FOLDERS = ("images", "dicoms")
LABEL_FOLDERS = {"labels", "masks", "overlays"}

# Groups of folders that are named when they claim to be one series.
_MOST_CLUSTERS = 6

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageSource:
    """One scan that can be loaded.

    Attributes:
        name: name of the case, free of the patient's identity.
        kind: "dicom", "volume" or "raster".
        files: DICOM and raster: one per slice, in slice order (a multi-frame file repeats); volume: the file, and after it
            those its pixels lie in where it is a header alone (.mhd, .nhdr).
        slice_names: one per slice for DICOM and raster; empty for volumes, whose slices have no names of their own.
        patient: key by which scans of one patient are kept together; says nothing about who it is.
        series: the DICOM series, else None.
        modality: DICOM's word, "" where unknown.
        warnings: sentences on what is odd about it.
        number: number of the series in its folder, from 1 (what the setting ``series`` refers to).
        others: images of the same patient beside it (PET beside a CT, MR sequences), in order.
    """

    name: str
    kind: str
    files: tuple[Path, ...] = field(repr=False)
    slice_names: tuple[str, ...] = field(repr=False)
    patient: str
    series: DicomSeries | None = field(default=None, repr=False)
    modality: str = ""
    warnings: tuple[str, ...] = ()
    number: int = 1
    others: tuple[ImageSource, ...] = ()

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Its files and those of the images beside it, each once."""
        return tuple(dict.fromkeys((*self.files, *(file for other in self.others for file in other.files))))

    @property
    def images(self) -> tuple[Path, ...]:
        """The files that images are counted and paired by: each file of a series once, a volume's one file."""
        return self.files[:1] if self.kind == "volume" else tuple(dict.fromkeys(self.files))


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        sources: the scans to use.
        skipped: files that are no images, with reasons.
        left_out: localizers and series that were not chosen.
        notes: sentences for the user.
    """

    sources: tuple[ImageSource, ...]
    skipped: tuple[SkippedFile, ...] = ()
    left_out: tuple[ImageSource, ...] = ()
    notes: tuple[str, ...] = ()


def discover(
    path: Path,
    *,
    series: str | int | list[int] = "auto",
    patient_pattern: str | None = None,
    on_progress: OnProgress | None = None,
) -> Discovery:
    """Finds the scans in a folder (with its sub-folders), in one file, or in a CSV manifest.

    Args:
        path: the folder, file or manifest (columns image[,label][,case,patient]).
        series: "auto" for every series that is not a localizer, or numbers of the series in each folder.
        patient_pattern: regular expression that finds the patient in a case's name.
        on_progress: called with (files read, files).

    Raises:
        DataError: nothing there, nothing readable (the text lists what was found), or the chosen series do not exist.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(
            f"'{path}': not found. Check the path; on a network drive, check that it is connected."
        )
    notes: list[str] = []
    if path.is_file() and path.suffix.lower() == ".csv":
        from autoseg_lib.data.manifest import discover_manifest

        return discover_manifest(
            path, series=series, patient_pattern=patient_pattern, on_progress=on_progress
        )
    if path.is_file():
        files, root = [path], path.parent
    else:
        everything, root = list(walk_files(path, include_junk=True)), path
        if not everything:
            raise DataError(f"'{path}': the folder is empty. Choose the folder that holds the scans.")
        files = _without_results(path, _without_labels(path, everything, notes), notes)
    found = discover_files(
        files,
        root,
        patient_pattern=patient_pattern,
        on_progress=on_progress,
        whole=path,
        across_folders=True,
    )
    return choose_series(replace(found, notes=(*notes, *found.notes)), series, path)


def describe_source(source: ImageSource) -> str:
    """Returns one line: "MR, 24 slices, 256×256, 0.94 mm, 4.4 mm between slices"."""
    parts = [source.modality] if source.modality else []
    if source.series is None:
        if source.kind == "volume":
            return ", ".join([*parts, "volume", describe_volume_file(source.files[0])])
        size = raster.picture_size(source.files[0])
        parts.append(counted(len(source.files), "picture"))
        return ", ".join([*parts, f"{size[0]}×{size[1]}"] if size else parts)
    headers = source.series.headers
    geometry, _ = series_geometry(headers)
    parts += [counted(len(headers), "slice"), f"{headers[0].rows}×{headers[0].columns}"]
    if geometry.spacing_known:
        row, column = geometry.spacing_zyx_mm[1:]
        parts.append(f"{row:.2f} mm" if abs(row - column) < 0.005 else f"{row:.2f} × {column:.2f} mm")
    else:
        parts.append("no pixel spacing")
    if len(headers) > 1:
        known = geometry.positions_known and geometry.has_one_image_per_position
        text = geometry.spacing_text if not geometry.is_even else f"{geometry.spacing_zyx_mm[0]:.1f} mm"
        if known:
            parts.append(f"{text} between slices")
        else:
            parts.append(
                "several images at one position" if geometry.positions_known else "no slice positions"
            )
    return ", ".join(parts)


# --- pieces that pairing uses too -----------------------------------------------------------------------------------------


def discover_files(
    files: Sequence[Path],
    root: Path,
    *,
    patient_pattern: str | None = None,
    on_progress: OnProgress | None = None,
    whole: Path | None = None,
    folders_are_scans: bool = True,
    across_folders: bool = False,
) -> Discovery:
    """Sorts ``files`` into scans; all series are kept, localizers too (see ``choose_series``).

    Args:
        files: files of any kind.
        root: folder that names are relative to.
        patient_pattern: as in ``discover``.
        on_progress: called with (files read, files).
        whole: what the user named, for the message.
        folders_are_scans: whether pictures in one sub-folder are the slices of one scan.
        across_folders: whether a DICOM series that is dealt out to several folders is put together.

    Raises:
        DataError: there is nothing readable among them.
    """
    volumes = [file for file in files if is_volume_file(file) and not is_junk(file)]
    pictures = [file for file in files if file.suffix.lower() in raster.IMAGE_SUFFIXES and not is_junk(file)]
    taken = {*pictures, *(part for file in volumes for part in all_files(file))}
    others = [file for file in files if file not in taken]
    scan = read_headers(others, on_progress)
    drawn = [file for file in volumes if is_segment_file(file)]
    skipped = [
        *scan.skipped,
        *(SkippedFile(file, "a 3D Slicer segmentation, not an image") for file in drawn),
    ]
    volumes = [file for file in volumes if file not in drawn]
    groups = group_series(scan.headers, across_folders=across_folders)
    used = {(header.path, header.frame) for group in groups for header in group.headers}
    for header in scan.headers:
        if (header.path, header.frame) not in used:
            skipped.append(SkippedFile(header.path, "the same image is there under another name"))
    dicom_folders = {file.parent for group in groups for file in group.files}
    beside = [file for file in pictures if file.parent in dicom_folders]
    skipped += [
        SkippedFile(file, "a picture beside a DICOM series; the DICOM files are used") for file in beside
    ]
    pictures = [file for file in pictures if file.parent not in dicom_folders]

    namer, people = CaseNamer(root), People.of(scan.headers)
    sources = _dicom_sources(groups, namer, root, patient_pattern, whole)
    sources += [_volume_source(file, namer, root, patient_pattern, people) for file in volumes]
    sources += _raster_sources(pictures, namer, root, patient_pattern, folders_are_scans, people)
    if not sources:
        raise DataError(_nothing(whole or root, skipped))
    notes = [
        *_serious_notes(skipped),
        *_archive_notes(skipped),
        *(_spread_notes(groups, sources) if across_folders else ()),
    ]
    return Discovery(tuple(sources), tuple(skipped), (), tuple(notes))


def choose_series(found: Discovery, series: str | int | list[int], path: Path) -> Discovery:
    """Leaves out localizers and screenshots, or all but the series with the chosen numbers in each folder.

    Screenshots (dose tables, screen saves) are left out only where there are scans beside them. A number takes a localizer
    too where all series lie in one folder, so that it is meant; where it counts in several folders, scans go before.

    Raises:
        DataError: nothing is left.
    """
    if series == "auto":
        kept = [s for s in found.sources if s.series is None or not s.series.is_localizer]
        if not kept:
            listing = "; ".join(f"{s.number}: {describe_source(s)}" for s in found.sources[:5])
            raise DataError(
                f"'{path}': it holds only localizer (scout) images ({listing}). Choose another folder; "
                "to use one of them all the same, set series to its number."
            )
        scans = [s for s in kept if s.series is None or s.series.kind != "screenshot"]
        kept = scans or kept
    else:
        numbers = [series] if isinstance(series, int | str) else list(series)
        wanted = {int(number) for number in numbers}
        kept = [s for s in found.sources if s.series is None or s.number in wanted]
        if len(series_folders(found)) > 1:
            kept = [s for s in kept if s.series is None or not s.series.is_localizer] or kept
        if not kept:
            listing = "; ".join(f"{s.number}: {describe_source(s)}" for s in found.sources[:8])
            raise DataError(
                f"'{path}': there is no series {sorted(wanted)}. It holds {listing}. Correct the setting series."
            )
    chosen = {id(source) for source in kept}
    left = tuple(s for s in found.sources if id(s) not in chosen)
    notes = [*found.notes, *_series_notes(kept, left, series)]
    return replace(found, sources=tuple(kept), left_out=(*found.left_out, *left), notes=tuple(notes))


def series_folders(found: Discovery) -> set[Path]:
    """Returns the folders that DICOM series lie in; the numbers of series begin anew in each."""
    sources = (*found.sources, *found.left_out)
    return {source.series.folder for source in sources if source.series is not None}


# --- sources by kind ------------------------------------------------------------------------------------------------------


def _dicom_sources(
    groups: list[DicomSeries], namer: CaseNamer, root: Path, pattern: str | None, whole: Path | None
) -> list[ImageSource]:
    by_folder: dict[Path, list[DicomSeries]] = defaultdict(list)
    for group in groups:
        by_folder[group.folder].append(group)
    sources = []
    for folder, members in by_folder.items():
        # Scans first, localizers after them, so that series = 1 is a scan.
        members = sorted(members, key=lambda group: group.is_localizer)
        one_file = whole is not None and whole.is_file() and len(members) == 1
        bases = [image_stem(whole)] if one_file and whole is not None else _series_names(folder, members)
        for number, (group, base) in enumerate(zip(members, bases, strict=True), start=1):
            name = namer.name(base, folder, group.identity)
            sources.append(
                ImageSource(
                    name=name,
                    kind="dicom",
                    files=group.files,
                    slice_names=group.slice_names,
                    patient=_dicom_patient(group, name, pattern, folder, root),
                    series=group,
                    modality=group.modality,
                    warnings=group.warnings,
                    number=number,
                )
            )
    return sources


def _series_names(folder: Path, members: list[DicomSeries]) -> list[str]:
    """Returns a name for each series of a folder: FOLDER, or FOLDER_1, FOLDER_2; the files' common beginning where the
    folder's name says nothing ("images")."""
    scans = [group for group in members if not group.is_localizer]
    if folder.name.lower() in LAYOUT_FOLDERS or len(members) > 1:
        stems = [_common_start([image_stem(file) for file in group.files]) for group in members]
        if (
            folder.name.lower() in LAYOUT_FOLDERS
            and all(len(stem) >= 3 for stem in stems)
            and len(set(stems)) == len(stems)
        ):
            return stems
    if len(members) == 1 or len(scans) == 1:
        return [folder.name] + [f"{folder.name}_{number}" for number in range(2, len(members) + 1)]
    return [f"{folder.name}_{number}" for number in range(1, len(members) + 1)]


def _common_start(stems: Sequence[str]) -> str:
    """Returns what all names begin with, a counter at its end taken off ("SCD01_00" → "SCD01")."""
    first, last = min(stems), max(stems)
    length = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    start = first[:length]
    if len(set(stems)) == 1:
        return start
    return re.sub(r"[\W_]+\d*$", "", start)


def _dicom_patient(group: DicomSeries, name: str, pattern: str | None, folder: Path, root: Path) -> str:
    first = group.headers[0]
    if first.patient_key:
        return first.patient_key
    if first.study_uid:
        return "study_" + hashlib.sha256(first.study_uid.encode()).hexdigest()[:12]
    return patient_of(name, pattern, folder, root, LAYOUT_FOLDERS)


@dataclass(frozen=True)
class People:
    """Who the DICOM files among those found are of: volumes and pictures beside them may be named after the patient.

    Attributes:
        identity: texts that tell who the patients are.
        headers: one of each patient.
    """

    identity: frozenset[str] = field(repr=False)
    headers: tuple[SliceHeader, ...] = field(repr=False)

    @classmethod
    def of(cls, headers: Sequence[SliceHeader]) -> People:
        """Returns the patients that headers speak of."""
        one_of_each = {(header.identity, header.person_name): header for header in headers if header.identity}
        told = frozenset[str]().union(*(header.identity for header in one_of_each.values()))
        return cls(told, tuple(one_of_each.values()))

    def key(self, patient: str) -> str:
        """Returns the key of a patient that was made from the name of a file or folder, free of who it is."""
        return shown_name(patient, self.identity)

    def are_named(self, slice_names: Sequence[str]) -> bool:
        """Whether the names of slices spell out one of them."""
        return any(names_person(name, header) for header in self.headers for name in slice_names)


def _volume_source(
    file: Path, namer: CaseNamer, root: Path, pattern: str | None, people: People
) -> ImageSource:
    name = namer.name(image_stem(file), file.parent, people.identity)
    patient = people.key(patient_of(name, pattern, file.parent, root, LAYOUT_FOLDERS))
    return ImageSource(name, "volume", all_files(file), (), patient)


def _raster_sources(
    pictures: list[Path],
    namer: CaseNamer,
    root: Path,
    pattern: str | None,
    folders_are_scans: bool,
    people: People,
) -> list[ImageSource]:
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in pictures:
        by_folder[file.parent].append(file)
    sources = []
    for folder, files in by_folder.items():
        is_scan = (
            folders_are_scans
            and folder != root
            and folder.name.lower() not in LAYOUT_FOLDERS
            and len(files) > 1
        )
        for group in [files] if is_scan else [[file] for file in files]:
            group = sorted(group, key=lambda file: natural_key(file.name))
            base = folder.name if is_scan else image_stem(group[0])
            name = namer.name(base, folder if is_scan else group[0].parent, people.identity)
            stems = tuple(image_stem(file) for file in group)
            if len(set(stems)) < len(stems):
                stems = tuple(file.name for file in group)
            if not all(map(is_safe_name, stems)) or people.are_named(stems):
                stems = tuple(f"slice_{number:04d}" for number in range(1, len(group) + 1))
            patient = people.key(patient_of(name, pattern, folder, root, LAYOUT_FOLDERS))
            sources.append(ImageSource(name, "raster", tuple(group), stems, patient))
    return sources


# --- words ------------------------------------------------------------------------------------------------------------------


def _without_labels(path: Path, files: list[Path], notes: list[str]) -> list[Path]:
    """Leaves out label folders that lie beside an image folder, so that labels are not taken for scans."""
    aside: set[Path] = set()
    for folder in {path, *(parent for file in files for parent in file.parents if path in parent.parents)}:
        inside = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
        if any(name in inside for name in IMAGE_FOLDERS):
            aside |= {child for name, child in inside.items() if name in LABEL_FOLDERS}
    if not aside:
        return files
    names = name_list(sorted(child.relative_to(path).as_posix() for child in aside))
    notes.append(
        f"the label files in {names} were left aside; the scans are read from the folder beside them."
    )
    return [file for file in files if not any(folder in file.parents for folder in aside)]


def _without_results(path: Path, files: list[Path], notes: list[str]) -> list[Path]:
    """Leaves out what earlier runs have written below ``path``, so that masks and overlays are not taken for scans.

    Raises:
        DataError: there is nothing else.
    """
    results = own_results(files, path)
    if not results:
        return files
    left = [file for file in files if file not in results]
    if all(is_junk(file) for file in left):
        raise DataError(
            f"'{path}': it holds only results of an earlier run (masks, tables). Choose the folder that holds the scans."
        )
    folders = sorted({_first_folder(file, path) for file in results})
    notes.append(f"results of earlier runs were left aside ({name_list(folders)}); they are no scans.")
    return left


def _first_folder(file: Path, path: Path) -> str:
    parts = file.relative_to(path).parts
    return parts[0] if len(parts) > 1 else path.name


def _serious_notes(skipped: Sequence[SkippedFile]) -> tuple[str, ...]:
    serious = [item for item in skipped if item.serious]
    if not serious:
        return ()
    reasons = Counter(item.reason for item in serious).most_common(1)[0][0]
    names = name_list([item.path.name for item in serious])
    count = "1 file looks" if len(serious) == 1 else f"{len(serious)} files look"
    return (f"{count} damaged: {names} ({reasons}).",)


def _archive_notes(skipped: Sequence[SkippedFile]) -> list[str]:
    names = [item.path.name for item in skipped if item.archive]
    if not names:
        return []
    count = "1 archive was" if len(names) == 1 else f"{len(names)} archives were"
    return [
        f"{count} not opened: {name_list(names)}. If scans are in there, unpack it and choose that folder."
    ]


def _spread_notes(groups: list[DicomSeries], sources: Sequence[ImageSource]) -> list[str]:
    names = {id(source.series): source.name for source in sources}
    clusters = [
        name_list([names[id(group)] for group in cluster], 3)
        for cluster in spread_series(groups)
        if not cluster[0].is_localizer
    ]
    if not clusters:
        return []
    more = f"; and {len(clusters) - _MOST_CLUSTERS} more" if len(clusters) > _MOST_CLUSTERS else ""
    return [
        "By their headers some folders hold parts of one and the same series (equal SeriesInstanceUID), but their slices do "
        "not fit together; each folder is used as a scan of its own. Folders of one series: "
        f"{'; '.join(clusters[:_MOST_CLUSTERS])}{more}."
    ]


def _series_notes(kept: Sequence[ImageSource], left: Sequence[ImageSource], series: object) -> list[str]:
    folders: dict[Path, list[ImageSource]] = defaultdict(list)
    for source in kept:
        if source.series is not None:
            folders[source.series.folder].append(source)
    notes = []
    several = [members for members in folders.values() if len(members) > 1]
    for members in several[:3]:
        sizes = " and ".join(str(len(member.files)) for member in members[:4])
        names = name_list([member.name for member in members], 3)
        notes.append(
            f"one folder holds {len(members)} scans ({sizes} slices: {names}); all are used. For one only, set series to "
            "its number."
        )
    localizers = [source for source in left if source.series is not None and source.series.is_localizer]
    if localizers:
        count = (
            "A localizer (scout) was"
            if len(localizers) == 1
            else f"{len(localizers)} localizer (scout) series were"
        )
        notes.append(f"{count} skipped.")
    others = len(left) - len(localizers)
    if others and series == "auto":
        notes.append(f"{others} series of screenshots or reports left out.")
    elif others:
        notes.append(f"{counted(others, 'scan')} left out because series = {series}.")
    derived = [
        source.name for source in kept if source.series is not None and source.series.kind == "derived"
    ]
    if derived and len(kept) > len(derived):
        advice = "set series to the numbers of the others"
        if len(folders) > 1:
            advice = "give the folders of the others one by one"
        notes.append(
            f"worked out from other images (reformats, projections, maps), not scanned: {name_list(derived, 3)}. They "
            f"are used too; to leave them out, {advice}."
        )
    return notes


def _nothing(path: Path, skipped: Sequence[SkippedFile]) -> str:
    if len(skipped) == 1 and "DICOMDIR" in skipped[0].reason:
        return f"'{skipped[0].path.name}': {skipped[0].reason}. Choose the folder that it lies in."
    if len(skipped) == 1 and skipped[0].archive:
        return f"'{skipped[0].path.name}': {skipped[0].reason}, then choose its folder."
    if len(skipped) == 1:
        return f"'{skipped[0].path.name}': {skipped[0].reason}. Choose a DICOM, NIfTI, NRRD, MHA, PNG, JPG, TIFF or NPY file."
    kinds = Counter(item.reason for item in skipped)
    found = "; ".join(f"{count} × {reason}" for reason, count in kinds.most_common(6)) or "no files"
    return f"'{path}': no scan in this folder. Found {found}. Choose the folder that holds the DICOM or image files."
