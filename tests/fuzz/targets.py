"""What the workbench does with a file that somebody hands over, kind by kind."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from PIL import Image

from autoseg_lib import cli
from autoseg_lib.data.discover import describe_source, discover
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import AutosegError, DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io import raster, volume_files
from autoseg_lib.io.csv_files import read_csv
from autoseg_lib.io.segments import describe_segments, open_segments, paint
from autoseg_lib.settings import (
    SegmentSettings,
    TrainSettings,
    make_settings,
    parse_assignments,
    read_settings_file,
)

# How a file of each kind is called when it is put into a folder of its own.
FILE_NAMES = {
    "dicom": "scan_1.dcm",
    "png": "scan_1.png",
    "jpg": "scan_1.jpg",
    "tiff": "scan_1.tif",
    "npy": "scan_1.npy",
    "nifti": "scan_1.nii.gz",
    "nrrd": "scan_1.nrrd",
    "mha": "scan_1.mha",
    "nhdr": "scan_1.nhdr",
    "mhd": "scan_1.mhd",
    "safetensors": "model_1.safetensors",
    "rtstruct": "scan_1.dcm",
    "dicomseg": "scan_1.dcm",
    "segnrrd": "scan_1.seg.nrrd",
    "csv": "manifest.csv",
    "yaml": "settings.yaml",
}


class CommandError(Exception):
    """The command line met something it had no sentence for."""


def prepare(kind: str, folder: Path) -> None:
    """Puts what a file of this kind refers to beside it."""
    if kind in ("nhdr", "mhd"):
        (folder / "pixels.raw").write_bytes(bytes(20 * 24 * 6))
        for number in range(1, 7):
            (folder / f"plane{number}.raw").write_bytes(bytes(20 * 24))
    if kind == "csv":
        for number in (1, 2):
            Image.new("L", (20, 24), number).save(folder / f"scan_{number}.png")


def try_file(kind: str, path: Path) -> bool:
    """Does with a file all that the workbench would do.

    Returns:
        Whether at least one way of reading it gave something; otherwise every one refused it with an AutosegError.

    Raises:
        Exception: anything that is no AutosegError; this is what the fuzzer looks for.
    """
    results = [_read_with(step, path) for step in _STEPS[kind]]
    return any(results)


def try_command(kind: str, path: Path, output: Path) -> None:
    """Runs the command line on the file, as a user would.

    Raises:
        CommandError: it ended with a traceback or "something unexpected".
    """
    commands = {"yaml": [["check", str(path.parent), "--settings", str(path)]]}.get(
        kind, [["check", str(path.parent)], ["check", str(path), "--json"]]
    )
    if kind in ("png", "npy", "tiff", "nifti", "nrrd", "mha"):
        commands.append(["measure", str(path.parent), "--output", str(output)])
    for arguments in commands:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = cli.main(arguments)
        text = said.getvalue()
        if code not in (0, 1, 2) or "something unexpected" in text or "Traceback" in text:
            raise CommandError(f"autoseg {arguments[0]}: {text.strip()[-300:]}")


def _read_with(step: Callable[[Path], object], path: Path) -> bool:
    try:
        step(path)
    except AutosegError as error:
        refused_in_words(error)
        return False
    return True


# What libraries say when they could not have the memory they asked for.
_OUT_OF_MEMORY = ("unable to allocate", "failed to allocate", "bad_alloc", "bad allocation", "out of memory")


def refused_in_words(error: AutosegError) -> None:
    """Makes sure that a refusal did not come from running out of memory, and says something.

    Raises:
        MemoryError: the reader asked for more memory than the limit and only then gave up.
        ValueError: the message is empty.
    """
    if not str(error).strip():
        raise ValueError("a refusal without a sentence")
    cause: BaseException | None = error
    while cause is not None:
        words = str(cause).lower()
        if isinstance(cause, MemoryError) or any(text in words for text in _OUT_OF_MEMORY):
            raise MemoryError(f"refused only after asking for too much memory: {cause}") from error
        cause = cause.__cause__ or cause.__context__


# --- what happens to each kind ----------------------------------------------------------------------------------------


def _as_scans(path: Path) -> None:
    found = discover(path.parent)
    for source in (*found.sources, *found.left_out):
        describe_source(source)
        load_scan(source)


def _as_one_scan(path: Path) -> None:
    found = discover(path)
    for source in found.sources:
        load_scan(source)


def _as_picture_label(path: Path) -> None:
    raster.check_picture_header(path)
    raster.read_label(path, 2)


def _as_volume_label(path: Path) -> None:
    volume_files.describe_volume_file(path)
    volume_files.read_label_file(path)


def _as_model(path: Path) -> None:
    from autoseg_lib.networks.model_file import load_model  # torch takes seconds to import
    from autoseg_lib.workflow.model_choice import check_against_model, list_models, make_predictor

    list_models(path.parent)
    model = load_model(path)
    check_against_model(SegmentSettings(), model)
    make_predictor(model, SegmentSettings(tta=True), [])


def _as_table(path: Path) -> None:
    header, rows = read_csv(path)
    if not header and rows:
        raise DataError("rows without columns")


def _as_training_settings(path: Path) -> None:
    make_settings(TrainSettings, read_settings_file(path))


def _as_segmenting_settings(path: Path) -> None:
    make_settings(SegmentSettings, read_settings_file(path))


def _as_assignments(path: Path) -> None:
    lines = path.read_bytes().decode("latin-1").split("\n")
    make_settings(TrainSettings, parse_assignments([line.replace(": ", "=", 1) for line in lines[:5]]))


# A scan on which contours and segmentations can lie.
_GRID = Geometry.from_spacing(
    (4, 24, 20), (3, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
)


def _as_segments(path: Path) -> None:
    describe_segments(path)
    file = open_segments(path)
    values = {segment.name: number for number, segment in enumerate(file.segments, start=1)}
    painted = False
    for grid in (_GRID, file.geometry):
        if grid is None:
            continue
        try:
            paint(file.layers(grid), values)
            painted = True
        except GeometryError:
            continue
    if not painted:
        raise DataError("on no grid")


_STEPS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "dicom": (_as_scans, _as_one_scan),
    "png": (_as_scans, _as_picture_label),
    "jpg": (_as_scans, _as_picture_label),
    "tiff": (_as_scans, _as_picture_label),
    "npy": (_as_scans, _as_picture_label),
    "nifti": (_as_scans, _as_volume_label),
    "nrrd": (_as_scans, _as_volume_label),
    "mha": (_as_scans, _as_volume_label),
    "nhdr": (_as_scans, _as_volume_label),
    "mhd": (_as_scans, _as_volume_label),
    "safetensors": (_as_model,),
    "rtstruct": (_as_segments, _as_scans),
    "dicomseg": (_as_segments, _as_scans),
    "segnrrd": (_as_segments, _as_volume_label),
    "csv": (_as_one_scan, _as_table),
    "yaml": (_as_training_settings, _as_segmenting_settings, _as_assignments),
}
