"""DICOM segmentations: pixels of each segment, placed on the scan, in every encoding; and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from autoseg_lib.errors import AutosegError, DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_geometry import series_geometry
from autoseg_lib.io.dicom_headers import read_headers
from autoseg_lib.io.dicom_series import group_series
from autoseg_lib.io.segments import SegmentFile, describe_segments, is_segment_file, open_segments, paint
from tests.helpers.real_data import real_data
from tests.helpers.segments import follows, write_seg

# Slices at z = 0, 2, 4, 6 mm of 3 rows and 5 columns: 15 pixels a frame, so frames do not begin with a byte.
GRID = Geometry.from_spacing(
    (4, 3, 5), (2, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
)
RANDOM = np.random.default_rng(5)
FRAMES = RANDOM.integers(0, 2, (4, 3, 5)).astype(np.uint8)


def at(z: float) -> tuple[float, float, float]:
    return (0, 0, z)


def pixels_of(
    file: SegmentFile, geometry: Geometry | None = None, uids: tuple[str, ...] = ()
) -> dict[str, Any]:
    grid = geometry or file.geometry
    assert grid is not None
    return {segment.name: layer for segment, layer in file.layers(grid, uids)}


def refusal(call) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(AutosegError) as caught:
        call()
    return str(caught.value)


# --- kinds and encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1"])
def test_bits_that_do_not_begin_with_a_byte(tmp_path: Path, syntax: str) -> None:
    path = write_seg(
        tmp_path / "s.dcm",
        [(1, at(2 * k), FRAMES[k]) for k in range(4)],
        {1: "Liver"},
        transfer_syntax=syntax,
    )
    found = pixels_of(open_segments(path), GRID)
    np.testing.assert_array_equal(found["Liver"], FRAMES)


def test_frames_in_any_order_and_missing_ones(tmp_path: Path) -> None:
    frames = [(2, at(6), FRAMES[3]), (1, at(4), FRAMES[2]), (1, at(0), FRAMES[0]), (2, at(4), FRAMES[1])]
    file = open_segments(write_seg(tmp_path / "s.dcm", frames, {1: "Liver", 2: "Spleen"}, between=2))
    for geometry in (GRID, None):
        found = pixels_of(file, geometry)
        np.testing.assert_array_equal(found["Liver"], FRAMES[[0, 0, 2, 0]] * [[[1]], [[0]], [[1]], [[0]]])
        np.testing.assert_array_equal(found["Spleen"], FRAMES[[0, 0, 1, 3]] * [[[0]], [[0]], [[1]], [[1]]])
    assert file.geometry is not None and file.geometry.is_same_grid(GRID)
    assert file.warnings == ()
    follows("seg-frames", "read", file.warnings)


def test_overlapping_segments_by_priority(tmp_path: Path) -> None:
    whole, part = np.ones((3, 5), np.uint8), np.zeros((3, 5), np.uint8)
    part[1, 1:3] = 1
    file = open_segments(
        write_seg(tmp_path / "s.dcm", [(1, at(0), whole), (2, at(0), part)], {1: "Liver", 2: "Tumour"})
    )
    labels, notes = paint(file.layers(GRID), {"liver": 1, "tumour": 2})
    assert ((labels == 1).sum(), (labels == 2).sum()) == (13, 2)
    assert "'Tumour' and 'Liver' overlap in 2 pixels, which count as 'Tumour'" in notes[0]
    labels, _ = paint(file.layers(GRID), {"liver": 1, "tumour": 2}, priority=["Liver"])
    assert ((labels == 1).sum(), (labels == 2).sum()) == (15, 0)


@pytest.mark.parametrize(("threshold", "least"), [(0.5, 50), (0.25, 25), (1.0, 100), (0.0, 1)])
def test_fractional(tmp_path: Path, threshold: float, least: int) -> None:
    frame = np.array([[0, 1, 24, 25, 49], [50, 51, 99, 100, 100], [0, 0, 0, 75, 10]], np.uint8)
    path = write_seg(tmp_path / "s.dcm", [(1, at(0), frame)], {1: "Liver"}, kind="FRACTIONAL", highest=100)
    file = open_segments(path, fractional_threshold=threshold)
    np.testing.assert_array_equal(pixels_of(file)["Liver"][0], frame >= least)
    assert file.warnings == (
        f"fractional segmentation (probability): pixels of at least {threshold:g} count as inside.",
    )
    follows("seg-fractional", "read, said", file.warnings)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_label_map(tmp_path: Path, kind: type) -> None:
    labels = RANDOM.integers(0, 4, (4, 3, 5)).astype(kind)
    labels[labels == 3] = 7 if kind is np.uint8 else 300
    high = int(labels.max())
    path = write_seg(
        tmp_path / "s.dcm",
        [(0, at(2 * k), labels[k]) for k in (3, 1, 0, 2)],
        {0: "Background", 1: "Liver", 2: "Spleen", 5: "Nothing"},
        kind="LABELMAP",
    )
    file = open_segments(path)
    assert [segment.name for segment in file.segments] == ["Liver", "Spleen", f"ROI {high}"]
    assert file.warnings == (
        f"segment {high} is not described in the file; it is called 'ROI {high}'.",
        "segments without a frame, left out: 'Nothing'.",
    )
    found = pixels_of(file, GRID)
    for number, name in ((1, "Liver"), (2, "Spleen"), (high, f"ROI {high}")):
        np.testing.assert_array_equal(found[name], labels == number)
    follows("seg-labelmap", "read")


def encoded(path: Path, syntax: str, frames: list[bytes]) -> Path:
    """Rewrites a binary segmentation with encoded frames, as other writers do."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    # pydicom does not write all of these; the UID is exchanged in the file (the group's length stays as it was).
    raw, old = path.read_bytes(), b"UI" + struct.pack("<H", 20) + str(RLELossless).encode() + b"\0"
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    group = struct.unpack("<I", raw[140:144])[0]
    grown = raw[:140] + struct.pack("<I", group + len(new) - 20) + raw[144:]
    path.write_bytes(grown.replace(old, b"UI" + struct.pack("<H", len(new)) + new, 1))
    return path


def test_encodings_of_single_bits(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "s.dcm", [(1, at(2 * k), FRAMES[k]) for k in range(4)], {1: "Liver"})
    bits = [np.packbits(frame.ravel(), bitorder="little").tobytes() for frame in FRAMES]
    deflated = []
    for raw in bits:
        packer = zlib.compressobj(wbits=-15)
        deflated.append(packer.compress(raw) + packer.flush())
    header = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
    literal = [header + bytes([len(raw) - 1]) + raw for raw in bits]
    # Unpacked before packing: one byte for each pixel.
    single = [header + bytes([14]) + frame.tobytes() + b"\0" for frame in FRAMES]
    for syntax, frames in (
        ("1.2.840.10008.1.2.8.1", deflated), (RLELossless, literal), (RLELossless, single),
    ):  # fmt: skip
        file = open_segments(encoded(path, syntax, frames))
        np.testing.assert_array_equal(pixels_of(file, GRID)["Liver"], FRAMES)
    follows("seg-binary", "read")


# --- places -----------------------------------------------------------------------------------------------------------


def test_gaps_are_empty_slices_and_uneven_stays_uneven(tmp_path: Path) -> None:
    file = open_segments(write_seg(tmp_path / "s.dcm", [(1, at(z), FRAMES[0]) for z in (0, 2, 8)], {1: "A"}))
    assert file.geometry is not None and file.geometry.shape_zyx == (5, 3, 5) and file.geometry.is_even
    np.testing.assert_array_equal(pixels_of(file)["A"].any(axis=(1, 2)), [True, True, False, False, True])
    file = open_segments(
        write_seg(tmp_path / "s.dcm", [(1, at(z), FRAMES[0]) for z in (0, 2, 5.1)], {1: "A"})
    )
    assert file.geometry is not None and file.geometry.slice_positions_mm == (0.0, 2.0, 5.1)
    np.testing.assert_array_equal(pixels_of(file)["A"].sum(axis=(1, 2)), [FRAMES[0].sum()] * 3)


def test_far_frames_ask_for_no_memory(tmp_path: Path) -> None:
    path = write_seg(
        tmp_path / "s.dcm", [(1, at(z), FRAMES[0]) for z in (0, 0.02, 9e5)], {1: "A"}, between=0.02
    )
    file = open_segments(path)
    assert file.geometry is not None and file.geometry.shape_zyx == (3, 3, 5)


def test_oblique_and_tilted(tmp_path: Path) -> None:
    orientation = (0.8, 0.6, 0, 0, 0, -1)
    normal = np.cross(orientation[:3], orientation[3:])
    for step in (normal * 2, normal * 2 + np.array(orientation[3:]) * 0.5):
        places = [np.array([5.0, -3, 40]) + k * step for k in range(4)]
        file = open_segments(
            write_seg(
                tmp_path / "s.dcm", [(1, tuple(places[k]), FRAMES[k]) for k in (0, 3)], {1: "A"},
                spacing=(0.7, 0.9), orientation=orientation, between=2,
            )
        )  # fmt: skip
        geometry = file.geometry
        assert geometry is not None and geometry.shape_zyx == (4, 3, 5)
        np.testing.assert_allclose(geometry.index_to_point([3, 2, 4]), places[3] + np.array(orientation[3:]) * 1.4 + np.array(orientation[:3]) * 3.6, atol=1e-6)  # fmt: skip
        np.testing.assert_array_equal(pixels_of(file)["A"][3], FRAMES[3])


def test_another_grid_is_left_to_resampling(tmp_path: Path) -> None:
    def at_place(place: tuple[float, float, float], **options: Any) -> SegmentFile:
        frames = [(1, np.add(place, at(2 * k)), FRAMES[k]) for k in range(2)]
        return open_segments(write_seg(tmp_path / "s.dcm", frames, {1: "A"}, **options))

    with pytest.raises(GeometryError, match="frames lie between the slices of the scan"):
        at_place((0, 0, 1)).layers(GRID)
    for file in (
        at_place((0.4, 0, 0)),
        at_place((0, 0, 0), spacing=(1, 1.2)),
        at_place((4, 0, 0), orientation=(-1, 0, 0, 0, 1, 0)),
    ):
        with pytest.raises(GeometryError, match="its pixels lie on another grid"):
            file.layers(GRID)
    with pytest.raises(GeometryError, match="its frames have 3 × 5 pixels, the scan's slices 4 × 5"):
        at_place((0, 0, 0)).layers(Geometry.from_spacing((4, 4, 5)))
    np.testing.assert_array_equal(pixels_of(at_place((0.001, 0, 0.05)), GRID)["A"][:2], FRAMES[:2])


def test_frames_beyond_the_scan_are_said(tmp_path: Path) -> None:
    frames = [(1, at(z), FRAMES[0]) for z in (4, 6, 8)] + [(1, at(10), np.zeros((3, 5), np.uint8))]
    file = open_segments(write_seg(tmp_path / "s.dcm", frames, {1: "A"}))
    np.testing.assert_array_equal(pixels_of(file, GRID)["A"].any(axis=(1, 2)), [False, False, True, True])
    assert file.warnings == ("1 frame lies beyond the first or last slice of the scan; left out.",)
    away = open_segments(write_seg(tmp_path / "s.dcm", [(1, at(500), FRAMES[0])], {1: "A"}))
    assert refusal(lambda: away.layers(GRID)) == (
        "'s.dcm': no frame lies on a slice of this scan. It belongs to another scan."
    )
    follows("seg-beyond", "read, said", file.warnings)
    follows("seg-elsewhere", "refused", [refusal(lambda: away.layers(GRID))])


def test_without_positions_by_image(tmp_path: Path) -> None:
    frames = [(1, None, FRAMES[0]), (1, None, FRAMES[1])]
    file = open_segments(write_seg(tmp_path / "s.dcm", frames, {1: "A"}, images=["1.2.7", "1.2.5"]))
    plain = Geometry.from_spacing((3, 3, 5))
    found = pixels_of(file, plain, ("1.2.5", "1.2.6", "1.2.7"))["A"]
    np.testing.assert_array_equal(found, FRAMES[[1, 0, 0]] * [[[1]], [[0]], [[1]]])
    assert "names no image of this scan" in refusal(lambda: file.layers(plain, ("9.9", "9.8", "9.7")))
    assert pixels_of(file)["A"].shape == (2, 3, 5)
    follows("seg-no-position", "read")


def test_several_images_at_one_position(tmp_path: Path) -> None:
    affine = np.eye(4)[:, [2, 1, 0, 3]]
    cine = Geometry((2, 3, 5), affine, (0.0, 0.0), True, True, True)
    named = open_segments(write_seg(tmp_path / "s.dcm", [(1, at(0), FRAMES[0])], {1: "A"}, images=["1.2.6"]))
    found = pixels_of(named, cine, ("1.2.5", "1.2.6"))["A"]
    np.testing.assert_array_equal(found.any(axis=(1, 2)), [False, True])
    bare = open_segments(write_seg(tmp_path / "s.dcm", [(1, at(0), FRAMES[0])], {1: "A"}))
    assert "several images at one position" in refusal(lambda: bare.layers(cine))


def test_names(tmp_path: Path) -> None:
    frames = [(n, at(0), FRAMES[n - 1]) for n in (1, 2, 4)]
    path = write_seg(tmp_path / "s.dcm", frames, {1: "Node", 2: "node\n", 3: "Empty", 4: ""})
    file = open_segments(path)
    assert [(segment.number, segment.name) for segment in file.segments] == [
        (1, "Node"),
        (2, "node"),
        (4, "ROI 4"),
    ]
    assert file.warnings == (
        "segments without a frame, left out: 'Empty'.",
        "several segments have the same name and are taken together: 'Node', 'node'.",
    )
    labels, _ = paint(file.layers(GRID), {"NODE": 1})
    np.testing.assert_array_equal(labels[0] == 1, FRAMES[0] | FRAMES[1])
    assert describe_segments(path) == "DICOM SEG with 3 ROIs: 'Node', 'node', 'ROI 4'"
    assert file.referenced_series_uids and file.kind == "DICOM SEG"


# --- refused ----------------------------------------------------------------------------------------------------------


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "s.dcm"

    def made(**tags: Any) -> Path:
        return write_seg(path, [(1, at(2 * k), FRAMES[k]) for k in range(4)], {1: "A"}, **tags)

    assert "found 4 complete frames, its header says 4000000; the file ends early" in refusal(
        lambda: open_segments(made(NumberOfFrames=4_000_000))
    )
    assert "which is no segmentation" in refusal(lambda: open_segments(made(Rows=0)))
    assert "pictures up to 8192 × 8192 pixels" in refusal(
        lambda: open_segments(made(Rows=65535, Columns=65535))
    )
    assert "found 0 complete frames" in refusal(lambda: open_segments(made(Rows=8000, Columns=8000)))
    assert "it holds no pixels" in refusal(lambda: open_segments(made(PixelData=None)))
    assert "it has 3 frames and a table of 4" in refusal(lambda: open_segments(made(NumberOfFrames=3)))
    assert "tiled microscope slide" in refusal(lambda: open_segments(made(TotalPixelMatrixRows=4096)))
    assert "it holds no segment with pixels" not in refusal(lambda: open_segments(made(BitsAllocated=7)))
    whole = made().read_bytes()
    for length in range(140, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            open_segments(path)
    path.write_bytes(whole[:-9])
    follows("seg-damaged", "refused", [refusal(lambda: open_segments(path))])
    follows("seg-slide", "refused", [refusal(lambda: open_segments(made(TotalPixelMatrixRows=4096)))])


def test_broken_frames_are_said_when_read(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "s.dcm", [(1, at(0), FRAMES[0])], {1: "A"})
    for syntax in (RLELossless, "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.4.90"):
        file = open_segments(encoded(path, syntax, [b"\xff\x00\x01\x02" * 5]))
        assert "frame 1 cannot be decoded" in refusal(lambda file=file: pixels_of(file))
    # A picture whose own header says 60000 x 60000 is refused before a decoder allocates it.
    huge = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + (60000).to_bytes(4, "big") * 2 + bytes(60)
    file = open_segments(encoded(path, "1.2.840.10008.1.2.4.90", [huge]))
    assert "frame 1 cannot be decoded" in refusal(lambda: pixels_of(file))


def test_a_frame_that_unpacks_without_end(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "s.dcm", [(1, at(0), FRAMES[0])], {1: "A"})
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush()
    found = pixels_of(open_segments(encoded(path, "1.2.840.10008.1.2.8.1", [bomb])))
    assert not found["A"].any()


# --- real files -------------------------------------------------------------------------------------------------------

LIVER = [36_233, 35_645, 35_220]


def liver_grid() -> tuple[Geometry, tuple[str, ...]]:
    folder = real_data("dicom_seg") / "liver_ct3slice" / "images"
    [series] = group_series(read_headers(sorted(folder.glob("*.dcm"))).headers)
    return series_geometry(series.headers)[0], tuple(header.sop_uid for header in series.headers)


@pytest.mark.real_data
def test_liver_in_every_encoding() -> None:
    geometry, uids = liver_grid()
    nasty = real_data("nasty_dicom") / "pydicom_data"
    paths = [real_data("dicom_seg") / "liver_ct3slice" / "seg" / "liver.dcm"]
    paths += sorted(path for path in nasty.glob("liver*.dcm") if "nonbyte" not in path.name)
    assert len(paths) >= 4
    first: npt.NDArray[np.bool_] | None = None
    for path in paths:
        assert is_segment_file(path)
        file = open_segments(path)
        layer = pixels_of(file, geometry, uids)["Liver"]
        assert layer.sum(axis=(1, 2)).tolist() == LIVER
        areas = layer.sum(axis=(1, 2)) * geometry.pixel_area_mm2
        np.testing.assert_allclose(areas, [23_804.6, 23_418.3, 23_139.1], atol=0.1)
        first = layer if first is None else first
        np.testing.assert_array_equal(layer, first)
    odd = open_segments(nasty / "liver_nonbyte_aligned.dcm")
    assert pixels_of(odd)["Liver"].sum(axis=(1, 2)).tolist() == LIVER
    with pytest.raises(GeometryError, match="510 × 510 pixels, the scan's slices 512 × 512"):
        odd.layers(geometry)


@pytest.mark.real_data
def test_overlaps_of_a_real_file_as_simpleitk_sees_its_pixels() -> None:
    geometry, uids = liver_grid()
    path = real_data("dicom_seg") / "liver_ct3slice" / "seg" / "partial_overlaps.dcm"
    file = open_segments(path)
    found = pixels_of(file, geometry, uids)
    assert {name: layer.sum(axis=(1, 2)).tolist() for name, layer in found.items()} == {
        "GREEN": [0, 9602, 0],
        "ORANGE": [0, 11888, 0],
        "PURPLE": [117, 117, 10509],
        "LIGHT_BLUE": [6693, 0, 0],
        "DARK_BLUE": [4713, 0, 0],
    }
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
    order = [
        ("GREEN", 1),
        ("ORANGE", 1),
        ("PURPLE", 0),
        ("PURPLE", 1),
        ("PURPLE", 2),
        ("LIGHT_BLUE", 0),
        ("DARK_BLUE", 0),
    ]
    for frame, (name, index) in zip(frames, order, strict=True):
        np.testing.assert_array_equal(found[name][index], frame)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("seg_image_ct_binary", {"first segment": [127, 256, 255]}),
        ("seg_image_ct_binary_fractional", {"first segment": [127, 256, 255]}),
        ("seg_image_ct_true_fractional", {"first segment": [127, 256, 255]}),
        ("seg_image_ct_binary_single_frame", {"first segment": [1832]}),
        ("seg_image_cr_binary", {"first segment": [151]}),
        ("seg_image_ct_binary_overlap", {"first segment": [16] * 4, "second segment": [4] * 4}),
    ],
)
def test_highdicom_files(name: str, counts: dict[str, list[int]]) -> None:
    path = real_data("dicom_seg") / "highdicom" / f"{name}.dcm"
    file = open_segments(path)
    layers = pixels_of(file)
    for segment, expected in counts.items():
        per_slice = layers[segment].sum(axis=(1, 2))
        assert per_slice[per_slice > 0].tolist() == expected
    # The frames one after the other as pydicom decodes them.
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    least = 128 if dataset.SegmentationType == "FRACTIONAL" else 1
    assert sum(int(layer.sum()) for layer in layers.values()) == int((frames >= least).sum())


@pytest.mark.real_data
def test_highdicom_reads_the_same_pixels() -> None:
    highdicom = pytest.importorskip("highdicom")
    geometry, uids = liver_grid()
    for name in ("liver.dcm", "partial_overlaps.dcm"):
        path = real_data("dicom_seg") / "liver_ct3slice" / "seg" / name
        other = highdicom.seg.segread(path)
        array = other.get_pixels_by_source_instance(
            list(uids), combine_segments=False, ignore_spatial_locations=True
        )
        ours = list(pixels_of(open_segments(path), geometry, uids).values())
        np.testing.assert_array_equal(np.stack(ours, axis=-1), array > 0)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["labelmap", "23x38x3", "24x38x3"])
def test_other_segmentations_of_the_set(folder: str) -> None:
    place = real_data("dicom_seg") / folder
    if not place.exists():
        pytest.skip(f"{folder} is not among the real scans here")
    paths = [path for path in sorted(place.rglob("*.dcm")) if is_segment_file(path)]
    assert paths
    for path in paths:
        assert any(layer.any() for layer in pixels_of(open_segments(path)).values())


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", "1.2.840.10008.1.2.1"),
        ("FRACTIONAL", RLELossless),
        ("FRACTIONAL", "1.2.840.10008.1.2.4.90"),
        ("LABELMAP", "1.2.840.10008.1.2.1"),
        ("LABELMAP", RLELossless),
        ("LABELMAP", "1.2.840.10008.1.2.4.80"),
    ],
)
def test_written_by_highdicom(tmp_path: Path, kind: str, syntax: str) -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = real_data("dicom_seg") / "liver_ct3slice" / "images"
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    for image in images:
        image.SpecificCharacterSet = "ISO_IR 100"  # empty in these files, which highdicom does not take
    labels = np.zeros((3, 512, 512), np.uint8)
    labels[0, 10:40, 20:51] = 1
    labels[2, 100:130, 7:9] = 2
    code = highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical Structure")
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number, segment_label=name, segmented_property_category=code, segmented_property_type=code,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in ((1, "Liver"), (2, "Vein"))
    ]  # fmt: skip
    pixels = (
        labels if kind != "FRACTIONAL" else np.stack([labels == 1, labels == 2], axis=-1).astype(np.float32)
    )
    made = highdicom.seg.Segmentation(
        source_images=images, pixel_array=pixels, segmentation_type=kind, segment_descriptions=segments,
        series_instance_uid=highdicom.UID(), series_number=2, sop_instance_uid=highdicom.UID(), instance_number=1,
        manufacturer="x", manufacturer_model_name="x", software_versions="1", device_serial_number="1",
        transfer_syntax_uid=syntax,
    )  # fmt: skip
    path = tmp_path / "seg.dcm"
    made.save_as(path)
    geometry, uids = liver_grid()
    order = [list(uids).index(image.SOPInstanceUID) for image in images]
    expected = np.empty_like(labels)
    expected[order] = labels
    file = open_segments(path)
    assert [segment.name for segment in file.segments] == ["Liver", "Vein"]
    assert file.frame_of_reference_uid == images[0].FrameOfReferenceUID
    assert file.referenced_series_uids == {images[0].SeriesInstanceUID}
    found = pixels_of(file, geometry, uids)
    np.testing.assert_array_equal(found["Liver"], expected == 1)
    np.testing.assert_array_equal(found["Vein"], expected == 2)
    assert file.geometry is not None
    own = pixels_of(file)["Liver"]
    assert own.sum() == (labels == 1).sum()
