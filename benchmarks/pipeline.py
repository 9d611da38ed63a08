"""How quickly training samples are prepared, and how much of a training step is spent waiting for them.

Usage: python benchmarks/pipeline.py [--seconds 4] [--rounds 5] [--steps 30] [--threads 2] [--wall] [--no-training]

First table: samples per second of our 2D and 3D augmentation, and of albumentations, MONAI and batchgeneratorsv2 making the
comparable changes of the same arrays (see peers/augmentations.py). One after the other in each round, one thread each, in
processor time, because other programs use the same computer; the ratios are those of the same round. All but ours are given
patches that were cut before; ours cuts them from the scan, so that what turns into view is tissue.

Second table: training with default settings, 2D and 3D: the share of the steps' time that was spent waiting for data. On a
CPU in processor time of the main thread, which prepares the data and does its share of each step; --wall takes the time that
passes, right on a quiet computer and with a GPU.

Uses sunnybrook_png and hippocampus_msd from the real scans (AUTOSEG_TEST_DATA), else made ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from common import (
    CARDIAC_PNG,
    HIPPOCAMPUS,
    Split,
    Task,
    data_root,
    example_split,
    settings_for,
    split_patients,
    write_layout,
)
from peers.augmentations import albumentations_2d, batchgenerators, has_batchgenerators, monai

import cv2  # isort: skip
import numpy as np  # isort: skip
import torch  # isort: skip

from autoseg_lib.augment.patches import augment_patch
from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.augment.slices import augment_slice
from autoseg_lib.events import Event, StepDone, StopFlag
from autoseg_lib.train.machine import find_machine
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.training import prepare_training, train

SLICE, PATCH = (256, 256), (40, 56, 40)
# How much larger than the patch the made scan is: what our augmentation may turn into view.
MARGIN = 8
# The first steps set up the kernels and the helper processes.
WARM_UP_STEPS = 5
GOALS = {"cpu": 3, "cuda": 10}

Sample = Callable[[int], object]


# --- samples per second -----------------------------------------------------------------------------------------------


def made_scan(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise from 0 to 1, and its bright parts as labels."""
    random = np.random.default_rng(0)
    flat = random.normal(size=(int(np.prod(shape[:-1])), shape[-1])).astype(np.float32)
    image = cv2.GaussianBlur(flat, (0, 0), 3)
    image = (image - image.min()) / (image.max() - image.min())
    return image.reshape(shape), (image > 0.55).astype(np.uint8).reshape(shape)


def competitors_2d() -> dict[str, Sample]:
    image, label = made_scan(SLICE)
    plan = AugmentPlan()
    samples: dict[str, Sample] = {
        "autoseg": lambda index: augment_slice(image, label, plan, (0, 0, index)),
    }
    others = {"albumentations": albumentations_2d(), "MONAI": monai(2)}
    if has_batchgenerators():
        others["batchgeneratorsv2"] = batchgenerators(SLICE)
    return samples | {name: _given(change, image, label) for name, change in others.items()}


def competitors_3d() -> dict[str, Sample]:
    scan, scan_label = made_scan(tuple(n + 2 * MARGIN for n in PATCH))
    inside = tuple(slice(MARGIN, MARGIN + n) for n in PATCH)
    image, label = scan[inside].copy(), scan_label[inside].copy()
    kept, first, plan = scan.astype(np.float16), (MARGIN,) * 3, AugmentPlan()  # as the data set keeps it
    samples: dict[str, Sample] = {
        "autoseg": lambda index: augment_patch(kept, scan_label, first, PATCH, plan, (0, 0, index)),
    }
    others = {"MONAI": monai(3)}
    if has_batchgenerators():
        others["batchgeneratorsv2"] = batchgenerators(PATCH)
    return samples | {name: _given(change, image, label) for name, change in others.items()}


def _given(change: Callable[..., object], image: np.ndarray, label: np.ndarray) -> Sample:
    return lambda index: change(image.copy(), label.copy())


def samples_per_second(sample: Sample, seconds: float, first: int) -> float:
    """Samples per second of processor time."""
    began = time.process_time()
    done = 0
    while time.process_time() - began < seconds:
        sample(first + done)
        done += 1
    return done / (time.process_time() - began)


def compare(title: str, competitors: dict[str, Sample], seconds: float, rounds: int) -> None:
    """Prints one line per competitor: samples per second, and how many times as many ours prepares."""
    speeds: dict[str, list[float]] = {name: [] for name in competitors}
    for sample in competitors.values():
        sample(0)
    for number in range(rounds):
        for name, sample in competitors.items():
            speeds[name].append(samples_per_second(sample, seconds / len(competitors), 1000 * number))
    print(f"\n{title:<34} {'samples/s':>10} {'ms/sample':>10} {'ours is':>10}")
    for name, speed in speeds.items():
        times = median(ours / other for ours, other in zip(speeds["autoseg"], speed, strict=True))
        ratio = "" if name == "autoseg" else f"{times:.1f} x"
        print(f"  {name:<32} {median(speed):>10.0f} {1000 / median(speed):>10.2f} {ratio:>10}")


# --- waiting for data -------------------------------------------------------------------------------------------------


def split_of(task: Task, folder: Path) -> Split:
    """The first patients of the real data, or the example study where they are missing."""
    if (data_root() / task.folder).is_dir():
        return split_patients(task, 3, seed=0, limit=9)[0]
    made = example_split(folder / "made", seed=0)
    return replace(made, task=replace(task, rois=made.task.rois, patient=""))


def waiting(task: Task, folder: Path, steps: int, wall: bool) -> None:
    """Prints the share of the steps' time that training waited for data."""
    split = split_of(task, folder)
    settings = settings_for(split.task, write_layout(split, "train", folder / task.name))
    machine = find_machine()
    wall = wall or machine.device != "cpu"
    clock = time.perf_counter if wall else time.thread_time
    prepared = prepare_training(check_study(settings), folder, machine=machine)
    stop, seen = StopFlag(), []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append(event)
            if len(seen) >= steps + WARM_UP_STEPS:
                stop.set()

    train(prepared, listen, stop, clock=clock)
    seen = seen[WARM_UP_STEPS:]
    wait = sum(event.wait_seconds for event in seen) / len(seen)
    learn = sum(event.seconds for event in seen) / len(seen) - wait
    loop, network = prepared.plan.loop, prepared.plan.network
    size = f"{loop.batch_size} × {' × '.join(str(n) for n in network.input_shape)}"
    print(
        f"  {task.dimension} {network.title:<20} {size:<18} {machine.device:<6} {loop.num_workers:>7} "
        f"{1000 * (learn + wait):>8.0f} {1000 * wait:>10.1f} {100 * wait / (learn + wait):>6.1f} % "
        f"(goal: below {GOALS.get(machine.device, 3)} %)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4, help="processor time of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="training steps that are timed")
    parser.add_argument("--threads", type=int, default=2, help="of training")
    parser.add_argument("--wall", action="store_true", help="second table: the time that passes")
    parser.add_argument("--no-training", action="store_true", help="leave the second table out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if not has_batchgenerators():
        print("batchgeneratorsv2 is not installed, so it is left out (pip install batchgeneratorsv2).")
    compare(f"2D, {SLICE[0]} × {SLICE[1]}, one thread", competitors_2d(), options.seconds, options.rounds)
    compare(
        f"3D, {' × '.join(map(str, PATCH))}, one thread", competitors_3d(), options.seconds, options.rounds
    )
    if options.no_training:
        return
    torch.set_num_threads(options.threads)
    print(f"\nTraining at default settings, {options.threads} threads")
    print(
        f"  {'network':<23} {'batch':<18} {'device':<6} {'helpers':>7} {'ms/step':>8} {'waiting ms':>10} {'share':>8}"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        for task in (CARDIAC_PNG, HIPPOCAMPUS):
            waiting(task, Path(temporary), options.steps, options.wall)


if __name__ == "__main__":
    main()
