"""The table of a plan's choices as text lines: setting, value, why."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from autoseg_lib.train.choosing import Choice

# The longest setting has 21 letters; longer values go on in the next line of their column.
_SETTING, _VALUE = 22, 36


def choice_lines(choices: Sequence[Choice]) -> list[str]:
    """Returns a heading and the choices, each column below its title; no value is cut."""
    lines = [f"{'setting':<{_SETTING}}  {'value':<{_VALUE}}  why"]
    for choice in choices:
        text = short_text(choice.value)
        first, *rest = textwrap.wrap(text, _VALUE, break_on_hyphens=False) or [""]
        lines.append(f"{choice.setting:<{_SETTING}}  {first:<{_VALUE}}  {choice.reason}")
        lines += [f"{'':<{_SETTING}}  {more}" for more in rest]
    return lines


def short_text(value: Any) -> str:
    """Returns a setting's value in one line."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {item:g}" if isinstance(item, float) else f"{key} {item}" for key, item in value.items()
        )
    if isinstance(value, list):
        return "[" + ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value) + "]"
    return str(value)
