"""The batch file in docs/slurm, handed to a real SLURM of one computer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.launching import ENVIRONMENT, REPOSITORY, wait_until, write_study
from tests.helpers.slurm import OneComputerCluster, require_slurm

BATCH_FILE = REPOSITORY / "docs" / "slurm" / "train.sbatch"
EPOCHS = 30


@pytest.mark.slurm
def test_the_batch_file_is_interrupted_put_back_and_goes_on(tmp_path: Path):
    """Two tasks; the signal that SLURM sends before the time is up comes as soon as something was saved."""
    require_slurm()
    settings = write_study(tmp_path, epochs=EPOCHS)
    # The batch file calls `autoseg`, which need not be installed where the tests run.
    program = tmp_path / "bin" / "autoseg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m autoseg_lib "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{ENVIRONMENT['PATH']}"
    options = ["--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--mem=0", "--time=60"]
    with OneComputerCluster(tmp_path / "slurm") as cluster:
        path = f"{path}{os.pathsep}{cluster.environment['PATH']}"
        job = cluster.submit(
            *options,
            str(BATCH_FILE),
            str(settings),
            cwd=tmp_path,
            environment={**ENVIRONMENT, **cluster.environment, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
        )
        log = tmp_path / f"autoseg-{job}.log"
        try:
            wait_until((tmp_path / "models" / "tiny_last.ckpt").is_file, 900)
            cluster.run("scancel", "--signal=USR1", job)
            wait_until(lambda: cluster.field(job, "Restarts") == "1", 300)
            state = cluster.wait_for(job, ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"), 900)
        finally:
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            (tmp_path / "run.log").write_text(text, encoding="utf-8")
            print(text)  # noqa: T201 - shown by pytest where the test fails
    assert state == "COMPLETED", text
    assert f"job {job}, start number 1" in text
    assert "the time is nearly up: stopping and keeping what is done" in text
    assert "saved; back into the queue" in text
    assert f"job {job}, start number 2" in text
    assert "Found a run at epoch" in text
    assert text.count(f"Training is finished: {EPOCHS} of {EPOCHS} epochs") == 1
    history = pd.read_csv(tmp_path / "models" / "tiny_history.csv")
    assert list(history["epoch"]) == list(range(1, EPOCHS + 1))
