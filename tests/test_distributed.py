"""One training by several processes: the same result as by one, and no process ever waits for one that is gone."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from autoseg_lib.cli import main
from autoseg_lib.data.dataset import KeyedBatches
from autoseg_lib.errors import SettingsError
from autoseg_lib.settings import TrainSettings, make_settings, read_settings_file
from autoseg_lib.train.checkpoint import load_checkpoint
from autoseg_lib.train.distributed import ALONE, Team, TeammateLostError
from autoseg_lib.train.launch import Place
from autoseg_lib.train.machine import Machine, find_machine
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.together import share_of_machine, with_even_batch
from tests.helpers.launching import free_port, process_of_rank, torchrun, wait_until, write_study

LEARNED = ["epoch", "train_loss", "val_loss", "val_dice", "val_dice_one", "val_dice_two", "learning_rate"]


def test_two_computers_learn_what_one_process_learns(tmp_path: Path):
    """Two torchrun agents on the loopback address stand for two computers."""
    settings = write_study(tmp_path, epochs=2)
    meet = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=study")
    port = free_port()
    agents = [torchrun(settings, *meet, f"--rdzv-endpoint=127.0.0.1:{port}") for _ in range(2)]
    told = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    # The first process alone speaks.
    assert sorted(text.count("Training is finished: 2 of 2 epochs") for text in told) == [0, 1]
    two = load_file(tmp_path / "models" / "tiny_2.safetensors")
    history = pd.read_csv(tmp_path / "models" / "tiny_history.csv")

    assert main(["train", "--settings", str(settings), "--set", f"model_dir={tmp_path / 'alone'}"]) == 0
    one = load_file(tmp_path / "alone" / "tiny_2.safetensors")
    assert list(one) == list(two)
    # Sums in another order round otherwise in the seventh digit. Measured after these 20 steps of up to 1e-3: 4e-6.
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-4, msg=name)
    pd.testing.assert_frame_equal(
        history[LEARNED], pd.read_csv(tmp_path / "alone" / "tiny_history.csv")[LEARNED], rtol=0, atol=1e-3
    )


def test_all_processes_learn_from_the_scans_kept_back_in_the_second_half(tmp_path: Path):
    """Without those scans the losses after epoch 3 are lower by 0.003 to 0.04; sums in another order make 0.0004."""
    settings = write_study(tmp_path, epochs=6)
    launcher = torchrun(settings, "--standalone", "--nproc-per-node=2")
    text = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 0, text
    assert "The scans kept back have judged the model of epoch 3." in text
    two = pd.read_csv(tmp_path / "models" / "tiny_history.csv")
    assert main(["train", "--settings", str(settings), "--set", f"model_dir={tmp_path / 'alone'}"]) == 0
    one = pd.read_csv(tmp_path / "alone" / "tiny_history.csv")
    assert two["val_dice"].notna().tolist() == [True] * 3 + [False] * 3
    pd.testing.assert_frame_equal(two[LEARNED], one[LEARNED], rtol=0, atol=1e-3)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = write_study(tmp_path, epochs=500)
    last = tmp_path / "models" / "tiny_last.ckpt"
    launcher = torchrun(settings, "--standalone", "--nproc-per-node=2")
    wait_until(last.is_file, 240, launcher)
    process_of_rank(launcher, 1).send_signal(signal.SIGKILL)
    text = launcher.communicate(timeout=60)[0]
    assert launcher.returncode != 0
    assert (
        "another of the 2 processes ended without a word (killed, out of memory, or its computer failed)"
        in text
    )
    assert "start the same command again to go on from there" in text
    done = load_checkpoint(last)["state"]["epoch"]
    assert done >= 1

    # One process goes on with what two began.
    assert main(["train", "--settings", str(settings), "--set", f"epochs={done + 1}"]) == 0
    assert f"Found a run at epoch {done} of" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "models" / "tiny_history.csv")) == done + 1


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
@pytest.mark.parametrize(("number", "code"), [("SIGUSR1", 75), ("SIGTERM", 143)])
def test_a_signal_saves_ends_and_the_run_goes_on(tmp_path: Path, number: str, code: int):
    settings = str(write_study(tmp_path, epochs=500))
    last = tmp_path / "models" / "tiny_last.ckpt"

    def send() -> None:
        wait_until(last.is_file, 120)
        os.kill(os.getpid(), getattr(signal, number))

    sender = threading.Thread(target=send)
    sender.start()
    assert main(["train", "--settings", settings]) == code
    sender.join()
    state = load_checkpoint(last)["state"]
    assert state["steps_done"] > 0
    assert not state["finished"]
    assert main(["train", "--settings", settings, "--set", f"epochs={state['epoch'] + 1}"]) == 0


def test_each_process_takes_its_share_of_every_batch():
    whole = list(KeyedBatches(length=10, batch_size=4, seed=3))
    first, second = (list(KeyedBatches(10, 4, 3, rank, 2)) for rank in range(2))
    assert [len(batch) for batch in first] == [2, 2, 2]
    for all_of_it, one, other in zip(whole, first, second, strict=True):
        assert [one[0], other[0], one[1], other[1]] == all_of_it


def test_a_batch_that_cannot_be_shared_out_is_refused():
    team = Team()
    team.place = Place("torchrun", 0, 3, 0, 3)
    assert team.share(6) == 2
    with pytest.raises(
        SettingsError, match=r"batch_size = 8 cannot be shared out evenly by 3 processes .* Use 6 or 9, or"
    ):
        team.share(8)
    with pytest.raises(SettingsError, match=r"Use 3, or another number of processes"):
        team.share(2)


def test_a_batch_left_open_becomes_one_that_can_be_shared_out(tmp_path: Path):
    settings = read_settings_file(write_study(tmp_path, batch_size="auto"))
    settings["main_dir"] = str(tmp_path / "data")
    study = check_study(make_settings(TrainSettings, settings))
    team, told = Team(), []
    team.place = Place("torchrun", 0, 5, 0, 5)
    even = with_even_batch(study, tmp_path, find_machine(), team, told.append)
    assert even.settings.batch_size == 5
    assert [event.text for event in told] == ["batch_size = 5, so that 5 processes can share it out evenly."]
    given = replace(study, settings=replace(study.settings, batch_size=4))
    with pytest.raises(SettingsError, match=r"batch_size = 4 cannot be shared out evenly by 5 processes"):
        with_even_batch(given, tmp_path, find_machine(), team, told.append)


def test_several_processes_take_their_share_of_the_computer():
    team = Team()
    team.place = Place("torchrun", 0, 4, 0, 4)
    machine = Machine(device="cpu", cores=10, ram_available_gb=8.0, precision="32")
    share = share_of_machine(machine, team)
    assert (share.cores, share.ram_available_gb) == (2, 2.0)


def test_alone_everything_is_a_plain_call():
    value = torch.ones(3)
    assert ALONE.sum(value) is value
    assert (ALONE.any(True), ALONE.mean(2.0), ALONE.from_first("x"), ALONE.gather(1)) == (
        True,
        [2.0],
        "x",
        [1],
    )
    assert ALONE.first_does(lambda: 5) == ALONE.once_per_computer(lambda: 5) == 5
    assert not torch.distributed.is_initialized()
    with pytest.raises(RuntimeError, match="Connection closed"), ALONE.noticing():
        raise RuntimeError("Connection closed by peer")


def test_one_gpu_kind_only():
    with pytest.raises(SettingsError, match="needs NVIDIA GPUs or the CPU; this computer has 'mps'"):
        Team(Place("torchrun", 0, 2, 0, 2), "mps")


def test_a_lost_process_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch):
    team = Team()
    team.place = Place("torchrun", 0, 2, 0, 2)
    monkeypatch.setattr(team, "_reason", lambda: ("process 2 of 2 (on b) ended: the disk is full", False))
    with (
        pytest.raises(
            TeammateLostError,
            match=r"process 2 of 2 \(on b\) ended: the disk is full\. Training cannot go on",
        ) as caught,
        team.noticing(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:5")
    assert team.lost
    assert not caught.value.told
    with pytest.raises(RuntimeError, match="shapes"), team.noticing():
        raise RuntimeError("shapes do not fit")
