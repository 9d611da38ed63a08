"""The command line: the notebooks' workflow without a browser.

Progress goes to stderr; ``--json`` prints one JSON object on stdout. Exit codes: 0 done, 1 the data or model is at fault, 2 the
command or settings are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from autoseg_lib import __version__
from autoseg_lib.errors import AutosegError, SettingsError, counted
from autoseg_lib.events import (
    EpochDone,
    Event,
    FoldStarted,
    Message,
    Progress,
    StepDone,
    StopFlag,
    TrainingStopped,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: the words after ``autoseg``; None takes them from the command line.
    """
    _speak_utf8()
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except _UsageError as error:
        _say(f"autoseg: {error}")
        return 2
    try:
        return int(options.run(options))
    except AutosegError as error:
        if options.debug:
            traceback.print_exc()
        elif not getattr(error, "told", False):  # another process has said it
            _say(str(error))
        if getattr(options, "json", False):
            _print_json({"error": str(error)})
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted.")
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: nobody should meet a traceback unasked
        if options.debug:
            traceback.print_exc()
        else:
            _say(
                f"something unexpected went wrong ({type(error).__name__}: {error}). Run again with --debug for details."
            )
        return 1


class _UsageError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}. Run `{self.prog} --help` to see what is expected")


# Adds a command of a name and help text that runs a function.
_Command = Callable[[str, str, Callable[[argparse.Namespace], int]], argparse.ArgumentParser]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="autoseg",
        description="Train U-Nets on medical images, segment scans, measure areas and volumes.",
    )
    parser.add_argument("--version", action="version", version=f"autoseg-workbench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(
        name: str, help_text: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.add_argument("--debug", action="store_true", help="show the traceback of errors")
        sub.set_defaults(run=run)
        return sub

    for add in (_add_looking, _add_training, _add_segmenting, _add_evaluating, _add_starting):
        add(command)
    return parser


def _add_looking(command: _Command) -> None:
    """Commands for the computer, the example study, the data check."""
    system = command("system", "memory, cores, GPU, disk and versions of this computer", _system)
    _with_json(system)

    example = command("example", "write the example study (drawn scans with exactly known areas)", _example)
    example.add_argument("dir", type=Path, metavar="DIR")
    example.add_argument("--scans", type=int, default=None, help="number of scans")
    example.add_argument("--seed", type=int, default=0)

    check = command("check", "check training data, or list what a folder holds, series by series", _check)
    check.add_argument("path", type=Path, metavar="PATH")
    check.add_argument("--settings", type=Path, metavar="FILE", help="YAML file with settings")
    check.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write a page with pictures of all samples and findings",
    )
    check.add_argument(
        "--fix", type=Path, metavar="DIR", help="write a corrected copy of the data into a new folder"
    )
    _with_set(check)
    _with_json(check)


def _add_training(command: _Command) -> None:
    """Commands for training."""
    train = command("train", "train a model", _train)
    train.formatter_class, train.epilog = _SettingsHelp, _SETTINGS
    train.add_argument(
        "--settings", type=Path, metavar="FILE", help="YAML file with settings (main_dir is required)"
    )
    _with_set(train)

    history = command("history", "how a training went, or goes just now, epoch by epoch", _history)
    history.add_argument("name", nargs="?", default="", metavar="NAME", help="of the model; else the latest")
    history.add_argument(
        "--models", type=Path, default=Path("trained_model"), metavar="DIR", help="the models' folder"
    )
    _with_json(history)


def _add_segmenting(command: _Command) -> None:
    """Commands for segmenting and measuring."""
    segment = command("segment", "segment scans and measure the ROIs", _segment)
    segment.add_argument("input", type=Path, metavar="INPUT", help="folder, file or CSV manifest")
    segment.add_argument(
        "--model",
        type=str,
        action="append",
        required=True,
        metavar="FILE",
        help="model file (.safetensors); several answer together",
    )
    segment.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    segment.add_argument("--formats", help="kinds of files, e.g. png,jpg,nifti")
    _with_set(segment)
    _add_modes(segment)
    _with_json(segment)

    measure = command("measure", "areas and volumes of masks that exist already", _measure)
    measure.add_argument(
        "masks", type=Path, metavar="MASKS", help="folder of masks, one file, or a CSV manifest (image,label)"
    )
    measure.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the tables and report.html"
    )
    measure.add_argument(
        "--images", type=Path, metavar="DIR", help="the scans, for pixel spacing and slice positions"
    )
    measure.add_argument(
        "--fat-images",
        type=Path,
        metavar="DIR",
        help="fat images of Dixon pairs, of the names of --images (water)",
    )
    measure.add_argument(
        "--tissue-window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="grey values of a tissue, e.g. -29 150 (HU) for muscle: its share of each ROI is measured on --images",
    )
    measure.add_argument("--xlsx", action="store_true", help="write all tables into one Excel file too")
    measure.add_argument("--labels", help="ROI names in the order of their values, e.g. 'liver,spleen'")
    measure.add_argument("--label-map", metavar="MAP", help="what codes stand for, e.g. '63=1,126=2'")
    _with_set(measure)
    _add_modes(measure)
    _with_json(measure)


def _add_evaluating(command: _Command) -> None:
    """Commands for comparing masks."""
    evaluate = command("evaluate", "compare masks with reference masks", _evaluate)
    evaluate.add_argument(
        "--reference",
        type=Path,
        required=True,
        action="append",
        metavar="DIR",
        help="folder, one file, or a CSV manifest; several readers: once for each",
    )
    evaluate.add_argument(
        "--readers", action="store_true", help="each sub-folder of --reference holds the masks of one reader"
    )
    evaluate.add_argument(
        "--figure",
        type=Path,
        metavar="FILE.png",
        help="several readers: the model beside the spread between them (.png or .svg)",
    )
    evaluate.add_argument("--prediction", type=Path, required=True, metavar="DIR", help="likewise")
    evaluate.add_argument("--output", type=Path, required=True, metavar="FILE.csv")
    evaluate.add_argument("--overwrite", action="store_true", help="replace the tables of an earlier run")
    evaluate.add_argument(
        "--images", type=Path, metavar="DIR", help="the scans: contours (RTSTRUCT) are drawn on them"
    )
    evaluate.add_argument("--labels", help="ROI names in the order of their values, e.g. 'liver,spleen'")
    evaluate.add_argument(
        "--label-map", metavar="MAP", help="what codes stand for on both sides, e.g. '63=1,126=2'"
    )
    for side in ("reference", "prediction"):
        evaluate.add_argument(f"--{side}-map", metavar="MAP", help=f"what codes stand for in the {side}")
    _with_json(evaluate)


def _add_starting(command: _Command) -> None:
    """Commands for a first look and the Jupyter kernel."""
    demo = command("demo", "example study, training, segmenting and measuring in a few minutes", _demo)
    demo.add_argument("dir", type=Path, nargs="?", metavar="DIR", default=Path("autoseg_demo"))

    kernel = command("kernel", "register this environment as the Jupyter kernel 'AutoSeg'", _kernel)
    kernel.add_argument("--name", default="autoseg", help=argparse.SUPPRESS)


def _with_json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _with_set(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")


def _add_modes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--continue", dest="mode", action="store_const", const="continue", help="go on with an earlier run"
    )
    group.add_argument(
        "--overwrite", dest="mode", action="store_const", const="overwrite", help="replace an earlier run"
    )
    parser.set_defaults(mode="new")


# --- the commands -----------------------------------------------------------------------------------------------------


def _system(options: argparse.Namespace) -> int:
    from autoseg_lib.system import check_system

    report = check_system()
    if options.json:
        _print_json(report.to_dict())
    else:
        _print("\n".join(report.lines()))
    return 0


def _example(options: argparse.Namespace) -> int:
    from autoseg_lib.data.example_study import write_example_study

    with Terminal() as terminal:
        count = {} if options.scans is None else {"scans": options.scans}
        study = write_example_study(options.dir, seed=options.seed, on_event=terminal, **count)
    _print(
        f"The example study is in '{study.folder}'. To train on it: autoseg train --settings '{study.settings_file}'"
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    from autoseg_lib.settings import TrainSettings, make_settings
    from autoseg_lib.workflow.listing import holds_training_data, list_scans

    values = _values(options)
    _require_there(options.path)
    if not holds_training_data(options.path):
        if options.report or options.fix:
            raise SettingsError(
                f"'{options.path}': --report and --fix are for training data, and this holds no train/ folder with labels, and is "
                "no manifest with labels. Give the folder above train/."
            )
        series = make_settings(TrainSettings, values).series
        with Terminal() as terminal:
            listing = list_scans(options.path, on_event=terminal, series=series)
        if options.json:
            _print_json(listing.to_dict())
        else:
            # A file or another program gets all columns; on a terminal wrapped lines could not be read.
            wide = max(80, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
            _print("\n".join(listing.lines(wide)))
        return 0

    from autoseg_lib.workflow.checking import check_study

    settings = make_settings(TrainSettings, {**values, "main_dir": str(options.path)})
    if options.fix:
        from autoseg_lib.data.doctor.fixing import require_free

        require_free(options.fix, [options.path] if options.path.is_dir() else [])
    with Terminal() as terminal:
        study = check_study(settings, terminal)
        fixed = _write_check(options, study, terminal)
    report = study.report
    if options.json:
        _print_json({**report.to_dict(), **fixed})
    else:
        _print("\n".join(report.lines()))
        for text in fixed.get("lines", []):
            _print(text)
    return 1 if fixed.get("errors_left", report.has_errors) else 0


def _write_check(options: argparse.Namespace, study: Any, terminal: Terminal) -> dict[str, Any]:
    """Writes what else was asked for: the page, and the corrected copy, which is checked again."""
    told: dict[str, Any] = {}
    lines: list[str] = []
    if options.report:
        from autoseg_lib.workflow.check_report import save_check_report

        told["report"] = str(save_check_report(study, options.report))
        lines.append(f"The page with all samples is '{told['report']}'.")
    if options.fix:
        from autoseg_lib.workflow.correcting import correct_and_check, correction_lines

        log, again = correct_and_check(study, options.fix, terminal)
        told["corrected"] = {**log.to_dict(), "check": again.report.to_dict()}
        told["errors_left"] = again.report.has_errors
        lines += ["", *correction_lines(study.report, log, again.report)]
    return {**told, "lines": lines} if lines and not options.json else told


# Stands for the list of settings, which is only made when help is asked for: every command would wait for it.
_SETTINGS = "settings"


class _SettingsHelp(argparse.RawDescriptionHelpFormatter):
    def add_text(self, text: str | None) -> None:
        super().add_text(_settings_text() if text == _SETTINGS else text)


def _settings_text() -> str:
    from autoseg_lib.settings import TrainSettings, setting_help

    lines = (f"  {name:<24}{text}" for name, text in setting_help(TrainSettings).items())
    return "settings, in the file or with --set:\n" + "\n".join(lines)


def _train(options: argparse.Namespace) -> int:
    from autoseg_lib.settings import TrainSettings, make_settings
    from autoseg_lib.train.launch import find_place, forgotten_srun

    values = _values(options)
    if not values.get("main_dir"):
        raise SettingsError(
            "main_dir is missing: it names the folder that holds train/images and train/labels. "
            "Give --settings FILE.yaml with a line `main_dir: FOLDER`, or --set main_dir=FOLDER."
        )
    settings = make_settings(TrainSettings, values)
    place = find_place(os.environ)
    if place.world > 1:
        # torch warns in technical terms about what is meant to be so; it reads this when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    speaks = place.rank == 0
    with Terminal(speaks) as terminal, StopOnSignals(speaks) as stop:
        # Here, so that a signal that comes while they are loaded is heard.
        from autoseg_lib.system import device_name
        from autoseg_lib.train.distributed import training_team
        from autoseg_lib.workflow.together import check_together
        from autoseg_lib.workflow.training import HurriedStop

        if hint := forgotten_srun(os.environ):
            terminal.line(hint)
        with training_team(place, device_name()) as team:
            study = check_together(settings, terminal, team)
            for line in study.report.lines():
                terminal.line(line)
            study.require_sound()
            try:
                result = _train_study(study, place.world, terminal, stop, team)
            except HurriedStop as pause:
                terminal.line(str(pause))
                # The signal may have reached another process than the one whose code counts.
                code: int = max(team.gather(stop.exit_code))
                return code if speaks else 0
    if speaks:
        _print("\n".join(result.lines()))
    return 0


def _train_study(study: Any, processes: int, terminal: Terminal, stop: StopFlag, team: Any) -> Any:
    """Prepares, says what will be done, trains."""
    from autoseg_lib.workflow.runs import prepare_run, require_one_run, train_run
    from autoseg_lib.workflow.together import prepare_together
    from autoseg_lib.workflow.training import train

    if processes == 1:
        prepared = prepare_run(study, Path.cwd(), terminal)
        for line in prepared.lines():
            terminal.line(line)
        return train_run(prepared, terminal, stop)
    require_one_run(study.settings)
    shared = prepare_together(study, Path.cwd(), terminal, team)
    for line in shared.lines():
        terminal.line(line)
    return train(shared, terminal, stop, team)


def _segment(options: argparse.Namespace) -> int:
    from autoseg_lib.settings import SegmentSettings, make_settings
    from autoseg_lib.workflow.pipeline_editing import CHANGEABLE

    _require_there(options.input)
    values = _values(options)
    if options.formats:
        values["formats"] = options.formats
    # Keys such as preprocessing.resampling are no settings, but parts of the model file's section.
    pipeline = {key: values.pop(key) for key in list(values) if key.split(".")[0] in CHANGEABLE}
    if pipeline:
        values["pipeline"] = {**(values.get("pipeline") or {}), **pipeline}
    settings = make_settings(SegmentSettings, {**values, "model_filename": options.model}, CHANGEABLE)
    from autoseg_lib.workflow.checking import model_folder
    from autoseg_lib.workflow.model_choice import find_models
    from autoseg_lib.workflow.segmenting import segment

    models = find_models(settings, model_folder(settings.model_dir, Path.cwd()))
    with Terminal() as terminal, StopOnSignals() as stop:
        result = segment(
            options.input, models, options.output, settings, mode=options.mode, on_event=terminal, stop=stop
        )
    if options.json:
        _print_json(result.to_dict())
    else:
        for case in result.cases:
            volumes = ", ".join(
                f"{row.roi} {row.volume_ml:.2f} ml" for row in case.volumes if row.volume_ml is not None
            )
            _print(f"{case.name}: {volumes or 'areas in csa_results.csv'}")
            for text in case.flags:
                _print(f"  look again: {text}")
            if case.flagged_slices:
                _print(
                    f"  look again: {counted(case.flagged_slices, 'slice')} with a reason in measurements.csv"
                )
            for text in case.warnings:
                _print(f"  note: {text}")
        bars = dict.fromkeys(case.error_bars for case in result.cases if case.error_bars)
        for text in (*result.notes, *bars):
            _print(f"note: {text}")
        before = sum(case.already_done for case in result.cases)
        taken = f" ({before} of them done before)" if before else ""
        _print(f"{_scans(len(result.cases))} segmented into '{result.run_folder}'{taken}.")
        if result.stopped:
            _print("The same command with --continue goes on from here.")
    if result.failures:
        _say(f"{_scans(len(result.failures))} could not be segmented:")
        for name, reason in result.failures:
            _say(f"  - {name}: {reason}")
    # A script must not take a list that was cut short for a finished one.
    if result.stopped:
        return stop.exit_code or EXIT_INTERRUPTED
    return stop.exit_code or (1 if result.failures else 0)


def _measure(options: argparse.Namespace) -> int:
    from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings, parse_assignments
    from autoseg_lib.workflow.measuring import measure_masks

    for path in (options.masks, options.images, options.fat_images):
        _require_there(path)
    values = parse_assignments(options.set)
    known = ("slice_axis", "label_map", "overlap_priority", "seg_threshold", "tissue_window")
    unknown = [name for name in values if name not in known]
    if unknown:
        raise SettingsError(f"--set {unknown[0]}: measure knows the settings {', '.join(known)}.")
    if options.label_map:
        values["label_map"] = _label_map(options.label_map, "--label-map")
    given = values.pop("tissue_window", None)
    window = make_settings(SegmentSettings, {"tissue_window": options.tissue_window or given}).tissue_window
    settings = make_settings(TrainSettings, values)
    with Terminal() as terminal:
        result = measure_masks(
            options.masks,
            options.output,
            options.images,
            labels=_names(options.labels),
            label_map=settings.label_map,
            slice_axis=settings.slice_axis,
            overlap_priority=settings.overlap_priority or (),
            seg_threshold=settings.seg_threshold,
            tissue_window=window,
            fat_images=options.fat_images,
            xlsx=options.xlsx,
            mode=options.mode,
            on_event=terminal,
        )
    if options.json:
        _print_json(result.to_dict())
    else:
        _print("\n".join(result.lines()))
    return 1 if result.failures else 0


def _evaluate(options: argparse.Namespace) -> int:
    from autoseg_lib.workflow.evaluating import evaluate

    for path in (*options.reference, options.prediction, options.images):
        _require_there(path)
    both = _label_map(options.label_map, "--label-map")
    with Terminal() as terminal:
        result = evaluate(
            options.reference,
            options.prediction,
            options.output,
            on_event=terminal,
            images=options.images,
            labels=_names(options.labels),
            reference_map=_label_map(options.reference_map, "--reference-map") or both,
            prediction_map=_label_map(options.prediction_map, "--prediction-map") or both,
            overwrite=options.overwrite,
            readers=options.readers,
            figure=options.figure,
        )
    if options.json:
        _print_json(result.to_dict())
    else:
        _print("\n".join([*result.lines(), f"Tables: '{options.output}' and its summary beside it."]))
    return 1 if result.failures else 0


def _scans(count: int) -> str:
    return "1 scan" if count == 1 else f"{count} scans"


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",")] if text else None


def _label_map(text: str | None, option: str) -> dict[int | str, int] | None:
    from autoseg_lib.settings import label_map_of

    if not text:
        return None
    try:
        return label_map_of(text)
    except ValueError as error:
        raise SettingsError(f"{option} {text}: expected {error}.") from None


def _demo(options: argparse.Namespace) -> int:
    from autoseg_lib.workflow.demo import run_demo

    with Terminal() as terminal, StopOnSignals() as stop:
        result = run_demo(options.dir, terminal, stop)
    _print("\n".join(result.lines()))
    return 0


def _history(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from autoseg_lib.workflow.run_history import find_history

    run = find_history(options.models, options.name)
    if options.json:
        values: dict[str, Any] = {
            "name": run.name,
            "written": run.written.isoformat(timespec="seconds"),
            "epochs": run.rows,
        }
        if run.folds is not None:
            values["folds"] = [asdict(score) for score in run.folds.scores]
        _print_json(values)
    else:
        _print("\n".join(run.lines()))
    return 0


def _kernel(options: argparse.Namespace) -> int:
    from ipykernel.kernelspec import install

    install(user=True, kernel_name=options.name, display_name="AutoSeg")
    _print("The kernel 'AutoSeg' is registered: in JupyterLab choose Kernel > Change Kernel > AutoSeg.")
    return 0


# --- helpers ----------------------------------------------------------------------------------------------------------


def _require_there(path: Path | None) -> None:
    if path is not None and not path.exists():
        raise SettingsError(f"'{path}': not found. Give a folder or file that exists.")


def _values(options: argparse.Namespace) -> dict[str, Any]:
    from autoseg_lib.settings import parse_assignments, read_settings_file

    values: dict[str, Any] = {}
    if getattr(options, "settings", None):
        values = read_settings_file(options.settings)
        # Paths in a settings file are meant from the file's own folder, so that a study can be moved as a whole.
        main_dir = values.get("main_dir")
        if isinstance(main_dir, str) and main_dir and not Path(main_dir).expanduser().is_absolute():
            beside = options.settings.resolve().parent / main_dir
            if beside.exists() or not Path(main_dir).exists():
                values["main_dir"] = str(beside)
    return {**values, **parse_assignments(getattr(options, "set", []))}


# What a training that was told to stop returns, so that a script knows what to do next. SIGUSR1 is what a cluster is asked to
# send before the time is up: 75 ("try again", BSD's sysexits) asks to be started again. SIGTERM: as if it had ended at once.
EXIT_START_AGAIN, EXIT_TERMINATED = 75, 128 + 15
# Ctrl+C before all scans were done; a training that is stopped so has kept its model and returns 0.
EXIT_INTERRUPTED = 128 + 2
# Starters such as torchrun pass Ctrl+C on to processes that had it from the terminal already.
SAME_INTERRUPT_SECONDS = 2.0


class StopOnSignals(StopFlag):
    """Ctrl+C, or a system that ends this process, asks the work to save and end; a second Ctrl+C ends at once.

    Attributes:
        exit_code: what the program should return when it has stopped.
    """

    def __init__(self, speaks: bool = True) -> None:
        """Args:
        speaks: whether to say that it stops (of several processes one does).
        """
        super().__init__()
        self.exit_code = 0
        self._speaks = speaks
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignals:
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK"):
            if number := getattr(signal, name, None):  # Windows has no SIGUSR1, others no SIGBREAK
                self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, _: object) -> None:
        if (
            number == signal.SIGINT
            and self.is_set()
            and time.monotonic() - self._first > SAME_INTERRUPT_SECONDS
        ):
            raise KeyboardInterrupt
        if self.is_set():
            return
        self._first = time.monotonic()
        self.in_a_hurry = number != signal.SIGINT
        if number == getattr(signal, "SIGUSR1", None):
            self.exit_code, why = EXIT_START_AGAIN, "the time is nearly up: "
        elif number == signal.SIGINT:
            why = ""
        else:
            self.exit_code, why = EXIT_TERMINATED, "this process was asked to end: "
        if self._speaks:
            again = " (press Ctrl+C again to end at once)" if number == signal.SIGINT else ""
            _say(f"\n{why}stopping and keeping what is done{again} ...")
        self.set()


class Terminal:
    """Shows events on stderr: one line that is drawn again on a terminal, a line now and then in a log file."""

    def __init__(self, speaks: bool = True) -> None:
        """Args:
        speaks: False shows nothing (of several processes one speaks).
        """
        self._speaks = speaks
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._last = 0.0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        if not self._speaks:
            return
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Message):
            self.line(("⚠ " if event.level == "warning" else "") + event.text)
        elif isinstance(event, FoldStarted):
            self.line(f"Fold {event.fold} of {event.folds}")
        elif isinstance(event, StepDone):
            self._redraw(
                f"epoch {event.epoch}: step {event.step} of {event.steps}, Dice loss {event.loss:.3f}"
            )
        elif isinstance(event, EpochDone):
            left = event.seconds_left / 60
            self._redraw(f"epoch {event.epoch} of {event.epochs} done, about {left:.0f} min left")
        elif isinstance(event, TrainingStopped):
            self._clear()

    def line(self, text: str) -> None:
        """Writes a line that stays."""
        if self._speaks:
            self._clear()
            _say(text)

    def _progress(self, event: Progress) -> None:
        share = f"{event.done} of {event.total}" if event.total else str(event.done)
        left = ""
        if event.seconds_left is not None and event.done < event.total:
            left = f", about {event.seconds_left / 60:.0f} min left"
        self._redraw(f"{event.stage}: {share}{left} {event.detail}".rstrip())

    def _redraw(self, text: str) -> None:
        now = time.monotonic()
        if self._live:
            if now - self._last >= 0.1:
                sys.stderr.write("\r" + text[:110].ljust(len(self._shown)))
                sys.stderr.flush()
                self._shown, self._last = text[:110], now
        elif now - self._last >= 30:
            _say(text)
            self._last = now

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""


def _speak_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Windows consoles default to a code page without "²" and "✔".
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _print(text: str) -> None:
    sys.stdout.write(_STEERING.sub("?", text) + "\n")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, ensure_ascii=False, default=str))


# Names of files may hold what colours, moves or turns round the text of a terminal.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _say(text: str) -> None:
    sys.stderr.write(_STEERING.sub("?", text) + "\n")
    sys.stderr.flush()
