"""The eight ways to turn a slice in its plane, and their names in findings and fixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[Any]

# What is done to the last two axes (row, column). Quarter turns are anticlockwise as the picture is seen.
TRANSFORMS: Mapping[str, Callable[[Plane], Plane]] = {
    "flip left-right": lambda plane: plane[..., :, ::-1],
    "flip up-down": lambda plane: plane[..., ::-1, :],
    "rotate 90": lambda plane: np.rot90(plane, 1, axes=(-2, -1)),
    "rotate 180": lambda plane: np.rot90(plane, 2, axes=(-2, -1)),
    "rotate 270": lambda plane: np.rot90(plane, 3, axes=(-2, -1)),
    "transpose": lambda plane: np.swapaxes(plane, -2, -1),
    "transpose other diagonal": lambda plane: np.swapaxes(plane, -2, -1)[..., ::-1, ::-1],
}


def transformed(plane: Plane, name: str) -> Plane:
    """Returns a slice, or a stack of slices, turned as ``name`` says.

    Raises:
        KeyError: there is no such transformation.
    """
    return np.ascontiguousarray(TRANSFORMS[name](plane))
