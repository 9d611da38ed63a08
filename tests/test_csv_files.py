"""Tables: what was written is read again, numbers stay numbers, and no cell is a formula to a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from autoseg_lib.errors import DataError
from autoseg_lib.io.csv_files import neutral, read_csv, write_csv

DANGEROUS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    '=cmd|"/c calc"!A0',
    "＝1+1",
    "-",
]
HARMLESS = [
    "liver",
    "left psoas",
    "",
    "a=b",
    "3D",
    "'quoted'",
    "-12.5",
    "+3",
    "-1e-05",
    "-.5",
    "1-2",
    "ÖÄÜ",
    "=".join("ab"),
]


@pytest.mark.parametrize("text", DANGEROUS)
def test_formulas_become_text(text: str) -> None:
    assert neutral(text) == "'" + text.replace("\r", "\n")


@pytest.mark.parametrize("text", HARMLESS)
def test_everything_else_stays(text: str) -> None:
    assert neutral(text) == text


def test_written_cells_begin_harmlessly(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_csv(path, ["case", "=roi", "x"], [[text, text, -0.5] for text in DANGEROUS] + [["-1", -7, -2.25]])
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    for row in rows:
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝")) or float(cell) < 0, cell
    assert rows[-1] == ["-1", "-7", "-2.25"]


def test_read_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    names = [
        *(text for text in DANGEROUS if "\r" not in text),
        *HARMLESS,
        "two\nlines",
        'say "x"',
        "a, b",
        "'=1",
    ]
    write_csv(path, ["case", "-roi"], [[name, "x"] for name in names])
    header, rows = read_csv(path)
    assert header == ["case", "-roi"]
    assert [row["case"] for row in rows] == names


def test_huge_cell_and_binary_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case\n" + "x" * 200_000 + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'t.csv': it is no table \(field larger"):
        read_csv(path)
    path.write_bytes(b"case\n\xff\xfe\n")
    with pytest.raises(DataError, match="no UTF-8 text"):
        read_csv(path)
    with pytest.raises(DataError, match="not there, or no file"):
        read_csv(tmp_path)
