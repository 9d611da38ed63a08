"""What the steps of the notebooks show, as HTML: system, settings, performance, models, measurements, files."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from autoseg_lib.errors import counted, name_list
from autoseg_lib.labels import LabelTable
from autoseg_lib.system import SystemReport
from autoseg_lib.train.checkpoint import is_sound
from autoseg_lib.train.files import RunFiles
from autoseg_lib.train.planning import Choice
from autoseg_lib.train.validate import CaseScore
from autoseg_lib.viz.figures import curves
from autoseg_lib.viz.html import css, note_html, picture_html, render, table_html
from autoseg_lib.widgets.dashboard import dice_table
from autoseg_lib.widgets.folds_view import folds_html
from autoseg_lib.widgets.pictures import beside, encode_jpg
from autoseg_lib.workflow.folds_result import FoldsResult
from autoseg_lib.workflow.reasons import Answer
from autoseg_lib.workflow.run_history import RunHistory
from autoseg_lib.workflow.segmenting import SegmentResult
from autoseg_lib.workflow.training_result import TrainingResult
from autoseg_lib.workflow.verdict import FAIR_DICE, GOOD_DICE


def system_html(report: SystemReport) -> Markup:
    """Returns the table of the system check and its advice."""
    rows = []
    for line in report.lines()[:-1]:
        name, _, value = line.partition("  ")
        rows.append((name, value.strip()))
    return table_html(rows, numeric=()) + note_html("good" if report.ready else "warning", report.advice)


def given_settings_html(values: Mapping[str, Any], help_of: Mapping[str, str], later: str) -> Markup:
    """Returns the table of the settings as given.

    Args:
        values: setting → value.
        help_of: setting → what it is.
        later: said of those that are "auto".
    """
    rows = [
        (name, later if value == "auto" else value_text(value) or "(empty)", help_of.get(name, ""))
        for name, value in values.items()
    ]
    return table_html(rows, ("setting", "your value", "what it is"), numeric=())


def choices_html(choices: Sequence[Choice]) -> Markup:
    """Returns the table of all settings, with what "auto" became and why."""
    rows = [
        (c.setting, value_text(c.value) if c.value == c.given else f"auto → {value_text(c.value)}", c.reason)
        for c in choices
    ]
    return table_html(rows, ("setting", "value", "why"), numeric=(), whole=True)


def value_text(value: Any) -> str:
    """Returns a setting's value as one reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def performance_html(run: TrainingResult) -> Markup:
    """Returns the verdict, curves, scores per ROI, what would make it better, and the best and worst scans."""
    labels = LabelTable(run.roi_names)
    parts = [note_html(_kind(run), " ".join(text for text in (run.verdict, run.interval) if text))]
    parts += [
        note_html("info", text) for text in (run.ending, run.segmenting, run.error_bars, run.outlook) if text
    ]
    if isinstance(run, FoldsResult):
        parts.append(folds_html(run))
    if run.history:
        parts.append(picture_html(curves(run.history, labels, run.worst_loss), "curves of the training"))
    if run.scores is not None:
        header = ("ROI", "Dice", "spread over scans (SD)", "HD95, mm", "mean area difference, %")
        caption = (
            f"On {counted(len(run.scores.cases), 'validation scan')}, on their own pixels. {run.split_text}"
        )
        parts.append(
            table_html(
                run.table(),
                header,
                caption=caption,
                colors=[*(label.color for label in labels), None],
                numeric=(1, 2, 3, 4),
                strong_last=1,
            )
        )
    if run.answers:
        parts.append(reasons_html(run.answers))
    if run.scores is not None:
        worst = run.worst_cases
        best = [case for case in run.best_cases if case.name not in {c.name for c in worst}]
        parts.append(cases_html("Hardest scans", worst, labels))
        if best:
            parts.append(cases_html("Easiest scans", best, labels))
    return Markup("").join(parts)


def _kind(run: TrainingResult) -> str:
    if run.scores is None or run.scores.mean < FAIR_DICE:
        return "warning"
    return "good" if run.scores.mean >= GOOD_DICE else "info"


def reasons_html(answers: Sequence[Answer]) -> Markup:
    """Returns the reasons that apply as a table, and what was looked at and is fine in a line below it."""
    applying = [answer for answer in answers if answer.applies]
    fine = [f"{answer.question} {answer.found}" for answer in answers if not answer.applies]
    return render("reasons.html.j2", css=css(), applying=applying, fine=fine)


def next_steps_html(run: TrainingResult) -> Markup:
    """Returns where to go next, with the model's name, and the Methods paragraph to copy."""
    if run.model_path is None:
        return note_html("info", "There is no model yet: run the training cell again to go on.")
    path = run.model_path
    return render(
        "next.html.j2",
        model=path.stem,
        folder=str(path.parent),
        methods=run.methods,
        space=_space_text(RunFiles(path.parent, run.name), run.judged_epoch),
    )


def _space_text(files: RunFiles, judged_epoch: int) -> str:
    """What may be deleted of a run and how much that is; "" where nothing may."""
    kept = {files.at_epoch(judged_epoch)}
    if not is_sound(files.last):
        kept.add(files.previous)
    older = [path for path in files.dispensable() if path not in kept]
    if not older:
        return ""
    megabytes = sum(path.stat().st_size for path in older) / 1e6
    names = name_list([path.name for path in older], 3)
    text = f"Disk space: {names} ({megabytes:,.0f} MB) may be deleted; segmenting does without."
    if files.last.is_file():
        text += f" Keep {files.last.name}: without it Run All trains anew."
    return text


def history_html(run: RunHistory) -> Markup:
    """Returns the curves of a run from its history file, and the latest and best Dice of each ROI."""
    labels = LabelTable(run.roi_names)
    parts = [note_html("info", run.headline)]
    if run.rows:
        parts.append(picture_html(curves(run.rows, labels, run.worst_loss), "curves of the training"))
        parts.append(dice_table(run.rows, labels))
    if run.folds is not None and run.folds.scores:
        rows = [score.cells for score in run.folds.scores]
        parts.append(table_html(rows, run.folds.columns, strong_last=1))
    return Markup("").join(parts)


def cases_html(title: str, cases: Sequence[CaseScore], labels: LabelTable) -> Markup:
    """Returns a row of pictures: image, label and prediction of each scan's most wrong slice."""
    items = [
        {
            "data": base64.b64encode(
                encode_jpg(beside(case.image, [case.truth, case.prediction], labels, longest=200))
            ).decode("ascii"),
            "text": f"{case.name}, slice {case.slice_index + 1} · Dice {case.mean_dice:.3f}",
        }
        for case in cases
    ]
    text = f"{title} (the slice with the most wrong pixels; left: your label, right: the model)"
    return render("cases.html.j2", title=text, items=items)


def models_html(models: Sequence[tuple[Path, Mapping[str, Any]]], chosen: Collection[Path]) -> Markup:
    """Returns the table of the models there are, the chosen ones marked."""
    rows = []
    for path, metadata in models[:12]:
        validation = metadata.get("validation") or {}
        names = list(metadata.get("labels", ()))
        rois = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        made = str(metadata.get("created", ""))[:16].replace("T", " ")
        mark = "✔ this one" if path in chosen else ""
        dice = number(validation.get("mean_dice"), 3)
        if metadata.get("judged_epoch") and dice:
            dice += f" (of epoch {metadata['judged_epoch']})"
        rows.append((mark, path.stem, made, rois, dice))
    return table_html(rows, ("", "model", "made", "ROIs", "validation Dice"), numeric=(4,))


def files_html(result: SegmentResult) -> Markup:
    """Returns the table of what lies where."""
    folder = result.run_folder
    rows = [
        (
            "report.html",
            "everything to look through in any browser: each number with its slice; mark slices pass or fail and save review.csv",
        ),
        ("csa_results.csv", "areas, one row per slice, one column per ROI, with mean and standard deviation"),
        ("measurements.csv", "the same areas, one row per slice and ROI, for statistics programs"),
        ("volumes.csv", "volumes, one row per scan and ROI"),
        ("run_report.json", "how it was made: model, settings, versions, inputs, warnings"),
    ]
    name = result.cases[0].name if len(result.cases) == 1 else "SCAN"
    rows += [
        (f"{name}/masks/", "label pictures (PNG), one per slice, the scan's own pixels"),
        (f"{name}/overlays/", "pictures to look at (JPG), ROIs drawn over the scan"),
        (f"{name}/segmentation.nii.gz", "all labels as one volume, for 3D Slicer, ITK-SNAP and others"),
        (f"{name}/animation.html", "the scan to scroll through with its ROIs, opens in any browser"),
    ]
    shown = [row for row in rows if _is_there(result, row[0])]
    return note_html("good", f"Everything is in {folder}") + table_html(
        shown, ("file", "what it is for"), numeric=()
    )


def _is_there(result: SegmentResult, name: str) -> bool:
    if not name.startswith("SCAN/"):
        return (result.run_folder / name).exists()
    return any((case.folder / name.removeprefix("SCAN/")).exists() for case in result.cases)


def failures_html(result: SegmentResult) -> Markup:
    """Returns what could not be done, and what was assumed."""
    parts = [
        note_html("error", f"{name}: {reason}" if name not in reason else reason)
        for name, reason in result.failures
    ]
    warnings = dict.fromkeys(f"{case.name}: {text}" for case in result.cases for text in case.warnings)
    doubts = dict.fromkeys(f"{case.name}: {text}" for case in result.cases for text in case.flags)
    parts += [note_html("warning", text) for text in [*list(doubts)[:10], *list(warnings)[:10]]]
    parts += [note_html("info", text) for text in result.notes]
    return Markup("").join(parts)


def number(value: float | None, digits: int, unit: str = "") -> str:
    """Returns a number with so many decimals, or nothing where it is unknown."""
    return "" if value is None else f"{value:.{digits}f}{unit}"
