"""Why training performance may be low, answered from the data of a run: what applies, what was looked at and is fine.

Every question is one small function of plain values, listed in ``QUESTIONS``. To add one: write it, list it, test it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg_lib.data.doctor.checks.amount import FEWEST_SCANS_3D, FEWEST_SLICES
from autoseg_lib.errors import counted, name_list
from autoseg_lib.workflow.situation import RoiSituation, Situation
from autoseg_lib.workflow.verdict import GOOD_DICE

# Fewer patients than this show little of how patients differ; the number the data check advises for scans.
FEWEST_PATIENTS = FEWEST_SCANS_3D
# An ROI in less than this share of what is learned from is seldom seen: in most steps of four slices it is missing.
SELDOM_SHARE = 0.15
# Median size on the network's grid below which an outline that is off by half a pixel all around costs more than 0.13 of
# Dice: a disc of 50 pixels (radius 4.0 → 3.5), a ball of 500 voxels (radius 4.9 → 4.4).
SMALL_PIXELS = {"2D": 50.0, "3D": 500.0}
# The network sees images at less than this share of their own resolution (per side).
COARSE_SCALE = 0.5
# Loss on kept-back scans above the loss on training images by more than this: augmented training images are the harder ones,
# so without overfitting the difference is about nothing, or negative.
OVERFITTING_GAP = 0.10
# Training images are still this badly matched at the end: nothing was learned yet, or learning did not work.
NOT_LEARNED_LOSS = 0.5
# Dice that the last fifth of the looks at the validation scans gained over the fifth before: with a learning rate that has
# fallen to nothing, a run that has come to its end gains less.
STILL_RISING = 0.01
# With fewer looks at the validation scans nothing is said on where they lead.
FEWEST_LOOKS = 4
# With fewer scans than this kept back, one of them changes the mean by a lot.
FEWEST_TO_TEST_ON = 5
# After fewer epochs or steps nothing can be said but that they were few.
FEWEST_EPOCHS, FEWEST_STEPS = 5, 100
# A scan this far below the mean of all is a case of its own.
FAR_BELOW = 0.2

_ODD_LABELS = {
    "labels_turned": "labels that are turned as a whole",
    "label_turned": "turned or flipped labels",
    "label_swapped": "labels that have changed places",
    "label_shifted": "labels of another slice",
    "roi_numbers": "ROIs numbered in another way",
    "label_unlike": "labels that do not fit their image",
    "same_label": "the same label on two images",
    "empty_labels": "empty labels",
    "roi_gap": "ROIs missing between slices that have them",
    "side_alone": "one side named without the other",
}
_ODD_IMAGES = {
    "modalities": "scans of different kinds",
    "inverted": "inverted grey values",
    "intensity_slices": "grey values that jump from slice to slice",
    "intensity_outlier": "scans with other grey values than the rest",
    "spacing_outlier": "scans with other pixel sizes or slice distances",
    "matrix_outlier": "images of another size",
    "orientation_outlier": "slices in different planes",
    "constant": "images of one single grey value",
    "nan": "pixels without a number",
}


@dataclass(frozen=True)
class Answer:
    """One possible reason, answered.

    Attributes:
        code: short name, for programs.
        question: what may be the reason.
        applies: whether it is.
        found: what the data say.
        advice: what to do; "" where it does not apply.
    """

    code: str
    question: str
    applies: bool
    found: str
    advice: str = ""


def reasons(situation: Situation) -> tuple[Answer, ...]:
    """Answers every question that can be asked of this run; those that apply come first."""
    answers = [answer for ask in QUESTIONS if (answer := ask(situation)) is not None]
    return tuple(sorted(answers, key=lambda answer: not answer.applies))


def too_few_scans(s: Situation) -> Answer:
    """Not enough to learn from."""
    found = f"It learned from {counted(s.scans, 'scan')} of {counted(s.patients, 'patient')}"
    if s.dimension == "2D":
        found += f", {counted(s.slices, 'slice')} with an ROI"
    everybody = max(s.patients, s.patients_in_all)
    if everybody > s.patients:
        found += f"; there are {counted(everybody, 'patient')} in all"
    few = everybody < FEWEST_PATIENTS or (s.dimension == "2D" and s.slices < FEWEST_SLICES)
    advised = f"{FEWEST_PATIENTS} patients" + (f" and {FEWEST_SLICES} slices" if s.dimension == "2D" else "")
    return Answer(
        "few_scans",
        "Too few scans?",
        few,
        f"{found}.",
        f"Label scans of more patients: at least {advised} are advised. New patients help more than more slices of the same ones."
        if few
        else "",
    )


def one_patient(s: Situation) -> Answer | None:
    """Nothing is known about other patients."""
    if s.split_kind == "none":
        return None
    alone = s.split_kind in ("cases", "same scan")
    return Answer(
        "one_patient",
        "One patient only?",
        alone,
        "All scans are of one patient, so the score says nothing about others."
        if alone
        else "The patients it was tested on are not among those it learned from.",
        "Add scans of other patients; if there are several already, tell them apart with patient_pattern."
        if alone
        else "",
    )


def seldom_roi(s: Situation) -> Answer:
    """ROIs that are in few slices or scans."""
    where = "slices" if s.dimension == "2D" else "scans"
    seldom = [roi for roi in s.rois if roi.shown < SELDOM_SHARE * roi.of and _is_weak(roi)]
    if seldom:
        found = "; ".join(f"{roi.name} is in {roi.shown} of {roi.of} {where}" for roi in seldom) + "."
    else:
        least = min(s.rois, key=lambda roi: roi.shown / max(1, roi.of))
        found = f"The rarest, {least.name}, is in {least.shown} of {least.of} {where}."
    return Answer(
        "seldom_roi",
        f"An ROI missing in many {where}?",
        bool(seldom),
        found,
        f"Label more {where} that show {name_list([roi.name for roi in seldom])}"
        + (
            ", or leave out slices that show no ROI at all; where it was not drawn though it is there, draw it, or set "
            "ignore_unlabelled = True."
            if s.dimension == "2D"
            else ", or train a model of its own for it."
        )
        if seldom
        else "",
    )


def small_roi(s: Situation) -> Answer | None:
    """ROIs of few pixels, where every pixel of the outline counts."""
    known = [roi for roi in s.rois if roi.shown and roi.pixels > 0]
    if not known:
        return None
    unit = "pixels" if s.dimension == "2D" else "voxels"
    small = [roi for roi in known if roi.pixels < SMALL_PIXELS[s.dimension] and _is_weak(roi)]
    shown = small or [min(known, key=lambda roi: roi.pixels)]
    found = "; ".join(f"{roi.name} has {roi.pixels:.0f} {unit}" for roi in shown)
    size = "input_shape" if s.dimension == "2D" else "resolution (smaller spacing_mm)"
    return Answer(
        "small_roi",
        "A very small ROI?",
        bool(small),
        f"{found} for the network{'' if small else ', and it is the smallest'}.",
        f"Dice of a small ROI falls by 0.1 or more when the outline is half a pixel off. A larger {size} helps, or images cut out "
        "around it."
        if small
        else "",
    )


def coarse_grid(s: Situation) -> Answer | None:
    """The network sees the images made much smaller."""
    if s.scale >= 0.95:
        return None
    coarse = s.scale < COARSE_SCALE and any(_is_weak(roi) for roi in s.rois)
    size = "larger input_shape" if s.dimension == "2D" else "smaller spacing_mm"
    return Answer(
        "coarse_grid",
        "Details lost in the network's resolution?",
        coarse,
        f"It sees the images at {100 * s.scale:.0f} % of their own resolution (per side).",
        f"Set a {size}; each step then takes longer." if coarse else "",
    )


def inconsistent_labels(s: Situation) -> Answer:
    """What the data check said about the labels."""
    return _from_findings(
        s,
        _ODD_LABELS,
        "inconsistent_labels",
        "Inconsistent labels?",
        "The data check found nothing odd in the labels.",
        "Look at the points marked ⚠ in the data check (step 4), correct them, and train again.",
    )


def mixed_images(s: Situation) -> Answer:
    """What the data check said about the images."""
    return _from_findings(
        s,
        _ODD_IMAGES,
        "mixed_images",
        "Scans that differ too much?",
        "The data check found nothing odd in the images.",
        "A kind of scan that is rare is learned badly: add more of it, or leave it out.",
    )


def missing_spacing(s: Situation) -> Answer | None:
    """Pixel sizes are not known."""
    if s.spacing_known:
        return Answer(
            "missing_spacing", "Unknown pixel sizes?", False, "Every scan says how large its pixels are."
        )
    return Answer(
        "missing_spacing",
        "Unknown pixel sizes?",
        True,
        "Some scans do not say how large their pixels are, so an ROI may look larger in one scan than in another, and distances "
        "in mm are not measured.",
        "Fill in spacing_mm, or fov and matrix_size from the scan protocol.",
    )


def overfitting(s: Situation) -> Answer | None:
    """Training images are matched much better than scans kept back."""
    pair = _last_losses(s)
    if pair is None or s.split_kind == "none" or _too_short(s):
        return None
    train, validation = pair
    # While Dice still rises the model lags behind its training; only later is the difference one of scans.
    over = validation - train > OVERFITTING_GAP and _rise(s) <= STILL_RISING
    return Answer(
        "overfitting",
        "Learned by heart (overfitting)?",
        over,
        f"{_when_last_looked(s)} the loss was {train * s.worst_loss:.2f} on training images and {validation * s.worst_loss:.2f} on validation scans.",
        "Scans of more patients help most; then stronger augment_params, a higher dropout_rate (0.3), or a lighter network."
        if over
        else "",
    )


def not_learned(s: Situation) -> Answer | None:
    """Training images themselves are not matched."""
    last = _last_train_loss(s)
    if last is None or _too_short(s):
        return None
    poor = last > NOT_LEARNED_LOSS
    return Answer(
        "not_learned",
        "Not even the training images learned?",
        poor,
        f"At the end the loss was {last * s.worst_loss:.2f} on training images ({s.worst_loss:g} is worst).",
        "Train for more epochs; then try a learning_rate three times lower or higher. If it stays so, look at the pictures of step 5: "
        "are the outlines where they belong, and can you tell the ROI from what lies around it?"
        if poor
        else "",
    )


def still_improving(s: Situation) -> Answer | None:
    """The Dice score was still rising when training ended."""
    done, rise = len(s.history), _rise(s)
    if _too_short(s) and (not s.case_dice or any(_is_weak(roi) for roi in s.rois)):
        return Answer(
            "still_improving",
            "Trained too short?",
            True,
            f"{_what_ended_it(s)} {counted(done, 'epoch')}"
            + ("." if s.steps is None else f" ({counted(s.steps, 'step')}): too few to say more."),
            _GO_ON if s.reason == "stopped" else _LONGER,
        )
    cut = s.reason in ("stopped", "time limit") and done < s.epochs
    looks = sum(row.get("val_dice") is not None for row in s.history)
    # Half-way through, where the looks end that judged the scans before they were learned from, Dice rises in any run.
    unknown = looks < FEWEST_LOOKS or s.judged_epoch
    if unknown and not cut:
        return None
    rising = rise > STILL_RISING and not s.judged_epoch
    if cut:
        found = f"Training ended at epoch {done} of {s.epochs} planned"
        found += f", and Dice was still rising (by {rise:.3f})." if rising else "."
    elif rising:
        found = f"Dice on validation scans still rose by {rise:.3f} at the end."
    else:
        found = "Dice on validation scans no longer rose at the end."
    return Answer(
        "still_improving",
        "Trained too short?",
        rising or cut,
        found,
        (_GO_ON if s.reason == "stopped" else _LONGER) if rising or cut else "",
    )


def few_to_test_on(s: Situation) -> Answer | None:
    """The score itself is uncertain."""
    count = len(s.case_dice)
    if s.split_kind == "none":
        return Answer(
            "few_to_test_on",
            "A score of few scans?",
            True,
            "No scan was kept back, so there is no score.",
            'Set validation_fraction = "auto", or look at predictions on new scans.',
        )
    if not count:
        return None
    few = count < FEWEST_TO_TEST_ON
    return Answer(
        "few_to_test_on",
        "A score of few scans?",
        few,
        f"The score is the mean of {counted(count, 'scan')}.",
        f"One scan more or less would change it{_folds_advice(s)}." if few else "",
    )


def hard_scans(s: Situation) -> Answer | None:
    """Single scans that pull the mean down."""
    if len(s.case_dice) < 3:
        return None
    mean = float(np.mean(list(s.case_dice.values())))
    low = sorted(
        ((dice, name) for name, dice in s.case_dice.items() if dice < mean - FAR_BELOW and dice < GOOD_DICE)
    )
    names = [f"'{name}' ({dice:.2f})" for dice, name in low[:5]]
    return Answer(
        "hard_scans",
        "Single scans that pull the mean down?",
        bool(low),
        f"{_listed(names)} against a mean of {mean:.2f}." if low else "All scans are near the mean.",
        "Look at them below: is the label right, and is the scan like the others? If it is of a rare kind, label more of that kind."
        if low
        else "",
    )


QUESTIONS = (
    too_few_scans,
    one_patient,
    seldom_roi,
    small_roi,
    coarse_grid,
    inconsistent_labels,
    mixed_images,
    missing_spacing,
    overfitting,
    not_learned,
    still_improving,
    hard_scans,
    few_to_test_on,
)


_LONGER = 'Train longer: press "Ten more epochs", raise epochs, or give a longer time_limit_minutes and run the training cell again.'
_GO_ON = "Run the training cell again to go on."


def _too_short(s: Situation) -> bool:
    return len(s.history) < FEWEST_EPOCHS or (s.steps is not None and s.steps < FEWEST_STEPS)


def _what_ended_it(s: Situation) -> str:
    if s.reason == "stopped":
        return "You stopped it after"
    return "The time limit allowed only" if s.reason == "time limit" else "It was trained for only"


def _folds_advice(s: Situation) -> str:
    """Folds need a patient each."""
    folds = min(5, max(s.patients, s.patients_in_all))
    return f": with folds = {folds} every scan is tested once" if folds > 1 else ""


def _is_weak(roi: RoiSituation) -> bool:
    return roi.dice is None or roi.dice < GOOD_DICE


def _from_findings(
    s: Situation, known: Mapping[str, str], code: str, question: str, fine: str, advice: str
) -> Answer:
    present = [words for finding, words in known.items() if finding in s.findings]
    if not present:
        return Answer(code, question, False, fine)
    return Answer(code, question, True, f"The data check found {_listed(present)}.", advice)


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _rise(s: Situation) -> float:
    """Mean Dice of the last fifth of the looks at the validation scans, less that of the fifth before; 0 with too few looks."""
    values = [row["val_dice"] for row in s.history if row.get("val_dice") is not None]
    if len(values) < FEWEST_LOOKS:
        return 0.0
    part = max(1, len(values) // 5)
    return float(np.mean(values[-part:]) - np.mean(values[-2 * part : -part]))


def _last_losses(s: Situation) -> tuple[float, float] | None:
    """Means over the last fifth of the epochs, and of the looks at the validation scans, as shares of the worst."""
    looked = [number for number, row in enumerate(s.history, start=1) if row.get("val_loss") is not None]
    # Both as of the last look: later epochs, if any, have learned from what was looked at.
    train = _last_train_loss(replace(s, history=s.history[: max(looked, default=0)]))
    seen = [row["val_loss"] for row in s.history if row.get("val_loss") is not None]
    return None if train is None or not seen else (train, _last_fifth(seen) / s.worst_loss)


def _when_last_looked(s: Situation) -> str:
    return f"After epoch {s.judged_epoch}" if s.judged_epoch else "At the end"


def _last_train_loss(s: Situation) -> float | None:
    losses = [row["train_loss"] for row in s.history if row.get("train_loss") is not None]
    return _last_fifth(losses) / s.worst_loss if losses else None


def _last_fifth(values: Sequence[float]) -> float:
    return float(np.mean(values[-max(1, len(values) // 5) :]))
