"""Who started this process, and how many others were started with it: torchrun, SLURM, or nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoseg_lib.errors import SettingsError

# Where the processes of a SLURM job meet: a port that follows from the job's number, so that two jobs on one computer
# do not meet each other. Above the well-known ports, below those that Linux hands out by itself (32768).
FIRST_PORT, PORTS = 12_000, 20_000


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together.

    Attributes:
        launcher: "torchrun", "SLURM", or "" for a process started by itself.
        rank: its number among all, from 0.
        world: how many there are.
        local_rank: its number among those on this computer, from 0.
        local_world: how many there are on this computer.
        address: computer on which they meet.
        port: and where on it.
        meeting_kept: whether the launcher keeps that meeting point; otherwise the first process does.
    """

    launcher: str = ""
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    meeting_kept: bool = False


def find_place(environment: Mapping[str, str]) -> Place:
    """Reads what torchrun or SLURM's srun told this process.

    Args:
        environment: the environment variables.

    Raises:
        SettingsError: they contradict each other.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _checked(_by_torchrun(environment))
    # A batch script and a terminal inside a job have most of SLURM's variables too; only srun makes steps.
    if "SLURM_STEP_ID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return _checked(_by_slurm(environment))
    return Place()


def forgotten_srun(environment: Mapping[str, str]) -> str:
    """Returns a sentence for a SLURM job of several tasks whose command was started without srun; else ""."""
    tasks = environment.get("SLURM_NTASKS", "1")
    if "SLURM_JOB_ID" not in environment or "SLURM_STEP_ID" in environment or "RANK" in environment:
        return ""
    if not tasks.isdecimal() or int(tasks) < 2:
        return ""
    return (
        f"This SLURM job has {tasks} tasks, but only one process was started: put srun before the command to train with "
        "all of them (see docs/cluster.md)."
    )


def _by_torchrun(environment: Mapping[str, str]) -> Place:
    return Place(
        launcher="torchrun",
        rank=_whole(environment, "RANK"),
        world=_whole(environment, "WORLD_SIZE"),
        local_rank=_whole(environment, "LOCAL_RANK"),
        local_world=_whole(environment, "LOCAL_WORLD_SIZE", environment["WORLD_SIZE"]),
        address=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=_whole(environment, "MASTER_PORT"),
        meeting_kept=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _by_slurm(environment: Mapping[str, str]) -> Place:
    job, step = _whole(environment, "SLURM_JOB_ID"), _whole(environment, "SLURM_STEP_ID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    tasks = tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = _whole(environment, "SLURM_NODEID", "0")
    if node >= len(tasks):
        raise SettingsError(
            f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE names {len(tasks)} nodes: start the command with srun."
        )
    return Place(
        launcher="SLURM",
        rank=_whole(environment, "SLURM_PROCID"),
        world=_whole(environment, "SLURM_STEP_NUM_TASKS"),
        local_rank=_whole(environment, "SLURM_LOCALID"),
        local_world=tasks[node],
        address=environment.get("MASTER_ADDR") or first_node(nodes),
        port=_whole(environment, "MASTER_PORT", str(FIRST_PORT + (job * 7 + step) % PORTS)),
    )


def first_node(nodes: str) -> str:
    """Returns the first name of SLURM's short list: "gpu[03-05,9],login" gives "gpu03"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes.strip())
    if not found:
        raise SettingsError(
            f"the list of nodes '{nodes}' cannot be read. Set MASTER_ADDR to the name of the first node."
        )
    return found[1] + (found[2] or "") + (found[3] or "")


def tasks_per_node(text: str) -> list[int]:
    """Returns the tasks of each node from SLURM's short list: "2(x3),1" gives [2, 2, 2, 1]."""
    tasks: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
        if not found:
            raise SettingsError(
                f"SLURM_STEP_TASKS_PER_NODE is '{text}', expected something like 2(x3),1: start the command with srun."
            )
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks


def _whole(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not text.strip().isdecimal():
        found = "is missing" if text is None else f"is '{text}'"
        raise SettingsError(
            f"the environment variable {name} {found}, expected a whole number: start the command with torchrun or srun, "
            "which set it, or unset RANK and WORLD_SIZE to train with one process."
        )
    return int(text)


def _checked(place: Place) -> Place:
    if place.rank < place.world and place.local_rank < place.local_world <= place.world:
        return place
    raise SettingsError(
        f"process {place.rank} of {place.world} ({place.local_rank} of {place.local_world} on this computer) cannot be: ranks "
        f"count from 0. What {place.launcher} set is contradictory; start the command anew."
    )
