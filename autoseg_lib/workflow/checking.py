"""Step "Data check": from Settings to a report on everything that is in the data folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.data.doctor.examine import examine
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.pairing import Pairing, pair
from autoseg_lib.errors import DataError
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.labels import LabelTable
from autoseg_lib.settings import AUTO, TrainSettings


@dataclass(frozen=True)
class Study:
    """A data folder that has been looked at."""

    settings: TrainSettings
    pairing: Pairing
    report: CheckReport

    @property
    def labels(self) -> LabelTable:
        """The ROIs."""
        return self.report.labels

    def require_sound(self) -> None:
        """Raises DataError with all errors at once, if there are any."""
        errors = [finding.text for finding in self.report.findings if finding.severity == "error"]
        if errors:
            count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
            lines = "\n".join(f"  - {text}" for text in errors)
            raise DataError(f"the data check found {count} to solve before training:\n{lines}")


def check_study(settings: TrainSettings, on_event: Listener = nobody) -> Study:
    """Reads the data folder and checks it; findings are in the report, none is raised.

    Args:
        settings: training settings; ``main_dir`` names the folder.
        on_event: hears the progress.

    Raises:
        SettingsError: a network, loss or optimizer that there is not.
        DataError: the folder cannot be read.
    """
    asked = (settings.network, settings.loss, settings.optimizer, settings.freeze_encoder_epochs)
    if any(value != AUTO for value in asked):
        # Needs torch, which a check of data alone does without.
        from autoseg_lib.train.names import check_names

        check_names(settings)

    def on_progress(done: int, total: int) -> None:
        on_event(Progress("Looking for files", done, total))

    pairing = pair(settings, on_progress)
    return Study(settings, pairing, examine(pairing, settings, on_event))


def model_folder(settings_value: str, project_dir: Path) -> Path:
    """Returns the folder that models are saved in.

    Args:
        settings_value: ``model_dir`` of the settings, "auto" for ``project_dir/trained_model``.
        project_dir: the checkout (notebooks) or the current folder (command line).
    """
    return project_dir / "trained_model" if settings_value == "auto" else Path(settings_value).expanduser()
