"""Findings on the same thing twice: images, nearly the same images, labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.facts import CaseFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding, Fix, Sample
from autoseg_lib.data.doctor.fixes import has_own_files, leave_out_samples, unsure
from autoseg_lib.errors import counted
from autoseg_lib.settings import AUTO

# Two labels of fewer pixels than this may be equal by chance (a few pixels at the end of an ROI).
FEWEST_LABEL_PIXELS = 100

# One and the same label on this many images, and on this share of all, is made so: an ROI of fixed shape and place.
MADE_ALIKE, MADE_ALIKE_SHARE = 5, 0.34

# Slices of so few grey values without an ROI are padding (-2000 around a circle of -1000): alike without being copies.
MOST_BLANK_LEVELS = 3

# Two images are nearly the same when at most this many of the 64 bits of their perceptual hashes differ, ...
MOST_HASH_BITS = 10

# ... and their small pictures, brightness and contrast evened out, correlate at least this much. Measured on sunnybrook_png:
# saved as JPEG of quality 75 at least 0.9996, quality 40 mostly above 0.9987, brightened 0.9991, halved in size and enlarged
# again mostly above 0.9986. Of its 486 different images 98 % have no other above 0.9979; the highest, two moments of one
# heartbeat, reach 0.9987.
NEAR_CORRELATION = 0.9985

# Side of the pictures that are compared.
_COMPARED_PIXELS = 64


@dataclass(frozen=True)
class _Unit:
    """What may be there twice: a slice with a file of its own, or a whole volume."""

    sample: Sample
    name: str
    patient: str
    checksum: str
    label_checksum: str
    drawn: int
    held_back: bool
    perceptual_hash: int
    picture: npt.NDArray[np.float32]
    stack: str


def check_same_image(context: Context) -> Iterable[Finding]:
    """The same image twice, pixel for pixel."""
    groups: dict[str, list[_Unit]] = defaultdict(list)
    for unit in _units(context):
        groups[unit.checksum].append(unit)
    same = [group for group in groups.values() if len(group) > 1]
    yield from _told(context, same, "the same image is there", "same_image", sure=True)


def check_near_image(context: Context) -> Iterable[Finding]:
    """Nearly the same image twice: saved again, scaled, brightened."""
    units = _units(context)
    groups = _near_groups(units)
    yield from _told(context, groups, "nearly the same image is there", "near_image", sure=False)


def _told(
    context: Context, groups: Sequence[Sequence[_Unit]], what: str, code: str, *, sure: bool
) -> Iterable[Finding]:
    """One finding for each way in which doubles do harm.

    Only what is wrong as things stand stops: one image on both sides of the split, or with two labels. Of images that are
    nearly the same within one patient and one side (moments of one heartbeat) none is left out.
    """
    folds = context.settings.folds
    crossed = folds != AUTO and int(folds) > 1
    kinds: dict[str, list[Sequence[_Unit]]] = defaultdict(list)
    for group in groups:
        patients = len({unit.patient for unit in group})
        sides = len({unit.held_back for unit in group})
        labels = len({unit.label_checksum for unit in group})
        if sides > 1:
            kinds["split"].append(group)
        elif patients > 1 and crossed:
            kinds["folds"].append(group)
        elif labels > 1 and sure:
            kinds["labels"].append(group)
        elif patients > 1:
            kinds["patients"].append(group)
        else:
            kinds["twice"].append(group)
    harm = {
        "split": " on both sides: once to learn from and once kept back to test on. The scores would look better than they are",
        "patients": " under several patients. The scores would look better than they are if they come to lie on both sides of the split",
        "folds": " under several patients, which lie on both sides in one of the folds. The scores would look better than they are",
        "labels": " with different labels. The network learns both, and one of them is wrong",
        "twice": " more than once. It counts more than the others",
    }
    for kind, members in kinds.items():
        extra = [unit for group in members for unit in group[1:]]
        pairs = "; ".join(" = ".join(f"'{unit.name}'" for unit in group[:3]) for group in members[:3])
        more = f"; and {len(members) - 3} more" if len(members) > 3 else ""
        differ = any(len({unit.label_checksum for unit in group}) > 1 for group in members)
        drop = [unit.sample for unit in extra]
        if kind == "labels":
            drop = [unit.sample for group in members for unit in group]  # nobody knows which label is right
        keeps = kind == "twice" and (not sure or not all(_is_removable(context, item) for item in drop))
        fix = leave_out_samples(context, drop, "the same image is there under another name")
        yield Finding(
            "error" if sure and kind in ("split", "folds", "labels") else "warning",
            code,
            f"{what}{harm[kind]}: {pairs}{more}. Keep one of them{', the one with the right label' if differ else ''}.",
            tuple(unit.name for group in members for unit in group),
            tuple(unit.sample for group in members for unit in group),
            None if keeps else Fix(fix.text, fix.actions, sure=sure),
            {"kind": kind},
        )


def check_same_label(context: Context) -> Iterable[Finding]:
    """The same label for two different images."""
    groups: dict[str, list[_Unit]] = defaultdict(list)
    for unit in _units(context):
        if unit.drawn >= FEWEST_LABEL_PIXELS:
            groups[unit.label_checksum].append(unit)
    # Of the same image, saved twice, the labels are the same by right.
    same = [group for group in groups.values() if _differ(group)]
    if not same:
        return
    units = [unit for group in same for unit in group]
    pairs = "; ".join(" = ".join(f"'{unit.name}'" for unit in group[:3]) for group in same[:3])
    more = f"; and {len(same) - 3} more" if len(same) > 3 else ""
    fix = leave_out_samples(context, [unit.sample for unit in units], "its label is another image's")
    most = max(len(group) for group in same)
    drawn = sum(len(group) for group in groups.values())
    made_alike = most >= max(MADE_ALIKE, MADE_ALIKE_SHARE * drawn)
    yield Finding(
        "warning",
        "same_label",
        f"{counted(len(same), 'label')} of {len(units)} different images {'is' if len(same) == 1 else 'are'} the same to the pixel: "
        f"{pairs}{more}. A label that was copied fits one of its images at most. Draw the others anew, or leave them out.",
        tuple(unit.name for unit in units),
        tuple(unit.sample for unit in units),
        None if made_alike else unsure(fix),
    )


def _differ(group: Sequence[_Unit]) -> bool:
    """Whether any two images of a group are more than copies of each other."""
    first = group[0]
    return any(
        unit.checksum != first.checksum
        and (
            unit.picture.size != first.picture.size or float(unit.picture @ first.picture) < NEAR_CORRELATION
        )
        for unit in group[1:]
    )


def _is_removable(context: Context, sample: Sample) -> bool:
    """Whether leaving a sample out takes nothing else with it."""
    return sample.slice_index is None or has_own_files(context, sample)


def _is_blank(item: SliceFacts) -> bool:
    """Whether a slice shows nothing, so that it may be there many times by right."""
    return item.is_constant or (item.is_empty and item.grey_levels <= MOST_BLANK_LEVELS)


# --- what is compared -------------------------------------------------------------------------------------------------


def _units(context: Context) -> list[_Unit]:
    units = []
    for number, case in enumerate(context.facts):
        held = number in context.split.validation and number not in context.split.train
        if case.kind == "volume":
            if not all(_is_blank(item) for item in case.slices):
                units.append(_volume_unit(case, held))
            continue
        for index, item in enumerate(case.slices):
            if not _is_blank(item):
                units.append(
                    _Unit(
                        Sample(case.name, index),
                        case.shown_name(index),
                        case.patient,
                        item.checksum,
                        item.label_checksum,
                        sum(roi.pixels for roi in item.rois.values()),
                        held,
                        item.perceptual_hash,
                        _picture(item.small_image),
                        case.name if len(case.slices) > 1 else "",
                    )
                )
    return units


def _volume_unit(case: CaseFacts, held: bool) -> _Unit:
    middle = case.slices[len(case.slices) // 2]
    thirds = [case.slices[len(case.slices) * part // 4] for part in (1, 2, 3)]
    return _Unit(
        Sample(case.name),
        case.name,
        case.patient,
        case.image_checksum,
        case.label_checksum,
        sum(roi.pixels for item in case.slices for roi in item.rois.values()),
        held,
        middle.perceptual_hash,
        np.concatenate([_picture(item.small_image) for item in thirds]) / np.sqrt(3),
        "",
    )


def _picture(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A small picture as a vector of mean 0 and length 1."""
    size = (_COMPARED_PIXELS, _COMPARED_PIXELS)
    vector = cv2.resize(small, size, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _near_groups(units: Sequence[_Unit]) -> list[list[_Unit]]:
    """Pairs, or more, of nearly equal images; slices of one stack are alike by nature and are not compared."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        by_length[unit.picture.size].append(number)
    joined: dict[int, int] = {}

    def root(number: int) -> int:
        while joined.get(number, number) != number:
            number = joined[number]
        return number

    for members in by_length.values():
        hashes = np.array([units[i].perceptual_hash for i in members], dtype=np.uint64)
        pictures = np.stack([units[i].picture for i in members])
        # Slices of one stack get its number; those of none a number of their own.
        names = {name: number for number, name in enumerate(sorted({units[i].stack for i in members} - {""}))}
        stacks = np.array([names.get(units[i].stack, len(names) + i) for i in members])
        for row, number in enumerate(members):
            bits = np.bitwise_count(hashes[row + 1 :] ^ hashes[row])
            apart = stacks[row + 1 :] != stacks[row]
            close = np.flatnonzero((bits <= MOST_HASH_BITS) & apart) + row + 1
            if close.size == 0:
                continue
            for column in close[pictures[close] @ pictures[row] >= NEAR_CORRELATION]:
                other = members[int(column)]
                ours, theirs = units[number], units[other]
                if ours.checksum == theirs.checksum:
                    continue  # told as the same image
                joined[root(other)] = root(number)
    groups: dict[int, list[_Unit]] = defaultdict(list)
    for number in sorted({*joined, *joined.values()}):
        groups[root(number)].append(units[number])
    return [group for group in groups.values() if len(group) > 1]
