"""Trainings that are killed at random moments, and whether anything was lost: ``python -m tests.kill_runs --kills 20``.

Each sitting is a process of its own, ``python -m autoseg_lib train``, ended with SIGKILL (on Windows TerminateProcess): no handler
runs, nothing is tidied up. Every other kill waits until the process is writing a file. At the end the history (all but the
seconds) and the weights are compared, bit by bit, with those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from tests.helpers.studies import write_png_study

ROOT = Path(__file__).resolve().parents[1]
NAME = "small"
# The line that is printed last before training begins.
BEGINS = "saved every"
LONGEST_SECONDS = 900.0


@dataclass
class Killed:
    """What became of a run.

    Attributes:
        lines: one for each kill: when, at which epoch, what was being written.
        while_saving: how many kills hit the process while it wrote a file.
        kills: all of them.
        differences: what is not as in the run that nobody disturbed; none is expected.
    """

    lines: list[str] = field(default_factory=list)
    kills: int = 0
    while_saving: int = 0
    differences: list[str] = field(default_factory=list)


def write_run(folder: Path, epochs: int, **settings: object) -> Path:
    """Makes a small training folder; returns the settings file of its run."""
    write_png_study(folder, slices=4)
    values = {
        "main_dir": str(folder),
        "model_dir": str(folder / "models"),
        "model_filename": NAME,
        "dimension": "2D",
        "labels_list": ["bright", "dark"],
        "patient_pattern": r"p\d+",
        "spacing_mm": 1.5,
        "network": "light_unet",
        "input_shape": 64,
        "dropout_rate": 0.2,
        "epochs": epochs,
        "batch_size": 4,
        "num_workers": 0,
        "print_checkpoint": 1,
        "save_checkpoint": max(1, epochs // 2),
        **settings,
    }
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def start(settings: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts a sitting; what it says goes into ``log``."""
    command = [sys.executable, "-m", "autoseg_lib", "train", "--settings", str(settings)]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def wait_for(process: subprocess.Popen[bytes], log: Path, words: str) -> bool:
    """Waits until the sitting has said ``words``; False where it ended before."""
    until = time.monotonic() + LONGEST_SECONDS
    while words not in log.read_text(encoding="utf-8", errors="replace"):
        if process.poll() is not None:
            return words in log.read_text(encoding="utf-8", errors="replace")
        if time.monotonic() > until:
            process.kill()
            raise TimeoutError(f"nothing was said of {words!r}: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.01)
    return True


def run_to_the_end(settings: Path, log: Path) -> float:
    """Runs a sitting until it ends by itself; returns the seconds from where training begins."""
    process = start(settings, log)
    wait_for(process, log, BEGINS)
    began = time.monotonic()
    if process.wait(LONGEST_SECONDS) != 0:
        raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-3000:])
    return time.monotonic() - began


def unfinished(models: Path) -> set[str]:
    """Files that are being written, or were when their process was killed."""
    return {path.name for path in models.glob(".part-*")} if models.is_dir() else set()


def kill_runs(
    whole: Path, broken: Path, kills: int, seed: int, seconds: float, folder: Path, say: bool = False
) -> Killed:
    """Kills the run of the settings ``broken`` so often, lets it come to its end and compares.

    Args:
        whole: settings of the run that nobody disturbed, finished.
        broken: settings of an equal run, not begun.
        kills: how many.
        seed: of the random moments.
        seconds: the undisturbed run took from the beginning of its training.
        folder: for logs.
        say: print each line.
    """
    rng, result, models = random.Random(seed), Killed(), broken.parent / "models"
    for number in range(1, kills + 1):
        log = folder / f"sitting_{number}.log"
        process = start(broken, log)
        while_saving = number % 2 == 0
        before = unfinished(models)
        if wait_for(process, log, BEGINS):
            _wait(process, models, before, rng.uniform(0, 1.2 * seconds / kills), while_saving)
        writing = unfinished(models) - before
        process.kill()
        if process.wait() == 0:
            result.lines.append(f"{number:>3}  the run had come to its end")
            break
        left = unfinished(models) - before
        result.kills += 1
        result.while_saving += bool(left)
        names = ", ".join(sorted(name[15:] for name in left | writing)) or "nothing"
        text = log.read_text(encoding="utf-8", errors="replace")
        found = next((line for line in text.splitlines() if "Found a run" in line), "a new run")
        result.lines.append(
            f"{number:>3}  {found[:100]:<100}  killed at epoch {_epochs(models)}, writing {names}"
        )
        if say:
            print(result.lines[-1], flush=True)
    run_to_the_end(broken, folder / "last_sitting.log")
    result.differences = differences(whole.parent / "models", models)
    return result


def _wait(
    process: subprocess.Popen[bytes], models: Path, before: set[str], seconds: float, for_saving: bool
) -> None:
    time.sleep(seconds)
    while for_saving and process.poll() is None and not unfinished(models) - before:
        time.sleep(0.0005)


def _epochs(models: Path) -> int:
    try:
        return len((models / f"{NAME}_history.csv").read_text(encoding="utf-8").splitlines()) - 1
    except OSError:
        return 0


def differences(mine: Path, other: Path) -> list[str]:
    """Compares two finished runs: history (all but the seconds) and the weights of every model, bit by bit."""
    found = []
    one, two = (_rows(folder / f"{NAME}_history.csv") for folder in (mine, other))
    if one != two:
        found.append(f"the histories differ: {_first_difference(one, two)}")
    names = [{path.name for path in folder.glob("*.safetensors")} for folder in (mine, other)]
    if names[0] != names[1]:
        found.append(f"files: {sorted(names[0])} and {sorted(names[1])}")
    for name in sorted(names[0] & names[1]):
        weights, others = load_file(mine / name), load_file(other / name)
        if weights.keys() != others.keys() or not all(
            torch.equal(weights[key], others[key]) for key in weights
        ):
            found.append(f"the weights of {name} differ")
    return found + [f"left over: {name}" for name in sorted(unfinished(other))]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            {key: text for key, text in row.items() if key != "seconds"} for row in csv.DictReader(stream)
        ]


def _first_difference(one: list[dict[str, str]], two: list[dict[str, str]]) -> str:
    for mine, other in zip(one, two, strict=False):
        if mine != other:
            return f"{mine} and {other}"
    return f"{len(one)} and {len(two)} epochs"


def main() -> None:
    """The long form, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, broken = (write_run(folder / part, options.epochs) for part in ("whole", "broken"))
        seconds = run_to_the_end(whole, folder / "whole.log")
        print(f"undisturbed: {options.epochs} epochs in {seconds:.1f} s", flush=True)
        result = kill_runs(whole, broken, options.kills, options.seed, seconds, folder, say=True)
    print(f"{result.kills} kills, {result.while_saving} of them in the middle of writing a file")
    print("\n".join(result.differences) or "history and weights are equal, bit by bit")
    sys.exit(bool(result.differences))


if __name__ == "__main__":
    main()
