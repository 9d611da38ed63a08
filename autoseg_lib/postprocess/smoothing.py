"""Smoothing the border between ROIs and background, in mm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.pieces import boxes
from autoseg_lib.postprocess.sizes import (
    Box,
    Labels,
    Per,
    grown_box,
    pixel_sizes,
    require_mm,
    require_straight,
    size_text,
)
from autoseg_lib.postprocess.step import PER, ROIS, Rois, Step, chosen, doubled
from autoseg_lib.preprocess.operations import Operation, Parameter

Floats = npt.NDArray[np.float32]
# Beyond so many standard deviations a Gaussian weighs less than 0.3 % of its middle.
_GAUSSIAN_REACH = 3.5
# A pixel changes hands only for a real difference, not for the rounding of float32 sums.
_LEAST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Smooth(Step):
    """Smooths ROIs: each pixel goes to whichever of the background and the ROIs has most of its surroundings.

    Pixels of ROIs that are not listed neither change nor count, so a border with them stays where it is. What lies at the
    scan's edge is taken to go on beyond it. Exactly one of the two sizes is given.

    Attributes:
        rois: the ROIs.
        sigma_mm: surroundings weighed by a Gaussian of this standard deviation.
        median_radius_mm: surroundings within this radius, all counting alike.
        per: "scan" in three dimensions, "slice" within each slice.
    """

    operation: ClassVar[Operation] = Operation(
        "smooth",
        "after",
        "Smooths ROIs: each pixel goes to whichever of the background and these ROIs has most of its surroundings. Pixels of "
        "other ROIs neither change nor count. One of the two sizes is given.",
        (
            ROIS,
            Parameter(
                "sigma_mm",
                "number",
                "surroundings weighed by a Gaussian of this standard deviation",
                None,
                "mm",
                0,
                100,
                above=True,
                optional=True,
            ),
            Parameter(
                "median_radius_mm",
                "number",
                "surroundings within this radius, all counting alike",
                None,
                "mm",
                0,
                100,
                above=True,
                optional=True,
            ),
            PER,
        ),
        {"step": "smooth", "rois": ["liver"], "sigma_mm": 1.5},
    )
    rois: Rois = "all"
    sigma_mm: float | None = None
    median_radius_mm: float | None = None
    per: Per = "scan"

    def problems(self) -> list[str]:
        problems = [doubled("rois", self.rois)]
        if (self.sigma_mm is None) == (self.median_radius_mm is None):
            found = "neither" if self.sigma_mm is None else "both"
            problems.append(f"sigma_mm or median_radius_mm is expected, found {found}")
        return problems

    def apply(self, array: Labels, geometry: Geometry, labels: LabelTable) -> list[str]:
        option = "sigma_mm" if self.sigma_mm is not None else "median_radius_mm"
        require_mm(geometry, self.per, self.operation.name, option)
        require_straight(geometry, self.per, self.operation.name)
        if self.per == "scan" and not geometry.is_even:
            raise GeometryError(
                f"post-processing step '{self.operation.name}': the slices lie {geometry.spacing_text} apart, and smoothing across them "
                'needs even distances. Let the step work slice by slice (per = "slice"), or take it out.'
            )
        there = boxes(array, chosen(self.rois, labels))
        if not there:
            return []
        blur, reach = self._filter(geometry)
        joint = there[0][1]
        for _, box in there[1:]:
            joint = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(joint, box, strict=True)
            )  # type: ignore[assignment]
        joint = grown_box(joint, [2 * r for r in reach], array.shape)
        part = array[joint]
        result = _smoothed(part, [label.value for label, _ in there], blur)
        each, unit = pixel_sizes(geometry, self.per)
        notes = []
        for label, _ in there:
            changed = (part == label.value) != (result == label.value)
            if changed.any():
                size = size_text(float((changed.sum(axis=(1, 2)) * each[joint[0]]).sum()), unit)
                notes.append(f"smoothed {label.name} ({size} changed)")
        array[joint] = result
        return notes

    def _filter(self, geometry: Geometry) -> tuple[Callable[[Floats], Floats], tuple[int, int, int]]:
        """Returns what averages an indicator over the surroundings, and how many pixels it reaches."""
        from scipy import ndimage

        spacing = np.array(geometry.spacing_zyx_mm)
        if self.sigma_mm is not None:
            sigma = self.sigma_mm / spacing
            if self.per == "slice":
                sigma[0] = 0
            reach = np.ceil(_GAUSSIAN_REACH * sigma).astype(int)

            def blur(values: Floats) -> Floats:
                return np.asarray(
                    ndimage.gaussian_filter(values, tuple(sigma), mode="nearest", truncate=_GAUSSIAN_REACH)
                )

            return blur, (int(reach[0]), int(reach[1]), int(reach[2]))
        radius = float(self.median_radius_mm or 0)
        reach = np.floor(radius / spacing + 1e-6).astype(int)
        if self.per == "slice":
            reach[0] = 0
        kernel = ball(radius, geometry, (int(reach[0]), int(reach[1]), int(reach[2])))
        return (lambda values: _mean_over(values, kernel)), (int(reach[0]), int(reach[1]), int(reach[2]))


def ball(radius_mm: float, geometry: Geometry, reach: tuple[int, int, int]) -> Floats:
    """Returns the (2 n + 1, ...) pixels whose centres lie within ``radius_mm``, as weights that sum to 1."""
    steps = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    squared = sum((axis * mm) ** 2 for axis, mm in zip(steps, geometry.spacing_zyx_mm, strict=True))
    kernel = np.asarray(squared <= (radius_mm + 1e-6) ** 2, dtype=np.float32)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def _mean_over(values: Floats, kernel: Floats) -> Floats:
    from scipy import signal

    ends = [(size // 2, size // 2) for size in kernel.shape]
    padded = np.pad(values, ends, mode="edge")
    return np.asarray(signal.fftconvolve(padded, kernel, mode="valid"), dtype=np.float32)


def _smoothed(part: Labels, values: list[int], blur: Callable[[Floats], Floats]) -> Labels:
    """Each pixel of the ROIs or the background goes to the one with the largest mean; the present one wins a tie."""
    own = np.zeros(part.shape, np.float32)
    best, winner = np.full(part.shape, -1.0, np.float32), part.copy()
    # One mean at a time, so that memory does not grow with the number of ROIs.
    for value in (0, *values):
        here = part == value
        mean = blur(here.astype(np.float32))
        np.copyto(own, mean, where=here)
        better = ~here & (mean > best)
        np.copyto(best, mean, where=better)
        winner[better] = value
    changes = np.isin(part, [0, *values]) & (best > own + _LEAST_DIFFERENCE)
    return np.asarray(np.where(changes, winner, part), dtype=part.dtype)


__all__ = ["Box", "Smooth", "ball"]
