"""Whatever way a scan is stored and labelled: areas and volumes come out right, or it is refused in words.

Every example draws the same two boxes on a made scan, stores the scan as one of many combinations (orientation, spacing, order of
the files, tags left out, encoding, kind of pixels) and the labels in one of nine formats, and sends both through pairing, reading
and measuring. The image is bright where the labels are, so a label that ends up anywhere else is seen whatever its size.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from autoseg_lib.data.pairing import pair
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.errors import AutosegError, DataError
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.volume import Mask
from tests.helpers.dicom import uid, write_slice
from tests.helpers.phantoms import turn
from tests.helpers.segments import contour, write_rtstruct, write_seg, write_seg_nrrd

Floats = npt.NDArray[np.float64]

# (slice, row, column); JPEG 2000 needs 32 pixels a side. The boxes lie off the middle, so that no mirror image fits.
SHAPE = (6, 36, 40)
ROIS = {
    "bright": (slice(1, 4), slice(4, 14), slice(6, 13)),
    "dark": (slice(3, 6), slice(20, 33), slice(22, 31)),
}
TAGS = (
    "InstanceNumber",
    "SliceThickness",
    "SpacingBetweenSlices",
    "PatientID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
)
VITAL_TAGS = (
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SeriesInstanceUID",
    "SOPInstanceUID",
)
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
PACKED = (DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)


def drawn_labels() -> npt.NDArray[np.uint8]:
    array = np.zeros(SHAPE, np.uint8)
    for value, box in enumerate(ROIS.values(), start=1):
        array[box] = value
    return array


@dataclass(frozen=True)
class Stored:
    """How one example is stored.

    Attributes:
        axes, signs: which patient axis slices, rows and columns run along, and which way.
        degrees: turned by this about a skew axis.
        spacing_mm: between slices, rows and columns.
        order: seed of the order in which the files are named.
        left_out: tags that are missing from every slice.
        syntax: transfer syntax.
        kind: type of the pixels.
        labels: format of the labels.
    """

    axes: tuple[int, ...]
    signs: tuple[int, ...]
    degrees: float
    spacing_mm: tuple[float, float, float]
    order: int
    left_out: tuple[str, ...]
    syntax: str
    kind: str
    labels: str

    @property
    def affine(self) -> Floats:
        """(4, 4) from (slice, row, column) to LPS mm."""
        directions = np.zeros((3, 3))
        for column, (axis, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            directions[axis, column] = sign
        affine = np.eye(4)
        # DICOM's decimal text holds 16 characters; rounding keeps what is written and what is expected the same.
        affine[:3, :3] = np.round(turn(self.degrees) @ directions, 9) * self.spacing_mm
        affine[:3, 3] = (-31.5, 12.25, 103.0)
        return affine

    def place(self, index: tuple[float, float, float]) -> list[float]:
        """(x, y, z) in mm of a (slice, row, column)."""
        return [float(value) for value in (self.affine @ [*index, 1])[:3]]


def write_scan(stored: Stored, folder: Path) -> list[Path]:
    """Writes the scan; returns its files in the order of the slices."""
    affine, labels = stored.affine, drawn_labels()
    image = (100 + 50 * labels.astype(int)).astype(stored.kind)
    names = list(range(1, SHAPE[0] + 1))
    random.Random(stored.order).shuffle(names)
    unit = affine[:3, :3] / stored.spacing_mm
    tags = dict.fromkeys(stored.left_out)
    paths = []
    for index, pixels in enumerate(image):
        place = [f"{value:.9g}" for value in stored.place((index, 0, 0))]
        options = {
            "position": place,
            "orientation": [f"{value:.9g}" for value in (*unit[:, 2], *unit[:, 1])],
            "spacing": list(stored.spacing_mm[1:]),
            # Numbers that do not follow the positions: they must not matter.
            "number": names[index],
            "transfer_syntax": stored.syntax if stored.syntax in PLAIN else ExplicitVRLittleEndian,
            "PatientID": "P1",
            "SliceThickness": 2 * stored.spacing_mm[0],
            **tags,
        }
        path = write_slice(folder / f"im_{names[index]:02d}.dcm", pixels, **options)
        if stored.syntax in PACKED:
            dataset = pydicom.dcmread(path)
            if stored.syntax == DeflatedExplicitVRLittleEndian:
                dataset.file_meta.TransferSyntaxUID = stored.syntax
            else:
                dataset.compress(stored.syntax, generate_instance_uid=False)
            dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


# --- labels in every format: each writes what it is given and returns nothing -----------------------------------------------


def write_pictures(stored: Stored, folder: Path, files: list[Path]) -> None:
    folder = folder / "scan"
    folder.mkdir()
    for path, label in zip(files, drawn_labels(), strict=True):
        target = folder / f"{path.stem}.{stored.labels}"
        if stored.labels == "npy":
            np.save(target, label, allow_pickle=False)
        elif stored.labels == "tif":
            tifffile.imwrite(target, label)
        else:
            Image.fromarray(label).save(target)


def write_nifti(stored: Stored, folder: Path, files: list[Path]) -> None:
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine = (to_ras @ stored.affine)[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(drawn_labels().transpose(2, 1, 0), affine), folder / "scan.nii.gz")


def write_itk(stored: Stored, folder: Path, files: list[Path]) -> None:
    image = sitk.GetImageFromArray(drawn_labels())
    unit = stored.affine[:3, :3] / stored.spacing_mm
    image.SetSpacing([float(value) for value in stored.spacing_mm[::-1]])
    image.SetDirection([float(value) for value in unit[:, ::-1].ravel()])
    image.SetOrigin(stored.place((0, 0, 0)))
    sitk.WriteImage(image, str(folder / f"scan.{stored.labels}"), useCompression=True)


def write_contours(stored: Stored, folder: Path, files: list[Path]) -> None:
    rois = []
    for name, (slices, rows, columns) in ROIS.items():
        # Along the pixels' edges: exactly the pixels whose centres are inside.
        top, bottom, left, right = rows.start - 0.5, rows.stop - 0.5, columns.start - 0.5, columns.stop - 0.5
        corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
        around = [
            contour([stored.place((index, *corner)) for corner in corners])
            for index in range(slices.start, slices.stop)
        ]
        rois.append((name, around))
    write_rtstruct(folder / "scan.dcm", rois)


def write_frames(stored: Stored, folder: Path, files: list[Path]) -> None:
    unit, labels = stored.affine[:3, :3] / stored.spacing_mm, drawn_labels()
    frames = [
        (number, stored.place((index, 0, 0)), (labels[index] == number).astype(np.uint8))
        for number, (slices, _, _) in enumerate(ROIS.values(), start=1)
        for index in range(slices.start, slices.stop)
    ]
    write_seg(
        folder / "scan.dcm",
        frames,
        dict(enumerate(ROIS, start=1)),
        spacing=stored.spacing_mm[1:],
        orientation=[f"{value:.9g}" for value in (*unit[:, 2], *unit[:, 1])],
        between=stored.spacing_mm[0],
        FrameOfReferenceUID=uid("frame"),
    )


def write_slicer(stored: Stored, folder: Path, files: list[Path]) -> None:
    steps = [",".join(repr(float(value)) for value in stored.affine[:3, axis]) for axis in (2, 1, 0)]
    keys = {
        f"Segment{number}_{key}": value
        for number, name in enumerate(ROIS)
        for key, value in (
            ("ID", f"S{number}"),
            ("Name", name),
            ("LabelValue", str(number + 1)),
            ("Layer", "0"),
        )
    }
    write_seg_nrrd(
        folder / "scan.seg.nrrd",
        drawn_labels(),
        keys,
        directions=" ".join(f"({step})" for step in steps),
        origin=f"({','.join(repr(value) for value in stored.place((0, 0, 0)))})",
    )


LABELS: dict[str, Callable[[Stored, Path, list[Path]], None]] = {
    "png": write_pictures,
    "npy": write_pictures,
    "tif": write_pictures,
    "nii.gz": write_nifti,
    "nrrd": write_itk,
    "mha": write_itk,
    "rtstruct": write_contours,
    "seg": write_frames,
    "seg.nrrd": write_slicer,
}


# --- the whole way ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What came out: the mask, whether its ROIs lie where the image is bright, areas and volumes by ROI."""

    mask: Mask
    fits: bool
    areas_mm2: dict[str, set[float | None]]
    volumes_mm3: dict[str, float | None]


def measure(stored: Stored, folder: Path) -> Measured:
    """Stores an example, reads it as training would, and measures it.

    Raises:
        AutosegError: it was refused.
    """
    files = write_scan(stored, folder / "train" / "images" / "scan")
    (folder / "train" / "labels").mkdir()
    LABELS[stored.labels](stored, folder / "train" / "labels", files)
    chosen = make_settings(TrainSettings, {"main_dir": str(folder), "labels_list": list(ROIS)})
    pairing = pair(chosen)
    refusals = [issue.text for issue in pairing.issues if issue.severity == "error"]
    if refusals:
        raise DataError("\n".join(refusals))
    [case] = pairing.cases
    scan, mask, _ = load_training_case(case, chosen)
    table = LabelTable(list(ROIS))
    rows = measure_slices(mask, table, case="scan")
    return Measured(
        mask,
        fits=bool(np.array_equal(np.asarray(scan.volume.array), 100 + 50 * mask.array.astype(int))),
        areas_mm2={name: {row.area_mm2 for row in rows if row.roi == name and row.pixels} for name in ROIS},
        volumes_mm3={row.roi: row.volume_mm3 for row in measure_volumes(mask, table, case="scan")},
    )


def check(stored: Stored) -> None:
    """Tries one example against areas and volumes by hand; only an AutosegError may come instead."""
    dz, dy, dx = stored.spacing_mm
    complete = not set(stored.left_out) & set(VITAL_TAGS)
    with TemporaryDirectory() as name:
        try:
            found = measure(stored, Path(name))
        except AutosegError as error:
            assert len(str(error)) > 20, "a refusal needs a sentence"
            assert not complete, f"refused, though all that matters is there: {error}"
            return
    assert found.fits, "labels and image do not lie together"
    for roi, (slices, rows, columns) in ROIS.items():
        count, height, width = (part.stop - part.start for part in (slices, rows, columns))
        area, volume = height * width * dy * dx, count * height * width * dy * dx * dz
        for value in found.areas_mm2[roi]:
            assert value is None or value == pytest.approx(area, rel=1e-5)
        found_volume = found.volumes_mm3[roi]
        assert found_volume is None or found_volume == pytest.approx(volume, rel=1e-5)
        if complete:
            assert None not in (found_volume, *found.areas_mm2[roi])
        if "PixelSpacing" in stored.left_out:
            assert found.areas_mm2[roi] == {None}, "no pixel spacing in the files, but an area in mm²"
            assert found_volume is None
        if {"ImagePositionPatient", "ImageOrientationPatient"} & set(stored.left_out):
            assert found_volume is None, "no slice positions in the files, but a volume"


step_mm = st.sampled_from((0.35, 0.7, 1.0, 1.25, 2.5))
SCANS = st.builds(
    Stored,
    axes=st.sampled_from(tuple(permutations(range(3)))),
    signs=st.sampled_from(tuple(product((1, -1), repeat=3))),
    degrees=st.sampled_from((0.0, 12.0, 27.0)),
    spacing_mm=st.tuples(st.sampled_from((0.8, 1.5, 3.3, 9.0)), step_mm, step_mm),
    order=st.integers(0, 50),
    left_out=st.lists(st.sampled_from(TAGS), max_size=3, unique=True).map(tuple),
    syntax=st.sampled_from((*PLAIN, *PACKED)),
    kind=st.sampled_from(("int16", "uint16", "uint8")),
    labels=st.sampled_from(tuple(LABELS)),
)


@settings(max_examples=45, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(SCANS)
def test_every_way_to_store_a_scan_gives_the_same_areas_and_volumes(stored: Stored) -> None:
    check(stored)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(SCANS, st.lists(st.sampled_from(VITAL_TAGS), min_size=1, max_size=2, unique=True))
def test_without_what_matters_nothing_is_measured_wrong(stored: Stored, missing: list[str]) -> None:
    check(Stored(**{**vars(stored), "left_out": tuple({*stored.left_out, *missing})}))


@pytest.mark.parametrize("labels", LABELS)
def test_each_label_format_on_an_oblique_scan_with_shuffled_files(labels: str) -> None:
    check(
        Stored((1, 0, 2), (-1, 1, -1), 27.0, (3.3, 0.7, 1.25), 5, (), ExplicitVRLittleEndian, "int16", labels)
    )


@pytest.mark.parametrize("syntax", (*PLAIN, *PACKED), ids=lambda uid: pydicom.uid.UID(uid).name)
@pytest.mark.parametrize("kind", ["int16", "uint8"])
def test_each_encoding(syntax: str, kind: str) -> None:
    check(Stored((2, 1, 0), (1, 1, 1), 0.0, (9.0, 1.0, 2.5), 1, (), syntax, kind, "png"))


def test_a_label_with_a_place_on_slices_without_one_is_refused() -> None:
    """The sizes agree, and taken pixel by pixel the label would be upside down."""
    left_out = ("ImageOrientationPatient", "InstanceNumber")
    stored = Stored(
        (2, 1, 0), (-1, 1, 1), 0.0, (0.8, 1.0, 0.35), 66, left_out, ExplicitVRLittleEndian, "uint16", "nii.gz"
    )
    with (
        TemporaryDirectory() as name,
        pytest.raises(DataError, match=r"label 'scan\.nii\.gz' says how it lies .* as PNG"),
    ):
        measure(stored, Path(name))


def test_the_property_can_fail() -> None:
    """Labels of the files' names in another order must be noticed, or the tests above show nothing."""
    stored = Stored((2, 1, 0), (1, 1, 1), 0.0, (3.3, 1.0, 1.0), 0, (), ExplicitVRLittleEndian, "int16", "png")
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = write_scan(stored, folder / "train" / "images" / "scan")
        (folder / "train" / "labels").mkdir()
        write_pictures(stored, folder / "train" / "labels", files[::-1])
        chosen = make_settings(TrainSettings, {"main_dir": str(folder), "labels_list": list(ROIS)})
        scan, mask, _ = load_training_case(pair(chosen).cases[0], chosen)
    assert not np.array_equal(np.asarray(scan.volume.array), 100 + 50 * mask.array.astype(int))
