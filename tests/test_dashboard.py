"""The live view of a training, without a browser: what it says, what its buttons do. Clicks are in test_training_browser.py."""

import asyncio
import re
import threading

import numpy as np
import pytest

from autoseg_lib.events import (
    EpochDone,
    FoldStarted,
    Message,
    PlanChanged,
    Progress,
    StepDone,
    StopFlag,
    TrainingStarted,
    TrainingStopped,
    ValidationCase,
)
from autoseg_lib.labels import LabelTable
from autoseg_lib.widgets import dashboard as module
from autoseg_lib.widgets.dashboard import TrainingDashboard
from autoseg_lib.widgets.live_training import LiveTraining
from autoseg_lib.widgets.training_status import TrainingStatus, memory_sentence
from autoseg_lib.workflow.training_result import TrainingResult

ROIS = ("psoas left", "psoas right")


def row(epoch, dice=None, seconds=2.0):
    named = {f"val_dice_{name}": dice for name in ROIS}
    return {
        "epoch": epoch,
        "train_loss": 0.5,
        "val_loss": None,
        "val_dice": dice,
        **named,
        "seconds": seconds,
    }


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def started(epochs=10, first=0, history=(), worst=1.0):
    return TrainingStarted(epochs, first, 4, ROIS, tuple(history), worst)


# --- where it stands --------------------------------------------------------------------------------------------------


def test_how_far_and_how_long_still():
    clock = Clock()
    status = TrainingStatus(LabelTable([]), clock)
    status.take(Progress("Preparing scans", 1, 4))
    assert (status.sentence(), status.share) == ("Preparing scans: 1 of 4", 0.25)
    status.take(started())
    assert status.sentence() == "Epoch (one pass over your data) 1 of 10"
    for step in (1, 2, 3):
        clock.now += 2
        status.take(StepDone(1, step, 4, 0.5, images=4, seconds=2.0, wait_seconds=0.5))
    # 3 of 40 steps in 6 s: 37 more take 74 s.
    assert status.share == pytest.approx(3 / 40)
    assert status.seconds_left == pytest.approx(74)
    assert status.images_per_second == pytest.approx(2.0)
    assert status.waiting_share == pytest.approx(0.25)
    assert (
        status.speed()
        == "2 images per second · 25 % of the time waiting for data (a larger num_workers may help)"
    )
    status.take(EpochDone(1, 10, row(1), seconds_left=125.0))
    clock.now += 5
    assert status.seconds_left == pytest.approx(120)
    assert re.search(r"2 of 10 · about 2 min left, until \d\d:\d\d$", status.sentence())


def test_a_run_that_goes_on_counts_only_this_sitting():
    clock = Clock()
    status = TrainingStatus(LabelTable([]), clock)
    status.take(started(first=5, history=[row(n) for n in range(1, 6)]))
    for step in (1, 2, 3, 4):
        clock.now += 1
        status.take(StepDone(6, step, 4, 0.5, 4, 1.0, 0.0))
    # 4 steps in 4 s, 16 of 40 steps are left.
    assert status.seconds_left == pytest.approx(16)


def test_more_epochs_and_folds_are_said():
    status = TrainingStatus(LabelTable([]))
    status.take(FoldStarted(2, 5))
    status.take(started())
    status.add_epochs(10)
    assert status.sentence() == "Fold 2 of 5 · Epoch (one pass over your data) 1 of 20"
    status.take(EpochDone(1, 20, row(1), 3.0))
    status.take(FoldStarted(3, 5))
    status.take(started())
    assert (status.history, status.epochs) == ([], 10)
    assert status.sentence().startswith("Fold 3 of 5")


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("finished", "Training is finished"),
        ("early", "no longer got better"),
        ("time limit", "The time limit is reached"),
        ("stopped", "Stopped and kept: run this cell again to go on"),
    ],
)
def test_endings(reason, text):
    status = TrainingStatus(LabelTable([]))
    status.take(started())
    status.take(EpochDone(1, 10, row(1), 1.0))
    status.take(TrainingStopped(reason, 1))
    assert text in status.ending()
    assert status.ending().endswith("1 of 10 epochs (passes over your data) in 2 s.")


def test_memory_is_said():
    assert re.match(r"memory: \d+\.\d GB used, \d+\.\d GB free", memory_sentence())


# --- without widgets --------------------------------------------------------------------------------------------------


def test_without_widgets_lines_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.0)
    board = TrainingDashboard()
    board.begin(StopFlag())
    board.show(started())
    for step in (1, 2, 3, 4):
        board.show(StepDone(1, step, 4, 0.5, 4, 2.0, 0.0))
    board.show(EpochDone(1, 10, row(1, 0.4), 125.0))
    board.show(Message("Completed epochs:    1/10 | Dice loss: 0.500"))
    board.refresh()
    board.offer_more("finished")
    board.end(None)
    printed = capsys.readouterr().out
    assert "Completed epochs:    1/10 | Dice loss: 0.500" in printed
    assert re.search(
        r"Epoch \(one pass over your data\) 1 of 10.* · 2 images per second · 0 % .* · memory: ", printed
    )
    assert board.lines[-1].startswith("Completed epochs")


# --- with widgets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def live(monkeypatch):
    """A dashboard as in a notebook; what is shown goes nowhere."""
    monkeypatch.setattr(module, "has_widgets", lambda: True)
    monkeypatch.setattr(module.Spot, "_fill", lambda self, bundle: setattr(self, "bundle", bundle))
    return lambda go_on=None: TrainingDashboard(LabelTable(ROIS), go_on)


def test_the_buttons_ask_the_training(live):
    board, stop = live(), StopFlag()
    board.begin(stop)
    board.show(started())
    board._widgets["more"].click()
    board._widgets["more"].click()
    assert stop.take_more_epochs() == 20
    assert board.status.epochs == 30
    board._widgets["stop"].click()
    assert stop.is_set()
    assert board._widgets["more"].disabled
    assert "Stopping: finishing this step and saving" in board._widgets["bar"].value


def test_curves_table_worst_scan_and_numbers_are_drawn(live):
    board = live()
    board.begin(StopFlag())
    board.show(started())
    board.show(StepDone(1, 1, 4, 0.5, 4, 2.0, 0.1))
    image = np.arange(64.0).reshape(8, 8)
    truth = (image > 30).astype(np.uint8)
    board.show(ValidationCase("scan_7", 3, 0.41, image, truth, 1 - truth))
    board.show(EpochDone(1, 10, row(1, 0.4), 125.0))
    board._numbers_due = 0.0
    board.refresh()
    parts = board._widgets
    assert bytes(parts["curves"].value).startswith(b"\x89PNG")
    assert bytes(parts["worst"].value).startswith(b"\xff\xd8")
    assert "scan_7, slice 3, Dice 0.410" in parts["worst_text"].value
    assert "psoas left" in parts["table"].value
    assert "2 images per second" in parts["numbers"].value
    # A second epoch within the same second is not drawn yet.
    drawn = bytes(parts["curves"].value)
    board.show(EpochDone(2, 10, row(2, 0.6), 100.0))
    board.refresh()
    assert parts["curves"].value == drawn
    board._curves_due = 0.0
    board.refresh()
    assert parts["curves"].value != drawn
    board.end(None)
    assert "image/png" in board._spot.bundle["text/html"]
    assert "Training is finished" not in board._spot.bundle["text/html"]


def test_what_was_learned_before_is_drawn_at_once_and_nothing_empty_is_shown(live):
    board = live()
    board.begin(StopFlag())
    board.show(started())
    image = np.arange(64.0).reshape(8, 8)
    truth = (image > 30).astype(np.uint8)
    board.show(ValidationCase("scan_7", 3, 0.41, image, truth, 1 - truth))
    board.refresh()
    layouts = {name: board._widgets[name].layout.display for name in ("curves", "worst")}
    assert layouts == {"curves": "none", "worst": ""}
    board.show(EpochDone(1, 10, row(1, 0.4), 125.0))
    board.show(TrainingStopped("finished", 1))
    board.end(None)
    board.begin(StopFlag())
    assert bytes(board._widgets["curves"].value).startswith(b"\x89PNG")
    assert board._widgets["curves"].layout.display == ""
    assert "Getting ready" in board._widgets["bar"].value


def test_the_plan_above_is_renewed(live):
    board = live()
    board.show_plan("2 epochs · under a minute")
    board.begin(StopFlag())
    board.show(started(2))
    board._widgets["more"].click()
    assert "Asked for since: 10 more epochs." in board._plan_spot.bundle["text/html"]
    board.show(PlanChanged("12 epochs · about 2 min left"))
    assert "12 epochs · about 2 min left" in board._plan_spot.bundle["text/html"]
    assert "2 epochs · under" not in board._plan_spot.bundle["text/html"]


def test_folds_cannot_be_trained_longer_one_by_one(live):
    board = TrainingDashboard(LabelTable(ROIS), lambda epochs: None, can_extend=False)
    board.begin(StopFlag())
    texts = [button.description for button in board.buttons]
    assert texts == ["Stop and keep"]
    board.offer_more("finished")
    assert "widget" not in str(board._button_spot.bundle)
    board.offer_more("stopped")
    assert "widget" in str(board._button_spot.bundle)


def result(epochs, reason="finished"):
    return TrainingResult("m", reason, None, epochs, epochs, 1.0, ROIS, (), None, "none", "", "", "")


def test_ten_more_epochs_after_the_end_fill_the_same_outputs(live):
    asked, heard = [], []

    def longer(before, epochs):
        asked.append((before.epochs_done, epochs))
        return lambda on_event, stop: result(before.epochs_done + epochs)

    async def session():
        training = LiveTraining(LabelTable(ROIS), longer)
        first = await training.run(lambda on_event, stop: result(5))
        training.follow("performance", lambda run: heard.append(run.epochs_done))
        training.go_on(10)
        training.go_on(10)  # a second click while it trains does nothing
        await training._task
        return first

    assert asyncio.run(session()).epochs_done == 5
    assert asked == [(5, 10)]
    assert heard == [15]


def test_what_goes_wrong_after_the_end_is_shown_there(live):
    def longer(before, epochs):
        def work(on_event, stop):
            raise OSError("the disk is gone")

        return work

    async def session():
        training = LiveTraining(LabelTable(ROIS), longer)
        await training.run(lambda on_event, stop: result(5))
        training.go_on(10)
        await training._task
        return training

    training = asyncio.run(session())
    assert "the disk is gone" in training._trouble.bundle["text/html"]
    assert not training._busy


def test_more_epochs_are_added_across_threads():
    stop = StopFlag()
    threads = [threading.Thread(target=stop.ask_more_epochs) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stop.take_more_epochs() == 200
    assert stop.take_more_epochs() == 0
