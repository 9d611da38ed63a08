"""The channels of the network: which image, through which filter, with which grey values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoseg_lib.errors import ModelError
from autoseg_lib.preprocess.filters.table import FILTERS
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.operations import Operation, Parameter, check_table, shown, unknown_name

# Images beside the first; more than a multi-sequence MR protocol has.
MOST_IMAGES = 16

CHANNEL = Operation(
    "channels",
    "before",
    "What the network sees: a list, one table for each channel. Without it, the image alone. Filters work on the network's "
    "grid, sizes are in mm.",
    (
        Parameter(
            "image",
            "whole",
            "which image: 0 the scan itself, 1, 2, ... those beside it",
            0,
            low=0,
            high=MOST_IMAGES - 1,
        ),
        Parameter("filter", "table", "a filter, see below; null: the image itself", None, optional=True),
        Parameter(
            "intensity",
            "table",
            "how this channel's grey values are normalised; null: image 0 as `intensity` says, all others and filters by their "
            "own percentiles",
            None,
            optional=True,
        ),
    ),
    {"image": 0, "filter": {"filter": "log", "sigma_mm": 2.0}, "intensity": None},
)


@dataclass(frozen=True)
class Channel:
    """One channel.

    Attributes:
        image: 0: the scan itself; 1, 2, ...: the images beside it.
        filter: name of the filter; "" for the image itself.
        parameters: of the filter, checked and complete.
        intensity: how its grey values are normalised; None: see ``plan``.
    """

    image: int = 0
    filter: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    intensity: IntensityPlan | None = None

    def plan(self, of_the_first: IntensityPlan) -> IntensityPlan:
        """Returns how the channel's grey values are normalised.

        Args:
            of_the_first: the plan of the scan itself. It is fitted to that image's grey values; what comes out of a filter,
                or from another image, has a scale of its own.
        """
        if self.intensity is not None:
            return self.intensity
        return of_the_first if self.image == 0 and not self.filter else IntensityPlan("percentile")

    @property
    def text(self) -> str:
        """As in the setting ``channels``: "image", "image 2", "log 2 mm", "image 2: sobel"."""
        image = "image" if self.image == 0 else f"image {self.image + 1}"
        if not self.filter:
            return image
        main = FILTERS[self.filter].main
        value = self.parameters[main]
        default = {p.name: p.default for p in FILTERS[self.filter].operation.parameters}[main]
        size = f" {value:g} mm" if isinstance(value, float) else f" {value}"
        name = self.filter if value == default else self.filter + size
        return name if self.image == 0 else f"{image}: {name}"

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        table = {"filter": self.filter, **_listed(self.parameters)} if self.filter else None
        return {
            "image": self.image,
            "filter": table,
            "intensity": None if self.intensity is None else self.intensity.to_dict(),
        }


def channel_of(table: Any, where: str) -> tuple[Channel | None, list[str]]:
    """Returns the channel that a table describes, and the problems in it."""
    cleaned, problems = check_table(CHANNEL, table, where)
    if problems:
        return None, problems
    name = ""
    parameters: dict[str, Any] = {}
    if cleaned["filter"] is not None:
        name, parameters, problems = _filter_of(cleaned["filter"], f"{where}, filter")
    intensity = None
    if cleaned["intensity"] is not None:
        try:
            intensity = IntensityPlan.from_dict(_full_intensity(cleaned["intensity"]))
        except ModelError as error:
            problems.append(f"{where}: {error}")
    return (None if problems else Channel(cleaned["image"], name, parameters, intensity)), problems


def _filter_of(table: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], list[str]]:
    name = table.get("filter")
    if not isinstance(name, str) or name not in FILTERS:
        found = name if isinstance(name, str) else shown(table)
        return "", {}, [f"{where}: {unknown_name('filter', found, tuple(FILTERS))}"]
    cleaned, problems = check_table(FILTERS[name].operation, table, where, also=("filter",))
    if not problems:
        problems = [f"{where} ({name}): {text}." for text in FILTERS[name].problems(cleaned)]
    return name, cleaned, problems


def _full_intensity(table: Mapping[str, Any]) -> dict[str, Any]:
    return {**IntensityPlan("percentile").to_dict(), **table}


def _listed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items()}


_IMAGE = re.compile(r"(?i)image\s*(\d*)$")
_WORDS = re.compile(r"(?i)([a-z]+)\s*(.*?)\s*(?:mm)?$")


def channels_from_texts(texts: Sequence[str]) -> tuple[Channel, ...]:
    """Returns the channels that the setting ``channels`` names, e.g. ["image", "log 2 mm", "image 2: sobel"].

    Raises:
        ValueError: one is not known; the text says what is accepted, all of them at once.
    """
    found, problems = [], []
    for text in texts:
        channel, wrong = _channel_from_text(str(text))
        problems += wrong
        if channel is not None:
            found.append(channel)
    if problems:
        raise ValueError(" ".join(problems))
    return tuple(found)


def _channel_from_text(text: str) -> tuple[Channel | None, list[str]]:
    image_text, colon, filter_text = text.strip().rpartition(":")
    image = 0
    if colon or _IMAGE.match(filter_text.strip()):
        which = _IMAGE.match((image_text if colon else filter_text).strip())
        number = int(which[1] or 1) if which else 0
        if not 1 <= number <= MOST_IMAGES:
            return None, [f'\'{text}\': expected "image", "image 2" and so on up to {MOST_IMAGES}.']
        image = number - 1
        if not colon:
            return Channel(image), []
    words = _WORDS.match(filter_text.strip())
    name = words[1].lower() if words else filter_text.strip()
    if name not in FILTERS or words is None:
        return None, [f"'{text}': {unknown_name('channel', name, ('image', *FILTERS))}"]
    table: dict[str, Any] = {"filter": name}
    if words[2]:
        value: Any = words[2]
        main = next(p for p in FILTERS[name].operation.parameters if p.name == FILTERS[name].main)
        if main.kind == "number":
            try:
                value = float(value)
            except ValueError:
                return None, [f"'{text}': {main.name} = '{value}': expected {main.takes}."]
        table[main.name] = value if main.kind == "number" else _as_written(value, main.choices)
    _, parameters, problems = _filter_of(table, f"'{text}'")
    return (None if problems else Channel(image, name, parameters)), problems


def _as_written(value: str, choices: tuple[str, ...]) -> str:
    return next((choice for choice in choices if choice.lower() == value.lower()), value)
