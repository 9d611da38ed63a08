"""Post-processing is proposed where it surely helps, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.volume import Mask
from autoseg_lib.workflow.postprocessing_choice import (
    FEWEST_PATIENTS,
    TRIALS,
    Evidence,
    choose,
    evidence,
    propose_postprocessing,
)

LABELS = LabelTable(["liver", "spleen"])
GEOMETRY = Geometry.from_spacing((3, 20, 20), (3.0, 1.0, 2.0), spacing_known=True, positions_known=True)


def scan(island: bool, *, hole: bool = False, spleen: bool = True) -> tuple[Mask, Mask]:
    """Label and answer: the liver 10 × 10 × 3 = 300 pixels; an island of 3 × 3 × 3 = 27 in the answer; a hole of 4."""
    truth = np.zeros((3, 20, 20), np.uint8)
    truth[:, 1:11, 1:11] = 1
    if spleen:
        truth[:, 2:6, 14:18] = 2
    answer = truth.copy()
    if island:
        answer[:, 15:18, 15:18] = 1
    if hole:
        answer[1, 4:6, 4:6] = 0
    return Mask(truth, GEOMETRY), Mask(answer, GEOMETRY)


def pairs(*scans: tuple[Mask, Mask]) -> list[tuple[str, Mask, Mask]]:
    return [(f"patient {i}", *each) for i, each in enumerate(scans)]


def test_islands_in_several_patients_are_removed() -> None:
    scans = pairs(*[scan(True)] * 4, *[scan(False)] * 4)
    steps, sentence = propose_postprocessing(scans, LABELS)
    assert steps.to_list() == [{"step": "keep_largest", "rois": ["liver"]}]
    # Dice with an island: 2 · 300 / (300 + 327) = 0.957; mean (4 · 0.95694 + 4) / 8 = 0.978.
    assert sentence == (
        "Post-processing was tried on the 8 scans kept back and will be done when segmenting, because it helps: for liver, "
        "keeping the largest piece only raises the mean Dice from 0.978 to 1.000 (4 scans better, 0 worse). "
        "For the other ROIs nothing helped surely."
    )
    # What is proposed does it: the island is gone, nothing else is changed.
    after, notes = steps.apply(scans[0][2], LABELS)
    assert np.array_equal(after.array, scans[0][1].array)
    # 27 pixels of 3 × 1 × 2 = 6 mm³.
    assert notes == ("removed 1 island (0.2 ml) of liver",)


def test_islands_and_holes_are_seen_to_together() -> None:
    steps, sentence = propose_postprocessing(pairs(*[scan(True, hole=True)] * 8), LABELS)
    assert steps.to_list() == [
        {"step": "keep_largest", "rois": ["liver"]},
        {"step": "fill_holes", "rois": ["liver"]},
    ]
    assert "keeping the largest piece only and filling holes within slices" in sentence


def test_nothing_is_proposed_where_nothing_is_wrong() -> None:
    steps, sentence = propose_postprocessing(pairs(*[scan(False)] * 8), LABELS)
    assert steps.steps == ()
    assert sentence == (
        "Post-processing was tried on the 8 scans kept back: neither removing islands nor filling holes surely raised the Dice "
        "of a ROI by 0.002, so masks stay as the model gives them."
    )


def test_one_or_two_patients_decide_nothing() -> None:
    for helped in (1, 2):
        scans = pairs(*[scan(True)] * helped, *[scan(False)] * 8)
        assert propose_postprocessing(scans, LABELS)[0].steps == ()
    # Many scans of one patient are one patient.
    one = [("anna", *scan(True))] * 6 + pairs(*[scan(False)] * 8)
    assert propose_postprocessing(one, LABELS)[0].steps == ()


def test_true_pieces_are_not_removed() -> None:
    """A structure in two parts: the smaller part is drawn, too."""
    truth, answer = scan(True)
    both = [(Mask(answer.array, GEOMETRY), answer)] * 3 + [(truth, answer)] * 5
    assert propose_postprocessing(pairs(*both), LABELS)[0].steps == ()


def test_few_patients_are_said() -> None:
    steps, sentence = propose_postprocessing(pairs(*[scan(True)] * 7), LABELS)
    assert steps.steps == ()
    assert sentence == (
        "Post-processing was not tried: scans of 7 patients were kept back, and at least 8 patients are needed to tell whether "
        "it helps."
    )
    assert "no scans were kept back" in propose_postprocessing([], LABELS)[1]


def test_a_roi_that_is_nowhere_is_left_alone() -> None:
    found = evidence(pairs(*[scan(True, spleen=False)] * 8), LABELS)
    assert np.isnan(found.dice[:, :, 1]).all()
    assert choose(found, LABELS)[0].to_list() == [{"step": "keep_largest", "rois": ["liver"]}]


@pytest.mark.parametrize("patients", [FEWEST_PATIENTS, 15, 30])
def test_noise_is_not_adopted(patients: int) -> None:
    """Gains that are chance around zero: of 200 such trainings with nine steps tried, few take one."""
    generator = np.random.default_rng(3)
    labels = LabelTable(["liver"])
    names = tuple(map(str, range(patients)))
    taken = 0
    for _ in range(200):
        dice = 0.8 + generator.normal(0, 0.02, (patients, len(TRIALS), 1))
        taken += bool(choose(Evidence(names, dice), labels)[0].steps)
    # Measured with 400: 12 % of 8 patients, 5 % of 15 or more.
    assert taken <= 0.16 * 200
