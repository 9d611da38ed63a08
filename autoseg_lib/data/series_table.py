"""What each series of a folder is, in a few facts without a word of what the scanner's operator typed in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg_lib.data.discover import Discovery, ImageSource, describe_source, series_folders
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_geometry import series_geometry
from autoseg_lib.io.raster import picture_size

# Slices turned by less than this out of a main plane are called by that plane alone; positioning a patient is no better.
_STRAIGHT_DEGREES = 1.0
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class SeriesFacts:
    """One line of the series table.

    Attributes:
        key: eight hexadecimal digits that stand for the series; the same each time the folder is read.
        number: what the setting ``series`` calls it: the number of the series in its own folder, from 1.
        series_number: the scanner's number of the series (SeriesNumber), None where there is none.
        name: name of the case, free of the patient's identity.
        kind: "scan", "derived" (worked out from other images), "localizer", "screenshot", "volume file" or "pictures".
        modality: DICOM's word, "" where unknown.
        slices: images in it; 0 where a file has to be read to tell.
        matrix: (rows, columns), None where a file has to be read to tell.
        spacing_mm: (row, column) distance of pixels, None where unknown.
        slice_distance: "4.4 mm", "2.00 to 6.00 mm", or why there is none; "" for a single image.
        orientation: "axial", "coronal", "sagittal", "axial, oblique by 16°", or "" where unknown.
        odd: sentences on what is odd about it.
        problem: why it cannot be used, "" where it can.
        chosen: whether it is used as things are set.
        description: all this in one line.
    """

    key: str
    number: int
    series_number: int | None
    name: str
    kind: str
    modality: str
    slices: int
    matrix: tuple[int, int] | None
    spacing_mm: tuple[float, float] | None
    slice_distance: str
    orientation: str
    odd: tuple[str, ...]
    problem: str
    chosen: bool
    description: str


def series_table(found: Discovery) -> list[SeriesFacts]:
    """Returns one line per scan: those that are used, then those that were left out."""
    used = [series_facts(source, chosen=True) for source in found.sources]
    return used + [series_facts(source, chosen=False) for source in found.left_out]


def series_facts(source: ImageSource, *, chosen: bool = True) -> SeriesFacts:
    """Returns the facts of one scan; reads no pixels."""
    description = describe_source(source)
    series = source.series
    if series is None:
        size = picture_size(source.files[0]) if source.kind == "raster" else None
        key = hashlib.sha256("|".join(file.name for file in source.images).encode()).hexdigest()[:8]
        kind = "volume file" if source.kind == "volume" else "pictures"
        count = len(source.files) if source.kind == "raster" else 0
        return SeriesFacts(
            key, source.number, None, source.name, kind, source.modality, count, size, None, "", "", source.warnings,
            "", chosen, description,
        )  # fmt: skip
    first = series.headers[0]
    geometry, _ = series_geometry(series.headers)
    return SeriesFacts(
        key=series.key,
        number=source.number,
        series_number=first.series_number,
        name=source.name,
        kind=series.kind,
        modality=series.modality,
        slices=len(series.headers),
        matrix=(first.rows, first.columns),
        spacing_mm=_rounded(geometry) if geometry.spacing_known else None,
        slice_distance=_distance(geometry),
        orientation=orientation_word(geometry),
        odd=source.warnings,
        problem=series.problem,
        chosen=chosen,
        description=description,
    )


def orientation_word(geometry: Geometry) -> str:
    """Returns "axial", "coronal" or "sagittal", with the angle to that plane where there is one; "" where unknown."""
    if not geometry.orientation_known:
        return ""
    cosines = np.abs(geometry.normal_xyz)
    axis = int(np.argmax(cosines))
    angle = math.degrees(math.acos(min(1.0, float(cosines[axis]))))
    plane = _PLANES[axis]
    return plane if angle < _STRAIGHT_DEGREES else f"{plane}, oblique by {angle:.0f}°"


def default_choice(found: Discovery) -> str:
    """Returns a sentence on which series are used as long as nobody chooses: all scans, no localizers, no screenshots."""
    if not any(source.series is not None for source in found.sources):
        return ""
    left = [source for source in found.left_out if source.series is not None]
    if sum(source.series is not None for source in found.sources) + len(left) == 1:
        return ""
    count = sum(source.series is None or not source.series.problem for source in found.sources)
    refused = len(found.sources) - count
    which = " that can be used" if refused else ""
    used = {
        0: "No scan can be used",
        1: f"The one scan{which} is used",
        2: f"Both scans{which} are used",
    }.get(count, f"All {count} scans{which} are used")
    more = f"; {_kinds(left)} left out" if left else ""
    return f"{used}{more}. {how_to_choose(found)}"


def how_to_choose(found: Discovery) -> str:
    """Returns a sentence on what the setting ``series`` takes here; its numbers begin anew in each folder."""
    if len(series_folders(found)) < 2:
        return "To choose, set series to a number of this list (or several, like 1,3)."
    return (
        "To choose, give the folder of the scan. The setting series counts within each folder: series = 2 takes the "
        "second scan of every folder."
    )


def _kinds(left: Sequence[ImageSource]) -> str:
    counts: dict[str, int] = {}
    for source in left:
        kind = source.series.kind if source.series is not None else "scan"
        counts[kind] = counts.get(kind, 0) + 1
    parts = [f"{n} {kind}" + ("s" if n > 1 else "") for kind, n in sorted(counts.items())]
    return " and ".join(parts) + (" is" if sum(counts.values()) == 1 else " are") if parts else ""


def _distance(geometry: Geometry) -> str:
    if geometry.shape_zyx[0] == 1:
        return ""
    if not geometry.positions_known:
        return "no slice positions"
    if not geometry.has_one_image_per_position:
        return "several images at one position"
    return geometry.spacing_text if not geometry.is_even else f"{geometry.spacing_zyx_mm[0]:.1f} mm"


def _rounded(geometry: Geometry) -> tuple[float, float]:
    row, column = geometry.spacing_zyx_mm[1:]
    return round(row, 6), round(column, 6)
