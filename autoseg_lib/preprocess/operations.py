"""What an operation before or after the network accepts: one table, from which the check, its messages and
docs/pipeline.md are made.

An operation is a plain JSON table in the model file. Nothing in it is ever executed: names are looked up among the
operations listed in code, numbers are checked against the ranges written here.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["number", "whole", "text", "flag", "choice", "numbers", "wholes", "texts", "table", "tables"]

# Longest value shown in a message.
_LONGEST_SHOWN = 60

# No list in a pipeline is longer; a damaged model could otherwise take up all memory.
MOST_ITEMS = 256

_ONE = {
    "number": "a number",
    "whole": "a whole number",
    "text": "a text",
    "flag": "true or false",
    "table": "a table",
}
_MANY = {"numbers": "number", "wholes": "whole number", "texts": "text", "tables": "table"}


class _Required:
    """Stands for "there is no default"."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Parameter:
    """One key of an operation.

    Attributes:
        name: the key.
        kind: what its value is; "numbers", "wholes", "texts" and "tables" are lists.
        about: one sentence.
        default: taken where the key is missing; REQUIRED: it must be there.
        unit: "mm", "mm³", "degrees", ...; "" without.
        low: smallest number accepted (also inside lists); None: any.
        high: largest number accepted.
        above: whether ``low`` itself is refused.
        choices: texts accepted (kind "choice", and items of "texts"); empty: any.
        lengths: numbers of items a list may have; empty: any up to MOST_ITEMS.
        optional: whether null is accepted.
        single: list kinds: whether one value without brackets is accepted too; it stays one value.
        words: said instead of listing the choices, where these are many.
    """

    name: str
    kind: Kind
    about: str
    default: Any = REQUIRED
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    optional: bool = False
    single: bool = False
    words: str = ""

    @property
    def takes(self) -> str:
        """What is accepted, in words: "a number above 0 and at most 100 (mm)"."""
        if self.words:
            text = self.words
        elif self.kind == "choice":
            text = "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        elif self.kind in _MANY:
            text = self._list_text()
        else:
            text = _ONE[self.kind] + self._range_text()
        if self.unit:
            text += f" ({self.unit})"
        return f"{text}, or null" if self.optional else text

    def _list_text(self) -> str:
        count = " or ".join(str(n) for n in self.lengths)
        text = f"a list of {count + ' ' if count else ''}{_MANY[self.kind]}s"
        if self.choices:
            text += " out of " + ", ".join(f'"{choice}"' for choice in self.choices)
        elif self._range_text():
            text += f", each{self._range_text()}"
        return f"{text}, or one alone" if self.single else text

    def _range_text(self) -> str:
        if self.low is not None and self.high is not None and not self.above:
            return f" from {self.low:g} to {self.high:g}"
        parts = []
        if self.low is not None:
            parts.append(f"above {self.low:g}" if self.above else f"of at least {self.low:g}")
        if self.high is not None:
            parts.append(f"at most {self.high:g}")
        return " " + " and ".join(parts) if parts else ""

    def checked(self, value: Any) -> Any:
        """Returns the value as it is used.

        Raises:
            ValueError: it is none; the text says what is accepted.
        """
        if value is None and self.optional:
            return None
        if self.kind in _MANY:
            if self.single and not isinstance(value, list | tuple):
                return self._item(value)
            fits = isinstance(value, list | tuple) and len(value) <= MOST_ITEMS
            if not fits or (self.lengths and len(value) not in self.lengths):
                raise ValueError(self.takes)
            return [self._item(item) for item in value]
        return self._item(value)

    def _item(self, value: Any) -> Any:
        kind = self.kind[:-1] if self.kind in _MANY else self.kind
        if kind in ("number", "whole"):
            return self._number(value, whole=kind == "whole")
        fits = {
            "text": isinstance(value, str) and bool(value.strip()),
            "choice": value in self.choices if isinstance(value, str) else False,
            "flag": isinstance(value, bool),
            "table": isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
        }[kind]
        if not fits or (self.choices and value not in self.choices):
            raise ValueError(self._hint(value))
        return dict(value) if kind == "table" else value

    def _number(self, value: Any, *, whole: bool) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(self.takes)
        low, high = self.low, self.high
        too_low = low is not None and (value < low or (self.above and value == low))
        if too_low or (high is not None and value > high) or (whole and value != int(value)):
            raise ValueError(self.takes)
        return int(value) if whole else float(value)

    def _hint(self, value: Any) -> str:
        near = difflib.get_close_matches(str(value).lower(), self.choices, n=1, cutoff=0.5)
        return f'{self.takes}; did you mean "{near[0]}"?' if near else self.takes


@dataclass(frozen=True)
class Operation:
    """What can be done before or after the network.

    Attributes:
        name: how it is named in the model file.
        when: "before" or "after" the network.
        about: one or two sentences: what it does, when to use it.
        parameters: its keys, in the order of the documentation.
        example: a table that is accepted, for the documentation; a test runs it.
        inverse: how the network's answer gets back; "" where nothing moves.
        source: paper, standard or measurement behind it.
    """

    name: str
    when: Literal["before", "after"]
    about: str
    parameters: tuple[Parameter, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)
    inverse: str = ""
    source: str = ""


def check_table(
    operation: Operation, table: Any, where: str, *, also: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Checks the keys of one operation.

    Args:
        operation: which.
        table: from the model file or the user.
        where: begins each problem, e.g. "postprocessing, step 2 (fill_holes)".
        also: further keys that may be there; they are left out of the result.

    Returns:
        The table with every default filled in, and the problems: one sentence each, empty where all is well.
    """
    if not isinstance(table, Mapping):
        return {}, [f"{where}: found {shown(table)}, expected a table."]
    known = {parameter.name: parameter for parameter in operation.parameters}
    problems = [
        f"{where}: {unknown_name('key', str(key), tuple(known))}"
        for key in table
        if key not in known and key not in also
    ]
    cleaned: dict[str, Any] = {}
    for name, parameter in known.items():
        if name not in table:
            if isinstance(parameter.default, _Required):
                problems.append(f"{where}: {name} is missing; expected {parameter.takes}.")
            else:
                cleaned[name] = parameter.default
            continue
        try:
            cleaned[name] = parameter.checked(table[name])
        except ValueError as error:
            problems.append(f"{where}: {name} = {shown(table[name])}: expected {_sentence(error)}")
    return cleaned, problems


def check_steps(
    operations: Sequence[Operation], steps: Any, where: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Checks a list of tables {"step": name, ...}.

    Args:
        operations: those that may be named.
        steps: the list.
        where: the list's own name, e.g. "postprocessing".

    Returns:
        The tables with every default filled in, and all problems of all steps.
    """
    if not isinstance(steps, list | tuple) or len(steps) > MOST_ITEMS:
        return [], [f"{where}: found {shown(steps)}, expected a list of steps."]
    known = {operation.name: operation for operation in operations}
    cleaned: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, step in enumerate(steps, start=1):
        place = f"{where}, step {number}"
        name = step.get("step") if isinstance(step, Mapping) else None
        if not isinstance(name, str):
            problems.append(f'{place}: found {shown(step)}, expected a table with the key "step".')
            continue
        if name not in known:
            problems.append(f"{place}: {unknown_name('step', name, tuple(known))}")
            continue
        table, wrong = check_table(known[name], step, f"{place} ({name})", also=("step",))
        cleaned.append({"step": name, **table})
        problems += wrong
    return cleaned, problems


def unknown_name(what: str, found: str, known: Sequence[str]) -> str:
    """Returns "the key 'sgima_mm' is not known; did you mean 'sigma_mm'? Accepted: ..."."""
    near = difflib.get_close_matches(found.lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    accepted = ", ".join(known) if known else "none"
    return f"the {what} '{found[:_LONGEST_SHOWN]}' is not known{hint} Accepted: {accepted}."


def shown(value: Any) -> str:
    """Returns a value for a message, not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _sentence(error: ValueError) -> str:
    text = str(error)
    return text if text.endswith("?") else f"{text}."
