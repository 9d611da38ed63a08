"""``autoseg evaluate``: how well the masks of one folder agree with those of another, or of several readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.errors import ExportError, SettingsError
from autoseg_lib.evaluate.folders import evaluate_folders
from autoseg_lib.evaluate.readers import (
    ReaderEvaluation,
    evaluate_readers,
    reader_files,
    reader_folders,
    write_readers,
)
from autoseg_lib.evaluate.result import Evaluation, evaluation_files, write_evaluation
from autoseg_lib.evaluate.table import EvaluationRow
from autoseg_lib.events import Listener, Message, nobody
from autoseg_lib.io.files import atomic_write

_FIGURES = (".png", ".svg")


def evaluate(
    reference: Path | Sequence[Path],
    prediction: Path,
    output: Path,
    on_event: Listener = nobody,
    *,
    images: Path | None = None,
    labels: Sequence[str] | None = None,
    reference_map: LabelMap | None = None,
    prediction_map: LabelMap | None = None,
    overwrite: bool = False,
    readers: bool = False,
    figure: Path | None = None,
) -> Evaluation:
    """Compares masks with reference masks and writes the tables.

    Args:
        reference: the masks held to be right: folder, file or CSV manifest; several: one of each reader.
        prediction: the masks to judge, likewise.
        output: the CSV file; a summary goes beside it, with several readers two tables more.
        on_event: told about progress, notes and failures.
        images: the scans, see ``evaluate_folders``.
        labels: names of the ROIs, see ``evaluate_folders``.
        reference_map, prediction_map: what codes stand for, see ``evaluate_folders``.
        overwrite: whether tables of an earlier comparison may be replaced.
        readers: whether each sub-folder of the one reference is a reader.
        figure: with several readers, a picture (.png or .svg) of the model beside the spread between readers.

    Raises:
        DataError: nothing could be compared.
        SettingsError: a figure was asked for without several readers, or of another kind.
        ExportError: the tables are there already, or cannot be written.
    """
    references = [reference] if isinstance(reference, Path) else list(reference)
    if readers:
        references = _reader_references(references)
    several = len(references) > 1
    _check_figure(figure, several)
    written = [
        *evaluation_files(output),
        *(reader_files(output) if several else ()),
        *([figure] if figure else []),
    ]
    there = [path for path in written if path.exists()]
    if there and not overwrite:
        raise ExportError(
            f"'{there[0]}' is there already. Choose another name for --output, or give --overwrite to replace it."
        )

    def compare(ours: Path, theirs: Path, both_readers: bool = False) -> Evaluation:
        return evaluate_folders(
            ours,
            theirs,
            on_event,
            images=images,
            labels=labels,
            reference_map=reference_map,
            prediction_map=reference_map if both_readers else prediction_map,
        )

    if several:
        evaluation: Evaluation = evaluate_readers(references, prediction, compare)
    else:
        evaluation = compare(references[0], prediction)
    write_evaluation(output, evaluation)
    if isinstance(evaluation, ReaderEvaluation):
        write_readers(output, evaluation)
        if figure is not None:
            _write_figure(figure, evaluation)
    for note in evaluation.notes:
        on_event(Message(note))
    for case, reason in evaluation.failures:
        on_event(Message(f"'{case}' was not compared: {reason}", level="warning"))
    return evaluation


def _reader_references(references: Sequence[Path]) -> list[Path]:
    if len(references) > 1 or not references[0].is_dir():
        raise SettingsError(
            "--readers takes one --reference: the folder that holds a sub-folder for each reader."
        )
    return reader_folders(references[0])


def _check_figure(figure: Path | None, several: bool) -> None:
    if figure is None:
        return
    if not several:
        raise SettingsError(
            "--figure shows the spread between readers: give --reference several times, or a folder of readers with --readers."
        )
    if figure.suffix.lower() not in _FIGURES:
        raise SettingsError(f"--figure '{figure.name}': expected a name that ends in .png or .svg.")


def _write_figure(path: Path, evaluation: ReaderEvaluation) -> None:
    from autoseg_lib.viz.reader_figure import Agreement, reader_figure

    rois = list(dict.fromkeys(row.roi for row in evaluation.rows))

    def values(rows: Sequence[EvaluationRow], roi: str, name: str) -> list[float]:
        return [value for row in rows if row.roi == roi and (value := getattr(row, name)) is not None]

    parts = [
        [
            Agreement(roi, values(evaluation.rows, roi, name), values(evaluation.pairs, roi, name))
            for roi in rois
        ]
        for name in ("dice", "area_difference_percent")
    ]
    content = reader_figure(parts[0], parts[1], kind=path.suffix.lower().lstrip("."))

    def write(target: Path) -> None:
        target.write_bytes(content)

    atomic_write(path, write)
