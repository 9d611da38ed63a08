"""Normalising grey values; the expected numbers are worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.errors import DataError, ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.preprocess.intensity import (
    VALUES_PER_CASE,
    IntensityPlan,
    apply_intensity,
    fit_intensity,
    foreground_values,
)
from autoseg_lib.volume import Mask, Volume


def test_ct_takes_its_window_from_the_roi_pixels() -> None:
    # 0 .. 1000: percentiles 0.5 and 99.5 are 5 and 995; clipped, the mean stays 500.
    plan = fit_intensity([np.arange(0, 501), np.arange(501, 1001)], "CT")
    assert (plan.kind, plan.low, plan.high, plan.mean) == ("window", 5.0, 995.0, 500.0)
    clipped = np.clip(np.arange(1001), 5, 995)
    assert plan.deviation == pytest.approx(np.sqrt(((clipped - 500.0) ** 2).mean()))
    found = apply_intensity(np.array([[[-2000, 500, 995, 3000]]], np.int16), plan, per_slice=True)
    np.testing.assert_allclose(found[0, 0] * plan.deviation, [-495, 0, 495, 495], rtol=1e-6)


def test_a_given_window_is_kept() -> None:
    plan = fit_intensity([np.array([-500, 0, 100, 900])], "CT", [-100, 300])
    assert (plan.low, plan.high) == (-100, 300)
    assert plan.mean == pytest.approx(np.mean([-100, 0, 100, 300]))
    assert fit_intensity([], "MR", [0, 400]) == IntensityPlan("window", 0, 400, 200, 100)


def test_auto_by_modality() -> None:
    values = [np.array([1.0, 2.0, 3.0])]
    assert fit_intensity(values, "MR").kind == "percentile"
    assert fit_intensity(values, "").kind == "percentile"
    assert fit_intensity(values, "ct").kind == "window"
    assert fit_intensity([], "CT").kind == "percentile"  # no ROI pixel to take a window from
    assert fit_intensity(values, "CT", "zscore").kind == "zscore"
    with pytest.raises(DataError, match=r'intensity = "window": .*the labels mark none. Check the labels'):
        fit_intensity([], "MR", "window")


def test_percentile_clips_and_centres_each_slice_or_the_scan() -> None:
    pixels = np.stack([np.arange(1001), 2 * np.arange(1001)]).reshape(2, 7, 143).astype(np.float32)
    found = apply_intensity(pixels, IntensityPlan("percentile"), per_slice=True)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    clipped = np.clip(np.arange(1001), 5, 995)
    assert found.min() == pytest.approx(-495 / clipped.std(), rel=1e-5)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), 0, atol=1e-5)
    whole = apply_intensity(pixels, IntensityPlan("percentile"), per_slice=False)
    assert abs(float(whole[0].mean())) > 0.3
    assert float(whole.mean()) == pytest.approx(0, abs=1e-5)


def test_constant_and_broken_pixels() -> None:
    for plan in (IntensityPlan("percentile"), IntensityPlan("zscore")):
        assert (apply_intensity(np.full((2, 3, 3), 700), plan, per_slice=True) == 0).all()
    holes = np.array([[[1.0, np.nan, 3.0, np.inf]]])
    found = apply_intensity(holes, IntensityPlan("zscore"), per_slice=False)
    np.testing.assert_allclose(found, (np.array([[[1, 1, 3, 1]]]) - 1.5) / np.std([1, 1, 3, 1]), rtol=1e-6)
    assert (
        apply_intensity(np.full((1, 2, 2), np.nan), IntensityPlan("percentile"), per_slice=True) == 0
    ).all()
    assert holes[0, 0, 3] == np.inf  # the scan itself is not touched


def test_foreground_values_are_the_roi_pixels() -> None:
    grid = Geometry.from_spacing((2, 2, 2))
    volume = Volume(np.arange(8).reshape(2, 2, 2), grid)
    mask = Mask((np.arange(8).reshape(2, 2, 2) % 3).astype(np.uint8), grid)
    np.testing.assert_array_equal(foreground_values(volume, mask), [1, 2, 4, 5, 7])
    big = Geometry.from_spacing((30, 30, 30))
    many = Volume(np.arange(27000).reshape(30, 30, 30), big)
    inside = Mask(np.ones((30, 30, 30), np.uint8), big)
    first, again = foreground_values(many, inside, 3), foreground_values(many, inside, 3)
    assert first.size == VALUES_PER_CASE and np.unique(first).size == first.size
    np.testing.assert_array_equal(first, again)


def test_a_plan_is_valid_and_is_read_back() -> None:
    plan = IntensityPlan("window", -1, 2, 0.5, 0.25)
    assert IntensityPlan.from_dict(plan.to_dict()) == plan
    assert "window -1 to 2" in plan.text
    assert "percentiles 0.5 and 99.5" in IntensityPlan("percentile").text
    for wrong in ({"low": 3.0, "high": 2.0}, {"deviation": 0.0}, {"mean": float("nan")}):
        with pytest.raises(ModelError, match="intensity: expected one of percentile, zscore, window"):
            IntensityPlan("window", **wrong)
    for low, high in ((-1.0, 99.0), (1.0, 101.0)):
        with pytest.raises(
            ModelError, match=r"percentiles from 0 to 100, found low = .* set kind = \"window\""
        ):
            IntensityPlan("percentile", low, high)
    assert IntensityPlan("percentile", 0, 100).high == 100
    with pytest.raises(ModelError, match="low below high"):
        IntensityPlan("percentile", 99, 1)
    with pytest.raises(ModelError, match="incomplete"):
        IntensityPlan.from_dict({"kind": "window"})
