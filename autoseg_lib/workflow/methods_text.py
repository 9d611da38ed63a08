"""A paragraph for a paper's Methods section, with the numbers of a run and nothing that tells whose scans they are."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg_lib import __version__
from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.errors import counted
from autoseg_lib.losses.registry import RECIPES
from autoseg_lib.metrics.bootstrap import MeanScore
from autoseg_lib.preprocess.channels import Channel
from autoseg_lib.system import cpu_cores, find_gpu, versions
from autoseg_lib.train.averaging import AVERAGE_DECAY
from autoseg_lib.train.optimizers import OPTIMIZER_TITLES, WEIGHT_DECAY
from autoseg_lib.train.planning import Plan
from autoseg_lib.train.schedule import WARM_UP_SHARE
from autoseg_lib.train.step import LARGEST_GRADIENT
from autoseg_lib.train.validate import Scores
from autoseg_lib.workflow.checking import Study

_PRECISION = {"32": "32-bit", "bf16": "bfloat16 mixed", "16": "16-bit mixed"}


def methods_paragraph(
    plan: Plan,
    study: Study,
    scores: Scores | None,
    means: tuple[list[MeanScore], MeanScore] | None,
    *,
    weights: int,
    epochs_done: int,
    seconds: float,
    epochs: int = 0,
    reason: str = "finished",
    judged_epoch: int = 0,
) -> str:
    """Returns the paragraph.

    Args:
        plan: of the run.
        study: the data folder.
        scores: of the best model on all scans kept back; None without any.
        means: of each ROI and of all, with intervals; None without scores.
        weights: number of the network's weights; 0 where it is not known.
        epochs_done: passes over the data.
        seconds: of training.
        epochs: of the whole run, where some were added on the way; 0: as planned.
        reason: why training ended: "finished", "early", "time limit", "stopped".
        judged_epoch: epoch whose model the scores are of, where the scans kept back were learned from after it; 0: they never were.
    """
    return " ".join(
        text
        for text in (
            _network(plan, weights),
            _data(plan, study),
            _augmentation(plan.augmentation),
            _training(plan, epochs_done, epochs or plan.loop.epochs, reason),
            _split(plan, study),
            _learned_later(judged_epoch),
            _results(plan, scores, means, chose=not judged_epoch),
            _computer(plan, seconds),
        )
        if text
    )


def _network(plan: Plan, weights: int) -> str:
    spec = plan.network
    found = versions(("torch", "monai", "segmentation-models-pytorch"))
    # Our own 2D networks, which have no encoder of a library, need torch alone; 3D scans are predicted with monai's windows.
    library = "monai" if spec.dimension == "3D" else "segmentation-models-pytorch" if spec.encoder else ""
    used = ", ".join(f"{name} {found[name]}" for name in ("torch", library) if name in found)
    size = f" with {weights / 1e6:.2f} million weights" if weights else ""
    channels = f", each slice seen with {spec.neighbours} neighbours on each side" if spec.neighbours else ""
    if plan.preprocessing.channels != (Channel(),):
        channels += f", with the channels {', '.join(item.text for item in plan.preprocessing.channels)}"
    start = ""
    if plan.settings.start_from:
        start = ", starting from a model trained before"
    elif plan.settings.pretrained and spec.dimension == "2D":
        start = ", its encoder pretrained on ImageNet"
    return (
        f"A {spec.dimension} {spec.title}{size}{channels} was trained{start} with AutoSeg Workbench {__version__} ({used}) to "
        f"segment {counted(len(plan.labels), 'region')} of interest ({', '.join(plan.labels.names)})."
    )


def _data(plan: Plan, study: Study) -> str:
    if plan.preprocessing.input_shape is not None:
        grid = f"Slices were scaled and padded to {_times(plan.preprocessing.input_shape)} pixels"
        if plan.network.input_shape != plan.preprocessing.input_shape:
            grid += f", and patches of {_times(plan.network.input_shape)} pixels were learned from"
    else:
        spacing = plan.preprocessing.spacing_zyx_mm
        size = "kept at their own voxel size" if spacing is None else _times(spacing) + " mm voxels"
        how = "resampled to " if spacing is not None else ""
        grid = f"Scans were {how}{size} (slices, rows, columns), and patches of {_times(plan.network.input_shape)} voxels were used"
    facts = study.report.facts
    kinds = sorted({f.modality for f in facts if f.modality})
    scans = counted(len(facts), f"{'/'.join(kinds)} scan" if kinds else "scan")
    slices = counted(sum(len(f.slices) for f in facts), "labelled slice")
    data = f"The data were {scans} of {counted(len({f.patient for f in facts}), 'patient')} ({slices}{_pixels(facts)})."
    return f"{data} {grid}; grey values: {plan.preprocessing.intensity.text}."


def _pixels(facts: Sequence[CaseFacts]) -> str:
    """Range of the pixel sizes, where every scan has one."""
    if not facts or not all(f.geometry.spacing_known for f in facts):
        return ""
    sizes = [f.geometry.spacing_zyx_mm[1] for f in facts]
    low, high = f"{min(sizes):.2f}", f"{max(sizes):.2f}"
    return f", pixels of {low} mm" if low == high else f", pixels of {low} to {high} mm"


def _split(plan: Plan, study: Study) -> str:
    """How scans were kept back, in whole sentences."""
    split, facts = plan.split, study.report.facts
    if split.kind == "none":
        return "No scans were kept back for validation."
    if split.train == split.validation and split.train_slices is None:
        return split.text  # folds
    if split.kind == "same scan":
        block = split.validation if split.validation_slices is None else split.validation_slices
        return (
            f"An unbroken block of {counted(len(block), 'slice')} of the one scan was kept back for validation, with a gap beside "
            "it; the scores are for the same scan and say little about other patients."
        )
    kept = _scans_of(split.validation, facts, patients=split.kind == "patients")
    learned = _scans_of(split.train, facts, patients=split.kind == "patients")
    was = "was" if len(split.validation) == 1 else "were"
    of_one = "" if split.kind == "patients" else " All scans were of one patient."
    return f"{kept} {was} kept back for validation, and {learned} {'was' if len(split.train) == 1 else 'were'} learned from.{of_one}"


def _learned_later(judged_epoch: int) -> str:
    if not judged_epoch:
        return ""
    return (
        f"Those kept back judged the model after {counted(judged_epoch, 'epoch')} and were learned from, too, from then on: the scores "
        "are of that earlier model, not of the final one."
    )


def _scans_of(which: Sequence[int], facts: Sequence[CaseFacts], *, patients: bool) -> str:
    text = counted(len(which), "scan")
    return f"{text} of {counted(len({facts[i].patient for i in which}), 'patient')}" if patients else text


def _augmentation(plan: AugmentPlan) -> str:
    if plan.probability == 0:
        return "No augmentation was used."
    kinds = {
        "rotation up to {:g}°": plan.rotation_degrees,
        "scaling up to {:.0%}": plan.scale,
        "shifts up to {:.0%} of the image": plan.shift,
        "elastic deformation (strength {:g})": plan.elastic,
        "brightness ({:.0%})": plan.brightness,
        "contrast ({:.0%})": plan.contrast,
        "gamma (up to {:g})": plan.gamma,
        "noise (up to {:.0%})": plan.noise,
        "blur (up to {:g} pixels)": plan.blur,
    }
    parts = [text.format(value) for text, value in kinds.items() if value]
    if plan.mirrors:
        parts.append("left–right mirroring" + (" with paired labels exchanged" if plan.mirror_pairs else ""))
    return f"Augmentation, each with probability {plan.probability:g}: {', '.join(parts)}."


_ENDED = {
    "stopped": "when it was stopped",
    "time limit": "when the time limit was reached",
    "early": "by early stopping, because validation no longer improved",
}


def _training(plan: Plan, epochs_done: int, epochs: int, reason: str) -> str:
    loop = plan.loop
    loss = RECIPES[loop.loss].title if loop.loss in RECIPES else f"{loop.loss} loss"
    images = "slices" if plan.network.input_shape == plan.preprocessing.input_shape else "patches"
    done = counted(epochs_done, "epoch")
    ended = ""
    if epochs_done < epochs:
        ended = f" Of {counted(epochs, 'planned epoch')}, {epochs_done} {'was' if epochs_done == 1 else 'were'} done"
        ended += f": training ended {_ENDED[reason]}." if reason in _ENDED else "."
    return (
        f"The network was trained for {done} of {counted(plan.steps_per_epoch, 'step')} of {loop.batch_size} {images} with {OPTIMIZER_TITLES[loop.optimizer]} "
        f"(learning rate {loop.learning_rate:g}, weight decay {WEIGHT_DECAY:g}, {WARM_UP_SHARE:.0%} linear warm-up and cosine decay, "
        f"gradient norm at most {LARGEST_GRADIENT:g}), {loss}, {_PRECISION.get(loop.precision, loop.precision)} precision, dropout "
        f"{plan.network.dropout:g} and seed {loop.seed}; the model is an exponential moving average of the weights "
        f"(decay {AVERAGE_DECAY:g}).{ended}"
    )


def _results(
    plan: Plan, scores: Scores | None, means: tuple[list[MeanScore], MeanScore] | None, *, chose: bool
) -> str:
    if scores is None or means is None:
        return ""
    each, whole = means
    rois = "; ".join(
        f"{name} {_score(mean)}"
        for name, mean in zip(plan.labels.names, each, strict=True)
        if mean.mean is not None
    )
    count = f"{counted(whole.cases, 'scan')} of {counted(whole.patients, 'patient')}"
    interval = " (95 % interval: bootstrap over patients)" if whole.low is not None else ""
    choice = "" if plan.loop.keep_last or not chose else " These scans also chose the best epoch."
    return f"On the {count} kept back, Dice was {_score(whole)}{interval}: {rois}, computed on the scans' own pixels.{choice}"


def _score(score: MeanScore) -> str:
    text = f"{score.mean:.3f}"
    if score.sd is not None:
        text += f" ± {score.sd:.3f}"
    if score.low is not None and score.high is not None:
        text += f" [{score.low:.3f}, {score.high:.3f}]"
    return text


def _computer(plan: Plan, seconds: float) -> str:
    gpu = find_gpu() if plan.loop.device != "cpu" else None
    device = f"one {gpu.name}" if gpu else f"{counted(cpu_cores(), 'CPU core')}"
    return f"Training took {_minutes(seconds)} on {device}."


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _times(values: tuple[float, ...]) -> str:
    return " × ".join(f"{value:g}" for value in values)
