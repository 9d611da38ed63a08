"""Logs for TensorBoard, read back with TensorBoard's own reader."""

import builtins

import pytest

from autoseg_lib.errors import SettingsError
from autoseg_lib.events import EpochDone, Message, TrainingStarted, TrainingStopped
from autoseg_lib.train.tensorboard_log import TensorboardLog, writer_class


def row(epoch, dice=None):
    return {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "val_loss": None,
        "val_dice": dice,
        "val_dice_psoas left": dice,
        "learning_rate": 0.001,
        "seconds": 2.0,
    }


def scalars(folder):
    """tag → [(step, value), ...] as TensorBoard shows them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def train(folder, first, last, history=(), heard=None):
    log = TensorboardLog(folder, (heard if heard is not None else []).append)
    log(TrainingStarted(9, first, 4, ("psoas left",), tuple(history)))
    for epoch in range(first + 1, last + 1):
        log(EpochDone(epoch, 9, row(epoch, 0.1 * epoch if epoch % 2 else None), 0.0))
    return log


def test_every_epoch_is_there_once_also_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "étude_tensorboard"
    train(folder, 0, 5)  # killed: nobody closes the file; the resume file was written after epoch 3
    heard = []
    log = train(folder, 3, 6, [row(n, 0.1 * n if n % 2 else None) for n in (1, 2, 3)], heard)
    log(TrainingStopped("finished", 6))
    found = scalars(folder)
    assert [step for step, _ in found["loss/training"]] == [1, 2, 3, 4, 5, 6]
    assert found["loss/training"][3][1] == pytest.approx(0.25)
    assert found["dice/mean"] == [(n, pytest.approx(0.1 * n)) for n in (1, 3, 5)]
    assert found["dice/psoas left"] == found["dice/mean"]
    assert set(found) == {
        "loss/training",
        "dice/mean",
        "dice/psoas left",
        "learning_rate",
        "seconds_per_epoch",
    }
    assert [type(event).__name__ for event in heard] == [
        "TrainingStarted",
        *["EpochDone"] * 3,
        "TrainingStopped",
    ]


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    for name in ("torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        SettingsError, match=r'pip install "autoseg-workbench\[tensorboard\]", or set tensorboard = False'
    ):
        writer_class()


def test_a_folder_that_cannot_be_written_does_not_end_the_training(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "logs").write_text("a file where the folder should be", encoding="utf-8")
    heard = []
    train(tmp_path / "logs", 0, 2, heard=heard)
    assert isinstance(heard[0], Message)
    assert "training goes on without them" in heard[0].text
    assert [type(event).__name__ for event in heard[1:]] == ["TrainingStarted", "EpochDone", "EpochDone"]
