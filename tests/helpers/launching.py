"""Trainings in processes of their own, started as a user would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from tests.helpers.studies import write_volume_study

REPOSITORY = Path(__file__).resolve().parents[2]
# Small, quick, and without batch statistics or dropout: what several processes learn equals what one learns. AdamW, because
# Muon divides by what may be rounding alone.
SETTINGS = {
    "model_filename": "tiny",
    "labels_list": ["one", "two"],
    "dimension": "3D",
    "batch_size": 4,
    "precision": "32",
    "num_workers": 0,
    "dropout_rate": 0.0,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "save_checkpoint": 1000,
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def write_study(folder: Path, **changes: object) -> Path:
    """Writes tiny 3D data and a settings file for it; returns the latter."""
    if not (folder / "data").exists():
        write_volume_study(folder / "data", scans=4, size=16)
    settings = folder / "study.yaml"
    values = {**SETTINGS, "main_dir": "data", "model_dir": str(folder / "models"), **changes}
    settings.write_text(yaml.safe_dump(values), encoding="utf-8")
    return settings


def torchrun(settings: Path, *options: str, changes: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Starts `torchrun OPTIONS -m autoseg_lib train --settings SETTINGS`."""
    words = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "autoseg_lib", "train"]
    words += ["--settings", str(settings)]
    for change in changes:
        words += ["--set", change]
    return subprocess.Popen(
        words,
        cwd=settings.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def process_of_rank(launcher: subprocess.Popen[str], rank: int) -> psutil.Process:
    """Returns one of the processes that a torchrun started."""
    for child in psutil.Process(launcher.pid).children():
        if child.environ().get("RANK") == str(rank):
            return child
    raise LookupError(f"no process of rank {rank}")


def wait_until(
    condition: Callable[[], bool], seconds: float, launcher: subprocess.Popen[str] | None = None
) -> None:
    """Waits; raises with what a process printed if it ends before."""
    until = time.monotonic() + seconds
    while not condition():
        if launcher is not None and launcher.poll() is not None:
            raise AssertionError(f"ended too early: {launcher.communicate()[0]}")
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.1)


def free_port() -> int:
    """Returns a port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
