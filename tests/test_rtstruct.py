"""RTSTRUCT: which pixels a contour holds, on which slice, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from autoseg_lib.errors import AutosegError, DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.contours import combine, contour_pixels
from autoseg_lib.io.dicom_geometry import series_geometry
from autoseg_lib.io.dicom_headers import read_headers
from autoseg_lib.io.dicom_series import DicomSeries, group_series
from autoseg_lib.io.segments import (
    SegmentFile,
    SegmentInfo,
    describe_segments,
    is_segment_file,
    open_segments,
    paint,
    same_name,
)
from tests.helpers.dicom import uid, write_series, write_slice
from tests.helpers.real_data import real_data
from tests.helpers.segments import contour, follows, write_rtstruct

# Slices at z = 0, 3, 6, 9 mm; rows 1 mm, columns 1 mm; the first pixel's centre at (0, 0).
GRID = Geometry.from_spacing(
    (4, 8, 10), (3, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
)


def polygon_area(points: np.ndarray) -> float:
    """The area inside a closed contour by the shoelace formula."""
    x, y = points[:, 0] - points[0, 0], points[:, 1] - points[0, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def filled(points: npt.ArrayLike, shape: tuple[int, int] = (8, 10)) -> npt.NDArray[np.bool_]:
    """Returns the pixels inside one contour of (row, column)."""
    layer = np.zeros(shape, bool)
    found = contour_pixels(np.array(points, dtype=float), shape)
    if found is not None:
        combine(layer, [found])
    return layer


def box(x0: float, y0: float, x1: float, y1: float, z: float) -> list[tuple[float, float, float]]:
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def one_roi(path: Path, contours: list, **options) -> SegmentFile:  # type: ignore[no-untyped-def]
    return open_segments(write_rtstruct(path / "rt.dcm", [("A", contours)], **options))


def only_layer(file: SegmentFile, geometry: Geometry = GRID, *args, **options) -> npt.NDArray[np.bool_]:  # type: ignore[no-untyped-def]
    [(_, layer)] = file.layers(geometry, *args, **options)
    return layer


def drawn(*rows: str) -> npt.NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in row] for row in rows])


# --- pixels inside a contour ------------------------------------------------------------------------------------------


def test_centres_on_the_edge_belong_to_the_growing_side() -> None:
    # Corners on pixel centres (1, 2) and (4, 6): rows 1 to 3 and columns 2 to 5 are inside, half-open.
    expected = drawn("........", "..####..", "..####..", "..####..", "........")
    np.testing.assert_array_equal(filled([(1, 2), (1, 6), (4, 6), (4, 2)], (5, 8)), expected)


def test_rounded_points_count_as_the_centres_they_were_meant_to_be() -> None:
    noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, (4, 2))
    expected = filled([(1, 2), (1, 6), (4, 6), (4, 2)])
    np.testing.assert_array_equal(filled(np.array([(1, 2), (1, 6), (4, 6), (4, 2)], float) + noise), expected)


def test_a_triangle_by_hand() -> None:
    # Row r crosses the long side at column 8.75 - 1.5 r: 8.75, 7.25, 5.75, 4.25, 2.75, 1.25.
    expected = drawn(
        ".########.",
        ".#######..",
        ".#####....",
        ".####.....",
        ".##.......",
        ".#........",
        "..........",
    )
    np.testing.assert_array_equal(filled([(-0.5, 0.5), (-0.5, 9.5), (5.5, 0.5)], (7, 10)), expected)


def test_keyhole_and_self_crossing() -> None:
    # Outer square, in along column 4.5, round the inner square, out again on the same line.
    keyhole = [
        (0.5, 0.5),
        (0.5, 4.5),
        (2.5, 4.5),
        (2.5, 2.5),
        (4.5, 2.5),
        (4.5, 4.5 + 2),
        (2.5, 6.5),
        (2.5, 4.5),
    ]
    keyhole += [(0.5, 4.5), (0.5, 8.5), (6.5, 8.5), (6.5, 0.5)]
    expected = drawn(
        "..........",
        ".########.",
        ".########.",
        ".##....##.",
        ".##....##.",
        ".########.",
        ".########.",
        "..........",
    )
    np.testing.assert_array_equal(filled(keyhole), expected)
    # An eight on its side: both loops are inside.
    eight = filled([(0.5, 0.5), (6.5, 8.5), (0.5, 8.5), (6.5, 0.5)])
    expected = np.zeros((8, 10), bool)
    for row in range(1, 7):  # the diagonals pass row r at columns 0.5 + 8 / 6 (r - 0.5) and mirrored
        cross = sorted((0.5 + 8 / 6 * (row - 0.5), 8.5 - 8 / 6 * (row - 0.5)))
        expected[row] = [0.5 <= c < cross[0] or cross[1] <= c < 8.5 for c in range(10)]
    np.testing.assert_array_equal(eight, expected)


def test_outside_and_degenerate_contours_hold_nothing() -> None:
    for points in ([(20, 20), (20, 30), (30, 30)], [(-5, -5), (-5, -1), (-1, -1)], [(1, 1), (1, 5), (1, 8)]):
        assert not filled(points).any()
    assert not filled([(1, 3), (6, 3), (3, 3)]).any()  # no width
    assert filled([(-1e6, -1e6), (-1e6, 1e6), (1e6, 1e6), (1e6, -1e6)]).all()


def in_or_out(point: tuple[float, float], polygon: npt.NDArray[np.float64]) -> bool:
    """The rule in its plainest form, one pixel and one edge at a time."""
    row, column = point
    inside = False
    for (r0, c0), (r1, c1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if r0 > r1:
            r0, c0, r1, c1 = r1, c1, r0, c0
        if r0 <= row < r1 and c0 + (row - r0) * ((c1 - c0) / (r1 - r0)) <= column:
            inside = not inside
    return inside


quarters = st.integers(-8, 48).map(lambda n: n / 4)
polygons = st.lists(st.tuples(quarters, quarters), min_size=3, max_size=9).map(lambda p: np.array(p, float))


@settings(max_examples=80, deadline=None)
@given(polygons)
def test_same_as_the_plain_rule(polygon: npt.NDArray[np.float64]) -> None:
    expected = [[in_or_out((row, column), polygon) for column in range(10)] for row in range(8)]
    np.testing.assert_array_equal(filled(polygon), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(quarters, quarters), min_size=1, max_size=4), st.integers(0, 3))
def test_neighbours_neither_overlap_nor_leave_gaps(path: list[tuple[float, float]], turn: int) -> None:
    """A box cut in two along any line: every pixel of the box is in exactly one half."""
    top, bottom = (-3.0, 4.0), (13.0, 4.5)
    line = [top, *sorted(path), bottom]
    left = [(-3.0, -3.0), *line, (13.0, -3.0)]
    right = [(-3.0, 13.0), *line, (13.0, 13.0)]
    left, right = left[turn:] + left[:turn], right[::-1]
    halves = filled(left).astype(int) + filled(right)
    np.testing.assert_array_equal(halves % 2, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_area_is_right_within_the_discretisation(seed: int) -> None:
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = random.uniform(12, 25) * (
        1 + 0.15 * np.cos(random.integers(2, 5) * angles + random.uniform(0, 6))
    )
    centre = random.uniform(28, 32, 2)
    points = centre + np.column_stack([np.sin(angles), np.cos(angles)]) * radius[:, np.newaxis]
    length = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1).sum()
    # Each pixel that the outline passes may be wrong by half a pixel at most, and errors on it even out.
    assert filled(points, (64, 64)).sum() == pytest.approx(polygon_area(points), abs=0.25 * length)


def test_many_points_need_no_more_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    zigzag = np.array([(row, 3.3 + 0.001 * n) for n in range(200) for row in (0.5, 6.5)] + [(6.5, 9.5)])
    expected = filled(zigzag)
    monkeypatch.setattr("autoseg_lib.io.contours._CHUNK_CROSSINGS", 7)
    np.testing.assert_array_equal(filled(zigzag), expected)


# --- several contours -------------------------------------------------------------------------------------------------


def test_holes_islands_and_pieces(tmp_path: Path) -> None:
    file = one_roi(
        tmp_path,
        [contour(box(0.5, 0.5, 7.5, 6.5, 3)), contour(box(1.5, 1.5, 6.5, 5.5, 3)), contour(box(3.5, 2.5, 4.5, 4.5, 3)),
         contour(box(8.5, 0.5, 9.5, 2.5, 3))],
    )  # fmt: skip
    expected = drawn(
        "..........",
        ".#######.#",
        ".#.....#.#",
        ".#..#..#..",
        ".#..#..#..",
        ".#.....#..",
        ".#######..",
        "..........",
    )
    layer = only_layer(file)
    np.testing.assert_array_equal(layer[1], expected)
    assert layer.sum() == expected.sum()
    assert file.warnings == ()
    follows("rtstruct-holes", "read")


def test_the_same_contour_twice_counts_once(tmp_path: Path) -> None:
    square = box(0.5, 0.5, 3.5, 3.5, 0)
    file = one_roi(tmp_path, [contour(square), contour(square[::-1])])
    assert only_layer(file).sum() == 9
    assert file.warnings == ("'A': 1 contour stored twice; each counts once.",)
    follows("rtstruct-twice", "read, said", file.warnings)


def test_crossing_contours_are_said(tmp_path: Path) -> None:
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 5.5, 5.5, 0)), contour(box(3.5, 0.5, 8.5, 5.5, 0))])
    assert only_layer(file).sum() == 25 + 25 - 2 * 10
    assert file.warnings == (
        "'A': contours on one slice cross each other; the 10 pixels inside both count as outside (even-odd rule). "
        "Please look.",
    )
    follows("rtstruct-crossing", "read, said", file.warnings)


def test_an_roi_on_every_second_slice_is_said(tmp_path: Path) -> None:
    def scan(count: int) -> Geometry:
        return Geometry.from_spacing(
            (count, 8, 10), (3, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
        )

    def on(*slices: int) -> SegmentFile:
        return one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 3 * index)) for index in slices])

    file = on(0, 2, 4)
    assert only_layer(file, scan(6)).sum(axis=(1, 2)).tolist() == [9, 0, 9, 0, 9, 0]
    assert file.warnings == (
        "'A': it has contours on 3 of the 5 slices from its first to its last, never on two in a row; the slices between count "
        "as empty. If it was drawn on every few slices only, fill in the others where it was drawn, and export it again.",
    )
    follows("rtstruct-every-second", "read, said", file.warnings)
    for slices in [(0, 2), (0, 2, 3), (1, 2, 3)]:
        file = on(*slices)
        assert only_layer(file, scan(6)).any() and file.warnings == ()


def test_crumbs_are_put_together(tmp_path: Path) -> None:
    crumbs = [
        contour(box(x + 0.5, y + 0.5, x + 1.5, y + 1.5, 0)) for x in range(0, 8, 2) for y in range(0, 6, 2)
    ]
    assert only_layer(one_roi(tmp_path, crumbs)).sum() == len(crumbs)


# --- on which slice ---------------------------------------------------------------------------------------------------


def test_slices_by_position_rounded(tmp_path: Path) -> None:
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, z)) for z in (0.04, 2.96, 8.9)])
    np.testing.assert_array_equal(only_layer(file).sum(axis=(1, 2)), [9, 9, 0, 9])
    assert file.warnings == ()
    follows("rtstruct-by-position", "read")


def test_image_reference_wins_where_it_can_be_right(tmp_path: Path) -> None:
    uids = [f"1.2.{n}" for n in range(4)]
    # 1.2 mm off slice 1 (at 3 mm): too far by position alone, but named.
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 4.2), image="1.2.1")])
    np.testing.assert_array_equal(only_layer(file, GRID, uids).sum(axis=(1, 2)), [0, 9, 0, 0])
    # Names slice 3 (at 9 mm) and lies on slice 0: placed by position, and said.
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0), image="1.2.3")])
    np.testing.assert_array_equal(only_layer(file, GRID, uids).sum(axis=(1, 2)), [9, 0, 0, 0])
    assert file.warnings == ("1 contour named an image at another position; placed by position.",)
    follows("rtstruct-wrong-image", "read, said", file.warnings)
    # Names an image that is not there.
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 6), image="9.9")])
    np.testing.assert_array_equal(only_layer(file, GRID, uids).sum(axis=(1, 2)), [0, 0, 9, 0])


def test_several_images_at_one_position(tmp_path: Path) -> None:
    affine = np.eye(4)[:, [2, 1, 0, 3]]
    cine = Geometry((3, 8, 10), affine, (0.0, 0.0, 0.0), True, True, True)
    square = box(0.5, 0.5, 3.5, 3.5, 0)
    named = one_roi(tmp_path, [contour(square, image="1.2.1")])
    np.testing.assert_array_equal(
        only_layer(named, cine, ["1.2.0", "1.2.1", "1.2.2"]).sum(axis=(1, 2)), [0, 9, 0]
    )
    with pytest.raises(DataError, match="several images at one position, and the contours do not say which"):
        one_roi(tmp_path, [contour(square)]).layers(cine)
    follows("rtstruct-cine", "refused", [refusal(lambda: one_roi(tmp_path, [contour(square)]).layers(cine))])


def test_single_slice(tmp_path: Path) -> None:
    single = Geometry.from_spacing((1, 8, 10), (5, 1, 1), spacing_known=True, orientation_known=True)
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0)), contour(box(0.5, 0.5, 3.5, 3.5, 5))])
    assert only_layer(file, single).sum() == 9
    assert file.warnings == ("1 contour lies beyond the first or last slice of the scan; left out.",)


def test_uneven_slices(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    uneven = Geometry((4, 8, 10), affine, (0.0, 2.0, 6.0, 9.0), True, True, True)
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, z)) for z in (0, 2, 6, 9)])
    np.testing.assert_array_equal(only_layer(file, uneven).sum(axis=(1, 2)), [9, 9, 9, 9])


def test_oblique_and_tilted_grids_and_uneven_pixels(tmp_path: Path) -> None:
    """The same pixels come out on any grid when the contour is drawn in the grid's own pixels."""
    square = np.array([(1, 2), (1, 6), (5, 6), (5, 2)]) - 0.4
    expected = filled(square)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.5, 0.8)
    rotation = np.array(turn.GetMatrix()).reshape(3, 3)
    for shear in (0.0, 1.1):
        affine = np.eye(4)
        steps = np.array([[0, 0, 0.7], [shear, 1.9, 0], [4, 0, 0]])  # columns: slice, row, column
        affine[:3, :3] = rotation @ steps
        affine[:3, 3] = (-120.3, 44.1, 800.7)
        grid = Geometry((4, 8, 10), affine, None, True, True, True)
        points = grid.index_to_point(np.column_stack([np.full(4, 2), square]))
        layer = only_layer(one_roi(tmp_path, [contour(points.tolist())]), grid)
        np.testing.assert_array_equal(layer[2], expected)
        assert layer.sum() == expected.sum()
    follows("rtstruct", "read")


def test_slices_closer_than_a_clinical_scanner_places_them(tmp_path: Path) -> None:
    fine = Geometry.from_spacing(
        (4, 8, 10), (0.008, 0.01, 0.01), spacing_known=True, positions_known=True, orientation_known=True
    )
    square = contour(box(0.005, 0.005, 0.035, 0.035, 0.0161))
    np.testing.assert_array_equal(
        only_layer(one_roi(tmp_path, [square]), fine).sum(axis=(1, 2)), [0, 0, 9, 0]
    )


def test_slices_shifted_within_their_planes(tmp_path: Path) -> None:
    origins = [(0, 0, 0), (2, 0, 3), (0, 1, 6), (0, 0, 9)]
    square = box(2.5, 2.5, 4.5, 4.5, 3)
    layer = only_layer(one_roi(tmp_path, [contour(square)]), GRID, slice_origins_xyz_mm=origins)
    np.testing.assert_array_equal(layer[1], filled([(2.5, 0.5), (2.5, 2.5), (4.5, 2.5), (4.5, 0.5)]))


# --- what is left out, and said ---------------------------------------------------------------------------------------


def test_left_out_and_said(tmp_path: Path) -> None:
    good = [contour(box(0.5, 0.5, 3.5, 3.5, z)) for z in (0, 3, 6, 9)] * 3
    path = write_rtstruct(
        tmp_path / "rt.dcm",
        [
            ("Liver", [*good[:4], contour(box(0.5, 0.5, 3.5, 3.5, 40)), contour([(1, 1, 0)] * 2)]),
            ("Isocentre", [contour([(1, 1, 0)], kind="POINT")]),
            ("Line", [contour([(1, 1, 0), (2, 2, 0), (3, 3, 0)], kind="OPEN_PLANAR")]),
            ("Nothing", []),
            ("Edge", [contour(box(7.5, 5.5, 12.5, 9.5, 0)), contour(box(50, 50, 60, 60, 0))]),
        ],
    )
    file = open_segments(path)
    assert [segment.name for segment in file.segments] == ["Liver", "Edge"]
    layers = {segment.name: layer for segment, layer in file.layers(GRID)}
    assert layers["Liver"].sum() == 36 and layers["Edge"].sum() == 2 * 2
    assert set(file.warnings) == {
        "left out: 1 × contour of fewer than 3 points.",
        "left out: 1 × point.",
        "left out: 1 × open line.",
        "ROIs without a closed contour, left out: 'Isocentre', 'Line', 'Nothing'.",
        "1 contour lies beyond the first or last slice of the scan; left out.",
        "1 contour lies outside the picture; left out.",
        "1 contour lies over the edge of the picture; cut off there.",
    }
    for row in ("rtstruct-beyond", "rtstruct-points", "rtstruct-empty-rois"):
        follows(row, "read, said", file.warnings)


def test_a_few_contours_between_slices_are_left_out(tmp_path: Path) -> None:
    good = [contour(box(x + 0.5, 0.5, x + 1.5, 1.5, z)) for z in (0, 3, 6, 9) for x in range(0, 8, 2)]
    file = one_roi(tmp_path, [*good, contour(box(0.5, 0.5, 3.5, 3.5, 4.4))])
    assert only_layer(file).sum() == len(good)
    assert file.warnings == (
        "1 contour lies between the slices of the scan; left out. Slices may be missing.",
    )
    follows("rtstruct-between", "read, said", file.warnings)


def test_names(tmp_path: Path) -> None:
    square = [contour(box(0.5, 0.5, 3.5, 3.5, 0))]
    other = [contour(box(4.5, 0.5, 5.5, 3.5, 0))]
    path = write_rtstruct(
        tmp_path / "rt.dcm", [(" Lung\x07 \u202eLeft ", square), ("Lung Left", other), ("", other)]
    )
    file = open_segments(path)
    assert file.segments == (
        SegmentInfo(1, "Lung Left"),
        SegmentInfo(2, "Lung Left"),
        SegmentInfo(3, "ROI 3"),
    )
    assert file.warnings == ("several ROIs have the same name and are taken together: 'Lung Left'.",)
    labels, notes = paint(file.layers(GRID), {"lung_left": 1})
    assert (labels == 1).sum() == 9 + 3
    assert notes == ("ROIs that are not in labels_list, left out: 'ROI 3'.",)
    assert describe_segments(path) == "RTSTRUCT with 3 ROIs: 'Lung Left', 'Lung Left', 'ROI 3'"
    assert same_name("Lung-LEFT _x") == same_name("lungleftX")
    follows("rtstruct-same-names", "read, said", file.warnings)


def test_roi_in_another_frame_of_reference(tmp_path: Path) -> None:
    square = [contour(box(0.5, 0.5, 3.5, 3.5, 0))]
    rois = [("A", square), ("B", square), ("Registered", square)]
    file = open_segments(write_rtstruct(tmp_path / "rt.dcm", rois, frames={3: "1.2.3"}))
    assert [segment.name for segment in file.segments] == ["A", "B"]
    assert file.frame_of_reference_uid == uid("frame")
    assert file.warnings == (
        "drawn in another frame of reference than the rest of the file, left out: 'Registered'.",
    )


def test_bare_files(tmp_path: Path) -> None:
    """No observations, no references, no contour type: contours alone are enough."""
    file = one_roi(
        tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0), kind=None)], frame="", series=None, observations=False
    )
    assert (file.frame_of_reference_uid, file.referenced_series_uids) == ("", frozenset())
    assert only_layer(file).sum() == 9
    file.check_frame_of_reference("1.2.3", "scan_1")  # unknown on one side: not refused


def test_references(tmp_path: Path) -> None:
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0))], series="x")
    assert file.referenced_series_uids == {uid("series", "x")}
    assert "1.2.826" not in repr(file)
    assert (file.kind, file.geometry) == ("RTSTRUCT", None)


# --- refused ----------------------------------------------------------------------------------------------------------


def refusal(call) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(AutosegError) as caught:
        call()
    return str(caught.value)


def test_wrong_frame_of_reference(tmp_path: Path) -> None:
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0))])
    assert refusal(lambda: file.check_frame_of_reference("1.2.3", "scan_1")) == (
        "'rt.dcm': it was drawn in another frame of reference (another scan session, or after the patient was moved) than "
        "the scan 'scan_1' has, so its ROIs would lie in the wrong place. Choose the series it was drawn on, or the file "
        "that belongs to this scan."
    )
    follows("rtstruct-frame", "refused", [refusal(lambda: file.check_frame_of_reference("1.2.3", "s"))])
    named = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0), image="1.2.1")])
    assert "another frame of reference" in refusal(
        lambda: named.check_frame_of_reference("1.2.3", "s", ["1.2.2"])
    )
    named.check_frame_of_reference("1.2.3", "s", ["1.2.1", "1.2.2"])
    follows("rtstruct-own-frame", "read, said", named.warnings)


def test_other_slices_or_another_scan(tmp_path: Path) -> None:
    between = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, z)) for z in (0, 1.5, 3, 4.5, 6)])
    assert refusal(lambda: between.layers(GRID)) == (
        "'rt.dcm': 2 of 5 contours lie between the slices of the scan (slices 3.00 mm apart); they were drawn on other "
        "slices, or slices are missing. Choose the series they were drawn on."
    )
    across = one_roi(tmp_path, [contour([(1, 1, 0), (1, 6, 0), (1, 6, 9), (1, 1, 9)])])
    assert "1 of 1 contours do not lie in the planes of the scan's slices" in refusal(
        lambda: across.layers(GRID)
    )
    away = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 500))])
    assert refusal(lambda: away.layers(GRID)) == (
        "'rt.dcm': no contour lies on this scan (contours from 500.0 to 500.0 mm along the slices' normal, slices from "
        "0.0 to 9.0 mm). It belongs to another scan."
    )
    beside = one_roi(tmp_path, [contour(box(100, 100, 110, 110, 0))])
    assert "no contour lies on this scan" in refusal(lambda: beside.layers(GRID))
    follows("rtstruct-other-slices", "refused", [refusal(lambda: between.layers(GRID))])
    follows("rtstruct-other-direction", "refused", [refusal(lambda: across.layers(GRID))])
    follows("rtstruct-elsewhere", "refused", [refusal(lambda: away.layers(GRID))])


def test_scan_without_places(tmp_path: Path) -> None:
    file = one_roi(tmp_path, [contour(box(0.5, 0.5, 3.5, 3.5, 0))])
    assert "the scan has no pixel spacing, so they cannot be placed on it" in refusal(
        lambda: file.layers(Geometry.from_spacing((4, 8, 10)))
    )
    unplaced = Geometry.from_spacing((4, 8, 10), spacing_known=True, orientation_known=True)
    assert "the scan has no slice positions" in refusal(lambda: file.layers(unplaced))
    assert "the scan has no image orientation" in refusal(
        lambda: file.layers(Geometry.from_spacing((4, 8, 10), spacing_known=True))
    )
    follows("rtstruct-no-place", "refused", [refusal(lambda: file.layers(Geometry.from_spacing((4, 8, 10))))])


def test_unusable_files(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", [("A", []), ("B", [contour([(1, 1, 0)], kind="POINT")])])
    assert refusal(lambda: open_segments(path)) == (
        "'rt.dcm': found no usable contour (closed, of at least 3 points) in 2 ROIs. Export the structure set again, with "
        "its contours."
    )
    follows("rtstruct-nothing", "refused", [refusal(lambda: open_segments(path))])
    assert "found no ROI at all" in refusal(lambda: open_segments(write_rtstruct(path, [])))
    broken = contour(box(0, 0, 1, 1, 0))
    broken.ContourData = broken.ContourData[:-1]
    assert "a contour has 11 coordinates, expected three for each point" in refusal(
        lambda: one_roi(tmp_path, [broken])
    )
    huge = contour([(1e30, 0, 0), (0, 1e30, 0), (0, 0, 0)])
    assert "coordinates that are no places in a scanner" in refusal(lambda: one_roi(tmp_path, [huge]))
    follows("rtstruct-damaged", "refused", [refusal(lambda: one_roi(tmp_path, [huge]))])
    whole = write_rtstruct(path, [("A", [contour(box(0, 0, 5, 5, 0))])]).read_bytes()
    text = tmp_path / "x.dcm"
    text.write_bytes(whole.replace(b"\\5\\", b"\\x\\"))
    assert "coordinates that are no places in a scanner" in refusal(lambda: open_segments(text))
    assert "not found" in refusal(lambda: open_segments(tmp_path / "missing.dcm"))
    text.write_text("hello")
    assert "it holds no ROIs by name" in refusal(lambda: open_segments(text))
    assert describe_segments(text) == "a file with ROIs that cannot be read"


def test_cut_files_are_refused_or_whole(tmp_path: Path) -> None:
    """A file cut anywhere never gives other pixels."""
    good = [contour(box(0.5, 0.5, 3.5, 3.5, z)) for z in (0, 3, 6, 9)]
    whole = write_rtstruct(tmp_path / "rt.dcm", [("A", good), ("B", good)]).read_bytes()
    cut = tmp_path / "cut.dcm"
    complete = 0
    for length in range(140, len(whole), 23):
        cut.write_bytes(whole[:length])
        try:
            file = open_segments(cut)
        except DataError:
            continue
        complete += 1
        assert [layer.sum() for _, layer in file.layers(GRID)] == [36, 36]
    assert complete < len(whole) / 23 / 2


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_encoding(tmp_path: Path, syntax: str) -> None:
    path = write_rtstruct(
        tmp_path / "rt.dcm", [("Leber links", [contour(box(0.5, 0.5, 3.5, 3.5, 3))])], transfer_syntax=syntax
    )
    assert is_segment_file(path)
    file = open_segments(path)
    assert file.segments == (SegmentInfo(1, "Leber links"),)
    assert only_layer(file)[1].sum() == 9


def test_without_meta_header(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", [("A", [contour(box(0.5, 0.5, 3.5, 3.5, 3))])])
    raw = path.read_bytes()
    path.write_bytes(raw[144 + int.from_bytes(raw[140:144], "little") :])
    assert is_segment_file(path)
    assert only_layer(open_segments(path))[1].sum() == 9


def test_told_by_content(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "no suffix é", [("A", [contour(box(0, 0, 5, 5, 0))])])
    assert is_segment_file(path)
    image = write_slice(tmp_path / "image.dcm", np.zeros((4, 4), np.uint16))
    for other in (image, tmp_path, tmp_path / "missing", tmp_path / "empty"):
        if other.name == "empty":
            other.write_bytes(b"")
        assert not is_segment_file(other)


# --- painting ---------------------------------------------------------------------------------------------------------


def layers_of(**boxes: slice) -> list[tuple[SegmentInfo, npt.NDArray[np.bool_]]]:
    found = []
    for number, (name, part) in enumerate(boxes.items(), start=1):
        layer = np.zeros((1, 1, 10), bool)
        layer[..., part] = True
        found.append((SegmentInfo(number, name), layer))
    return found


def test_overlaps_by_priority() -> None:
    layers = layers_of(A=slice(0, 6), B=slice(4, 9), C=slice(5, 7))
    labels, notes = paint(layers, {"A": 1, "B": 2, "C": 3})
    assert labels.ravel().tolist() == [1, 1, 1, 1, 2, 3, 3, 2, 2, 0]
    assert notes[0] == (
        "'B' and 'A' overlap in 2 pixels, which count as 'B'. For another order, set overlap_priority."
    )
    labels, _ = paint(layers, {"A": 1, "B": 2, "C": 3}, priority=["a"])
    assert labels.ravel().tolist() == [1, 1, 1, 1, 1, 1, 3, 2, 2, 0]
    labels, _ = paint(layers, {"C": 3, "B": 2, "A": 1}, priority=["B", "C"])
    assert labels.ravel().tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    # The order of the file makes no difference.
    labels, _ = paint(layers[::-1], {"A": 1, "B": 2, "C": 3})
    assert labels.ravel().tolist() == [1, 1, 1, 1, 2, 3, 3, 2, 2, 0]
    follows("overlap", "read, said", notes)


def test_rois_of_one_value_lie_at_one_height_whatever_the_order_of_the_file() -> None:
    layers = layers_of(A=slice(0, 4), B=slice(2, 8), C=slice(6, 10))
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]):
        labels, _ = paint([layers[index] for index in order], {"A": 1, "B": 2, "C": 1})
        assert labels.ravel().tolist() == [1, 1, 1, 1, 2, 2, 1, 1, 1, 1], order
        labels, _ = paint([layers[index] for index in order], {"A": 1, "B": 2, "C": 1}, priority=["b"])
        assert labels.ravel().tolist() == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1], order


def test_one_value_for_several_rois_and_large_values() -> None:
    layers = layers_of(A=slice(0, 6), B=slice(4, 9))
    labels, notes = paint(layers, {"A": 300, "B": 300})
    assert labels.dtype == np.uint16 and (labels == 300).sum() == 9 and notes == ()
    with pytest.raises(DataError, match="from 1 to 65535, found 0"):
        paint(layers, {"A": 0})


# --- against other software -------------------------------------------------------------------------------------------


def series_in(folder: Path) -> DicomSeries:
    scan = read_headers(sorted(folder.glob("*.dcm")))
    [series] = group_series(scan.headers)
    return series


def by_plastimatch(rtstruct: Path, images: Path, out: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns plastimatch's pixels of each ROI; skips where plastimatch is missing."""
    if shutil.which("plastimatch") is None:
        if os.environ.get("AUTOSEG_REQUIRE_ALL") == "1":
            pytest.fail("plastimatch is not installed (Debian: apt-get install plastimatch)")
        pytest.skip("plastimatch is not installed")
    command = ["plastimatch", "convert", "--input", str(rtstruct), "--referenced-ct", str(images)]
    command += ["--output-prefix", str(out), "--prefix-format", "nrrd", "--xor-contours"]
    subprocess.run(command, check=True, capture_output=True)
    return {
        path.stem: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
        for path in sorted(out.glob("*.nrrd"))
    }


# Volumes by polygon area × 3 mm, from the data set's own table.
PHANTOM_ML = {"pat_1": 358.66, "pat_2": 6.43, "pat_3": 11.40, "pat_4": 123.64}
PHANTOM_SLICES = {"pat_1": 26, "pat_2": 7, "pat_3": 12, "pat_4": 23}


@pytest.mark.real_data
@pytest.mark.parametrize("patient", sorted(PHANTOM_ML))
def test_lung_phantom(patient: str, tmp_path: Path) -> None:
    folder = real_data("radiomics_phantom_rtstruct") / patient
    if not folder.exists():
        pytest.skip(f"{patient} is not among the real scans here")
    series = series_in(folder)
    geometry, _ = series_geometry(series.headers)
    [rtstruct] = folder.glob("DCM_RS_*.dcm")
    file = open_segments(rtstruct)
    assert [segment.name for segment in file.segments] == ["GTV-1"]
    assert file.frame_of_reference_uid == series.headers[0].frame_of_reference_uid
    assert series.headers[0].series_uid in file.referenced_series_uids
    layer = only_layer(file, geometry, [header.sop_uid for header in series.headers])
    assert file.warnings == ()
    assert np.count_nonzero(layer.any(axis=(1, 2))) == PHANTOM_SLICES[patient]
    millilitres = layer.sum() * geometry.pixel_area_mm2 * geometry.spacing_zyx_mm[0] / 1000
    assert millilitres == pytest.approx(PHANTOM_ML[patient], rel=0.01)
    theirs = by_plastimatch(rtstruct, folder, tmp_path)
    np.testing.assert_array_equal(layer, theirs["GTV-1"])


def test_hard_cases_as_plastimatch(tmp_path: Path) -> None:
    """Holes, keyholes, islands, crossing contours and the picture's edge, off the pixel centres."""
    images = tmp_path / "images"
    write_series(
        images, np.zeros((5, 40, 48), np.int16), origin=(-20.13, -17.77, 100), step=(0, 0, 2.5), spacing=(1.3, 0.9),
        modality="CT", RescaleSlope=1, RescaleIntercept=0, SliceThickness=2.5,
    )  # fmt: skip

    def ring(
        x: float, y: float, radius: float, z: float, points: int = 23
    ) -> list[tuple[float, float, float]]:
        angles = np.linspace(0.1, 0.1 + 2 * np.pi, points, endpoint=False)
        return [(round(x + radius * np.cos(a), 3), round(y + radius * np.sin(a), 3), z) for a in angles]

    outer, inner = ring(0, 5, 12, 105), ring(0.4, 5.3, 6, 105)
    keyhole = [*outer, outer[0], *inner[::-1], inner[-1], outer[0]]
    path = write_rtstruct(
        tmp_path / "rt.dcm",
        [
            (
                "hole",
                [
                    contour(ring(0, 5, 12, 102.5)),
                    contour(ring(1, 5, 5, 102.5)),
                    contour(ring(1, 5, 2, 102.5)),
                ],
            ),
            ("keyhole", [contour(keyhole)]),
            ("pieces", [contour(ring(-10, 0, 4, z)) for z in (100, 110)] + [contour(ring(9, 12, 3, 100))]),
            ("crossing", [contour(ring(-3, 5, 8, 107.5)), contour(ring(5, 5, 8, 107.5))]),
            ("edge", [contour(ring(-18, -16, 9, 102.5)), contour(ring(20, 30, 9, 102.5))]),
        ],
    )
    series = series_in(images)
    geometry, _ = series_geometry(series.headers)
    ours = {segment.name: layer for segment, layer in open_segments(path).layers(geometry)}
    theirs = by_plastimatch(path, images, tmp_path / "out")
    assert sorted(ours) == sorted(theirs)
    for name, layer in ours.items():
        np.testing.assert_array_equal(layer, theirs[name], err_msg=name)


@pytest.mark.real_data
def test_structure_sets_of_rt_utils() -> None:
    folder = real_data("nasty_dicom") / "rt_utils" / "mock_data"
    series = series_in_images(folder)
    geometry, _ = series_geometry(series.headers)
    file = open_segments(folder / "rt.dcm")
    assert [segment.name for segment in file.segments] == ["ROI-1"]
    uids = [header.sop_uid for header in series.headers]
    frame = series.headers[0].frame_of_reference_uid
    # It invents a frame of reference of its own, but names these very images.
    with pytest.raises(DataError, match="another frame of reference"):
        file.check_frame_of_reference(frame, "scan")
    file.check_frame_of_reference(frame, "scan", uids)
    layer = only_layer(file, geometry, uids)
    # The square from -51 to -27 mm (49.15 pixels of 0.488 mm each way) and the octagon in its corner, the same slice.
    assert layer[0].any() and not layer[1].any()
    assert "names the scan's own images" in file.warnings[0]
    other = open_segments(folder / "invalid_reference_rt.dcm")
    assert [segment.name for segment in other.segments] == ["ROI-1", "ROI-2", "ROI-3", "ROI-4"]
    other.check_frame_of_reference(frame, "scan", uids)
    # Slices at 60 and 65 mm; one contour of each ROI lies at 70 mm.
    assert all(a.any() for _, a in other.layers(geometry, uids))
    assert other.warnings == ("4 contours lie beyond the first or last slice of the scan; left out.",)


def series_in_images(folder: Path) -> DicomSeries:
    scan = read_headers(sorted(path for path in folder.glob("*.dcm") if not is_segment_file(path)))
    return group_series(scan.headers)[0]
