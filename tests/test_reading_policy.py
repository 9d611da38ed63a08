"""Each row of docs/reading.md is tried: what is done, what is said, and that the values and places are right."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from autoseg_lib.measure.volumes import why_no_volume
from tests.helpers.dicom import item, uid, write_series, write_slice
from tests.helpers.policy import CASES, Outcome, look, policy_rows, row
from tests.helpers.real_data import real_data

SHAPE = (4, 6, 8)
ROWS = policy_rows()


def numbers(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def change(path: Path, **tags: Any) -> Path:
    """Sets elements of a file; None deletes one."""
    dataset = dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def raw_text(path: Path, old: bytes, new: bytes) -> Path:
    """Replaces bytes of equal number in a file."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def good(folder: Path, **options: Any) -> Path:
    """A scan without faults, in a folder."""
    write_series(folder, numbers(), **options)
    return folder


def beside(folder: Path) -> Outcome:
    """Looks at a folder that holds a good scan and something else that has to be left out."""
    found = look(folder)
    assert found.done == "read, said"
    assert np.array_equal(found.scan.volume.array, numbers())
    return Outcome("left out", found.scans, found.texts)


# --- series and slices ------------------------------------------------------------------------------------------------


@row("classic")
def _(tmp: Path) -> Outcome:
    for index, height in enumerate((6, 0, 9, 3)):
        write_slice(tmp / f"{index}.dcm", numbers()[height // 3], position=(0, 0, height), number=9 - index)
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    assert found.scan.volume.geometry.spacing_zyx_mm == (3, 1, 1)
    return found


def enhanced(path: Path, array: np.ndarray, heights: list[float], **per_frame: list[Any]) -> Path:
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-1, RescaleType="US")],
    )
    frames = []
    for number, height in enumerate(heights):
        content = {key: values[number] for key, values in per_frame.items()}
        frames.append(
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[0, 0, height])],
                FrameContentSequence=[item(**content)],
            )
        )
    write_slice(
        path, array[0], position=None, orientation=None, spacing=None, NumberOfFrames=len(array),
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
    )  # fmt: skip
    return change(path, SOPClassUID=EnhancedMRImageStorage, PixelData=array.tobytes())


@row("enhanced")
def _(tmp: Path) -> Outcome:
    enhanced(tmp / "e.dcm", numbers(), [6, 0, 9, 3])
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers()[[1, 3, 0, 2]] * 2 - 1)
    assert found.scan.volume.geometry.spacing_zyx_mm == (3, 0.5, 0.75)
    return found


@row("enhanced-stacks")
def _(tmp: Path) -> Outcome:
    enhanced(tmp / "e.dcm", numbers(), [0, 3, 40, 43], StackID=["1", "1", "2", "2"])
    found = look(tmp)
    assert [scan.volume.geometry.spacing_zyx_mm[0] for scan in found.scans] == [3, 3]
    return found


@row("enhanced-phases")
def _(tmp: Path) -> Outcome:
    array = numbers((8, 6, 8))
    enhanced(tmp / "e.dcm", array, [0, 3, 6, 9] * 2, TemporalPositionIndex=[2] * 4 + [1] * 4)
    found = look(tmp)
    # The second half of the file is the first in time.
    assert np.array_equal(found.scan.volume.array[:2], array[[4, 0]] * 2 - 1)
    assert "several images at one position" in why_no_volume(found.scan.volume.geometry)
    return found


@row("enhanced-broken")
def _(tmp: Path) -> Outcome:
    path = enhanced(tmp / "e.dcm", numbers(), [0, 3, 6, 9])
    dataset = dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:3]
    dataset.save_as(path)
    return look(tmp)


@row("frames-without-place")
def _(tmp: Path) -> Outcome:
    array = numbers(dtype=np.uint8)
    write_slice(
        tmp / "a.dcm",
        array[0],
        position=None,
        orientation=None,
        NumberOfFrames=4,
        modality="US",
        spacing=None,
    )
    change(tmp / "a.dcm", PixelData=array.tobytes())
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, array)
    return found


@row("several-series")
def _(tmp: Path) -> Outcome:
    write_series(tmp, numbers(), prefix="a", series=1, SeriesNumber=1)
    write_series(tmp, numbers()[:3], prefix="b", series=2, SeriesNumber=2)
    return look(tmp)


@row("localizer")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_slice(tmp / "l.dcm", numbers()[0], series=2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return beside(tmp)


@row("scout-in-the-series")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_slice(
        tmp / "scout.dcm", numbers()[1], orientation=(0, 1, 0, 0, 0, -1), position=(5, 5, 5),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )  # fmt: skip
    return beside(tmp)


@row("localizer-alone")
def _(tmp: Path) -> Outcome:
    return look(good(tmp, SeriesDescription="3-plane loc"))


@row("derived")
def _(tmp: Path) -> Outcome:
    good(tmp / "a")
    write_series(
        tmp / "b", numbers(), series=2, ImageType=["DERIVED", "SECONDARY", "MPR"], orientation=(1, 0, 0, 0, 0, -1),
        step=(0, 1, 0),
    )  # fmt: skip
    return look(tmp)


@row("screenshot")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_slice(
        tmp / "dose.dcm", numbers()[0], series=2, position=None, orientation=None, modality="CT",
        ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE", "DOSE_INFO"],
    )  # fmt: skip
    change(tmp / "dose.dcm", SOPClassUID=SecondaryCaptureImageStorage)
    return beside(tmp)


@row("patients-mixed")
def _(tmp: Path) -> Outcome:
    write_series(tmp, numbers(), prefix="a", PatientID="P1")
    write_series(tmp, numbers(), prefix="b", PatientID="P2", origin=(0, 0, 0.5))
    found = look(tmp)
    assert len({scan.patient for scan in found.scans}) == 2
    return found


@row("same-image-twice")
def _(tmp: Path) -> Outcome:
    good(tmp)
    (tmp / "copy.dcm").write_bytes((tmp / "slice_001.dcm").read_bytes())
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("same-pixels-twice")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_slice(
        tmp / "again.dcm",
        numbers()[2],
        position=(0, 0, 2),
        number=3,
        SOPInstanceUID=uid("new"),
        SliceThickness=1,
    )
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    assert why_no_volume(found.scan.volume.geometry) == ""
    # Other pixels at that place are no double: nobody can tell which is right.
    write_slice(tmp / "again.dcm", numbers()[1], position=(0, 0, 2), number=3, SOPInstanceUID=uid("new"))
    assert "several images" in why_no_volume(look(tmp).scan.volume.geometry)
    return found


@row("one-uid-for-all")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, SOPInstanceUID="1.2.3"))
    assert np.array_equal(found.scan.volume.array, numbers())
    # At one place and without numbers too, where only the content tells them apart.
    for index, pixels in enumerate(numbers()):
        write_slice(tmp / "b" / f"{index}.dcm", pixels, number=None, SOPInstanceUID="1.2.3")
    assert look(tmp / "b").scan.volume.array.shape == SHAPE
    return found


@row("uneven")
def _(tmp: Path) -> Outcome:
    for index, height in enumerate((0, 2, 4, 8)):
        write_slice(tmp / f"{index}.dcm", numbers()[index], position=(0, 0, height), number=index)
    found = look(tmp)
    assert found.scan.volume.geometry.slice_extents_mm.tolist() == [2, 2, 3, 4]
    return found


@row("same-place")
def _(tmp: Path) -> Outcome:
    for index in range(8):
        write_slice(
            tmp / f"{index}.dcm", numbers((8, 6, 8))[index], position=(0, 0, index // 2), number=index,
            DiffusionBValue=[800.0, 0.0][index % 2] + (index == 7),
        )  # fmt: skip
    found = look(tmp)
    assert found.scan.slice_names[:2] == ("1", "0")  # the smaller b-value first
    assert "its images differ in 3 b-values." in found.texts
    assert why_no_volume(found.scan.volume.geometry)
    return found


@row("contrasts")
def _(tmp: Path) -> Outcome:
    for index in range(8):
        write_slice(
            tmp / "echo" / f"{index}.dcm", numbers((8, 6, 8))[index], position=(0, 0, index // 2), number=index,
            EchoTime=[80, 10][index % 2],
        )  # fmt: skip
        write_slice(
            tmp / "dixon" / f"{index}.dcm", numbers((8, 6, 8))[index], position=(0, 0, index % 4), number=index,
            ImageType=["DERIVED", "PRIMARY", "DIXON", "WF"[index // 4]], series=2,
        )  # fmt: skip
    found = look(tmp / "dixon")
    assert [scan.slice_names for scan in found.scans] == [("0", "1", "2", "3"), ("4", "5", "6", "7")]
    found = look(tmp / "echo")
    assert [scan.slice_names for scan in found.scans] == [("0", "2", "4", "6"), ("1", "3", "5", "7")]
    assert all(why_no_volume(scan.volume.geometry) == "" for scan in found.scans)
    return found


@row("one-place")
def _(tmp: Path) -> Outcome:
    return look(good(tmp, step=(0, 0, 0)))


@row("mixed-orientation")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_series(tmp, numbers(), prefix="z", orientation=(0, 1, 0, 0, 0, -1), step=(1, 0, 0))
    found = look(tmp)
    assert {scan.volume.geometry.orientation_code[0] for scan in found.scans} == {"S", "R"}
    return found


@row("mixed-matrix")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_series(tmp, numbers((3, 8, 6)), prefix="z")
    return look(tmp)


@row("mixed-spacing")
def _(tmp: Path) -> Outcome:
    write_series(tmp, numbers(), spacing=(0.5, 0.5))
    write_series(tmp, numbers()[:3], prefix="z", spacing=(0.6, 0.6), origin=(0, 0, 9))
    found = look(tmp)
    assert sorted(scan.volume.geometry.spacing_zyx_mm[1] for scan in found.scans) == [0.5, 0.6]
    return found


@row("frames-of-reference")
def _(tmp: Path) -> Outcome:
    write_series(tmp, numbers()[:2])
    write_series(tmp, numbers()[2:], prefix="z", origin=(0, 0, 2), FrameOfReferenceUID="1.2.3")
    return look(tmp)


@row("gantry-tilt")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, step=(0, 5 * np.tan(np.radians(18.5)), 5)))
    assert found.scan.volume.geometry.shear_degrees == pytest.approx(18.5)
    # With a slice missing, the tilt is still a tilt and no shift.
    (tmp / "slice_002.dcm").unlink()
    texts = look(tmp).texts
    assert any("tilted by 18.5°" in text for text in texts)
    assert any("5.00 to 10.00 mm apart" in text for text in texts)
    assert not any("shifted" in text for text in texts)
    return found


@row("shifted")
def _(tmp: Path) -> Outcome:
    for index, shift in enumerate((0, 5, -3, 0)):
        write_slice(tmp / f"{index}.dcm", numbers()[index], position=(shift, 0, index), number=index)
    return look(tmp)


@row("coronal-sagittal")
def _(tmp: Path) -> Outcome:
    first = look(good(tmp / "coronal", orientation=(1, 0, 0, 0, 0, -1), step=(0, 2, 0)))
    assert first.scan.volume.geometry.orientation_code == "PIL"
    found = look(good(tmp / "sagittal", orientation=(0, 1, 0, 0, 0, -1), step=(-2, 0, 0)))
    assert found.scan.volume.geometry.orientation_code == "RIP"
    assert found.scan.volume.geometry.spacing_zyx_mm == (2, 1, 1)
    return found


@row("oblique")
def _(tmp: Path) -> Outcome:
    angle = np.radians(35)
    cosines = (np.cos(angle), 0, np.sin(angle), 0, 1, 0)
    normal = np.cross(cosines[:3], cosines[3:])
    found = look(good(tmp, orientation=cosines, step=tuple(4.4 * normal)))
    assert found.scan.volume.geometry.spacing_zyx_mm[0] == pytest.approx(4.4)
    assert found.scan.volume.geometry.shear_degrees == pytest.approx(0, abs=1e-4)
    return found


@row("turned-in-plane")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, orientation=(0, -1, 0, 1, 0, 0)))
    assert found.scan.volume.geometry.orientation_code == "SLA"
    return found


@row("mosaic")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp / "a", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))
    # Without the word, by the scanner's private count of tiles.
    for path in write_series(tmp / "b", numbers()):
        dataset = dcmread(path)
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)
        dataset.save_as(path)
    assert ROWS["mosaic"].is_said_in(look(tmp / "b").texts)
    return found


@row("single-slice")
def _(tmp: Path) -> Outcome:
    write_slice(tmp / "a.dcm", numbers()[0], SliceThickness=3)
    found = look(tmp)
    assert why_no_volume(found.scan.volume.geometry) == "a single slice has no distance to a neighbour"
    return found


@row("thickness-is-no-distance")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, step=(0, 0, 2), SliceThickness=3.2, SpacingBetweenSlices=-3.2))
    assert found.scan.volume.geometry.spacing_zyx_mm[0] == 2
    return found


# --- numbers in headers -----------------------------------------------------------------------------------------------


@row("no-position")
def _(tmp: Path) -> Outcome:
    for index, number in enumerate((3, 1, 4, 2)):
        write_slice(tmp / f"{index}.dcm", numbers()[number - 1], position=None, number=number)
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    assert why_no_volume(found.scan.volume.geometry) == "the distance between slices is unknown"
    return found


@row("broken-position")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers(), origin=(123.75, 0, 0)):
        raw_text(path, b"123.75", b"1x3?75")
    found = look(tmp)
    assert not found.scan.volume.geometry.positions_known
    return found


@row("no-orientation")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, orientation=None))
    assert not found.scan.volume.geometry.orientation_known
    return found


@row("crooked-orientation")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, orientation=(1, 0, 0, 0.02, 0.99, 0)))
    assert found.scan.volume.geometry.pixel_area_mm2 == pytest.approx(1)
    return found


@row("broken-orientation")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, orientation=(1, 0, 0, 0.5, 0.8, 0)))
    assert not found.scan.volume.geometry.orientation_known
    return found


@row("no-number")
def _(tmp: Path) -> Outcome:
    for index, height in enumerate((2, 0, 3, 1)):
        write_slice(tmp / f"{index}.dcm", numbers()[height], position=(0, 0, height), number=None)
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("no-number-no-position")
def _(tmp: Path) -> Outcome:
    for index in (1, 10, 2, 3):
        write_slice(tmp / f"im{index}.dcm", numbers()[0], position=None, number=None)
    found = look(tmp)
    assert found.scan.slice_names == ("im1", "im2", "im3", "im10")
    return found


@row("number-gap")
def _(tmp: Path) -> Outcome:
    for number in (1, 2, 4, 5):
        write_slice(tmp / f"{number}.dcm", numbers()[0], position=None, number=number)
    return look(tmp)


@row("decimal-comma")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers(), spacing=(0.7, 0.5), step=(0, 0, 2.5)):
        raw_text(path, b"0.7\\0.5", b"0,7\\0,5")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"\\2.5", b"\\2,5").replace(b"\\7.5", b"\\7,5"))
    found = look(tmp)
    assert found.scan.volume.geometry.spacing_zyx_mm == pytest.approx((2.5, 0.7, 0.5))
    return found


@row("number-texts")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers(), spacing=(0.123456, 0.5), step=(0, 0, 1.5), origin=(0, 0, 10)):
        raw_text(path, b"0.123456\\0.5", b" 1.25e-1\\0.5")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"0.0\\0.0\\10.0", b"0.0\\0.0\\1e+1"))
    found = look(tmp)
    assert found.scan.volume.geometry.spacing_zyx_mm == (1.5, 0.125, 0.5)
    return found


# --- grey values ------------------------------------------------------------------------------------------------------


@row("bit-depths")
def _(tmp: Path) -> Outcome:
    found = None
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32):
        limits = np.iinfo(dtype)
        stored = np.array([[limits.min, limits.max], [0, 1]], dtype)
        folder = tmp / np.dtype(dtype).name
        write_slice(folder / "a.dcm", stored)
        found = look(folder)
        array = found.scan.volume.array
        assert np.array_equal(array[0], stored.astype(array.dtype)), dtype
        assert array.dtype == (np.int16 if limits.max < 40000 and limits.min >= -32768 else np.float32)
    stored = np.array([[0, 4095], [1, 2048]], np.uint16)
    write_slice(tmp / "12" / "a.dcm", stored, BitsStored=12, HighBit=11)
    assert np.array_equal(look(tmp / "12").scan.volume.array[0], stored)
    write_slice(tmp / "12s" / "a.dcm", stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert look(tmp / "12s").scan.volume.array[0].tolist() == [[0, -1], [1, -2048]]
    assert found is not None
    return found


@row("unused-bits")
def _(tmp: Path) -> Outcome:
    stored = np.array([[5 | 0xB000, 4095 | 0x8000]], np.uint16)
    write_slice(tmp / "low" / "a.dcm", stored, BitsStored=12, HighBit=11)
    write_slice(tmp / "high" / "a.dcm", stored << 4 | 7, BitsStored=12, HighBit=15)
    write_slice(tmp / "big" / "a.dcm", stored, BitsStored=12, HighBit=11, transfer_syntax=ExplicitVRBigEndian)
    write_slice(tmp / "rle" / "a.dcm", stored, BitsStored=12, HighBit=11)
    compress(tmp / "rle" / "a.dcm", RLELossless)
    for folder in ("high", "big", "rle"):
        assert look(tmp / folder).scan.volume.array.tolist() == [[[5, 4095]]], folder
    found = look(tmp / "low")
    assert found.scan.volume.array.tolist() == [[[5, 4095]]]
    return found


@row("float-pixels")
def _(tmp: Path) -> Outcome:
    values = np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)
    path = write_slice(tmp / "a.dcm", numbers()[0])
    dataset = dcmread(path)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.BitsAllocated = 32
    dataset.add(DataElement("FloatPixelData", "OF", values.tobytes()))
    dataset.save_as(path)
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array[0], values)
    return found


def encoded(tmp: Path, syntax: str) -> Outcome:
    found = look(good(tmp, transfer_syntax=syntax))
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("big-endian")
def _(tmp: Path) -> Outcome:
    return encoded(tmp, ExplicitVRBigEndian)


@row("deflated")
def _(tmp: Path) -> Outcome:
    return encoded(tmp, DeflatedExplicitVRLittleEndian)


def compress(path: Path, syntax: str) -> None:
    dataset = dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path)


@row("compressed")
def _(tmp: Path) -> Outcome:
    generator = np.random.default_rng(0)
    found, hashes = None, set()
    array = generator.integers(-1000, 3000, (3, 40, 50)).astype(np.int16)
    for syntax in ("", RLELossless, JPEGLSLossless, JPEG2000Lossless):
        folder = tmp / f"x{syntax}"
        for path in write_series(folder, array):
            if syntax:
                compress(path, syntax)
        found = look(folder)
        hashes.add(hashlib.sha256(found.scan.volume.array.tobytes()).hexdigest())
    assert hashes == {hashlib.sha256(array.tobytes()).hexdigest()}
    assert found is not None
    return found


@row("lossy")
def _(tmp: Path) -> Outcome:
    return look(good(tmp, LossyImageCompression="01"))


@row("jpeg-extended")
def _(tmp: Path) -> Outcome:
    folder = real_data("nasty_dicom") / "wg04"
    found = look(folder / "MR4_JPLY.dcm")
    array, exact = found.scan.volume.array, look(folder / "MR4_RLE.dcm").scan.volume.array
    assert np.corrcoef(array.ravel(), exact.ravel())[0, 1] > 0.9999
    assert abs(float(array.mean() - exact.mean())) < 0.001 * float(np.ptp(exact))
    return found


def with_syntax(path: Path, syntax: str) -> Path:
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.save_as(path)
    data = path.read_bytes()
    old = b"1.2.840.10008.1.2.1\0"
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    place = data.index(old)
    length = data.index(b"\x02\x00\x10\x00UI") + 6
    group = int.from_bytes(data[140:144], "little") + len(new) - len(old)
    path.write_bytes(
        data[:140] + group.to_bytes(4, "little") + data[144:length] + len(new).to_bytes(2, "little")
        + new + data[place + len(old) :]
    )  # fmt: skip
    return path


@row("private-syntax")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers()):
        with_syntax(path, "1.2.840.113619.5.21")
    return look(tmp)


@row("video")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers()):
        dataset = dcmread(path)
        dataset.PixelData = encapsulate([b"\0" * 64])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
        dataset.save_as(path)
    return look(tmp)


@row("wrong-picture-size")
def _(tmp: Path) -> Outcome:
    path = write_slice(tmp / "a.dcm", numbers((1, 64, 48))[0])
    compress(path, JPEG2000Lossless)
    change(path, Rows=48, Columns=64)
    found = look(tmp)
    compress(write_slice(tmp / "b" / "a.dcm", numbers((1, 64, 48))[0]), JPEGLSLossless)
    change(tmp / "b" / "a.dcm", Rows=48, Columns=64)
    assert ROWS["wrong-picture-size"].is_said_in(look(tmp / "b").texts)
    return found


@row("monochrome1")
def _(tmp: Path) -> Outcome:
    stored = np.array([[0, 10], [255, 200]], np.uint8)
    write_slice(tmp / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    found = look(tmp)
    assert found.scan.volume.array[0].tolist() == [[255, 245], [0, 55]]
    return found


@row("monochrome1-ct")
def _(tmp: Path) -> Outcome:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 1, "RescaleIntercept": -1024}
    found = look(good(tmp, modality="CT", **tags))
    assert np.array_equal(found.scan.volume.array, numbers() - 1024)
    return found


@row("palette")
def _(tmp: Path) -> Outcome:
    return look(good(tmp, PhotometricInterpretation="PALETTE COLOR"))


@row("rgb")
def _(tmp: Path) -> Outcome:
    half = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PixelData": bytes(6 * 8 * 2)}
    change(write_slice(tmp / "half" / "a.dcm", numbers()[0].astype(np.uint8)), **half)
    assert "found a colour picture (YBR_FULL_422)" in look(tmp / "half").texts[-1]
    write_slice(tmp / "a.dcm", numbers()[0].astype(np.uint8))
    change(
        tmp / "a.dcm", SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, PixelData=bytes(6 * 8 * 3)
    )  # fmt: skip
    return look(tmp / "a.dcm")


@row("rescale")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp / "a", RescaleSlope=2, RescaleIntercept=-1024))
    assert found.scan.volume.array.dtype == np.int16
    assert np.array_equal(found.scan.volume.array, numbers() * 2 - 1024)
    found = look(good(tmp / "b", RescaleSlope="0.00103", RescaleIntercept="33.9"))
    assert np.allclose(found.scan.volume.array, numbers() * 0.00103 + 33.9, rtol=1e-6)
    return found


@row("rescale-per-slice")
def _(tmp: Path) -> Outcome:
    for index, slope in enumerate((1, 0.5, 3, 2)):
        write_slice(
            tmp / f"{index}.dcm", numbers()[index], position=(0, 0, index), modality="PT", RescaleSlope=slope,
            RescaleIntercept=0,
        )  # fmt: skip
    found = look(tmp)
    slopes = np.array([1, 0.5, 3, 2]).reshape(4, 1, 1)
    assert np.array_equal(found.scan.volume.array, numbers() * slopes)
    return found


@row("no-rescale")
def _(tmp: Path) -> Outcome:
    return look(good(tmp))


@row("no-rescale-ct")
def _(tmp: Path) -> Outcome:
    return look(good(tmp, modality="CT"))


@row("rescale-zero")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, RescaleSlope=0, RescaleIntercept=5))
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("rescale-broken")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers(), RescaleSlope="1.25", RescaleIntercept="7"):
        raw_text(path, b"1.25", b"inf ")
    assert look(tmp).done == "read, said"
    for path in write_series(tmp, numbers(), RescaleSlope="1e99", RescaleIntercept="7"):
        assert path.exists()
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("modality-table")
def _(tmp: Path) -> Outcome:
    table = item(
        LUTDescriptor=[256, 0, 16], ModalityLUTType="US", LUTData=np.arange(256, dtype="<u2")[::-1].tobytes()
    )
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "OW"
    found = look(good(tmp, ModalityLUTSequence=[table]))
    assert np.array_equal(found.scan.volume.array, 255 - numbers())
    return found


@row("padding")
def _(tmp: Path) -> Outcome:
    array = numbers()
    array[:, 0] = -2000
    write_series(tmp, array, modality="CT", RescaleSlope=1, RescaleIntercept=0, PixelPaddingValue=-2000)
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, array)
    return found


@row("window")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, WindowCenter=40, WindowWidth=10))
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


# --- pixel size -------------------------------------------------------------------------------------------------------


@row("rows-first")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp, spacing=(0.5, 0.25)))
    geometry = found.scan.volume.geometry
    # Row 1 lies 0.5 mm to posterior, column 1 lies 0.25 mm to the left.
    assert geometry.index_to_point([0, 1, 0]).tolist() == [0, 0.5, 0]
    assert geometry.index_to_point([0, 0, 1]).tolist() == [0.25, 0, 0]
    return found


def unknown_size(folder: Path) -> Outcome:
    found = look(folder)
    assert not found.scan.volume.geometry.spacing_known
    assert found.scan.volume.spacing_source == ""
    return found


@row("no-spacing")
def _(tmp: Path) -> Outcome:
    return unknown_size(good(tmp, spacing=None))


@row("zero-spacing")
def _(tmp: Path) -> Outcome:
    return unknown_size(good(tmp, spacing=(0, 0)))


@row("odd-spacing")
def _(tmp: Path) -> Outcome:
    unknown_size(good(tmp / "one", spacing=(0.7,)))
    for place, text in (("text", b"axb\\0.5"), ("tiny", b"1e-9\\1 ")):
        for path in write_series(tmp / place, numbers(), spacing=(0.7, 0.5)):
            raw_text(path, b"0.7\\0.5", text)
        found = unknown_size(tmp / place)
        assert ROWS["odd-spacing"].is_said_in(found.texts)
    return unknown_size(good(tmp / "negative", spacing=(-0.7, -0.7)))


@row("imager-spacing")
def _(tmp: Path) -> Outcome:
    return unknown_size(good(tmp, spacing=None, ImagerPixelSpacing=[0.2, 0.2]))


@row("film-spacing")
def _(tmp: Path) -> Outcome:
    return unknown_size(good(tmp, spacing=None, NominalScannedPixelSpacing=[0.2, 0.2]))


@row("projection")
def _(tmp: Path) -> Outcome:
    write_slice(tmp / "a.dcm", numbers()[0], modality="DX", position=None, orientation=None)
    return look(tmp)


@row("projection-at-detector")
def _(tmp: Path) -> Outcome:
    tags = {"spacing": (0.2, 0.2), "ImagerPixelSpacing": [0.2, 0.2], "modality": "DX"}
    write_slice(tmp / "b" / "a.dcm", numbers()[0], PixelSpacingCalibrationType="GEOMETRY", **tags)
    assert not ROWS["projection-at-detector"].is_said_in(look(tmp / "b").texts)
    write_slice(tmp / "a" / "a.dcm", numbers()[0], **tags)
    return look(tmp / "a")


# --- files and folders ------------------------------------------------------------------------------------------------


@row("no-suffix")
def _(tmp: Path) -> Outcome:
    for index, path in enumerate(write_series(tmp, numbers())):
        path.rename(tmp / f"1.2.840.{index}")
    found = look(tmp)
    assert found.scan.slice_names == ("1.2.840.0", "1.2.840.1", "1.2.840.2", "1.2.840.3")
    return found


@row("no-meta")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers(), transfer_syntax="1.2.840.10008.1.2"):
        dataset = dcmread(path)
        bare = Dataset(dataset)
        bare.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\0"
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("no-transfer-syntax")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers()):
        with_syntax(path, "")
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


def directory(path: Path) -> None:
    """A DICOMDIR that names the first slice."""
    record = item(DirectoryRecordType="IMAGE", ReferencedFileID=["SLICE_001"])
    write_slice(path, numbers()[0], DirectoryRecordSequence=[record])
    change(path, PixelData=None)


@row("dicomdir")
def _(tmp: Path) -> Outcome:
    directory(good(tmp) / "DICOMDIR")
    return beside(tmp)


@row("dicomdir-chosen")
def _(tmp: Path) -> Outcome:
    directory(tmp / "DICOMDIR")
    return look(tmp / "DICOMDIR")


@row("dealt-out")
def _(tmp: Path) -> Outcome:
    for index, pixels in enumerate(numbers()):
        write_slice(
            tmp / f"DIR{index // 2}" / f"{index % 2:08d}", pixels, position=(0, 0, index), number=index,
            SOPInstanceUID=uid("image", index),
        )  # fmt: skip
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("not-images")
def _(tmp: Path) -> Outcome:
    good(tmp)
    for modality in ("RTSTRUCT", "RTPLAN", "RTDOSE", "SEG", "SR", "ECG", "PR", "KO"):
        write_slice(tmp / f"{modality}.dcm", numbers()[0], modality=modality)
    write_slice(tmp / "report.dcm", numbers()[0], modality="OT")
    change(tmp / "report.dcm", SOPClassUID=EncapsulatedPDFStorage, PixelData=None)
    found = beside(tmp)
    assert "a document, not an image" in found.texts
    assert sum("not an image" in text for text in found.texts) == 9
    return found


@row("junk")
def _(tmp: Path) -> Outcome:
    good(tmp)
    for name in ("Thumbs.db", "._slice_001.dcm", ".DS_Store", "desktop.ini"):
        (tmp / name).write_bytes(b"\0" * 200)
    good(tmp / "__MACOSX")
    found = beside(tmp)
    assert len(found.texts) == 4
    return found


@row("text-named-dcm")
def _(tmp: Path) -> Outcome:
    (good(tmp) / "x.dcm").write_text("not found: the server is busy", encoding="utf-8")
    return beside(tmp)


@row("empty-file")
def _(tmp: Path) -> Outcome:
    (good(tmp) / "x.dcm").write_bytes(b"")
    return beside(tmp)


@row("archive")
def _(tmp: Path) -> Outcome:
    with zipfile.ZipFile(good(tmp) / "more scans.zip", "w") as archive:
        archive.write(tmp / "slice_001.dcm", "slice.dcm")
    return beside(tmp)


@row("archive-chosen")
def _(tmp: Path) -> Outcome:
    with zipfile.ZipFile(tmp / "scans.zip", "w") as archive:
        archive.writestr("slice.dcm", b"x")
    return look(tmp / "scans.zip")


@row("links")
def _(tmp: Path) -> Outcome:
    good(tmp / "a")
    try:
        (tmp / "a" / "loop").symlink_to(tmp, target_is_directory=True)
        (tmp / "again").symlink_to(tmp / "a", target_is_directory=True)
        (tmp / "gone").symlink_to(tmp / "nowhere")
        (tmp / "itself").symlink_to(tmp / "itself")
    except OSError:
        pytest.skip("no right to make links here")
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("patient-in-names")
def _(tmp: Path) -> Outcome:
    folder = good(tmp / "MUSTERMANN^ERIKA", prefix="Mustermann_Erika", PatientName="Mustermann^Erika")
    found = look(folder)
    text = repr([(scan.name, scan.slice_names, scan.slice_files, scan.patient) for scan in found.scans])
    assert "mustermann" not in text.lower()
    assert found.scan.name.startswith("case_")
    return found


@row("accents")
def _(tmp: Path) -> Outcome:
    found = look(good(tmp / "Étude (1) 頭部" / "coupe n° 2", prefix="façade é"))
    assert np.array_equal(found.scan.volume.array, numbers())
    return found


@row("truncated")
def _(tmp: Path) -> Outcome:
    paths = write_series(tmp, numbers((4, 50, 60)))
    paths[2].write_bytes(paths[2].read_bytes()[:-1000])
    return look(tmp)


@row("truncated-compressed")
def _(tmp: Path) -> Outcome:
    path = write_slice(tmp / "a.dcm", np.random.default_rng(0).integers(0, 999, (64, 64)).astype(np.int16))
    compress(path, JPEG2000Lossless)
    path.write_bytes(path.read_bytes()[:-4000])
    return look(tmp)


@row("no-pixels")
def _(tmp: Path) -> Outcome:
    good(tmp)
    write_slice(tmp / "z", numbers()[0], series=2)
    change(tmp / "z", PixelData=None)
    return beside(tmp)


@row("extra-pixels")
def _(tmp: Path) -> Outcome:
    for path in write_series(tmp, numbers()):
        change(path, Rows=5)
    found = look(tmp)
    assert np.array_equal(found.scan.volume.array, numbers()[:, :5])
    return found


@row("bomb-matrix")
def _(tmp: Path) -> Outcome:
    path = write_slice(tmp / "a.dcm", numbers((1, 64, 48))[0])
    compress(path, JPEG2000Lossless)
    change(path, Rows=60000, Columns=60000)
    found = look(tmp)
    change(write_slice(tmp / "a.dcm", numbers()[0]), Rows=60000, Columns=60000)
    assert look(tmp).done == "refused"
    return found


@row("bomb-frames")
def _(tmp: Path) -> Outcome:
    path = write_slice(tmp / "a.dcm", numbers()[0])
    change(path, NumberOfFrames=2000000000)
    assert look(tmp).done == "refused"
    compress(change(path, NumberOfFrames=1), RLELossless)
    change(path, NumberOfFrames=50000)
    return look(tmp)


@row("bomb-deflated")
def _(tmp: Path) -> Outcome:
    path = write_slice(tmp / "a.dcm", numbers()[0], transfer_syntax=DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    plain = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = engine.compress(plain)
    for _ in range(200):
        packed += engine.compress(bytes(1 << 20))
    path.write_bytes(data[:start] + packed + engine.flush())
    return look(tmp)


# --- the table and the tests ------------------------------------------------------------------------------------------

LABEL_SECTION = "Label files"


@pytest.mark.parametrize("name", CASES)
def test_row(name: str, tmp_path: Path) -> None:
    assert name in ROWS, f"docs/reading.md has no row '{name}'"
    outcome = CASES[name](tmp_path)
    assert outcome.done == ROWS[name].done, outcome.texts
    assert ROWS[name].is_said_in(outcome.texts), outcome.texts
    for text in outcome.texts:
        assert "!" not in text
        assert "Traceback" not in text


def test_every_row_of_the_document_has_a_test() -> None:
    here = {name for name, one in ROWS.items() if one.section != LABEL_SECTION}
    assert here == set(CASES)
    # Rows on label files are tried where label files are: a test there names the row.
    texts = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name, one in ROWS.items():
        if one.section == LABEL_SECTION:
            assert f'"{name}"' in texts or f"row: {name}" in texts, name


# Real files of each situation: (row, place below nasty_dicom). Those that are not here are skipped.
REAL = [
    ("classic", "dicom2nifti/generic__anatomical__001"),
    ("enhanced", "dicom2nifti/hyperfine__anatomical__001"),
    ("frames-without-place", "pydicom_data/emri_small_jpeg_2k_lossless.dcm"),
    ("same-place", "dicom2nifti/philips__dti__001"),
    ("gantry-tilt", "ge_gantry_tilt_18deg"),
    ("gantry-tilt", "dicom2nifti/failing__gantrytilting__001"),
    ("uneven", "dicom2nifti/failing__sliceincrement__001"),
    ("mixed-orientation", "dicom2nifti/failing__sliceorientation__001"),
    ("mixed-orientation", "dicomdir_study/98892003/MR700"),
    ("coronal-sagittal", "dicom2nifti/failing__slicecount__001"),
    ("single-slice", "dicom2nifti/ge__anatomical__001_single_slice"),
    ("rows-first", "dicom2nifti/generic__anatomical__002_non_isotropic"),
    ("oblique", "rt_utils/oriented_data"),
    ("big-endian", "pydicom_test_files/MR_small_bigendian.dcm"),
    ("compressed", "dicom2nifti/generic__compressed_rle__001"),
    ("compressed", "dicom2nifti/generic__compressed_j2k__001"),
    ("compressed", "dicom2nifti/generic__compressed_jpeg__001"),
    ("compressed", "dicom2nifti/generic__compressed_jpegls__001"),
    ("rgb", "dicom2nifti/generic__rgb__001"),
    ("rgb", "pydicom_data/SC_rgb_expb_16bit.dcm"),
    ("palette", "pydicom_data/OBXXXX1A_expb.dcm"),
    ("palette", "pydicom_data/OT-PAL-8-face.dcm"),
    ("monochrome1", "pydicom_data/RG3_J2KI.dcm"),
    ("zero-spacing", "wg04/RG1_J2KR.dcm"),
    ("no-spacing", "pydicom_data/mlut_18.dcm"),
    ("imager-spacing", "dicomdir_study/77654033/CR1"),
    ("localizer-alone", "dicomdir_study/98892001/CT2N"),
    ("jpeg-extended", "wg04/MR4_JPLY.dcm"),
    ("dicomdir-chosen", "dicomdir_study/DICOMDIR"),
    ("truncated-compressed", "pydicom_test_files/JPEG2000-embedded-sequence-delimiter.dcm"),
]  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "place"), REAL, ids=[f"{name}-{place}" for name, place in REAL])
def test_row_on_a_real_file(name: str, place: str) -> None:
    path = real_data("nasty_dicom") / place
    if not path.exists():
        pytest.skip("this file is not among the scans here")
    outcome = look(path)
    assert outcome.done == ROWS[name].done.replace("left out", "read, said"), outcome.texts
    assert ROWS[name].is_said_in(outcome.texts), outcome.texts


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array.astype("<f8")).tobytes()).hexdigest()


@pytest.mark.real_data
def test_real_slices_are_equal_whatever_their_compression() -> None:
    folders = sorted((real_data("nasty_dicom") / "dicom2nifti").glob("generic__compressed_*"))
    hashes = {folder.name: _sha(look(folder).scan.volume.array) for folder in folders}
    assert len(hashes) >= 3
    assert len(set(hashes.values())) == 1, hashes
