"""Helper processes: batches without end, no script run twice, no helper left alone, Ctrl-C leaves them at work."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from autoseg_lib.data.dataset import KeyedBatches
from autoseg_lib.data.loading import BatchStream
from tests.helpers.tiny_training import Squares

ROOT = Path(__file__).resolve().parents[1]

# Like many people's scripts: no `if __name__ == "__main__"`.
SCRIPT = """
import os, signal, sys, time
from multiprocessing import resource_tracker
from pathlib import Path
sys.path.insert(0, {root!r})
with Path("begun").open("a") as stream:
    stream.write("x")
from autoseg_lib.data.dataset import KeyedBatches
from autoseg_lib.data.loading import BatchStream
from tests.helpers.tiny_training import Squares
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
stream = BatchStream(Squares(), KeyedBatches(10, 4, 0), helpers=2)
batches = stream.begin(0, 0, lambda event: print(event.text, flush=True))
next(batches)
if hasattr(os, "killpg"):
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    os.killpg(os.getpgid(0), signal.SIGINT)  # as Ctrl-C does: everybody in the group
    os.killpg(os.getpgid(0), signal.SIGUSR1)  # as SLURM does before the time is up
    while len(heard) < 2:
        time.sleep(0.01)
for _ in range(60):
    next(batches)
print("tracker", resource_tracker._resource_tracker._check_alive())
print("helpers", stream.helpers, flush=True)
time.sleep(600)
"""


def test_epochs_follow_each_other_without_end() -> None:
    batches, data = KeyedBatches(10, 4, 0), Squares()
    stream = BatchStream(data, batches, 0).begin(1, 2)
    keys = []
    for batches.epoch in range(1, 4):
        keys += list(batches)
    for batch, expected in zip(itertools.islice(stream, 6), keys[2:8], strict=True):
        assert torch.equal(batch["image"], torch.stack([data[key]["image"] for key in expected]))
    after = BatchStream(data, batches, 0).begin(0, 3)  # the epoch was through, only not yet ended
    assert torch.equal(next(after)["image"][0], data[keys[0][0]]["image"])


def test_errors_of_the_data_are_shown_as_they_are() -> None:
    class Broken(Squares):
        def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
            raise ZeroDivisionError("sample 3")

    with pytest.raises(ZeroDivisionError, match="sample 3"):
        next(BatchStream(Broken(), KeyedBatches(10, 4, 0), 0).begin(0, 0))


def test_helpers_run_no_script_survive_ctrl_c_and_do_not_outlive_their_parent(tmp_path: Path) -> None:
    script, said = tmp_path / "script.py", tmp_path / "said"
    script.write_text(SCRIPT.format(root=str(ROOT)), encoding="utf-8")
    with said.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        _until(lambda: "helpers" in said.read_text() or process.poll() is not None, 300)
        assert said.read_text().split("\n")[:2] == ["tracker True", "helpers 2"]
        assert (tmp_path / "begun").read_text() == "x"
        helpers = psutil.Process(process.pid).children(recursive=True)
        assert len(helpers) >= 2
    finally:
        process.kill()
        process.wait()
    # They look every five seconds whether their parent is there.
    gone, alive = psutil.wait_procs(helpers, timeout=60)
    assert len(gone) >= 2
    assert not alive


def _until(true: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.05)
