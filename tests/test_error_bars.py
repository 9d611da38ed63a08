"""Error bars: quantiles worked by hand, coverage of made patients whose truth is known, and a reason wherever there are none."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.data.split import validation_reason, validation_share
from autoseg_lib.errors import DataError, ModelError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.calibrate import calibrate, unsure_limits
from autoseg_lib.measure.calibration import Calibration, CalibrationScan
from autoseg_lib.measure.conformal import pooled_quantile
from autoseg_lib.measure.intervals import add_intervals, intervals_of
from autoseg_lib.measure.softness import UNSURE_ABOVE
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.calibrating import calibrate_scans, error_bars_text
from autoseg_lib.workflow.calibration_file import read_calibration_scans, write_calibration_scans

# A line one pixel wide around 100 pixels: 2 √(100 π).
OUTLINE_100 = 35.4490770


@dataclass(frozen=True)
class Soft:
    likely: np.ndarray
    sure: np.ndarray


def scan(
    patient: str,
    true: list[list[int]],
    found: list[list[int]],
    likely: list[list[int]] | None = None,
    sure: list[list[int]] | None = None,
    pixel_area_mm2: float | None = 1.0,
    extent_mm: float | None = None,
) -> CalibrationScan:
    """Numbers of pixels, (slices, ROIs)."""
    counts = [np.array(each if each is not None else found, np.int64) for each in (true, found, likely, sure)]
    extents = None if extent_mm is None else np.full(len(true), extent_mm)
    overlap = np.minimum(counts[0], counts[1])
    return CalibrationScan(
        f"scan of {patient}",
        patient,
        counts[0],
        counts[1],
        overlap,
        counts[2],
        counts[3],
        pixel_area_mm2,
        extents,
    )


def twenty(**more: float | None) -> list[CalibrationScan]:
    """100 pixels found, 80 sure, 120 likely, and the truth is 0, 1 ... 19 pixels more; two slices each."""
    return [
        scan(f"p{k:02d}", [[100 + k]] * 2, [[100]] * 2, [[120]] * 2, [[80]] * 2, **more)  # type: ignore[arg-type]
        for k in range(20)
    ]


# --- the quantile -------------------------------------------------------------------------------------------------------


def test_quantile_of_patients_by_hand() -> None:
    errors = [np.array([1.0, 2.0]), np.array([3.0])]
    # Weights: 1/6 each for 1 and 2, 1/3 for 3, and 1/3 for the patient to come.
    assert pooled_quantile(errors, 1 / 6) == 1.0
    assert pooled_quantile(errors, 1 / 3) == 2.0
    assert pooled_quantile(errors, 0.5) == 3.0
    assert pooled_quantile(errors, 0.7) == math.inf
    # The largest of nine is exceeded by a tenth one with a chance of one in ten.
    assert pooled_quantile([np.array([float(k)]) for k in range(9)], 0.9) == 8.0
    assert pooled_quantile([np.array([float(k)]) for k in range(8)], 0.9) == math.inf
    # Patients without slices do not count, and repeating a patient's slices changes nothing.
    assert pooled_quantile([*errors, np.empty(0)], 0.5) == 3.0
    assert pooled_quantile([np.tile(errors[0], 50), errors[1]], 1 / 3) == 2.0
    assert pooled_quantile([], 0.9) == math.inf


def naive_quantile(errors: list[np.ndarray], level: float) -> float:
    """What one would do if slices were independent."""
    values = np.sort(np.concatenate(errors))
    return float(values[min(values.size, math.ceil(level * (values.size + 1))) - 1])


def test_coverage_of_a_new_patients_slice_whatever_the_numbers_of_slices() -> None:
    """Half of the patients have 40 slices that go well, half have 2 that go badly."""
    random = np.random.default_rng(1)

    def patient() -> np.ndarray:
        slices, size = (40, 1.0) if random.random() < 0.5 else (2, 4.0)
        own = random.exponential(size)  # what all slices of a patient have in common
        return np.asarray(np.abs(own + random.normal(0, 0.3 * size, slices)))

    trials, held, naive = 600, 0, 0
    for _ in range(trials):
        known = [patient() for _ in range(30)]
        slice_error = random.choice(patient())
        held += bool(slice_error <= pooled_quantile(known, 0.9))
        naive += bool(slice_error <= naive_quantile(known, 0.9))
    deviation = math.sqrt(0.9 * 0.1 / trials)
    assert 0.9 - 3 * deviation < held / trials < 0.9 + 1 / 30 + 3 * deviation
    assert naive / trials < 0.9 - 5 * deviation


# --- calibrating and filling in, by hand -------------------------------------------------------------------------------


def test_factor_by_hand() -> None:
    """Scale 120 - 80 + outline = 75.449; of 20 patients and one to come, 19/21 of the weight is reached at an error of 18."""
    calibration = calibrate(twenty(extent_mm=4.0), ["one"], "made scans")
    scale = 40 + OUTLINE_100
    assert calibration.outlines[0] == pytest.approx(OUTLINE_100)
    for bounds in (calibration.areas, calibration.mean_areas, calibration.volumes):
        assert bounds[0].factor == pytest.approx(18 / scale)
        assert (bounds[0].patients, bounds[0].pooled) == (20, False)
    assert (calibration.reason, calibration.scans, calibration.patients) == ("", 20, 20)
    ends = intervals_of(
        np.array([[100], [100]]),
        Soft(np.array([[120]] * 2), np.array([[80]] * 2)),
        1.0,
        np.full(2, 4.0),
        calibration,
    )
    assert ends.area[:, 0] == pytest.approx(np.array([[82, 118]] * 2))
    assert ends.mean_area[0] == pytest.approx([82, 118])
    assert ends.volume[0] == pytest.approx([8 * 82, 8 * 118])


def test_a_softer_slice_gets_a_wider_bar_and_none_reaches_below_zero() -> None:
    calibration = calibrate(twenty(), ["one"], "made scans")
    factor = 18 / (40 + OUTLINE_100)
    soft = Soft(np.array([[200], [10], [7]]), np.array([[20], [1], [0]]))
    ends = intervals_of(np.array([[100], [4], [0]]), soft, 1.0, None, calibration)
    half = [factor * (180 + OUTLINE_100), factor * (9 + OUTLINE_100), factor * (7 + OUTLINE_100)]
    assert ends.area[0, 0] == pytest.approx([100 - half[0], 100 + half[0]])
    assert ends.area[1, 0] == pytest.approx([0, 4 + half[1]])
    # Nothing was found, but something was likely.
    assert ends.area[2, 0] == pytest.approx([0, half[2]])


@pytest.mark.parametrize(("missed", "upper"), [(0, 0.0), (1, 0.0), (2, 5.0), (20, 5.0)])
def test_where_nothing_was_likely_the_bar_reaches_to_what_was_missed_so(missed: int, upper: float) -> None:
    """20 patients have a slice where nothing was likely; in so many of them there were 5 pixels."""
    scans = [
        scan(f"p{k:02d}", [[100], [5 if k < missed else 0]], [[100], [0]], [[120], [0]], [[80], [0]])
        for k in range(20)
    ]
    calibration = calibrate(scans, ["one"], "made scans")
    assert calibration.areas[0].absent == upper
    zero = np.array([[0]])
    assert intervals_of(zero, Soft(zero, zero), 1.0, None, calibration).area[0, 0].tolist() == [0.0, upper]


def test_millimetres_and_pixels_give_the_same_bars() -> None:
    """Calibrated on pixels of 0.5 × 0.5 mm, or on scans that do not tell their size."""
    soft, found = Soft(np.array([[120]]), np.array([[80]])), np.array([[100]])
    in_mm = calibrate(twenty(pixel_area_mm2=0.25), ["one"], "made scans")
    assert in_mm.in_mm and in_mm.outlines[0] == pytest.approx(OUTLINE_100 / 4)
    in_pixels = calibrate(twenty(pixel_area_mm2=None), ["one"], "made scans")
    assert not in_pixels.in_mm and in_pixels.outlines[0] == pytest.approx(OUTLINE_100)
    for calibration in (in_mm, in_pixels):
        ends = intervals_of(found, soft, 0.25, None, calibration)
        assert ends.area[0, 0] == pytest.approx([25 - 4.5, 25 + 4.5])


def test_post_processing_that_fills_or_removes_widens_the_band() -> None:
    calibration = calibrate(twenty(), ["one"], "made scans")
    factor = 18 / (40 + OUTLINE_100)
    # 130 after filling a hole, though 120 were likely; 70 after removing a piece, though 80 were sure.
    for found, band in ((130, 50), (70, 50)):
        ends = intervals_of(
            np.array([[found]]), Soft(np.array([[120]]), np.array([[80]])), 1.0, None, calibration
        )
        assert ends.area[0, 0, 1] - found == pytest.approx(factor * (band + OUTLINE_100))


def test_a_rare_roi_borrows_from_all_and_says_so() -> None:
    scans = twenty()
    both = [
        replace(
            each,
            **{
                name: np.concatenate([getattr(each, name), getattr(each, name) * (k < 5)], axis=1)
                for name in ("true", "found", "overlap", "likely", "sure")
            },
        )
        for k, each in enumerate(scans)
    ]
    calibration = calibrate(both, ["common", "rare"], "made scans")
    assert [bound.pooled for bound in calibration.areas] == [False, True]
    assert calibration.areas[1].factor is not None
    mask, soft = disc_and_soft(2)
    rows, volumes = (
        measure_slices(mask, mask_labels(2), case="a"),
        measure_volumes(mask, mask_labels(2), case="a"),
    )
    _, _, note = add_intervals(rows, volumes, soft, calibration, mask.geometry)
    assert "those of 'rare' on all ROIs together, because too few patients have them" in note


def test_coverage_of_made_patients_through_the_whole_way() -> None:
    """Boundaries wander within their soft band, by an amount that a patient's slices have partly in common."""
    random = np.random.default_rng(3)

    def made(name: str) -> CalibrationScan:
        slices = int(random.integers(3, 20))
        found = random.integers(0, 400, (slices, 1))
        band = np.round(2 * np.sqrt(np.pi * found) * random.uniform(0.5, 2.0)).astype(int)
        wander = random.normal(0, 0.4) + random.normal(0, 0.4, (slices, 1))
        true = np.maximum(0, np.round(found + wander * band)).astype(int)
        likely, sure = found + band // 2, np.maximum(0, found - band // 2)
        return scan(name, true, found, likely, sure, 0.5, 3.0)  # type: ignore[arg-type]

    held: dict[str, list[float]] = {"area": [], "volume": []}
    for trial in range(12):
        calibration = calibrate([made(f"c{k}") for k in range(40)], ["one"], "made scans")
        for k in range(60):
            new = made(f"new {trial} {k}")
            ends = intervals_of(new.found, new, 0.5, new.extents_mm, calibration)
            area = new.true[:, 0] * 0.5
            possible = new.likely[:, 0] > 0
            inside = (area >= ends.area[:, 0, 0]) & (area <= ends.area[:, 0, 1])
            held["area"].append(float(inside[possible].mean()))
            volume = float(area.sum() * 3.0)
            held["volume"].append(float(ends.volume[0, 0] <= volume <= ends.volume[0, 1]))
    for kind, each in held.items():
        # Twelve calibrations of 40 patients differ by some 0.05 / √12 more than the patients tested.
        assert 0.9 - 0.04 < np.mean(each) < 0.9 + 1 / 40 + 0.04, kind


# --- rows and reasons ---------------------------------------------------------------------------------------------------


def mask_labels(rois: int) -> LabelTable:
    return LabelTable(["common", "rare"][:rois])


def disc_and_soft(rois: int = 1, spacing_known: bool = True) -> tuple[Mask, Soft]:
    """Two slices of 10 × 10 pixels of the first ROI."""
    array = np.zeros((2, 16, 16), np.uint8)
    array[:, 3:13, 3:13] = 1
    geometry = Geometry.from_spacing(
        array.shape,
        (4.0, 0.5, 0.5),
        spacing_known=spacing_known,
        positions_known=True,
        orientation_known=True,
    )
    likely, sure = np.zeros((2, rois), np.int64), np.zeros((2, rois), np.int64)
    likely[:, 0], sure[:, 0] = 120, 80
    return Mask(array, geometry), Soft(likely, sure)


def measured(mask: Mask, soft: Soft | None, calibration: Calibration, rois: int = 1):  # type: ignore[no-untyped-def]
    labels = mask_labels(rois)
    rows = measure_slices(mask, labels, case="a")
    return add_intervals(rows, measure_volumes(mask, labels, case="a"), soft, calibration, mask.geometry)


def test_rows_and_volumes_are_filled() -> None:
    mask, soft = disc_and_soft()
    calibration = calibrate(twenty(pixel_area_mm2=0.25, extent_mm=4.0), ["common"], "patients kept back")
    rows, volumes, note = measured(mask, soft, calibration)
    for row in rows:
        assert (row.area_mm2, row.area_mm2_low, row.area_mm2_high) == pytest.approx((25.0, 20.5, 29.5))
    # Two slices of 4 mm.
    assert (volumes[0].volume_ml, volumes[0].volume_ml_low, volumes[0].volume_ml_high) == pytest.approx(
        (0.2, 0.164, 0.236)
    )
    assert (volumes[0].mean_area_mm2_low, volumes[0].mean_area_mm2_high) == pytest.approx((20.5, 29.5))
    assert note == "error bars (90 %) are calibrated on 20 scans of 20 patients: patients kept back."


def test_empty_columns_each_with_its_reason() -> None:
    mask, soft = disc_and_soft()
    good = calibrate(twenty(extent_mm=4.0), ["common"], "made scans")
    unsized, _ = disc_and_soft(spacing_known=False)
    few = calibrate(twenty()[:19], ["common"], "made scans")
    one_patient = calibrate([replace(each, patient="p") for each in twenty()], ["common"], "made scans")
    cases = [
        (mask, soft, few, "19 scans were kept back to calibrate on, and at least 20 patients are needed"),
        (
            mask,
            soft,
            one_patient,
            "20 scans of 1 patient were kept back to calibrate on, and at least 20 patients are needed",
        ),
        (mask, soft, calibrate([], ["common"], ""), "no scans were kept back from training to calibrate on"),
        (mask, soft, Calibration.from_dict(None), "the model file holds no calibration"),
        (
            mask,
            soft,
            calibrate_scans(twenty(), ["common"], "same scan"),
            "the slices kept back are of the scan that was learned from",
        ),
        (mask, None, good, "the prediction kept no probabilities"),
        (unsized, soft, good, "the pixel spacing is unknown"),
    ]
    for what, counts, calibration, reason in cases:
        rows, volumes, note = measured(what, counts, calibration)
        assert note == f"no error bars: {reason}."
        assert all(row.area_mm2_low is None and row.area_mm2_high is None for row in rows)
        assert all(each.volume_ml_low is None and each.mean_area_mm2_low is None for each in volumes)
    assert error_bars_text(few).startswith(
        "Areas and volumes will get no error bars: 19 scans were kept back"
    )
    assert "calibrated on 20 scans of 20 patients" in error_bars_text(good)


def test_scans_of_one_patient_count_by_themselves_where_there_is_no_other() -> None:
    scans = [replace(each, patient="the only one") for each in twenty()]
    calibration = calibrate_scans(scans, ["one"], "cases")
    assert calibration.reason == "" and calibration.patients == 20
    assert calibration.what.endswith("the bars say nothing about other patients")


def test_counts_of_another_scan_are_refused() -> None:
    mask, soft = disc_and_soft()
    calibration = calibrate(twenty(), ["common"], "made scans")
    with pytest.raises(DataError, match=r"error bars: found soft counts of \(1, 1\) slices and ROIs"):
        measured(mask, Soft(soft.likely[:1], soft.sure[:1]), calibration)
    with pytest.raises(
        DataError, match=r"'a': found soft counts of \(1, 1\) slices and ROIs, expected \(2, 1\)"
    ):
        CalibrationScan.compare(mask, mask, Soft(soft.likely[:1], soft.sure[:1]), mask_labels(1), "a", "p")


# --- keeping ------------------------------------------------------------------------------------------------------------


def test_the_model_file_gives_back_what_it_was_given() -> None:
    for calibration in (calibrate(twenty(extent_mm=4.0), ["one"], "x"), calibrate([], ["one"], "x")):
        assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize(
    "change",
    [
        {"areas": None},
        {"areas": [{"factor": -1.0, "absent": 0.0, "patients": 20, "pooled": False}]},
        {"areas": [{"factor": float("inf"), "absent": 0.0, "patients": 20, "pooled": False}]},
        {"areas": [{"factor": "wide"}]},
        {"rois": ["one", "two"]},
        {"outlines": ["x"]},
        {"outlines": []},
    ],
)
def test_a_damaged_table_is_refused(change: dict[str, object]) -> None:
    table = calibrate(twenty(), ["one"], "x").to_dict() | change
    with pytest.raises(ModelError, match="calibration: the model file's table of error bars is damaged"):
        Calibration.from_dict(table)


def test_counts_are_kept_and_read_back_without_names_of_patients(tmp_path: Path) -> None:
    scans = [
        replace(scan("Mustermann", [[3, 0], [4, 1]], [[2, 0], [4, 2]], extent_mm=2.5), name="a"),
        replace(scan("anonymous", [[7, 7]], [[6, 5]], pixel_area_mm2=None), name="b, c"),
    ]
    path = tmp_path / "model_calibration.csv"
    write_calibration_scans(path, scans, ["one", "two"])
    assert "Mustermann" not in path.read_text(encoding="utf-8")
    back = read_calibration_scans(path, ["one", "two"])
    assert back is not None and [each.name for each in back] == ["a", "b, c"]
    for one, other in zip(scans, back, strict=True):
        for name in ("true", "found", "overlap", "likely", "sure"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert one.pixel_area_mm2 == other.pixel_area_mm2
        assert (one.extents_mm is None) == (other.extents_mm is None)
    assert back[0].patient != back[1].patient
    assert read_calibration_scans(path, ["two", "one"]) is None
    assert read_calibration_scans(tmp_path / "missing.csv", ["one"]) is None
    path.write_text("case,patient\n", encoding="utf-8")
    assert read_calibration_scans(path, ["one", "two"]) is None


# --- the limit of softness, and how many are kept back -------------------------------------------------------------------


def test_limit_of_softness_by_hand() -> None:
    """30 slices of softness 0.2 are right, 30 of 0.4 are wrong: any limit between finds all; the middle is taken."""
    right = [scan(f"r{k}", [[100]], [[100]], [[120]], [[80]]) for k in range(30)]
    wrong = [scan(f"w{k}", [[30]], [[100]], [[140]], [[60]]) for k in range(30)]
    # 2 · 30 / 130 is below 0.8, 2 · 100 / 200 is not.
    assert wrong[0].dice[0, 0] == pytest.approx(60 / 130) and right[0].dice[0, 0] == 1.0
    assert unsure_limits([*right, *wrong], 1)[0] == pytest.approx(0.3)
    # Too few are wrong: above nearly all that are right, and never below the general limit.
    assert unsure_limits([*right, *wrong[:19]], 1)[0] == UNSURE_ABOVE
    soft = [scan(f"s{k}", [[100]], [[100]], [[170]], [[30]]) for k in range(30)]
    assert unsure_limits(soft, 1)[0] == pytest.approx(0.7)
    # Where soft slices are no more often wrong than others, softness tells nothing, and nothing exceeds 1.
    firm = [scan(f"f{k}", [[30]], [[100]], [[110]], [[90]]) for k in range(25)]
    assert unsure_limits([*soft, *firm], 1)[0] == 1.0
    assert unsure_limits([*right[:19], *wrong[:19]], 1)[0] is None
    assert unsure_limits([], 1) == (None,)


@pytest.mark.parametrize(
    ("patients", "kept"), [(10, 2), (60, 12), (99, 20), (100, 20), (101, 20), (150, 20), (200, 20), (300, 30)]
)
def test_large_studies_keep_twenty_patients_back(patients: int, kept: int) -> None:
    assert round(validation_share(patients) * patients) == kept


def test_the_plan_says_why() -> None:
    assert validation_reason(7) == "7 patients"
    assert (
        validation_reason(120)
        == "120 patients; at least 20 are kept back, so that areas and volumes get error bars"
    )
    assert "folds = 5 gives both" in validation_reason(60)
