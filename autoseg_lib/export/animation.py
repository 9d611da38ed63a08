"""animation.html: all slices of a scan with their ROIs in one file that any browser opens, offline."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import ExportError
from autoseg_lib.io.files import write_text
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import count_pixels
from autoseg_lib.viz.html import render
from autoseg_lib.viz.overlay import FILL_ALPHA, grey_range, grey_window
from autoseg_lib.viz.packing import MOST_ROIS, runs
from autoseg_lib.viz.view import resize, resize_labels, slice_view
from autoseg_lib.volume import Mask

# Keep the file below about 15 MB, which browsers and mail programs still take: 200 slices of 512 × 512 as
# JPEG.
MAX_SIDE_PX = 512
MAX_SLICES = 200
_JPEG_QUALITY = 88


def write_animation(path: Path, scan: Scan, mask: Mask, labels: LabelTable) -> list[Path]:
    """Writes animation.html.

    Args:
        path: the file.
        scan: the image.
        mask: label values on the scan's slices.
        labels: the ROIs.

    Returns:
        The file.

    Raises:
        ExportError: the file cannot be written.
    """
    text = animation_html(scan, mask, labels)
    write_text(path, text)
    return [path]


def animation_html(scan: Scan, mask: Mask, labels: LabelTable) -> str:
    """Returns the page. Areas shown on it are measured on the full-size mask, whatever the size of the
    pictures."""
    volume, geometry = scan.volume, scan.volume.geometry
    view = slice_view(geometry)
    limits = grey_range(volume.array, volume.modality)
    total = volume.array.shape[0]
    shown = shown_slices(total)
    counts = count_pixels(mask, labels, scan.name)
    areas = counts * geometry.pixel_area_mm2 if geometry.spacing_known else counts
    stored = view.turn(volume.array[0]).shape
    shrink = min(1.0, MAX_SIDE_PX / max(stored))
    shape = (max(1, round(stored[0] * shrink)), max(1, round(stored[1] * shrink)))
    place = {label.value: number for number, label in enumerate(labels[:MOST_ROIS], start=1)}
    slices: list[dict[str, Any]] = []
    for index in shown:
        grey = resize(view.turn(grey_window(volume.array[index], limits=limits)), shape)
        values = resize_labels(view.turn(mask.array[index]), shape)
        slices.append(
            {
                "number": index + 1,
                "name": scan.slice_names[index] if scan.slice_names else "",
                "image": _jpeg(grey),
                "runs": runs(values, place),
                "areas": [round(float(area), 1) for area in areas[index]],
            }
        )
    notes = []
    if len(shown) < total:
        notes.append(f"Every {shown[1] - shown[0]}th of {total} slices is shown, to keep this file small.")
    if shrink < 1:
        notes.append(f"Pictures are shown at {shape[1]} × {shape[0]} of {stored[1]} × {stored[0]} pixels.")
    data = {
        "slices": slices,
        "total": total,
        "rows": shape[0],
        "columns": shape[1],
        # True proportions: pixels of the picture may be wider than high.
        "aspect": stored[0] * view.pixel_mm[0] / (stored[1] * view.pixel_mm[1]),
        "widthMm": stored[1] * view.pixel_mm[1] if view.spacing_known else None,
        "edges": list(view.edges),
        "unit": "mm²" if geometry.spacing_known else "pixels",
        "labels": [
            {"value": number, "name": label.name, "color": label.color}
            for number, label in enumerate(labels, start=1)
        ],
        "alpha": FILL_ALPHA,
    }
    return str(render("animation.html.j2", title=scan.name, data=data, notes=notes))


def shown_slices(total: int, most: int = MAX_SLICES) -> list[int]:
    """Returns which of ``total`` slices are shown: all, or every n-th so that at most ``most`` are."""
    step = -(-total // most)
    return list(range(0, total, step))


def _jpeg(grey: npt.NDArray[np.uint8]) -> str:
    done, buffer = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise ExportError(
            f"a picture of {grey.shape[1]} × {grey.shape[0]} pixels could not be made for animation.html."
        )
    return base64.b64encode(np.asarray(buffer).tobytes()).decode("ascii")
