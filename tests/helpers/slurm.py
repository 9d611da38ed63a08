"""A SLURM of one computer for the time of a test: its own folder, ports and keys, nothing of an installed one is touched."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"


def require_slurm() -> None:
    """Skips the test where SLURM is missing, unless everything is required."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing and os.environ.get("AUTOSEG_REQUIRE_SLURM") == "1":
        pytest.fail(f"SLURM is missing: {', '.join(missing)}. Debian: apt-get install slurm-wlm munge")
    if missing:
        pytest.skip(f"SLURM is missing: {', '.join(missing)}")


class OneComputerCluster:
    """Starts munged, slurmctld and slurmd; ``environment`` makes sbatch and srun use them."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.host = socket.gethostname().split(".")[0]
        for name in ("spool", "state", "munge"):
            (folder / name).mkdir(parents=True, mode=0o755)
        self.config = folder / "slurm.conf"
        self.environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(self.config)}
        self._write_config(cpus)

    def _write_config(self, cpus: int) -> None:
        user, folder = getpass.getuser(), self.folder
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{self.host}(127.0.0.1)",
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            # A job that is put back into the queue waits until its credentials have expired: two minutes by default.
            "AuthInfo": f"socket={folder}/munge/socket,cred_expire=5",
            "CredType": "cred/munge",
            "SlurmctldPort": _free_port(),
            "SlurmdPort": _free_port(),
            "StateSaveLocation": f"{folder}/state",
            "SlurmdSpoolDir": f"{folder}/spool",
            "SlurmctldPidFile": f"{folder}/slurmctld.pid",
            "SlurmdPidFile": f"{folder}/slurmd.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=2",
            "MpiDefault": "none",
            "ReturnToService": 2,
            "KillWait": 20,
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines.append(f"NodeName={self.host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN")
        lines.append(f"PartitionName=short Nodes={self.host} Default=YES MaxTime=INFINITE State=UP")
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __enter__(self) -> OneComputerCluster:
        munge = self.folder / "munge"
        key = munge / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        try:
            self._start(
                "munged",
                "--foreground",
                "--force",
                f"--socket={munge}/socket",
                f"--key-file={key}",
                f"--pid-file={munge}/pid",
                f"--log-file={munge}/log",
                f"--seed-file={munge}/seed",
            )
            self._wait((munge / "socket").exists, "munged did not start")
            self._start("slurmctld", "-D", "-f", str(self.config))
            self._start("slurmd", "-D", "-f", str(self.config), "-N", self.host)
            self._wait(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T"), "the node did not come up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self._running) == 3:
            self.run("scancel", "--user", getpass.getuser())
            with contextlib.suppress(TimeoutError):  # KillWait, and a little more
                self._wait(lambda: not self.run("squeue", "-h"), "jobs that do not end", 40)
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=_PATH)
        with (self.folder / f"{program}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(path), *arguments], stdout=log, stderr=subprocess.STDOUT, env=self.environment
            )
        self._running.append(process)

    def run(self, *words: str) -> str:
        """Returns what a command of SLURM prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def submit(self, *words: str, cwd: Path, environment: dict[str, str] | None = None) -> str:
        """Hands a batch job in and returns its number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *words],
            env={**self.environment, **(environment or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """Returns one field of ``scontrol show job``."""
        for word in self.run("scontrol", "show", "job", job).split():
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return ""

    def wait_for(self, job: str, states: tuple[str, ...], seconds: float) -> str:
        """Waits until a job is in one of the states and returns it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            state = self.field(job, "JobState")
            if state in states:
                return state
            time.sleep(0.5)
        raise TimeoutError(f"job {job} is {self.field(job, 'JobState')} after {seconds:.0f} s")

    @staticmethod
    def _wait(condition: object, complaint: str, seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():  # type: ignore[operator]
                return
            time.sleep(0.2)
        raise TimeoutError(complaint)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
