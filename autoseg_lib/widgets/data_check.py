"""The "Data check" section of train.ipynb: what was found, and buttons that put it right, in the cell and after it has ended.

Nothing is changed in the user's folder: fixes go into a corrected copy, codes are mapped in the settings.
"""

from __future__ import annotations

import asyncio
import webbrowser
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.doctor.fixing import FixLog
from autoseg_lib.data.label_map import map_text
from autoseg_lib.errors import AutosegError
from autoseg_lib.settings import TrainSettings
from autoseg_lib.viz.html import note_html, render, table_html
from autoseg_lib.widgets.check_view import check_html, check_page_html, check_text, link_to, served_folder
from autoseg_lib.widgets.display import Spot, has_widgets
from autoseg_lib.widgets.files_button import can_open_folders
from autoseg_lib.widgets.fix_choices import FixChoice, fix_choices
from autoseg_lib.widgets.progress import ProgressBar
from autoseg_lib.widgets.running import run_in_thread
from autoseg_lib.widgets.trouble import trouble_html
from autoseg_lib.workflow.check_report import report_path, save_check_report
from autoseg_lib.workflow.checking import Study, check_study
from autoseg_lib.workflow.correcting import correct_study

# Rows of the log of changes shown in the notebook; the file has them all.
_MOST_CHANGES = 12
# About 15 fixes.
_LIST_HEIGHT = "420px"


class DataCheck:
    """Checks a data folder and shows what was found.

    Attributes:
        study: the last check.
    """

    def __init__(self, models: Path, on_study: Callable[[Study], None]) -> None:
        """Args:
        models: folder that models are saved in; the full report goes there.
        on_study: hears a newer study that a button has led to.
        """
        self._models, self._on_study = models, on_study
        self._bar, self._shown, self._buttons, self._said = ProgressBar(), Spot(), Spot(), Spot()
        self._background = ProgressBar(keep_notes=False)
        self._page: Path | None = None
        self._choices: list[tuple[Any, FixChoice]] = []
        self._controls: list[Any] = []
        self._tasks: set[Any] = set()
        self.study: Study | None = None

    def run(self, settings: TrainSettings) -> Study:
        """Checks the data in the running cell.

        Args:
            settings: of the Settings cells.
        """
        study = check_study(settings, self._bar)
        self._bar.end()
        self.show(study)
        # What buttons show later needs its place in this cell's output now.
        self._background.end()
        self._said.show_html("")
        return study

    def show(self, study: Study) -> None:
        """Shows a study: findings, the place of the full report, and the buttons that fit."""
        self.study = study
        page = self._save_page(study)
        hint = "To apply them: autoseg check DATA_DIR --fix NEW_FOLDER." if study.report.fixable else ""
        html = check_html(study.report, study.pairing.pairs, page)
        self._shown.show_html(html, check_text(study.report, hint))
        self._show_buttons(study)

    # --- the full report ----------------------------------------------------------------------------------------------

    def _save_page(self, study: Study) -> str:
        self._page = None
        if not study.pairing.cases and not study.report.findings:
            return ""
        path = report_path(study.settings, self._models)
        try:
            self._page = save_check_report(study, path)
        except (AutosegError, OSError) as error:
            return note_html("warning", f"The full report could not be written: {error}")
        return check_page_html(path, link_to(path, Path.cwd(), served_folder()))

    def _open_page(self) -> None:
        if self._page is not None:
            webbrowser.open(self._page.resolve().as_uri())

    # --- buttons --------------------------------------------------------------------------------------------------------

    def _show_buttons(self, study: Study) -> None:
        if not has_widgets():
            return
        import ipywidgets as W  # missing in front ends that the findings are shown in all the same

        self._choices, self._controls, rows = [], [], []
        for choice in fix_choices(study.report.fixable):
            box = W.Checkbox(
                value=True,
                description=choice.text,
                indent=False,
                layout=W.Layout(width="98%", margin="0"),
            )
            self._choices.append((box, choice))
        if self._choices:
            boxes = [box for box, _ in self._choices]
            # It neither shrinks nor lets its boxes shrink; what does not fit is reached with the scroll bar.
            layout = W.Layout(max_height=_LIST_HEIGHT, overflow="auto", display="block", flex="0 0 auto")
            if len(boxes) > 1:
                rows.append(W.VBox(boxes, layout=layout))
        line = []
        proposed = proposed_map(study)
        if proposed:
            text = f"Use these codes (label_map = {map_text(proposed)})"
            line.append(self._button(W, text, "check", self._consent, "auto"))
        if self._choices:
            number = sum(len(choice.findings) for _, choice in self._choices)
            what = "1 fix" if number == 1 else f"{number} fixes"
            line.append(self._button(W, f"Make a corrected copy ({what})", "wrench", self._correct, "300px"))
        if line:
            line[0].button_style = "primary"
        if self._page is not None and can_open_folders():
            line.append(self._button(W, "Open the full report", "external-link", self._open_page, "210px"))
        if line:
            rows.append(W.HBox(line, layout=W.Layout(flex_flow="row wrap")))
        if rows:
            self._buttons.show_widget(W.VBox(rows))
        else:
            self._buttons.show_html("")

    def _button(self, widgets: Any, text: str, icon: str, action: Callable[[], None], width: str) -> Any:
        button = widgets.Button(description=text, icon=icon, layout=widgets.Layout(width=width))
        button.on_click(lambda _: action())
        self._controls.append(button)
        return button

    def _correct(self) -> None:
        study = self.study
        chosen = [finding for box, choice in self._choices if box.value for finding in choice.findings]
        if study is None or not chosen:
            self._said.show_html(note_html("info", "No fix is ticked, so there is nothing to do."))
            return

        async def work() -> None:
            done = await run_in_thread(
                lambda on_event, stop: correct_study(study, chosen, on_event), self._background
            )
            self._said.show_html(correction_html(done))

        self._start(work())

    def _consent(self) -> None:
        study = self.study
        proposed = proposed_map(study) if study is not None else None
        if study is None or not proposed:
            return
        label_map = {**(study.settings.label_map or {}), **proposed}
        settings = replace(study.settings, label_map=label_map)
        self._check_again(
            settings,
            f"label_map = {map_text(label_map)} is used from here on and stored in the model. To keep it for the next time, "
            "write this line into the Advanced settings cell.",
        )

    def _check_again(self, settings: TrainSettings, said: str) -> None:
        async def work() -> None:
            study = await run_in_thread(
                lambda on_event, stop: check_study(settings, on_event), self._background
            )
            self.show(study)
            self._on_study(study)
            if not study.report.has_errors:
                said_all = f"{said}\nGo on with the next cell (Run > Run Selected Cell and All Below)."
                self._said.show_html(note_html("good", said_all))
            else:
                self._said.show_html(note_html("warning", f"{said}\nThere is more to solve, see above."))

        self._start(work())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Works on beside the notebook's cells; buttons rest meanwhile, errors are shown where the result would be."""

        async def watched() -> None:
            self._rest(True)
            try:
                await work
            except Exception as error:  # noqa: BLE001 - no cell is there that could fail; it is shown instead
                self._said.show_html(trouble_html(error))
            finally:
                self._rest(False)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(watched())
            return
        task = loop.create_task(watched())
        # The loop itself keeps no hold on its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _rest(self, resting: bool) -> None:
        for button in self._controls:
            button.disabled = resting


def proposed_map(study: Study) -> dict[int | str, int] | None:
    """Returns the map of codes that the check proposes, None where there is none."""
    for finding in study.report.findings:
        proposed = finding.details.get("label_map")
        if proposed:
            return dict(proposed)
    return None


def correction_html(log: FixLog) -> str:
    """Returns what a corrected copy changed and how to go on with it."""
    rows = [
        (change.file, change.what + ("" if change.sure else " (please look)"))
        for change in log.changes[:_MOST_CHANGES]
    ]
    failed = note_html("warning", "\n".join(f"Could not be done: {text}" for text in log.failed))
    return render(
        "corrected.html.j2",
        note=note_html("good", f"{log.sentence} Your own files are as they were."),
        table=table_html(rows, ("file", "what was done"), numeric=()) if rows else "",
        more=len(log.changes) - len(rows),
        failed=failed if log.failed else "",
        folder=log.folder.as_posix(),
        log=str(log.log_file),
    )
