"""Images and their labels, paired by name and never by order; every orphan is reported."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoseg_lib.data.discover import IMAGE_FOLDERS, Discovery, ImageSource, choose_series, discover_files
from autoseg_lib.data.manifest import ManifestRow, manifest_sources, read_manifest
from autoseg_lib.data.naming import image_stem
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.io.dicom_headers import DICOM_SUFFIXES
from autoseg_lib.io.dicom_series import group_series
from autoseg_lib.io.files import natural_key, walk_files
from autoseg_lib.io.raster import LABEL_SUFFIXES
from autoseg_lib.io.volume_files import is_volume_file
from autoseg_lib.settings import TrainSettings

OnProgress = Callable[[int, int], None]

# A file's place in the layout: the folders between images/ (or labels/) and it, and its base name.
Key = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class PairingIssue:
    """Something the user should know.

    Attributes:
        severity: "error" (training stops) or "warning".
        code: short word for programs.
        text: one sentence or two: what, found / expected, do.
        files: names of the files concerned.
    """

    severity: str
    code: str
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingCase:
    """A scan with its labels.

    Attributes:
        source: the scan; only slices that have a label.
        label_files: one path per slice of ``source`` (2D labels); empty where there is a label volume.
        label_volume: the label volume, else None.
    """

    source: ImageSource
    label_files: tuple[Path | None, ...] = field(default=(), repr=False)
    label_volume: Path | None = None

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.source.name

    @property
    def patient(self) -> str:
        """Key of the patient."""
        return self.source.patient

    @property
    def labels(self) -> tuple[Path, ...]:
        """All label files of the case."""
        if self.label_volume is not None:
            return (self.label_volume,)
        return tuple(file for file in self.label_files if file is not None)


@dataclass(frozen=True)
class Pairing:
    """What a training folder holds.

    Attributes:
        cases: scans with labels.
        issues: everything to report, errors first.
        images, labels, pairs: numbers of image files, label files and pairs (files; a volume is one).
        layout: which layout was found, in words.
        notes: sentences for the user.
    """

    cases: tuple[TrainingCase, ...]
    issues: tuple[PairingIssue, ...]
    images: int
    labels: int
    pairs: int
    layout: str
    notes: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether training cannot go on."""
        return any(issue.severity == "error" for issue in self.issues)


def pair(settings: TrainSettings, on_progress: OnProgress | None = None) -> Pairing:
    """Pairs the images and labels of a training folder or manifest by name.

    Never raises for what is in the folder: every problem becomes an issue.

    Args:
        settings: ``main_dir``, ``series`` and ``patient_pattern`` are used.
        on_progress: called with (files read, files).
    """
    if not settings.main_dir:
        return _stopped(
            "main_dir", "main_dir is empty. Set it to the folder that holds train/images and train/labels."
        )
    path = Path(settings.main_dir).expanduser()
    if not path.exists():
        return _stopped(
            "main_dir", f"main_dir: '{path}' was not found. Check the path; use / or \\\\ between folders."
        )
    try:
        if path.is_file():
            return _pair_manifest(path, settings, on_progress)
        return _pair_folder(path, settings, on_progress)
    except AutosegError as error:
        return _stopped("unreadable", str(error))


# --- folders ----------------------------------------------------------------------------------------------------------


def _pair_folder(path: Path, settings: TrainSettings, on_progress: OnProgress | None) -> Pairing:
    notes: list[str] = []
    found = _layout(path, notes)
    if isinstance(found, str):
        return _stopped("layout", found)
    image_root, label_root = found
    image_files = list(walk_files(image_root, include_junk=True))
    label_files = list(walk_files(label_root))
    for root, files in ((image_root, image_files), (label_root, label_files)):
        if not files:
            return _stopped(
                "empty", f"'{root}' is empty. Put the {root.name} there, each with the name of its partner."
            )
    whole = discover_files(
        image_files,
        image_root,
        patient_pattern=settings.patient_pattern,
        on_progress=on_progress,
        whole=image_root,
    )
    chosen = choose_series(whole, settings.series, image_root)
    issues = _label_kinds(label_files)
    usable = [file for file in label_files if file.suffix.lower() in LABEL_SUFFIXES or is_volume_file(file)]
    labels: dict[Key, list[Path]] = defaultdict(list)
    for file in usable:
        labels[_key(file, label_root)].append(file)
    layout = (
        f"{image_root.relative_to(path.parent).as_posix()} + {label_root.relative_to(path.parent).as_posix()}"
    )
    return _match(chosen, labels, image_root, issues, notes, layout, image_files)


def _layout(path: Path, notes: list[str]) -> tuple[Path, Path] | str:
    """Returns (images, labels), or the text of what is missing."""
    for base in (path / "train", path):
        folders = (
            {child.name.lower(): child for child in base.iterdir() if child.is_dir()} if base.is_dir() else {}
        )
        images = [folders[name] for name in IMAGE_FOLDERS if name in folders]
        if not images:
            continue
        if len(images) > 1:
            return f"'{base}' holds both dicoms/ and images/. Keep the images in one of them."
        if "labels" not in folders:
            return f"'{base}': found {images[0].name}/ but no labels/. Put the label files into '{base / 'labels'}'."
        if base == path:
            notes.append("images/ and labels/ lie directly in main_dir; they are used for training.")
        return images[0], folders["labels"]
    inside = sorted(child.name for child in path.iterdir())
    found = name_list(inside) if inside else "nothing"
    return (
        f"main_dir '{path}': no train/images (or train/dicoms) with train/labels in it; found {found}. "
        "Choose the folder above train/, or arrange the files so."
    )


def _label_kinds(files: Sequence[Path]) -> list[PairingIssue]:
    dicom = [file.name for file in files if file.suffix.lower() in DICOM_SUFFIXES]
    odd = [
        file.name
        for file in files
        if file.suffix.lower() not in (*LABEL_SUFFIXES, *DICOM_SUFFIXES) and not is_volume_file(file)
    ]
    issues = []
    if dicom:
        issues.append(
            PairingIssue(
                "error",
                "label_kind",
                f"labels: found DICOM files ({name_list(dicom)}); labels as RTSTRUCT or DICOM SEG are not read in this "
                "version. Save them as PNG, NPY or NIfTI.",
                tuple(dicom),
            )
        )
    if odd:
        issues.append(
            PairingIssue(
                "warning", "label_skipped", f"labels: {name_list(odd)} skipped; no label files.", tuple(odd)
            )
        )
    return issues


def _key(file: Path, root: Path) -> Key:
    return tuple(file.relative_to(root).parts[:-1]), image_stem(file)


# --- matching -----------------------------------------------------------------------------------------------------------


def _match(
    found: Discovery,
    labels: dict[Key, list[Path]],
    root: Path,
    issues: list[PairingIssue],
    notes: list[str],
    layout: str,
    image_files: Sequence[Path],
) -> Pairing:
    cases: list[TrainingCase] = []
    used: set[Path] = set()
    lonely: dict[Key, Path] = {}
    issues = [*issues, *_doubled_labels(labels), *_doubled_images(found, root)]
    doubled = {file for files in labels.values() if len(files) > 1 for file in files}
    images = pairs = 0
    for source in found.sources:
        volume = _label_volume(source, labels, root)
        if volume is not None and source.kind != "volume" and _scans_in(found, source) > 1:
            issues.append(_unclear(volume, source))
            used.add(volume)
            continue
        files = tuple(dict.fromkeys(source.files))
        images += len(files)
        if volume is not None:
            used.add(volume)
            pairs += len(files)
            cases.append(TrainingCase(source, label_volume=volume))
            continue
        partners = [_slice_label(source, index, labels, root) for index in range(len(source.files))]
        for file, partner in zip(source.files, partners, strict=True):
            if partner is None and not labels.get(_key(file, root)):
                lonely[_key(file, root)] = file
        case = labelled_part(source, partners)
        if case is not None:
            used.update(case.labels)
            pairs += len(case.labels)
            cases.append(case)
    aside = {
        label
        for source in found.left_out
        for file in source.files
        for label in labels.get(_key(file, root), [])
    }
    leftover = {
        key: files[0]
        for key, files in labels.items()
        if not used & set(files) and not set(files) & (aside | doubled)
    }
    issues += _orphans(lonely, leftover)
    issues += _left_out(found)
    issues += _skipped(found)
    if not cases and not any(issue.severity == "error" and issue.code == "near_miss" for issue in issues):
        issues.append(_no_pairs(lonely, leftover))
    return Pairing(
        cases=tuple(cases),
        issues=tuple(sorted(issues, key=lambda issue: issue.severity != "error")),
        images=images,
        labels=sum(len(files) for files in labels.values()),
        pairs=pairs,
        layout=layout,
        notes=(*notes, *found.notes),
    )


def _label_volume(source: ImageSource, labels: dict[Key, list[Path]], root: Path) -> Path | None:
    """Returns the label volume of a volume file, or of a DICOM series alone in its folder (labels/FOLDER.nii.gz)."""
    if source.kind == "volume":
        candidates = labels.get(_key(source.files[0], root), [])
    else:
        folder = source.files[0].parent
        if folder == root:
            return None
        parts = folder.relative_to(root).parts
        candidates = labels.get((parts[:-1], parts[-1]), [])
    volumes = [file for file in candidates if is_volume_file(file)]
    return volumes[0] if len(volumes) == 1 and len(candidates) == 1 else None


def _scans_in(found: Discovery, source: ImageSource) -> int:
    return sum(1 for other in found.sources if other.files[0].parent == source.files[0].parent)


def _unclear(volume: Path, source: ImageSource) -> PairingIssue:
    text = (
        f"label '{volume.name}': the folder '{source.files[0].parent.name}' holds several scans, so it is not certain "
        "which one is meant. Put each scan into a folder of its own, or set series."
    )
    return PairingIssue("error", "unclear_label", text, (volume.name,))


def _slice_label(source: ImageSource, index: int, labels: dict[Key, list[Path]], root: Path) -> Path | None:
    """Returns the 2D label of one slice; frames of a multi-frame file by NAME_0001."""
    if source.kind == "volume":
        return None
    folder, stem = _key(source.files[index], root)
    if source.series is not None and source.series.headers[index].frame is not None:
        stem = f"{stem}_{(source.series.headers[index].frame or 0) + 1:04d}"
    flat = [file for file in labels.get((folder, stem), []) if not is_volume_file(file)]
    return flat[0] if len(flat) == 1 and len(labels.get((folder, stem), [])) == 1 else None


def labelled_part(source: ImageSource, partners: Sequence[Path | None]) -> TrainingCase | None:
    """Returns the slices of a scan that have a partner, with the geometry they have without the others.

    Args:
        source: the scan.
        partners: label file of each slice, or None.

    Returns:
        The case, or None where no slice has a partner.
    """
    kept = [index for index, partner in enumerate(partners) if partner is not None]
    if not kept:
        return None
    chosen = tuple(partners[index] for index in kept)
    if len(kept) == len(partners):
        return TrainingCase(source, chosen)
    files = tuple(source.files[index] for index in kept)
    names = tuple(source.slice_names[index] for index in kept)
    series, notes = source.series, source.warnings
    if series is not None:
        # The geometry of the slices that are left, gaps included.
        series = replace(group_series([series.headers[index] for index in kept])[0], slice_names=names)
        notes = series.warnings
    return TrainingCase(
        replace(source, files=files, slice_names=names, series=series, warnings=notes), chosen
    )


# --- issues -------------------------------------------------------------------------------------------------------------


def _doubled_labels(labels: dict[Key, list[Path]]) -> list[PairingIssue]:
    issues = []
    for files in labels.values():
        if len(files) > 1:
            names = [file.name for file in files]
            issues.append(
                PairingIssue(
                    "error",
                    "two_labels",
                    f"{name_list(names)} are {len(names)} labels for one image. Keep one of them.",
                    tuple(names),
                )
            )
    return issues


def _doubled_images(found: Discovery, root: Path) -> list[PairingIssue]:
    by_key: dict[Key, set[Path]] = defaultdict(set)
    for source in found.sources:
        for file in source.files:
            by_key[_key(file, root)].add(file)
    issues = []
    for files in by_key.values():
        if len(files) > 1:
            names = sorted((file.name for file in files), key=natural_key)
            text = f"{name_list(names)} are {len(names)} images of one name, so their label is not certain. Keep one of them."
            issues.append(PairingIssue("error", "two_images", text, tuple(names)))
    return issues


def _plain(key: Key) -> tuple[tuple[str, ...], str]:
    """Returns a key without case, zero padding, separators and words like "label"."""

    def plain(text: str) -> str:
        text = re.sub(r"\.(dcm|dicom|ima|png|jpe?g|tiff?|npy|nii|nrrd|mha)$", "", text.casefold())
        text = re.sub(r"_0000$", "", text)  # some tools number the channels of an image
        words = re.findall(r"\d+|[^\W\d_]+", text)
        kept = [word for word in words if word not in _LABEL_WORDS] or words
        return "-".join(str(int(word)) if word.isdecimal() else word for word in kept)

    return tuple(plain(part) for part in key[0]), plain(key[1])


_LABEL_WORDS = {
    "label",
    "labels",
    "mask",
    "masks",
    "seg",
    "segmentation",
    "gt",
    "image",
    "img",
    "manual",
    "roi",
}


def _orphans(images: dict[Key, Path], labels: dict[Key, Path]) -> list[PairingIssue]:
    by_plain: dict[object, list[Key]] = defaultdict(list)
    for key in labels:
        by_plain[_plain(key)].append(key)
    claims = Counter(_plain(key) for key in images)
    issues, near_images, near_labels = [], set(), set()
    near: list[tuple[Path, Path]] = []
    for key, file in images.items():
        candidates = by_plain.get(_plain(key), [])
        if len(candidates) == 1 and claims[_plain(key)] == 1:
            near.append((file, labels[candidates[0]]))
            near_images.add(key)
            near_labels.add(candidates[0])
    if near:
        shown = "; ".join(f"'{_shown(label)}' for '{_shown(image)}'" for image, label in near[:5])
        more = f" and {len(near) - 5} more" if len(near) > 5 else ""
        count = (
            "1 label looks like a match but its"
            if len(near) == 1
            else f"{len(near)} labels look like matches but their"
        )
        verb = "name differs" if len(near) == 1 else "names differ"
        issues.append(
            PairingIssue(
                "error",
                "near_miss",
                f"{count} {verb}: {shown}{more}. Give each label exactly the name of its image.",
                tuple(label.name for _, label in near),
            )
        )
    for what, partner, orphans, known in (
        ("image", "label", images, near_images),
        ("label", "image", labels, near_labels),
    ):
        left = sorted(
            (file for key, file in orphans.items() if key not in known),
            key=lambda file: natural_key(file.name),
        )
        if left:
            names = [file.name for file in left]
            count = f"1 {what} has" if len(left) == 1 else f"{len(left)} {what}s have"
            hint = "Labels need the same name as their image." if what == "image" else "They are not used."
            issues.append(
                PairingIssue(
                    "warning",
                    f"{what}_orphan",
                    f"{count} no {partner}: {name_list(names)}. {hint}",
                    tuple(names),
                )
            )
    return issues


def _shown(file: Path) -> str:
    return (
        file.name
        if file.parent.name.lower() in (*IMAGE_FOLDERS, "labels")
        else f"{file.parent.name}/{file.name}"
    )


def _left_out(found: Discovery) -> list[PairingIssue]:
    issues = []
    for source in found.left_out:
        localizer = source.series is not None and source.series.is_localizer
        names = tuple(dict.fromkeys(file.name for file in source.files))
        what = "a localizer (scout)" if localizer else "a series not chosen by the setting series"
        count = "1 slice" if len(names) == 1 else f"{len(names)} slices"
        issues.append(
            PairingIssue(
                "warning",
                "localizer" if localizer else "series",
                f"{what} of {count} was skipped: {name_list(list(names))}.",
                names,
            )
        )
    return issues


def _skipped(found: Discovery) -> list[PairingIssue]:
    issues = []
    by_reason: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for item in found.skipped:
        if item.reason != "a file of the operating system":
            by_reason[(item.serious, item.reason)].append(item.path.name)
    for (serious, reason), names in by_reason.items():
        if serious:
            text = f"{name_list(names)}: {reason}. Replace or remove it."
            issues.append(PairingIssue("error", "unreadable", text, tuple(names)))
        else:
            issues.append(
                PairingIssue("warning", "skipped", f"{name_list(names)} skipped: {reason}.", tuple(names))
            )
    return issues


def _no_pairs(images: dict[Key, Path], labels: dict[Key, Path]) -> PairingIssue:
    first_image = next(iter(images.values())).name if images else "none"
    first_label = next(iter(labels.values())).name if labels else "none"
    return PairingIssue(
        "error",
        "no_pairs",
        f"no image has a label of the same name (first image: '{first_image}', first label: '{first_label}'). "
        "Name each label like its image: 'slice_3.dcm' goes with 'slice_3.png'.",
    )


def _stopped(code: str, text: str) -> Pairing:
    return Pairing((), (PairingIssue("error", code, text),), 0, 0, 0, "")


# --- manifests ------------------------------------------------------------------------------------------------------------


def _pair_manifest(path: Path, settings: TrainSettings, on_progress: OnProgress | None) -> Pairing:
    if path.suffix.lower() != ".csv":
        raise DataError(f"main_dir: '{path.name}' is a file; expected a folder or a CSV manifest.")
    rows = read_manifest(path)
    found = choose_series(
        manifest_sources(rows, path.parent, settings.patient_pattern, on_progress), settings.series, path
    )
    by_image: dict[Path, ManifestRow] = {row.image: row for row in rows}
    issues: list[PairingIssue] = []
    twice = [name for name, count in Counter(row.image for row in rows).items() if count > 1]
    if twice:
        names = [file.name for file in twice]
        issues.append(
            PairingIssue(
                "error", "two_labels", f"manifest: {name_list(names)} is listed twice.", tuple(names)
            )
        )
    cases, lonely, pairs, images = [], [], 0, 0
    for source in found.sources:
        files = tuple(dict.fromkeys(source.files))
        images += len(files)
        row = by_image.get(source.files[0]) or by_image.get(source.files[0].parent)
        if row is not None and row.label is not None and is_volume_file(row.label):
            cases.append(TrainingCase(source, label_volume=row.label))
            pairs += len(files)
            continue
        partners = [_manifest_label(by_image, file) for file in source.files]
        lonely += [file.name for file, partner in zip(source.files, partners, strict=True) if partner is None]
        case = labelled_part(source, partners)
        if case is not None:
            cases.append(case)
            pairs += len(case.labels)
    if lonely:
        text = f"manifest: no label for {name_list(lonely)}; not used for training."
        issues.append(PairingIssue("warning", "image_orphan", text, tuple(lonely)))
    if not cases:
        text = f"manifest '{path.name}': no image has a label. Fill in the column label."
        issues.append(PairingIssue("error", "no_pairs", text))
    issues += [*_left_out(found), *_skipped(found)]
    labels = len({row.label for row in rows if row.label is not None})
    issues.sort(key=lambda issue: issue.severity != "error")
    return Pairing(tuple(cases), tuple(issues), images, labels, pairs, f"manifest {path.name}", found.notes)


def _manifest_label(by_image: dict[Path, ManifestRow], file: Path) -> Path | None:
    """Returns the label of a slice: the row's file, or the file of the slice's name in the row's label folder."""
    row = by_image.get(file) or by_image.get(file.parent)
    if row is None or row.label is None:
        return None
    if not row.label.is_dir():
        return row.label if file in by_image else None
    partners = [item for item in walk_files(row.label) if image_stem(item) == image_stem(file)]
    return partners[0] if len(partners) == 1 else None
