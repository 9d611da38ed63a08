"""Images beside a scan (PET beside a CT, further MR sequences), brought onto the scan's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.other_grid import grid_text, has_places, same_frame, size_text
from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import FloatArray, Geometry
from autoseg_lib.preprocess.resample import resample
from autoseg_lib.volume import Volume


def onto_grid(
    other: Volume,
    target: Geometry,
    *,
    number: int,
    name: str,
    frames: tuple[str, str] = ("", ""),
    notes: list[str],
) -> Volume:
    """Returns an image on the grid of the scan it belongs to; grey values are interpolated linearly, in one resampling.

    Args:
        other: the image, on its own grid.
        target: the scan's grid.
        number: 2 for the second image, 3 for the third, ...
        name: of the scan, for messages.
        frames: frame of reference of the scan and of the image, "" where unknown.
        notes: what was done is added here.

    Raises:
        DataError: the two do not share a place: another frame of reference, no place at all, or no overlap.
    """
    own, what = other.geometry, f"'{name}', image {number}"
    if own.is_same_grid(target):
        _require_one_frame(frames, what)
        return other.with_array(other.array, target)
    if own.shape_zyx == target.shape_zyx and not (own.orientation_known or target.orientation_known):
        # Pictures without any place: slice by slice, pixel by pixel.
        return other.with_array(other.array, target)
    if not has_places(own, target):
        raise DataError(
            f"{what}: it has {size_text(own.shape_zyx)} voxels, the scan {size_text(target.shape_zyx)}, and one of the two does "
            "not say where it lies in the patient (spacing, position and directions), so they cannot be laid onto each other. "
            "Save the image on the scan's own grid."
        )
    _require_one_frame(frames, what)
    if not same_frame(target, own):
        raise DataError(
            f"{what}: it lies in another place than the scan and they do not overlap ({grid_text(own)}; scan: "
            f"{grid_text(target)}). Choose the image of this scan."
        )
    try:
        moved = resample(Volume(other.array, own), target, order="linear", fill=float(_finite_minimum(other)))
    except GeometryError as error:
        raise DataError(f"{what}: it cannot be laid onto the scan's grid: {error}") from None
    covered = 100 * _share_inside(target, own)
    rest = (
        "" if covered > 99.5 else f" It covers {covered:.0f} % of the scan; the rest takes its darkest value."
    )
    notes.append(
        f"image {number} lies on another grid ({grid_text(own)}) than the scan ({grid_text(target)}); it was resampled onto "
        f"that one.{rest}"
    )
    return Volume(moved.array, target, other.modality, other.spacing_source)


def frame_of(source: ImageSource) -> str:
    """Returns the frame of reference that DICOM headers name; "" where there is none."""
    return source.series.headers[0].frame_of_reference_uid if source.series is not None else ""


def others_text(sources: Sequence[ImageSource]) -> str:
    """Returns "2 images of each patient (image, image 2)" for a note."""
    count = 1 + min(len(source.others) for source in sources)
    names = ", ".join(["image", *(f"image {number}" for number in range(2, count + 1))])
    return f"{count} images of each patient ({names})"


def _require_one_frame(frames: tuple[str, str], what: str) -> None:
    if frames[0] and frames[1] and frames[0] != frames[1]:
        raise DataError(
            f"{what}: its frame of reference is another one than the scan's, so the scanner does not vouch that they fit (the "
            "patient may have moved between). Register the image to the scan, and give the registered one."
        )


def _finite_minimum(volume: Volume) -> float:
    values = np.asarray(volume.array, dtype=np.float32)
    values = values[np.isfinite(values)]
    return float(values.min()) if values.size else 0.0


def _share_inside(target: Geometry, own: Geometry) -> float:
    """The share of the scan's box that the image's box covers, from places spread over the scan."""
    places = np.stack(
        np.meshgrid(*[np.linspace(-0.5, n - 0.5, 12) for n in target.shape_zyx], indexing="ij"), axis=-1
    )
    matrix: FloatArray = np.linalg.inv(own.affine) @ target.affine
    index = places.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
    # A hundredth of a pixel: rounding of the headers.
    inside = (index >= -0.51) & (index <= np.array(own.shape_zyx) - 0.49)
    return float(inside.all(axis=1).mean())
