"""After training: answers are kept small, scored once more with the post-processing that helps, and calibrated on it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.calibration import CalibrationScan
from autoseg_lib.train.validate import CaseScore, Scores, ValidationScan
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.final_scores import ShownScan
from autoseg_lib.workflow.kept_answers import KeptAnswers
from autoseg_lib.workflow.postprocessing_scores import with_postprocessing

LABELS = LabelTable(["liver"])
PATIENTS = 8


@dataclass(frozen=True)
class Soft:
    """Likely and sure pixels."""

    likely: np.ndarray
    sure: np.ndarray


def geometry(number: int) -> Geometry:
    even = Geometry.from_spacing(
        (3, 20, 20), (3.0, 1.0, 2.0), spacing_known=True, positions_known=True, orientation_known=True
    )
    return replace(even, slice_positions_mm=(0.0, 3.0, 7.0)) if number == 1 else even


def scans() -> list[tuple[ValidationScan, np.ndarray]]:
    """Eight patients; the liver has 100 pixels a slice, and in four answers an island of 9 pixels in each."""
    found = []
    for number in range(PATIENTS):
        truth = np.zeros((3, 20, 20), np.uint8)
        truth[:, 1:11, 1:11] = 1
        answer = truth.copy()
        if number < 4:
            answer[:, 15:18, 15:18] = 1
        grid = geometry(number)
        image = Volume(np.zeros((3, 20, 20), np.float32), grid)
        found.append(
            (ValidationScan(f"scan {number}", image, Mask(truth, grid), patient=f"anna {number}"), answer)
        )
    return found


def kept_and_scores() -> tuple[KeptAnswers, Scores, tuple[ShownScan, ...]]:
    kept, cases, shown = KeptAnswers(), [], []
    for scan, answer in scans():
        kept.add(scan, answer)
        soft = Soft(np.full((3, 1), 120), np.full((3, 1), 90))
        found = Mask(answer, scan.mask.geometry)
        counts = CalibrationScan.compare(scan.mask, found, soft, LABELS, scan.name, scan.patient)
        dice = 2 * 100 / (200 + (9 if answer[0, 16, 16] else 0))
        cases.append(
            CaseScore(
                name=scan.name,
                loss=float("nan"),
                dice=(dice,),
                area_error_percent=(0.0,),
                slice_index=1,
                image=scan.volume.array[1],
                truth=scan.mask.array[1],
                prediction=answer[1],
                hd95_mm=(9.9,),
                counts=counts,
            )
        )
        shown.append(ShownScan(scan.name, dice, scan.volume, scan.mask, found))
    return kept, Scores(tuple(cases)), tuple(shown)


def test_scores_pictures_and_calibration_are_of_the_answers_after_post_processing() -> None:
    kept, scores, shown = kept_and_scores()
    after = with_postprocessing(scores, shown, kept, LABELS)
    assert after.steps.to_list() == [{"step": "keep_largest", "rois": ["liver"]}]
    assert "for liver, keeping the largest piece only raises the mean Dice from 0.978 to 1.000" in after.text
    assert after.scores is not None
    assert [case.dice for case in after.scores.cases] == [(1.0,)] * PATIENTS
    assert [case.hd95_mm for case in after.scores.cases] == [(0.0,)] * PATIENTS
    assert [case.area_error_percent for case in after.scores.cases] == [(0.0,)] * PATIENTS
    for case in after.scores.cases:
        assert case.counts is not None and case.prediction[16, 16] == 0
        # 100 pixels a slice, not 109; the soft band is the network's and stays.
        assert case.counts.found.tolist() == case.counts.overlap.tolist() == [[100]] * 3
        assert case.counts.likely.tolist() == [[120]] * 3
        assert case.counts.patient.startswith("anna")
    assert all(scan.dice == 1.0 and scan.answer.array[1, 16, 16] == 0 for scan in after.shown)
    assert after.metadata() == {
        "postprocessing": [{"step": "keep_largest", "rois": ["liver"]}],
        "postprocessing_found": after.text,
    }


def test_what_a_model_does_already_is_applied_not_chosen_anew() -> None:
    kept, scores, shown = kept_and_scores()
    known = {"postprocessing": [], "postprocessing_found": "Somebody took it out."}
    after = with_postprocessing(scores, shown, kept, LABELS, known=known)
    assert after.scores is scores and after.text == "Somebody took it out."
    known = {"postprocessing": [{"step": "keep_largest"}]}
    after = with_postprocessing(scores, shown, kept, LABELS, known=known)
    assert after.scores is not None and after.scores.mean == 1.0


def test_without_scans_kept_back_nothing_is_tried() -> None:
    after = with_postprocessing(None, (), KeptAnswers(), LABELS)
    assert after.scores is None and after.steps.steps == ()
    assert after.text.startswith("Post-processing was not tried: no scans were kept back")


def test_answers_come_back_from_their_file(tmp_path: Path) -> None:
    kept, _, _ = kept_and_scores()
    path = tmp_path / "é cv_fold1_answers.zip"
    kept.save(path)
    # 8 scans of 2 × 1200 pixels take less than a fifth of their size, and name no patient.
    assert path.stat().st_size < 8 * 2 * 1200 / 5 + 8 * 400
    with zipfile.ZipFile(path) as file:
        assert b"anna" not in file.read("scans.json")
    again = KeptAnswers.load(path)
    assert again is not None and len(again) == PATIENTS
    for (patient, truth, answer), (_, first, second) in zip(again.pairs(), kept.pairs(), strict=True):
        assert patient.startswith("é cv_fold1_answers ")
        assert np.array_equal(truth.array, first.array) and np.array_equal(answer.array, second.array)
        assert truth.geometry.is_same_grid(first.geometry)
        assert truth.geometry.slice_positions_mm == first.geometry.slice_positions_mm
        assert truth.geometry.positions_known and truth.geometry.spacing_known
    assert len({patient for patient, _, _ in again.pairs()}) == PATIENTS


@pytest.mark.parametrize("damage", ["missing", "short", "shape", "no table", "signed"])
def test_damaged_files_are_as_if_they_were_not_there(tmp_path: Path, damage: str) -> None:
    kept, _, _ = kept_and_scores()
    path = tmp_path / "answers.zip"
    kept.save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    table = json.loads(parts["scans.json"])
    if damage == "missing":
        path.unlink()
        assert KeptAnswers.load(path) is None
        return
    if damage == "short":
        parts["0_answer"] = parts["0_answer"][:5]
    elif damage == "shape":
        table[0]["shape"] = [10**6, 10**6, 10**6]
    elif damage == "signed":
        table[0]["dtypes"] = ["|u1", "<f8"]
    elif damage == "no table":
        table = {"name": "x"}
    parts["scans.json"] = json.dumps(table).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    assert KeptAnswers.load(path) is None
