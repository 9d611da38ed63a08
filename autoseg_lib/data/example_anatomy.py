"""The drawn lumbar spine of the example study: which shapes a slice holds and how bright each tissue is.

Everything is symmetric enough to look like a person and different enough, from scan to scan and from left to
right, that a network has something to learn. Sizes follow textbook adults; nobody's scan was used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.example_shapes import CutEllipse, Ellipse, FloatArray, Ring, Shape
from autoseg_lib.geometry import Geometry

ROI_NAMES = (
    "vertebral body",
    "psoas major left",
    "psoas major right",
    "multifidus-erector spinae left",
    "multifidus-erector spinae right",
    "subcutaneous fat",
)

# Stored brightness on a T1-weighted image: fat bright, muscle dark grey, fluid and bone cortex dark.
_FAT, _VISCERAL_FAT, _MUSCLE, _MARROW = 900.0, 800.0, 310.0, 470.0
_CANAL, _CORD, _BONE, _VESSEL, _KIDNEY, _BOWEL = 210.0, 380.0, 130.0, 90.0, 430.0, 360.0

# Each pixel is the mean of this many by this many points, so that edges are blended as a scanner blends them.
_POINTS_PER_PIXEL = 2
# The back muscles keep at least this much fat around them.
_CLEARANCE_MM = 2.0


@dataclass(frozen=True)
class Person:
    """What differs from scan to scan. All lengths in mm, drawn once from a seed."""

    half_width: float
    half_depth: float
    fat: float
    muscle_left: float
    muscle_right: float
    bone: float
    shift_u: float
    shift_v: float
    turn_degrees: float
    bias: tuple[float, float, float, float]
    noise: float
    gain: float

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Person:
        """Returns one person drawn from ``generator``."""
        muscle = generator.uniform(0.88, 1.08)
        bias = generator.uniform(-0.18, 0.18, size=4)
        return cls(
            half_width=generator.uniform(128, 142),
            half_depth=generator.uniform(95, 103),
            fat=generator.uniform(13, 18),
            muscle_left=muscle * generator.uniform(0.95, 1.05),
            muscle_right=muscle * generator.uniform(0.95, 1.05),
            bone=generator.uniform(0.94, 1.08),
            shift_u=generator.uniform(-7, 7),
            shift_v=generator.uniform(-7, 7),
            turn_degrees=generator.uniform(-4, 4),
            bias=(float(bias[0]), float(bias[1]), float(bias[2]), float(bias[3])),
            noise=generator.uniform(18, 30),
            gain=generator.uniform(0.8, 1.25),
        )


@dataclass(frozen=True)
class Slice:
    """The shapes of one slice in the person's own (unturned) coordinates, in the order of painting."""

    tissues: tuple[tuple[Shape, float], ...]
    rois: tuple[tuple[int, Shape], ...]


def draw_slice(person: Person, level: float) -> Slice:
    """Returns what the slice at ``level`` (0 lowest, 1 highest) of a person holds."""
    low = 1.0 - level
    outer = Ellipse(0, 0, person.half_width * (1 + 0.03 * low), person.half_depth * (1 + 0.02 * low))
    # Fat is thicker at the back than at the sides.
    inner = Ellipse(0, -0.12 * person.fat, outer.a_mm - person.fat, outer.b_mm - 1.15 * person.fat)
    wall = Ellipse(0, inner.v_mm + 1, inner.a_mm - 9, inner.b_mm - 6)

    bone = person.bone * (1 + 0.05 * low)
    body = Ellipse(0, 4, 24 * bone, 18.5 * bone)
    cut = 4 + 0.72 * body.b_mm
    vertebra = CutEllipse(body, 0, 1, cut)
    canal = Ellipse(0, cut + 10, 11, 8)

    rois: list[tuple[int, Shape]] = [(1, vertebra)]
    muscles: list[tuple[Shape, float]] = []
    for side, psoas_value, back_value, size in (
        (1, 2, 4, person.muscle_left),
        (-1, 3, 5, person.muscle_right),
    ):
        grown = size * (0.88 + 0.2 * low)
        psoas = Ellipse(side * (body.a_mm + 4 + 17 * grown), 7, 16.5 * grown, 22 * grown, side * 12)
        thick = size * (1.06 - 0.1 * low)
        back = _moved_inside(Ellipse(side * 34, 64, 29 * size, 16.5 * thick, side * -9), wall)
        # The spinous process and its ligament keep the two sides apart.
        rois += [(psoas_value, psoas), (back_value, CutEllipse(back, -side, 0, -6.0))]
        muscles.append((Ellipse(side * 76, 30, 13 * size, 15 * size, side * -20), _MUSCLE))

    organs: list[tuple[Shape, float]] = [
        (Ellipse(76, -8, 17, 24, -15), _KIDNEY),
        (Ellipse(-78, -6, 17, 24, 15), _KIDNEY),
        (Ellipse(14, -28, 8.5, 8.5), _VESSEL),
        (Ellipse(-13, -26, 10, 8), _VESSEL),
        (Ellipse(48 + 8 * level, -46, 20, 12, -20), _BOWEL),
        (Ellipse(-50 + 6 * low, -48, 22, 13, 15), _BOWEL + 90),
        (Ellipse(4, -57 + 4 * low, 17, 10), _BOWEL - 60),
    ]
    spine: list[tuple[Shape, float]] = [
        (Ellipse(0, cut + 12, 21, 16), _BONE),
        (CutEllipse(Ellipse(0, 50, 5, 26), 0, -1, -34), _BONE),
        (canal, _CANAL),
        (Ellipse(0, canal.v_mm, 5.5, 4.5), _CORD),
    ]
    tissues = [(outer, _FAT), (inner, _MUSCLE), (wall, _VISCERAL_FAT), *organs, *muscles, *spine]
    brightness = {1: _MARROW, 2: _MUSCLE - 10, 3: _MUSCLE - 10, 4: _MUSCLE + 25, 5: _MUSCLE + 25}
    # The ROIs come last, so that nothing covers them and their areas are the formulas'.
    tissues += [(shape, brightness[value]) for value, shape in rois]
    rois.append((6, Ring(outer, inner)))
    return Slice(tuple(tissues), tuple(rois))


def _moved_inside(ellipse: Ellipse, around: Ellipse) -> Ellipse:
    """Returns the ellipse moved to the front until it lies within ``around``, clear of its border."""
    turn = np.linspace(0, 2 * np.pi, 90)
    cosine, sine = np.cos(np.radians(ellipse.degrees)), np.sin(np.radians(ellipse.degrees))
    x, y = ellipse.a_mm * np.cos(turn), ellipse.b_mm * np.sin(turn)
    within = Ellipse(around.u_mm, around.v_mm, around.a_mm - _CLEARANCE_MM, around.b_mm - _CLEARANCE_MM)
    for _ in range(200):
        border_u, border_v = ellipse.u_mm + x * cosine - y * sine, ellipse.v_mm + x * sine + y * cosine
        if within.contains(border_u, border_v).all():
            break
        ellipse = replace(ellipse, v_mm=ellipse.v_mm - 0.25)
    return ellipse


def point_grid(geometry: Geometry, person: Person, points_per_pixel: int) -> tuple[FloatArray, FloatArray]:
    """Returns (u, v) in the person's coordinates of points spread evenly within each pixel.

    Args:
        geometry: the scan's grid; only pixel sizes and shape count, the middle of the matrix is the origin.
        person: its shift and turn are taken off.
        points_per_pixel: 1 gives the pixel centres.

    Returns:
        Two arrays (rows × points, columns × points).
    """
    _, rows, columns = geometry.shape_zyx
    _, row_mm, column_mm = geometry.spacing_zyx_mm

    def along(count: int, size_mm: float) -> FloatArray:
        fine = (np.arange(count * points_per_pixel) + 0.5) / points_per_pixel - count / 2
        return fine * size_mm

    u, v = np.meshgrid(along(columns, column_mm) - person.shift_u, along(rows, row_mm) - person.shift_v)
    turn = np.radians(person.turn_degrees)
    return u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)


def paint_image(
    drawn: Slice, geometry: Geometry, person: Person, generator: np.random.Generator
) -> npt.NDArray[np.int16]:
    """Returns the (row, column) image of a slice: blended edges, uneven brightness, Rician noise."""
    u, v = point_grid(geometry, person, _POINTS_PER_PIXEL)
    fine = np.zeros(u.shape)
    for shape, value in drawn.tissues:
        fine[shape.contains(u, v)] = value
    rows, columns = geometry.shape_zyx[1:]
    n = _POINTS_PER_PIXEL
    image = fine.reshape(rows, n, columns, n).mean(axis=(1, 3))

    x, y = np.linspace(-1, 1, columns)[None, :], np.linspace(-1, 1, rows)[:, None]
    b = person.bias
    image *= person.gain * np.exp(b[0] * x + b[1] * y + b[2] * x * y + b[3] * (x * x + y * y - 0.7))
    # The magnitude of a complex signal with Gaussian noise (Gudbjartsson & Patz, Magn Reson Med 1995).
    real = image + generator.normal(0, person.noise, image.shape)
    imaginary = generator.normal(0, person.noise, image.shape)
    return np.round(np.hypot(real, imaginary)).astype(np.int16)


def paint_labels(drawn: Slice, geometry: Geometry, person: Person) -> npt.NDArray[np.uint8]:
    """Returns the (row, column) label values: a pixel belongs to the ROI that holds its centre."""
    u, v = point_grid(geometry, person, 1)
    labels = np.zeros(u.shape, np.uint8)
    for value, shape in drawn.rois:
        labels[shape.contains(u, v)] = value
    return labels
