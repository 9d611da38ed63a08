"""The pictures of report.html: every slice once, grey values as JPEG and labels as run lengths, in as many pixels as fit."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg_lib.viz.overlay import grey_range, grey_window
from autoseg_lib.viz.packing import jpeg, runs
from autoseg_lib.viz.view import SliceView, resize, resize_labels, slice_view
from autoseg_lib.volume import Mask, Volume

# All pictures of a page together, as they are written: browsers open 20 MB in about a second, and mail still takes it.
PAGE_BYTES = 20_000_000
# More slices than this are not drawn: with the smallest pictures they fill the page.
MOST_SLICES = 4000
# Longest sides tried, from the largest. 512 pixels fill the page of a laptop; below 96 nothing can be judged.
SIDES_PX = (512, 448, 384, 320, 256, 192, 144, 96)
# At 75 the noise of a scan costs half of what it does at 88, and outlines are drawn by the page, not stored in the picture.
_QUALITY = 75
# Slices that the size of a scan's pictures is found from.
_TRIED = 3
# Base64 writes three bytes as four.
_BASE64 = 4 / 3

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CasePictures:
    """What the page is told of a scan's pictures.

    Attributes:
        shape: rows and columns of each.
        aspect: height by width as displayed; pixels may be wider than high.
        width_mm: of the whole picture; None where the pixel spacing is unknown.
        edges: letters for top, right, bottom, left; empty where the orientation is unknown.
        items: slice number → {"image": JPEG in base64, "runs": see ``viz.packing.runs``}.
    """

    shape: tuple[int, int]
    aspect: float
    width_mm: float | None
    edges: tuple[str, ...]
    items: dict[int, dict[str, Any]]


def draw_case(
    volume: Volume | None, mask: Mask, numbers: list[int], place: Mapping[int, int], bytes_each: float
) -> CasePictures:
    """Draws slices of a scan.

    Args:
        volume: the image; None draws the ROIs on black.
        mask: label values on the same grid.
        numbers: slices to draw, from 1.
        place: label value → its place in the page's list of ROIs.
        bytes_each: what one slice may take in the page, on average.
    """
    view = slice_view(mask.geometry)
    stored = view.turn(mask.array[0]).shape
    grey = _grey(volume, mask)
    tried = numbers[len(numbers) // 6 :: max(1, len(numbers) // _TRIED)][:_TRIED]
    shape = _shape(stored, SIDES_PX[-1])
    for side in SIDES_PX:
        shape = _shape(stored, side)
        drawn = [_slice(grey, mask, view, number, shape, place) for number in tried]
        if sum(len(item["image"]) + len(item["runs"]) for item in drawn) <= bytes_each * len(tried):
            break
    pixel = view.pixel_mm
    return CasePictures(
        shape=shape,
        aspect=round(stored[0] * pixel[0] / (stored[1] * pixel[1]), 4),
        width_mm=round(stored[1] * pixel[1], 2) if view.spacing_known else None,
        edges=tuple(view.edges),
        items={number: _slice(grey, mask, view, number, shape, place) for number in numbers},
    )


def _grey(volume: Volume | None, mask: Mask) -> Callable[[int], Grey]:
    if volume is None:
        return lambda number: np.zeros(mask.array.shape[1:], np.uint8)
    limits = grey_range(volume.array, volume.modality)
    return lambda number: grey_window(volume.array[number - 1], limits=limits)


def _shape(stored: tuple[int, ...], side: int) -> tuple[int, int]:
    shrink = min(1.0, side / max(stored))
    return max(1, round(stored[0] * shrink)), max(1, round(stored[1] * shrink))


def _slice(
    grey: Callable[[int], Grey],
    mask: Mask,
    view: SliceView,
    number: int,
    shape: tuple[int, int],
    place: Mapping[int, int],
) -> dict[str, Any]:
    image = resize(view.turn(grey(number)), shape)
    values = resize_labels(view.turn(mask.array[number - 1]), shape)
    return {
        "image": base64.b64encode(jpeg(image, _QUALITY)).decode("ascii"),
        "runs": runs(values, place),
    }
