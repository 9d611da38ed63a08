"""Runs inside nnU-Net's own Python: plans and preprocesses, trains until budgets are used up, predicts.

    python nnunet_driver.py prepare DATASET
    python nnunet_driver.py train DATASET --minutes 2 5 10 --threads 2 [--wall]
    python nnunet_driver.py predict DATASET --checkpoint NAME --input FOLDER --output FOLDER

Nothing of nnU-Net's default plan is changed; a training is only ended early, and its weights are saved when a budget is
used up. Started by nnunet.py, with nnU-Net's folders in the environment. Prints one JSON line for each budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

CONFIGURATION, FOLD = "3d_fullres", "all"


class _TimeIsUp(Exception):  # noqa: N818 - the way out of nnU-Net's loop
    pass


def prepare(dataset: str) -> None:
    """Fingerprint, plan and preprocessing, as nnUNetv2_plan_and_preprocess does it."""
    sys.argv = ["nnUNetv2_plan_and_preprocess", "-d", dataset, "-c", CONFIGURATION, "-np", "2", "-npfp", "2"]
    plan_and_preprocess_entry()


def train(dataset: str, minutes: list[float], threads: int, wall: bool) -> None:
    """Trains with the default trainer on all cases; saves checkpoint_MINUTES.pth at each budget."""
    torch.set_num_threads(threads)
    trainer = get_trainer_from_args(
        dataset, CONFIGURATION, FOLD, "nnUNetTrainer", "nnUNetPlans", device=torch.device("cpu")
    )
    original, waiting = trainer.train_step, sorted(minutes)
    state = {"steps": 0, "began": 0.0, "paused": 0.0}

    def now() -> float:
        return time.monotonic() if wall else time.process_time() / threads

    def step(batch: dict[str, Any]) -> dict[str, Any]:
        if state["steps"] == 0:
            state["began"] = now()
        result = original(batch)
        state["steps"] += 1
        spent = now() - state["began"] - state["paused"]
        while waiting and spent >= 60 * waiting[0]:
            began, budget = now(), waiting.pop(0)
            trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_{budget:g}.pth")
            print(json.dumps({"budget": budget, "steps": state["steps"], "minutes": spent / 60}), flush=True)
            state["paused"] += now() - began
        if not waiting:
            raise _TimeIsUp
        return result

    trainer.train_step = step
    try:
        trainer.run_training()
    except _TimeIsUp:
        print("the time is up", flush=True)


def predict(dataset: str, checkpoint: str, source: str, target: str, threads: int) -> None:
    """Predicts with nnU-Net's defaults: half-overlapping windows, mirrored in all directions."""
    torch.set_num_threads(threads)
    trainer = get_trainer_from_args(
        dataset, CONFIGURATION, FOLD, "nnUNetTrainer", "nnUNetPlans", device=torch.device("cpu")
    )
    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (FOLD,), checkpoint)
    predictor.predict_from_files_sequential(source, target, save_probabilities=False, overwrite=True)


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("prepare", "train", "predict"))
    parser.add_argument("dataset")
    parser.add_argument("--minutes", type=float, nargs="+", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--checkpoint")
    parser.add_argument("--input")
    parser.add_argument("--output")
    options = parser.parse_args()
    if options.what == "prepare":
        prepare(options.dataset)
    elif options.what == "train":
        train(options.dataset, options.minutes, options.threads, options.wall)
    else:
        predict(options.dataset, options.checkpoint, options.input, options.output, options.threads)


if __name__ == "__main__":
    main()
