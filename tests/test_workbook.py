"""The tables as an Excel workbook, read back with openpyxl."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.errors import SettingsError
from autoseg_lib.export.workbook import run_sheets, write_workbook
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask
from tests.helpers.shapes import grid

openpyxl = pytest.importorskip("openpyxl")


def test_one_sheet_per_table_with_numbers_as_numbers(tmp_path: Path) -> None:
    array = np.zeros((3, 6, 7), np.uint8)
    array[:2, 1:4, 2:5] = 1
    mask, labels = Mask(array, grid(array.shape, (4, 0.5, 2))), LabelTable(["psoas left"])
    rows, volumes = measure_slices(mask, labels, case="a"), measure_volumes(mask, labels, case="a")
    write_workbook(tmp_path / "r.xlsx", run_sheets(rows, volumes))
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["csa_results", "measurements", "volumes"]
    wide = list(book["csa_results"].values)
    assert wide[0] == ("slice", "psoas left")
    assert wide[1] == ("slice number 1", 9)
    tidy = book["measurements"]
    header = [cell.value for cell in tidy[1]]
    first = dict(zip(header, [cell.value for cell in tidy[2]], strict=True))
    assert (first["area_mm2"], first["pixels"], first["intensity_mean"]) == (9, 9, None)
    assert tidy.freeze_panes == "A2"


def test_texts_are_never_formulas(tmp_path: Path) -> None:
    rows = [["=1+1", 1.5], ["\x07bell", None], ["1/2", float("nan")]]
    write_workbook(tmp_path / "r.xlsx", {"a/b": (["name", "x"], rows), "A_B": (["only a header"], [])})
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["a_b", "A_B 2"]
    cells = [[cell.value for cell in row] for row in book["a_b"].iter_rows()]
    assert cells == [["name", "x"], ["=1+1", 1.5], [" bell", None], ["1/2", None]]
    assert book["a_b"]["A2"].data_type == "s"


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(SettingsError, match=r'pip install "autoseg-workbench\[excel\]"'):
        write_workbook(tmp_path / "r.xlsx", {"a": (["x"], [])})
    assert not (tmp_path / "r.xlsx").exists()
