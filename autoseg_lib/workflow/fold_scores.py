"""NAME_folds.csv: each scan's scores by the network that has not seen it, kept from sitting to sitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autoseg_lib.io.files import atomic_write
from autoseg_lib.labels import LabelTable
from autoseg_lib.train.validate import CaseScore

COLUMNS = ["case", "fold", "roi", "dice", "hd95_mm", "area_error_percent"]
_NOTHING = np.zeros((0, 0), dtype=np.uint8)


def write_fold_scores(path: Path, folds: Mapping[int, Sequence[CaseScore]], labels: LabelTable) -> None:
    """Writes one row per scan and ROI; cells without a value stay empty.

    Args:
        path: NAME_folds.csv.
        folds: number of the fold → scores of the scans it kept back.
        labels: the ROIs.

    Raises:
        ExportError: the file is open in another program, or the disk is full.
    """
    rows = [
        (case.name, number, name, case.dice[i], _at(case.hd95_mm, i), _at(case.area_error_percent, i))
        for number in sorted(folds)
        for case in folds[number]
        for i, name in enumerate(labels.names)
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    # All digits: a table made from this file in a later sitting is the table of the first one.
    atomic_write(path, lambda target: frame.to_csv(target, index=False, encoding="utf-8"))


def read_fold_scores(
    path: Path, cases: Mapping[int, Sequence[str]], labels: LabelTable
) -> dict[int, tuple[CaseScore, ...]]:
    """Returns the folds whose scans are all in the file, without pictures; others must be scored again.

    Args:
        path: NAME_folds.csv; may be missing or damaged.
        cases: number of the fold → names of the scans it keeps back, in order.
        labels: the ROIs.
    """
    try:
        frame = pd.read_csv(
            path,
            dtype={"case": str, "roi": str},
            keep_default_na=False,
            na_values=[""],
            float_precision="round_trip",
        )
        table: dict[tuple[str, int, str], dict[Any, Any]] = {
            (str(row["case"]), int(row["fold"]), str(row["roi"])): row
            for row in frame[COLUMNS].to_dict(orient="records")
        }
    except (OSError, ValueError, KeyError):
        return {}
    found: dict[int, tuple[CaseScore, ...]] = {}
    for number, names in cases.items():
        keys = [(name, number, roi) for name in names for roi in labels.names]
        if all(key in table for key in keys):
            found[number] = tuple(
                _case(name, [table[name, number, roi] for roi in labels.names]) for name in names
            )
    return found


def _case(name: str, rows: Sequence[Mapping[Any, Any]]) -> CaseScore:
    return CaseScore(
        name=name,
        loss=float("nan"),
        dice=_values(rows, "dice"),
        area_error_percent=_values(rows, "area_error_percent"),
        slice_index=0,
        image=_NOTHING,
        truth=_NOTHING,
        prediction=_NOTHING,
        hd95_mm=_values(rows, "hd95_mm"),
    )


def _values(rows: Sequence[Mapping[Any, Any]], column: str) -> tuple[float | None, ...]:
    return tuple(None if pd.isna(row[column]) else float(str(row[column])) for row in rows)


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if values else None
