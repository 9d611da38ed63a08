"""The steps of train.ipynb and test.ipynb: one function each, thin, over ``workflow`` and ``widgets``.

    import autoseg_lib.notebook as lab

Whatever goes wrong is shown as a note and stops "Run All"; nobody meets a traceback.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoseg_lib.data.discover import discover
from autoseg_lib.data.example_study import ExampleStudy, write_example_study
from autoseg_lib.data.label_map import map_text
from autoseg_lib.errors import DataError
from autoseg_lib.events import Listener, PlanChanged, StopFlag
from autoseg_lib.settings import (
    AUTO,
    SegmentSettings,
    TrainSettings,
    make_settings,
    read_settings_file,
    setting_help,
    to_table,
)
from autoseg_lib.system import check_system as look_at_system
from autoseg_lib.train.choosing import given_by_others
from autoseg_lib.viz.html import note_html
from autoseg_lib.widgets.batch_grid import BatchGrid
from autoseg_lib.widgets.cell import assigned_values, set_variable
from autoseg_lib.widgets.data_check import DataCheck
from autoseg_lib.widgets.display import Spot, has_widgets, show_html
from autoseg_lib.widgets.files_button import show_open_button
from autoseg_lib.widgets.folder_view import look_into
from autoseg_lib.widgets.live_run import LiveRun
from autoseg_lib.widgets.live_training import LiveTraining, Work
from autoseg_lib.widgets.measurements_view import MeasurementsView
from autoseg_lib.widgets.progress import ProgressBar
from autoseg_lib.widgets.scan_scores import show_scans
from autoseg_lib.widgets.trouble import plainly, stop_here
from autoseg_lib.widgets.views import (
    choices_html,
    files_html,
    given_settings_html,
    history_html,
    models_html,
    next_steps_html,
    performance_html,
    system_html,
)
from autoseg_lib.workflow.checking import Study, model_folder
from autoseg_lib.workflow.finished import choose_run_folder, model_key
from autoseg_lib.workflow.folds import wants_folds
from autoseg_lib.workflow.model_choice import find_models, list_models
from autoseg_lib.workflow.preview import preview_batch
from autoseg_lib.workflow.run_history import find_history
from autoseg_lib.workflow.runs import PreparedRun, prepare_run, train_run
from autoseg_lib.workflow.segmenting import SegmentResult
from autoseg_lib.workflow.segmenting import segment as segment_folder
from autoseg_lib.workflow.training_result import TrainingResult

# Libraries' own remarks are for developers and would bury what is said to the user; the command line shows them.
warnings.filterwarnings("ignore")
for _name in ("lightning", "lightning.fabric", "pydicom", "monai"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass
class _Settings:
    """The two settings cells of a notebook: each may be run again on its own."""

    kind: Any  # TrainSettings or SegmentSettings
    later: str  # when "auto" becomes something
    main: dict[str, Any] = field(default_factory=dict)
    advanced: dict[str, Any] = field(default_factory=dict)
    spot: Spot = field(default_factory=Spot)
    used: PreparedRun | None = None
    live: LiveTraining | None = None


_training = _Settings(TrainSettings, "auto: decided after the data check")
_segmenting = _Settings(SegmentSettings, "auto: from the model")
# main_dir → label_map that the user has agreed to with the button of the data check.
_agreed_codes: dict[str, Any] = {}
# Settings that the example study filled in, and whose they are.
_from_example: dict[str, str] = {}
# Folder and series that were selected in the picker: all cells are run again for them, not for the example.
_selected: dict[str, Any] = {}


def project_folder() -> Path:
    """Returns the folder that data/, trained_model/ and predictions/ lie in: above the notebooks' folder."""
    here = Path.cwd()
    return here.parent if here.name == "notebooks" else here


# --- train.ipynb ------------------------------------------------------------------------------------------------------


@plainly
def check_system() -> None:
    """Shows memory, cores, GPU, disk and versions, with one sentence of advice."""
    show_html(system_html(look_at_system(project_folder())))


@plainly
def settings(**values: Any) -> TrainSettings:
    """Checks the Settings cell and shows its table.

    Args:
        values: settings by name; without any, those that the running cell has assigned.
    """
    checked: TrainSettings = _take_settings(_training, values or assigned_values(), advanced=False)
    return checked


@plainly
def advanced_settings(**values: Any) -> TrainSettings:
    """Adds the "Advanced settings" cell to the Settings cell.

    Args:
        values: settings by name; without any, those that the running cell has assigned.
    """
    checked: TrainSettings = _take_settings(_training, values or assigned_values(), advanced=True)
    return checked


def _take_settings(store: _Settings, values: Mapping[str, Any], *, advanced: bool) -> Any:
    if advanced:
        store.advanced = dict(values)
    else:
        store.main = dict(values)
        store.spot = Spot()
    checked = make_settings(store.kind, {**store.advanced, **store.main})
    if not advanced:
        table = to_table(checked)
        shown = {name: table[name] for name in store.main}
        store.spot.show_html(given_settings_html(shown, setting_help(store.kind), store.later))
    else:
        table = to_table(checked)
        defaults = to_table(make_settings(store.kind, {}))
        changed = [name for name in store.advanced if table[name] != defaults[name]]
        text = f"Changed: {', '.join(changed)}." if changed else "All at their defaults."
        show_html(note_html("info", text))
    return checked


@plainly
def check_data(settings: TrainSettings) -> Study:
    """Makes the example study where no data folder was given, then checks the data; errors stop Run All here.

    Args:
        settings: of the Settings cells.
    """
    bar = ProgressBar()
    _from_example.clear()
    if not settings.main_dir:
        example = _example(bar)
        given = to_table(settings)
        own = read_settings_file(example.settings_file)
        own = {name: value for name, value in own.items() if given[name] == AUTO}
        given |= own
        _from_example.update(dict.fromkeys(own, "the example's"))
        settings = make_settings(TrainSettings, {**given, "main_dir": str(example.folder)})
        show_html(
            note_html(
                "info",
                f"main_dir is empty, so the example study is used: drawn lumbar scans in {example.folder}. "
                "To train on your own scans, give their folder as main_dir.",
            )
        )
    bar.end()
    agreed = _agreed_codes.get(settings.main_dir)
    if agreed and settings.label_map is None:
        settings = replace(settings, label_map=agreed)
        show_html(note_html("info", f"label_map = {map_text(agreed)}, as agreed with the button before."))
    study = DataCheck(model_folder(settings.model_dir, project_folder()), _go_on_with).run(settings)
    if study.report.has_errors:
        raise stop_here("Stopped here: solve the points marked ✖ above, then choose Run All again.")
    return study


def _go_on_with(study: Study) -> None:
    """Takes over a study that a button of the data check led to: the cells below it use it, and so does Run All."""
    if study.settings.label_map:
        _agreed_codes[study.settings.main_dir] = study.settings.label_map
    set_variable("study", study)


def _example(bar: ProgressBar) -> ExampleStudy:
    return write_example_study(project_folder() / "data" / "example", on_event=bar)


@plainly
def preview(study: Study) -> PreparedRun:
    """Prepares the training and shows the first batch, as stored and as the network sees it.

    Args:
        study: of the data check.
    """
    bar = ProgressBar()
    prepared = prepare_run(study, project_folder(), bar)
    bar.end()
    _training.spot.show_html(choices_html(given_by_others(prepared.plan.choices, _from_example)))
    BatchGrid(lambda number: preview_batch(prepared, number)).show()
    return prepared


@plainly
async def train(prepared: PreparedRun) -> TrainingResult:
    """Trains with a live view; the stop button, and Interrupt, save and keep what was learned.

    At the end a button trains ten more epochs, into the same outputs; ``run`` and the cells below are filled anew.

    Args:
        prepared: of the pre-visualization.
    """
    if prepared is _training.used:
        # This cell is run a second time, after a stop: the plan in hand knows nothing of what was learned since.
        prepared = _prepare_again(prepared)
    else:
        _training.used = prepared
    live = LiveTraining(
        prepared.plan.labels,
        lambda _, epochs: _longer(prepared, epochs),
        can_extend=not wants_folds(prepared.study.settings),
    )
    _training.live = live
    live.show_plan(_plan_text(prepared))
    result = await live.run(lambda on_event, stop: train_run(prepared, on_event, stop))
    live.follow("run", lambda longer: set_variable("run", longer))
    return result


def _plan_text(prepared: PreparedRun) -> str:
    lines = (prepared.found, "" if prepared.state == "finished" else prepared.summary)
    return "\n".join(text for text in lines if text)


def _prepare_again(prepared: PreparedRun) -> PreparedRun:
    bar = ProgressBar()
    again = prepare_run(_to_go_on(prepared.study), project_folder(), bar)
    bar.end()
    return again


def _to_go_on(study: Study) -> Study:
    """The study with settings that go on with the run there is, whatever it was started with."""
    settings = study.settings
    return replace(study, settings=replace(settings, resume=AUTO) if settings.resume is False else settings)


def _longer(prepared: PreparedRun, epochs: int) -> Work:
    """Trains so many epochs more than were done; 0: goes on to the planned end."""
    study = _to_go_on(prepared.study)

    def work(on_event: Listener, stop: StopFlag) -> TrainingResult:
        again = prepare_run(study, project_folder(), on_event, more_epochs=epochs)
        on_event(PlanChanged(_plan_text(again)))
        _training.used = prepared  # running the cell again looks for the run anew
        return train_run(again, on_event, stop)

    return work


@plainly
def history(name: str = "") -> None:
    """Shows the curves of a run that exists, without training: also while it trains elsewhere, or after a restart.

    Args:
        name: of the model; "" is the run that was trained last.
    """
    given = _training.main | _training.advanced
    folder = model_folder(given.get("model_dir", AUTO), project_folder())
    run = find_history(folder, name)
    show_html(history_html(run), plain="\n".join(run.lines()))


@plainly
def performance(run: TrainingResult) -> None:
    """Shows curves, scores per ROI, the verdict, what would make it better, and the hardest and easiest scans.

    Args:
        run: of the training.
    """
    spot, scans = Spot(), Spot()

    def show(result: TrainingResult) -> None:
        spot.show_html(performance_html(result), plain="\n".join(result.lines()))
        show_scans(result, scans)

    show(run)
    if _training.live is not None:
        _training.live.follow("performance", show)


@plainly
def next_steps(run: TrainingResult) -> None:
    """Says where to go next, with the model's name, and gives a Methods paragraph to copy.

    Args:
        run: of the training.
    """
    spot = Spot()

    def show(result: TrainingResult) -> None:
        spot.show_html(next_steps_html(result), plain=result.methods)

    show(run)
    if _training.live is not None:
        _training.live.follow("next steps", show)


# --- test.ipynb -------------------------------------------------------------------------------------------------------


@dataclass
class Choice:
    """The folder to segment. Selecting another one later segments it into the same outputs."""

    settings: SegmentSettings
    folder: Path
    run: LiveRun | None = None


@plainly
def segment_settings(**values: Any) -> SegmentSettings:
    """Checks the Settings cell of test.ipynb and shows its table and the models there are.

    Args:
        values: settings by name; without any, those that the running cell has assigned.
    """
    checked: SegmentSettings = _take_settings(_segmenting, values or assigned_values(), advanced=False)
    folder = model_folder(checked.model_dir, project_folder())
    show_html(models_html(list_models(folder), find_models(checked, folder)))
    return checked


@plainly
def advanced_segment_settings(**values: Any) -> SegmentSettings:
    """Adds the "Advanced settings" cell of test.ipynb.

    Args:
        values: settings by name; without any, those that the running cell has assigned.
    """
    checked: SegmentSettings = _take_settings(_segmenting, values or assigned_values(), advanced=True)
    return checked


@plainly
def choose_folder(settings: SegmentSettings) -> Choice:
    """Shows the folder picker. With ``input_dir`` in Settings there is nothing to pick; until one is picked the example
    scan is used. What was picked stays picked when the cells are run again.

    Args:
        settings: of the Settings cells.
    """
    if settings.input_dir:
        folder = Path(settings.input_dir).expanduser()
        if not folder.exists():
            raise DataError(
                f"input_dir '{folder}': not found. Correct it in Settings, or leave it empty to pick a folder."
            )
        show_html(
            [note_html("info", f"input_dir in Settings: {folder}"), look_into(folder, settings.series)[0]]
        )
        return Choice(settings, folder)
    bar = ProgressBar()
    example = _example(bar)
    bar.end()
    choice = Choice(settings, example.test_images / example.test_scans[0])
    said = Spot()
    if _selected and _selected["folder"].is_dir():
        # Another value of the setting counts more than what was ticked before.
        series = _selected["series"] if settings.series == _selected["asked"] else settings.series
        choice = Choice(replace(settings, series=series), _selected["folder"])
        said.show_html(note_html("good", _selected_text(choice.folder, choice.settings.series)))
    else:
        said.show_html(
            note_html(
                "info",
                f"Nothing selected yet, so the example scan is used ({choice.folder.name}). "
                "Click your way to a folder of scans and press Select: it is segmented into the outputs below.",
            )
        )
    if not has_widgets():
        note = note_html("warning", "The folder picker needs ipywidgets; set input_dir in Settings instead.")
        show_html([note, look_into(choice.folder, settings.series)[0]])
        return choice

    from autoseg_lib.widgets.folder_picker import FolderPicker  # needs ipywidgets

    def selected(folder: Path, series: Any) -> None:
        choice.folder = folder
        choice.settings = replace(settings, series=series)
        _selected.update(folder=folder, series=series, asked=settings.series)
        said.show_html(note_html("good", _selected_text(folder, series)))
        if choice.run is not None:
            choice.run.select(folder)

    picker = FolderPicker(selected, series=settings.series)
    Spot().show_widget(picker.widget, plain="(folder picker)")
    return choice


def _selected_text(folder: Path, series: Any) -> str:
    numbers = f" (series {', '.join(map(str, series))})" if isinstance(series, list) else ""
    return f"Selected: {folder}{numbers}"


@plainly
async def segment(choice: Choice) -> LiveRun:
    """Segments the chosen folder and shows the slices to scroll through.

    Args:
        choice: of the folder cell.
    """
    settings = choice.settings
    models = find_models(settings, model_folder(settings.model_dir, project_folder()))
    # The picker may choose other series later.
    run = LiveRun(lambda folder, on_event, stop: _segment(folder, models, choice.settings, on_event, stop))
    choice.run = run
    await run.run(choice.folder)
    # Somebody may have selected another folder meanwhile.
    await run.run_selected()
    return run


def _segment(
    folder: Path, models: Sequence[Path], settings: SegmentSettings, on_event: Listener, stop: StopFlag
) -> SegmentResult:
    predictions = project_folder() / "predictions"
    if settings.predictions_dir != AUTO:
        predictions = Path(settings.predictions_dir).expanduser()
    found = discover(folder, series=settings.series)
    key = model_key(models, settings.pipeline)
    output, mode = choose_run_folder(predictions, folder, found, key, to_table(settings))
    return segment_folder(folder, models, output, settings, mode=mode, on_event=on_event, stop=stop)


@plainly
def measurements(run: LiveRun) -> None:
    """Shows areas along the scan, slice by slice, and volumes; filled again with each selected folder.

    A click in the plot shows that slice, in the slice browser and beside the plot.

    Args:
        run: of the segmentation.
    """
    view = MeasurementsView(run)
    run.follow("measurements", view.show)


@plainly
def files(run: LiveRun) -> None:
    """Shows where the files are; filled again with each selected folder.

    Args:
        run: of the segmentation.
    """
    spot = Spot()
    spot.show_html("")
    run.follow("files", lambda result: spot.show_html(files_html(result)))
    show_open_button(lambda: run.result.run_folder if run.result else None)
