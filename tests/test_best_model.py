"""Which model is the best, and when a run is over: numbers worked out by hand."""

from __future__ import annotations

import pytest

from autoseg_lib.train.best_model import BestModel


def test_the_best_is_that_of_the_highest_smoothed_score() -> None:
    choice = BestModel()
    # Smoothed: 0.6, 0.7, 0.65, 0.725, 0.7125
    kept = [
        choice.look(dice, epoch, 3 * epoch) for epoch, dice in enumerate((0.6, 0.8, 0.6, 0.8, 0.7), start=1)
    ]
    assert kept == [True, True, False, True, False]
    assert (choice.best_epoch, choice.best_dice) == (4, 0.8)
    assert choice.smoothed == pytest.approx(0.7125)
    assert choice.best == pytest.approx(0.725)


def test_of_equals_the_later_one_is_kept() -> None:
    choice = BestModel()
    assert choice.look(0.0, 1, 3)
    assert choice.look(0.0, 2, 6)
    assert choice.best_epoch == 2


def test_a_single_lucky_look_does_not_win() -> None:
    choice = BestModel()
    for epoch, dice in enumerate((0.70, 0.70, 0.76, 0.70, 0.74, 0.75, 0.75), start=1):
        choice.look(dice, epoch, epoch)
    # 0.76 was smoothed to 0.73; 0.75 at last to 0.743
    assert choice.best_epoch == 7


def test_early_stopping_waits_for_half_the_run_and_long_without_gain() -> None:
    choice = BestModel()
    over = []
    for epoch in range(1, 101):
        choice.look(0.5 if epoch < 20 else 0.8, epoch, epoch)
        over.append(choice.is_over(epoch, 100))
    # From epoch 20 on 0.8 is smoothed to 0.8 - 0.3 / 2^k, k = 1, 2, ... It gains 0.001 over the last gain up to k = 8 (0.79883)
    # and once more at k = 11 (0.79985), epoch 30.
    assert choice.gained_step == 30
    assert over.index(True) + 1 == 60
    steady = BestModel()
    first = [steady.look(0.5, epoch, epoch) and steady.is_over(epoch, 100) for epoch in range(1, 101)].index(
        True
    )
    assert first + 1 == 50


def test_few_looks_are_no_reason_to_end() -> None:
    choice = BestModel()
    for step in (10, 40, 70, 90):
        choice.look(0.5, step, step)
    assert not choice.is_over(90, 100)


def test_it_is_kept_in_the_resume_file() -> None:
    choice = BestModel()
    choice.look(0.6, 1, 3)
    assert BestModel.from_dict(choice.to_dict()) == choice
