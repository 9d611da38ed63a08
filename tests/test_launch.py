"""What torchrun and SLURM tell a process, and what is refused."""

from __future__ import annotations

import pytest

from autoseg_lib.errors import SettingsError
from autoseg_lib.train.launch import Place, find_place, first_node, forgotten_srun, tasks_per_node

# As seen inside `srun` of SLURM 22.05, the third task of four on two computers.
SLURM = {
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def test_alone_without_a_launcher():
    assert (
        find_place({})
        == Place()
        == find_place({"SLURM_JOB_ID": "3", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"})
    )


def test_torchrun():
    assert find_place(TORCHRUN) == Place("torchrun", 1, 2, 1, 2, "localhost", 29500, meeting_kept=True)


def test_slurm():
    # Port: 12000 + (41 * 7 + 0) mod 20000.
    assert find_place(SLURM) == Place("SLURM", 2, 4, 0, 2, "gpu07", 12287)


def test_slurm_meeting_point_can_be_set():
    place = find_place({**SLURM, "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "4000"})
    assert (place.address, place.port) == ("10.0.0.5", 4000)


def test_torchrun_inside_slurm_counts():
    assert find_place({**SLURM, **TORCHRUN}).launcher == "torchrun"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu3", "gpu3"),
        ("gpu[03-05,9],login", "gpu03"),
        ("a,b", "a"),
        ("rack[2]-gpu,x", "rack2-gpu"),
        ("n[001,007]", "n001"),
    ],
)
def test_first_node(nodes: str, first: str):
    assert first_node(nodes) == first


def test_tasks_per_node():
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(SettingsError, match=r"expected something like 2\(x3\),1"):
        tasks_per_node("two")


def test_contradictions_are_refused():
    with pytest.raises(SettingsError, match=r"process 2 of 2 .* cannot be: ranks count from 0"):
        find_place({**TORCHRUN, "RANK": "2"})
    with pytest.raises(
        SettingsError, match="LOCAL_RANK is 'x', expected a whole number: start the command with torchrun"
    ):
        find_place({**TORCHRUN, "LOCAL_RANK": "x"})
    without = {name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"}
    with pytest.raises(SettingsError, match="MASTER_PORT is missing"):
        find_place(without)
    with pytest.raises(SettingsError, match="SLURM_NODEID is 5, but SLURM_STEP_TASKS_PER_NODE names 2 nodes"):
        find_place({**SLURM, "SLURM_NODEID": "5"})


def test_a_job_of_several_tasks_without_srun_is_told():
    batch = {"SLURM_JOB_ID": "3", "SLURM_NTASKS": "4"}
    assert forgotten_srun(batch).startswith(
        "This SLURM job has 4 tasks, but only one process was started: put srun before"
    )
    assert forgotten_srun({**batch, "SLURM_STEP_ID": "0"}) == ""
    assert forgotten_srun({"SLURM_JOB_ID": "3", "SLURM_NTASKS": "1"}) == ""
    assert forgotten_srun({}) == ""
