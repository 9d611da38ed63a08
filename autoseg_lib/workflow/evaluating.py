"""``autoseg evaluate``: how well the masks of one folder agree with those of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.errors import ExportError
from autoseg_lib.evaluate.compare import Evaluation, evaluate_folders, evaluation_files, write_evaluation
from autoseg_lib.events import Listener, Message, nobody


def evaluate(
    reference: Path,
    prediction: Path,
    output: Path,
    on_event: Listener = nobody,
    *,
    images: Path | None = None,
    labels: Sequence[str] | None = None,
    reference_map: LabelMap | None = None,
    prediction_map: LabelMap | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Compares masks with reference masks and writes the tables.

    Args:
        reference: the masks held to be right: folder, file or CSV manifest.
        prediction: the masks to judge, likewise.
        output: the CSV file; a summary goes beside it.
        on_event: told about progress, notes and failures.
        images: the scans, see ``evaluate_folders``.
        labels: names of the ROIs, see ``evaluate_folders``.
        reference_map, prediction_map: what codes stand for, see ``evaluate_folders``.
        overwrite: whether tables of an earlier comparison may be replaced.

    Raises:
        DataError: nothing could be compared.
        ExportError: the tables are there already, or cannot be written.
    """
    there = [path for path in evaluation_files(output) if path.exists()]
    if there and not overwrite:
        raise ExportError(
            f"'{there[0]}' is there already. Choose another name for --output, or give --overwrite to replace it."
        )
    evaluation = evaluate_folders(
        reference,
        prediction,
        on_event,
        images=images,
        labels=labels,
        reference_map=reference_map,
        prediction_map=prediction_map,
    )
    write_evaluation(output, evaluation)
    for note in evaluation.notes:
        on_event(Message(note))
    for case, reason in evaluation.failures:
        on_event(Message(f"'{case}' was not compared: {reason}", level="warning"))
    return evaluation
