"""The settings of training and of segmenting: names, defaults, and every mistake reported at once.

A setting is a field of a dataclass whose metadata say how to check it. ``"auto"`` stands for "derive it from the data
and the machine"; the value chosen is printed and stored by ``autoseg_lib.train.planning``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from autoseg_lib.errors import SettingsError, name_list

AUTO: Literal["auto"] = "auto"

# Returns the cleaned value, or raises ValueError with what was expected.
Check = Callable[[Any], Any]


def _setting(default: Any, check: Check, help_text: str) -> Any:
    return field(default=default, metadata={"check": check, "help": help_text})


def _or_auto(check: Check) -> Check:
    def checked(value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() == AUTO:
            return AUTO
        try:
            return check(value)
        except ValueError as error:
            raise ValueError(f'"auto" or {error}') from None

    return checked


def _optional(check: Check) -> Check:
    def checked(value: Any) -> Any:
        if value is None or value == "":
            return None
        try:
            return check(value)
        except ValueError as error:
            raise ValueError(f"nothing (None) or {error}") from None

    return checked


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("a text in quotes")
    return value.strip()


def _text_or_texts(value: Any) -> str | list[str]:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("a text in quotes, or a list of them")
        return [_text(item) for item in value]
    return _text(value)


def _filename(value: Any) -> str:
    name = _text(value)
    bad = set('/\\:*?"<>|') & set(name)
    if not name or bad or name.startswith("."):
        raise ValueError('a file name without / \\ : * ? " < > |')
    return name


def _whole(low: int, high: int | None = None) -> Check:
    def checked(value: Any) -> int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or value < low or (high is not None and value > high):
            raise ValueError(
                f"a whole number of at least {low}"
                if high is None
                else f"a whole number from {low} to {high}"
            )
        return int(value)

    return checked


def _number(low: float, high: float | None = None, *, above: bool = False) -> Check:
    def checked(value: Any) -> float:
        wrong = (
            isinstance(value, bool) or not isinstance(value, int | float) or value != value
        )  # NaN differs from itself
        if wrong or value < low or (above and value == low) or (high is not None and value > high):
            start = f"above {low:g}" if above else f"of at least {low:g}"
            raise ValueError(f"a number {start}" + ("" if high is None else f" and at most {high:g}"))
        return float(value)

    return checked


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _one_of(*names: str) -> Check:
    def checked(value: Any) -> str:
        for name in names:
            if isinstance(value, str) and value.strip().lower() == name.lower():
                return name
        raise ValueError("one of " + ", ".join(f'"{name}"' for name in names))

    return checked


def _list_of(check: Check, lengths: tuple[int, ...] | None, single: bool = False) -> Check:
    def checked(value: Any) -> Any:
        if single and not isinstance(value, list | tuple):
            return check(value)
        if not isinstance(value, list | tuple) or (lengths and len(value) not in lengths):
            raise ValueError(
                "a list" if not lengths else "a list of " + " or ".join(str(n) for n in lengths) + " numbers"
            )
        try:
            return [check(item) for item in value]
        except ValueError as error:
            raise ValueError(f"a list, each item {error}") from None

    return checked


def _split_numbers(value: Any) -> Any:
    """Takes apart "1,3", as it is typed into a command line; anything else stays as it is."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*,?\s*", value):
        numbers = [int(part) for part in value.split(",") if part.strip()]
        return numbers if "," in value else numbers[0]
    return value


def _label_names(value: Any) -> list[str]:
    if isinstance(value, str) and "," in value:
        # As it is typed into a command line: "psoas left, psoas right".
        value = [part.strip() for part in value.split(",") if part.strip()]
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(name, str) and name.strip() for name in value)
    ):
        raise ValueError('a list of ROI names, e.g. ["psoas left", "psoas right"]')
    names = [name.strip() for name in value]
    # The field's earlier notebooks list the background first.
    return names[1:] if names[0].lower() == "background" and len(names) > 1 else names


def _channel_names(value: Any) -> list[str]:
    """Names of channels; which there are is known further up, where the plan is made."""
    if isinstance(value, str):
        value = value.split(",")
    names = [str(item).strip() for item in value] if isinstance(value, list | tuple) else []
    if not names or not all(names) or not all(isinstance(item, str) for item in value):
        raise ValueError('a list of names, e.g. ["image", "log 2 mm", "sobel"]')
    return names


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError('a table, e.g. {"resampling": "cubic", "crop": {"to": "body", "margin_mm": 10}}')
    return dict(value)


# Labels are kept in 8 bits while training; 255 is left for "none".
MOST_LABELS = 254

_MAP_HELP = 'code = ROI number, e.g. {63: 1, 126: 2}, {"#FF0000": 1}, {"GTV-1": 1} or "63=1,126=2"'


def label_map_of(value: Any) -> dict[int | str, int]:
    """Returns a cleaned ``label_map``: grey values as int, colours as "#RRGGBB", planes as "plane 1", names as they are.

    Raises:
        ValueError: it is none; the text says what was expected.
    """
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip().strip("{}").split(",") if part.strip()]
        pairs = [re.split(r"[=:](?=[^=:]*$)", part) for part in parts]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise ValueError(_MAP_HELP)
        items = [(key.strip().strip("'\""), number.strip()) for key, number in pairs]
    elif isinstance(value, Mapping) and value:
        items = [_map_item(key, number) for key, number in value.items()]
    else:
        raise ValueError(_MAP_HELP)
    cleaned: dict[int | str, int] = {}
    for key, number in items:
        name = _map_key(key)
        text = str(number).strip()
        if isinstance(number, bool) or not text.isdecimal() or int(text) > MOST_LABELS:
            raise ValueError(f"ROI numbers from 0 (background) to 254 in it, not {key!r}: {number!r}")
        if name in cleaned and cleaned[name] != int(text):
            raise ValueError(f"each code once in it ('{name}' is there twice)")
        cleaned[name] = int(text)
    return cleaned


def _map_item(key: Any, number: Any) -> tuple[Any, Any]:
    """Takes apart what YAML makes of {63:1}, without a space after the colon: the key "63:1" and no value."""
    if number is None and isinstance(key, str) and ":" in key:
        code, _, number = key.rpartition(":")
        return code, number
    return key, number


def _map_key(key: Any) -> int | str:
    """Returns one key of a label map; files of settings and models keep numbers as text."""
    if isinstance(key, bool) or (isinstance(key, float) and not key.is_integer()):
        raise ValueError(_MAP_HELP)
    if isinstance(key, int | float):
        text = str(int(key))
    else:
        text = str(key).strip()
    if text.isdecimal():
        return int(text)
    if re.fullmatch(r"#[0-9A-Fa-f]{6}", text):
        return text.upper()
    if found := re.fullmatch(r"(?i)plane\s*(\d{1,3})", text):
        return f"plane {int(found[1])}"
    if not text or text.startswith(("#", "-")):
        raise ValueError(f'grey values from 0, colours like "#FF0000" or names of ROIs as codes, not {key!r}')
    return text


def _intensity(value: Any) -> Any:
    if isinstance(value, str):
        return _one_of("percentile", "zscore", "window")(value)
    try:
        low, high = _list_of(_number(-1e9), (2,))(value)
        if low < high:
            return [low, high]
    except ValueError:
        pass
    raise ValueError('"percentile", "zscore", "window", or a window [low, high] in the image\'s own units')


# Each may be left out; 0 switches it off. See autoseg_lib/augment for what they do.
AUGMENT_KEYS = {
    "probability": _number(0, 1),
    "rotation_degrees": _number(0, 180),
    "scale": _number(0, 0.9),
    "shift": _number(0, 0.5),
    "elastic": _number(0, 1),
    "brightness": _number(0, 1),
    "contrast": _number(0, 1),
    "gamma": _number(0, 1),
    "noise": _number(0, 1),
    "blur": _number(0, 1),
    "flip": _flag,
}


def _augment(value: Any) -> Any:
    if value is False:
        return {"probability": 0.0}
    names = ", ".join(AUGMENT_KEYS)
    if not isinstance(value, Mapping):
        raise ValueError(f"False, or a table with any of {names}")
    cleaned = {}
    for key, item in value.items():
        if key not in AUGMENT_KEYS:
            raise ValueError(f"only {names} inside it ('{key}' is not one of them)")
        try:
            cleaned[key] = AUGMENT_KEYS[key](item)
        except ValueError as error:
            raise ValueError(f"{key} = {error}") from None
    return cleaned


def _resume(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str | Path) and str(value).strip():
        return str(value)
    raise ValueError("True, False or the path of a NAME_last.ckpt")


FORMATS = ("png", "npy", "jpg", "nifti", "seg", "rtstruct", "xlsx")


def _formats(value: Any) -> list[str]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise ValueError("a list of " + ", ".join(FORMATS))
    try:
        return [_one_of(*FORMATS)(item) for item in items]
    except ValueError:
        raise ValueError("a list of " + ", ".join(FORMATS)) from None


_shape = _list_of(_whole(16, 4096), (2,), single=True)
_two_numbers = _list_of(_number(-math.inf), (2,))


def _window(value: Any) -> list[float]:
    low, high = _two_numbers(value)
    if not -math.inf < low < high < math.inf:
        raise ValueError("two grey values, the lower one first, e.g. [-29, 150]")
    return [low, high]


def _sections(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError('a table of changes, e.g. {"postprocessing": []}')
    return dict(value)


_two_mm = _list_of(_number(0, above=True), (2,), single=True)
_two_px = _list_of(_whole(1), (2,), single=True)
_some_numbers = _list_of(_whole(1), None, single=True)
_series = _or_auto(lambda value: _some_numbers(_split_numbers(value)))
_axis = _or_auto(_one_of("axial", "coronal", "sagittal"))


@dataclass(frozen=True)
class TrainSettings:
    """All settings of train.ipynb and of the YAML file of ``autoseg train``. Only ``main_dir`` is required."""

    # DIRECTORIES & FILENAMES
    main_dir: str = _setting(
        "", _text, "folder with train/images (or dicoms) and train/labels, or a CSV manifest"
    )
    model_filename: str = _setting(AUTO, _or_auto(_filename), "name of the model to make")
    model_dir: str = _setting(AUTO, _or_auto(_text), "folder the models are saved in")
    # TRAINING PARAMETERS
    dimension: str = _setting(
        AUTO, _or_auto(_one_of("2D", "3D")), "2D (slice by slice) or 3D (whole volumes)"
    )
    labels_list: Any = _setting(
        AUTO, _or_auto(_label_names), "names of the ROIs, in the order of their label values"
    )
    num_labels: Any = _setting(
        AUTO, _or_auto(_whole(1, MOST_LABELS)), "number of ROIs, background not counted"
    )
    label_map: Any = _setting(
        None,
        _optional(label_map_of),
        "what codes in label files stand for: {63: 1, 126: 2}, {255: 1}, colours, names",
    )
    overlap_priority: Any = _setting(
        None,
        _optional(_label_names),
        "RTSTRUCT and SEG: names of ROIs, the first lies on top where they overlap",
    )
    seg_threshold: float = _setting(
        0.5,
        _number(0, 1, above=True),
        "fractional DICOM SEG: share of a pixel from which it belongs to the ROI",
    )
    input_shape: Any = _setting(AUTO, _or_auto(_shape), "2D: pixels of the square each slice is fitted into")
    epochs: Any = _setting(AUTO, _or_auto(_whole(1)), "how often all training data are gone through")
    batch_size: Any = _setting(AUTO, _or_auto(_whole(1)), "images (or patches) per training step")
    learning_rate: Any = _setting(AUTO, _or_auto(_number(0, 10, above=True)), "size of the optimiser's steps")
    dropout_rate: Any = _setting(
        AUTO, _or_auto(_number(0, 0.9)), "share of features dropped at random while training"
    )
    augment_params: Any = _setting(AUTO, _or_auto(_augment), "strength of each augmentation; False for none")
    network: str = _setting(AUTO, _or_auto(_text), "network architecture")
    encoder: str = _setting(AUTO, _or_auto(_text), "2D: encoder of the network")
    network_depth: Any = _setting(
        AUTO, _or_auto(_whole(2, 6)), "how often the network halves the image on its way down"
    )
    network_width: Any = _setting(
        AUTO, _or_auto(_whole(4, 256)), "features of the network's first level; they double on the way down"
    )
    pretrained: bool = _setting(
        False, _flag, "2D: start from downloaded encoder weights (needs the internet once)"
    )
    start_from: Any = _setting(None, _optional(_text), "model file to start from (fine-tuning)")
    loss: str = _setting(AUTO, _or_auto(_text), "loss function")
    optimizer: str = _setting(AUTO, _or_auto(_text), "how weights are adjusted: muon or adamw")
    spacing_mm: Any = _setting(
        AUTO,
        _or_auto(_list_of(_number(0, above=True), (2, 3), single=True)),
        "3D: voxel size; PNG/JPG/NPY: pixel size",
    )
    fov: Any = _setting(
        None, _optional(_two_mm), "field of view in mm, used only where files carry no pixel spacing"
    )
    matrix_size: Any = _setting(None, _optional(_two_px), "pixels of the acquisition matrix, goes with fov")
    intensity: Any = _setting(AUTO, _or_auto(_intensity), "how grey values are normalised")
    patch_size: Any = _setting(
        AUTO,
        _or_auto(_list_of(_whole(8, 1024), (2, 3), single=True)),
        "size of the parts learned from: slices, rows, columns (3D), rows, columns (2D; as large as input_shape: whole slices)",
    )
    validation_fraction: Any = _setting(
        AUTO, _or_auto(_number(0, 0.9)), "share of patients kept back for validation"
    )
    folds: Any = _setting(
        AUTO,
        _or_auto(_whole(1, 20)),
        "1: one split into training and validation; 5: cross-validation by patient, five models used together",
    )
    # HOW IT LEARNS
    positive_share: Any = _setting(
        AUTO, _or_auto(_number(0, 1)), "share of patches placed on an ROI, each ROI equally often"
    )
    neighbour_slices: Any = _setting(
        AUTO, _or_auto(_whole(0, 5)), "2D: slices on each side that the network sees beside the slice itself"
    )
    channels: Any = _setting(
        AUTO,
        _or_auto(_channel_names),
        'what the network sees: "image", "image 2", or filters, e.g. ["image", "log 2 mm", "sobel"]; auto: the images',
    )
    preprocessing: Any = _setting(
        None,
        _optional(_table),
        'keys of docs/pipeline.md for crop, pad, resize, orientation, resampling and own steps, e.g. {"resampling": "cubic"}',
    )
    deep_supervision: Any = _setting(
        AUTO, _or_auto(_flag), "3D networks that can: compare coarser outputs with the labels too"
    )
    ignore_unlabelled: bool = _setting(
        False, _flag, "leave an ROI out of the loss in slices (2D) or scans (3D) where it was not drawn"
    )
    early_stopping: Any = _setting(
        AUTO, _or_auto(_flag), "end when validation has not become better for long"
    )
    freeze_encoder_epochs: Any = _setting(
        AUTO, _or_auto(_whole(0)), "start_from: epochs in which only the new part of the network learns"
    )
    cache: Any = _setting(
        AUTO, _or_auto(_one_of("ram", "disk")), "where prepared scans are kept while training"
    )
    tensorboard: bool = _setting(False, _flag, "also write logs for TensorBoard")
    learning_curve: bool = _setting(
        False, _flag, "afterwards train on a half and a quarter too: what would more labelled scans bring?"
    )
    patient_pattern: Any = _setting(
        None, _optional(_text), "regular expression that finds the patient in a file name"
    )
    series: Any = _setting(
        AUTO, _series, "numbers of the series to use in each folder, as the data check lists them"
    )
    slice_axis: str = _setting(AUTO, _axis, "volumes: axial, coronal or sagittal slices")
    seed: int = _setting(
        0, _whole(0, 2**32 - 1), "start of all random numbers; the same seed gives the same run"
    )
    num_workers: Any = _setting(AUTO, _or_auto(_whole(0, 64)), "helper processes that prepare images")
    precision: str = _setting(AUTO, _or_auto(_one_of("32", "bf16", "16")), "number format while training")
    time_limit_minutes: Any = _setting(
        None, _optional(_number(0, above=True)), "stop (and keep) after this time"
    )
    # CHECKPOINTS
    print_checkpoint: Any = _setting(AUTO, _or_auto(_whole(1)), "print a line every so many epochs")
    save_checkpoint: Any = _setting(AUTO, _or_auto(_whole(1)), "save a model file every so many epochs")
    resume: Any = _setting(AUTO, _or_auto(_resume), "go on with an interrupted run of the same name")


@dataclass(frozen=True)
class SegmentSettings:
    """All settings of test.ipynb and of ``autoseg segment --set``."""

    model_filename: Any = _setting(
        AUTO,
        _or_auto(_text_or_texts),
        "model file, or a list of them that answer together; auto is the newest in the models' folder",
    )
    model_dir: str = _setting(AUTO, _or_auto(_text), "folder the models are in")
    labels_list: Any = _setting(
        AUTO, _or_auto(_label_names), "checked against the model's ROIs; auto takes them from it"
    )
    input_shape: Any = _setting(AUTO, _or_auto(_shape), "checked against the model; auto takes it from it")
    fov: Any = _setting(
        None, _optional(_two_mm), "field of view in mm, used only where files carry no pixel spacing"
    )
    matrix_size: Any = _setting(None, _optional(_two_px), "pixels of the acquisition matrix, goes with fov")
    spacing_mm: Any = _setting(
        AUTO,
        _or_auto(_list_of(_number(0, above=True), (2, 3), single=True)),
        "pixel size where files carry none",
    )
    input_dir: str = _setting("", _text, "folder to segment; empty: pick one")
    predictions_dir: str = _setting(AUTO, _or_auto(_text), "folder the results are saved in")
    formats: Any = _setting(("png", "jpg", "nifti"), _formats, "kinds of files to write")
    overlap: Any = _setting(AUTO, _or_auto(_number(0, 0.9)), "3D: overlap of neighbouring windows")
    tta: Any = _setting(
        AUTO,
        _or_auto(_flag),
        "also predict the mirrored image and average (twice the time, a little better); auto: in 3D",
    )
    series: Any = _setting(AUTO, _series, "numbers of the series to segment, as the folder picker lists them")
    slice_axis: str = _setting(AUTO, _axis, "volumes: axial, coronal or sagittal slices")
    batch_size: Any = _setting(AUTO, _or_auto(_whole(1)), "slices or windows at a time")
    tissue_window: Any = _setting(
        None, _optional(_window), "grey values that count as tissue, e.g. [-29, 150] HU for muscle on CT"
    )
    region_masks: str = _setting(
        "",
        _text,
        "folder with a mask for each scan, of its name: the part to keep where the model crops to a mask",
    )
    pipeline: Any = _setting(
        None,
        _optional(_sections),
        "changes to what the model does before and after its network (docs/pipeline.md)",
    )


AnySettings = TypeVar("AnySettings", TrainSettings, SegmentSettings)


def _hint(name: str, known: Sequence[str], kind: type[Any]) -> str:
    """How the sentence on an unknown setting ends."""
    other, where = (SegmentSettings, "segmenting") if kind is TrainSettings else (TrainSettings, "training")
    if name in {item.name for item in dataclasses.fields(other)}:
        return f" here, but one of {where}."
    near = difflib.get_close_matches(name.split(".")[0], known, n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else "."


def make_settings(
    kind: type[AnySettings], values: Mapping[str, Any], more: Sequence[str] = ()
) -> AnySettings:
    """Checks ``values`` and returns the settings.

    Args:
        kind: TrainSettings or SegmentSettings.
        values: setting name → value; missing ones keep their default.
        more: other names that could have been meant.

    Raises:
        SettingsError: lists every unknown name, wrong value and clash at once.
    """
    fields: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(kind)}
    problems, cleaned = [], {}
    for name, value in values.items():
        if name not in fields:
            hint = _hint(str(name), [*fields, *more], kind)
            problems.append(f"`{str(name)[:_LONGEST_SHOWN]}` is not a setting{hint}")
            continue
        try:
            cleaned[name] = fields[name].metadata["check"](value)
        except ValueError as error:
            problems.append(f"{name} = {_shown(value)}: expected {error}.")
    problems += _clashes(kind, cleaned)
    if problems:
        count = "1 setting needs" if len(problems) == 1 else f"{len(problems)} settings need"
        raise SettingsError(f"{count} correcting:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return kind(**cleaned)


def _clashes(kind: type, values: Mapping[str, Any]) -> list[str]:
    problems = []
    names, count = values.get("labels_list", AUTO), values.get("num_labels", AUTO)
    if names != AUTO and count != AUTO and len(names) != count:
        problems.append(
            f"num_labels = {count}, but labels_list names {len(names)} ROIs besides the background. "
            'Make them agree, or leave num_labels = "auto".'
        )
    if names != AUTO and len({name.lower() for name in names}) < len(names):
        double = next(name for name in names if [n.lower() for n in names].count(name.lower()) > 1)
        problems.append(f"labels_list uses the name '{double}' twice; every ROI needs a name of its own.")
    if (values.get("fov") is None) != (values.get("matrix_size") is None):
        problems.append("fov and matrix_size go together: give both (from the scan protocol), or neither.")
    if kind is TrainSettings:
        problems += _patch_clash(values.get("dimension"), values.get("patch_size", AUTO))
        if values.get("dimension") == "3D" and values.get("encoder", AUTO) != AUTO:
            problems.append('encoder is for dimension = "2D"; in 3D choose a network.')
    return problems


def _patch_clash(dimension: Any, patch: Any) -> list[str]:
    """A patch needs as many numbers as the network has dimensions; one number is for all."""
    wanted = {"2D": 2, "3D": 3}.get(dimension)
    if wanted is None or not isinstance(patch, list) or len(patch) == wanted:
        return []
    names = "rows and columns" if wanted == 2 else "slices, rows and columns"
    return [
        f'patch_size = {patch}: dimension = "{dimension}" takes {wanted} numbers ({names}), or one for all.'
    ]


class _Loader(yaml.SafeLoader):
    """YAML of plain values without aliases: a few lines of them can stand for more text than fits into memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", mark)
        return super().compose_node(parent, index)


# Dates and numbers that do not exist are ValueErrors, brackets in brackets a RecursionError.
_NOT_YAML = (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError)
# A hundred times the longest settings anybody wrote.
_LONGEST_FILE, _MOST_BRACKETS = 500_000, 1000
_LONGEST_SHOWN = 80


def _from_yaml(text: str) -> Any:
    if text.count("[") + text.count("{") > _MOST_BRACKETS:  # brackets in brackets take for ever
        raise ValueError("too many brackets")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def read_settings_file(path: Path) -> dict[str, Any]:
    """Returns the name → value table of a YAML settings file, unchecked.

    Raises:
        SettingsError: the file is missing, no YAML, or no table.
    """
    if not path.is_file():
        raise SettingsError(
            f"settings file '{path}': not found. Give the path of a YAML file with your settings."
        )
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise SettingsError(
                f"settings file '{path.name}': it is larger than any settings. Write one `name: value` a line."
            )
        values = _from_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"settings file '{path.name}': it cannot be opened ({error.strerror}). Check your rights."
        ) from None
    except _NOT_YAML as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise SettingsError(
            f"settings file '{path.name}': it is not valid YAML{line}. Write one `name: value` a line."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(
            f"settings file '{path.name}': expected lines `name: value`, found something else."
        )
    return values


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Returns the values of ``key=value`` texts (``--set``); values are read as YAML.

    Raises:
        SettingsError: lists every text without "=" or with a broken value.
    """
    values, problems = {}, []
    for text in assignments:
        key, sign, value = text.partition("=")
        try:
            values[key.strip()] = _from_yaml(value)
        except _NOT_YAML:
            sign = ""
        if not sign:
            problems.append(text[:_LONGEST_SHOWN])
    if problems:
        raise SettingsError(f"--set takes name=value, found {name_list(problems)}.")
    return values


def to_table(settings: TrainSettings | SegmentSettings) -> dict[str, Any]:
    """Returns the settings as a plain table for YAML and JSON."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(settings).items()
    }


def setting_help(kind: type[TrainSettings] | type[SegmentSettings]) -> dict[str, str]:
    """Returns name → one line of help, in order."""
    return {item.name: item.metadata["help"] for item in dataclasses.fields(kind)}
