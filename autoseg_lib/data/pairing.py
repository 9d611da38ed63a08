"""Images and their labels, paired by name and never by order; every orphan is reported."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg_lib.data.cases import Key, Pairing, PairingIssue, TrainingCase
from autoseg_lib.data.discover import IMAGE_FOLDERS, Discovery, ImageSource, choose_series, discover_files
from autoseg_lib.data.label_names import look_into
from autoseg_lib.data.manifest import ManifestRow, manifest_sources, read_manifest, with_others
from autoseg_lib.data.naming import image_stem
from autoseg_lib.data.pairing_issues import (
    doubled_images,
    doubled_labels,
    folders_of,
    key_of,
    left_out_issues,
    no_pairs,
    orphans,
    skipped_issues,
)
from autoseg_lib.data.whole_labels import (
    WholeLabels,
    holds_names,
    is_whole,
    several_text,
    unclear_issue,
    with_names,
)
from autoseg_lib.errors import AutosegError, DataError, name_list
from autoseg_lib.io.dicom_headers import DICOM_SUFFIXES
from autoseg_lib.io.dicom_series import series_from
from autoseg_lib.io.files import same_text, walk_files
from autoseg_lib.io.raster import LABEL_SUFFIXES
from autoseg_lib.io.volume_files import all_files, is_volume_file
from autoseg_lib.settings import TrainSettings

__all__ = ["Pairing", "PairingIssue", "TrainingCase", "pair"]

OnProgress = Callable[[int, int], None]


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
    folders = _further_images(image_root)
    if folders:
        chosen = replace(
            chosen, sources=tuple(_with_further(source, image_root, folders) for source in chosen.sources)
        )
        notes.append(f"{', '.join(folder.name for folder in folders)}: further images of each patient.")
    usable = [
        file
        for file in label_files
        if file.suffix.lower() in LABEL_SUFFIXES or is_volume_file(file) or holds_names(file)
    ]
    issues = _label_kinds(label_files, usable)
    labels: dict[Key, list[Path]] = defaultdict(list)
    for file in usable:
        labels[key_of(file, label_root)].append(file)
    layout = (
        f"{image_root.relative_to(path.parent).as_posix()} + {label_root.relative_to(path.parent).as_posix()}"
    )
    return _match(chosen, labels, image_root, issues, notes, layout, settings)


def _layout(path: Path, notes: list[str]) -> tuple[Path, Path] | str:
    """Returns (images, labels), or the text of what is missing."""
    train = _folders(path).get("train")
    for base in (path,) if train is None else (train, path):
        folders = _folders(base)
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


def _further_images(root: Path) -> list[Path]:
    """The folders images_2, images_3, ... beside images/, as far as they go without a gap."""
    beside = _folders(root.parent)
    found: list[Path] = []
    while (name := f"{root.name.lower()}_{len(found) + 2}") in beside:
        found.append(beside[name])
    return found


def _with_further(source: ImageSource, root: Path, folders: Sequence[Path]) -> ImageSource:
    """A scan with the images of the same name from images_2/ and so on: a DICOM series by its folder, others file by file.

    Raises:
        DataError: one is not there.
    """
    files = source.files[:1] if source.kind != "raster" else source.files
    inside = [(file.parent if source.kind == "dicom" else file).relative_to(root) for file in files]
    given = [tuple(folder / part for folder in folders) for part in inside]
    missing = [str(path.relative_to(root.parent)) for paths in given for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"'{source.name}': {name_list(missing)} not found. Each image needs partners of the same name in "
            f"{', '.join(f'{folder.name}/' for folder in folders)}; add them, or rename those folders."
        )
    return with_others(source, given, root.parent)


def _folders(place: Path) -> dict[str, Path]:
    """Returns name in lower case → sub-folder."""
    return {child.name.lower(): child for child in place.iterdir() if child.is_dir()}


def _label_kinds(files: Sequence[Path], usable: Sequence[Path]) -> list[PairingIssue]:
    known = {part for file in usable for part in all_files(file)}
    left = [file for file in files if file not in known]
    dicom = [file for file in left if file.suffix.lower() in DICOM_SUFFIXES]
    odd = [file for file in left if file.suffix.lower() not in DICOM_SUFFIXES]
    issues = []
    if dicom:
        names = [file.name for file in dicom]
        text = (
            f"labels: found DICOM files without ROIs ({name_list(names)}); expected RTSTRUCT or DICOM SEG. "
            "Images belong into images/ (or dicoms/)."
        )
        issues.append(PairingIssue("error", "label_kind", text, tuple(names), tuple(dicom)))
    if odd:
        names = [file.name for file in odd]
        text = f"labels: {name_list(names)} skipped; no label files."
        issues.append(PairingIssue("warning", "label_skipped", text, tuple(names), tuple(odd)))
    return issues


# --- matching -----------------------------------------------------------------------------------------------------------


def _match(
    found: Discovery,
    labels: dict[Key, list[Path]],
    root: Path,
    issues: list[PairingIssue],
    notes: list[str],
    layout: str,
    settings: TrainSettings,
) -> Pairing:
    placed: dict[int, TrainingCase] = {}
    used: set[Path] = set()
    lonely: dict[Key, Path] = {}
    alone: dict[int, ImageSource] = {}
    issues = [*issues, *doubled_labels(labels), *doubled_images(found, root)]
    doubled = {file for files in labels.values() if len(files) > 1 for file in files}
    whole = WholeLabels(labels, root)
    images = pairs = 0
    for number, source in enumerate(found.sources):
        images += len(source.images)
        volume = _label_volume(source, whole, found, doubled, issues, used)
        if volume is not None:
            used.add(volume)
            pairs += len(source.images)
            placed[number] = TrainingCase(source, label_volume=volume)
            continue
        paths = source.images if source.kind == "volume" else source.files
        partners = [_slice_label(source, index, labels, root) for index in range(len(paths))]
        case = labelled_part(source, partners)
        if case is None:
            alone[number] = source
        else:
            used.update(case.labels)
            pairs += len(case.labels)
            placed[number] = case
            for file, partner in zip(paths, partners, strict=True):
                if partner is None and not labels.get(key_of(file, root)):
                    lonely[key_of(file, root)] = file
    for number, source in alone.items():
        volume = _by_series(source, whole, list(alone.values()), issues, used)
        if volume is not None:
            used.add(volume)
            pairs += len(source.images)
            placed[number] = TrainingCase(source, label_volume=volume)
        elif not set(whole.by_name(source)) & used:
            lonely |= _lonely(source, labels, root, [file for file in whole.named if file not in used])
    cases = [placed[number] for number in sorted(placed)]
    aside = {
        label
        for source in found.left_out
        for file in source.files
        for label in labels.get(key_of(file, root), [])
    }
    leftover = {
        key: files[0]
        for key, files in labels.items()
        if not used & set(files) and not set(files) & (aside | doubled)
    }
    issues += orphans(lonely, leftover)
    issues += left_out_issues(found)
    issues += skipped_issues(found)
    if not cases and not any(
        issue.severity == "error" and issue.code in ("near_miss", "unclear_label") for issue in issues
    ):
        issues.append(no_pairs(lonely, leftover))
    named_cases, names = with_names(cases, whole.named, settings, issues, notes)
    return Pairing(
        cases=named_cases,
        issues=tuple(sorted(issues, key=lambda issue: issue.severity != "error")),
        images=images,
        labels=sum(len(files) for files in labels.values()),
        pairs=pairs,
        layout=layout,
        notes=(*notes, *found.notes),
        roi_names=names,
    )


def _label_volume(
    source: ImageSource,
    whole: WholeLabels,
    found: Discovery,
    doubled: set[Path],
    issues: list[PairingIssue],
    used: set[Path],
) -> Path | None:
    """Returns the one file that holds the labels of a scan and has its name; what is unclear becomes an issue."""
    files = [file for file in whole.by_name(source) if file not in doubled]
    if len(files) > 1:
        drawn = [file for file in files if whole.was_drawn_on(file, source)]
        if len(drawn) != 1:
            issues.append(unclear_issue(files, source, several_text(source)))
            used.update(files)
            return None
        files = drawn
    if not files:
        return None
    if source.kind != "volume" and _scans_in(found, source) > 1:
        drawn_here = whole.was_drawn_on(files[0], source)
        if drawn_here is None and files[0] not in used:
            issues.append(unclear_issue(files, source, _unclear_text(source)))
            used.add(files[0])
        return files[0] if drawn_here else None
    return files[0]


def _by_series(
    source: ImageSource,
    whole: WholeLabels,
    alone: Sequence[ImageSource],
    issues: list[PairingIssue],
    used: set[Path],
) -> Path | None:
    """Returns the file that says it was drawn on this series, where only one does."""
    if source.series is None:
        return None
    files = whole.by_series(source, used)
    if not files:
        return None
    rivals = [other for other in alone if whole.was_drawn_on(files[0], other)]
    if len(files) > 1 or len(rivals) > 1:
        text = several_text(source)
        if len(rivals) > 1:
            text = f"it was drawn on a series that makes several scans ({name_list([r.name for r in rivals])}). Set series."
        issues.append(unclear_issue(files, source, text))
        used.update(files)
        return None
    text = (
        f"label '{files[0].name}' goes with the scan '{source.name}', though its name differs: it says that it was drawn on this "
        "series."
    )
    issues.append(PairingIssue("warning", "matched_by_series", text, (files[0].name,), (files[0],)))
    return files[0]


def _lonely(
    source: ImageSource, labels: dict[Key, list[Path]], root: Path, whole_left: Sequence[Path]
) -> dict[Key, Path]:
    """Returns what to report of a scan without any label: its folder where labels of whole scans are left, else its files."""
    folder = source.files[0].parent
    if whole_left and source.kind != "volume" and folder != root:
        parts = folders_of(folder, root)
        return {(parts[:-1], parts[-1]): folder}
    return {key_of(file, root): file for file in source.images if not labels.get(key_of(file, root))}


def _scans_in(found: Discovery, source: ImageSource) -> int:
    return sum(1 for other in found.sources if other.files[0].parent == source.files[0].parent)


def _unclear_text(source: ImageSource) -> str:
    return (
        f"the folder '{source.files[0].parent.name}' holds several scans, so it is not certain "
        "which one is meant. Put each scan into a folder of its own, or set series."
    )


def _slice_label(source: ImageSource, index: int, labels: dict[Key, list[Path]], root: Path) -> Path | None:
    """Returns the 2D label of one slice; frames of a multi-frame file by NAME_0001."""
    if source.kind == "volume":
        return None
    folder, stem = key_of(source.files[index], root)
    if source.series is not None and source.series.headers[index].frame is not None:
        stem = f"{stem}_{(source.series.headers[index].frame or 0) + 1:04d}"
    flat = [
        file for file in labels.get((folder, stem), []) if not is_volume_file(file) and not holds_names(file)
    ]
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
        series = replace(series_from([series.headers[index] for index in kept]), slice_names=names)
        notes = series.warnings
    return TrainingCase(
        replace(source, files=files, slice_names=names, series=series, warnings=notes), chosen
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
                "error",
                "two_labels",
                f"manifest: {name_list(names)} listed more than once, so it is not certain which label is meant. List each image once.",
                tuple(names),
            )
        )
    cases, lonely, pairs, images = [], [], 0, 0
    for source in found.sources:
        files = source.images
        images += len(files)
        row = by_image.get(source.files[0]) or by_image.get(source.files[0].parent)
        if row is not None and row.label is not None and is_whole(row.label, len(source.files)):
            rows_here = (by_image[file] for file in source.files if file in by_image)
            given = list(dict.fromkeys(item.label for item in rows_here if item.label is not None))
            if len(given) > 1:
                why = (
                    f"the slices of '{source.name}' are given several labels, one of which holds the whole scan. Give the scan one "
                    "label, or each slice a label of its own."
                )
                issues.append(unclear_issue(given, source, why))
                continue
            cases.append(TrainingCase(source, label_volume=row.label))
            pairs += len(files)
            continue
        paths = source.images if source.kind == "volume" else source.files
        partners = [_manifest_label(by_image, file) for file in paths]
        lonely += [file.name for file, partner in zip(paths, partners, strict=True) if partner is None]
        shared = [file for file, count in Counter(partners).items() if file is not None and count > 1]
        if shared:
            issues.append(
                unclear_issue(shared, source, f"given to several slices of '{source.name}'. {_ONE_EACH}")
            )
            continue
        case = labelled_part(source, partners)
        if case is not None:
            cases.append(case)
            pairs += len(case.labels)
    if lonely:
        text = f"manifest: no label for {name_list(lonely)}; not used for training."
        issues.append(PairingIssue("warning", "image_orphan", text, tuple(lonely)))
    if not cases and not any(issue.code == "unclear_label" for issue in issues):
        text = f"manifest '{path.name}': no image has a label. Fill in the column label."
        issues.append(PairingIssue("error", "no_pairs", text))
    issues += [*left_out_issues(found), *skipped_issues(found)]
    labels = len({row.label for row in rows if row.label is not None})
    notes = list(found.notes)
    whole = [case.label_volume for case in cases if case.label_volume is not None]
    named = {file: look_into(file) for file in whole if holds_names(file)}
    named_cases, roi_names = with_names(cases, named, settings, issues, notes)
    issues.sort(key=lambda issue: issue.severity != "error")
    return Pairing(
        named_cases, tuple(issues), images, labels, pairs, f"manifest {path.name}", tuple(notes), roi_names
    )


_ONE_EACH = "Each slice needs a label of its own; correct the column label."


def _manifest_label(by_image: dict[Path, ManifestRow], file: Path) -> Path | None:
    """Returns the label of a slice: the row's file, or the file of the slice's name in the row's label folder."""
    row = by_image.get(file) or by_image.get(file.parent)
    if row is None or row.label is None:
        return None
    if not row.label.is_dir():
        return row.label if file in by_image else None
    wanted = same_text(image_stem(file))
    partners = [item for item in walk_files(row.label) if same_text(image_stem(item)) == wanted]
    return partners[0] if len(partners) == 1 else None
