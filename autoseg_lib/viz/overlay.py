"""Slices with the ROIs drawn over them, in the ROIs' fixed colours."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.labels import LabelTable, roi_color
from autoseg_lib.viz.view import SliceView, resize, resize_labels

FILL_ALPHA = 0.35
OUTLINE_PX = 2

# Longest side of a picture in screen pixels: half the width of a 13-inch laptop's screen.
DISPLAY_PX = 640

# The common soft-tissue window of CT viewers: level 40 HU, width 400 HU.
CT_WINDOW_HU = (-160.0, 240.0)

# Share of pixels left out at both ends before grey values are stretched, in percent, as nnU-Net clips CT.
_TAILS_PERCENT = (0.5, 99.5)

# Pixels looked at to find the grey range of a scan; more change nothing that one can see.
_SAMPLE = 200_000

Grey = npt.NDArray[np.uint8]
Rgb = npt.NDArray[np.uint8]

# Air is -1000 HU; other pictures have no such values. Share of a scan that must be air for it to be taken for a CT.
_AIR_HU, _AIR_WITHIN_HU, _AIR_SHARE = -1000.0, 50.0, 0.02


def grey_range(image: npt.NDArray[np.generic], modality: str = "") -> tuple[float, float]:
    """Returns the values shown as black and white: the soft-tissue window for CT, else 0.5–99.5 % of the
    values.

    Args:
        image: an image or a whole scan, any shape; NaN and infinite values are left out.
        modality: DICOM's word ("CT", "MR", ...); where it is not known (NIfTI), a scan with as much air as a CT counts as one.
    """
    if modality == "CT":
        return CT_WINDOW_HU
    values = np.asarray(image).ravel()
    values = values[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    if not modality and np.mean(np.abs(values - _AIR_HU) < _AIR_WITHIN_HU) > _AIR_SHARE:
        return CT_WINDOW_HU
    low, high = np.percentile(values, _TAILS_PERCENT)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return float(low), float(high) if high > low else float(low) + 1.0


def grey_window(
    image: npt.NDArray[np.generic], modality: str = "", limits: tuple[float, float] | None = None
) -> Grey:
    """Returns the image as grey values 0..255, same shape.

    Args:
        image: grey values, any shape.
        modality: DICOM's word, used where ``limits`` is None.
        limits: values shown as black and white; None: ``grey_range`` of this image.
    """
    low, high = limits or grey_range(image, modality)
    scaled = (np.asarray(image, dtype=np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255)).astype(np.uint8)


def outlines(label2d: npt.NDArray[np.unsignedinteger], width_px: int = OUTLINE_PX) -> npt.NDArray[np.bool_]:
    """Returns (rows, columns) True on the outermost ``width_px`` pixels of each ROI, drawn inwards.

    The picture's edge is no outline: an ROI that is cut off there stays open.
    """
    labels = label2d.astype(np.uint16)
    edge = np.zeros(labels.shape, dtype=bool)
    # A pixel is on the outline when another value lies within width_px of it: smallest and largest neighbour
    # differ.
    size = 2 * width_px + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    lowest = cv2.erode(labels, kernel, borderType=cv2.BORDER_REPLICATE)
    highest = cv2.dilate(labels, kernel, borderType=cv2.BORDER_REPLICATE)
    edge[...] = (labels > 0) & (np.asarray(lowest) != np.asarray(highest))
    return edge


def color_table(highest: int) -> npt.NDArray[np.uint8]:
    """Returns (highest + 1, 3) red, green, blue of the label values 0..highest; 0 is black."""
    table = np.zeros((highest + 1, 3), dtype=np.uint8)
    for value in range(1, highest + 1):
        color = roi_color(value)
        table[value] = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return table


def overlay_rgb(
    image2d: npt.NDArray[np.generic],
    label2d: npt.NDArray[np.unsignedinteger],
    labels: LabelTable,
    alpha: float = FILL_ALPHA,
    outline_px: int = OUTLINE_PX,
) -> Rgb:
    """Draws the ROIs over an image: fill at ``alpha``, outline at full strength.

    Args:
        image2d: (rows, columns) grey values; uint8 is taken as it is, anything else is windowed.
        label2d: (rows, columns) label values of the same size.
        labels: the ROIs to draw; other values are left out.
        alpha: strength of the fill, 0 to 1.
        outline_px: width of the outline in pixels, 0 for none.

    Returns:
        (rows, columns, 3) uint8, red, green, blue.
    """
    grey = image2d if image2d.dtype == np.uint8 else grey_window(image2d)
    shown = np.where(label2d <= len(labels), label2d, 0).astype(np.uint16)
    rgb = np.repeat(np.asarray(grey)[..., None], 3, axis=2).astype(np.float32)
    colors = color_table(len(labels)).astype(np.float32)[shown]
    inside = shown > 0
    rgb[inside] = (1 - alpha) * rgb[inside] + alpha * colors[inside]
    if outline_px:
        edge = outlines(shown, outline_px)
        rgb[edge] = colors[edge]
    return np.rint(rgb).astype(np.uint8)


def picture(
    image2d: npt.NDArray[np.generic],
    label2d: npt.NDArray[np.unsignedinteger] | None,
    labels: LabelTable,
    view: SliceView | None = None,
    *,
    modality: str = "",
    limits: tuple[float, float] | None = None,
    longest: int = DISPLAY_PX,
    alpha: float = FILL_ALPHA,
    marks: bool = True,
) -> Rgb:
    """Returns a slice as one looks at it: turned and in true proportions, ROIs, letters and a scale bar.

    Args:
        image2d: (rows, columns) grey values as stored.
        label2d: (rows, columns) label values, or None for the image alone.
        labels: names and colours.
        view: how the scan is turned (``slice_view``); None: as stored, square pixels.
        modality: DICOM's word, chooses the grey window where ``limits`` is None.
        limits: values shown as black and white.
        longest: longest side in screen pixels.
        alpha: strength of the fill.
        marks: whether to draw letters and scale bar.

    Returns:
        (height, width, 3) uint8.
    """
    view = view or SliceView()
    turned = view.turn(image2d)
    shape = view.display_shape((turned.shape[0], turned.shape[1]), longest)
    grey = resize(grey_window(turned, modality, limits), shape)
    values = np.zeros(shape, np.uint16) if label2d is None else resize_labels(view.turn(label2d), shape)
    rgb = overlay_rgb(grey, values, labels, alpha)
    return _with_marks(rgb, view, turned.shape[1]) if marks else rgb


def _with_marks(rgb: Rgb, view: SliceView, columns: int) -> Rgb:
    height, width = rgb.shape[:2]
    canvas = np.ascontiguousarray(rgb)
    if view.edges:
        top, right, bottom, left = view.edges
        for letter, (x, y) in (
            (top, (width // 2, 12)),
            (bottom, (width // 2, height - 12)),
            (left, (12, height // 2)),
            (right, (width - 12, height // 2)),
        ):
            _text(canvas, letter, x, y)
    bar = view.scale_bar(width, columns)
    if bar:
        length, text = bar
        x, y = width - 12 - length, height - 14
        cv2.rectangle(canvas, (x - 1, y - 1), (x + length + 1, y + 3), (0, 0, 0), -1)
        cv2.rectangle(canvas, (x, y), (x + length, y + 2), (255, 255, 255), -1)
        _text(canvas, text, x + length // 2, y - 10)
    return canvas


def _text(canvas: Rgb, text: str, x: int, y: int) -> None:
    """Writes white on a black rim, centred at (x, y), so that it reads on any tissue."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    place = (x - width // 2, y + height // 2)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
