"""A lab's own steps: functions of installed packages, found by the name under which the package offers them.

A package offers a step in its pyproject.toml:

    [project.entry-points."autoseg_lib.steps"]
    "mylab.flatten" = "mylab.steps:flatten"

A model file holds the name only. What runs is what is installed on this computer; nothing is ever taken from the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autoseg_lib.errors import ModelError
from autoseg_lib.preprocess.operations import Operation, Parameter

GROUP = "autoseg_lib.steps"

Step = Callable[..., Any]

NAME = Parameter("name", "text", "the name under which an installed package offers the step")
OPTIONS = Parameter("options", "table", "handed on to the step as keyword arguments", default={})


def entry_point_operation(when: str, about: str) -> Operation:
    """Returns how a lab's own step is named before or after the network; see ``load_step``."""
    return Operation(
        "entry_point",
        "before" if when == "before" else "after",
        about,
        (NAME, OPTIONS),
        {"step": "entry_point", "name": "mylab.flatten", "options": {"strength": 0.5}},
    )


def installed_steps() -> list[str]:
    """Returns the names of all steps that installed packages offer, sorted."""
    return sorted({found.name for found in entry_points(group=GROUP)})


def require_step(name: str) -> EntryPoint:
    """Returns where the step is, without importing it.

    Raises:
        ModelError: no installed package offers it, or two different ones do.
    """
    found = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not found:
        known = installed_steps()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        offered = f"Installed packages offer: {', '.join(known)}." if known else "No package offers any."
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ModelError(
            f"the pipeline names the step '{name}', which no installed package offers.{hint} {offered} "
            f"Install the package that has it (entry point group '{GROUP}'), or take the step out of the pipeline."
        )
    if len(found) > 1:
        raise ModelError(
            f"the step '{name}' is offered by {len(found)} installed packages ({', '.join(sorted(found))}). "
            "Remove all but one of them."
        )
    return next(iter(found.values()))


def package_of(name: str) -> str:
    """Returns name and version of the installed package that offers the step, e.g. "mylab 1.2".

    Raises:
        ModelError: see ``require_step``.
    """
    package = require_step(name).dist
    return "unknown package" if package is None else f"{package.name} {package.version}"


def own_steps_in(tables: Any) -> list[str]:
    """Returns the names of the lab's own steps in a pipeline or in changes to one, sorted.

    Args:
        tables: whatever JSON holds: tables and lists, at any depth.
    """
    if isinstance(tables, Mapping):
        inner = {name for value in tables.values() for name in own_steps_in(value)}
        if tables.get("step") == "entry_point" and isinstance(tables.get("name"), str):
            inner.add(tables["name"])
        return sorted(inner)
    if isinstance(tables, list | tuple):
        return sorted({name for value in tables for name in own_steps_in(value)})
    return []


def load_step(name: str) -> Step:
    """Imports and returns the function of a lab's own step.

    Before the network it is called as ``step(pixels, spacing_zyx_mm, **options)`` with float32 (slice, row, column)
    pixels on the scan's own grid and returns pixels of the same shape; after the network as
    ``step(labels, spacing_zyx_mm, **options)`` with the label values.

    Raises:
        ModelError: it is not installed, cannot be imported, or is no function.
    """
    point = require_step(name)
    try:
        step = point.load()
    except Exception as error:
        raise ModelError(
            f"the step '{name}' ({point.value}) cannot be imported ({type(error).__name__}: {error}). "
            "Correct or reinstall the package that offers it."
        ) from error
    if not callable(step):
        raise ModelError(
            f"the step '{name}' ({point.value}) is a {type(step).__name__}; a function is expected. "
            "Correct the package that offers it."
        )
    return step  # type: ignore[no-any-return]


def call_step(name: str, *arguments: Any, **options: Any) -> Any:
    """Runs a lab's own step.

    Raises:
        ModelError: it is not there, or it failed; the message names it.
    """
    step = load_step(name)
    try:
        return step(*arguments, **options)
    except Exception as error:
        raise ModelError(
            f"the step '{name}' failed ({type(error).__name__}: {error}). Ask whoever wrote it, or take it out of the pipeline."
        ) from error
