"""The learning-rate schedule: a function of the step and of stored decisions, fitted to a time limit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest

from autoseg_lib.train.schedule import BACK_TO, LOWEST_SHARE, WARM_UP_SHARE, Schedule


def run(schedule: Schedule, seconds_of_step, reserve: float = 0.0, every: int = 10) -> tuple[int, float]:
    """Plays a run whose steps take ``seconds_of_step(step)``; returns its steps and its seconds."""
    step, elapsed = 0, 0.0
    while step < schedule.total_steps:
        elapsed += seconds_of_step(step)
        step += 1
        if step % every == 0:
            schedule.replan(step, elapsed, reserve)
    return step, elapsed + reserve


def test_without_replanning_progress_is_the_share_of_steps_done() -> None:
    schedule = Schedule(total_steps=200, steps_per_epoch=30)
    assert schedule.epochs == 7  # six whole passes of 30 steps and one of 20
    assert [schedule.progress(step) for step in (0, 50, 200, 300)] == [0.0, 0.25, 1.0, 1.0]


def test_learning_rate_rises_then_falls_along_half_a_cosine() -> None:
    schedule = Schedule(1000, 10)
    assert schedule.learning_rate(0, 0.01) == pytest.approx(0.01 * 1e-4 / WARM_UP_SHARE)
    assert schedule.learning_rate(15, 0.01) == pytest.approx(
        0.01 * (0.015 + 1e-4) / 0.03 * 0.5 * (1 + math.cos(math.pi * 0.015))
    )
    assert schedule.learning_rate(500, 0.01) == pytest.approx(0.005)
    assert schedule.learning_rate(1000, 0.01) == pytest.approx(0.01 * LOWEST_SHARE)


def test_replanning_goes_on_from_where_the_run_is() -> None:
    schedule = Schedule(100, 10, time_limit_seconds=100.0)
    # 20 steps took 40 s: 60 s are left, 30 steps of 2 s.
    assert schedule.replan(20, 40.0, 0.0)
    assert (schedule.total_steps, schedule.epochs) == (50, 5)
    assert schedule.progress(10) == pytest.approx(0.1)  # what was, stays
    assert schedule.progress(20) == pytest.approx(0.2)
    assert schedule.progress(35) == pytest.approx(0.2 + 0.8 * 15 / 30)
    assert schedule.progress(50) == 1.0


def test_a_quicker_computer_gets_more_steps_but_never_more_than_the_epochs_given() -> None:
    free, capped = Schedule(100, 10, 100.0), Schedule(100, 10, 100.0, most_steps=100)
    assert free.replan(50, 25.0, 5.0)
    assert free.total_steps == 50 + int((100 - 25 - 5) / 0.5)
    assert not capped.replan(50, 25.0, 5.0)
    assert capped.total_steps == 100


def test_small_deviations_and_the_first_steps_change_nothing() -> None:
    schedule = Schedule(100, 10, 100.0)
    assert not schedule.replan(50, 50.2, 0.0)  # would end at 100.4 s
    assert not Schedule(100, 10, 100.0).replan(1, 30.0, 0.0)
    assert not Schedule(1000, 10, 100.0).replan(10, 1.9, 0.0)
    assert not Schedule(100, 10).replan(50, 500.0, 0.0)  # no limit


def test_out_of_time_ends_at_once() -> None:
    schedule = Schedule(100, 10, 100.0)
    assert schedule.replan(40, 99.0, 5.0)
    assert schedule.total_steps == 40
    assert schedule.progress(40) == 1.0
    assert schedule.progress(20) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "seconds_of_step"),
    [
        ("steady, half as quick as planned", lambda step: 0.4),
        ("steady, twice as quick as planned", lambda step: 0.1),
        ("slow start", lambda step: 4.0 if step == 0 else 0.2),
        ("slows down by half (heat)", lambda step: 0.15 if step < 600 else 0.3),
        ("validation of 2 s every 60 steps", lambda step: 0.2 + (2.0 if step % 60 == 59 else 0.0)),
    ],
)
def test_ends_within_a_hundredth_of_the_limit(name: str, seconds_of_step) -> None:
    schedule = Schedule(total_steps=1000, steps_per_epoch=10, time_limit_seconds=200.0)
    steps, seconds = run(schedule, seconds_of_step, reserve=5.0)
    assert seconds == pytest.approx(200.0, rel=0.012)
    assert schedule.progress(steps) == 1.0


def test_progress_is_continuous_and_never_falls_while_replanning() -> None:
    schedule = Schedule(1000, 10, 200.0)
    steps, _ = run(schedule, lambda step: 0.15 if step < 500 else 0.35)
    values = [schedule.progress(step) for step in range(steps + 1)]
    gaps = [after - before for before, after in itertools.pairwise(values)]
    assert min(gaps) >= 0
    assert max(gaps) < 0.01  # a jump would be larger than ten plain steps


def test_more_epochs_go_back_to_larger_steps_and_to_the_end_once_more() -> None:
    schedule = Schedule(100, 10)
    schedule.extend(95, 100)
    assert schedule.total_steps == 200
    assert schedule.progress(94) == pytest.approx(0.94)
    assert schedule.progress(95) == BACK_TO
    assert schedule.progress(200) == 1.0
    early = Schedule(100, 10)
    early.extend(30, 100)
    assert early.progress(30) == pytest.approx(0.3)
    finished = Schedule(100, 10)
    finished.extend(100, 50)
    assert (finished.total_steps, finished.progress(100), finished.progress(125)) == (150, 0.8, 0.9)


def test_more_epochs_lengthen_the_time_limit_by_what_they_take() -> None:
    schedule = Schedule(100, 10, 100.0, most_steps=100)
    schedule.replan(50, 50.0, 0.0)
    schedule.extend(50, 20)
    assert schedule.time_limit_seconds == pytest.approx(120.0)
    assert (schedule.most_steps, schedule.total_steps) == (120, 120)


def test_a_continued_run_can_be_given_another_end() -> None:
    schedule = Schedule(100, 10)
    schedule.change(100, 150, None)
    assert schedule.progress(100) == BACK_TO
    shorter = Schedule(100, 10)
    shorter.change(50, 70, 30.0)
    assert (shorter.progress(50), shorter.progress(60), shorter.time_limit_seconds) == (0.5, 0.75, 30.0)


def test_stored_and_read_back_it_goes_on_alike() -> None:
    schedule = Schedule(1000, 10, 200.0)
    for step in range(10, 300, 10):
        schedule.replan(step, step * 0.3, 2.0)
    copy = Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert copy == schedule
    for both in (schedule, copy):
        both.replan(310, 97.0, 2.0)
    assert copy == schedule
    assert [copy.learning_rate(s, 1.0) for s in range(400)] == [
        schedule.learning_rate(s, 1.0) for s in range(400)
    ]


def test_a_copy_of_a_schedule_goes_its_own_way() -> None:
    planned = Schedule(100, 10, 100.0)
    running = dataclasses.replace(planned)
    assert running.replan(20, 40.0, 0.0)
    assert planned == Schedule(100, 10, 100.0)
