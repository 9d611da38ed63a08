"""Pictures are turned, scaled and coloured as they should be; HTML never lets a file's name become markup."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import OKABE_ITO, LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.viz.figures import area_plot, curves
from autoseg_lib.viz.html import legend_html, note_html, table_html
from autoseg_lib.viz.overlay import CT_WINDOW_HU, grey_range, grey_window, outlines, overlay_rgb, picture
from autoseg_lib.viz.view import resize_labels, slice_view
from autoseg_lib.volume import Mask, reorient

TWO = LabelTable(["psoas left", "psoas right"])


def head(code: str, spacing: tuple[float, float, float] = (4.0, 2.0, 1.0)) -> Mask:
    """A mask stored with axes ``code`` whose voxel values tell where they lie: 1 right-front, 2 left-back."""
    array = np.zeros((6, 8, 10), np.uint8)
    array[3, 1, 1] = 1  # axial SPL: row 1 anterior, column 1 right
    array[3, 6, 8] = 2
    geometry = Geometry.from_spacing(
        array.shape, spacing, spacing_known=True, positions_known=True, orientation_known=True
    )
    return reorient(Mask(array, geometry), code)


@pytest.mark.parametrize("code", ["SPL", "SAR", "IPR", "SLP", "IRA", "SRP"])
def test_axial_slices_show_right_on_the_left_and_front_on_top(code: str) -> None:
    mask = head(code)
    view = slice_view(mask.geometry)
    plane = view.turn(mask.array[np.flatnonzero(mask.array.any(axis=(1, 2)))[0]])
    assert view.plane == "axial"
    assert view.edges == ("A", "L", "P", "R")
    assert plane.shape == (8, 10)
    assert (plane[1, 1], plane[6, 8]) == (1, 2)
    assert view.pixel_mm == pytest.approx((2.0, 1.0))


@pytest.mark.parametrize(
    ("code", "plane", "edges"),
    [
        ("PIL", "coronal", ("S", "L", "I", "R")),
        ("ASR", "coronal", ("S", "L", "I", "R")),
        ("RIP", "sagittal", ("S", "P", "I", "A")),
        ("LAS", "sagittal", ("S", "P", "I", "A")),
    ],
)
def test_other_planes(code: str, plane: str, edges: tuple[str, ...]) -> None:
    view = slice_view(head(code).geometry)
    assert (view.plane, view.edges) == (plane, edges)


def test_unknown_orientation_turns_nothing_and_has_no_letters() -> None:
    view = slice_view(Geometry.from_spacing((2, 3, 4)))
    plane = np.arange(12).reshape(3, 4)
    assert np.array_equal(view.turn(plane), plane)
    assert view.edges == ()
    assert view.scale_bar(640, 4) is None


def test_true_proportions_and_scale_bar() -> None:
    view = slice_view(head("SPL").geometry)
    # 8 rows of 2 mm, 10 columns of 1 mm: 16 mm high, 10 mm wide.
    assert view.display_shape((8, 10), 640) == (640, 400)
    # A third of 10 mm is 3.3 mm: the longest round length below is 2 mm, 80 of 400 pixels.
    assert view.scale_bar(400, 10) == (80, "2 mm")


def test_grey_windows() -> None:
    assert grey_range(np.zeros(3), "CT") == (-160.0, 240.0)
    assert grey_window(np.array([-1000.0, -160, 40, 240, 3000]), "CT").tolist() == [0, 0, 128, 255, 255]
    values = np.arange(1001, dtype=np.float32)
    assert grey_range(values, "MR") == pytest.approx((5.0, 995.0))
    assert grey_window(np.array([np.nan, np.inf, -np.inf, 5.0]), limits=(0.0, 10.0)).tolist() == [
        0,
        255,
        0,
        128,
    ]
    assert grey_window(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    assert grey_range(np.array([np.nan])) == (0.0, 1.0)


def test_outline_is_the_outermost_pixels_inside() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[2:7, 2:7] = 1
    one = outlines(label, 1)
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(one, expected)
    two = outlines(label, 2)
    assert two.sum() == 24
    assert not two[4, 4]


def test_outline_between_touching_rois_and_open_at_the_edge() -> None:
    label = np.ones((6, 8), np.uint8)
    label[:, 4:] = 2
    assert outlines(label, 1).any(axis=0).tolist() == [False] * 3 + [True] * 2 + [False] * 3


def test_overlay_colours_by_hand() -> None:
    grey = np.full((7, 7), 100, np.uint8)
    label = np.zeros((7, 7), np.uint8)
    label[1:6, 1:6] = 1
    rgb = overlay_rgb(grey, label, TWO, alpha=0.5, outline_px=1)
    orange = [int(OKABE_ITO[0][i : i + 2], 16) for i in (1, 3, 5)]
    assert rgb[0, 0].tolist() == [100, 100, 100]
    assert rgb[1, 1].tolist() == orange
    assert rgb[3, 3].tolist() == [round(0.5 * 100 + 0.5 * value) for value in orange]
    unnamed = overlay_rgb(grey, label * 9, TWO)
    assert np.array_equal(unnamed, np.full((7, 7, 3), 100))


def test_labels_scale_to_values_that_were_drawn() -> None:
    label = np.array([[0, 5], [200, 0]], np.uint8)
    assert resize_labels(label, (4, 6)).tolist() == [[0, 0, 0, 5, 5, 5]] * 2 + [[200, 200, 200, 0, 0, 0]] * 2
    assert resize_labels(label, (2, 2)).tolist() == label.tolist()


def test_picture_has_the_roi_where_it_lies() -> None:
    mask = head("SAR")
    rgb = picture(
        np.zeros((8, 10)),
        mask.array[3],
        TWO,
        slice_view(mask.geometry),
        limits=(0, 1),
        longest=320,
        marks=False,
    )
    assert rgb.shape == (320, 200, 3)
    # Row 1, column 1 of 8 × 10: the middle of that cell is at (60, 30).
    assert rgb[60, 30].tolist() == [230, 159, 0] or rgb[60, 30, 0] > rgb[60, 30, 2]
    assert rgb[260, 170, 2] > rgb[260, 170, 0]
    assert not rgb[160, 100].any()


def test_html_escapes_names() -> None:
    evil = "<img src=x onerror=alert(1)>"
    labels = LabelTable([evil])
    for page in (
        note_html("error", evil),
        table_html([[evil]], [evil]),
        legend_html(labels),
    ):
        assert "<img" not in page
        assert "&lt;img" in page


def test_table_aligns_numbers_and_leaves_unknown_cells_empty() -> None:
    page = table_html([["liver", 1.5, None], ["mean", "2.0", "x"]], ["ROI", "ml", "note"], strong_last=1)
    assert page.count('class="as-number"') == 3
    assert "None" not in page
    assert page.count('<tr class="as-strong">') == 1


def test_plots_are_pictures_even_with_gaps_in_the_history() -> None:
    history = [
        {"epoch": 1, "train_loss": 0.9, "val_loss": None, "val_dice": None},
        {"epoch": 2, "train_loss": 0.5, "val_loss": 0.6, "val_dice": 0.4, "val_dice_psoas left": 0.4},
    ]
    for rows in (history, history[:1], []):
        assert curves(rows, TWO).startswith(b"\x89PNG")


def test_area_plot_with_and_without_millimetres() -> None:
    mask = head("SPL")
    assert area_plot(measure_slices(mask, TWO, case="x"), TWO).startswith(b"\x89PNG")
    photo = Mask(mask.array, Geometry.from_spacing(mask.array.shape))
    assert area_plot(measure_slices(photo, TWO, case="x"), TWO).startswith(b"\x89PNG")


def test_a_ct_without_a_header_is_shown_in_the_soft_tissue_window() -> None:
    """A NIfTI file does not tell its modality: air and soft tissue do."""
    body = np.full((4, 20, 20), -1000.0, np.float32)
    body[:, 5:15, 5:15] = np.random.default_rng(0).normal(40, 20, (4, 10, 10))
    assert grey_range(body) == CT_WINDOW_HU
    assert grey_range(body, "MR") != CT_WINDOW_HU
    # MR has no such values, and normalised pictures neither.
    assert grey_range(body + 1000) != CT_WINDOW_HU
