"""Do not trust: reasons to look at a slice or a scan again, each in plain words.

Nothing is flagged without a reason that a reader can check in the picture. Every limit is a named constant with its source, or
was learned from the training scans and is kept in the model file. Reasons on one ROI of one slice: ``slice_flags.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.measure.calibration import Calibration
from autoseg_lib.measure.scan_facts import ScanFacts, scan_facts
from autoseg_lib.measure.slice_flags import UNUSUAL_SHARE, slice_flags
from autoseg_lib.measure.softness import SoftCounts
from autoseg_lib.measure.training_facts import RoiRanges, TrainingFacts
from autoseg_lib.measure.volumes import VolumeMeasurement
from autoseg_lib.preprocess.pipeline import plane_of

__all__ = ["ScanFacts", "TrainingFacts", "add_flags", "scan_facts"]

# Sizes that a network learns from by augmentation in nnU-Net reach from 0.7 to 1.4 times those of the training scans (Isensee
# et al., Nature Methods 2021, supplementary note 4); beyond, it has not seen the like.
SMALLER, LARGER = 0.7, 1.4

# Grey values count as unlike beyond the training scans' range by this share of the scan's dark-to-bright way (or of the range's
# own width, if that is more). See docs/trust.md for what this found and did not find.
GREY_MARGIN = 0.15
# The same for CT, in HU: fat and muscle lie 150 HU apart, contrast agents lift organs by about 50.
CT_MARGIN_HU = 50.0

# A volume outside the training scans' range by this factor. Ranges of few scans say little.
VOLUME_FACTOR, FEWEST_FOR_RANGES = 1.5, 10

# A volume's error bar is wide when it is as large as the volume (± 50 %): then doubling cannot be told from no change.
WIDE_VOLUME = 1.0

# Slices thicker than this many pixels make a 3D model see another picture in another plane (nnU-Net: 3 calls a scan anisotropic).
ANISOTROPIC = 3.0


def add_flags(
    rows: Sequence[SliceMeasurement],
    volumes: Sequence[VolumeMeasurement],
    scan: ScanFacts,
    training: TrainingFacts,
    labels: LabelTable,
    soft: SoftCounts | None = None,
    calibration: Calibration | None = None,
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement], tuple[str, ...]]:
    """Fills ``flag`` of rows and volumes; after ``add_intervals`` and all other measuring.

    Args:
        rows: of measurements.csv, slice by slice, ROIs in label order.
        volumes: of volumes.csv, ROIs in label order.
        scan: see scan_facts.
        training: of the model file (``TrainingFacts.from_metadata(metadata)``).
        labels: the ROIs.
        soft: likely and sure pixels, where there are any.
        calibration: of the model file.

    Returns:
        rows and volumes with reasons joined by "; ", and the reasons not to trust the scan as a whole.
    """
    count = len(labels)
    limits = (None if calibration is None else calibration.unsure_above) or (None,) * count
    of_rows: list[list[str]] = [[] for _ in rows]
    of_volumes: list[list[str]] = []
    for i, label in enumerate(labels):
        known = training.rois.get(label.name, RoiRanges())
        counts = None if soft is None else (soft.likely[:, i], soft.sure[:, i])
        for k, reasons in enumerate(slice_flags(rows[i::count], scan.geometry, known, counts, limits[i])):
            of_rows[k * count + i] += reasons
        of_volumes.append(_volume_flags(rows[i::count], volumes[i], known, training))
    swapped = _swapped(rows, volumes, scan, labels, of_rows, of_volumes)
    of_scan = (*_unlike(scan, training), *swapped)
    return (
        [replace(row, flag="; ".join(reasons)) for row, reasons in zip(rows, of_rows, strict=True)],
        [replace(row, flag="; ".join(reasons)) for row, reasons in zip(volumes, of_volumes, strict=True)],
        of_scan,
    )


# --- one ROI of a scan --------------------------------------------------------------------------------------------------


def _volume_flags(
    rows: Sequence[SliceMeasurement], volume: VolumeMeasurement, known: RoiRanges, training: TrainingFacts
) -> list[str]:
    enough = training.scans >= FEWEST_FOR_RANGES
    if not volume.voxels:
        always = enough and known.found_share is not None and known.found_share > 1 - UNUSUAL_SHARE
        return ["not found, though the training scans have it"] if always else []
    reasons = []
    low, high, value = volume.volume_ml_low, volume.volume_ml_high, volume.volume_ml
    if low is not None and high is not None and value and high - low > WIDE_VOLUME * value:
        reasons.append(f"the error bar is wide ({low:.2f} to {high:.2f} ml)")
    if enough and value is not None and known.volume_ml is not None:
        least, most = known.volume_ml
        if not least / VOLUME_FACTOR <= value <= most * VOLUME_FACTOR:
            reasons.append(f"{value:.2f} ml is unlike the training scans ({least:.2f} to {most:.2f} ml)")
    if known.end_share is not None and known.end_share < UNUSUAL_SHARE and len(rows) > 1:
        ends = [rows[k].slice_number for k in (0, -1) if rows[k].pixels]
        if ends:
            which = " and ".join(map(str, ends))
            reasons.append(f"reaches the end of the scan (slice {which}): a part of it may lie outside")
    return reasons


# --- left and right -----------------------------------------------------------------------------------------------------


def _swapped(
    rows: Sequence[SliceMeasurement],
    volumes: Sequence[VolumeMeasurement],
    scan: ScanFacts,
    labels: LabelTable,
    of_rows: list[list[str]],
    of_volumes: list[list[str]],
) -> list[str]:
    """The patient's left has the larger x in LPS; a left ROI that lies to the right of its right partner is marked with it."""
    if not scan.geometry.orientation_known:
        return []
    count, found = len(labels), []
    for left, right in labels.left_right_pairs:
        names = f"'{labels[left - 1].name}' and '{labels[right - 1].name}'"
        text = f"left and right may be swapped: {names} lie on each other's side"
        for first in range(0, len(rows), count):
            places = [rows[first + value - 1].centroid_x_mm for value in (left, right)]
            if places[0] is not None and places[1] is not None and places[0] < places[1]:
                of_rows[first + left - 1].append(text)
                of_rows[first + right - 1].append(text)
        middles = [_middle_x(rows[value - 1 :: count]) for value in (left, right)]
        if middles[0] is not None and middles[1] is not None and middles[0] < middles[1]:
            of_volumes[left - 1].append(text)
            of_volumes[right - 1].append(text)
            found.append(text)
    return found


def _middle_x(rows: Sequence[SliceMeasurement]) -> float | None:
    """The middle of an ROI over all slices, by pixels."""
    placed = [(row.centroid_x_mm, row.pixels) for row in rows if row.centroid_x_mm is not None and row.pixels]
    return float(np.average([x for x, _ in placed], weights=[n for _, n in placed])) if placed else None


# --- the scan as a whole ------------------------------------------------------------------------------------------------


def _unlike(scan: ScanFacts, training: TrainingFacts) -> list[str]:
    reasons = []
    if training.modality and scan.modality and scan.modality not in training.modality.split("/"):
        reasons.append(f"this is a {scan.modality} scan, and the model was trained on {training.modality}")
    return [*reasons, *_unlike_grid(scan, training), *_unlike_grey(scan, training)]


def _unlike_grid(scan: ScanFacts, training: TrainingFacts) -> list[str]:
    geometry, reasons = scan.geometry, []
    slice_mm, row_mm, column_mm = geometry.spacing_zyx_mm
    plane = plane_of(geometry)
    thick = training.slice_mm is not None and training.pixel_mm is not None
    thick = thick and training.slice_mm[0] >= ANISOTROPIC * training.pixel_mm[1]  # type: ignore[index]
    if training.planes and (training.dimension == "2D" or thick):
        trained = " and ".join(training.planes)
        if plane is None:
            reasons.append(f"the files do not tell how the patient lies; the training scans were {trained}")
        elif plane not in training.planes:
            reasons.append(f"the slices are {plane}, and the model was trained on {trained} ones")
    if geometry.spacing_known and training.dimension == "2D":
        sides = (geometry.shape_zyx[1] * row_mm, geometry.shape_zyx[2] * column_mm)
        reasons += _beyond("the image is {} wide", max(sides), training.field_mm)
    if geometry.spacing_known and training.dimension == "3D":
        reasons += _beyond("the pixels are {} wide", max(row_mm, column_mm), training.pixel_mm)
        if geometry.positions_known and geometry.shape_zyx[0] > 1:
            reasons += _beyond("the slices lie {} apart", slice_mm, training.slice_mm)
    return reasons


def _beyond(text: str, value: float, trained: tuple[float, float] | None) -> list[str]:
    if trained is None or SMALLER * trained[0] <= value <= LARGER * trained[1]:
        return []
    low, high = (f"{each:.3g}" for each in trained)
    was = f"{low} mm" if low == high else f"{low} to {high} mm"
    return [f"{text.format(f'{value:.3g} mm')}, and in the training scans it was {was}"]


def _unlike_grey(scan: ScanFacts, training: TrainingFacts) -> list[str]:
    if training.scans < FEWEST_FOR_RANGES:
        return []
    absolute = "inside_level" in training.grey
    words = {
        "middle": "the picture as a whole is darker or brighter",
        "inside": "the ROIs are darker or brighter against the rest of the picture",
        "inside_level": "the grey values of the ROIs are others",
    }
    for name, text in words.items():
        value, trained = scan.grey.get(name), training.grey.get(name)
        if value is None or trained is None or (absolute and name != "inside_level"):
            continue
        low, high = trained
        margin = max(CT_MARGIN_HU if name == "inside_level" else GREY_MARGIN, (high - low) / 2)
        if not low - margin <= value <= high + margin:
            return [f"{text} than in the training scans ({value:.2f}; there {low:.2f} to {high:.2f})"]
    return []
