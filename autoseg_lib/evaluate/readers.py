"""A prediction against several readers: compared with each, beside how well the readers agree with each other.

A prediction that differs from one reader no more than the other readers do is as good as they are; a Dice by itself does
not tell that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from autoseg_lib.errors import DataError, name_list
from autoseg_lib.evaluate.result import Evaluation
from autoseg_lib.evaluate.table import EvaluationRow, summarise
from autoseg_lib.io.csv_files import write_csv
from autoseg_lib.io.files import natural_key

PREDICTION = "prediction"


@dataclass(frozen=True)
class ReaderRow:
    """How well one of the readers, or the prediction, agrees with the (other) readers on one ROI.

    Attributes:
        label: label value.
        roi: name of the ROI.
        reader: name of the reader, or "prediction".
        others: readers compared with.
        cases: pairs of masks that a Dice could be told of.
        dice_mean: mean over these.
        dice_min: worst.
        area_difference_mm2_mean, area_difference_percent_mean, mean_surface_distance_mm_mean: means, None where unknown.
        rank: from 1, by mean Dice, among all readers and the prediction; equal ones share the better rank.
    """

    label: int
    roi: str
    reader: str
    others: int
    cases: int
    dice_mean: float | None
    dice_min: float | None
    area_difference_mm2_mean: float | None
    area_difference_percent_mean: float | None
    mean_surface_distance_mm_mean: float | None
    rank: int | None = None


@dataclass(frozen=True)
class PairRow(EvaluationRow):
    """A row of the comparison of two readers; ``reader`` is the one taken as reference.

    Attributes:
        other_reader: the one compared with it.
    """

    other_reader: str = ""


@dataclass(frozen=True)
class ReaderEvaluation(Evaluation):
    """Several readers: ``rows`` has a row per case, ROI and reader.

    Attributes:
        pairs: the readers compared with each other.
        readers: one row per ROI and reader, and one for the prediction.
    """

    pairs: tuple[PairRow, ...] = ()
    readers: tuple[ReaderRow, ...] = ()

    def lines(self) -> list[str]:
        """Returns the ranks as lines of text, then the summary, notes and failures."""
        lines = []
        for row in self.readers:
            if row.reader == PREDICTION and row.dice_mean is not None and row.rank is not None:
                ranked = [r for r in self.readers if r.roi == row.roi and r.rank is not None]
                between = [r.dice_mean for r in ranked if r.reader != PREDICTION and r.dice_mean is not None]
                spread = f"{min(between):.3f} to {max(between):.3f}" if between else "–"
                lines.append(
                    f"{row.roi}: Dice with the readers {row.dice_mean:.3f}; of a reader with the others {spread}; "
                    f"rank {row.rank} of {len(ranked)}"
                )
        return [*lines, *super().lines()]


def reader_folders(folder: Path) -> list[Path]:
    """Returns the sub-folders of a folder that holds one for each reader.

    Raises:
        DataError: there are fewer than two.
    """
    found = sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: natural_key(path.name),
    )
    if len(found) < 2:
        raise DataError(
            f"'{folder}': found {len(found)} sub-folder{'' if len(found) == 1 else 's'}; with --readers each reader's masks lie "
            "in a sub-folder of their own, two at least."
        )
    return found


def evaluate_readers(
    references: Sequence[Path],
    prediction: Path,
    compare: Callable[[Path, Path, bool], Evaluation],
) -> ReaderEvaluation:
    """Compares a prediction with each of several readers, and the readers with each other.

    Args:
        references: the readers' masks, two at least.
        prediction: the masks to judge.
        compare: compares two of them; the last argument is whether the second is a reader, too.

    Raises:
        DataError: nothing could be compared with any reader.
    """
    names = reader_names(references)
    rows: list[EvaluationRow] = []
    pairs: list[PairRow] = []
    notes: list[str] = []
    failures: list[tuple[str, str]] = []
    for name, path in zip(names, references, strict=True):
        found = compare(path, prediction, False)
        rows += [dataclasses.replace(row, reader=name) for row in found.rows]
        notes += [f"{name}: {note}" for note in found.notes]
        failures += [(f"{name}, {case}", reason) for case, reason in found.failures]
    for (one, first), (other, second) in combinations(zip(names, references, strict=True), 2):
        try:
            found = compare(first, second, True)
        except DataError as error:
            notes.append(f"{one} and {other} were not compared: {error}")
            continue
        pairs += [PairRow(**{**vars(row), "reader": one, "other_reader": other}) for row in found.rows]
        failures += [(f"{one} and {other}, {case}", reason) for case, reason in found.failures]
    notes.append(
        f"{len(names)} readers: {name_list(names, 10)}. The prediction is compared with all of them, each reader with the "
        f"{len(names) - 1} others."
    )
    return ReaderEvaluation(
        tuple(rows),
        tuple(summarise(rows)),
        tuple(dict.fromkeys(notes)),
        tuple(failures),
        tuple(pairs),
        tuple(rank(rows, pairs)),
    )


def reader_names(references: Sequence[Path]) -> list[str]:
    """Returns a name for each reader: the folder's, with its parent's where two are alike."""
    for depth in (1, 2, 3):
        names = ["/".join(path.resolve().parts[-depth:]) for path in references]
        if len(set(names)) == len(names):
            return names
    return [f"reader {number}" for number in range(1, len(references) + 1)]


def rank(rows: Sequence[EvaluationRow], pairs: Sequence[PairRow]) -> list[ReaderRow]:
    """Returns how well everybody agrees with the (other) readers, ROI by ROI, and their ranks.

    Args:
        rows: the prediction against each reader.
        pairs: the readers against each other.
    """
    result = []
    for roi, label in {row.roi: row.label for row in rows}.items():
        mine = [row for row in rows if row.roi == roi]
        names = list(dict.fromkeys(row.reader for row in mine))
        table = [_reader_row(PREDICTION, label, roi, mine, len(names))]
        for name in names:
            own = [pair for pair in pairs if pair.roi == roi and name in (pair.reader, pair.other_reader)]
            table.append(_reader_row(name, label, roi, own, len(names) - 1))
        result += list(_ranked(table))
    return result


def _ranked(table: Sequence[ReaderRow]) -> Iterator[ReaderRow]:
    scores = [row.dice_mean for row in table if row.dice_mean is not None]
    for row in table:
        place = None if row.dice_mean is None else 1 + sum(score > row.dice_mean for score in scores)
        yield dataclasses.replace(row, rank=place)


def _reader_row(reader: str, label: int, roi: str, rows: Sequence[EvaluationRow], others: int) -> ReaderRow:
    scores = _known(rows, "dice")
    return ReaderRow(
        label,
        roi,
        reader,
        others,
        len(scores),
        _mean(scores),
        min(scores, default=None),
        _mean(_known(rows, "area_difference_mm2")),
        # The difference has no direction between two readers, but its share is of the first one's area.
        _mean(_known(rows, "area_difference_percent")),
        _mean(_known(rows, "mean_surface_distance_mm")),
    )


def _known(rows: Sequence[EvaluationRow], name: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, name)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def reader_files(path: Path) -> tuple[Path, Path]:
    """Returns the further tables of several readers: FILE_readers.csv and FILE_between_readers.csv."""
    return path.with_name(f"{path.stem}_readers.csv"), path.with_name(f"{path.stem}_between_readers.csv")


def write_readers(path: Path, evaluation: ReaderEvaluation) -> list[Path]:
    """Writes FILE_readers.csv (ranks) and FILE_between_readers.csv (each pair of readers).

    Args:
        path: the CSV file of the comparison.
        evaluation: what to write.

    Raises:
        ExportError: a file cannot be written.
    """
    ranks, pairs = reader_files(path)
    for file, kind, rows in ((ranks, ReaderRow, evaluation.readers), (pairs, PairRow, evaluation.pairs)):
        columns = [item.name for item in dataclasses.fields(kind)]
        write_csv(file, columns, ([getattr(row, name) for name in columns] for row in rows))
    return [ranks, pairs]
