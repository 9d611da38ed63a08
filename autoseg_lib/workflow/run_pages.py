"""What is made of a run's tables when they are complete: the page to look through, and the workbook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from autoseg_lib.errors import DataError, ExportError, OutOfSpaceError, name_list
from autoseg_lib.export.dossier import DossierCase, write_dossier
from autoseg_lib.export.review import REVIEW_NAME
from autoseg_lib.export.run_folder import RunFolder
from autoseg_lib.export.tables import read_measurements, read_volumes
from autoseg_lib.export.workbook import run_sheets, write_workbook
from autoseg_lib.labels import LabelTable
from autoseg_lib.networks.model_file import LoadedModel
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.run_rows import RunRows
from autoseg_lib.workflow.segment_case import CaseResult

Hide = Callable[[str], str]


def page_is_old(run: RunFolder) -> bool:
    """Whether report.html is missing, or does not show the marks in review.csv yet."""
    page, review = run.dossier, run.path / REVIEW_NAME
    if not page.is_file():
        return True
    return review.is_file() and _put_there(review) > page.stat().st_mtime


def _put_there(path: Path) -> float:
    # A file that is copied keeps its time of writing; when it came is in the other one.
    status = path.stat()
    return max(status.st_mtime, status.st_ctime)


def write_page(
    run: RunFolder,
    cases: Sequence[CaseResult],
    rows: RunRows,
    given: Collection[str],
    labels: LabelTable,
    model: LoadedModel,
    *,
    settings: Mapping[str, Any],
    notes: Sequence[str],
    failures: Sequence[tuple[str, str]],
    hide: Hide,
) -> str:
    """Writes report.html: of the scans of this run, and of those that were segmented into its folder before.

    Args:
        run: the run folder.
        cases: results of this run.
        rows: the tables of the folder.
        given: names of all scans that this run was given.
        labels: the ROIs.
        model: the network.
        settings: of the run.
        notes: sentences on the run as a whole.
        failures: (case, reason).
        hide: takes what tells who a patient is out of a sentence.

    Returns:
        why it was not written; "" where it was.

    Raises:
        OutOfSpaceError: the disk is full.
    """
    earlier, said = earlier_cases(rows, given, labels)
    try:
        write_dossier(
            run.dossier,
            title=run.path.name,
            cases=[*earlier, *(shown(case) for case in cases)],
            labels=labels,
            model=model_facts(model),
            settings=settings,
            notes=[*notes, *said],
            failures=failures,
            hide=hide,
        )
    except OutOfSpaceError:
        raise
    except ExportError as error:
        return str(error)
    return ""


def write_run_workbook(run: RunFolder) -> str:
    """Writes the tables as one Excel file.

    Returns:
        why it was not written (it may be open in Excel); "" where it was.

    Raises:
        OutOfSpaceError: the disk is full.
    """
    if not run.measurements.is_file():
        return ""
    try:
        rows, volumes = read_measurements(run.measurements), read_volumes(run.volumes)
        write_workbook(run.workbook, run_sheets(rows, volumes))
    except OutOfSpaceError:
        raise
    except (ExportError, DataError) as error:
        return str(error)
    return ""


def shown(case: CaseResult) -> DossierCase:
    """Returns a result as the page shows it; its pixels are read when their turn comes."""

    def slices() -> tuple[Volume, Mask]:
        scan, mask = case.look()
        return scan.volume, mask

    return DossierCase(
        case.name, case.measurements, case.volumes, slices, case.how_measured, case.warnings, case.flags
    )


def earlier_cases(
    rows: RunRows, given: Collection[str], labels: LabelTable
) -> tuple[list[DossierCase], list[str]]:
    """Returns the scans of the tables that are not among those given now, without pictures: where they lie is not known.

    Args:
        rows: the tables.
        given: names of the scans that are given now.
        labels: the ROIs of the page; scans with other ones cannot be on it.

    Returns:
        the scans, and a sentence on those that are left out.
    """
    names = {label.value: label.name for label in labels}
    cases, left_out = [], []
    for name in rows.cases():
        if name in given:
            continue
        measurements, volumes = rows.of(name)
        if any(names.get(row.label) != row.roi for row in measurements):
            left_out.append(name)
            continue
        report = rows.report(name)
        said, flags = (tuple(str(text) for text in report.get(key) or ()) for key in ("warnings", "flags"))
        how = str(report.get("how_measured") or "")
        cases.append(DossierCase(name, measurements, volumes, _no_pixels, how, said, flags))
    if not left_out:
        return cases, []
    return cases, [
        f"Not on this page, because they were segmented earlier with other ROIs: {name_list(left_out)}. The tables hold them."
    ]


def _no_pixels() -> NoReturn:
    raise DataError(
        "It was segmented earlier, and is not among the scans given this time. Its numbers are complete; its folder holds its "
        "masks."
    )


def model_facts(model: LoadedModel) -> dict[str, Any]:
    """Returns what a reader of the results wants to know of the model."""
    said = model.metadata
    epoch = said.get("judged_epoch")
    scored = f"mean Dice on validation scans{f', of epoch {epoch}' if epoch else ''}"
    return {
        "model": said.get("name") or model.path.stem,
        "made": str(said.get("created", ""))[:16].replace("T", " "),
        "network": f"{model.spec.dimension} {model.spec.title}",
        "networks that answer together": model.members,
        "scans in its training data": (said.get("data") or {}).get("scans"),
        scored: (said.get("validation") or {}).get("mean_dice"),
    }
