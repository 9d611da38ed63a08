"""Findings on images that are of another kind than the others: modality, grey values, inverted contrast."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.facts import KEPT_PERCENTILES, CaseFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample
from autoseg_lib.data.doctor.fixes import has_own_files, leave_out_samples, unsure
from autoseg_lib.errors import counted, name_list

FloatArray = npt.NDArray[np.float64]

# Up to this share of the scans may be of another modality and still be taken for the mistake; from there on it is a mix.
FEW = 0.34

# A slice whose grey values lie off those of its neighbours by this share of their range, or whose middle half of the grey
# values is this many times (in powers of two) wider or narrower. Clean scans of six studies stay below 0.06 and 0.63.
SLICE_SHIFT, SLICE_WIDTH = 0.25, 1.0

# The same for scans where numbers mean the same in all (CT; 8-bit pictures): clean ones stay below 0.15 and 0.94.
CASE_SHIFT, CASE_WIDTH = 0.5, 2.0

# Where they do not (MR), the form of the grey values' distribution is compared: percentiles between the 1st and 99th as
# shares of that range. The largest difference from the usual one is below 0.32 in all clean scans.
CASE_FORM = 0.4

# How an image fits what all images have in common (the main axis of their small pictures): 1 the same, -1 its negative.
# In five studies no clean image is below 0.24, no inverted one above -0.28, also where a third of them is inverted.
INVERTED_FIT = -0.15
# ... when the images have that much in common at all.
COMMON_FIT = 0.3

# Modalities whose numbers are measured against a standard (Hounsfield units, activity): no scanner writes their negative, and
# slices of different parts of the body (lungs and pelvis) have less in common than those of an image and its negative.
CALIBRATED = frozenset({"CT", "PT"})

# ... and when its grey values' distribution, turned round, is as near to the usual one as it is as stored, but for noise.
FORM_TOLERANCE = 0.05

# Up to this many images each is compared with the main axis of the others alone; of more than these none has a weight in it
# that matters.
MOST_ONE_BY_ONE = 60

# Slices, or scans, needed to know what is usual.
FEWEST_TO_JUDGE = 5

# Side of the pictures, and slices of a volume, that are compared.
_COMPARED_PIXELS, _COMPARED_SLICES = 24, 8


def check_modalities(context: Context) -> Iterable[Finding]:
    """CT and MR mixed."""
    counts = Counter(case.modality for case in context.facts if case.modality)
    if len(counts) < 2:
        return
    text = ", ".join(f"{count} {modality}" for modality, count in counts.most_common())
    usual, _ = counts.most_common(1)[0]
    odd = [case.name for case in context.facts if case.modality and case.modality != usual]
    few = len(odd) <= FEW * sum(counts.values())
    samples = tuple(Sample(name) for name in odd) if few else ()
    which = f": {name_list(odd)} {'is' if len(odd) == 1 else 'are'} not {usual}" if few else ""
    yield Finding(
        "warning",
        "modalities",
        f"the scans are of different kinds ({text}){which}. One model for one kind works best.",
        tuple(odd) if few else (),
        samples,
        unsure(leave_out_samples(context, samples, "it is of another modality")) if few else None,
    )


def check_intensity_slices(context: Context) -> Iterable[Finding]:
    """Slices whose grey values are quite unlike those of their neighbours in the scan."""
    told = {*context.swapped_files, *_inverted_images(context)}
    samples = [
        Sample(case.name, index)
        for case in context.facts
        if len(case.slices) >= FEWEST_TO_JUDGE
        for index in odd_slices(case)
        if Sample(case.name, index) not in told
    ]
    if samples:
        names = [context.case(sample.case).shown_name(sample.slice_index or 0) for sample in samples]
        yield Finding(
            "warning",
            "intensity_outlier",
            f"{counted(len(samples), 'slice')} much brighter, darker, stronger or weaker in contrast than the slices beside: "
            f"{name_list(names)}. Look at them; export them again, or leave them out.",
            tuple(names),
            tuple(samples),
            # One odd slice is no reason to lose the scan that its file holds.
            unsure(leave_out_samples(context, samples, "its grey values are unlike its neighbours'"))
            if all(has_own_files(context, sample) for sample in samples)
            else None,
        )


def odd_slices(case: CaseFacts) -> list[int]:
    """Indices of the slices whose grey values differ from the median of up to three neighbours on either side."""
    values = np.array([item.percentiles for item in case.slices])
    low, high = KEPT_PERCENTILES.index(25), KEPT_PERCENTILES.index(75)
    usual = float(np.median(values[:, -1] - values[:, 0])) or 1.0
    middle = float(np.median(values[:, high] - values[:, low])) or usual
    odd = []
    for index, own in enumerate(values):
        if case.slices[index].is_constant:
            continue
        near = [i for i in range(index - 3, index + 4) if i != index and 0 <= i < len(values)]
        beside = np.median(values[near], axis=0)
        if beside[-1] - beside[0] < 1e-3 * usual:
            continue  # empty slices at the end of a scan
        shift = float(np.median(np.abs(own - beside))) / usual
        # A hundredth added, so that slices of nearly one grey value do not make large ratios of small numbers.
        widths = [part[high] - part[low] + 0.01 * middle for part in (own, beside)]
        ratio = np.log2(widths[0] / widths[1])
        if shift > SLICE_SHIFT or abs(ratio) > SLICE_WIDTH:
            odd.append(index)
    # Where many slices jump, the scan is made so (several echoes one after the other).
    return odd if len(odd) <= FEW * len(values) else []


def check_intensity_cases(context: Context) -> Iterable[Finding]:
    """Scans whose grey values are quite unlike those of the other scans."""
    told = {sample.case for sample in (*context.swapped_files, *_inverted_images(context))}
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in context.facts:
        if case.name not in told or len(case.slices) > 1:
            groups[case.modality].append(case)
    names = [case.name for cases in groups.values() for case in _odd_cases(cases)]
    if names:
        samples = tuple(Sample(name) for name in names)
        yield Finding(
            "warning",
            "intensity_outlier",
            f"{name_list(names)}: grey values quite unlike those of the other scans (another scale, window or kind of image). Look at "
            "them; export the original images again, or leave them out.",
            tuple(names),
            samples,
            unsure(leave_out_samples(context, samples, "its grey values are unlike the other scans'")),
        )


def _odd_cases(cases: Sequence[CaseFacts]) -> list[CaseFacts]:
    if len(cases) < FEWEST_TO_JUDGE:
        return []
    values = np.array([np.median([item.percentiles for item in case.slices], axis=0) for case in cases])
    widths = values[:, -1] - values[:, 0]
    if cases[0].modality == "CT" or all(case.kind == "raster" for case in cases):
        usual = np.median(values, axis=0)
        span = float(usual[-1] - usual[0]) or 1.0
        shift = np.median(np.abs(values - usual), axis=1) / span
        ratio = np.log2((widths + 1e-3 * span) / (1.001 * span))
        odd = (shift > CASE_SHIFT) | (np.abs(ratio) > CASE_WIDTH)
    else:
        form = (values - values[:, :1]) / np.maximum(widths[:, None], 1e-12)
        odd = np.abs(form - np.median(form, axis=0)).max(axis=1) > CASE_FORM
    chosen = [case for case, is_odd in zip(cases, odd, strict=True) if is_odd]
    chosen = [case for case in chosen if not all(item.is_constant for item in case.slices)]
    return chosen if len(chosen) <= FEW * len(cases) else []


def check_inverted(context: Context) -> Iterable[Finding]:
    """Images whose dark is the others' bright."""
    samples = _inverted_images(context)
    if not samples:
        return
    names = [
        sample.case
        if sample.slice_index is None
        else context.case(sample.case).shown_name(sample.slice_index)
        for sample in samples
    ]
    yield Finding(
        "warning",
        "inverted",
        f"{counted(len(samples), 'image')} {'looks' if len(samples) == 1 else 'look'} like the negative of the others (dark and bright "
        f"changed): {name_list(names)}. Export it again with the others' contrast, or leave it out.",
        tuple(names),
        tuple(samples),
        _invert_fix(context, samples),
    )


@dataclass(frozen=True)
class _Compared:
    """An image that may be a negative: its small picture and the form of its grey values' distribution."""

    sample: Sample
    picture: FloatArray
    form: FloatArray


def _inverted_images(context: Context) -> list[Sample]:
    # MR and ultrasound, say, have nothing in common that one could be the negative of.
    groups: dict[tuple[str, str], list[_Compared]] = defaultdict(list)
    for case in context.facts:
        if case.modality in CALIBRATED:
            continue
        if case.kind == "volume":
            groups["volume", case.modality].append(
                _Compared(Sample(case.name), _stack_picture(case), _form(case.slices))
            )
        else:
            groups["slice", case.modality] += [
                _Compared(Sample(case.name, i), _picture(item.small_image, _COMPARED_PIXELS), _form([item]))
                for i, item in enumerate(case.slices)
                if not item.is_constant and Sample(case.name, i) not in context.swapped_files
            ]
    return [sample for members in groups.values() for sample in _inverted(members)]


def _inverted(members: Sequence[_Compared]) -> list[Sample]:
    if len(members) < FEWEST_TO_JUDGE:
        return []
    fit = _fit_to_others(np.stack([member.picture for member in members]))
    odd = fit < INVERTED_FIT
    if np.median(fit) < COMMON_FIT or not odd.any():
        return []
    forms = np.stack([member.form for member in members])
    usual = np.median(forms[~odd], axis=0)
    as_is = np.abs(forms - usual).mean(axis=1)
    # The percentiles kept lie symmetrically, so that turning their order round makes those of the negative.
    turned = np.abs(1 - forms[:, ::-1] - usual).mean(axis=1)
    # A right knee among left ones has their grey values, as they are, elsewhere.
    odd &= turned <= as_is + FORM_TOLERANCE
    return [member.sample for member, is_odd in zip(members, odd, strict=True) if is_odd]


def _form(slices: Sequence[SliceFacts]) -> FloatArray:
    """The form of the distribution of grey values: percentiles as shares of the range between the first and the last."""
    values = np.median([item.percentiles for item in slices], axis=0)
    return np.asarray((values - values[0]) / max(float(values[-1] - values[0]), 1e-12))


def _fit_to_others(pictures: FloatArray) -> FloatArray:
    """Returns how each picture fits what the others have in common; the axis has no sign of its own, so the greater part decides."""
    count = len(pictures)
    if count > MOST_ONE_BY_ONE:
        fit = pictures @ _main_axis(pictures)
        return np.asarray(fit * (np.sign(np.median(fit)) or 1.0))
    # Of a few pictures each makes up much of their main axis, so that noise would fit it as well.
    products = pictures @ pictures.T
    fits = np.zeros(count)
    for index in range(count):
        others = np.delete(np.arange(count), index)
        sizes, axes = np.linalg.eigh(products[np.ix_(others, others)])
        weights = axes[:, -1] * (np.sign(np.median(axes[:, -1])) or 1.0)
        fits[index] = products[index, others] @ weights / max(float(np.sqrt(max(sizes[-1], 0.0))), 1e-12)
    return fits


def _main_axis(rows: FloatArray) -> FloatArray:
    """The direction of length 1 that the rows have most in common."""
    if rows.shape[0] > rows.shape[1]:
        return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, -1])
    axis = rows.T @ np.linalg.eigh(rows @ rows.T)[1][:, -1]
    return np.asarray(axis / max(float(np.linalg.norm(axis)), 1e-12))


def _invert_fix(context: Context, samples: Sequence[Sample]) -> Fix:
    """Pictures and volumes can be turned back; DICOM files are never changed."""
    actions: list[FixAction] = []
    for sample in samples:
        case = context.case(sample.case)
        item = case.slices[sample.slice_index or 0]
        if case.kind == "dicom" or item.image_file is None:
            actions += leave_out_samples(context, [sample], "its contrast is inverted").actions
        else:
            actions.append(FixAction("invert", (item.image_file,)))
    changed = all(action.kind == "invert" for action in actions)
    what = "Invert" if changed else "Invert or leave out"
    return Fix(f"{what} {counted(len(samples), 'image')}", tuple(actions), sure=False)


def _stack_picture(case: CaseFacts) -> FloatArray:
    count = len(case.slices)
    places = [int(count * (k + 0.5) / _COMPARED_SLICES) for k in range(_COMPARED_SLICES)]
    parts = [_picture(case.slices[i].small_image, 16) for i in places]
    return np.concatenate(parts) / np.sqrt(_COMPARED_SLICES)


def _picture(small: npt.NDArray[np.uint8], side: int) -> FloatArray:
    """A small picture as a vector of mean 0 and length 1."""
    vector = cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
