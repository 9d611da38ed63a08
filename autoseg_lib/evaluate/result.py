"""What a comparison of two folders gives: rows, summary, notes; as text, as plain values and as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg_lib.evaluate.table import EvaluationRow, SummaryRow, write_rows, write_summary


@dataclass(frozen=True)
class Evaluation:
    """Result of comparing two folders.

    Attributes:
        rows: one per case and ROI.
        summary: one per ROI, over all cases.
        notes: what was left out or assumed, for the user.
        failures: (case, reason) of cases that could not be compared.
    """

    rows: tuple[EvaluationRow, ...]
    summary: tuple[SummaryRow, ...]
    notes: tuple[str, ...]
    failures: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """Returns the summary as lines of text: one per ROI, then notes and failures."""
        lines = []
        for row in self.summary:
            parts = [f"{row.roi}: Dice {_shown(row.dice_mean, 3)} (worst {_shown(row.dice_min, 3)})"]
            if row.hd95_mm_mean is not None:
                parts.append(f"HD95 {row.hd95_mm_mean:.2f} mm")
            if row.volume_difference_percent_abs_mean is not None:
                parts.append(f"volume difference {row.volume_difference_percent_abs_mean:.1f} %")
            counts = f"{row.cases} case{'s' if row.cases != 1 else ''}, absent in both {row.absent_in_both}"
            counts += f", only reference {row.only_reference}, only prediction {row.only_prediction}"
            lines.append(" · ".join([*parts, counts]))
        lines += [f"note: {note}" for note in self.notes]
        return lines + [f"'{case}' was not compared: {reason}" for case, reason in self.failures]

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for ``--json``."""
        return {
            "rows": [vars(row) for row in self.rows],
            "summary": [vars(row) for row in self.summary],
            "failures": [{"case": case, "reason": reason} for case, reason in self.failures],
            "notes": list(self.notes),
        }


def _shown(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def evaluation_files(path: Path) -> tuple[Path, Path]:
    """Returns the two tables of a comparison: FILE.csv and FILE_summary.csv."""
    return path, path.with_name(f"{path.stem}_summary.csv")


def write_evaluation(path: Path, evaluation: Evaluation) -> list[Path]:
    """Writes FILE.csv (one row per case and ROI) and FILE_summary.csv (one row per ROI, with counts).

    Args:
        path: the CSV file.
        evaluation: what to write.

    Returns:
        The two files.

    Raises:
        ExportError: a file cannot be written.
    """
    rows, summary = evaluation_files(path)
    write_rows(rows, evaluation.rows)
    write_summary(summary, evaluation.summary)
    return [rows, summary]
