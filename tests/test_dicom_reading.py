"""Reading DICOM series written by pydicom: order, geometry, values, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_headers import read_headers
from autoseg_lib.io.dicom_series import DicomSeries, group_series, read_series
from autoseg_lib.io.files import walk_files
from tests.helpers.dicom import item, uid, write_series, write_slice

SHAPE = (4, 5, 6)


def numbers(shape=SHAPE, dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def all_series(folder: Path) -> list[DicomSeries]:
    return group_series(read_headers(walk_files(folder)).headers)


def only(folder: Path) -> DicomSeries:
    (series,) = all_series(folder)
    return series


# --- order and geometry -----------------------------------------------------------------------------------------------


def test_slices_are_sorted_along_the_normal_not_by_name_or_number(tmp_path: Path) -> None:
    array = numbers()
    heights = [30, 10, 40, 20]
    for index, height in enumerate(heights):
        write_slice(
            tmp_path / f"a{index}.dcm",
            array[index],
            position=(1, 2, height),
            spacing=(0.5, 0.25),
            number=index,
        )
    series = only(tmp_path)
    volume = read_series(series)
    assert series.slice_names == ("a1", "a3", "a0", "a2")
    assert np.array_equal(volume.array, array[[1, 3, 0, 2]])
    geometry = volume.geometry
    assert geometry.spacing_zyx_mm == (10, 0.5, 0.25)
    # Row 3 lies 3 × 0.5 mm to posterior, column 4 lies 4 × 0.25 mm to the left, slice 2 lies 20 mm higher.
    assert geometry.index_to_point([2, 3, 4]).tolist() == [2, 3.5, 30]
    assert geometry.orientation_code == "SPL"
    assert series.warnings == ()
    assert volume.spacing_source == "PixelSpacing"


def test_negated_column_cosine_turns_the_normal(tmp_path: Path) -> None:
    array = numbers()
    write_series(tmp_path, array, orientation=(1, 0, 0, 0, -1, 0), step=(0, 0, 3))
    volume = read_series(only(tmp_path))
    # Normal = row × column direction = -z, so slices run from the head to the feet.
    assert np.array_equal(volume.array, array[::-1])
    assert volume.geometry.orientation_code == "IAL"
    assert volume.geometry.index_to_point([0, 1, 0]).tolist() == [0, -1, 9]


def test_oblique_series_agrees_with_simpleitk(tmp_path: Path) -> None:
    import SimpleITK as sitk

    angle = np.radians(20)
    orientation = (np.cos(angle), 0, np.sin(angle), 0, 1, 0)
    normal = np.cross(orientation[:3], orientation[3:])
    array = numbers()
    paths = write_series(tmp_path, array, orientation=orientation, step=4.4 * normal, spacing=(0.9375, 0.7))
    volume = read_series(only(tmp_path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    for k, j, i in ((0, 0, 0), (3, 4, 5), (2, 1, 3)):
        expected = image.TransformIndexToPhysicalPoint((i, j, k))
        assert volume.geometry.index_to_point([k, j, i]) == pytest.approx(expected, abs=1e-4)


def test_gantry_tilt_is_kept_and_said(tmp_path: Path) -> None:
    write_series(tmp_path, numbers(), step=(0, 5 * np.tan(np.radians(18.5)), 5))
    series = only(tmp_path)
    geometry = read_series(series).geometry
    assert geometry.shear_degrees == pytest.approx(18.5)
    assert geometry.spacing_zyx_mm[0] == pytest.approx(5)
    assert series.warnings == (
        "the slices are tilted by 18.5° against the table (gantry tilt); this is kept.",
    )


def test_uneven_gaps_are_kept_and_said(tmp_path: Path) -> None:
    for index, height in enumerate((0, 2, 4, 8)):
        write_slice(tmp_path / f"{index}.dcm", numbers()[index], position=(0, 0, height), number=index)
    series = only(tmp_path)
    geometry = read_series(series).geometry
    assert geometry.slice_positions_mm == (0, 2, 4, 8)
    assert geometry.slice_extents_mm.tolist() == [2, 2, 3, 4]
    assert "slices lie 2.00 to 4.00 mm apart; the widest gap is between slices 3 and 4" in series.warnings[0]


def test_cine_keeps_all_images_of_a_position_together_in_time(tmp_path: Path) -> None:
    array = numbers((6, 5, 6))
    for index in range(6):  # time runs faster than place
        height, time = index % 2 * 10, index // 2
        write_slice(
            tmp_path / f"{index}.dcm",
            array[index],
            position=(0, 0, height),
            number=index,
            TriggerTime=50 * (2 - time),
        )
    series = only(tmp_path)
    volume = read_series(series)
    assert [path.stem for path in series.files] == ["4", "2", "0", "5", "3", "1"]
    assert volume.geometry.positions_mm.tolist() == [0, 0, 0, 10, 10, 10]
    assert not volume.geometry.has_one_image_per_position
    assert series.warnings == ("6 images at 2 positions (cine, dynamic or several echoes).",)


def test_all_images_at_one_position(tmp_path: Path) -> None:
    write_series(tmp_path, numbers(), step=(0, 0, 0), SliceThickness=8)
    geometry = read_series(only(tmp_path)).geometry
    assert not geometry.has_one_image_per_position
    assert geometry.spacing_zyx_mm[0] == 8


def test_slices_closer_than_a_clinical_scanner_places_them(tmp_path: Path) -> None:
    for index in range(4):  # the numbers run against the positions
        write_slice(
            tmp_path / f"{index}.dcm",
            numbers()[index],
            position=(0, 0, 0.009 * index),
            number=9 - index,
            spacing=(0.009, 0.009),
        )
    series = only(tmp_path)
    assert [path.stem for path in series.files] == ["0", "1", "2", "3"]
    assert series.warnings == ()
    geometry = read_series(series).geometry
    assert geometry.is_even
    assert geometry.spacing_zyx_mm == pytest.approx((0.009, 0.009, 0.009))


def test_images_at_one_position_stay_together_in_the_last_digit(tmp_path: Path) -> None:
    for index, height in enumerate(
        (10.004, 10.0051, 10.0049, 0, 0, 0)
    ):  # 10.005 is where rounding would part them
        write_slice(tmp_path / f"{index}.dcm", numbers()[0], position=(0, 0, height), number=index)
    assert [path.stem for path in only(tmp_path).files] == ["3", "4", "5", "0", "1", "2"]


def test_slices_shifted_in_plane_are_not_taken_for_a_straight_stack(tmp_path: Path) -> None:
    for index, shift in enumerate((0, 5, -3, 0)):
        write_slice(tmp_path / f"{index}.dcm", numbers()[index], position=(shift, 0, index), number=index)
    series = only(tmp_path)
    assert not read_series(series).geometry.is_even
    assert "shifted against each other" in series.warnings[0]


@pytest.mark.parametrize(
    ("tags", "distance"),
    [
        ({"SpacingBetweenSlices": 4.0, "SliceThickness": 3.0}, 4.0),
        ({"SliceThickness": 3.0}, 3.0),
        ({}, 1.0),
        ({"SliceThickness": 0}, 1.0),
    ],
)
def test_a_single_slice_has_no_known_distance(tmp_path: Path, tags, distance) -> None:
    write_slice(tmp_path / "one.dcm", numbers()[0], **tags)
    geometry = read_series(only(tmp_path)).geometry
    assert geometry.spacing_zyx_mm[0] == distance
    assert not geometry.positions_known


def test_thickness_never_stands_for_distance(tmp_path: Path) -> None:
    write_series(tmp_path, numbers(), step=(0, 0, 2), SliceThickness=3.2, SpacingBetweenSlices=3.2)
    assert read_series(only(tmp_path)).geometry.spacing_zyx_mm[0] == 2


# --- what a header may lack ---------------------------------------------------------------------------------------------


def test_no_positions(tmp_path: Path) -> None:
    array = numbers()
    for index, number in enumerate((3, 1, 4, 2)):
        write_slice(tmp_path / f"{index}.dcm", array[index], position=None, number=number)
    series = only(tmp_path)
    volume = read_series(series)
    assert np.array_equal(volume.array, array[[1, 3, 0, 2]])
    assert not volume.geometry.positions_known
    assert "no slice positions, so the order is by image number" in series.warnings[0]


def test_no_orientation(tmp_path: Path) -> None:
    write_series(tmp_path, numbers(), orientation=None)
    series = only(tmp_path)
    geometry = read_series(series).geometry
    assert not geometry.orientation_known
    assert not geometry.positions_known
    assert "no image orientation, so left and right are unknown." in series.warnings


@pytest.mark.parametrize(
    ("spacing", "tags", "words"),
    [
        (None, {}, "no pixel spacing, so sizes in mm are unknown."),
        ((0, 0), {}, "the pixel spacing in the header is 0, so sizes in mm are unknown."),
        ((0.0, 0.7), {}, "the pixel spacing in the header is 0"),
        (None, {"ImagerPixelSpacing": [0.2, 0.2]}, "A spacing at the detector is given; .* was not used."),
    ],
)
def test_no_or_zero_pixel_spacing(tmp_path: Path, spacing, tags, words) -> None:
    write_series(tmp_path, numbers(), spacing=spacing, **tags)
    series = only(tmp_path)
    volume = read_series(series)
    assert not volume.geometry.spacing_known
    assert volume.spacing_source == ""
    assert volume.geometry.spacing_zyx_mm[1:] == (1, 1)
    assert re.search(words, series.warnings[0])


# --- series told apart ------------------------------------------------------------------------------------------------------


def test_series_are_told_apart(tmp_path: Path) -> None:
    write_series(tmp_path, numbers(), prefix="b", series=1, SeriesNumber=5)
    write_series(tmp_path, numbers((3, 5, 6)), prefix="a", series=2, SeriesNumber=2)
    write_series(
        tmp_path,
        numbers((2, 8, 8)),
        prefix="loc",
        series=3,
        SeriesNumber=1,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    write_series(
        tmp_path, numbers((2, 5, 6)), prefix="c", series=1, SeriesNumber=5, orientation=(0, 1, 0, 0, 0, -1)
    )
    found = all_series(tmp_path)
    assert [(len(s.headers), s.is_localizer) for s in found] == [
        (2, True),
        (3, False),
        (4, False),
        (2, False),
    ]
    assert len({s.key for s in found}) == 4


def test_a_series_in_two_folders_is_two_scans_unless_each_slice_has_its_own(tmp_path: Path) -> None:
    write_series(tmp_path / "one", numbers())
    write_series(tmp_path / "copy", numbers())
    assert [len(s.headers) for s in all_series(tmp_path)] == [4, 4]
    for index, pixels in enumerate(numbers()):
        write_slice(
            tmp_path / "apart" / str(index) / "im.dcm",
            pixels,
            position=(0, 0, index),
            series="x",
            number=index,
        )
    assert [len(s.headers) for s in all_series(tmp_path / "apart")] == [4]


def test_the_same_image_twice_counts_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path, numbers())
    (tmp_path / "copy of slice.dcm").write_bytes(paths[0].read_bytes())
    assert len(only(tmp_path).headers) == 4


def test_one_uid_for_different_pictures_loses_none(tmp_path: Path) -> None:
    for index, pixels in enumerate(numbers()):
        write_slice(
            tmp_path / f"{index}.dcm",
            pixels,
            position=None,
            number=None,
            SOPInstanceUID="1.2.3",
            orientation=None,
        )
    assert len(only(tmp_path).headers) == 4
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "0.dcm").read_bytes())
    assert len(only(tmp_path).headers) == 4


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, True),
        ({"SeriesDescription": "3-pl Loc FGRE"}, True),
        ({"ProtocolName": "Survey_knee"}, True),
        ({"SeriesDescription": "T1 focal block"}, False),
        ({}, False),
    ],
)
def test_localizers_are_told_by_type_or_description(tmp_path: Path, tags, expected) -> None:
    write_series(tmp_path, numbers(), **tags)
    assert only(tmp_path).is_localizer is expected


def test_projection_images_say_what_their_millimetres_are_worth(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.dcm", numbers()[0], modality="DX", orientation=None, position=None)
    assert any("a projection (X-ray) image" in note for note in only(tmp_path).warnings)


# --- values --------------------------------------------------------------------------------------------------------------------


def test_rescale_gives_hounsfield_units_exactly(tmp_path: Path) -> None:
    stored = np.array([[0, 1000], [1024, 4095]], np.uint16)
    write_slice(tmp_path / "a.dcm", stored, modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    array = read_series(only(tmp_path)).array
    assert array.dtype == np.int16
    assert array[0].tolist() == [[-1024, -24], [0, 3071]]


def test_slope_of_each_slice_and_fractions(tmp_path: Path) -> None:
    stored = np.array([[0, 100], [200, 300]], np.int16)
    write_slice(tmp_path / "a.dcm", stored, position=(0, 0, 0), RescaleSlope=2, RescaleIntercept=1)
    write_slice(tmp_path / "b.dcm", stored, position=(0, 0, 1), RescaleSlope=0.5, RescaleIntercept=-0.25)
    array = read_series(only(tmp_path)).array
    assert array.dtype == np.float32
    assert array.tolist() == [[[1, 201], [401, 601]], [[-0.25, 49.75], [99.75, 149.75]]]


@pytest.mark.parametrize(
    ("stored", "slope", "intercept"),
    [(np.uint16([[0, 65535]]), 1, 0), (np.int16([[-32768, 0]]), 1, -1024), (np.int16([[0, 30000]]), 2, 0)],
)
def test_values_beyond_16_bits_do_not_wrap(tmp_path: Path, stored, slope, intercept) -> None:
    write_slice(tmp_path / "a.dcm", stored, RescaleSlope=slope, RescaleIntercept=intercept)
    array = read_series(only(tmp_path)).array
    assert array.dtype == np.float32
    assert array[0].tolist() == (stored.astype(float) * slope + intercept).tolist()


def test_unused_bits_are_removed(tmp_path: Path) -> None:
    # 12 bits stored, an overlay hidden in bit 15, signed and unsigned.
    stored = np.array([[5 | 0x8000, 4095 | 0x8000]], np.uint16)
    write_slice(tmp_path / "u" / "a.dcm", stored, BitsStored=12, HighBit=11)
    assert read_series(only(tmp_path / "u")).array.tolist() == [[[5, 4095]]]
    write_slice(tmp_path / "s" / "a.dcm", stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert read_series(only(tmp_path / "s")).array.tolist() == [[[5, -1]]]


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_equal_pixels_in_every_encoding(tmp_path: Path, syntax, dtype) -> None:
    array = (numbers() * 2).astype(dtype)
    first = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    for path in write_series(tmp_path, array, transfer_syntax=first):
        if syntax == RLELossless:
            dataset = dcmread(path)
            dataset.compress(RLELossless)
            dataset.save_as(path)
    assert np.array_equal(read_series(only(tmp_path)).array, array)


def test_monochrome1_is_turned_round_except_ct(tmp_path: Path) -> None:
    stored = np.array([[0, 10], [255, 200]], np.uint8)
    for modality, expected in (("CR", [[255, 245], [0, 55]]), ("CT", [[0, 10], [255, 200]])):
        write_slice(
            tmp_path / modality / "a.dcm", stored, modality=modality, PhotometricInterpretation="MONOCHROME1"
        )
        series = only(tmp_path / modality)
        assert read_series(series).array[0].tolist() == expected
        assert any("grey values were turned round" in note for note in series.warnings) is (modality == "CR")


# --- multi-frame ----------------------------------------------------------------------------------------------------------------


def enhanced(path: Path, array: np.ndarray, order: list[int], **tags) -> Path:
    """Writes an enhanced MR whose frame ``f`` lies at height ``order[f]`` × 3 mm."""
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-1, RescaleType="US")],
    )
    frames = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 3 * height])]) for height in order]
    write_slice(
        path, array[0], position=None, orientation=None, spacing=None, NumberOfFrames=len(array),
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
    )  # fmt: skip
    dataset = dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.PixelData = array.tobytes()
    for key, value in tags.items():
        setattr(dataset, key, value)
    dataset.save_as(path)
    return path


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    array = numbers()
    enhanced(tmp_path / "enhanced.dcm", array, [2, 0, 3, 1])
    series = only(tmp_path)
    volume = read_series(series)
    assert series.slice_names == ("enhanced_0002", "enhanced_0004", "enhanced_0001", "enhanced_0003")
    assert np.array_equal(volume.array, array[[1, 3, 0, 2]] * 2 - 1)
    assert volume.geometry.spacing_zyx_mm == (3, 0.5, 0.75)
    assert volume.geometry.index_to_point([1, 0, 0]).tolist() == [0, 0, 3]


def test_enhanced_with_a_wrong_table_of_frames_is_skipped(tmp_path: Path) -> None:
    enhanced(tmp_path / "enhanced.dcm", numbers(), [2, 0, 3])
    dataset = dcmread(tmp_path / "enhanced.dcm")
    dataset.NumberOfFrames = 4
    dataset.save_as(tmp_path / "enhanced.dcm")
    scan = read_headers(walk_files(tmp_path))
    assert scan.headers == []
    assert scan.skipped[0].serious
    assert "table of frames does not fit" in scan.skipped[0].reason


def test_frames_without_a_place(tmp_path: Path) -> None:
    array = numbers((4, 5, 6), np.uint8)
    write_slice(
        tmp_path / "cine.dcm", array[0], position=None, orientation=None, NumberOfFrames=4, modality="US"
    )
    dataset = dcmread(tmp_path / "cine.dcm")
    dataset.PixelData = array.tobytes()
    dataset.save_as(tmp_path / "cine.dcm")
    volume = read_series(only(tmp_path))
    assert np.array_equal(volume.array, array)
    assert not volume.geometry.positions_known


# --- what is skipped or refused ------------------------------------------------------------------------------------------------


def test_junk_is_skipped_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "Thumbs.db").write_bytes(b"\0" * 200)
    (tmp_path / "._a.dcm").write_bytes(b"\0" * 200)
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "text.dcm").write_text("this is no DICOM file")
    write_slice(tmp_path / "plan.dcm", numbers()[0], modality="RTDOSE")
    scan = read_headers(walk_files(tmp_path, include_junk=True))
    found = {item.path.name: (item.serious, item.reason) for item in scan.skipped}
    assert found == {
        "README.txt": (False, "it is not a DICOM file"),
        "Thumbs.db": (False, "a file of the operating system"),
        "._a.dcm": (False, "a file of the operating system"),
        "empty.dcm": (True, "the file is empty (0 bytes)"),
        "text.dcm": (True, "it is not a DICOM file, though its name says so"),
        "plan.dcm": (False, "a radiotherapy dose, not an image"),
    }


def test_truncated_pixels_refuse_the_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, numbers((4, 50, 60)))
    paths[2].write_bytes(paths[2].read_bytes()[:-1000])
    scan = read_headers(walk_files(tmp_path))
    assert [(item.path.name, item.serious) for item in scan.skipped] == [("slice_003.dcm", True)]
    assert "the file ends early (1000 bytes of its pixels are missing)" in scan.skipped[0].reason
    (series,) = group_series(scan.headers)
    with pytest.raises(DataError, match=r"'slice_003.dcm': the file ends early .*copy or export it again"):
        read_series(series)


@pytest.mark.parametrize("length", [200, 400, 700])
def test_truncated_in_the_header_is_serious(tmp_path: Path, length: int) -> None:
    path = write_slice(tmp_path / "cut.dcm", numbers()[0])
    path.write_bytes(path.read_bytes()[:length])
    scan = read_headers([path])
    assert scan.headers == []
    assert scan.skipped[0].serious


def test_truncated_compressed_pixels_are_refused(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", numbers((1, 64, 64))[0])
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    path.write_bytes(path.read_bytes()[:-2000])
    scan = read_headers([path])
    for series in group_series(scan.headers):
        with pytest.raises(DataError, match=r"'a.dcm': its pixels cannot be decoded .*Export it again"):
            read_series(series)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"found a colour picture \(PALETTE COLOR\)"),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
            "found a mosaic .* Convert the series with dcm2niix",
        ),
    ],
)
def test_colour_and_mosaic_are_refused(tmp_path: Path, tags, words) -> None:
    write_slice(tmp_path / "a.dcm", numbers()[0], **tags)
    with pytest.raises(DataError, match=words):
        read_series(only(tmp_path))


def test_rgb_is_refused(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", numbers((1, 6, 6), np.uint8)[0])
    dataset = dcmread(path)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = bytes(6 * 6 * 3)
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"'a.dcm': found a colour picture \(RGB\), expected grey values"):
        read_series(only(tmp_path))


# --- names and places --------------------------------------------------------------------------------------------------------------


def test_spaces_and_accents_in_paths(tmp_path: Path) -> None:
    folder = tmp_path / "Étude du rachis (1)" / "coupe n° 2"
    write_series(folder, numbers(), prefix="façade é")
    assert np.array_equal(read_series(only(tmp_path)).array, numbers())


def test_slice_names_do_not_spell_out_the_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "a", numbers(), prefix="Doe_John", PatientName="Doe^John")
    write_series(tmp_path / "b", numbers(), prefix="id 1234567", PatientID="1234567")
    write_series(tmp_path / "c", numbers(), prefix="SCD01", PatientID="SCD01", PatientName="SCD01")
    first = [series.slice_names[0] for series in all_series(tmp_path)]
    assert first == ["slice_0001", "slice_0001", "SCD01_001"]


def test_slice_names_do_not_spell_out_names_in_other_letters(tmp_path: Path) -> None:
    utf8 = {"SpecificCharacterSet": "ISO_IR 192"}
    write_series(tmp_path / "a", numbers(), prefix="王小明", PatientName="王^小明", **utf8)
    write_series(tmp_path / "b", numbers(), prefix="Muller_Jorg", PatientName="Müller^Jörg", **utf8)
    write_series(tmp_path / "c", numbers(), prefix="Na-Li", PatientName="Li^Na")
    write_series(tmp_path / "d", numbers(), prefix="03021961", PatientBirthDate="19610203")
    # A code with letters stays: research data name their files so, and masks are matched by these names.
    write_series(tmp_path / "e", numbers(), prefix="MRN77812", PatientID="MRN77812", PatientName="Li^Na")
    first = [series.slice_names[0] for series in all_series(tmp_path)]
    assert first == ["slice_0001"] * 4 + ["MRN77812_001"]


def test_headers_do_not_show_the_patient(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", numbers()[0], PatientName="Doe^John", PatientID="1234567")
    (header,) = read_headers([path]).headers
    text = repr(header).replace(str(path), "")
    assert "doe" not in text.lower()
    assert "1234567" not in text
    assert uid("series", 1) not in text
    assert len(header.patient_key) == 12
