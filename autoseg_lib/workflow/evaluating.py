"""``autoseg evaluate``: how well the masks of one folder agree with those of another."""

from __future__ import annotations

from pathlib import Path

from autoseg_lib.evaluate.compare import Evaluation, evaluate_folders, write_evaluation
from autoseg_lib.events import Listener, Message, nobody


def evaluate(reference: Path, prediction: Path, output: Path, on_event: Listener = nobody) -> Evaluation:
    """Compares two folders of masks and writes the tables.

    Args:
        reference: folder of the masks held to be right.
        prediction: folder of the masks to judge.
        output: the CSV file; a summary goes beside it.
        on_event: told about progress, notes and failures.

    Raises:
        DataError: nothing could be compared.
        ExportError: the tables cannot be written.
    """
    evaluation = evaluate_folders(reference, prediction, on_event)
    write_evaluation(output, evaluation)
    for note in evaluation.notes:
        on_event(Message(note))
    for case, reason in evaluation.failures:
        on_event(Message(f"'{case}' was not compared: {reason}", level="warning"))
    return evaluation
