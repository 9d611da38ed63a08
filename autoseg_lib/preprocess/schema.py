"""The section "preprocessing" of a model file: its keys in the order in which they are carried out.

The tables here are what the check, its messages and docs/pipeline.md are made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any, Literal

from autoseg_lib.errors import ModelError
from autoseg_lib.preprocess.crop import CROP, check_crop
from autoseg_lib.preprocess.entry_points import entry_point_operation
from autoseg_lib.preprocess.intensity import KINDS, IntensityPlan
from autoseg_lib.preprocess.operations import (
    REQUIRED,
    Operation,
    Parameter,
    check_steps,
    check_table,
)

# A damaged model could ask for a grid that fits into no memory: micro-CT is above the one, a whole body below the other.
FINEST_MM, COARSEST_MM, MOST_PIXELS = 1e-4, 1000.0, 16_384

# A network that sees more slices on each side than this is a 3D network.
MOST_NEIGHBOURS = 5

ORIENTATIONS = tuple(
    "".join(letters) for pairs in permutations(("LR", "PA", "SI")) for letters in product(*pairs)
)

DIMENSION = Operation(
    "dimension",
    "before",
    "Whether the network looks at slices (2D) or at the whole volume (3D). It belongs to the network's weights.",
    (Parameter("dimension", "choice", "2D or 3D", choices=("2D", "3D")),),
    {"dimension": "2D"},
)
OWN_STEP = entry_point_operation(
    "before",
    "A lab's own step: a function of the grey values (float32; slice, row, column) and the spacing (slice, row, column) in mm "
    "that returns grey values of the same shape. It works on each image, on the scan's own grid, before all else.",
)
ORIENTATION = Operation(
    "orientation",
    "before",
    "How the axes are turned. No pixel value changes.",
    (
        Parameter(
            "orientation",
            "text",
            '"auto": 2D as radiology shows the plane, 3D "SPL"; "own": as the file has them; or the directions in which slices, '
            "rows and columns grow. In 2D the slices keep their order",
            "auto",
            choices=("auto", "own", *ORIENTATIONS),
            words='"auto", "own", or three letters out of S/I, P/A and L/R, e.g. "SPL"',
        ),
    ),
    {"orientation": "SPL"},
    inverse="the axes are turned back",
)
INTENSITY = Operation(
    "intensity",
    "before",
    "How grey values become comparable: clipped, then mean 0 and deviation 1.",
    (
        Parameter(
            "kind",
            "choice",
            '"percentile": clipped at percentiles of each slice (2D) or scan (3D), by its own mean and deviation; "zscore": the '
            'same without clipping; "window": clipped at fixed grey values, by a fixed mean and deviation (CT)',
            choices=KINDS,
        ),
        Parameter("low", "number", "lower percentile (0 to 100), or lower end of the window", 0.5),
        Parameter("high", "number", "upper percentile (0 to 100), or upper end of the window", 99.5),
        Parameter("mean", "number", '"window": subtracted', 0.0),
        Parameter("deviation", "number", '"window": divided by', 1.0, low=0, above=True),
    ),
    {"kind": "window", "low": -160.0, "high": 240.0, "mean": 40.0, "deviation": 100.0},
    source="Isensee et al. 2021, Nature Methods 18, 203–211",
)
PAD = Operation(
    "pad",
    "before",
    "Adds room around what was cropped, and says what fills it. Without it nothing is added, and in 2D what lies beside the "
    "slice takes its darkest value.",
    (
        Parameter(
            "margin_mm",
            "number",
            "added on every side: 2D of the slice, 3D of the volume",
            0.0,
            unit="mm",
            low=0,
            high=1000,
        ),
        Parameter(
            "fill",
            "choice",
            '"darkest": the slice\'s (3D: scan\'s) darkest value; "edge": the nearest pixel\'s value goes on',
            "darkest",
            choices=("darkest", "edge"),
        ),
    ),
    {"margin_mm": 10.0, "fill": "edge"},
    inverse="what was added is cut off",
)
RESIZE = Operation(
    "resize",
    "before",
    "2D: how a slice gets into input_shape.",
    (
        Parameter(
            "resize",
            "choice",
            '"fit": rows and columns scaled alike until the longer side fills it; "stretch": each side by itself, so that '
            'shapes change; "own": pixels keep their size, the middle is taken, and a larger slice is refused',
            "fit",
            choices=("fit", "stretch", "own"),
        ),
    ),
    {"resize": "fit"},
    inverse="the same step backwards, in the one resampling of the answer",
)
INPUT_SHAPE = Operation(
    "input_shape",
    "before",
    "2D: rows and columns of the network's image.",
    (
        Parameter(
            "input_shape",
            "wholes",
            "rows and columns",
            None,
            low=1,
            high=MOST_PIXELS,
            lengths=(2,),
            optional=True,
        ),
    ),
    {"input_shape": [256, 256]},
)
SPACING = Operation(
    "spacing_zyx_mm",
    "before",
    "3D: the voxel size that every scan is brought to.",
    (
        Parameter(
            "spacing_zyx_mm",
            "numbers",
            "along slices, rows and columns of the turned scan; null: each scan's own",
            None,
            unit="mm",
            low=FINEST_MM,
            high=COARSEST_MM,
            lengths=(3,),
            optional=True,
        ),
    ),
    {"spacing_zyx_mm": [3.0, 1.0, 1.0]},
    inverse="one resampling of the probabilities per ROI onto the scan's own grid, then the likeliest",
)
RESAMPLING = Operation(
    "resampling",
    "before",
    "How grey values between pixels are found. Where pixels get larger the image is smoothed first (not with nearest). Labels "
    "always take the nearest value, the network's answer is always interpolated linearly.",
    (
        Parameter(
            "resampling",
            "choice",
            '"nearest", "linear", "cubic" (cubic B-spline) or "sinc" (Lanczos-windowed sinc)',
            "linear",
            choices=("nearest", "linear", "cubic", "sinc"),
        ),
    ),
    {"resampling": "cubic"},
    source="Unser 1999 (B-splines); Meijering et al. 2001 (windowed sinc)",
)
NEIGHBOURS = Operation(
    "neighbours",
    "before",
    "2D: slices on each side that are channels beside the slice itself (2.5D). It belongs to the network's weights.",
    (Parameter("neighbours", "whole", "slices on each side", 0, low=0, high=MOST_NEIGHBOURS),),
    {"neighbours": 1},
)

Form = Literal["value", "table", "tables", "steps"]


@dataclass(frozen=True)
class Key:
    """A key of the section.

    Attributes:
        name: the key.
        form: "value": the value itself; "table": a table or null; "tables": a list of tables; "steps": a list of
            {"step": name, ...}.
        operation: what it accepts. Of a "value", the one parameter has the key's own name.
    """

    name: str
    form: Form
    operation: Operation


def section_keys() -> tuple[Key, ...]:
    """Returns the keys of the section, in the order in which they are carried out."""
    # Here, because channels knows the filters and these are slower to import than all the rest.
    from autoseg_lib.preprocess.channels import CHANNEL

    values = {op.name: Key(op.name, "value", op) for op in (DIMENSION, ORIENTATION, RESIZE, INPUT_SHAPE, SPACING, RESAMPLING, NEIGHBOURS)}  # fmt: skip
    return (
        values["dimension"],
        Key("steps", "steps", OWN_STEP),
        Key("crop", "table", CROP),
        values["orientation"],
        Key("intensity", "table", INTENSITY),
        Key("pad", "table", PAD),
        values["resize"],
        values["input_shape"],
        values["spacing_zyx_mm"],
        values["resampling"],
        Key("channels", "tables", CHANNEL),
        values["neighbours"],
    )


_OUTER = {
    "table": Parameter("", "table", "", None, optional=True),
    "tables": Parameter("", "tables", "", ()),
    "steps": Parameter("", "tables", "", ()),
}


def section_operation() -> Operation:
    """Returns the section as one operation: every key with what it accepts from outside."""
    parameters = []
    for key in section_keys():
        if key.form == "value":
            parameters.append(key.operation.parameters[0])
        else:
            outer = replace(_OUTER[key.form], name=key.name, about=key.operation.about)
            if key.name == "intensity":
                outer = replace(outer, optional=False, default=REQUIRED)
            parameters.append(outer)
    return Operation(
        "preprocessing",
        "before",
        "What is done to a scan before the network sees it.",
        tuple(parameters),
    )


def check_section(table: Any) -> tuple[dict[str, Any], list[str]]:
    """Returns the section with every default filled in, and everything that is wrong with it.

    Channels come back as ``Channel`` objects; tables as checked tables.
    """
    from autoseg_lib.preprocess.channels import Channel, channel_of

    cleaned, problems = check_table(section_operation(), table, "preprocessing")
    for key in section_keys():
        if key.form == "value" or key.name not in cleaned:
            continue
        value, where = cleaned[key.name], f"preprocessing, {key.name}"
        if key.form == "table" and value is not None:
            cleaned[key.name], wrong = check_table(key.operation, value, where)
            if key.name == "crop" and not wrong:
                wrong = [f"preprocessing, {text}" for text in check_crop(cleaned["crop"])]
            if key.name == "intensity" and not wrong:
                wrong = _wrong_intensity(cleaned["intensity"])
            problems += wrong
        elif key.form == "steps":
            cleaned[key.name], wrong = check_steps((key.operation,), value, where)
            problems += wrong
        elif key.form == "tables":
            channels: list[Channel] = []
            for number, item in enumerate(value, start=1):
                channel, wrong = channel_of(item, f"{where}, channel {number}")
                problems += wrong
                channels += [channel] if channel is not None else []
            cleaned[key.name] = tuple(channels)
    return cleaned, problems


def _wrong_intensity(table: dict[str, Any]) -> list[str]:
    try:
        IntensityPlan.from_dict(table)
    except ModelError as error:
        return [f"preprocessing, {error}"]
    return []


def clashes(table: Mapping[str, Any]) -> list[str]:
    """Returns what does not go together in a checked section."""
    problems = []
    if table["dimension"] == "2D" and table["input_shape"] is None:
        problems.append("preprocessing: 2D needs an input_shape of rows and columns, found null.")
    if table["dimension"] == "3D":
        for key in ("resize", "neighbours"):
            default = {"resize": "fit", "neighbours": 0}[key]
            if table[key] != default:
                problems.append(f"preprocessing: {key} is for 2D; leave it out of a 3D pipeline.")
    return problems
