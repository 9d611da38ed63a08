"""2D or 3D, and the grid the network works on: voxel size, patch or image size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.errors import DataError, SettingsError, counted
from autoseg_lib.networks.registry import fitting_shape
from autoseg_lib.preprocess.pipeline import ORIENTATION_3D
from autoseg_lib.settings import AUTO
from autoseg_lib.train.choosing import Chooser
from autoseg_lib.train.defaults import (
    FEWEST_SLICES_3D,
    LARGEST_PATCH_SHARE_2D,
    LARGEST_SCAN,
    LARGEST_SIDE,
    MOST_ANISOTROPY_3D,
    PATCH_ENCODERS_2D,
    PATCH_NETWORKS_2D,
    PATCH_PER_ROIS_2D,
    PATCH_VOXELS,
    SMALLEST_PATCH_2D,
)
from autoseg_lib.train.machine import Machine

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


def choose_dimension(facts: Sequence[CaseFacts]) -> tuple[str, str]:
    """Returns ("2D" or "3D", why)."""
    for f in facts:
        if len(f.counts) < FEWEST_SLICES_3D:
            return (
                "2D",
                f"a scan has {counted(len(f.counts), 'slice')}; 3D needs at least {FEWEST_SLICES_3D} in every scan",
            )
        if not f.geometry.is_even or not f.geometry.positions_known:
            return "2D", "slices are not evenly spaced, or their distances unknown"
    ratios = [f.geometry.spacing_zyx_mm[0] / max(f.geometry.spacing_zyx_mm[1:]) for f in facts]
    if float(np.median(ratios)) > MOST_ANISOTROPY_3D:
        return "2D", f"slices lie {np.median(ratios):.1f} times further apart than pixels"
    return "3D", "whole scans with slices about as close as pixels"


def check_dimension(dimension: str, facts: Sequence[CaseFacts]) -> None:
    """Raises DataError when 3D was asked for and the scans are no volumes."""
    if dimension != "3D":
        return
    thin = [f for f in facts if len(f.counts) < 3]
    if thin:
        raise DataError(
            f"dimension = \"3D\": '{thin[0].name}' has {counted(len(thin[0].counts), 'slice')}; whole scans are expected. "
            'Set dimension = "2D", or put the slices of each scan in a folder of their own.'
        )


def choose_input_shape(
    chooser: Chooser, network: str, multiple: int, facts: Sequence[CaseFacts], machine: Machine
) -> tuple[int, int]:
    """Returns rows and columns of the 2D network's image."""
    largest = LARGEST_SIDE[machine.kind]
    longest = int(np.median([max(f.geometry.shape_zyx[1:]) for f in facts]))
    # The nearest multiple: at most a tenth coarser than the scan, and often a third quicker than the next larger one.
    side = int(np.clip(round(longest / multiple) * multiple, 2 * multiple, largest))
    side = fitting_shape("2D", network, (side,))[0] if side % multiple else side
    reason = f"images have {longest} pixels along their longer side"
    if side < longest:
        reason += f"; {largest} is quick on this computer" if side == largest else "; the nearest that fits"
    shape = chooser.choose("input_shape", [side, side], reason)
    return (int(shape), int(shape)) if isinstance(shape, int) else (int(shape[0]), int(shape[1]))


def choose_slice_patch(
    chooser: Chooser,
    network: str,
    encoder: str,
    multiple: int,
    facts: Sequence[CaseFacts],
    image: tuple[int, int],
) -> tuple[int, int]:
    """Returns rows and columns of the part of a slice that a 2D network learns from; the image's own for whole slices.

    Raises:
        SettingsError: the patch that was asked for is larger than the image.
    """
    auto, reason = list(image), "whole slices"
    longest = longest_rois(facts, image)
    if network in PATCH_NETWORKS_2D and encoder.startswith(PATCH_ENCODERS_2D) and longest is not None:
        side = max(SMALLEST_PATCH_2D, PATCH_PER_ROIS_2D * longest)
        side = math.ceil(side / multiple) * multiple
        if side <= LARGEST_PATCH_SHARE_2D * min(image):
            auto = [side, side]
            reason = f"ROIs reach over {longest:.0f} pixels of a slice: parts are learned faster; whole slices are predicted"
        else:
            reason = f"whole slices: ROIs reach over {longest:.0f} of their pixels"
    patch = chooser.choose("patch_size", auto, reason)
    rows, columns = (int(patch), int(patch)) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
    if rows > image[0] or columns > image[1]:
        raise SettingsError(
            f"patch_size: found {rows} × {columns}; input_shape is {image[0]} × {image[1]}. A patch is a part of the slice: use "
            "a smaller patch_size, or a larger input_shape."
        )
    return rows, columns


def longest_rois(facts: Sequence[CaseFacts], image: tuple[int, int]) -> float | None:
    """Returns the longer side of the box around all ROIs of a slice, in pixels of the network's image.

    Of 100 slices 95 have a smaller one. None where nothing is drawn.
    """
    sides = []
    for f in facts:
        sizes, pixel = np.array(f.geometry.shape_zyx[1:]), np.array(f.geometry.spacing_zyx_mm[1:])
        # Slices are scaled alike in both directions until they fill the image.
        network_pixel = float((sizes * pixel / np.array(image)).max())
        for boxes in ([roi.box for roi in s.rois.values()] for s in f.slices if s.rois):
            corners = np.array(boxes)
            box = corners[:, 2:].max(axis=0) - corners[:, :2].min(axis=0)
            sides.append(float((box * pixel).max()) / network_pixel)
    return float(np.percentile(sides, 95)) if sides else None


def choose_spacing(chooser: Chooser, facts: Sequence[CaseFacts], machine: Machine) -> Spacing | None:
    """Returns the voxel size along S, P, L; None where scans are used as they are.

    Raises:
        SettingsError: two numbers were given.
    """
    if chooser.settings.spacing_mm == AUTO and not all(
        f.geometry.spacing_known and f.geometry.positions_known for f in facts
    ):
        chooser.choose("spacing_mm", None, "pixel sizes are unknown: scans are used as they are")
        return None
    turned = [
        f.geometry.oriented(ORIENTATION_3D) if f.geometry.orientation_known else f.geometry for f in facts
    ]
    median = np.median([g.spacing_zyx_mm for g in turned], axis=0)
    extent = np.median([np.array(g.spacing_zyx_mm) * g.shape_zyx for g in turned], axis=0)
    auto = [round(float(s), 3) for s in np.maximum(median, extent / LARGEST_SCAN[machine.kind])]
    coarser = any(a > m * 1.01 for a, m in zip(auto, median, strict=True))
    reason = "median of the scans" + (", coarser so that a scan fits this computer" if coarser else "")
    spacing = chooser.choose("spacing_mm", auto, reason)
    if spacing is None:
        return None
    if isinstance(spacing, float | int):
        return (float(spacing),) * 3
    if len(spacing) == 2:
        raise SettingsError(
            f"spacing_mm = {spacing}: 3D needs one number or three (slices, rows, columns), e.g. [3.0, 1.0, 1.0]."
        )
    return float(spacing[0]), float(spacing[1]), float(spacing[2])


def shapes_on_grid(facts: Sequence[CaseFacts], spacing: Spacing | None) -> list[Shape]:
    """Returns slices, rows and columns of each scan on the 3D network's grid."""
    return [_shape_on_grid(f, spacing) for f in facts]


def _shape_on_grid(facts: CaseFacts, spacing: Spacing | None) -> Shape:
    geometry = facts.geometry.oriented(ORIENTATION_3D) if facts.geometry.orientation_known else facts.geometry
    return geometry.respaced(spacing).shape_zyx if spacing else geometry.shape_zyx


def choose_patch(
    chooser: Chooser,
    multiple: int,
    shapes: Sequence[Shape],
    spacing: Spacing | None,
    machine: Machine,
) -> Shape:
    """Returns slices, rows and columns of a 3D patch: a whole scan where that is small enough, else about as long in mm."""
    sizes = np.median(shapes, axis=0).tolist()
    voxels = PATCH_VOXELS[machine.kind]
    auto = _rounded_up(sizes, multiple)
    text = f"scans have about {' × '.join(f'{n:.0f}' for n in sizes)} voxels"
    if math.prod(auto) <= voxels:
        reason = f"{text}: a whole scan fits"
    else:
        auto = _cut_to(sizes, spacing or (1.0, 1.0, 1.0), multiple, voxels)
        reason = (
            f"{text}; about as long along each axis, and {voxels / 1e6:.2g} million voxels suit this computer"
        )
    patch = chooser.choose("patch_size", list(auto), reason)
    return (int(patch),) * 3 if isinstance(patch, int) else (int(patch[0]), int(patch[1]), int(patch[2]))


def _rounded_up(sizes: Sequence[float], multiple: int) -> tuple[int, ...]:
    return tuple(max(2, math.ceil(n / multiple)) * multiple for n in sizes)


def _cut_to(sizes: Sequence[float], spacing: Spacing, multiple: int, voxels: int) -> Shape:
    """The longest patch, alike in mm along each axis and no longer than a scan, of at most ``voxels``."""
    whole = _rounded_up(sizes, multiple)
    best = (2 * multiple,) * 3
    finest = min(spacing)
    for side in range(2 * multiple, max(whole) + 1, multiple):
        wanted = [max(2, round(side * finest / s / multiple)) * multiple for s in spacing]
        patch = tuple(min(n, most) for n, most in zip(wanted, whole, strict=True))
        if math.prod(patch) <= voxels:
            best = (patch[0], patch[1], patch[2])
    return best
