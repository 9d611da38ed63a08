"""With few patients, the scans kept back are learned from, too, late in the training: till then they are unseen, and said so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from autoseg_lib.data.dataset import KeyedBatches, PatchDataset, SliceDataset
from autoseg_lib.data.packed import PreparedCase
from autoseg_lib.data.split import learns_all, split_cases
from autoseg_lib.errors import SettingsError
from autoseg_lib.events import EpochDone, Event, Message, StopFlag, nobody
from autoseg_lib.networks.model_file import load_model, read_metadata
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.defaults import FEWEST_STEPS_TO_LEARN_ALL
from autoseg_lib.train.machine import Machine
from autoseg_lib.widgets.views import models_html
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.model_choice import segmenting_predictor
from autoseg_lib.workflow.training import PreparedTraining, prepare_training, train
from autoseg_lib.workflow.training_result import TrainingResult
from tests.helpers.stopping import StopAfter
from tests.helpers.studies import write_png_study, write_volume_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")
# 12 slices of three patients by 4 are 3 steps an epoch: 54 steps, half of them after epoch 9.
SETTINGS: dict[str, Any] = {
    "model_filename": "few",
    "input_shape": 64,
    "network": "light_unet",
    "epochs": 18,
    "batch_size": 4,
    "save_checkpoint": 6,
    "labels_list": ["bright", "dark"],
    "patient_pattern": r"p\d+",
}


def prepare(folder: Path, **changes: object) -> PreparedTraining:
    values = {**SETTINGS, "main_dir": str(folder), "model_dir": str(folder / "models"), **changes}
    settings = make_settings(TrainSettings, values)
    return prepare_training(check_study(settings), folder, nobody, CPU)


def run(folder: Path, stop_after: int | None = None, **changes: object) -> tuple[TrainingResult, list[Event]]:
    listener = StopAfter(stop_after)
    return train(prepare(folder, **changes), listener, listener.stop), listener.events


def said(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message))


def case(name: str, slices: int) -> PreparedCase:
    """A case whose pixels are its slices, so that a sample tells what it is of; the ROI fills its upper half."""
    image = np.full((slices, 16, 16), ord(name), np.float32)
    label = np.zeros((slices, 16, 16), np.uint8)
    label[:, :8] = 1
    return PreparedCase(name, image, label)


# --- which samples ----------------------------------------------------------------------------------------------------


def names_of(dataset: Any, batches: KeyedBatches, epochs: range) -> set[str]:
    found = set()
    for batches.epoch in epochs:
        for batch in batches:
            found |= {chr(int(dataset[key]["image"].max())) for key in batch}
    return found


@pytest.mark.parametrize(
    "dataset",
    [
        SliceDataset([case("a", 5), case("b", 6), case("c", 4)], None, 0, first_cases=2),
        PatchDataset([case(n, 8) for n in "abc"], (4, 8, 8), None, 0, first_cases=2, length=11),
        PatchDataset(
            [case(n, 8) for n in "abc"], (4, 8, 8), None, 0, first_cases=2, length=11, positive_share=0
        ),
    ],
    ids=["2D", "3D", "3D whole scans"],
)
def test_the_last_case_is_drawn_from_the_set_epoch_on_and_never_before(dataset: Any) -> None:
    batches = KeyedBatches(len(dataset), 4, seed=1, everything=dataset.everything)
    assert len(dataset) == 11
    assert names_of(dataset, batches, range(20)) == {"a", "b"}
    batches.all_from = 5
    assert names_of(dataset, batches, range(5)) == {"a", "b"}
    assert names_of(dataset, batches, range(5, 10)) == {"a", "b", "c"}
    assert len(list(batches)) == len(batches) == 3, "an epoch stays as long as it was"


def test_of_all_slices_each_comes_equally_often() -> None:
    """6 steps of 4 hold 24 of 30 slices an epoch: 400 epochs draw each 320 times, give or take."""
    batches = KeyedBatches(24, 4, seed=0, everything=range(30))
    batches.all_from = 0
    counts = np.zeros(30)
    for batches.epoch in range(400):
        for batch in batches:
            for _, index in batch:
                counts[index] += 1
    assert counts.sum() == 24 * 400
    assert abs(counts - 320).max() < 5 * np.sqrt(400 * 0.8 * 0.2)


# --- when -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    patient: str


@pytest.mark.parametrize(("patients", "wanted"), [(2, True), (5, True), (6, False), (30, False)])
def test_only_where_few_patients_are_there(patients: int, wanted: bool) -> None:
    cases = [Case(f"s{n}", f"p{n}") for n in range(patients)]
    assert learns_all(split_cases(cases), patients) is wanted


def test_never_of_one_patient_or_where_nothing_is_kept_back() -> None:
    of_one = [Case(f"s{n}", "p") for n in range(4)]
    assert not learns_all(split_cases(of_one, slice_counts=[9] * 4), 1)
    assert not learns_all(split_cases([Case(f"s{n}", f"p{n}") for n in range(3)], 0.0), 3)


@pytest.mark.parametrize(
    "changes",
    [{"validation_fraction": 0.25}, {"early_stopping": True}, {"epochs": 16}],
    ids=["share given", "early stopping", "too few steps"],
)
def test_the_scans_kept_back_stay_unseen_otherwise(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = write_png_study(tmp_path / "study")
    assert 16 * 3 < FEWEST_STEPS_TO_LEARN_ALL <= 18 * 3
    result, events = run(folder, **changes)
    assert result.judged_epoch == 0
    assert "learns from" not in said(events)
    assert "scans kept back" not in [choice.setting for choice in prepare(folder, **changes).plan.choices]
    assert "From then on" not in result.verdict
    history = pd.read_csv(folder / "models" / "few_history.csv")
    assert history["val_dice"].notna().iloc[-1]


# --- the whole run ----------------------------------------------------------------------------------------------------


def test_till_then_they_are_unseen_and_every_figure_says_which_model_it_is_of(tmp_path: Path) -> None:
    """The patient kept back is another one in a second study: the judged model does not notice, the final one does."""
    first, second = (write_png_study(tmp_path / name) for name in ("one", "two"))
    kept = {read_split(folder) for folder in (first, second)}
    assert len(kept) == 1
    (patient,) = kept
    for path in (second / "train" / "images").glob(f"{patient}_*.png"):
        Image.fromarray(255 - np.array(Image.open(path))).save(path)

    result, events = run(first)
    run(second)
    models, others = first / "models", second / "models"
    assert result.judged_epoch == 9
    judged, final = models / "few_9.safetensors", models / "few_best.safetensors"
    assert same_weights(judged, others / "few_9.safetensors")
    assert not same_weights(final, others / "few_best.safetensors")
    assert same_weights(final, models / "few_18.safetensors"), "the model is that of the last step"

    history = pd.read_csv(models / "few_history.csv")
    assert history["val_dice"].notna().iloc[8] and history["val_dice"].iloc[9:].isna().all()
    assert (
        "The scans kept back have judged the model of epoch 9. From here on it learns from them, too"
        in said(events)
    )
    assert "Looking at all validation scans with the model of epoch 9 ..." in said(events)
    assert "That is the model of epoch 9. From then on it learned from the scans kept back" in result.verdict
    assert (
        "Those kept back judged the model after 9 epochs and were learned from, too, from then on"
        in result.methods
    )
    assert "chose the best epoch" not in result.methods
    assert json.loads((models / "few_report.json").read_text(encoding="utf-8"))["judged_epoch"] == 9
    # No file of a model that has learned from these scans carries a score of them but the one that says whose it is.
    assert [read_metadata(models / f"few_{n}.safetensors")["validation"]["scans"] for n in (6, 12, 18)] == [
        4,
        0,
        0,
    ]
    assert "(of epoch 9)" in models_html([(final, read_metadata(final))], [])
    assert read_metadata(final)["judged_epoch"] == 9 and read_metadata(final)["epoch"] == 18
    assert "calibration" in read_metadata(final) and "preprocessing" in read_metadata(final)

    # The scores are those of the model of epoch 9, found here by predicting with its file.
    assert result.scores is not None
    predictor, dice = segmenting_predictor(load_model(judged)), []
    for scan in prepare(first, model_filename="other").validation:
        answer, truth = predictor.predict(scan.volume).array, scan.mask.array
        dice.append(
            [
                2 * ((answer == v) & (truth == v)).sum() / ((answer == v).sum() + (truth == v).sum())
                for v in (1, 2)
            ]
        )
    assert result.scores.mean == pytest.approx(np.mean(dice), abs=1e-6)


def read_split(folder: Path) -> str:
    """The patient that is kept back."""
    prepared = prepare(folder)
    plan = prepared.plan
    assert ("scans kept back", "learned from, too, in the second half") in [
        (choice.setting, choice.value) for choice in plan.choices
    ]
    (patient,) = {prepared.study.report.facts[i].name.split("_")[0] for i in plan.split.validation}
    return patient


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop_after", [20, 27, 28, 40])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    """Steps 25 to 27 are epoch 9, after which all are learned from: stopped before, at, just after and well after."""
    whole, broken = (write_png_study(tmp_path / name) for name in ("whole", "broken"))
    run(whole)
    stopped, _ = run(broken, stop_after)
    assert stopped.reason == "stopped"
    resumed, _ = run(broken)
    assert (resumed.reason, resumed.judged_epoch) == ("finished", 9)
    for name in ("few_9.safetensors", "few_18.safetensors", "few_best.safetensors"):
        assert same_weights(whole / "models" / name, broken / "models" / name), name
    columns = ["epoch", "train_loss", "val_loss", "val_dice", "learning_rate"]
    one, other = (pd.read_csv(folder / "models" / "few_history.csv")[columns] for folder in (whole, broken))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_finished_run_is_shown_with_the_scores_of_the_judged_model(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "study")
    first, _ = run(folder)
    report = (folder / "models" / "few_report.json").read_bytes()
    again, _ = run(folder)
    assert again.already_finished and again.judged_epoch == 9
    assert first.scores is not None and again.scores is not None
    assert again.scores.mean == first.scores.mean
    assert again.verdict == first.verdict

    (folder / "models" / "few_9.safetensors").unlink()
    gone, events = run(folder)
    assert gone.scores is None
    assert (
        "'few_9.safetensors', the model that the scans kept back have judged, is not there any more"
        in said(events)
    )
    assert gone.verdict == (
        "The scans kept back have judged the model of epoch 9, which is not there any more: see the report of the run."
    )
    assert (folder / "models" / "few_report.json").read_bytes() == report
    assert json.loads(report)["validation"]["mean_dice"] == pytest.approx(first.scores.mean, abs=1e-4)


def test_a_stop_at_that_very_step_tells_of_the_model_there_is(tmp_path: Path) -> None:
    """Stopped as epoch 9 ends: nothing was learned from the scans kept back yet, so the scores are of the model itself."""
    folder, stop = write_png_study(tmp_path / "study"), StopFlag()

    def listener(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 9:
            stop.set()

    stopped = train(prepare(folder), listener, stop)
    assert (stopped.judged_epoch, stopped.epochs_done) == (0, 9)
    assert stopped.scores is not None and "From then on" not in stopped.verdict
    assert same_weights(folder / "models" / "few_9.safetensors", folder / "models" / "few_best.safetensors")


@pytest.mark.parametrize("more_steps", [1, 4])
def test_a_judged_model_whose_file_was_lost_is_written_again_as_it_was(
    tmp_path: Path, more_steps: int
) -> None:
    """Stopped within epoch 10, or just after it, where the run itself has learned from the scans kept back already."""
    folder = write_png_study(tmp_path / "study")
    run(folder, 28)
    judged = folder / "models" / "few_9.safetensors"
    before = load_file(judged)
    judged.unlink()
    stopped, _ = run(folder, more_steps)
    after = load_file(judged)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert stopped.judged_epoch == 9 and stopped.scores is not None


def test_the_advice_of_the_table_can_be_followed_while_there_is_time(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "study")
    run(folder, 20)
    result, _ = run(folder, validation_fraction=0.2)
    assert (result.reason, result.judged_epoch) == ("finished", 0)
    other = write_png_study(tmp_path / "other")
    run(other, 40)
    with pytest.raises(
        SettingsError,
        match=r"validation_fraction: auto then, 0\.2 now; the scans kept back have been learned from since epoch 9",
    ):
        run(other, validation_fraction=0.2)


def test_early_stopping_that_is_switched_on_later_keeps_them_back_to_the_end(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "study")
    run(folder, 20)
    result, _ = run(folder, early_stopping=True)
    assert result.judged_epoch == 0
    assert pd.read_csv(folder / "models" / "few_history.csv")["val_dice"].notna().iloc[-1]


def test_volumes_too(tmp_path: Path) -> None:
    folder = write_volume_study(tmp_path / "study", scans=3, size=16)
    settings = {"dimension": "3D", "patch_size": 16, "input_shape": "auto", "epochs": 8, "batch_size": 2}
    result, _ = run(folder, **settings, patient_pattern=r"scan_\d+")
    history = pd.read_csv(folder / "models" / "few_history.csv")
    steps = prepare(folder, **settings, patient_pattern=r"scan_\d+").plan.steps_per_epoch
    assert 8 * steps >= FEWEST_STEPS_TO_LEARN_ALL
    assert result.judged_epoch == 4
    assert history["val_dice"].notna().iloc[3] and history["val_dice"].iloc[4:].isna().all()
