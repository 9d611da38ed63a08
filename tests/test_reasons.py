"""Why scores are low: each reason is found where it is one, and only there."""

import math
from dataclasses import replace

import numpy as np
import pytest

from autoseg_lib.data.doctor.report import RoiRow
from autoseg_lib.train.validate import CaseScore, Scores
from autoseg_lib.workflow.reasons import QUESTIONS, SMALL_PIXELS, reasons
from autoseg_lib.workflow.situation import RoiSituation, Situation
from autoseg_lib.workflow.verdict import ending, verdict


def rows(dice, train=0.1, validation=0.1):
    """History of one epoch per value."""
    return tuple(
        {"epoch": n, "train_loss": train, "val_loss": validation, "val_dice": value}
        for n, value in enumerate(dice, start=1)
    )


# Everything as it should be: 25 patients, an ROI of good size on most slices, scores that have levelled off.
FINE = Situation(
    dimension="2D",
    patients=20,
    scans=20,
    slices=300,
    split_kind="patients",
    rois=(RoiSituation("psoas", 0.91, 280, 300, 900.0), RoiSituation("fat", 0.93, 300, 300, 4000.0)),
    history=rows([0.5, 0.7, 0.8, 0.85, 0.88, 0.9, 0.91, 0.912, 0.912, 0.912]),
    epochs=10,
    case_dice={"a": 0.91, "b": 0.93, "c": 0.92, "d": 0.9, "e": 0.94},
)


def applying(situation):
    return {answer.code: answer for answer in reasons(situation) if answer.applies}


def test_nothing_is_said_of_a_run_that_is_fine():
    assert applying(FINE) == {}
    answers = reasons(FINE)
    assert {a.code for a in answers} == {
        "few_scans",
        "one_patient",
        "seldom_roi",
        "small_roi",
        "inconsistent_labels",
        "mixed_images",
        "missing_spacing",
        "overfitting",
        "not_learned",
        "still_improving",
        "hard_scans",
        "few_to_test_on",
    }
    assert all(answer.found.endswith(".") and answer.advice == "" for answer in answers)


def weak(**changes):
    """The first ROI scores 0.6 and differs in ``changes``."""
    return replace(FINE, rois=(replace(FINE.rois[0], dice=0.6, **changes), FINE.rois[1]))


CASES = [
    ("few_scans", replace(FINE, patients=4, scans=6), "6 scans of 4 patients", "at least 10 patients and 30 slices"),
    ("few_scans", replace(FINE, slices=29), "29 slices with an ROI", "more patients"),
    ("one_patient", replace(FINE, split_kind="same scan"), "All scans are of one patient", "patient_pattern"),
    ("seldom_roi", weak(shown=44), "psoas is in 44 of 300 slices", "Label more slices that show 'psoas'"),
    ("small_roi", weak(pixels=49.0), "psoas has 49 pixels", "larger input_shape"),
    ("coarse_grid", replace(weak(), scale=0.45), "45 % of their own resolution", "larger input_shape"),
    ("inconsistent_labels", replace(FINE, findings=frozenset({"label_shifted", "roi_gap", "names"})),
     "labels of another slice and ROIs missing between slices that have them", "step 4"),
    ("mixed_images", replace(FINE, findings=frozenset({"modalities"})), "scans of different kinds", "leave it out"),
    ("missing_spacing", replace(FINE, spacing_known=False), "do not say how large their pixels are", "spacing_mm"),
    ("overfitting", replace(FINE, history=rows([0.8] * 10, 0.1, 0.25)),
     "0.10 on training images and 0.25 on validation scans", "more patients help most"),
    ("not_learned", replace(FINE, history=rows([0.2] * 10, 0.7, 0.75)), "loss was 0.70 on training images (1 is worst)", "learning_rate"),
    ("still_improving", replace(FINE, history=rows([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85])),
     "still rose by 0.100", "Ten more epochs"),
    ("still_improving", replace(FINE, reason="time limit", epochs=40), "ended at epoch 10 of 40", "time_limit_minutes"),
    ("hard_scans", replace(FINE, case_dice={**FINE.case_dice, "f": 0.4}), "'f' (0.40) against a mean of 0.83", "below"),
    ("few_to_test_on", replace(FINE, case_dice={"a": 0.9, "b": 0.9}), "the mean of 2 scans", "folds = 5"),
    ("few_to_test_on", replace(FINE, split_kind="none", case_dice={}), "No scan was kept back", "validation_fraction"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "situation", "found", "advice"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_each_reason_is_found_alone(code, situation, found, advice):
    (answer,) = applying(situation).values()
    assert answer.code == code
    assert found in answer.found
    assert advice in answer.advice


def test_every_question_has_a_case():
    tested = {code for code, *_ in CASES}
    named = {ask(situation).code for ask in QUESTIONS for _, situation, *_ in CASES if ask(situation)}
    assert tested == named
    assert len(tested) == len(QUESTIONS)


def test_a_rare_or_small_roi_that_is_found_well_is_no_reason():
    good = replace(FINE, rois=(replace(FINE.rois[0], shown=5, pixels=20.0), FINE.rois[1]))
    assert applying(good) == {}


def test_the_loss_of_two_stages_is_halved_before_it_is_compared():
    two = replace(FINE, worst_loss=2.0, history=rows([0.9] * 10, train=0.3, validation=0.15))
    assert applying(two) == {}
    poor = applying(replace(two, history=rows([0.2] * 10, 1.4, 0.7)))
    assert "loss was 1.40 on training images (2 is worst)" in poor["not_learned"].found


def test_a_model_that_still_rises_is_not_called_overfitted():
    rising = rows([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85], 0.1, 0.4)
    assert set(applying(replace(FINE, history=rising))) == {"still_improving"}


def test_of_a_run_that_learned_from_all_in_its_second_half_only_the_first_is_judged():
    """Dice rises half-way through any run, and what the training loss becomes afterwards is not to be held against it."""
    first = rows([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85], 0.25, 0.3)
    second = tuple({**row, "val_dice": None, "val_loss": None, "train_loss": 0.05} for row in first)
    assert applying(replace(FINE, history=(*first, *second), epochs=20, judged_epoch=10)) == {}
    assert set(applying(replace(FINE, history=first))) == {"still_improving"}


def test_3d_counts_scans_and_voxels():
    rois = (RoiSituation("anterior", 0.6, 2, 20, 400.0), RoiSituation("posterior", 0.9, 20, 20, 2000.0))
    found = applying(replace(FINE, dimension="3D", rois=rois, slices=0))
    assert set(found) == {"seldom_roi", "small_roi"}
    assert "anterior is in 2 of 20 scans" in found["seldom_roi"].found
    assert "400 voxels" in found["small_roi"].found


@pytest.mark.parametrize(("dimension", "power"), [("2D", 2), ("3D", 3)])
def test_what_half_a_pixel_costs_a_roi_of_the_smallest_size(dimension, power):
    """Dice of a disc (ball) and one that is half a pixel smaller all around, as the constant's comment says."""
    size = SMALL_PIXELS[dimension]
    radius = math.sqrt(size / math.pi) if power == 2 else (3 * size / (4 * math.pi)) ** (1 / 3)
    inner = size * ((radius - 0.5) / radius) ** power
    assert 1 - 2 * inner / (size + inner) > 0.13


def test_one_figure_for_the_loss_at_the_end():
    falling = tuple({**row, "train_loss": 0.9 - 0.04 * n} for n, row in enumerate(rows([0.3] * 10, 0, 0.9)))
    answers = {answer.code: answer for answer in reasons(replace(FINE, history=falling))}
    # Mean of the last two of ten epochs: 0.9 - 0.04 * 8.5.
    assert "0.56 on training images" in answers["overfitting"].found
    assert "0.56 on training images" in answers["not_learned"].found


@pytest.mark.parametrize(
    ("reason", "found", "advice"),
    [
        ("stopped", "You stopped it after 4 epochs (80 steps)", "Run the training cell again to go on."),
        ("time limit", "The time limit allowed only 4 epochs (80 steps)", "time_limit_minutes"),
        ("finished", "It was trained for only 4 epochs (80 steps)", "raise epochs"),
    ],
)
def test_after_few_steps_only_that_is_said(reason, found, advice):
    short = replace(weak(), history=rows([0.1] * 4, 0.7, 0.95), steps=80, reason=reason, epochs=40)
    (answer,) = applying(short).values()
    assert answer.code == "still_improving"
    assert found in answer.found
    assert advice in answer.advice
    assert not {"overfitting", "not_learned"} & {a.code for a in reasons(short)}


def test_patients_kept_back_count_too():
    ten = replace(FINE, patients=8, patients_in_all=10)
    assert applying(ten) == {}
    (few,) = applying(replace(FINE, patients=7, patients_in_all=9)).values()
    assert "of 7 patients" in few.found and "9 patients in all" in few.found


@pytest.mark.parametrize(("patients", "advice"), [(3, "with folds = 3"), (8, "with folds = 5")])
def test_as_many_folds_are_advised_as_there_are_patients(patients, advice):
    few = replace(FINE, patients=patients - 1, patients_in_all=patients, case_dice={"a": 0.9})
    assert advice in applying(few)["few_to_test_on"].advice


def test_an_roi_in_most_slices_is_not_excused_by_them():
    picture = np.zeros((2, 2), np.uint8)
    case = CaseScore("a", 0.6, (0.4, 0.4), (None, None), 0, picture, picture, picture)
    table = [RoiRow(n, f"ROI {n}", "#000000", shown, 2, None, 9.0, 1.0) for n, shown in ((1, 36), (2, 5))]
    text = verdict("patients", Scores((case,)), table, 36)
    assert text.endswith("ROI 1 is weak (0.40). ROI 2 is weak (0.40): it appears in 5 of 36 slices.")
    started = verdict("patients", Scores((case,)), table, 36, started=True)
    assert "on patients this training has not seen. If the model it started from has seen them" in started


def test_early_stopping_is_explained():
    text = ending("early", rows([0.5, 0.8, 0.7, 0.7]), 20)
    assert "ended at epoch 4 of 20" in text
    assert "since about epoch 2" in text
    assert "early_stopping = False" in text
    assert ending("finished", rows([0.5]), 1) == ""
    assert ending("time limit", rows([0.5]), 9).startswith(
        "The time limit ended the training at epoch 1 of 9"
    )
