"""review.csv: what a reader thought of each slice; saved by a button of report.html, and read when the page is made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.errors import DataError
from autoseg_lib.io.csv_files import read_csv, write_csv

REVIEW_NAME = "review.csv"
REVIEW_COLUMNS = ("case", "slice_number", "mark", "comment")
MARKS = ("pass", "fail", "")


@dataclass(frozen=True)
class ReviewMark:
    """One slice that a reader looked at.

    Attributes:
        case: name of the scan.
        slice_number: from 1, along the scan's normal.
        mark: "pass", "fail", or "" where there is only a comment.
        comment: the reader's words.
    """

    case: str
    slice_number: int
    mark: str
    comment: str = ""


def read_review(path: Path) -> tuple[ReviewMark, ...]:
    """Reads review.csv; of several rows on one slice the last one counts.

    Args:
        path: the file; one that is not there holds no marks.

    Raises:
        DataError: columns are missing, a slice number is no number, or a mark is none of "pass", "fail" and "".
    """
    if not path.exists():
        return ()
    header, rows = read_csv(path)
    missing = [name for name in REVIEW_COLUMNS[:3] if name not in header]
    if missing:
        raise DataError(
            f"'{path.name}': the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; expected are {','.join(REVIEW_COLUMNS)}. "
            "Give the file as report.html saved it."
        )
    found: dict[tuple[str, int], ReviewMark] = {}
    faults = []
    for line, row in enumerate(rows, start=2):
        number, mark = row["slice_number"].strip(), row["mark"].strip().lower()
        if not number.isascii() or not number.isdigit() or int(number) < 1:
            faults.append(
                f"line {line}: found the slice number '{number}', a whole number from 1 is expected"
            )
        elif mark not in MARKS:
            faults.append(f"line {line}: found the mark '{mark}', pass or fail is expected")
        else:
            found[row["case"], int(number)] = ReviewMark(
                row["case"], int(number), mark, row.get("comment", "").strip()
            )
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(f"'{path.name}' {'; '.join(faults[:3])}{more}. Correct the file, or remove it.")
    return tuple(found.values())


def write_review(path: Path, marks: Sequence[ReviewMark]) -> None:
    """Writes review.csv.

    Raises:
        ExportError: the file cannot be written.
    """
    write_csv(
        path, REVIEW_COLUMNS, [(mark.case, mark.slice_number, mark.mark, mark.comment) for mark in marks]
    )
