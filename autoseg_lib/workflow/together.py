"""The same training by several processes: one of them checks and plans, each computer prepares the scans once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoseg_lib.events import Listener, Message
from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.train.distributed import Team
from autoseg_lib.train.machine import Machine, find_machine
from autoseg_lib.workflow.checking import Study, check_study
from autoseg_lib.workflow.training import PreparedTraining, find_run, prepare_training
from autoseg_lib.workflow.training_data import prepare_data


def check_together(settings: TrainSettings, on_event: Listener, team: Team) -> Study:
    """Returns the checked study in every process; only the first reads the files."""
    return team.first_does(lambda: check_study(settings, on_event))


def prepare_together(study: Study, project_dir: Path, on_event: Listener, team: Team) -> PreparedTraining:
    """Plans and prepares as ``prepare_training`` does, once for all processes.

    The first process decides: all have its plan, its network and, where a run goes on, its resume file. Prepared scans are
    made once on each computer; in the disk cache the processes of a computer share them.

    Args:
        study: see check_together.
        project_dir: where trained_model/ is when ``model_dir`` is "auto"; all computers must see it.
        on_event: hears the progress of the first process.
        team: the processes.

    Raises:
        SettingsError: the batch cannot be shared out, and what prepare_training raises.
        TeammateLostError: another process failed.
    """
    own: list[PreparedTraining] = []

    def plan() -> PreparedTraining:
        machine = share_of_machine(find_machine(), team)
        even = with_even_batch(study, project_dir, machine, team, on_event)
        own.append(prepare_training(even, project_dir, on_event, machine))
        return replace(own[0], train_set=None, validation=())  # type: ignore[arg-type]

    prepared = team.first_does(plan)
    train_set = team.once_per_computer(
        lambda: own[0].train_set if own else prepare_data(prepared.study, prepared.plan, on_event)[0]
    )
    return replace(prepared, train_set=train_set, validation=own[0].validation if own else ())


def with_even_batch(
    study: Study, project_dir: Path, machine: Machine, team: Team, on_event: Listener
) -> Study:
    """Returns the study with a batch that the processes can share out evenly, where its size was left open.

    Raises:
        SettingsError: the batch that was given, or that of the run that goes on, cannot be shared out.
    """
    run = find_run(study, project_dir, machine)
    batch = run.plan.loop.batch_size
    if run.state == "new" and study.settings.batch_size == AUTO and batch % team.world:
        batch = -(-batch // team.world) * team.world
        on_event(Message(f"batch_size = {batch}, so that {team.world} processes can share it out evenly."))
        study = replace(study, settings=replace(study.settings, batch_size=batch))
    if run.state != "finished":
        team.share(batch)
    return study


def share_of_machine(machine: Machine, team: Team) -> Machine:
    """Returns what one of the processes on a computer may use of it."""
    mates = team.place.local_world
    return replace(
        machine,
        cores=max(1, machine.cores // mates),
        ram_available_gb=machine.ram_available_gb / mates,
    )
