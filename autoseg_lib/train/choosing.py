"""A setting left at "auto" gets a value and a reason; what the user gave stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.train.defaults import MACHINE_SETTINGS

YOUR_VALUE = "your value"


@dataclass(frozen=True)
class Choice:
    """One line of the settings table: what was given, what is used, and why."""

    setting: str
    given: Any
    value: Any
    reason: str


class Chooser:
    """Fills "auto" settings one by one and remembers why."""

    def __init__(
        self, settings: TrainSettings, previous: dict[str, Any], start: dict[str, Any] | None = None
    ) -> None:
        """Args:
        settings: as the user gave them.
        previous: settings as used by the run that is continued; empty for a new one.
        start: settings of the model that a new run starts from.
        """
        self.settings, self.continued = settings, previous
        self.previous = {**(start or {}), **previous}
        self.values: dict[str, Any] = {}
        self.choices: list[Choice] = []

    def choose(self, name: str, value: Any, reason: str) -> Any:
        """Keeps what the user gave; else what the interrupted run used; else ``value``."""
        given = getattr(self.settings, name)
        if given != AUTO:
            value, reason = given, YOUR_VALUE
        elif name not in MACHINE_SETTINGS and self.previous.get(name, AUTO) != AUTO:
            value = self.previous[name]
            reason = "as in the " + (
                "run that is continued" if name in self.continued else "model it starts from"
            )
        self.values[name] = value
        if reason and value != "":  # an encoder that a network does not have is no line of the table
            self.choices.append(Choice(name, given, value, reason))
        return value

    def is_open(self, name: str) -> bool:
        """Whether the value is ours to choose: neither the user nor an interrupted run has."""
        settled = name not in MACHINE_SETTINGS and self.previous.get(name, AUTO) != AUTO
        return getattr(self.settings, name) == AUTO and not settled

    def note(self, what: str, value: Any, reason: str) -> None:
        """Adds a line on something that is no setting of its own."""
        self.choices.append(Choice(what, value, value, reason))


def given_by_others(choices: Sequence[Choice], given_by: Mapping[str, str]) -> tuple[Choice, ...]:
    """Returns the choices with another reason where a value was given, but not by the user.

    Args:
        choices: of a plan.
        given_by: setting → who gave it, or why.
    """
    return tuple(
        replace(choice, reason=given_by[choice.setting])
        if choice.reason == YOUR_VALUE and choice.setting in given_by
        else choice
        for choice in choices
    )
