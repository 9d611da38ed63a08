"""Small pictures for the notebook: one image with several label sets side by side, and grids of them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.labels import LabelTable
from autoseg_lib.viz.overlay import grey_range, picture
from autoseg_lib.viz.view import SliceView

Rgb = npt.NDArray[np.uint8]
_GAP_PX = 6
# Grey that recedes on white and on black notebooks alike.
_GAP_GREY = 128


def encode_jpg(rgb: Rgb, quality: int = 90) -> bytes:
    """Returns a picture as JPEG bytes, good enough to look at and small enough to play."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def encode_png(rgb: Rgb) -> bytes:
    """Returns a picture as PNG bytes."""
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def beside(
    image: npt.NDArray[np.generic],
    label_sets: Sequence[npt.NDArray[np.unsignedinteger] | None],
    labels: LabelTable,
    *,
    longest: int = 240,
    view: SliceView | None = None,
    modality: str = "",
) -> Rgb:
    """Draws one image several times, side by side, with one set of labels each (None: the image alone).

    Args:
        image: (row, column) grey values.
        label_sets: (row, column) label values each.
        labels: names and colours.
        longest: longest side of each picture in screen pixels.
        view: how the scan is turned; None: as stored, square pixels.
        modality: DICOM's word, for the grey window.
    """
    limits = grey_range(image, modality)
    drawn = [
        picture(image, values, labels, view, limits=limits, longest=longest, marks=view is not None)
        for values in label_sets
    ]
    return grid([drawn])


def grid(rows: Sequence[Sequence[Rgb]]) -> Rgb:
    """Puts pictures in rows, each padded to the size of the largest, with a thin gap between them."""
    height = max(drawn.shape[0] for row in rows for drawn in row)
    width = max(drawn.shape[1] for row in rows for drawn in row)
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height + _GAP_PX) - _GAP_PX, columns * (width + _GAP_PX) - _GAP_PX, 3),
        _GAP_GREY,
        np.uint8,
    )
    for i, row in enumerate(rows):
        for j, drawn in enumerate(row):
            top, left = i * (height + _GAP_PX), j * (width + _GAP_PX)
            canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return canvas
