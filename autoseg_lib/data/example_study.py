"""The example study: drawn lumbar MR scans as DICOM series, label PNGs and a table of exact areas.

FOLDER/train/images/SCAN/*.dcm   FOLDER/train/labels/SCAN/*.png
FOLDER/test/images/SCAN/*.dcm    FOLDER/test/labels/SCAN/*.png
FOLDER/truth.csv                 case,slice_number,roi,area_mm2: exact, from the shapes' formulas
FOLDER/labels.csv                value,name
FOLDER/settings.yaml             settings that train on it
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from autoseg_lib.data.example_anatomy import ROI_NAMES, Person, draw_slice, paint_image, paint_labels
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.events import Listener, Progress, nobody
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_write import write_dicom_series

# Changes when the same seed gives other files, so that an older study is not taken for the new one.
_VERSION = 2
_MARKER = "example_study.json"

# Clean drawings are learned far sooner than real scans; more epochs change nothing.
EPOCHS = 30

# Two of seven scans are kept for testing: 4 of the usual 14.
_TEST_SHARE = 2 / 7


@dataclass(frozen=True)
class ExampleStudy:
    """Where everything of the example study lies.

    Attributes:
        folder: the study; a ``main_dir``.
        train_scans: names of the scans in train/.
        test_scans: names of the scans in test/.
        roi_names: ROIs of the label values 1 ...
    """

    folder: Path
    train_scans: tuple[str, ...]
    test_scans: tuple[str, ...]
    roi_names: tuple[str, ...] = ROI_NAMES

    @property
    def test_images(self) -> Path:
        """Folder of the test scans' DICOM series, one sub-folder a scan."""
        return self.folder / "test" / "images"

    @property
    def test_labels(self) -> Path:
        """Folder of the test scans' label PNGs, one sub-folder a scan."""
        return self.folder / "test" / "labels"

    @property
    def truth(self) -> Path:
        """Table of exact areas."""
        return self.folder / "truth.csv"

    @property
    def settings_file(self) -> Path:
        """YAML settings that train on the study."""
        return self.folder / "settings.yaml"


@dataclass(frozen=True)
class _Recipe:
    """The grid of one scan."""

    rows: int
    columns: int
    row_mm: float
    column_mm: float
    slices: int
    step_mm: float
    tilt_degrees: float = 0.0
    swing_degrees: float = 0.0
    names_downwards: bool = False


_SQUARE = _Recipe(160, 192, 1.7, 1.7, 9, 8.0)
# What training and testing scans look like, in turn.
_TRAIN_RECIPES = (
    _SQUARE,
    _Recipe(176, 208, 1.6, 1.6, 9, 8.0, names_downwards=True),
    _Recipe(136, 200, 2.0, 1.6, 8, 9.0),
    _Recipe(160, 192, 1.75, 1.75, 10, 7.5, tilt_degrees=-8),
)
_TEST_RECIPES = (
    _Recipe(160, 192, 1.7, 1.7, 9, 8.0, tilt_degrees=14, swing_degrees=5),
    _Recipe(138, 204, 2.0, 1.6, 9, 8.0),
    _SQUARE,
    _Recipe(190, 180, 1.45, 1.85, 10, 7.0, tilt_degrees=-11, names_downwards=True),
)
_ONLY_TEST_RECIPE = _Recipe(138, 204, 2.0, 1.6, 9, 8.0, tilt_degrees=14, swing_degrees=5)


def write_example_study(
    folder: Path, scans: int = 14, seed: int = 0, on_event: Listener = nobody
) -> ExampleStudy:
    """Writes the example study into ``folder``, or returns the one that is there already.

    Args:
        folder: made if missing; must be empty or hold the same example study.
        scans: how many scans in all; two of seven go to test/.
        seed: draws other persons; the same seed gives the same bytes.
        on_event: hears one Progress per scan.

    Raises:
        SettingsError: fewer than 2 scans.
        DataError: the folder holds something else, or cannot be written.
    """
    if scans < 2 or seed < 0:
        raise SettingsError(
            f"example study: found scans = {scans}, seed = {seed}; expected 2 scans or more, a seed from 0."
        )
    tests = max(1, round(scans * _TEST_SHARE))
    names = [f"lumbar_{number:02d}" for number in range(1, scans + 1)]
    study = ExampleStudy(folder, tuple(names[: scans - tests]), tuple(names[scans - tests :]))
    wanted = {"what": "example study", "version": _VERSION, "scans": scans, "seed": seed}
    if _is_complete(folder, wanted):
        return study
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _mark(folder, wanted, complete=False)
        truth: list[tuple[str, int, str, float]] = []
        for index, name in enumerate(names):
            on_event(Progress("Drawing the example study", index, scans, name))
            part, number = (
                ("train", index) if name in study.train_scans else ("test", index - len(study.train_scans))
            )
            recipe = _recipe(part, number, tests)
            truth += _write_scan(folder / part, name, recipe, np.random.default_rng([seed, index]), seed)
        on_event(Progress("Drawing the example study", scans, scans))
        _write_tables(study, truth)
        _mark(folder, wanted, complete=True)
    except OSError as error:
        raise DataError(
            f"example study in '{folder}': it cannot be written ({error.strerror or error}). "
            "Choose a folder you may write to."
        ) from error
    return study


def _is_complete(folder: Path, wanted: dict[str, object]) -> bool:
    """Whether the same study is there; raises where writing would touch somebody's files."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"example study: '{folder}' is a file; give the name of a new folder.")
    marker = folder / _MARKER
    if not marker.is_file():
        if any(folder.iterdir()):
            raise DataError(
                f"example study: the folder '{folder}' holds other files; nothing was written. "
                "Give an empty or a new folder."
            )
        return False
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        found = {}
    if not isinstance(found, dict) or {key: found.get(key) for key in wanted} != wanted:
        raise DataError(
            f"example study: the folder '{folder}' holds another example study "
            f"(other number of scans, seed or version); nothing was written. "
            "Give a new folder, or delete that one."
        )
    return found.get("complete") is True


def _mark(folder: Path, wanted: dict[str, object], *, complete: bool) -> None:
    text = json.dumps({**wanted, "complete": complete}, indent=1) + "\n"
    (folder / _MARKER).write_text(text, encoding="utf-8", newline="\n")


def _recipe(part: str, number: int, tests: int) -> _Recipe:
    if part == "test":
        return _ONLY_TEST_RECIPE if tests == 1 else _TEST_RECIPES[number % len(_TEST_RECIPES)]
    return _TRAIN_RECIPES[number % len(_TRAIN_RECIPES)]


def _geometry(recipe: _Recipe) -> Geometry:
    """Axial grid, tilted about the left–right axis (as along a disc) and swung about the body's long axis."""
    tilt, swing = np.radians(recipe.tilt_degrees), np.radians(recipe.swing_degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(swing), -np.sin(swing), 0], [np.sin(swing), np.cos(swing), 0], [0, 0, 1]])
    axes = about_z @ about_x  # columns: where columns (to L), rows (to P) and slices (to S) grow
    affine = np.eye(4)
    affine[:3, 0] = axes[:, 2] * recipe.step_mm
    affine[:3, 1] = axes[:, 1] * recipe.row_mm
    affine[:3, 2] = axes[:, 0] * recipe.column_mm
    shape = (recipe.slices, recipe.rows, recipe.columns)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def _write_scan(
    part: Path, name: str, recipe: _Recipe, generator: np.random.Generator, seed: int
) -> list[tuple[str, int, str, float]]:
    geometry, person = _geometry(recipe), Person.drawn(generator)
    images, labels, truth = [], [], []
    for index in range(recipe.slices):
        drawn = draw_slice(person, index / (recipe.slices - 1))
        images.append(paint_image(drawn, geometry, person, generator))
        labels.append(paint_labels(drawn, geometry, person))
        truth += [(name, index + 1, ROI_NAMES[value - 1], shape.area_mm2) for value, shape in drawn.rois]
    numbers = range(recipe.slices, 0, -1) if recipe.names_downwards else range(1, recipe.slices + 1)
    stems = [f"IM_{number:04d}" for number in numbers]
    write_dicom_series(
        part / "images" / name,
        np.stack(images),
        geometry,
        names=stems,
        patient_id=name.replace("lumbar_", "EXAMPLE-"),
        patient_name="Example^Study",
        description="T1 axial (drawn)",
        uid_seed=str(seed),
    )
    folder = part / "labels" / name
    folder.mkdir(parents=True, exist_ok=True)
    for stem, values in zip(stems, labels, strict=True):
        _write_png(folder / f"{stem}.png", values)
    return truth


def _write_png(path: Path, values: npt.NDArray[np.uint8]) -> None:
    # Encoded in memory: OpenCV's own file writing fails on accents in Windows paths.
    path.write_bytes(cv2.imencode(".png", values)[1].tobytes())


def _write_tables(study: ExampleStudy, truth: list[tuple[str, int, str, float]]) -> None:
    with study.truth.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "slice_number", "roi", "area_mm2"])
        writer.writerows((case, number, roi, f"{area:.4f}") for case, number, roi, area in truth)
    with (study.folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["value", "name"])
        writer.writerows(enumerate(ROI_NAMES, start=1))
    settings = {
        "main_dir": ".",
        "model_filename": "example",
        "dimension": "2D",
        "labels_list": list(ROI_NAMES),
        "epochs": EPOCHS,
    }
    text = "# Settings that train on this folder; main_dir is relative to this file.\n" + yaml.safe_dump(
        settings, sort_keys=False
    )
    study.settings_file.write_text(text, encoding="utf-8", newline="\n")
