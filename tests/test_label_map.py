"""Codes in label files: what is proposed for them, how the proposal is written, and what a map does."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg_lib.data.label_map import (
    apply_map,
    codes_message,
    look_like_codes,
    map_option,
    map_text,
    propose_map,
)
from autoseg_lib.errors import SettingsError
from autoseg_lib.io.label_codes import code_key, code_of
from autoseg_lib.settings import TrainSettings, label_map_of, make_settings

RED, GREEN, PLANES = code_of("#FF0000"), code_of("#00FF00"), [code_of(f"plane {k}") for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("values", "proposed"),
    [
        ([0, 1, 2, 3], None),
        ([0], None),
        ([], None),
        ([0, 255], {255: 1}),
        ([0, 63], {63: 1}),
        ([0, 63, 126], {63: 1, 126: 2}),
        ([0, 85, 170, 255], {85: 1, 170: 2, 255: 3}),
        ([0, 3, 7], {3: 1, 7: 2}),
        ([0, RED, GREEN], {"#00FF00": 1, "#FF0000": 2}),
        ([0, 128, RED], {128: 1, "#FF0000": 2}),
        (PLANES, {"plane 1": 0, "plane 2": 1, "plane 3": 2}),
        ([0, *PLANES], {"plane 1": 1, "plane 2": 2, "plane 3": 3}),
        (range(300), None),
        ([0, *range(2, 40)], None),
        (range(0, 3000, 10), None),
    ],
)
def test_proposals(values, proposed) -> None:
    assert propose_map(values) == proposed
    if proposed:
        # The setting takes what is proposed, as Settings, the command line, and a model's JSON write it.
        assert label_map_of(proposed) == proposed
        assert label_map_of(map_option(proposed)) == proposed
        assert label_map_of({str(key): value for key, value in proposed.items()}) == proposed
        assert make_settings(TrainSettings, {"label_map": proposed}).label_map == proposed


def test_an_inverted_mask_is_proposed_by_its_share() -> None:
    assert propose_map([0, 255], {0: 0.02, 255: 0.98}) == {0: 1, 255: 0}
    assert propose_map([0, 255], {0: 0.98, 255: 0.02}) == {255: 1}
    assert codes_message([0, 255], {0: 0.02, 255: 0.98}) == (
        "the label files hold the values 0, 255; ROIs are expected to be numbered 1, 2, 3, ... 255 fills 98 % of the pixels, so "
        "it seems to mark what is around the ROI. If so, set label_map = {0: 1, 255: 0}; if 255 is the ROI, set label_map = "
        "{255: 1}."
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 2], ""),
        (
            [0, 63, 126],
            "the label files hold the values 0, 63, 126; ROIs are expected to be numbered 1, 2, 3, ... These look like codes for "
            "2 ROIs. If so, set label_map = {63: 1, 126: 2}.",
        ),
        (
            [0, RED],
            "the label files hold the colours 0, #FF0000; ROIs are expected to be numbered 1, 2, 3, ... These look like codes for "
            '1 ROI. If so, set label_map = {"#FF0000": 1}.',
        ),
        (
            [0, 1, 3],
            "the label files hold the values 0, 1, 3; ROIs are expected to be numbered 1, 2, 3, ... No label holds 2. If they are "
            "codes for 2 ROIs, set label_map = {1: 1, 3: 2}; if the gap is meant, set num_labels = 3.",
        ),
        (
            PLANES,
            "the label files are stacks of 3 planes of 0 and 1 (one-hot); one number per pixel is expected. If each plane is an "
            'ROI and the first is the background, set label_map = {"plane 1": 0, "plane 2": 1, "plane 3": 2}.',
        ),
        (
            [0, *range(2, 105)],
            "the label files hold the values 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 92 more; ROIs are expected to be numbered "
            "1, 2, 3, ... No label holds 1. Renumber the labels, or, if the gaps are meant, set num_labels = 104.",
        ),
        (
            range(0, 2560, 10),
            "the label files hold 255 different values (0, 10, 20, 30, 40 and 251 more), which is an image or a picture with soft "
            "edges, no labels. Save the labels with one value per ROI (0 background, 1, 2, ...).",
        ),
    ],
)
def test_messages(values, message: str) -> None:
    assert codes_message(values) == message
    assert look_like_codes([0, 63]) and not look_like_codes([0, 2]) and not look_like_codes([0, 3, 7])


def test_a_map_changes_what_it_lists_and_nothing_else() -> None:
    array = np.array([[0, 63, 126, 5]], np.uint8)
    assert apply_map(array, {63: 1, 126: 1}).tolist() == [[0, 1, 1, 5]]
    assert apply_map(array, {0: 1, 63: 0}).tolist() == [[1, 0, 126, 5]]
    assert apply_map(array, {"GTV-1": 1}) is array
    assert apply_map(array, None) is array
    wide = np.array([[0, RED, GREEN, 7]], np.uint32)
    mapped = apply_map(wide, {"#ff0000": 1, "#00FF00": 2})
    assert mapped.tolist() == [[0, 1, 2, 7]]
    assert mapped.dtype == np.uint8
    assert code_key(int(apply_map(wide, {"#FF0000": 1})[0, 2])) == "#00FF00"
    assert apply_map(np.array([[255, 1000]], np.uint16), {1000: 2, 255: 1}).tolist() == [[1, 2]]


def test_what_the_setting_takes() -> None:
    assert label_map_of({"63:1": None, "126:2": None}) == {63: 1, 126: 2}  # YAML's {63:1,126:2}
    assert label_map_of("63=1, 126:2") == {63: 1, 126: 2}
    assert label_map_of("{#ff0000=1,'GTV-1'=2}") == {"#FF0000": 1, "GTV-1": 2}
    assert label_map_of({"Plane 02": 1, 3.0: 2}) == {"plane 2": 1, 3: 2}
    assert map_text({63: 1, "#FF0000": 2}) == '{63: 1, "#FF0000": 2}'
    for wrong in (
        {},
        "63",
        [63, 1],
        {63: "liver"},
        {63: 300},
        {"#12": 1},
        {-3: 1},
        {63: 1, "63": 2},
        {63: True},
    ):
        with pytest.raises(SettingsError, match="label_map = "):
            make_settings(TrainSettings, {"label_map": wrong})
    with pytest.raises(SettingsError, match=r"seg_threshold = 0: expected a number above 0 and at most 1"):
        make_settings(TrainSettings, {"seg_threshold": 0})
