"""Grids in every orientation, and a body with a left and a right, small enough to think through."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from autoseg_lib.geometry import Geometry

# (slice, row, column): three different sizes and spacings, so that a mix-up of axes cannot stay hidden.
SHAPE = (5, 7, 9)
SPACING_MM = (4.0, 0.75, 1.25)


def turn(degrees: float = 20.0) -> np.ndarray:
    """(3, 3) rotation about a skew axis; up to some 30 degrees the closest patient axes stay the same."""
    axis = np.array([0.48, 0.6, 0.64])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def all_orientations(degrees: float = 0.0, shape: tuple[int, int, int] = SHAPE) -> list[Geometry]:
    """The 48 ways in which array axes can lie along the patient's axes, each turned by ``degrees``."""
    grids = []
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        directions = np.zeros((3, 3))
        for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            directions[axis, column] = sign * SPACING_MM[column]
        affine[:3, :3] = turn(degrees) @ directions
        affine[:3, 3] = (-31.5, 12.25, 103.0)
        grids.append(Geometry(shape, affine))
    return grids


def two_sided_body(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An axial body (slices to S, rows to P, columns to L): left organ bright (value 1), right organ dark (value 2).

    Returns:
        image (float32) and label (uint8): background 0, body 1 to 2, left organ 5 with label 1, right organ 3 with
        label 2, spine 4 with label 3 in the middle.
    """
    _, rows, columns = shape
    image = np.ones(shape, np.float32)
    label = np.zeros(shape, np.uint8)
    high, wide = slice(rows // 4, rows // 2), columns // 4
    # Columns grow towards the patient's left.
    image[:, high, -2 * wide + wide // 2 : -wide // 2], label[:, high, -2 * wide + wide // 2 : -wide // 2] = (
        5,
        1,
    )
    image[:, high, wide // 2 : 2 * wide - wide // 2], label[:, high, wide // 2 : 2 * wide - wide // 2] = 3, 2
    middle = slice(columns // 2 - 2, columns // 2 + 2)
    image[:, 3 * rows // 4 :, middle], label[:, 3 * rows // 4 :, middle] = 4, 3
    return image, label
