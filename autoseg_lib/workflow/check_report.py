"""The page that shows a data check, as a file: its name, its place, and no word of who the patients are."""

from __future__ import annotations

import re
from pathlib import Path

from autoseg_lib.data.discover import Discovery
from autoseg_lib.export.check_report import write_check_report
from autoseg_lib.io.volume_files import stem_of
from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.workflow.checking import Study
from autoseg_lib.workflow.privacy import without_identity


def save_check_report(study: Study, path: Path) -> Path:
    """Writes the page.

    Args:
        study: a data folder that has been looked at.
        path: the file; its folder is made.

    Returns:
        The file.

    Raises:
        ExportError: it cannot be written.
    """
    hide = without_identity(Discovery(tuple(case.source for case in study.pairing.cases)))
    title = f"Data check · {stem_of(Path(study.settings.main_dir))}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_check_report(path, study.report, title=title, hide=hide)


def report_path(settings: TrainSettings, folder: Path) -> Path:
    """Returns where the page lies: NAME_check_report.html in the models' folder, NAME as the model's or the data folder's.

    Args:
        settings: of the study.
        folder: where models are saved.
    """
    name = settings.model_filename
    if name == AUTO:
        name = re.sub(r"[^\w.-]+", "_", stem_of(Path(settings.main_dir))).strip("._-") or "study"
    return folder / f"{name}_check_report.html"
