"""Small pictures of slices with their labels, for findings: fixed ROI colours, values without a name drawn as well."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.io.label_codes import code_key
from autoseg_lib.labels import roi_color
from autoseg_lib.viz.overlay import outlines
from autoseg_lib.viz.view import SliceView, resize, resize_labels

# Longest side; shown at two thirds of it, so that it is crisp on fine screens and four fit side by side.
PICTURE_PX = 240
_GAP_PX, _GAP_GREY = 6, 128
_JPEG_QUALITY = 88
# Faint: the edge of the tissue below is what one looks for.
_OUTLINE_PX, _FILL_ALPHA = 2, 0.15

Picture = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.unsignedinteger]


def draw_small(image: Picture, label: Labels, view: SliceView, longest: int = PICTURE_PX) -> Picture:
    """Returns (height, width, 3): turned for display, in true proportions, each label value in its fixed colour.

    Values that no ROI is named for are drawn as well: they are often what the finding is about.

    Args:
        image: (row, column) grey values 0 to 255, as stored.
        label: (row, column) label values on the same pixels.
        view: how the scan is turned.
        longest: longest side in screen pixels.
    """
    turned = view.turn(image)
    shape = view.display_shape((turned.shape[0], turned.shape[1]), longest)
    grey = resize(turned, shape)
    values = resize_labels(view.turn(label), shape)
    present = [int(value) for value in np.unique(values) if value]
    # Colours by rank, so that a label of 40 000 needs no table of 40 000 colours.
    rank = np.searchsorted([0, *present], values).astype(np.uint16)
    colors = np.array([(0, 0, 0), *(_rgb(value) for value in present)], np.float32)[rank]
    drawn = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    inside = rank > 0
    drawn[inside] = (1 - _FILL_ALPHA) * drawn[inside] + _FILL_ALPHA * colors[inside]
    edge = outlines(rank, _OUTLINE_PX)
    drawn[edge] = colors[edge]
    return np.rint(drawn).astype(np.uint8)


def side_by_side(drawn: Sequence[Picture]) -> Picture:
    """Puts pictures of one height beside each other, with a thin gap."""
    gap = np.full((drawn[0].shape[0], _GAP_PX, 3), _GAP_GREY, np.uint8)
    parts = [drawn[0]]
    for picture in drawn[1:]:
        parts += [gap, picture]
    return np.concatenate(parts, axis=1)


def encode(picture: Picture) -> bytes:
    """Returns a grey or colour picture as JPEG; colours at full resolution, so that thin outlines stay crisp."""
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    shown = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", shown, options)[1].tobytes()


def color_of(value: int) -> str:
    """Returns the fixed colour of a label value as ``#RRGGBB``; a colour that nobody mapped stands for itself."""
    key = code_key(value)
    return key if isinstance(key, str) and key.startswith("#") else roi_color(value)


def _rgb(value: int) -> tuple[int, int, int]:
    color = color_of(value)
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
