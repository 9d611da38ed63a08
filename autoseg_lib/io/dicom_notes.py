"""What is odd about a series, in sentences: for the series table, the data check and the report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autoseg_lib.io.dicom_geometry import series_geometry
from autoseg_lib.io.slice_header import SliceHeader

# Modalities that project the body onto a detector.
_PROJECTIONS = {"CR", "DX", "MG", "RF", "XA", "PX", "IO"}
# Image numbers that are missing are spelled out up to this many.
_NUMBERS_SHOWN = 5


def series_notes(headers: Sequence[SliceHeader], doubles: int = 0) -> list[str]:
    """Returns the sentences for one series.

    Args:
        headers: its slices, sorted.
        doubles: images that were left out because they are there twice.
    """
    first = headers[0]
    geometry, notes = series_geometry(headers)
    notes = [*_folder_notes(headers), *notes]
    if doubles:
        images = "1 image is" if doubles == 1 else f"{doubles} images are"
        notes.append(f"{images} there twice with equal pixels at one position; each is used once.")
    if geometry.positions_known and not geometry.has_one_image_per_position:
        notes += _differences(headers)
    if first.position_xyz_mm is None and len(headers) > 1 and first.frame is None:
        notes += _number_notes(headers)
    frames = {header.frame_of_reference_uid for header in headers if header.frame_of_reference_uid}
    # Where each image has one of its own, somebody has replaced the UIDs, and they say nothing.
    if 1 < len(frames) <= len(headers) / 2 and geometry.positions_known:
        notes.append(
            f"its slices name {len(frames)} frames of reference; their positions may not belong together."
        )
    return [*notes, *_header_notes(headers), *_pixel_notes(headers)]


def _folder_notes(headers: Sequence[SliceHeader]) -> list[str]:
    count = len({header.path.parent for header in headers})
    return [f"its slices lie in {count} folders; they were put together to one scan."] if count > 1 else []


def _differences(headers: Sequence[SliceHeader]) -> list[str]:
    """Returns in what the images at one position differ."""
    found = []
    for name, values in (
        ("echo times", {header.echo_time_ms for header in headers}),
        ("b-values", {header.b_value for header in headers}),
    ):
        if len(values) > 1:
            found.append(f"{len(values)} {name}")
    return [f"its images differ in {' and '.join(found)}."] if found else []


def _number_notes(headers: Sequence[SliceHeader]) -> list[str]:
    """Returns what is odd about image numbers, by which slices without a position are ordered."""
    numbers = [header.instance_number for header in headers]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return ["some images have no number; those are ordered by file name."]
    twice = [number for number, count in Counter(known).items() if count > 1]
    if twice:
        return [f"image number {twice[0]} is there more than once; equal numbers are ordered by file name."]
    span = max(known) - min(known) + 1
    if span > len(known) and span <= 2 * len(known):
        gone = [number for number in range(min(known), max(known) + 1) if number not in set(known)]
        shown = ", ".join(map(str, gone[:_NUMBERS_SHOWN])) + (" ..." if len(gone) > _NUMBERS_SHOWN else "")
        return [f"image numbers {shown} are missing. Slices may be missing."]
    return []


def _header_notes(headers: Sequence[SliceHeader]) -> list[str]:
    """Returns the notes of the single headers, each once, with how many slices it is about."""
    counts = Counter(note for header in headers for note in header.notes)
    notes = []
    for note, count in counts.items():
        few = count < len(headers)
        notes.append(f"{note.rstrip('.')} (in {count} of {len(headers)} images)." if few else note)
    return notes


def _pixel_notes(headers: Sequence[SliceHeader]) -> list[str]:
    header = headers[0]
    notes = []
    if header.pixels.photometric == "MONOCHROME1" and header.modality != "CT":
        notes.append("stored with bright as small numbers (MONOCHROME1); the grey values were turned round.")
    if header.modality in _PROJECTIONS and header.pixel_spacing_mm is not None:
        notes.append("a projection (X-ray) image: sizes in mm hold at one distance from the detector only.")
        if header.at_detector:
            notes.append(
                "the pixel spacing is that of the detector, not corrected for magnification; sizes come out too large."
            )
    if any(h.pixels.lossy for h in headers):
        notes.append("compressed with loss at some time; grey values differ a little from the scanner's.")
    return notes
