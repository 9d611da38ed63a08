"""Shapes with closed formulas, drawn on any grid: a pixel belongs to a shape when its centre does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ellipe, ellipeinc, ellipkinc

from autoseg_lib.geometry import Geometry
from autoseg_lib.volume import Mask


def grid(shape: Sequence[int], spacing_zyx_mm: Sequence[float]) -> Geometry:
    """An axial grid with everything known."""
    return Geometry.from_spacing(
        shape, spacing_zyx_mm, spacing_known=True, positions_known=True, orientation_known=True
    )


def ellipse_perimeter(a: float, b: float) -> float:
    """4 a E(1 - b²/a²), the complete elliptic integral of the second kind."""
    long, short = max(a, b), min(a, b)
    return float(4 * long * ellipe(1 - (short / long) ** 2))


def ellipsoid_surface(a: float, b: float, c: float) -> float:
    """Legendre's formula with the incomplete elliptic integrals."""
    a, b, c = sorted((a, b, c), reverse=True)
    if a - c < 1e-12:
        return float(4 * np.pi * a * a)
    phi = np.arccos(c / a)
    k2 = a * a * (b * b - c * c) / (b * b * (a * a - c * c))
    inner = ellipeinc(phi, k2) * np.sin(phi) ** 2 + ellipkinc(phi, k2) * np.cos(phi) ** 2
    return float(2 * np.pi * c * c + 2 * np.pi * a * b / np.sin(phi) * inner)


def ellipse_mask(
    a: float, b: float, turn_degrees: float, spacing_mm: Sequence[float], shift: Sequence[float] = (0.0, 0.0)
) -> Mask:
    """One slice with an ellipse of half-axes a and b in mm, turned in the plane, moved by a part of a pixel."""
    reach = max(a, b) + 3 * max(spacing_mm)
    rows, columns = (int(2 * reach / step) + 1 for step in spacing_mm)
    y = (np.arange(rows) - rows / 2 + shift[0]) * spacing_mm[0]
    x = (np.arange(columns) - columns / 2 + shift[1]) * spacing_mm[1]
    y, x = np.meshgrid(y, x, indexing="ij")
    turn = np.radians(turn_degrees)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = ((u / a) ** 2 + (v / b) ** 2 <= 1).astype(np.uint8)[None]
    return Mask(inside, grid(inside.shape, (5.0, *spacing_mm)))


def points_zyx(shape: Sequence[int], spacing_zyx_mm: Sequence[float]) -> list[np.ndarray]:
    """Distances in mm of all pixel centres from the middle of the block, along z, y and x."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_zyx_mm, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def ellipsoid_mask(half_axes_mm: Sequence[float], spacing_zyx_mm: Sequence[float], turn: np.ndarray) -> Mask:
    """An ellipsoid, its axes turned by a (3, 3) rotation."""
    reach = max(half_axes_mm)
    shape = [int(2 * (reach + 3 * step) / step) + 1 for step in spacing_zyx_mm]
    at = np.stack(points_zyx(shape, spacing_zyx_mm), axis=-1) @ turn
    inside = ((at / np.asarray(half_axes_mm)) ** 2).sum(axis=-1) <= 1
    return Mask(inside.astype(np.uint8), grid(shape, spacing_zyx_mm))


def tilted_tube(
    radius_mm: float, tilt_degrees: float, turn_degrees: float, spacing_zyx_mm: Sequence[float], slices: int
) -> Mask:
    """A round tube that goes through all slices at an angle to their normal; the angle lies in any plane."""
    length = slices * spacing_zyx_mm[0]
    reach = length / 2 * np.tan(np.radians(tilt_degrees)) + radius_mm / np.cos(np.radians(tilt_degrees)) + 4
    shape = [slices, *(int(2 * reach / step) + 1 for step in spacing_zyx_mm[1:])]
    z, y, x = points_zyx(shape, spacing_zyx_mm)
    tilt, turn = np.radians(tilt_degrees), np.radians(turn_degrees)
    axis = np.array([np.cos(tilt), np.sin(tilt) * np.sin(turn), np.sin(tilt) * np.cos(turn)])
    along = z * axis[0] + y * axis[1] + x * axis[2]
    squared = z**2 + y**2 + x**2 - along**2
    inside = (squared <= radius_mm**2).astype(np.uint8)
    return Mask(inside, grid(shape, spacing_zyx_mm))
