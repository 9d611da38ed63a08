"""What is kept of a DICOM header: one SliceHeader per slice, and why a file was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SkippedFile:
    """A file that was left out.

    Attributes:
        path: the file.
        reason: why, in words.
        serious: whether it looks like a damaged scan and not like something else.
        archive: whether it is packed, so that scans may be in it.
    """

    path: Path
    reason: str
    serious: bool = False
    archive: bool = False


@dataclass(frozen=True)
class PixelStorage:
    """How the pixels of one file are stored.

    Attributes:
        transfer_syntax: UID of the encoding.
        photometric: MONOCHROME1, MONOCHROME2, RGB, ...
        samples_per_pixel: 1 for grey, 3 for colour.
        bits_allocated, bits_stored, high_bit: sizes in bits.
        signed: whether stored values are two's complement.
        frames: frames in the file.
        offset: byte where uncompressed little-endian pixels begin; None where a decoder is needed.
        has_modality_lut: whether stored values go through a table instead of slope and intercept.
        extra_bytes: how many bytes of pixels there are beyond what the header speaks of.
        lossy: whether the image was compressed with loss at some time.
        missing_bytes: how many bytes of pixels are missing at the end of the file (a copy that was cut off).
    """

    transfer_syntax: str
    photometric: str
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    frames: int
    offset: int | None
    has_modality_lut: bool
    missing_bytes: int = 0
    lossy: bool = False
    extra_bytes: int = 0


@dataclass(frozen=True)
class SliceHeader:
    """One slice: a file, or one frame of a multi-frame file.

    Attributes:
        path: the file.
        frame: frame number from 0 in a multi-frame file, else None.
        series_uid, study_uid, frame_of_reference_uid, sop_uid: UIDs, "" where missing.
        patient_key: first 12 hexadecimal digits of the SHA-256 of PatientID, "" where that is empty.
        identity: lower-case texts that would tell who the patient is; used only to keep them out of outputs.
        person_name: the lower-case words of PatientName, used likewise.
        modality: DICOM's word.
        rows, columns: matrix.
        position_xyz_mm: LPS centre of the first pixel, None where missing.
        orientation: six direction cosines (along a row, along a column), None where missing or broken.
        pixel_spacing_mm: (row distance, column distance), None where missing or zero.
        spacing_source: "PixelSpacing", or "".
        spacing_note: why there is no pixel spacing, "" where there is one.
        slice_thickness_mm, spacing_between_slices_mm: None where missing or zero.
        instance_number, series_number: None where missing.
        image_type: values of ImageType.
        is_localizer: whether the scanner calls it a localizer, scout or survey.
        slope, intercept: rescale values (1 and 0 where missing).
        time_key: orders several images at one position.
        pixels: how the pixels are stored.
        sop_class: UID of the kind of object (CT image, secondary capture, ...).
        echo_time_ms, b_value: what several images at one position may differ in; None where missing.
        at_detector: whether the pixel spacing is the detector's own, not the patient's (X-ray).
        stack_id: in a multi-frame file, the stack that the frame belongs to; "" where there is none.
        notes: sentences on what is odd in this header.
    """

    path: Path
    frame: int | None
    series_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    sop_uid: str = field(repr=False)
    patient_key: str
    identity: frozenset[str] = field(repr=False)
    person_name: tuple[str, ...] = field(repr=False)
    modality: str
    rows: int
    columns: int
    position_xyz_mm: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, float] | None
    spacing_source: str
    spacing_note: str
    slice_thickness_mm: float | None
    spacing_between_slices_mm: float | None
    instance_number: int | None
    series_number: int | None
    image_type: tuple[str, ...]
    is_localizer: bool
    slope: float
    intercept: float
    time_key: tuple[float, ...]
    pixels: PixelStorage
    sop_class: str = ""
    echo_time_ms: float | None = None
    b_value: float | None = None
    at_detector: bool = False
    stack_id: str = ""
    notes: tuple[str, ...] = ()

    @property
    def samples_per_pixel(self) -> int:
        """1 for grey, 3 for colour."""
        return self.pixels.samples_per_pixel


@dataclass(frozen=True)
class HeaderScan:
    """What a set of files holds."""

    headers: list[SliceHeader]
    skipped: list[SkippedFile]
