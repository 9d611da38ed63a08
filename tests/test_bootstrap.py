"""Means with intervals: against scipy called directly, against draws written out, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from autoseg_lib.metrics import bootstrap as ours
from autoseg_lib.metrics.bootstrap import mean_scores

DICE = np.array([0.91, 0.88, 0.93, 0.79, 0.90, 0.86, 0.95, 0.55, 0.89, 0.92, 0.84, 0.90])


def test_one_scan_a_patient_is_the_textbook_bootstrap() -> None:
    """Mean and sd by numpy; the interval by scipy.stats.bootstrap on the values themselves."""
    patients = [f"p{i}" for i in range(len(DICE))]
    (roi,), overall = mean_scores(DICE[:, None], patients)
    expected = bootstrap(
        (DICE,), np.mean, n_resamples=20000, method="BCa", random_state=np.random.default_rng(5)
    ).confidence_interval
    assert (roi.mean, roi.sd) == (pytest.approx(DICE.mean()), pytest.approx(DICE.std(ddof=1)))
    assert (roi.low, roi.high) == (
        pytest.approx(expected.low, abs=0.006),
        pytest.approx(expected.high, abs=0.006),
    )
    assert (roi.cases, roi.patients) == (12, 12)
    assert overall == roi
    # One bad scan pulls the lower end further down than the upper one up.
    assert roi.mean - roi.low > roi.high - roi.mean


def test_patients_are_drawn_not_scans() -> None:
    """Six patients with four equal scans each say no more than six scans: the interval is as wide as theirs."""
    six = DICE[:6]
    alone, _ = mean_scores(six[:, None], list("abcdef"))
    repeated, _ = mean_scores(np.repeat(six, 4)[:, None], list(np.repeat(list("abcdef"), 4)))
    naive, _ = mean_scores(np.repeat(six, 4)[:, None], [str(i) for i in range(24)])
    assert (repeated[0].low, repeated[0].high) == (alone[0].low, alone[0].high)
    assert naive[0].high - naive[0].low < 0.7 * (alone[0].high - alone[0].low)
    assert repeated[0].mean == pytest.approx(six.mean()) and repeated[0].cases == 24


def test_unequal_patients_against_draws_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentile interval of the mean over all scans of the drawn patients, counted out by hand."""
    patients = list("aaaabbcddefff")
    values = np.linspace(0.5, 0.95, 13) ** 0.5
    per_patient = [values[[p == name for p in patients]] for name in "abcdef"]
    rng = np.random.default_rng(1)
    means = []
    for _ in range(20000):
        drawn = np.concatenate([per_patient[i] for i in rng.integers(0, 6, 6)])
        means.append(drawn.mean())
    low, high = np.percentile(means, [2.5, 97.5])
    real = ours.bootstrap
    monkeypatch.setattr(ours, "bootstrap", lambda *a, **k: real(*a, **{**k, "method": "percentile"}))
    (roi,), _ = mean_scores(values[:, None], patients)
    assert roi.mean == pytest.approx(values.mean())
    assert (roi.low, roi.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))


def test_rois_that_are_missing_in_some_scans() -> None:
    scores = np.array([[0.9, np.nan], [0.8, 0.6], [np.nan, np.nan], [0.7, 0.4], [0.8, 0.5], [0.8, 0.5]])
    (first, second), overall = mean_scores(scores, list("abcdef"))
    assert (first.mean, first.cases) == (pytest.approx(0.8), 5)
    assert (second.mean, second.cases, second.low) == (pytest.approx(0.5), 4, None)
    # The mean of the ROIs' means, as everywhere: (0.8 + 0.5) / 2; scans without any ROI take no part.
    assert (overall.mean, overall.cases) == (pytest.approx(0.65), 5)
    assert overall.low is not None and overall.low < 0.65 < overall.high
    (none,), _ = mean_scores(np.full((3, 1), np.nan), list("abc"))
    assert (none.mean, none.sd, none.low, none.cases) == (None, None, None, 0)


def test_too_few_or_all_alike() -> None:
    (few,), _ = mean_scores(DICE[:4, None], list("abcd"))
    assert (few.low, few.high) == (None, None) and few.mean is not None
    (one,), _ = mean_scores(DICE[:1, None], ["a"])
    assert (one.mean, one.sd, one.low) == (pytest.approx(0.91), None, None)
    (alike,), _ = mean_scores(np.full((6, 1), 0.8), list("abcdef"))
    assert (alike.low, alike.high) == (pytest.approx(0.8), pytest.approx(0.8))


def test_the_same_seed_gives_the_same_interval() -> None:
    patients = [str(i) for i in range(12)]
    assert mean_scores(DICE[:, None], patients) == mean_scores(DICE[:, None], patients)
