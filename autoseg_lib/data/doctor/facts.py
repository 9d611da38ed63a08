"""What one reading of a case leaves behind, so that no check and no picture needs a second one.

Whole pixels are let go; what stays of a slice is some numbers, checksums and a small picture of image and label.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg_lib.data.pairing import TrainingCase
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.geometry import Geometry
from autoseg_lib.measure.plane import largest_part
from autoseg_lib.preprocess.intensity import foreground_values
from autoseg_lib.settings import TrainSettings

UInt8Array = npt.NDArray[np.uint8]

# Longest side of the small pictures: enough to tell a label's outline by eye, and 2000 slices stay below 40 MB.
SMALL_PIXELS = 96

# Longest side of the larger pictures, to judge a label by eye in the report; kept compressed, about 10 kB a slice.
VIEW_PIXELS = 256
_VIEW_QUALITY = 85

# With more slices than this the pictures get smaller, so that all of them together keep to the same memory.
MOST_FULL_SMALL_SLICES = 4000
FEWEST_SMALL_PIXELS = 32

# Grey values shown black and white in the small pictures; the same share is cut off as when a scan is looked at.
WINDOW_PERCENTILES = (1.0, 99.0)

# Percentiles kept of each slice.
KEPT_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

# Percentiles are taken from at most about this many pixels of a slice, evenly spread: their error is below 0.5 %.
PIXELS_FOR_PERCENTILES = 40_000


@dataclass(frozen=True)
class RoiFacts:
    """One ROI on one slice.

    Attributes:
        pixels: its size.
        box: (first row, first column, last row + 1, last column + 1).
        touches_border: whether it reaches the slice's edge.
        largest_part: share of its pixels in the largest of its parts.
    """

    pixels: int
    box: tuple[int, int, int, int]
    touches_border: bool
    largest_part: float = 1.0


@dataclass(frozen=True, eq=False)
class SliceFacts:
    """One slice and its label.

    Attributes:
        name: name of the slice.
        image_file: file that holds it; for a volume, the volume.
        label_file: file that holds its label.
        counts: label value → pixels, 0 included.
        rois: label value → what is known of the ROI; 0 left out.
        mean: mean of the finite grey values.
        deviation: their standard deviation.
        percentiles: grey values at KEPT_PERCENTILES.
        window: grey values that are 0 and 255 in ``small_image``.
        bad_pixels: NaN and infinite pixels.
        is_constant: whether all pixels are equal.
        grey_levels: number of different grey values among the pixels looked at for the percentiles.
        checksum: of the grey values.
        label_checksum: of the label values and the label's size.
        perceptual_hash: 64 bits that stay nearly the same when the image is scaled, brightened or saved again.
        small_image: (row, column) at most SMALL_PIXELS long.
        small_label: label values on the same pixels.
        view_jpeg: a larger picture of the slice, at most VIEW_PIXELS long, as JPEG; empty where there are too many slices.
        view_label_png: its label values on the same pixels, as PNG.
    """

    name: str
    image_file: Path | None
    label_file: Path | None
    counts: dict[int, int]
    rois: dict[int, RoiFacts]
    mean: float
    deviation: float
    percentiles: tuple[float, ...]
    window: tuple[float, float]
    bad_pixels: int
    is_constant: bool
    grey_levels: int
    checksum: str
    label_checksum: str
    perceptual_hash: int
    small_image: UInt8Array = field(repr=False)
    small_label: npt.NDArray[np.unsignedinteger] = field(repr=False)
    view_jpeg: bytes = field(default=b"", repr=False)
    view_label_png: bytes = field(default=b"", repr=False)

    @property
    def label_name(self) -> str:
        """What to call its label: the file's name, unless slices have other names because files tell the patient."""
        told = self.label_file is not None and self.label_file.name.startswith(self.name)
        return self.label_file.name if told and self.label_file is not None else self.name

    @property
    def is_empty(self) -> bool:
        """Whether nothing is drawn on it."""
        return not self.rois


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What the checks know of one case.

    Attributes:
        name: name of the case.
        patient: key of the patient.
        kind: "dicom", "volume" or "raster".
        modality: DICOM's word, "" where unknown.
        geometry: grid of the slices.
        slices: what is known of each slice, in order.
        checksum: of all pixels and label values.
        load_warnings: what reading had to assume.
        header_patient: key of the PatientID in its DICOM headers, "" where there is none.
        header_study: StudyInstanceUID of its DICOM headers, "" where there is none.
        has_slice_names: whether the slices have names of their own (not slice_0001, ...).
        roi_grey_values: some grey values inside ROIs.
        images: images of the patient on one grid: the scan, and those beside it (PET beside a CT, MR sequences).
    """

    name: str
    patient: str
    kind: str
    modality: str
    geometry: Geometry
    slices: tuple[SliceFacts, ...] = field(repr=False)
    checksum: str
    load_warnings: tuple[str, ...] = ()
    header_patient: str = ""
    header_study: str = field(default="", repr=False)
    has_slice_names: bool = True
    roi_grey_values: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    images: int = 1

    @property
    def slice_names(self) -> tuple[str, ...]:
        """Name of each slice."""
        return tuple(item.name for item in self.slices)

    @property
    def counts(self) -> tuple[dict[int, int], ...]:
        """For each slice: label value → pixels."""
        return tuple(item.counts for item in self.slices)

    @property
    def values(self) -> set[int]:
        """All label values in the case, 0 included."""
        return {value for item in self.slices for value in item.counts}

    @property
    def image_checksum(self) -> str:
        """Checksum of the grey values of all slices."""
        return hashlib.blake2b("".join(s.checksum for s in self.slices).encode(), digest_size=16).hexdigest()

    @property
    def label_checksum(self) -> str:
        """Checksum of the label values of all slices."""
        text = "".join(s.label_checksum for s in self.slices)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def bad_pixels(self) -> int:
        """NaN and infinite pixels."""
        return sum(item.bad_pixels for item in self.slices)

    def shown_name(self, index: int) -> str:
        """Returns what to call a slice in a sentence: its own name, else the case's with the number."""
        if len(self.slices) == 1:
            return self.name
        return f"{self.name}/{self.slices[index].name}"


def small_side(slices: int) -> int:
    """Returns the longest side of the small pictures when there are ``slices`` of them in all."""
    if slices <= MOST_FULL_SMALL_SLICES:
        return SMALL_PIXELS
    side = SMALL_PIXELS * (MOST_FULL_SMALL_SLICES / slices) ** 0.5
    return max(FEWEST_SMALL_PIXELS, int(side))


def gather_facts(case: TrainingCase, settings: TrainSettings, longest: int = SMALL_PIXELS) -> CaseFacts:
    """Reads one case, each of its files once, and returns what the checks need.

    Args:
        case: from ``pair``.
        settings: how to read it.
        longest: longest side of the small pictures.

    Raises:
        DataError: a file cannot be read, or image and label do not fit together.
    """
    scan, mask, warnings = load_training_case(case, settings)
    images, labels = scan.volume.array, mask.array
    count = images.shape[0]
    own_slices = case.source.kind != "volume" and len(case.source.files) == count and not scan.is_turned
    image_files = case.source.files if own_slices else case.source.files[:1] * count
    if own_slices and case.label_files:
        label_files: tuple[Path | None, ...] = case.label_files
    else:
        label_files = (case.label_volume,) * count
    header = case.source.series.headers[0] if case.source.series is not None else None
    digest = hashlib.sha256()
    slices = []
    for index in range(count):
        facts = _slice_facts(
            images[index],
            labels[index],
            name=scan.slice_names[index],
            image_file=image_files[index],
            label_file=label_files[index],
            longest=longest,
        )
        digest.update(facts.checksum.encode() + facts.label_checksum.encode())
        slices.append(facts)
    for other in scan.volume.others:
        digest.update(_checksum(other.array).encode())
    return CaseFacts(
        name=case.name,
        patient=case.patient,
        kind=case.source.kind,
        modality=scan.volume.modality,
        geometry=scan.volume.geometry,
        slices=tuple(slices),
        checksum=digest.hexdigest(),
        load_warnings=tuple(dict.fromkeys((*scan.warnings, *warnings))),
        header_patient=header.patient_key if header else "",
        header_study=header.study_uid if header else "",
        has_slice_names=any(scan.slice_files),
        roi_grey_values=foreground_values(scan.volume, mask),
        images=len(scan.volume.images),
    )


def _slice_facts(
    image: npt.NDArray[Any],
    label: npt.NDArray[np.unsignedinteger],
    *,
    name: str,
    image_file: Path | None,
    label_file: Path | None,
    longest: int,
) -> SliceFacts:
    finite, bad = _finite(image)
    step = max(1, int((image.size / PIXELS_FOR_PERCENTILES) ** 0.5))
    some = finite[::step, ::step]
    low, *kept, high = np.percentile(some, (WINDOW_PERCENTILES[0], *KEPT_PERCENTILES, WINDOW_PERCENTILES[1]))
    smallest, largest = float(finite.min()), float(finite.max())
    if high <= low:  # nearly all pixels are equal: show what differs
        low, high = smallest, largest
    small_image = _small_image(finite, (float(low), float(high)), longest)
    view_jpeg, view_label_png = b"", b""
    if longest == SMALL_PIXELS and max(image.shape) > SMALL_PIXELS:
        view = _small_image(finite, (float(low), float(high)), VIEW_PIXELS)
        view_jpeg = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, _VIEW_QUALITY])[1].tobytes()
        view_label_png = _png(
            _small_label(label if label.max(initial=0) < 65536 else _compact(label)[1], view.shape)
        )
    # Codes for colours are huge numbers; they are counted by their place among those found.
    values, places = _compact(label)
    counts = np.bincount(places.ravel())
    return SliceFacts(
        name=name,
        image_file=image_file,
        label_file=label_file,
        counts={int(values[place]): int(counts[place]) for place in np.flatnonzero(counts)},
        rois={int(values[place]): roi for place, roi in _roi_facts(places, counts).items()},
        mean=float(finite.mean(dtype=np.float64)),
        deviation=float(finite.std(dtype=np.float64)),
        percentiles=tuple(float(value) for value in kept),
        window=(float(low), float(high)),
        bad_pixels=bad,
        is_constant=image.size > 1 and not bad and smallest == largest,
        grey_levels=int(np.unique(some).size),
        checksum=_checksum(image),
        label_checksum=_checksum(label),
        perceptual_hash=perceptual_hash(small_image),
        small_image=small_image,
        small_label=_small_label(label, small_image.shape[:2]),
        view_jpeg=view_jpeg,
        view_label_png=view_label_png,
    )


def _compact(
    label: npt.NDArray[np.unsignedinteger],
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.unsignedinteger]]:
    """Returns the values found, 0 first, and for each pixel the place of its value among them; plain labels as they are."""
    highest = int(label.max(initial=0))
    if highest < 65536:
        return np.arange(highest + 1, dtype=np.uint32), label
    values = np.union1d([0], label).astype(np.uint32)
    return values, np.searchsorted(values, label).astype(np.uint32)


def _png(label: npt.NDArray[np.unsignedinteger]) -> bytes:
    plain: npt.NDArray[np.integer[Any]] = label.astype(np.uint8 if label.max(initial=0) < 256 else np.uint16)
    return cv2.imencode(".png", plain, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _finite(image: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
    """Returns the pixels with NaN and infinite ones replaced by the smallest number, and how many these are."""
    if image.dtype.kind in "uib":
        return image, 0
    wrong = ~np.isfinite(image)
    bad = int(np.count_nonzero(wrong))
    if not bad:
        return image, 0
    clean = image.copy()
    clean[wrong] = image[~wrong].min() if bad < image.size else 0
    return clean, bad


def _checksum(array: npt.NDArray[Any]) -> str:
    """Checksum of numbers and size; the number type does not count, so that the same picture as PNG and NPY is one."""
    plain = array
    if array.dtype.kind == "f":
        plain = array.astype(np.float32)
        if np.array_equal(plain, np.rint(plain)) and np.abs(plain).max(initial=0) < 2**24:
            plain = plain.astype(np.int32)
    if plain.dtype.kind in "uib":
        plain = plain.astype(np.int32)
    digest = hashlib.blake2b(np.ascontiguousarray(plain).data, digest_size=16)
    digest.update(str(array.shape).encode())
    return digest.hexdigest()


def _small_size(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    rows, columns = shape[0], shape[1]
    scale = min(1.0, longest / max(rows, columns))
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _small_image(image: npt.NDArray[Any], window: tuple[float, float], longest: int) -> UInt8Array:
    rows, columns = _small_size(image.shape, longest)
    pixels = image if image.dtype in (np.uint8, np.int16, np.uint16, np.float32) else image.astype(np.float32)
    small = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = window
    if high <= low:
        return np.zeros((rows, columns), np.uint8)
    shown: UInt8Array = (np.clip((small - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
    return shown


def _small_label(
    label: npt.NDArray[np.unsignedinteger], shape: tuple[int, ...]
) -> npt.NDArray[np.unsignedinteger]:
    """Nearest pixels, so that no value is invented."""
    rows = ((np.arange(shape[0]) + 0.5) * label.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * label.shape[1] / shape[1]).astype(int)
    return np.ascontiguousarray(label[np.ix_(rows, columns)])


def perceptual_hash(image: UInt8Array) -> int:
    """Returns 64 bits that tell how the brightness of a picture changes from left to right (a difference hash).

    Args:
        image: (row, column) grey picture.
    """
    small = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def _roi_facts(label: npt.NDArray[np.unsignedinteger], counts: npt.NDArray[np.intp]) -> dict[int, RoiFacts]:
    if counts.size < 2 or not counts[1:].any():
        return {}
    boxes = ndimage.find_objects(label)
    height, width = label.shape
    facts = {}
    for value in np.flatnonzero(counts[1:]) + 1:
        down, right = boxes[value - 1]
        box = (down.start, right.start, down.stop, right.stop)
        facts[int(value)] = RoiFacts(
            pixels=int(counts[value]),
            box=box,
            touches_border=box[0] == 0 or box[1] == 0 or box[2] == height or box[3] == width,
            largest_part=largest_part((label[down, right] == value).view(np.uint8)),
        )
    return facts
