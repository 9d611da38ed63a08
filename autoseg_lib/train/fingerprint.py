"""The fingerprint of a data set: the numbers that its plan is made from (after nnU-Net, Isensee et al. 2021)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.errors import counted
from autoseg_lib.labels import LabelTable

# Percentiles of the grey values inside ROIs: nnU-Net's window, and the middle.
GREY_PERCENTILES = (0.5, 50.0, 99.5)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class RoiPrint:
    """One ROI over all scans.

    Attributes:
        name: of the ROI.
        scans: scans it is drawn in.
        slices: slices it is drawn in.
        share: share of all pixels.
        size_zyx_px: median length, height and width of the box around it in one scan, in slices and pixels.
        size_zyx_mm: the same in mm; None where pixel sizes or slice distances are unknown.
    """

    name: str
    scans: int
    slices: int
    share: float
    size_zyx_px: Triple | None
    size_zyx_mm: Triple | None


@dataclass(frozen=True)
class Fingerprint:
    """What a plan is made from.

    Attributes:
        scans, patients, slices: how many there are.
        modality: the most frequent; "" where files do not tell.
        shape_zyx: median number of slices, rows and columns.
        largest_zyx: largest number of each.
        spacing_zyx_mm: median distances of slices, rows and columns; None where any are unknown.
        spacing_low_mm, spacing_high_mm: the smallest and largest of each.
        anisotropy: median of the distance between slices over the pixel size; None where unknown.
        evenly_spaced: whether every scan's slices lie at known, equal distances.
        grey_values: grey values inside ROIs at GREY_PERCENTILES; None without any.
        grey_mean, grey_deviation: of the same grey values.
        background: share of pixels in no ROI.
        rois: each ROI.
    """

    scans: int
    patients: int
    slices: int
    modality: str
    shape_zyx: Triple
    largest_zyx: Triple
    spacing_zyx_mm: Triple | None
    spacing_low_mm: Triple | None
    spacing_high_mm: Triple | None
    anisotropy: float | None
    evenly_spaced: bool
    grey_values: Triple | None
    grey_mean: float | None
    grey_deviation: float | None
    background: float
    rois: tuple[RoiPrint, ...]

    @property
    def smallest_roi_mm(self) -> float | None:
        """Smallest side of the smallest ROI; None where unknown or nothing is drawn."""
        sizes = [min(roi.size_zyx_mm) for roi in self.rois if roi.size_zyx_mm]
        return min(sizes, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns the fingerprint as text lines."""
        words = [
            f"{counted(self.scans, 'scan')} of {counted(self.patients, 'patient')}",
            counted(self.slices, "slice"),
            self.modality or "modality unknown",
            " × ".join(f"{n:.0f}" for n in self.shape_zyx),
        ]
        if self.spacing_zyx_mm:
            words.append(" × ".join(f"{s:.3g}" for s in self.spacing_zyx_mm) + " mm")
        if self.grey_values:
            low, middle, high = self.grey_values
            words.append(f"grey values inside ROIs {low:.4g} to {high:.4g}, median {middle:.4g}")
        words.append(f"{100 * self.background:.1f} % background")
        return ["Your data: " + " · ".join(words), *(_roi_line(roi, self.scans) for roi in self.rois)]


def take_fingerprint(facts: Sequence[CaseFacts], labels: LabelTable) -> Fingerprint:
    """Returns the fingerprint of checked cases.

    Args:
        facts: of the data check.
        labels: the ROIs.
    """
    shapes = np.array([f.geometry.shape_zyx for f in facts], dtype=float)
    known = all(f.geometry.spacing_known and f.geometry.positions_known for f in facts)
    spacings = np.array([f.geometry.spacing_zyx_mm for f in facts]) if known else None
    greys = [f.roi_grey_values for f in facts if f.roi_grey_values is not None and f.roi_grey_values.size]
    grey = np.concatenate(greys).astype(np.float64) if greys else None
    pixels = float(shapes.prod(axis=1).sum())
    rois = tuple(_roi_print(facts, value, name, pixels, known) for value, name in _named(labels))
    return Fingerprint(
        scans=len(facts),
        patients=len({f.patient for f in facts}),
        slices=sum(len(f.slices) for f in facts),
        modality=most_common_modality(facts),
        shape_zyx=_triple(np.median(shapes, axis=0)),
        largest_zyx=_triple(shapes.max(axis=0)),
        spacing_zyx_mm=None if spacings is None else _triple(np.median(spacings, axis=0)),
        spacing_low_mm=None if spacings is None else _triple(spacings.min(axis=0)),
        spacing_high_mm=None if spacings is None else _triple(spacings.max(axis=0)),
        anisotropy=None
        if spacings is None
        else round(float(np.median(spacings[:, 0] / spacings[:, 1:].max(axis=1))), 4),
        evenly_spaced=all(f.geometry.is_even and f.geometry.positions_known for f in facts),
        grey_values=None if grey is None else _triple(np.percentile(grey, GREY_PERCENTILES)),
        grey_mean=None if grey is None else round(float(grey.mean()), 4),
        grey_deviation=None if grey is None else round(float(grey.std()), 4),
        background=round(1.0 - sum(roi.share for roi in rois), 6),
        rois=rois,
    )


def most_common_modality(facts: Sequence[CaseFacts]) -> str:
    """Returns DICOM's word for the kind of image that most scans are of; "" where files do not tell."""
    counts = Counter(f.modality for f in facts)
    return counts.most_common(1)[0][0] if counts else ""


def _named(labels: LabelTable) -> list[tuple[int, str]]:
    return list(zip(labels.values, labels.names, strict=True))


def _roi_print(facts: Sequence[CaseFacts], value: int, name: str, pixels: float, known: bool) -> RoiPrint:
    drawn = sum(s.rois[value].pixels for f in facts for s in f.slices if value in s.rois)
    boxes = [(f, box) for f in facts if (box := _box(f, value)) is not None]
    sizes = np.array([box for _, box in boxes], dtype=float)
    in_mm = (
        np.array([np.array(box) * f.geometry.spacing_zyx_mm for f, box in boxes]) if known and boxes else None
    )
    return RoiPrint(
        name=name,
        scans=len(boxes),
        slices=sum(value in s.rois for f in facts for s in f.slices),
        share=round(drawn / pixels, 6),
        size_zyx_px=_triple(np.median(sizes, axis=0)) if boxes else None,
        size_zyx_mm=None if in_mm is None else _triple(np.median(in_mm, axis=0)),
    )


def _box(facts: CaseFacts, value: int) -> tuple[int, int, int] | None:
    """Length, height and width of the box around an ROI in one scan, in slices and pixels."""
    found = [(number, s.rois[value].box) for number, s in enumerate(facts.slices) if value in s.rois]
    if not found:
        return None
    boxes = np.array([box for _, box in found])
    first, last = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    height, width = (last - first).tolist()
    return found[-1][0] - found[0][0] + 1, int(height), int(width)


def _triple(values: Any) -> Triple:
    a, b, c = (round(float(value), 4) for value in values)
    return a, b, c


def _roi_line(roi: RoiPrint, scans: int) -> str:
    if roi.size_zyx_px is None:
        return f"  {roi.name}: drawn nowhere"
    size = " × ".join(f"{n:.0f}" for n in (roi.size_zyx_mm or roi.size_zyx_px))
    unit = "mm" if roi.size_zyx_mm else "pixels"
    where = f"in {roi.scans} of {counted(scans, 'scan')}, {counted(roi.slices, 'slice')}"
    return f"  {roi.name}: {where}; about {size} {unit}; {100 * roi.share:.2g} % of all pixels"
