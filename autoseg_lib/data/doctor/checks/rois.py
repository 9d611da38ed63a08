"""Findings on single ROIs: cut by the border, too small for the network, rare, without a partner on the other side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.errors import name_list
from autoseg_lib.settings import AUTO

# Side of the network's square where nobody set it: what training chooses on a computer without a GPU, for larger images too.
USUAL_SIDE = 256

# An ROI of fewer pixels than this on the network's grid has no inside (2 × 2 pixels are all edge), so it comes and goes with
# rounding.
FEWEST_NETWORK_PIXELS = 4.0

# An ROI in at most this share of the cases, or in fewer cases than FEWEST_CASES, is rare: with a fifth of the cases kept back
# it may be missing on one side of the split.
RARE_SHARE, FEWEST_CASES = 0.1, 3

# Fewer cases than this say nothing on what is rare.
FEWEST_TO_JUDGE = 6

# The largest ROI has this many times the pixels of the smallest: with a Dice loss a few wrong pixels of the small one weigh
# as much as hundreds of the large one, and cross-entropy hardly sees it.
HEAVY_IMBALANCE = 100


def check_border(context: Context) -> Iterable[Finding]:
    """ROIs that reach the edge of the image, where they may be cut off."""
    found: dict[int, list[Sample]] = defaultdict(list)
    shown: Counter[int] = Counter()
    for case, index, item in context.slices():
        for value, roi in item.rois.items():
            shown[value] += 1
            if roi.touches_border and value <= len(context.labels):
                found[value].append(Sample(case.name, index))
    if not found:
        return
    samples = tuple(dict.fromkeys(sample for value in sorted(found) for sample in found[value]))
    parts = [
        f"'{context.labels[value - 1].name}' on {len(places)} of {shown[value]}"
        for value, places in sorted(found.items())
    ]
    more = f" and {len(parts) - 5} more ROIs" if len(parts) > 5 else ""
    names = [context.case(sample.case).shown_name(sample.slice_index or 0) for sample in samples]
    yield Finding(
        "warning",
        "roi_at_border",
        f"ROIs reach the image's border and may be cut off there: {', '.join(parts[:5])}{more} slices ({name_list(names)}). Areas and "
        "volumes are then those of the part that is seen.",
        tuple(names),
        samples,
    )


def check_vanishing(context: Context) -> Iterable[Finding]:
    """ROIs so small that little is left of them at the network's resolution."""
    if context.settings.dimension == "3D":
        return
    sizes: dict[int, list[float]] = defaultdict(list)
    where: dict[int, list[Sample]] = defaultdict(list)
    for case in context.facts:
        shrink = network_scale(case, context.settings.input_shape)
        for index, item in enumerate(case.slices):
            for value, roi in item.rois.items():
                sizes[value].append(roi.pixels * shrink)
                if sizes[value][-1] < FEWEST_NETWORK_PIXELS:
                    where[value].append(Sample(case.name, index))
    for value in sorted(where):
        if value > len(context.labels) or len(where[value]) <= len(sizes[value]) / 2:
            continue  # the first and last slices of any ROI are small
        name = context.labels[value - 1].name
        yield Finding(
            "warning",
            "roi_vanishes",
            f"'{name}' is smaller than {FEWEST_NETWORK_PIXELS:g} pixels at the network's resolution on {len(where[value])} of "
            f"{len(sizes[value])} slices (median {np.median(sizes[value]):.1f}): it can hardly be learned. Set a larger "
            "input_shape, or train on images cut out around it.",
            (),
            tuple(where[value]),
        )


def network_scale(case: CaseFacts, input_shape: object) -> float:
    """Returns how many pixels of the network's grid one pixel of the scan becomes."""
    rows, columns = case.geometry.shape_zyx[1:]
    height, width = (n * s for n, s in zip((rows, columns), case.geometry.spacing_zyx_mm[1:], strict=True))
    longest = max(rows, columns)
    if input_shape == AUTO or input_shape is None:
        side = float(min(longest, USUAL_SIDE))
    else:
        side = float(np.min(np.asarray(input_shape, dtype=float)))
    pixel = max(height, width) / side
    return float(case.geometry.spacing_zyx_mm[1] * case.geometry.spacing_zyx_mm[2] / pixel**2)


def check_rare(context: Context) -> Iterable[Finding]:
    """ROIs that only few cases have."""
    total = len(context.facts)
    if total < FEWEST_TO_JUDGE:
        return
    for label in context.labels:
        having = [case.name for case in context.facts if label.value in case.values]
        if having and (len(having) < FEWEST_CASES or len(having) <= RARE_SHARE * total):
            yield Finding(
                "warning",
                "rare_roi",
                f"'{label.name}' is drawn in {len(having)} of {total} scans only ({name_list(having)}): too few to learn it and to "
                "test it. Draw it where it is missing, add scans, or take it out of labels_list.",
                tuple(having),
                tuple(Sample(name) for name in having),
            )


def check_imbalance(context: Context) -> Iterable[Finding]:
    """ROIs of very different size."""
    pixels: Counter[int] = Counter()
    for _, _, item in context.slices():
        pixels.update({value: roi.pixels for value, roi in item.rois.items() if value <= len(context.labels)})
    if len(pixels) < 2:
        return
    (large, most), (small, fewest) = pixels.most_common(1)[0], pixels.most_common()[-1]
    if most >= HEAVY_IMBALANCE * fewest:
        tiny = sum(1 for count in pixels.values() if most >= HEAVY_IMBALANCE * count)
        more = f" (and {tiny - 1} more ROIs are nearly as small)" if tiny > 1 else ""
        yield Finding(
            "warning",
            "imbalance",
            f"'{context.labels[small - 1].name}' has {most / fewest:.0f} times fewer pixels than "
            f"'{context.labels[large - 1].name}'{more}: it will be learned last and least well. More scans that show it help, "
            "or a model of its own.",
        )


def check_sides(context: Context) -> Iterable[Finding]:
    """Names that speak of left or right without the other side being there."""
    alone = context.labels.without_other_side
    if alone:
        yield Finding(
            "warning",
            "side_alone",
            f"{name_list([label.name for label in alone])}: named as one side, but the other side is not among the ROIs. Is it missing "
            "in labels_list, or spelt differently? Images are not mirrored left to right in training while this is so.",
        )
