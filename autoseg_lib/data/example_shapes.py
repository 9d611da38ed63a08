"""Plane shapes whose area is known by formula: ellipses, ellipses cut by a line, rings between two ellipses.

Points are (u, v) in mm in the slice's own plane: u grows to the patient's left, v to the back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Shape(Protocol):
    """A region of the plane."""

    @property
    def area_mm2(self) -> float:
        """Exact area."""
        ...

    def contains(self, u_mm: FloatArray, v_mm: FloatArray) -> BoolArray:
        """Returns which of the points (any shape) lie inside."""
        ...


@dataclass(frozen=True)
class Ellipse:
    """An ellipse.

    Attributes:
        u_mm: centre, towards the patient's left.
        v_mm: centre, towards the back.
        a_mm: half axis along the turned u direction.
        b_mm: half axis along the turned v direction.
        degrees: turn from u towards v.
    """

    u_mm: float
    v_mm: float
    a_mm: float
    b_mm: float
    degrees: float = 0.0

    @property
    def area_mm2(self) -> float:
        """π a b."""
        return math.pi * self.a_mm * self.b_mm

    def to_unit(self, u_mm: FloatArray, v_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns the points in the coordinates in which this ellipse is the unit circle."""
        cosine, sine = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        du, dv = u_mm - self.u_mm, v_mm - self.v_mm
        return (du * cosine + dv * sine) / self.a_mm, (dv * cosine - du * sine) / self.b_mm

    def contains(self, u_mm: FloatArray, v_mm: FloatArray) -> BoolArray:
        """Returns which of the points lie inside or on the border."""
        x, y = self.to_unit(u_mm, v_mm)
        return x * x + y * y <= 1.0


@dataclass(frozen=True)
class CutEllipse:
    """The part of an ellipse on one side of a line: where ``normal_u * u + normal_v * v <= offset_mm``."""

    ellipse: Ellipse
    normal_u: float
    normal_v: float
    offset_mm: float

    @property
    def area_mm2(self) -> float:
        """a b (π/2 + asin d + d √(1 − d²)), d the line's signed distance from the centre of the unit circle.

        Turning the ellipse into the unit circle keeps the line a line and divides all areas by a b; what is
        left is a circle with a segment cut off.
        """
        ellipse = self.ellipse
        cosine, sine = math.cos(math.radians(ellipse.degrees)), math.sin(math.radians(ellipse.degrees))
        along_a = (self.normal_u * cosine + self.normal_v * sine) * ellipse.a_mm
        along_b = (self.normal_v * cosine - self.normal_u * sine) * ellipse.b_mm
        from_centre = self.offset_mm - self.normal_u * ellipse.u_mm - self.normal_v * ellipse.v_mm
        d = min(1.0, max(-1.0, from_centre / math.hypot(along_a, along_b)))
        return ellipse.a_mm * ellipse.b_mm * (math.pi / 2 + math.asin(d) + d * math.sqrt(1 - d * d))

    def contains(self, u_mm: FloatArray, v_mm: FloatArray) -> BoolArray:
        """Returns which of the points lie inside or on the border."""
        kept = self.normal_u * u_mm + self.normal_v * v_mm <= self.offset_mm
        return kept & self.ellipse.contains(u_mm, v_mm)


@dataclass(frozen=True)
class Ring:
    """What lies in ``outer`` and not in ``inner``, which must lie inside it completely."""

    outer: Ellipse
    inner: Ellipse

    @property
    def area_mm2(self) -> float:
        """Difference of the two areas."""
        return self.outer.area_mm2 - self.inner.area_mm2

    def contains(self, u_mm: FloatArray, v_mm: FloatArray) -> BoolArray:
        """Returns which of the points lie between the two ellipses."""
        return self.outer.contains(u_mm, v_mm) & ~self.inner.contains(u_mm, v_mm)
