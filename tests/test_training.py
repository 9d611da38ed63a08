"""Training on tiny data: which files it makes, and that nothing is ever lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from autoseg_lib.errors import DataError, ModelError, SettingsError
from autoseg_lib.events import EpochDone, Event, Message, StepDone, nobody
from autoseg_lib.networks.model_file import load_model, read_metadata
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.machine import Machine
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.preview import preview_batch
from autoseg_lib.workflow.training import PreparedTraining, prepare_training, train
from autoseg_lib.workflow.training_result import TrainingResult
from tests.helpers.stopping import StopAfter
from tests.helpers.studies import write_png_study, write_volume_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")
QUICK = {
    "model_filename": "tiny",
    "input_shape": 64,
    "network": "light_unet",
    "epochs": 4,
    "batch_size": 4,
    "save_checkpoint": 2,
    "print_checkpoint": 2,
    "labels_list": ["bright", "dark"],
    "patient_pattern": r"p\d+",
    "spacing_mm": 1.5,
}


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """A training folder whose path has a space and an accent."""
    return write_png_study(tmp_path / "étude un")


def prepare(folder: Path, more_epochs: int = 0, **changes: object) -> PreparedTraining:
    values = {**QUICK, "main_dir": str(folder), "model_dir": str(folder / "models"), **changes}
    settings = make_settings(
        TrainSettings, {key: value for key, value in values.items() if value is not None}
    )
    return prepare_training(check_study(settings), folder, nobody, CPU, more_epochs=more_epochs)


def run(folder: Path, stop_after: int | None = None, **changes: object) -> tuple[TrainingResult, list[Event]]:
    """Trains; with ``stop_after`` presses Stop after so many steps."""
    listener = StopAfter(stop_after)
    return train(prepare(folder, **changes), listener, listener.stop), listener.events


def test_files_history_and_progress_lines(study_folder: Path):
    result, events = run(study_folder)
    models = study_folder / "models"
    assert sorted(path.name for path in models.iterdir()) == [
        "tiny_2.safetensors",
        "tiny_4.safetensors",
        "tiny_best.safetensors",
        "tiny_calibration.csv",
        "tiny_history.csv",
        "tiny_last.ckpt",
        "tiny_last.previous.ckpt",
        "tiny_report.json",
        "tiny_settings.yaml",
    ]
    history = pd.read_csv(models / "tiny_history.csv")
    assert list(history.columns) == [
        "epoch",
        "train_loss",
        "val_loss",
        "val_dice",
        "val_dice_bright",
        "val_dice_dark",
        "learning_rate",
        "seconds",
    ]
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert history["train_loss"].between(0, 1).all()
    lines = [e.text for e in events if isinstance(e, Message) and e.text.startswith("Completed")]
    assert [line.split("|")[0] for line in lines] == [
        "Completed epochs:    1/4 ",
        "Completed epochs:    2/4 ",
        "Completed epochs:    4/4 ",
    ]
    assert "Time elapsed: 0 hrs 0 mins" in lines[-1]
    assert f"Dice loss: {history['train_loss'].iloc[-1]:.3f}" in lines[-1]
    assert result.reason == "finished"
    assert result.model_path == models / "tiny_best.safetensors"


def test_one_model_file_is_all_that_segmenting_needs(study_folder: Path):
    result, _ = run(study_folder, epochs=1)
    metadata = read_metadata(result.model_path)
    assert metadata["labels"] == ["bright", "dark"]
    assert metadata["validation"]["split"] == "patients"
    assert metadata["preprocessing"]["input_shape"] == [64, 64]
    assert "main_dir" not in metadata["settings"]
    assert str(study_folder) not in str(metadata)
    model = load_model(result.model_path)
    with torch.inference_mode():
        assert model.network(torch.zeros(1, 1, 64, 64)).shape == (1, 3, 64, 64)


def test_it_learns(study_folder: Path):
    result, _ = run(study_folder, epochs=25)
    assert result.scores is not None
    assert result.scores.mean > 0.9
    assert result.verdict.startswith("Good: mean Dice 0.9")


@pytest.mark.parametrize(("stop_after", "next_epoch"), [(3, 1), (5, 2)])
def test_a_stopped_run_goes_on_to_the_same_weights(
    study_folder: Path, tmp_path: Path, stop_after: int, next_epoch: int
):
    """12 training slices, 3 steps an epoch: stopped in the validation after epoch 1, and in the middle of epoch 2."""
    whole = tmp_path / "whole"
    shutil.copytree(study_folder, whole)
    run(whole, dropout_rate=0.2)
    stopped, _ = run(study_folder, stop_after, dropout_rate=0.2)
    assert stopped.reason == "stopped"
    resumed, events = run(study_folder, dropout_rate=0.2)
    assert resumed.reason == "finished"
    first = next(e for e in events if isinstance(e, EpochDone))
    assert first.epoch == next_epoch
    mine = load_file(study_folder / "models" / "tiny_4.safetensors")
    theirs = load_file(whole / "models" / "tiny_4.safetensors")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    columns = ["epoch", "train_loss", "val_dice", "learning_rate"]
    pd.testing.assert_frame_equal(
        pd.read_csv(study_folder / "models" / "tiny_history.csv")[columns],
        pd.read_csv(whole / "models" / "tiny_history.csv")[columns],
    )


def test_a_killed_run_goes_on_from_the_last_epoch(study_folder: Path):
    """As after a power cut: the process dies between two epochs, without any clean-up."""

    def die(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(prepare(study_folder), die)
    prepared = prepare(study_folder)
    assert prepared.state == "continue"
    assert prepared.found.startswith("Found a run at epoch 1 of 4")
    assert train(prepared).epochs_done == 4


def test_a_finished_run_is_shown_not_trained_again(study_folder: Path):
    first, _ = run(study_folder)
    before = (study_folder / "models" / "tiny_last.ckpt").read_bytes()
    again, events = run(study_folder)
    assert again.already_finished
    assert not any(isinstance(event, StepDone) for event in events)
    assert again.scores.mean == pytest.approx(first.scores.mean)
    assert (study_folder / "models" / "tiny_last.ckpt").read_bytes() == before


def test_more_epochs_go_on(study_folder: Path):
    run(study_folder, epochs=2)
    longer, _ = run(study_folder, epochs=3)
    assert longer.epochs_done == 3


@pytest.mark.parametrize("limit", [None, 2.0])
def test_epochs_added_after_the_end_are_not_lost_by_a_stop(study_folder: Path, limit: float | None):
    """Two epochs, four more after the end, stopped in the third, and run again with the settings of the first time."""
    settings = {"epochs": 2, "time_limit_minutes": limit, "network": "light_unet", "input_shape": 32}
    first, _ = run(study_folder, **settings)
    stopped, _ = run(study_folder, stop_after=1, more_epochs=4, **settings)
    assert (first.epochs_done, stopped.reason, stopped.epochs) == (2, "stopped", 6)
    again = prepare(study_folder, **settings)
    assert again.state == "continue" and "at epoch 2 of 6 from" in again.found
    assert again.summary.split(" · ")[1].startswith("6 epochs")
    ended, events = run(study_folder, **settings)
    assert (ended.reason, ended.epochs_done, ended.epochs, len(ended.history)) == ("finished", 6, 6, 6)
    lines = [event.text for event in events if isinstance(event, Message)]
    assert "with the best model ..." in lines[-2]
    assert (
        lines[-1]
        == f"Looked at {len(ended.scores.cases)} validation scans: mean Dice {ended.scores.mean:.3f}."
    )
    assert prepare(study_folder, **settings).state == "finished"


def test_other_settings_or_data_ask_for_a_new_name(study_folder: Path):
    run(study_folder, epochs=1)
    with pytest.raises(SettingsError) as caught:
        prepare(study_folder, epochs=1, learning_rate=0.5, batch_size=2)
    text = str(caught.value)
    assert "a run named 'tiny' exists already" in text
    assert "learning_rate: 0.003 then, 0.5 now" in text
    assert "batch_size: 4 then, 2 now" in text
    assert "new model_filename" in text
    path = study_folder / "train" / "images" / "p1_0.png"
    Image.fromarray(np.asarray(Image.open(path)) // 2 + 40).save(path)
    with pytest.raises(SettingsError, match="the images or labels in the data folder have changed"):
        prepare(study_folder, epochs=1)


def test_starting_over_sets_the_old_files_aside(study_folder: Path):
    run(study_folder, epochs=1)
    old = (study_folder / "models" / "tiny_1.safetensors").read_bytes()
    run(study_folder, epochs=1, resume=False, seed=5)
    (aside,) = (study_folder / "models").glob("tiny_replaced_*")
    assert (aside / "tiny_1.safetensors").read_bytes() == old


def test_time_limit_ends_the_run(study_folder: Path):
    result, _ = run(study_folder, epochs=1000, time_limit_minutes=0.05)
    assert result.reason == "time limit"
    assert 0 < result.epochs_done < 1000
    assert result.model_path.is_file()


def test_a_damaged_resume_file_is_said_and_the_one_before_it_used(study_folder: Path):
    run(study_folder)
    last = study_folder / "models" / "tiny_last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    prepared = prepare(study_folder)
    assert prepared.state == "continue"
    assert prepared.found.startswith(
        "'tiny_last.ckpt' is damaged or was not written to its end: going on from the one before it, of "
    )
    assert train(prepared).epochs_done == 4
    last.write_bytes(b"\x80\x04K\x01.")
    last.with_name("tiny_last.previous.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"'tiny_last.ckpt' cannot be read as a training checkpoint"):
        prepare(study_folder)


def test_early_stopping_ends_a_run_in_words(study_folder: Path):
    """A network that learns nothing (learning rate 0) gains nothing: over after half the run, not before."""
    result, events = run(study_folder, epochs=20, early_stopping=True, learning_rate=1e-12)
    assert result.reason == "early"
    assert 10 <= result.epochs_done < 20
    said = [e.text for e in events if isinstance(e, Message) and "have not come out better" in e.text]
    assert len(said) == 1
    assert "so training ends here. early_stopping = False trains all 20 epochs." in said[0]
    assert prepare(study_folder, epochs=20, early_stopping=True, learning_rate=1e-12).state == "finished"
    again = prepare(study_folder, epochs=20, early_stopping=False, learning_rate=1e-12)
    assert again.state == "continue"


def test_memory_too_small_for_one_image_goes_on_with_smaller_ones(study_folder: Path):
    """The network asks torch for more memory than any computer has; the one on smaller images does not."""
    prepared = prepare(study_folder, input_shape=128, epochs=1)

    def ask_for_too_much(*_: object) -> None:
        torch.empty(2**50)

    prepared.network.register_forward_pre_hook(ask_for_too_much)
    events: list[Event] = []
    result = train(prepared, events.append)
    said = [event.text for event in events if isinstance(event, Message) and "Memory ran out" in event.text]
    assert said[-1] == (
        "Memory ran out even with one at a time: going on with images of 96 × 96. What was learned so far is kept."
    )
    assert result.epochs_done == 1
    assert read_metadata(result.model_path)["preprocessing"]["input_shape"] == [96, 96]
    assert prepare(study_folder, input_shape=128, epochs=1).state == "finished"


def test_resume_true_needs_a_run(study_folder: Path):
    with pytest.raises(ModelError, match=r"'tiny_last.ckpt' was not found"):
        prepare(study_folder, resume=True)


def test_data_errors_stop_before_training(study_folder: Path):
    with pytest.raises(DataError, match="1 problem to solve before training"):
        prepare(study_folder, labels_list=["only one"])


def test_unknown_names_list_the_accepted_ones(study_folder: Path):
    with pytest.raises(SettingsError, match="Accepted: unet, unetplusplus"):
        prepare(study_folder, network="unett")
    with pytest.raises(SettingsError, match="dice_ce"):
        prepare(study_folder, loss="hinge")
    with pytest.raises(SettingsError, match="Use 72 × 72"):
        prepare(study_folder, input_shape=70)


def test_fine_tuning_starts_from_a_model(study_folder: Path):
    first, _ = run(study_folder, epochs=1)
    prepared = prepare(study_folder, model_filename="next", start_from=str(first.model_path))
    start = load_file(first.model_path)
    assert all(torch.equal(tensor, start[name]) for name, tensor in prepared.network.state_dict().items())
    with pytest.raises(ModelError, match='network = "linknet" asks for another'):
        prepare(study_folder, model_filename="next", start_from=str(first.model_path), network="linknet")


def test_preview_shows_the_batch_before_and_after(study_folder: Path):
    preview = preview_batch(prepare(study_folder))
    assert preview.shapes == "Images [4, 1, 64, 64]  Labels [4, 64, 64]"
    assert preview.stored_images.shape == preview.images.shape == (4, 64, 64)
    assert not (preview.stored_images == preview.images).all()


def test_3d(tmp_path: Path):
    folder = write_volume_study(tmp_path / "balls")
    result, _ = run(
        folder,
        dimension="3D",
        input_shape=None,
        labels_list=["left ball", "right ball"],
        patient_pattern=None,
        spacing_mm=None,
        epochs=40,
        save_checkpoint=40,
    )
    assert result.scores.mean > 0.8
    assert read_metadata(result.model_path)["preprocessing"]["spacing_zyx_mm"] == [1.0, 1.0, 1.0]


def test_3d_refuses_single_slices(study_folder: Path):
    with pytest.raises(DataError, match="whole scans are expected"):
        prepare(study_folder, dimension="3D", input_shape=None)


def test_one_patient_keeps_a_block_of_slices_back(tmp_path: Path):
    folder = write_volume_study(tmp_path / "one", scans=1)
    result, _ = run(
        folder,
        dimension="2D",
        labels_list=["a", "b"],
        patient_pattern=None,
        spacing_mm=None,
        input_shape=64,
        epochs=2,
    )
    assert result.split_kind == "same scan"
    assert "same scan" in result.verdict


def test_without_validation_the_latest_weights_are_the_model(study_folder: Path):
    run(study_folder, 4, validation_fraction=0)
    resumed, _ = run(study_folder, validation_fraction=0)
    assert resumed.epochs_done == 4
    best = load_file(study_folder / "models" / "tiny_best.safetensors")
    last = load_file(study_folder / "models" / "tiny_4.safetensors")
    assert all(torch.equal(best[name], last[name]) for name in last)
    assert resumed.verdict.startswith("No scan was kept back")


def test_a_stop_looks_once_more_at_what_was_learned(study_folder: Path):
    """Validation falls on epochs 1, 40, 80 ...; a stop in between must not hand back the model of epoch 1."""
    result, _ = run(study_folder, 60, epochs=1000)
    assert result.reason == "stopped"
    assert result.scores.mean > 0.6
    first = next(row["val_dice"] for row in result.history if row["val_dice"] is not None)
    assert result.scores.mean > first


def test_a_stop_within_the_first_pass_keeps_a_model_too(study_folder: Path):
    result, _ = run(study_folder, 2, epochs=1000)
    assert result.epochs_done == 0
    assert result.model_path.is_file()


def test_a_run_that_hit_its_time_limit_goes_on_without_it(study_folder: Path):
    first, _ = run(study_folder, epochs=60, time_limit_minutes=0.03)
    assert first.reason == "time limit"
    second, _ = run(study_folder, epochs=60)
    assert second.epochs_done == 60


def test_resuming_from_elsewhere_sets_a_run_of_the_same_name_aside(study_folder: Path):
    run(study_folder, epochs=2)
    other = write_png_study(study_folder.parent / "other", seed=9)
    run(other, epochs=1, model_dir=str(study_folder / "models"), model_filename="b")
    before = (study_folder / "models" / "b_1.safetensors").read_bytes()
    resumed, _ = run(
        study_folder, epochs=3, model_filename="b", resume=str(study_folder / "models" / "tiny_last.ckpt")
    )
    assert resumed.epochs_done == 3
    (aside,) = (study_folder / "models").glob("b_replaced_*")
    assert (aside / "b_1.safetensors").read_bytes() == before
    # Started once more with the same settings, it is where it was, not at the other run's end again.
    again = prepare(
        study_folder, epochs=3, model_filename="b", resume=str(study_folder / "models" / "tiny_last.ckpt")
    )
    assert again.state == "finished"


def test_resuming_from_a_file_goes_on_with_the_run_of_its_name(study_folder: Path):
    models = study_folder / "models"
    run(study_folder, epochs=1)
    resumed, _ = run(study_folder, epochs=2, model_filename=None, resume=str(models / "tiny_last.ckpt"))
    assert (resumed.name, resumed.epochs_done) == ("tiny", 2)
    assert not list(models.glob("*_replaced_*"))


def test_a_report_that_a_killed_process_did_not_write_is_written_later(study_folder: Path):
    run(study_folder, epochs=1)
    report = study_folder / "models" / "tiny_report.json"
    report.unlink()
    run(study_folder, epochs=1)
    assert '"reason": "finished"' in report.read_text(encoding="utf-8")


def test_a_longer_time_limit_brings_more_epochs(study_folder: Path):
    first, _ = run(study_folder, epochs=None, time_limit_minutes=0.03)
    prepared = prepare(study_folder, epochs=None, time_limit_minutes=3)
    assert prepared.state == "continue"
    assert prepared.plan.loop.epochs > first.epochs_done


def test_a_history_open_in_another_program_does_not_end_the_training(
    study_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    real, refused = Path.replace, []

    def locked(self: Path, target: Path) -> Path:
        if Path(target).name == "tiny_history.csv" and len(refused) < 2:
            refused.append(target)
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", locked)
    result, events = run(study_folder)
    assert result.epochs_done == 4
    assert any("Training goes on" in event.text for event in events if isinstance(event, Message))
    assert list(pd.read_csv(study_folder / "models" / "tiny_history.csv")["epoch"]) == [1, 2, 3, 4]


def test_the_report_names_no_file(study_folder: Path):
    image = next((study_folder / "train" / "images").iterdir())
    image.rename(image.with_name("Mustermann_Max.png"))
    run(study_folder, epochs=1)
    assert "Mustermann" not in (study_folder / "models" / "tiny_report.json").read_text(encoding="utf-8")
