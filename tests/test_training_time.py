"""What is said about the time a training takes, and scans that are read when they are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.events import nobody
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.planning import make_plan
from autoseg_lib.workflow.checking import Study, check_study
from autoseg_lib.workflow.training_data import ValidationScans, prepare_data, validation_scans
from autoseg_lib.workflow.training_start import initial_network
from autoseg_lib.workflow.training_time import (
    MIRRORED_LOOK_COST,
    SAVING_SECONDS,
    UNSEEN_SHARE,
    Speed,
    expected_seconds,
    measure_speed,
    measuring_seconds,
    seconds_after_last_step,
    seconds_within_limit,
    with_speed,
)
from tests.helpers.studies import write_volume_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = write_volume_study(tmp_path_factory.mktemp("study"), scans=6, size=24)
    values = {"main_dir": str(folder), "labels_list": ["one", "two"], "validation_fraction": 0.5}
    return check_study(make_settings(TrainSettings, values))


def plan_of(study: Study, **changes: object):
    settings = replace(study.settings, **changes)  # type: ignore[arg-type]
    return make_plan(settings, study.report, CPU, Path("models"))


def test_expected_time_adds_up_steps_looks_and_the_end(study: Study) -> None:
    plan = plan_of(study)
    plan = replace(plan, loop=replace(plan.loop, validate_every=2), validation_scans=2)
    speed = Speed(step_seconds=0.5, data_seconds=0.1, look_seconds=0.2, steps=10)
    steps = 10 * plan.steps_per_epoch  # five looks at two scans
    # The mirrored scan is looked at too, as in segmenting.
    assert plan.augmentation.mirrors
    end = SAVING_SECONDS + 0.2 * (2 + MIRRORED_LOOK_COST * 3)
    assert seconds_after_last_step(plan, speed) == pytest.approx(end)
    assert expected_seconds(plan, speed, steps) == pytest.approx(
        (steps * 0.5 + 5 * 2 * 0.2) * (1 + UNSEEN_SHARE) + end
    )
    told = with_speed(plan, speed)
    assert told.loop.reserve_seconds == pytest.approx(end)
    assert (
        told.choices[-1].reason
        == "median of 10 steps, 0.10 s of it preparing images; looking at a scan kept back takes 0.20 s"
    )


def test_a_last_look_longer_than_the_limit_is_said(study: Study) -> None:
    plan = plan_of(study, time_limit_minutes=2.0)
    quick, slow = (with_speed(plan, Speed(0.5, 0.1, look, 10)) for look in (0.2, 60.0))
    assert seconds_within_limit(quick, 30.0) == pytest.approx(90.0)
    assert seconds_within_limit(slow, 30.0) == pytest.approx(30.0 + slow.loop.reserve_seconds)
    assert quick.choices[-1].setting == "speed"
    assert slow.choices[-1].value == "about 11 minutes"  # 3 + 2.5 × 3 looks of a minute
    assert "a smaller validation_fraction shortens it" in slow.choices[-1].reason


def test_measuring_takes_a_share_of_a_time_limit_and_no_longer(study: Study) -> None:
    assert measuring_seconds(plan_of(study)) == 15.0
    assert measuring_seconds(plan_of(study, time_limit_minutes=2.0)) == pytest.approx(6.0)


def test_one_step_is_timed_however_little_time_there_is(study: Study) -> None:
    ticks = iter(np.arange(0.0, 1000.0, 0.25))
    plan = plan_of(study)
    train_set, validation = prepare_data(study, plan, nobody)
    speed = measure_speed(plan, initial_network(plan), train_set, validation, 0.0, lambda: next(ticks))
    # The clock moves a quarter of a second each time it is asked: after preparing, and after the step.
    assert (speed.steps, speed.data_seconds, speed.step_seconds) == (1, 0.25, 0.5)
    assert speed.look_seconds == pytest.approx(plan.scan_steps * 0.5)  # no time to measure it


def test_scans_kept_back_stay_in_memory_as_far_as_it_goes(study: Study) -> None:
    plan = plan_of(study)
    one = 24**3 * 2 + 24**3  # at least: 16 bits a voxel, and its label
    scans = ValidationScans(study, plan, plan.split.validation, most_gb=0.0)
    assert scans[0] is not scans[0]
    scans = ValidationScans(study, plan, plan.split.validation, most_gb=10 * one / 1e9)
    assert scans[1] is scans[1]
    assert [scan.name for scan in scans] == [scan.name for scan in validation_scans(study, plan)]
    assert len(scans[:2]) == 2
