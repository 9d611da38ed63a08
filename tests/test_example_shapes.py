"""Areas by formula against counting a fine grid of points, and against cases worked by hand."""

import math

import numpy as np
import pytest

from autoseg_lib.data.example_shapes import CutEllipse, Ellipse, Ring


def counted_area(shape, half=40.0, step=0.05):
    points = np.arange(-half + step / 2, half, step)
    u, v = np.meshgrid(points, points)
    return shape.contains(u, v).sum() * step * step


@pytest.mark.parametrize(
    "shape",
    [
        Ellipse(3, -2, 20, 8, 30),
        CutEllipse(Ellipse(3, -2, 20, 8, 30), 0, 1, 2.0),
        CutEllipse(Ellipse(-5, 4, 12, 25, -50), -1, 0, -3.0),
        CutEllipse(Ellipse(-5, 4, 12, 25, -50), 0.6, 0.8, 1.0),
        Ring(Ellipse(0, 0, 30, 20), Ellipse(1, 2, 25, 14)),
    ],
)
def test_area_is_what_counting_gives(shape):
    assert counted_area(shape) == pytest.approx(shape.area_mm2, rel=2e-3)


def test_areas_worked_by_hand():
    circle = Ellipse(0, 0, 10, 10)
    assert circle.area_mm2 == pytest.approx(100 * math.pi)
    assert CutEllipse(circle, 0, 1, 0).area_mm2 == pytest.approx(50 * math.pi)  # half
    assert CutEllipse(circle, 0, 1, 99).area_mm2 == pytest.approx(100 * math.pi)  # line beyond it
    assert CutEllipse(circle, 0, 1, -99).area_mm2 == pytest.approx(0)
    # Line through a chord of 60 degrees: circle minus segment r²/2 (π/3 − sin 60°).
    segment = 50 * (math.pi / 3 - math.sqrt(3) / 2)
    assert CutEllipse(circle, 1, 0, 10 * math.cos(math.pi / 6)).area_mm2 == pytest.approx(
        100 * math.pi - segment
    )
    assert Ring(Ellipse(0, 0, 10, 5), Ellipse(0, 0, 8, 3)).area_mm2 == pytest.approx(26 * math.pi)
