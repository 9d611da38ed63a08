"""The series table: what each series is, which are used, and nothing of what somebody typed in at the scanner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.data.discover import discover
from autoseg_lib.data.series_table import default_choice, orientation_word, series_table
from autoseg_lib.geometry import Geometry
from tests.helpers.dicom import write_series, write_slice
from tests.helpers.real_data import real_data


def numbers(count: int = 4) -> np.ndarray:
    return np.arange(count * 48).reshape(count, 6, 8).astype(np.int16)


def study(folder: Path) -> Path:
    """A scan, a reformat of it, a localizer, a dose table and a mosaic."""
    words = {"SeriesDescription": "Doe^John knee", "PatientName": "Doe^John", "ProtocolName": "for Dr House"}
    write_series(
        folder,
        numbers(),
        prefix="a",
        series=1,
        SeriesNumber=5,
        step=(0, 0, 4.4),
        spacing=(0.5, 0.25),
        **words,
    )
    write_series(
        folder, numbers(3), prefix="b", series=2, SeriesNumber=6, orientation=(1, 0, 0, 0, 0, -1), step=(0, 2, 0),
        ImageType=["DERIVED", "SECONDARY", "MPR"], **words,
    )  # fmt: skip
    write_series(
        folder, numbers(2), prefix="c", series=3, SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **words
    )  # fmt: skip
    write_slice(
        folder / "d.dcm", numbers()[0], series=4, SeriesNumber=99, position=None, orientation=None, modality="CT",
        ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], **words,
    )  # fmt: skip
    write_series(
        folder, numbers(2), prefix="e", series=5, SeriesNumber=7, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], **words
    )  # fmt: skip
    return folder


def test_facts_of_each_series(tmp_path: Path) -> None:
    found = discover(study(tmp_path))
    table = {facts.series_number: facts for facts in series_table(found)}
    assert {number: facts.kind for number, facts in table.items()} == {
        5: "scan", 6: "derived", 1: "localizer", 99: "screenshot", 7: "scan",
    }  # fmt: skip
    assert {number for number, facts in table.items() if facts.chosen} == {5, 6, 7}
    scan = table[5]
    assert (scan.slices, scan.matrix, scan.spacing_mm, scan.slice_distance) == (
        4,
        (6, 8),
        (0.5, 0.25),
        "4.4 mm",
    )
    assert (scan.modality, scan.orientation, scan.odd, scan.problem) == ("MR", "axial", (), "")
    assert table[6].orientation == "coronal"
    assert "mosaic" in table[7].problem
    assert len({facts.key for facts in table.values()}) == 5
    assert sorted(facts.number for facts in table.values()) == [1, 2, 3, 4, 5]


def test_nothing_of_what_was_typed_in(tmp_path: Path) -> None:
    found = discover(study(tmp_path))
    text = repr(series_table(found)) + default_choice(found)
    for word in ("doe", "john", "knee", "house"):
        assert word not in text.lower()


def test_keys_stay_the_same(tmp_path: Path) -> None:
    keys = [[facts.key for facts in series_table(discover(study(tmp_path / place)))] for place in ("a", "b")]
    assert keys[0] == keys[1]
    assert all(len(key) == 8 for key in keys[0])


def test_the_default_choice_in_words(tmp_path: Path) -> None:
    assert default_choice(discover(study(tmp_path))) == (
        "Both scans that can be used are used; 1 localizer and 1 screenshot are left out. To choose, set series to a number "
        "of this list (or several, like 1,3)."
    )
    write_series(tmp_path / "one", numbers())
    assert default_choice(discover(tmp_path / "one")) == ""


def test_numbers_choose_series(tmp_path: Path) -> None:
    folder = study(tmp_path)
    numbers_of = {facts.series_number: facts.number for facts in series_table(discover(folder))}
    chosen = discover(folder, series=[numbers_of[5], numbers_of[99]])
    assert {source.series.headers[0].series_number for source in chosen.sources} == {5, 99}
    assert [facts.chosen for facts in series_table(chosen)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("cosines", "word"),
    [
        ((1, 0, 0, 0, 1, 0), "axial"),
        ((1, 0, 0, 0, 0, -1), "coronal"),
        ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((1, 0, 0, 0, np.cos(np.radians(16)), np.sin(np.radians(16))), "axial, oblique by 16°"),
        ((1, 0, 0, 0, np.cos(np.radians(60)), np.sin(np.radians(60))), "coronal, oblique by 30°"),
        ((np.cos(0.5), np.sin(0.5), 0, -np.sin(0.5), np.cos(0.5), 0), "axial"),  # turned within its plane
    ],
)
def test_orientation_in_words(cosines, word) -> None:
    affine = np.eye(4)
    affine[:3, 2], affine[:3, 1] = cosines[:3], cosines[3:]
    affine[:3, 0] = np.cross(cosines[:3], cosines[3:])
    assert orientation_word(Geometry((2, 3, 4), affine)) == word
    assert orientation_word(Geometry((2, 3, 4), affine, orientation_known=False)) == ""


@pytest.mark.real_data
def test_every_real_series_has_facts() -> None:
    for name in ("nasty_dicom", "sunnybrook_cardiac", "mr_head_dicom_nifti_pair"):
        found = discover(real_data(name))
        table = series_table(found)
        assert len(table) == len(found.sources) + len(found.left_out)
        assert all(facts.slices > 0 and facts.matrix for facts in table if facts.kind != "volume file")
