"""Each step on masks small enough to draw, with results counted by hand. Slices are 5 mm apart, rows 2 mm, columns 1 mm."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from autoseg_lib.errors import GeometryError, SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.postprocess.pipeline import STEPS, Postprocessing
from autoseg_lib.volume import Mask

LABELS = LabelTable(["liver", "tumour"])
# A pixel is 2 mm² and, with its slice, 10 mm³.
SPACING_MM = (5.0, 2.0, 1.0)


def drawn(*slices: str, spacing=SPACING_MM, positions=None, **known) -> Mask:
    """A mask from pictures: one text per slice, "." background, digits label values."""
    rows = [[list(row) for row in picture.split()] for picture in slices]
    array = np.array([[[0 if c == "." else int(c) for c in row] for row in one] for one in rows], np.uint8)
    known = {"spacing_known": True, "positions_known": True, "orientation_known": True, **known}
    geometry = Geometry.from_spacing(array.shape, spacing, **known)
    if positions is not None:
        geometry = Geometry(array.shape, geometry.affine, positions)
    return Mask(array, geometry)


def after(mask: Mask, *steps: dict) -> tuple[list[str], tuple[str, ...]]:
    """The pictures after the steps, and the notes; the mask given is untouched."""
    before = mask.array.copy()
    result, notes = Postprocessing.from_list(list(steps)).apply(mask, LABELS)
    assert np.array_equal(mask.array, before)
    assert result.array.dtype == mask.array.dtype
    pictures = [
        " ".join("".join("." if v == 0 else str(v) for v in row) for row in one) for one in result.array
    ]
    return pictures, notes


# --- largest pieces ------------------------------------------------------------------------------------------------------


def test_the_largest_piece_stays() -> None:
    mask = drawn("11... 11... ....1", "11... ..... .....", "..... ..... 2...2")
    pictures, notes = after(mask, {"step": "keep_largest"})
    assert pictures == ["11... 11... .....", "11... ..... .....", "..... ..... 2...."]
    # One liver pixel (5 × 2 × 1 = 10 mm³), and one of two equal pixels of the tumour: the first stays.
    assert notes == (
        "removed 1 island (10 mm³) of liver",
        "removed 1 island (10 mm³) of tumour",
    )


def test_pieces_hang_together_at_corners_unless_only_sides_count() -> None:
    mask = drawn("1.. .1. ..1")
    assert after(mask, {"step": "keep_largest"}) == (["1.. .1. ..1"], ())
    pictures, notes = after(mask, {"step": "keep_largest", "neighbours": "sides"})
    assert pictures == ["1.. ... ..."]
    assert notes == ("removed 2 islands (20 mm³) of liver",)


def test_corners_join_across_slices() -> None:
    mask = drawn("1.. ...", "... .1.")
    assert after(mask, {"step": "keep_largest"})[1] == ()
    assert after(mask, {"step": "keep_largest", "neighbours": "sides"})[0] == ["1.. ...", "... ..."]


def test_two_pieces_are_kept_when_two_are_asked_for() -> None:
    mask = drawn("11.1.1 11.1..")
    pictures, notes = after(mask, {"step": "keep_largest", "count": 2})
    assert pictures == ["11.1.. 11.1.."]
    assert notes == ("removed 1 island (10 mm³) of liver",)


def test_the_largest_piece_of_each_slice() -> None:
    # As volumes both slices' left pieces are one; slice by slice the second slice keeps its right piece.
    mask = drawn("11..1", "1..11")
    assert after(mask, {"step": "keep_largest"})[0] == ["11...", "1...."]
    pictures, notes = after(mask, {"step": "keep_largest", "per": "slice"})
    assert pictures == ["11...", "...11"]
    assert notes == ("removed 2 islands (4.0 mm²) of liver in 2 slices",)


def test_pieces_are_compared_by_volume_not_by_pixels() -> None:
    # Slices at 0, 1, 2 and 12 mm stand for 1, 1, 5.5 and 10 mm: two pixels of the last (40 mm³) outweigh
    # three of the first (6 mm³).
    mask = drawn("111.", "....", "....", "..11", positions=(0.0, 1.0, 2.0, 12.0), spacing=(4.0, 2.0, 1.0))
    pictures, notes = after(mask, {"step": "keep_largest"})
    assert pictures == ["....", "....", "....", "..11"]
    assert notes == ("removed 1 island (6 mm³) of liver",)


def test_only_the_rois_named_are_changed() -> None:
    mask = drawn("1.1.2.2")
    assert after(mask, {"step": "keep_largest", "rois": ["tumour"]})[0] == ["1.1.2.."]
    assert after(mask, {"step": "keep_largest", "rois": "2"})[0] == ["1.1.2.."]


def test_several_images_at_one_position_are_taken_one_by_one_and_it_is_said() -> None:
    mask = drawn("1.11", "11.1", positions=(0.0, 0.0))
    pictures, notes = after(mask, {"step": "keep_largest"})
    assert pictures == ["..11", "11.."]
    assert (
        notes[-1] == "the scan has several images at one position, so pieces were looked for slice by slice"
    )


# --- small pieces --------------------------------------------------------------------------------------------------------


def test_pieces_below_a_volume_go() -> None:
    mask = drawn("111..1 ......", "...... 1...11")
    # The left piece holds four pixels (40 mm³), the right one three (30 mm³), both joined at corners across the slices.
    assert after(mask, {"step": "remove_small", "below_mm3": 30})[1] == ()
    pictures, notes = after(mask, {"step": "remove_small", "below_mm3": 35})
    assert pictures == ["111... ......", "...... 1....."]
    assert notes == ("removed 1 island (30 mm³) of liver",)


def test_exactly_the_limit_stays() -> None:
    mask = drawn("111.11")
    assert after(mask, {"step": "remove_small", "below_mm3": 20})[1] == ()
    assert after(mask, {"step": "remove_small", "below_mm3": 20.5})[0] == ["111..."]
    pictures, notes = after(mask, {"step": "remove_small", "below_mm3": 31})
    assert pictures == ["......"]
    assert notes == ("removed 2 islands (50 mm³) of liver",)


def test_pieces_below_an_area_go_slice_by_slice() -> None:
    # The lone pixel of the second slice hangs together with the first slice, but its own area is 2 mm².
    mask = drawn("111", "1..")
    pictures, notes = after(mask, {"step": "remove_small", "below_mm2": 3})
    assert pictures == ["111", "..."]
    assert notes == ("removed 1 island (2.0 mm²) of liver in 1 slice",)


def test_pieces_below_a_share_of_the_largest_go_without_millimetres() -> None:
    mask = drawn("1111.11.1", spacing_known=False, positions_known=False)
    pictures, notes = after(mask, {"step": "remove_small", "below_percent": 50})
    assert pictures == ["1111.11.."]
    assert notes == ("removed 1 island (1 pixel) of liver",)


def test_the_share_is_of_the_largest_in_the_slice() -> None:
    mask = drawn("1111.1", "....11")
    step = {"step": "remove_small", "below_percent": 60, "per": "slice"}
    assert after(mask, step)[0] == ["1111..", "....11"]


def test_a_roi_that_is_small_as_a_whole_goes() -> None:
    mask = drawn("1111", "2.2.")
    pictures, notes = after(mask, {"step": "remove_small_roi", "below_mm3": 25})
    assert pictures == ["1111", "...."]
    assert notes == ("removed tumour (20 mm³), smaller than 25 mm³",)


# --- holes ---------------------------------------------------------------------------------------------------------------


def test_holes_are_filled_within_slices() -> None:
    mask = drawn("1111. 1..1. 1111.", "1111. 1.... 1111.")
    pictures, notes = after(mask, {"step": "fill_holes"})
    # The second slice's hole is open to the right.
    assert pictures == ["1111. 1111. 1111.", "1111. 1.... 1111."]
    assert notes == ("filled 1 hole (4.0 mm²) in liver",)


def test_a_hole_is_closed_by_corners() -> None:
    assert after(drawn(".1. 1.1 .1."), {"step": "fill_holes"})[0] == [".1. 111 .1."]


def test_a_hole_in_the_scan_is_closed_above_and_below() -> None:
    ring, lid = "111 1.1 111", "111 111 111"
    step = {"step": "fill_holes", "per": "scan"}
    assert after(drawn(lid, ring, lid), step) == ([lid] * 3, ("filled 1 hole (10 mm³) in liver",))
    # A tube is open at its ends, also where these are the scan's own.
    assert after(drawn(ring, ring, ring), step)[0] == [ring] * 3


def test_large_holes_stay() -> None:
    mask = drawn("111111 1.1..1 111111")
    step = {"step": "fill_holes", "up_to_mm2": 3}
    assert after(mask, step)[0] == ["111111 111..1 111111"]


def test_other_rois_in_a_hole_stay_unless_they_may_be_replaced() -> None:
    mask = drawn("1111 12.1 1111")
    assert after(mask, {"step": "fill_holes"})[0] == ["1111 1211 1111"]
    assert after(mask, {"step": "fill_holes", "rois": ["liver"], "over": ["tumour"]})[0] == ["1111 1111 1111"]


# --- places --------------------------------------------------------------------------------------------------------------


def test_pieces_that_do_not_touch_go_whole() -> None:
    mask = drawn("11.22 11... .22..", "..... ..... .....")
    pictures, notes = after(
        mask, {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "shape": "touching"}
    )
    # The lower tumour touches the liver at a corner.
    assert pictures == ["11... 11... .22..", "..... ..... ....."]
    assert notes == ("removed 20 mm³ of tumour outside liver",)


def test_a_gap_of_the_margin_still_counts_as_touching() -> None:
    # From column 1 to column 3 it is 2 mm from centre to centre.
    mask = drawn("11.22")
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "shape": "touching"}
    assert after(mask, {**step, "margin_mm": 1.9})[0] == ["11..."]
    assert after(mask, {**step, "margin_mm": 2})[0] == ["11.22"]


def test_the_mask_is_what_a_roi_encloses() -> None:
    mask = drawn("1111. 12.12 1111.")
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "per": "slice"}
    assert after(mask, step)[0] == ["1111. 12.1. 1111."]


def test_the_margin_is_in_mm_in_every_direction() -> None:
    # 2 mm reach two columns, one row, no slice (5 mm).
    around = "22222 22222 22122 22222 22222"
    mask = drawn("22222 22222 22222 22222 22222", around)
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "margin_mm": 2}
    assert after(mask, step)[0] == ["..... ..... ..... ..... .....", "..... ..2.. 22122 ..2.. ....."]
    # 5 mm reach the other slice, straight above: 5² + 1² > 5².
    pictures, _ = after(mask, {**step, "margin_mm": 5})
    assert pictures[0] == "..... ..... ..2.. ..... ....."


def test_the_margin_follows_uneven_slices() -> None:
    mask = drawn("2", "1", "2", positions=(0.0, 3.0, 9.0))
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "margin_mm": 4}
    assert after(mask, step)[0] == ["2", "1", "."]


def test_a_box_around_a_roi() -> None:
    mask = drawn("22222 21.22 221.2 22222", "22222 22222 22222 22222")
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "shape": "box"}
    assert after(mask, step)[0] == ["..... .1... .21.. .....", "..... ..... ..... ....."]
    # 1 mm is one column, but no row (2 mm) and no slice.
    assert after(mask, {**step, "margin_mm": 1})[0] == ["..... 21.2. 221.. .....", "..... ..... ..... ....."]
    assert after(mask, {**step, "margin_mm": 5})[0][1] == "22222 22222 22222 22222"


def test_only_in_slices_that_hold_another() -> None:
    mask = drawn("2.", "12", "2.", "2.")
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"], "shape": "slices"}
    assert after(mask, step)[0] == ["..", "12", "..", ".."]
    assert after(mask, {**step, "margin_mm": 5})[0] == ["2.", "12", "2.", ".."]


def test_what_happens_without_the_other_roi_is_chosen_and_said() -> None:
    mask = drawn("22.")
    step = {"step": "only_within", "rois": ["tumour"], "within": ["liver"]}
    assert after(mask, step) == (["22."], ("liver was not found, so tumour stayed as found",))
    assert after(mask, {**step, "if_absent": "remove"})[0] == ["..."]


def test_the_later_roi_gives_way() -> None:
    mask = drawn("1112222", ".......")
    step = {"step": "keep_apart", "margin_mm": 2}
    assert after(mask, {**step, "priority": ["liver", "tumour"]})[0][0] == "111..22"
    pictures, notes = after(mask, {**step, "priority": ["tumour", "liver"]})
    assert pictures[0] == "1..2222"
    assert notes == ("removed 20 mm³ of liver too close to another ROI",)


def test_rois_only_in_some_slices() -> None:
    mask = drawn("12", "12", "12", "12")
    pictures, notes = after(mask, {"step": "slice_range", "rois": ["liver"], "first": 2, "last": 3})
    assert pictures == [".2", "12", "12", ".2"]
    assert notes == ("removed 20 mm³ of liver outside the slices 2 to 3",)
    assert after(mask, {"step": "slice_range", "last": -2})[0] == ["12", "12", "12", ".."]
    assert after(mask, {"step": "slice_range", "first": -1})[0] == ["..", "..", "..", "12"]


def test_a_range_beyond_the_scan_says_how_many_slices_there_are() -> None:
    mask = drawn("1.", "1.", "1.")
    pictures, notes = after(mask, {"step": "slice_range", "rois": ["liver"], "first": 10, "last": 20})
    assert pictures == ["..", "..", ".."]
    text = "entirely: first = 10 and last = 20 leave no slice, the scan has 3 slices"
    assert notes == (f"removed 30 mm³ of liver {text}",)
    assert "first = 3 and last = -2" in after(mask, {"step": "slice_range", "first": 3, "last": -2})[1][0]
    for first, last in ((5, 2), (-1, -3)):
        with pytest.raises(SettingsError, match=f"first = {first} comes after last = {last}, so no slice"):
            Postprocessing.from_list([{"step": "slice_range", "first": first, "last": last}])


# --- smoothing -----------------------------------------------------------------------------------------------------------


def test_the_median_removes_a_spike_and_fills_a_notch() -> None:
    mask = drawn("....... ..1.... 1111111 1111.11 1111111")
    # Within 2 mm: two columns to each side and one row up and down: 7 pixels, 4 of them decide.
    pictures, notes = after(mask, {"step": "smooth", "median_radius_mm": 2, "per": "slice"})
    assert pictures == ["....... ....... 1111111 1111111 1111111"]
    assert notes == ("smoothed liver (4.0 mm² changed)",)


def test_the_median_reaches_as_far_as_its_millimetres() -> None:
    # 5 mm reach the neighbouring slices, 4.9 mm do not.
    mask = drawn("1", ".", "1", spacing=(5.0, 20.0, 20.0))
    assert after(mask, {"step": "smooth", "median_radius_mm": 5})[0] == ["1", "1", "1"]
    assert after(mask, {"step": "smooth", "median_radius_mm": 4.9})[0] == ["1", ".", "1"]


def test_a_straight_border_stays() -> None:
    mask = drawn(*["1111.... 1111.... 1111.... 1111...."] * 3)
    for step in ({"sigma_mm": 2.0}, {"median_radius_mm": 2.5}):
        assert after(mask, {"step": "smooth", **step}) == (["1111.... 1111.... 1111.... 1111...."] * 3, ())


def test_other_rois_neither_change_nor_count() -> None:
    # The tumour's spike stays, and the liver keeps its border with it.
    mask = drawn("..2.... 2222222 1111111 1111111 ....... .......")
    step = {"step": "smooth", "rois": ["liver"], "median_radius_mm": 2, "per": "slice"}
    assert after(mask, step) == (["..2.... 2222222 1111111 1111111 ....... ......."], ())


def test_smoothing_invents_no_label_between() -> None:
    generator = np.random.default_rng(1)
    array = generator.choice(np.array([0, 1, 2], np.uint8), (4, 12, 12))
    geometry = Geometry.from_spacing(array.shape, SPACING_MM, spacing_known=True, positions_known=True)
    steps = [{"step": "smooth", "sigma_mm": 1.0}]
    result, _ = Postprocessing.from_list(steps).apply(Mask(array, geometry), LABELS)
    assert set(np.unique(result.array)) <= {0, 1, 2}


def test_smoothing_many_rois_takes_the_memory_of_a_few() -> None:
    """40 ROIs: their 40 means would be 40 float32 images of the scan."""
    labels = LabelTable.numbered(40)
    array = np.zeros((20, 80, 80), np.uint8)
    for value in range(1, 41):
        row, column = divmod(value - 1, 8)
        array[2:18, 4 + 15 * row : 14 + 15 * row, 2 + 10 * column : 8 + 10 * column] = value
    array[10, ::7, ::5] = 0
    geometry = Geometry.from_spacing(array.shape, SPACING_MM, spacing_known=True, positions_known=True)
    steps = Postprocessing.from_list([{"step": "smooth", "sigma_mm": 1.5}])
    tracemalloc.start()
    try:
        result, notes = steps.apply(Mask(array, geometry), labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(notes) == 40 and result.array.max() == 40
    assert peak < 12 * array.size * 4


# --- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "option"),
    [
        ({"step": "remove_small", "below_mm3": 5}, "below_mm3"),
        ({"step": "remove_small", "below_mm2": 5}, "below_mm2"),
        ({"step": "remove_small_roi", "below_mm3": 5}, "below_mm3"),
        ({"step": "fill_holes", "up_to_mm2": 5}, "up_to_mm2"),
        ({"step": "smooth", "sigma_mm": 5}, "sigma_mm"),
        ({"step": "keep_apart", "priority": ["liver", "tumour"], "margin_mm": 5}, "margin_mm"),
        ({"step": "only_within", "rois": ["tumour"], "within": ["liver"], "margin_mm": 5}, "margin_mm"),
    ],
)
def test_millimetres_need_a_spacing(step: dict, option: str) -> None:
    mask = drawn("12", spacing_known=False, positions_known=False)
    message = (
        f"post-processing step '{step['step']}': {option} is in mm, and the scan has no pixel spacing. "
        "Fill in fov and matrix_size (from the scan protocol) in Settings, or take the step out."
    )
    with pytest.raises(GeometryError, match=re.escape(message)):
        after(mask, step)


def test_volumes_need_slice_distances() -> None:
    mask = drawn("1", "1", positions_known=False)
    with pytest.raises(GeometryError, match=r"the distances between the slices are unknown.*slice by slice"):
        after(mask, {"step": "remove_small", "below_mm3": 5})
    assert after(mask, {"step": "remove_small", "below_mm2": 1})[1] == ()


def test_smoothing_across_uneven_or_tilted_slices_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"the slices lie 3\.00 to 6\.00 mm apart"):
        after(drawn("1", "1", "1", positions=(0.0, 3.0, 9.0)), {"step": "smooth", "sigma_mm": 1})
    mask = drawn("11 11", "11 11")
    affine = mask.geometry.affine.copy()
    affine[1, 0] = 2.0  # each slice 2 mm further down: atan(2 / 5)
    tilted = Mask(mask.array, Geometry(mask.array.shape, affine))
    with pytest.raises(GeometryError, match=r"tilted by 21\.8 degrees"):
        after(tilted, {"step": "smooth", "sigma_mm": 1})
    assert after(tilted, {"step": "smooth", "sigma_mm": 1, "per": "slice"})[1] == ()


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Postprocessing.from_list(
            [
                {"step": "keep_larges"},
                {"step": "keep_largest", "count": 0, "perr": "slice"},
                {"step": "remove_small"},
                {"step": "remove_small", "below_mm3": 1, "below_mm2": 1},
                {"step": "slice_range", "first": 0},
                {"step": "keep_apart", "priority": ["liver"], "margin_mm": 1},
                7,
            ]
        )
    lines = str(error.value).split("\n")
    assert lines[0].startswith(
        "postprocessing, step 1: the step 'keep_larges' is not known; did you mean 'keep_largest'?"
    )
    assert any(
        "step 2 (keep_largest): the key 'perr' is not known; did you mean 'per'?" in line for line in lines
    )
    assert any("step 2 (keep_largest): count = 0: expected a whole number" in line for line in lines)
    assert any(
        "step 3 (remove_small): one of below_mm3, below_mm2 and below_percent is expected, found none" in x
        for x in lines
    )
    assert any(
        "step 4 (remove_small): one of" in line and "found below_mm3 and below_mm2" in line for line in lines
    )
    assert any("step 5 (slice_range)" in line and "there is no slice 0" in line for line in lines)
    assert any("step 6 (keep_apart): priority names two ROIs or more" in line for line in lines)
    assert any('step 7: found 7, expected a table with the key "step"' in line for line in lines)


def test_a_roi_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        SettingsError, match=r"step 1 \(fill_holes\): the ROI 'livr' is not known; did you mean 'liver'"
    ):
        after(drawn("1"), {"step": "fill_holes", "rois": ["livr"]})


def test_what_is_written_is_read_again() -> None:
    tables = [dict(kind.operation.example) for name, kind in STEPS.items() if name != "entry_point"]
    steps = Postprocessing.from_list(tables)
    assert Postprocessing.from_list(steps.to_list()) == steps
    # Defaults are left out, and every example is an operation of its own.
    assert [table["step"] for table in steps.to_list()] == [table["step"] for table in tables]
    assert Postprocessing.from_list([]).to_list() == []


def test_no_steps_leave_the_mask_as_it_is() -> None:
    mask = drawn("12")
    assert Postprocessing().apply(mask, LABELS) == (mask, ())
