"""Masks as DICOM SEG and RTSTRUCT: the same pixels through our readers, highdicom and plastimatch; valid by dciodvfy."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from autoseg_lib.data.discover import discover
from autoseg_lib.data.scan import Scan, load_scan
from autoseg_lib.export.dicom_objects import write_segmentation_objects
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.contour_trace import trace
from autoseg_lib.io.contours import combine, contour_pixels
from autoseg_lib.io.dicom_write import write_dicom_series
from autoseg_lib.io.segments import open_segments, paint
from autoseg_lib.io.volume_files import write_volume_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.volume import Mask, Volume
from tests.helpers.dicom import write_series
from tests.helpers.dicom_tools import contours_by_plastimatch, validation_errors
from tests.helpers.real_data import real_data

ROIS = LabelTable(["psoas left", "psoas right", "fett höger", "absent"])


def drawn(text: str) -> npt.NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in line] for line in text.split()])


def shapes(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A ring with an island in its hole, a disc at the picture's edge, and pixels that touch at corners."""
    z, y, x = np.indices(shape)
    rows, columns = shape[1], shape[2]
    far = np.hypot((y - rows * 0.5) / rows, (x - columns * 0.45) / columns)
    mask = np.zeros(shape, np.uint8)
    mask[(far < 0.3) & (far > 0.15)] = 1
    mask[far < 0.06] = 1
    mask[np.hypot(y / rows, (x - columns) / columns) < 0.2] = 2
    mask[(y > rows * 0.85) & ((x + y) % 2 == 0) & (x < 12)] = 3
    if shape[0] > 2:
        mask[z == shape[0] - 1] = 0
    return mask


def written(scan: Scan, folder: Path) -> tuple[Mask, list[Path], list[str]]:
    mask = Mask(shapes(scan.volume.array.shape), scan.volume.geometry)
    files, notes = write_segmentation_objects(folder, scan, mask, ROIS, ("png", "seg", "rtstruct"))
    return mask, files, notes


def read_back(path: Path, scan: Scan) -> npt.NDArray[np.unsignedinteger]:
    """Our own reader's label values on the scan's grid."""
    assert scan.series is not None
    headers = scan.series.headers
    file = open_segments(path)
    layers = file.layers(
        scan.source_geometry,
        [header.sop_uid for header in headers],
        slice_origins_xyz_mm=[header.position_xyz_mm for header in headers],
    )
    array, said = paint(layers, {name: value for value, name in enumerate(ROIS.names, start=1)})
    assert (file.warnings, said) == ((), ())
    return array


def by_highdicom(path: Path, scan: Scan) -> npt.NDArray[np.unsignedinteger]:
    """highdicom's label values, by the images that the frames refer to."""
    assert scan.series is not None
    seg = highdicom.seg.segread(path)
    numbers = {item.SegmentLabel: item.SegmentNumber for item in seg.SegmentSequence}
    headers = scan.series.headers
    if headers[0].frame is None:
        frames = seg.get_pixels_by_source_instance(
            [header.sop_uid for header in headers], assert_missing_frames_are_empty=True
        )
    else:
        frames = seg.get_pixels_by_source_frame(
            headers[0].sop_uid,
            [(header.frame or 0) + 1 for header in headers],
            assert_missing_frames_are_empty=True,
        )
    array = np.zeros(frames.shape[:3], np.uint8)
    for value, name in enumerate(ROIS.names, start=1):
        if name in numbers:
            array[frames[..., numbers[name] - 1] > 0] = value
    return array


# --- contours along pixel edges ---------------------------------------------------------------------------------------


def test_a_pixel_is_four_corners_half_a_pixel_from_its_centre() -> None:
    [contour] = trace(drawn(".. .#"))
    assert sorted(map(tuple, contour.tolist())) == [(0.5, 0.5), (0.5, 1.5), (1.5, 0.5), (1.5, 1.5)]


def test_corners_only() -> None:
    [contour] = trace(drawn("####. ####. #...."))
    assert len(contour) == 6


def test_parts_that_touch_at_a_corner_are_contours_of_their_own() -> None:
    assert [len(contour) for contour in trace(drawn("#. .#"))] == [4, 4]


def test_a_hole_is_reached_by_a_channel_in_and_out_on_one_line() -> None:
    [contour] = trace(drawn("##### ##### ##.## #####"))
    # Four corners outside, four of the hole, its first one again, and twice where the channel leaves the outside.
    assert len(contour) == 4 + 4 + 1 + 2
    points = [tuple(point) for point in contour.tolist()]
    assert points.count((1.5, -0.5)) == 2
    assert points.count((1.5, 1.5)) == 2


def test_nothing_has_no_contour() -> None:
    assert trace(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("density", [0.2, 0.5, 0.7, 0.9, 1.0])
def test_contours_give_the_same_pixels_again(density: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        pixels = rng.random(tuple(rng.integers(1, 14, 2))) < density
        found = [one for contour in trace(pixels) if (one := contour_pixels(contour, pixels.shape))]
        layer = np.zeros(pixels.shape, bool)
        odd = combine(layer, found)
        np.testing.assert_array_equal(layer, pixels)
        assert odd == (0, 0)


# --- made series ------------------------------------------------------------------------------------------------------


def turned(tilt: float = 0.0, oblique: float = 0.0) -> Geometry:
    """Slices 2.5 mm apart, rows 1.3 and columns 0.9 mm; rotated about x, and sheared as by a gantry."""
    turn = np.array(
        [[1, 0, 0], [0, np.cos(oblique), -np.sin(oblique)], [0, np.sin(oblique), np.cos(oblique)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, 0.9], [2.5 * np.tan(tilt), 1.3, 0], [2.5, 0, 0]])
    affine[:3, 3] = (-20.13, -17.77, 100)
    return Geometry((4, 40, 48), affine)


@pytest.mark.parametrize(
    "geometry",
    [turned(), turned(oblique=0.4), turned(tilt=0.3), turned(tilt=0.2, oblique=0.7)],
    ids=["straight", "oblique", "gantry", "both"],
)
def test_the_same_pixels_on_every_grid(geometry: Geometry, tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "in", np.zeros(geometry.shape_zyx, np.int16), geometry, modality="CT")
    scan = load_scan(discover(tmp_path / "in").sources[0])
    mask, files, _ = written(scan, tmp_path / "out")
    assert [path.name for path in files] == ["segmentation.dcm", "rtstruct.dcm"]
    for path in files:
        np.testing.assert_array_equal(read_back(path, scan), mask.array)
    np.testing.assert_array_equal(by_highdicom(files[0], scan), mask.array)


@pytest.mark.parametrize("options", [(), ("--xor-contours",)], ids=["union", "xor"])
def test_plastimatch_finds_the_same_pixels(options: tuple[str, ...], tmp_path: Path) -> None:
    geometry = turned()
    write_dicom_series(tmp_path / "in", np.zeros(geometry.shape_zyx, np.int16), geometry, modality="CT")
    scan = load_scan(discover(tmp_path / "in").sources[0])
    mask, (_, rtstruct), _ = written(scan, tmp_path / "out")
    theirs = contours_by_plastimatch(rtstruct, tmp_path / "in", tmp_path / "masks", *options)
    for value in (1, 2):
        np.testing.assert_array_equal(theirs[ROIS.names[value - 1]], mask.array == value)


def test_both_are_valid_and_say_whose_they_are(tmp_path: Path) -> None:
    geometry = turned()
    write_dicom_series(
        tmp_path / "in",
        np.zeros(geometry.shape_zyx, np.int16),
        geometry,
        patient_id="P-17",
        patient_name="Doe^Jane",
    )
    scan = load_scan(discover(tmp_path / "in").sources[0])
    _, files, notes = written(scan, tmp_path / "out")
    source = pydicom.dcmread(next((tmp_path / "in").glob("*.dcm")))
    for path in files:
        dataset = pydicom.dcmread(path)
        assert (dataset.PatientID, dataset.PatientName) == ("P-17", "Doe^Jane")
        assert dataset.StudyInstanceUID == source.StudyInstanceUID
        assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
        assert validation_errors(path) == []
    seg, contours = (pydicom.dcmread(path) for path in files)
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["psoas left", "psoas right", "fett höger"]
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"AUTOMATIC"}
    assert [item.ROIName for item in contours.StructureSetROISequence] == list(ROIS.names[:3])
    # Orange of Okabe and Ito: E69F00.
    assert contours.ROIContourSequence[0].ROIDisplayColor == [0xE6, 0x9F, 0x00]
    assert notes == [
        "segmentation.dcm does not hold the ROIs that were not found: 'absent'.",
        "rtstruct.dcm does not hold the ROIs that were not found: 'absent'.",
        "segmentation.dcm and rtstruct.dcm hold the patient's name and number, copied from the scan: DICOM asks for them. "
        "The other files do not.",
    ]


def test_a_scan_that_is_no_dicom_series_gets_a_note(tmp_path: Path) -> None:
    geometry = turned()
    write_volume_file(tmp_path / "scan.nii.gz", Volume(np.zeros(geometry.shape_zyx, np.int16), geometry))
    scan = load_scan(discover(tmp_path / "scan.nii.gz").sources[0])
    _, files, notes = written(scan, tmp_path / "out")
    assert files == []
    assert notes == [
        "segmentation.dcm and rtstruct.dcm were left out: DICOM objects refer to a DICOM series, and this scan is none."
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"FrameOfReferenceUID": None}, "it has no frame of reference"),
        ({"orientation": None}, "it has no image orientation"),
        ({"spacing": None}, "it has no pixel spacing"),
    ],
)
def test_a_series_that_lacks_something_gets_a_note(
    options: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "in", np.zeros((3, 20, 20), np.int16), **options)  # type: ignore[arg-type]
    scan = load_scan(discover(tmp_path / "in").sources[0])
    _, files, notes = written(scan, tmp_path / "out")
    assert files == []
    assert notes[0] == f"segmentation.dcm was left out: a DICOM SEG refers to its series, and {reason}."
    assert notes[1] == f"rtstruct.dcm was left out: an RTSTRUCT refers to its series, and {reason}."


def test_an_empty_mask_gets_a_note(tmp_path: Path) -> None:
    write_series(tmp_path / "in", np.zeros((3, 20, 20), np.int16))
    scan = load_scan(discover(tmp_path / "in").sources[0])
    mask = Mask(np.zeros((3, 20, 20), np.uint8), scan.volume.geometry)
    files, notes = write_segmentation_objects(tmp_path / "out", scan, mask, ROIS, ("seg", "rtstruct"))
    assert files == []
    assert notes == [
        "segmentation.dcm was left out: a DICOM SEG needs a segment, and no ROI was found.",
        "rtstruct.dcm was left out: an RTSTRUCT needs a contour, and no ROI was found.",
    ]


def test_several_images_at_one_position(tmp_path: Path) -> None:
    """Contours name their image, frames of a SEG are told apart by position: one is written, the other is not."""
    write_series(tmp_path / "in", np.zeros((2, 20, 20), np.int16), step=(0, 0, 0))
    scan = load_scan(discover(tmp_path / "in").sources[0])
    mask, files, notes = written(scan, tmp_path / "out")
    assert [path.name for path in files] == ["rtstruct.dcm"]
    assert "several images at one position" in notes[0]
    np.testing.assert_array_equal(read_back(files[0], scan), mask.array)


# --- real series ------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize(
    "place",
    [
        "mr_head_dicom_nifti_pair/dicom",
        "radiomics_phantom_rtstruct/pat_2",
        "dicom_seg/liver_ct3slice/images",
        "nasty_dicom/wg04",
    ],
)
def test_real_series(place: str, tmp_path: Path) -> None:
    name, rest = place.split("/", 1)
    folder = real_data(name) / rest
    if not folder.exists():
        pytest.skip(f"{place} is not among the real scans here")
    done = 0
    for number, source in enumerate(discover(folder).sources):
        if source.series is None or len(source.files) > 130:
            continue
        try:
            scan = load_scan(source)
        except Exception:  # noqa: BLE001 - a folder of damaged files too
            continue
        mask, files, notes = written(scan, tmp_path / str(number))
        assert files or "left out" in notes[0]
        for path in files:
            np.testing.assert_array_equal(
                read_back(path, scan), mask.array, err_msg=f"{source.name} {path.name}"
            )
            done += 1
            if path.name == "segmentation.dcm":
                np.testing.assert_array_equal(by_highdicom(path, scan), mask.array, err_msg=source.name)
    assert done
