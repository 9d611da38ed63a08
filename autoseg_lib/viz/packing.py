"""Label values and pictures as text inside a page: run lengths that the page's own script draws outlines from."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

# Run lengths are written as bytes, and so are the places of values in a page's list of ROIs.
LONGEST_RUN = 255
MOST_ROIS = 255


def runs(values: npt.NDArray[np.unsignedinteger], place: Mapping[int, int]) -> str:
    """Returns place, length, place, length ... of the pixels row by row, as bytes in base64.

    Args:
        values: (rows, columns) label values.
        place: label value → its place in the page's list of ROIs, from 1; other values count as background.
    """
    flat = np.ascontiguousarray(values).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    written = bytearray()
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        code = place.get(value, 0)
        whole, rest = divmod(length, LONGEST_RUN)
        written += bytes((code, LONGEST_RUN)) * whole + (bytes((code, rest)) if rest else b"")
    # What follows the last ROI is background anyway.
    while len(written) >= 2 and written[-2] == 0:
        del written[-2:]
    return base64.b64encode(bytes(written)).decode("ascii")


def jpeg(grey: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Returns a grey or colour (red, green, blue) picture as JPEG bytes."""
    picture = cv2.cvtColor(grey, cv2.COLOR_RGB2BGR) if grey.ndim == 3 else grey
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
