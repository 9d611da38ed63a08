"""3D Slicer's .seg.nrrd: segment names, layers and label values; placement on the scan; and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.errors import AutosegError, DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.segments import SegmentFile, describe_segments, is_segment_file, open_segments, paint
from tests.helpers.segments import follows, write_seg_nrrd

RANDOM = np.random.default_rng(3)
LABELS = RANDOM.integers(0, 4, (3, 4, 5)).astype(np.uint8)
LAYERS = RANDOM.integers(0, 3, (2, 3, 4, 5)).astype(np.uint8)
# Slicer 4.11 and later, one volume.
FLAT_KEYS = {
    "Segment0_ID": "Segment_1", "Segment0_Name": "Liver: left lobe", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
    "Segment0_Extent": "0 4 0 3 0 2", "Segment0_Color": "0.5 0.6 0.7", "Segment0_Tags": "a:b|c:d|",
    "Segment1_Name": "Spleen", "Segment1_LabelValue": "3", "Segment1_Layer": "0",
    "Segmentation_MasterRepresentation": "Binary labelmap", "Segmentation_ReferenceImageExtentOffset": "7 8 9",
}  # fmt: skip
# The file's (column, row, slice) steps 0.5, 0.75 and 2 mm; the first voxel at (1, 2, 3).
PLACE = {"directions": "(0.5,0,0) (0,0.75,0) (0,0,2)", "origin": "(1,2,3)"}
AFFINE = np.array([[0, 0, 0.5, 1], [0, 0.75, 0, 2], [2, 0, 0, 3], [0, 0, 0, 1]])


def pixels_of(file: SegmentFile, geometry: Geometry | None = None) -> dict[str, Any]:
    grid = geometry or file.geometry
    assert grid is not None
    return {segment.name: layer for segment, layer in file.layers(grid)}


def refusal(call) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(AutosegError) as caught:
        call()
    return str(caught.value)


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_one_volume(tmp_path: Path, encoding: str, kind: type) -> None:
    path = write_seg_nrrd(
        tmp_path / "a b é.seg.nrrd", LABELS.astype(kind), FLAT_KEYS, encoding=encoding, **PLACE
    )
    file = open_segments(path)
    assert [(segment.number, segment.name) for segment in file.segments] == [
        (0, "Liver: left lobe"),
        (1, "Spleen"),
    ]
    found = pixels_of(file)
    np.testing.assert_array_equal(found["Liver: left lobe"], LABELS == 1)
    np.testing.assert_array_equal(found["Spleen"], LABELS == 3)
    assert file.geometry is not None and file.geometry.is_same_grid(Geometry((3, 4, 5), AFFINE))
    assert file.geometry.orientation_known and file.geometry.orientation_code == "SPL"
    assert (file.kind, file.warnings) == ("3D Slicer segmentation", ())
    assert describe_segments(path) == "3D Slicer segmentation with 2 ROIs: 'Liver: left lobe', 'Spleen'"


def test_layers_overlap(tmp_path: Path) -> None:
    keys = {
        "Segment0_Name": "A", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment1_Name": "B", "Segment1_LabelValue": "1", "Segment1_Layer": "1",
        "Segment2_Name": "C", "Segment2_LabelValue": "2", "Segment2_Layer": "1",
    }  # fmt: skip
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LAYERS, keys, **PLACE))
    found = pixels_of(file)
    np.testing.assert_array_equal(found["A"], LAYERS[0] == 1)
    np.testing.assert_array_equal(found["B"], LAYERS[1] == 1)
    np.testing.assert_array_equal(found["C"], LAYERS[1] == 2)
    labels, notes = paint(file.layers(file.geometry), {"A": 1, "B": 2}, priority=["A", "B"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(labels, np.where(LAYERS[0] == 1, 1, np.where(LAYERS[1] == 1, 2, 0)))
    both = int(((LAYERS[0] == 1) & (LAYERS[1] == 1)).sum())
    assert notes == (
        f"'A' and 'B' overlap in {both} pixels, which count as 'A'. For another order, set overlap_priority.",
        "ROIs that are not in labels_list, left out: 'C'.",
    )
    follows("slicer", "read", file.warnings)


def test_before_slicer_4_11(tmp_path: Path) -> None:
    """A layer for each segment, in the order of the segments, without layer and value in the header."""
    keys = {"Segment0_Name": "A", "Segment1_Name": "B", "Segment0_Extent": "0 4 0 3 0 2"}
    found = pixels_of(
        open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", (LAYERS > 1).astype(np.uint8), keys))
    )
    np.testing.assert_array_equal(found["A"], LAYERS[0] > 1)
    np.testing.assert_array_equal(found["B"], LAYERS[1] > 1)
    alone = open_segments(
        write_seg_nrrd(tmp_path / "x.seg.nrrd", (LABELS > 0).astype(np.uint8), {"Segment0_Name": "A"})
    )
    np.testing.assert_array_equal(pixels_of(alone)["A"], LABELS > 0)
    follows("slicer-old", "read", alone.warnings)


def test_the_layers_axis_is_the_one_without_direction(tmp_path: Path) -> None:
    keys = {"Segment0_Name": "A", "Segment1_Name": "B"}
    for kinds in ("list domain domain domain", "vector space space space", "??? ??? ??? ???"):
        file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LAYERS, keys, kinds=kinds))
        np.testing.assert_array_equal(pixels_of(file)["B"], LAYERS[1] > 0)


def test_big_endian_and_lines_of_windows(tmp_path: Path) -> None:
    path = write_seg_nrrd(
        tmp_path / "x.seg.nrrd", LABELS.astype(np.uint16).byteswap(), FLAT_KEYS, encoding="raw", endian="big"
    )
    np.testing.assert_array_equal(pixels_of(open_segments(path))["Spleen"], LABELS == 3)
    head, pixels = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + pixels)
    np.testing.assert_array_equal(pixels_of(open_segments(path))["Spleen"], LABELS == 3)


def test_simpleitk_sees_the_same_pixels_and_place(tmp_path: Path) -> None:
    path = write_seg_nrrd(
        tmp_path / "x.seg.nrrd", LAYERS, {"Segment0_Name": "A", "Segment1_Name": "B"},
        directions="(0,0.5,0) (0,0,-0.75) (-2,0,0)", origin="(1,2,3)", space="right-anterior-superior",
    )  # fmt: skip
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    file = open_segments(path)
    geometry = file.geometry
    assert geometry is not None
    for index, layer in enumerate(pixels_of(file).values()):
        np.testing.assert_array_equal(layer, array[..., index] > 0)
    for zyx in ((0, 0, 0), (2, 3, 4), (1, 0, 2)):
        point = image.TransformIndexToPhysicalPoint(zyx[::-1])
        np.testing.assert_allclose(geometry.index_to_point(zyx), point, atol=1e-9)


# --- on the scan's grid -----------------------------------------------------------------------------------------------


def test_cropped_segmentation_is_put_in_place(tmp_path: Path) -> None:
    """Slicer may save only the part that holds something; the place is in space origin."""
    scan = Geometry((6, 9, 11), AFFINE).cropped_or_padded((2, 3, 4), (6, 9, 11))
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **PLACE))
    found = pixels_of(file, scan)["Spleen"]
    np.testing.assert_array_equal(found[2:5, 3:7, 4:9], LABELS == 3)
    assert found.sum() == (LABELS == 3).sum()
    assert file.warnings == ()
    follows("slicer-cropped", "read", file.warnings)


def test_turned_axes_are_turned_back(tmp_path: Path) -> None:
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **PLACE))
    own = Geometry((3, 4, 5), AFFINE)
    for code in ("SPL", "IAR", "PIL", "RSA", "LPS"):
        axes, flips = own.steps_to(code)
        expected = (LABELS == 3).transpose(axes)[
            tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        ]
        np.testing.assert_array_equal(pixels_of(file, own.oriented(code))["Spleen"], expected)


def test_parts_outside_the_scan_are_said(tmp_path: Path) -> None:
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **PLACE))
    scan = Geometry((3, 4, 5), AFFINE).cropped_or_padded((0, 0, -2), (3, 4, 5))
    found = pixels_of(file, scan)["Spleen"]
    np.testing.assert_array_equal(found[..., :3], (LABELS == 3)[..., 2:])
    lost = int((LABELS[..., :2] == 3).sum())
    assert f"'Spleen': {lost} voxels lie outside the scan; left out." in file.warnings
    follows("slicer-outside", "read, said", file.warnings)


def test_a_segmentation_of_another_scan_is_refused(tmp_path: Path) -> None:
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **PLACE))
    elsewhere = Geometry((3, 4, 5), AFFINE).cropped_or_padded((0, 0, -7), (3, 4, 5))
    with pytest.raises(DataError, match="nothing of what is drawn lies on this scan") as error:
        pixels_of(file, elsewhere)
    follows("slicer-elsewhere", "refused", [str(error.value)])


def test_voxels_are_placed_by_position_only_where_both_have_one(tmp_path: Path) -> None:
    scan = Geometry((3, 4, 5), AFFINE)
    for missing in ({"space": None}, {"space_origin": None}):
        file = open_segments(
            write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **{**PLACE, **missing})  # type: ignore[arg-type]
        )
        with pytest.raises(GeometryError, match="another grid"):
            pixels_of(file, scan)
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **PLACE))
    with pytest.raises(GeometryError, match="another grid"):
        pixels_of(file, Geometry((3, 4, 5), AFFINE, None, True, False, True))


def test_another_grid_is_left_to_resampling(tmp_path: Path) -> None:
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **PLACE))
    shifted, scaled = AFFINE.copy(), AFFINE.copy()
    shifted[0, 3] += 0.25
    scaled[1, 1] = 0.8
    affines = [shifted, scaled]
    turned = AFFINE.copy()
    turned[:3, :3] = (
        np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]]) @ AFFINE[:3, :3]
    )
    for affine in [*affines, turned]:
        with pytest.raises(GeometryError, match="its voxels lie on another grid"):
            file.layers(Geometry((3, 4, 5), affine))
    uneven = Geometry((3, 4, 5), AFFINE, (3.0, 5.0, 9.0))
    with pytest.raises(GeometryError, match="another grid"):
        file.layers(uneven)


def test_without_a_place(tmp_path: Path) -> None:
    for options in ({"space": None}, {"space": "scanner-xyz"}):
        path = write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, **options)  # type: ignore[arg-type]
        file = open_segments(path)
        assert file.geometry is not None and not file.geometry.orientation_known
        np.testing.assert_array_equal(pixels_of(file)["Spleen"], LABELS == 3)


# --- told and refused -------------------------------------------------------------------------------------------------


def test_told_by_name_or_content(tmp_path: Path) -> None:
    renamed = write_seg_nrrd(tmp_path / "labels.nrrd", LABELS, FLAT_KEYS)
    assert is_segment_file(renamed) and open_segments(renamed).kind == "3D Slicer segmentation"
    plain = tmp_path / "plain.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(plain))
    assert not is_segment_file(plain)


def test_names_are_fit_to_show(tmp_path: Path) -> None:
    keys = {
        "Segment0_Name": "  A\\nB\x1b[31m ", "Segment0_LabelValue": "1",
        "Segment1_ID": "Segment_2", "Segment1_LabelValue": "2",
        "Segment2_Name": "x" * 500, "Segment2_LabelValue": "3",
        "Segment3_LabelValue": "4",
    }  # fmt: skip
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, keys))
    assert [segment.name for segment in file.segments] == ["A B [31m", "Segment_2", "x" * 64, "ROI 4"]


def test_segments_that_are_not_there_are_said(tmp_path: Path) -> None:
    keys = {**FLAT_KEYS, "Segment2_Name": "Gone", "Segment2_Layer": "5", "Segment2_LabelValue": "1"}
    file = open_segments(write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, keys))
    assert [segment.name for segment in file.segments] == ["Liver: left lobe", "Spleen"]
    assert file.warnings == ("segments whose layer is not in the file, left out: 'Gone'.",)


def test_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.seg.nrrd"

    def made(array: Any = LABELS, keys: Any = FLAT_KEYS, **fields: Any) -> Path:
        return write_seg_nrrd(path, array, keys, **fields)

    path.write_bytes(b"hello")
    assert refusal(lambda: open_segments(path)) == (
        "'x.seg.nrrd': it is not an NRRD file, though its name says so. Save it again."
    )
    path.write_bytes(b"NRRD0004\ntype: uchar\n")
    assert "its header has no end; the file is cut off" in refusal(lambda: open_segments(path))
    assert "its header names no segment" in refusal(lambda: open_segments(made(keys={"a": "b"})))
    assert "it is a fractional labelmap" in refusal(
        lambda: open_segments(
            made(keys={**FLAT_KEYS, "Segmentation_MasterRepresentation": "Fractional labelmap"})
        )
    )
    assert "of the type 'float', expected whole numbers" in refusal(lambda: open_segments(made(type="float")))
    assert "its header gives the sizes '3 4'" in refusal(lambda: open_segments(made(sizes="3 4")))
    assert "its pixels lie in another file" in refusal(lambda: open_segments(made(data_file="/etc/passwd")))
    assert "stored in a way that is not supported" in refusal(lambda: open_segments(made(byte_skip="-1")))
    assert "the segmentation is empty" in refusal(lambda: open_segments(made(LABELS[:1, :1, :1])))
    assert "does not say which value stands for which segment" in refusal(
        lambda: open_segments(made(keys={"Segment0_Name": "A", "Segment1_Name": "B"}))
    )
    assert "none of them holds layers" in refusal(
        lambda: open_segments(made(LAYERS, kinds="domain domain domain domain", space_directions="(1,0,0)"))
    )
    assert "one plane or have no length" in refusal(
        lambda: open_segments(made(directions="(1,0,0) (1,0,0) (0,0,1)"))
    )
    follows("slicer-empty", "refused", [refusal(lambda: open_segments(made(LABELS[:1, :1, :1])))])
    fractional = {**FLAT_KEYS, "Segmentation_MasterRepresentation": "Fractional labelmap"}
    follows("slicer-fractional", "refused", [refusal(lambda: open_segments(made(keys=fractional)))])
    follows("slicer-apart", "refused", [refusal(lambda: open_segments(made(data_file="x.raw")))])


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    for encoding in ("raw", "gzip", "bzip2"):
        path = write_seg_nrrd(
            tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS, encoding=encoding, sizes="500000 500000 500000"
        )
        assert "its header announces 500000 × 500000 × 500000 voxels (125 000 TB)" in refusal(
            lambda path=path: open_segments(path)
        )
        follows("slicer-bomb", "refused", [refusal(lambda path=path: open_segments(path))])


def test_cut_and_broken_pixels(tmp_path: Path) -> None:
    path = write_seg_nrrd(tmp_path / "x.seg.nrrd", LABELS, FLAT_KEYS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert "of 60 bytes of pixels; the file is cut off" in refusal(lambda: pixels_of(open_segments(path)))
    head = whole.split(b"\n\n", 1)[0]
    path.write_bytes(head + b"\n\n" + b"\x1f\x8b" + bytes(40))
    assert "its pixels cannot be unpacked" in refusal(lambda: pixels_of(open_segments(path)))
    # More than announced is not looked at: a file that unpacks without end takes no memory.
    path.write_bytes(head + b"\n\n" + gzip.compress(LABELS.tobytes() + bytes(50_000_000)))
    np.testing.assert_array_equal(pixels_of(open_segments(path))["Spleen"], LABELS == 3)
    with pytest.raises(DataError):
        open_segments(tmp_path)
