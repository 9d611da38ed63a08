"""The training loop on a network of two layers: exact resume, more epochs, little memory, time limits, helpers."""

from __future__ import annotations

import copy
import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg_lib.errors import ModelError
from autoseg_lib.events import EpochDone, Event, StepDone, StopFlag, nobody
from autoseg_lib.networks.out_of_memory import OutOfMemoryError
from autoseg_lib.train.checkpoint import load_checkpoint, load_newest
from autoseg_lib.train.loop import LoopPlan, Trainer, epochs_in_all, wants_more
from autoseg_lib.train.schedule import Schedule
from tests.helpers.tiny_training import PLAN, Small, Squares, same, texts, tiny_trainer

# What may differ between two runs that are otherwise equal to the bit.
TIMES = {"elapsed_seconds", "epoch_seconds", "schedule", "history"}


def fit(trainer: Trainer, stop_after: int | None = None, more_at: int | None = None) -> list[Event]:
    """Trains; presses Stop, or "ten more epochs" (here 2), after so many steps."""
    events: list[Event] = []
    stop = StopFlag()

    def listener(event: Event) -> None:
        events.append(event)
        done = sum(isinstance(e, StepDone) for e in events)
        if isinstance(event, StepDone) and done == stop_after:
            stop.set()
        if isinstance(event, StepDone) and done == more_at:
            stop.ask_more_epochs(2)

    trainer.fit(listener, stop)
    return events


def result(trainer: Trainer) -> dict[str, Any]:
    return {key: value for key, value in trainer.snapshot().items() if key not in TIMES}


def rows(trainer: Trainer) -> list[dict[str, str]]:
    with trainer.files.history.open(encoding="utf-8", newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


@pytest.mark.parametrize("stop_after", [1, 3, 5, 11])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    """10 samples by 4 make 3 steps an epoch: stopped within the first, between two, within the second and the last one."""
    whole = tiny_trainer(tmp_path / "whole")
    fit(whole)
    stopped = tiny_trainer(tmp_path / "broken")
    fit(stopped, stop_after)
    resumed = tiny_trainer(tmp_path / "broken")
    resumed.restore(load_checkpoint(resumed.files.last)["state"])
    fit(resumed)
    assert same(result(whole), result(resumed))
    assert rows(whole) == rows(resumed)
    assert whole.files.best.read_bytes() == resumed.files.best.read_bytes()


def test_within_a_long_epoch_the_state_is_written_every_minute(tmp_path: Path) -> None:
    seconds = iter(range(0, 10**6, 10))
    trainer = tiny_trainer(tmp_path, data=Squares(200), epochs=1, clock=lambda: float(next(seconds)))
    written: list[int] = []

    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and trainer.files.last.is_file():
            written.append(load_checkpoint(trainer.files.last)["state"]["step"])

    trainer.fit(listener, StopFlag())
    # The clock goes on by 10 s whenever it is read, some five times in a step.
    places = sorted(set(written))
    assert len(places) > 10
    assert max(b - a for a, b in itertools.pairwise(places)) <= 3


def test_more_epochs_go_on_with_the_optimiser_where_it_was(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    events = fit(trainer, more_at=5)
    assert "2 more epochs: 6 in all." in texts(events)
    assert [e.epochs for e in events if isinstance(e, EpochDone)] == [4, 6, 6, 6, 6, 6]
    assert trainer.state.epoch == 6
    assert trainer.state.steps_done == 18
    again = tiny_trainer(tmp_path)
    again.restore(load_checkpoint(again.files.last)["state"])
    assert again.epochs == 6


def test_more_epochs_may_be_asked_for_in_the_last_step(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    fit(trainer, more_at=12)
    assert trainer.state.epoch == 6


def test_steps_say_how_long_they_took_and_waited(tmp_path: Path) -> None:
    steps = [e for e in fit(tiny_trainer(tmp_path)) if isinstance(e, StepDone)]
    assert {step.images for step in steps} == {4}
    assert all(0 < step.wait_seconds < step.seconds for step in steps)


def test_too_large_a_batch_is_taken_in_parts(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, network=Small(most=1))
    said = texts(fit(trainer))
    assert said[:2] == [
        "Memory ran out at 4 images per step; going on with 2 and adding up 2 steps (same batch). Training takes a little longer.",
        "Memory ran out at 4 images per step; going on with 1 and adding up 4 steps (same batch). Training takes a little longer.",
    ]
    assert trainer.state.parts == 4
    assert trainer.state.steps_done == 12


def test_parts_add_up_to_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """With a loss that is a mean over images, and nothing that depends on the batch, parts change nothing."""

    class Mean(torch.nn.Module):
        worst = 1.0

        def parts(self, logits: torch.Tensor, target: torch.Tensor, drawn: Any = None) -> Any:
            loss = torch.nn.functional.cross_entropy(logits, target[:, 0].long())
            return loss, loss

    ends = []
    for parts in (1, 3):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 2, 3, padding=1)
        trainer = tiny_trainer(tmp_path / str(parts), network=network, parts=parts)
        trainer.learner.loss = Mean()
        fit(trainer)
        ends.append(trainer.network.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-4)


def test_memory_too_small_for_a_single_image_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        OutOfMemoryError, match="memory ran out even with 1 of the 4 images of a step at a time"
    ):
        fit(tiny_trainer(tmp_path / "a", network=Small(most=0)))
    with pytest.raises(OutOfMemoryError, match="even with 2 of the 4 images"):
        fit(tiny_trainer(tmp_path / "b", network=Small(most=1), smallest_part=2))


def test_a_loss_that_is_no_number_ends_the_run_in_words(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, epochs=20)
    with torch.no_grad():
        trainer.network.layers[0].bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="20 steps in a row gave no number for the loss"):
        fit(trainer)


def test_a_time_limit_is_kept_by_planning_anew(tmp_path: Path) -> None:
    """Each reading of the clock takes a second, some ten a step: 1000 epochs were planned, 1000 s are given."""
    seconds = iter(range(10**6))
    trainer = tiny_trainer(
        tmp_path,
        epochs=1000,
        time_limit_seconds=1000.0,
        reserve_seconds=50.0,
        clock=lambda: float(next(seconds)),
        schedule=Schedule(3000, 3, 1000.0, 3000),
    )
    fit(trainer)
    assert trainer.state.finished == "time limit"
    assert 1000 * 0.98 - 50 <= trainer.elapsed() <= 1000 * 1.02
    # The learning rate went all the way down in the time that was there.
    assert trainer.learning_rate() < 0.02 * PLAN.learning_rate


def test_any_number_of_helpers_gives_the_same_run_even_if_one_dies(tmp_path: Path) -> None:
    """The second helper ends at its first sight of sample 9, as if it had been killed; the run goes on without any."""
    alone = tiny_trainer(tmp_path / "0")
    fit(alone)
    for number, (helpers, dies) in enumerate([(1, None), (2, 9)], start=1):
        trainer = tiny_trainer(tmp_path / str(number), data=Squares(dies=dies), num_workers=helpers)
        said = texts(fit(trainer))
        assert same(result(alone), result(trainer))
        assert rows(alone) == rows(trainer)
        assert any("process: the same result, a little slower" in text for text in said) is (dies is not None)
        assert trainer.loader.helpers == (0 if dies is not None else helpers)


def test_data_that_no_other_process_can_have_are_prepared_here(tmp_path: Path) -> None:
    class Local(Squares):
        """Cannot be handed to another process: it has no name there."""

    helped = tiny_trainer(tmp_path / "1", data=Local(), num_workers=1)
    said = texts(fit(helped))
    assert any("did not work" in text for text in said)
    assert helped.state.steps_done == 12


def test_a_damaged_file_never_takes_the_place_of_the_sound_one_before_it(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    fit(trainer, stop_after=6)
    fit(again := _resumed(tmp_path), stop_after=3)
    sound = again.files.previous.read_bytes()
    again.files.last.write_bytes(again.files.last.read_bytes()[:-1])
    state, remark = load_newest(again.files.last)
    assert remark.startswith(
        "'tiny_last.ckpt' is damaged or was not written to its end: going on from the one before it"
    )
    third = tiny_trainer(tmp_path)
    third.restore(state["state"])
    third.keeper.keep(third.files.last, third._write_state, nobody)
    assert third.files.previous.read_bytes() == sound
    assert load_newest(third.files.last)[1] == ""


def _resumed(folder: Path) -> Trainer:
    trainer = tiny_trainer(folder)
    trainer.restore(load_newest(trainer.files.last)[0]["state"])
    return trainer


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".part-0123abcd-tiny_last.ckpt").write_bytes(b"x")
    (tmp_path / ".part-0123abcd-tiny_2.safetensors").write_bytes(b"x")
    others = [".part-0123abcd-tiny_b_last.ckpt", ".part-0123abcd-other_last.ckpt"]
    for name in others:
        (tmp_path / name).write_bytes(b"x")
    fit(tiny_trainer(tmp_path))
    assert sorted(path.name for path in tmp_path.glob(".part-*")) == sorted(others)


def test_a_run_that_goes_on_may_be_given_more_or_fewer_epochs(tmp_path: Path) -> None:
    fit(tiny_trainer(tmp_path), stop_after=6)
    for epochs, steps in ((8, 24), (3, 9)):
        trainer = tiny_trainer(tmp_path, epochs=epochs)
        trainer.restore(copy.deepcopy(load_checkpoint(trainer.files.last)["state"]))
        assert trainer.schedule.total_steps == steps


def test_epochs_that_were_added_on_the_way_are_counted(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    fit(trainer, stop_after=4, more_at=2)
    state = load_checkpoint(trainer.files.last)["state"]
    assert epochs_in_all(state, trainer.plan, 3) == 4 + 2
    assert epochs_in_all(state, replace(trainer.plan, epochs=5), 3) == 5


def test_epochs_that_were_asked_for_are_in_the_resume_file_with_the_next_step(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    stop, kept = StopFlag(), []

    def listener(event: Event) -> None:
        if isinstance(event, StepDone):
            if event.epoch == 2 and event.step == 2:
                state = load_checkpoint(trainer.files.last)["state"]
                kept.append((state["steps_done"], epochs_in_all(state, trainer.plan, 3)))
            if event.epoch == 2 and event.step == 1:
                stop.ask_more_epochs(2)

    trainer.fit(listener, stop)
    assert kept == [(4, 6)]


def test_a_run_may_go_on_in_16_bits(tmp_path: Path) -> None:
    """Its resume file holds no scale for gradients yet."""
    fit(tiny_trainer(tmp_path), stop_after=4)
    trainer = tiny_trainer(tmp_path, precision="16")
    trainer.restore(load_checkpoint(trainer.files.last)["state"])
    assert trainer.state.steps_done == 4


@pytest.mark.parametrize(
    ("finished", "asked", "plan", "expected"),
    [
        ("", [4, None], {}, True),
        ("finished", [4, None], {}, False),
        ("finished", [4, None], {"epochs": 5}, True),
        ("finished", [9, 60.0], {"epochs": 9, "time_limit_seconds": 60.0}, False),
        ("finished", [9, 60.0], {"epochs": 9, "time_limit_seconds": 600.0}, True),
        ("early", [9, None], {"epochs": 9, "early_stopping": True}, False),
        ("early", [9, None], {"epochs": 9, "early_stopping": False}, True),
        ("time limit", [9, 60.0], {"epochs": 9, "time_limit_seconds": 61.0}, False),
        ("time limit", [9, 60.0], {"epochs": 9, "time_limit_seconds": 120.0}, True),
        ("time limit", [9, 60.0], {"epochs": 9}, True),
    ],
)
def test_when_a_finished_run_goes_on(
    finished: str, asked: list[Any], plan: dict[str, Any], expected: bool
) -> None:
    values = {**{name: getattr(PLAN, name) for name in LoopPlan.__dataclass_fields__}, **plan}
    state = {"finished": finished, "asked": asked, "epoch": 4, "elapsed_seconds": 60.0}
    assert wants_more(state, LoopPlan(**values)) is expected
