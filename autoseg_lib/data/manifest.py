"""CSV manifests: a list of images, with labels, case names and patients where the folders do not tell."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import Discovery, ImageSource, choose_series, discover_files
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.io.csv_files import read_table_text
from autoseg_lib.io.files import safe_name, walk_files
from autoseg_lib.io.limits import is_there

_COLUMNS = ("image", "label", "case", "patient")


@dataclass(frozen=True)
class ManifestRow:
    """One line of a manifest. ``line`` counts from 1 with the header as line 1."""

    line: int
    image: Path
    label: Path | None
    case: str
    patient: str
    others: tuple[Path, ...] = ()


def read_manifest(path: Path) -> list[ManifestRow]:
    """Reads a manifest; paths in it are relative to its folder.

    Args:
        path: a CSV file with the columns image[,image_2,image_3,...][,label][,case,patient]; comma, semicolon or tab between
            them. image_2 and so on are images of the same patient beside the first, which become channels of the network.

    Raises:
        DataError: no table, no column ``image``, no rows, or files that are not there (all listed at once).
    """
    try:
        reader = _reader(path)
        names, records = _columns(reader), list(reader)
    except csv.Error as error:
        raise _no_table(path, error) from None
    if "image" not in names:
        found = ", ".join(name[:40] for name in list(names)[:8]) or "nothing"
        raise DataError(
            f"manifest '{path.name}': found the columns {found}; expected image and, if wanted, label, case, patient. "
            "Name the columns in the first line."
        )
    rows, missing = [], []
    for line, record in enumerate(records, start=2):
        value = {key: (record.get(names[key]) or "").strip() if key in names else "" for key in _COLUMNS}
        if not value["image"]:
            continue
        image = path.parent / value["image"]
        label = path.parent / value["label"] if value["label"] else None
        missing += [f"{value['image'][:200]} (line {line})"] if not is_there(image) else []
        missing += (
            [f"{value['label'][:200]} (line {line})"] if label is not None and not is_there(label) else []
        )
        case = safe_name(value["case"]) if value["case"] else ""
        others = _others(record, names, path, line)
        missing += [
            f"{other.relative_to(path.parent) if other.is_relative_to(path.parent) else other} (line {line})"[
                :220
            ]
            for other in others
            if not is_there(other)
        ]
        rows.append(ManifestRow(line, image, label, case, value["patient"], others))
    if missing:
        slashes = (
            ' Write "/" between folders.' if os.sep == "/" and any("\\" in name for name in missing) else ""
        )
        raise DataError(
            f"manifest '{path.name}': these are not there: {name_list(missing)}. Paths are relative to the manifest's folder.{slashes}"
        )
    if not rows:
        raise DataError(f"manifest '{path.name}': it lists no images. Write one image a line.")
    return rows


_OTHER = re.compile(r"image[_ ]?(\d{1,2})$")


def _others(record: dict[str, Any], names: dict[str, str], path: Path, line: int) -> tuple[Path, ...]:
    """The images beside the first, in the order of their numbers.

    Raises:
        DataError: a number is left out: which image would then be which is not certain.
    """
    given = {}
    for name, written in names.items():
        found = _OTHER.match(name)
        text = (record.get(written) or "").strip()
        if found and text:
            given[int(found[1])] = path.parent / text
    if sorted(given) != list(range(2, 2 + len(given))):
        listed = ", ".join(f"image_{number}" for number in sorted(given))
        raise DataError(
            f"manifest '{path.name}', line {line}: found image, {listed}; images are numbered without a gap from image_2 on. "
            "Fill in what is missing, or rename the columns."
        )
    return tuple(given[number] for number in sorted(given))


def manifest_columns(path: Path) -> set[str]:
    """Returns the names of a manifest's columns in lower case.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return set(_columns(_reader(path)))
    except csv.Error as error:
        raise _no_table(path, error) from None


def _no_table(path: Path, error: csv.Error) -> DataError:
    return DataError(f"manifest '{path.name}': it is no table ({error}). Save it as CSV.")


def _reader(path: Path) -> csv.DictReader[str]:
    text = read_table_text(path, other="cp1252")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def _columns(reader: csv.DictReader[str]) -> dict[str, str]:
    """Returns the columns: name in lower case → name as it is written."""
    return {(name or "").strip().lower(): name for name in reader.fieldnames or []}


def manifest_sources(
    rows: list[ManifestRow],
    root: Path,
    patient_pattern: str | None,
    on_progress: Callable[[int, int], None] | None,
) -> Discovery:
    """Finds the scans of manifest rows: rows that share a case are slices of one scan.

    Raises:
        DataError: nothing in it can be read.
    """
    groups: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        groups[
            row.case or f"\0{row.image}" if row.image.is_dir() or row.case else f"\0{row.image.parent}"
        ].append(row)
    sources: list[ImageSource] = []
    parts: list[Discovery] = []
    for members in groups.values():
        files = [
            file for row in members for file in (walk_files(row.image) if row.image.is_dir() else [row.image])
        ]
        parent = members[0].image if members[0].image.is_dir() else members[0].image.parent
        try:
            found = discover_files(
                files,
                root,
                patient_pattern=patient_pattern,
                whole=parent,
                folders_are_scans=bool(members[0].case),
                across_folders=bool(members[0].case),
            )
        except DataError as error:
            if len(groups) == 1:
                raise
            parts.append(Discovery((), (), (), (str(error),)))
            continue
        by_file = {row.image: row for row in members}
        for source in found.sources:
            row = next((by_file[file] for file in source.files if file in by_file), members[0])
            name = source.name
            if row.case:
                several = sum(1 for s in found.sources if s.series is None or not s.series.is_localizer) > 1
                name = f"{row.case}_{source.number}" if several else row.case
            source = replace(source, name=name, patient=row.patient or source.patient)
            rows_here = [by_file[file] for file in dict.fromkeys(source.files) if file in by_file] or [row]
            sources.append(with_others(source, [item.others for item in rows_here], root))
        parts.append(replace(found, sources=()))
        if on_progress is not None:
            on_progress(len(parts), len(groups))
    return Discovery(
        _unique(sources),
        tuple(item for part in parts for item in part.skipped),
        (),
        tuple(note for part in parts for note in part.notes),
    )


def with_others(source: ImageSource, given: Sequence[tuple[Path, ...]], root: Path) -> ImageSource:
    """Returns the scan with the images beside it.

    Args:
        source: the scan.
        given: for each of its files (or once for the scan): files or folders of image 2, 3, ...
        root: folder that names are relative to.

    Raises:
        DataError: its files have different numbers of images, or one of these is not exactly one scan.
    """
    counts = {len(others) for others in given}
    if counts == {0}:
        return source
    if len(counts) > 1:
        raise DataError(
            f"'{source.name}': its lines give {' or '.join(str(1 + n) for n in sorted(counts))} images. Each slice needs as many "
            "as the others; fill in the columns image_2 and so on."
        )
    others = []
    for index in range(counts.pop()):
        paths = list(dict.fromkeys(others[index] for others in given))
        files = [file for path in paths for file in (walk_files(path) if path.is_dir() else [path])]
        whole = paths[0] if paths[0].is_dir() else paths[0].parent
        found = discover_files(files, root, whole=whole, folders_are_scans=True, across_folders=True)
        scans = [s for s in found.sources if s.series is None or not s.series.is_localizer]
        if len(scans) != 1:
            raise DataError(
                f"'{source.name}', image {index + 2}: found {len(scans)} scans in '{paths[0].name}', one is expected. Name the "
                "folder or file of one."
            )
        others.append(scans[0])
    return replace(source, others=tuple(others))


def discover_manifest(
    path: Path,
    *,
    series: str | int | list[int],
    patient_pattern: str | None,
    on_progress: Callable[[int, int], None] | None,
) -> Discovery:
    """Finds the scans a manifest lists; see ``discover``.

    Raises:
        DataError: the manifest or what it lists cannot be read.
    """
    found = manifest_sources(read_manifest(path), path.parent, patient_pattern, on_progress)
    return choose_series(found, series, path)


def _unique(sources: list[ImageSource]) -> tuple[ImageSource, ...]:
    used: set[str] = set()
    result = []
    for source in sources:
        name, number = source.name, 2
        while name.casefold() in used:
            name, number = f"{source.name}_{number}", number + 1
        used.add(name.casefold())
        result.append(replace(source, name=name))
    return tuple(result)
