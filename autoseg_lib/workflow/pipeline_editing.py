"""The section of a model file on what is done before and after the network: shown in full, edited, and described.

The keys and what they accept are listed in preprocess/schema.py (before) and postprocess/pipeline.py (after).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.postprocess.pipeline import Postprocessing
from autoseg_lib.preprocess.crop import without_effect
from autoseg_lib.preprocess.operations import shown, unknown_name
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.preprocess.schema import check_section, clashes, section_keys

# Keys of a model file: what is done before and after the network ...
PREPROCESSING, POSTPROCESSING = "preprocessing", "postprocessing"
# ... the names for tables and DICOM objects, and the first of two stages (infer/region.py).
STRUCTURE_NAMES, REGION_FINDER = "structure_names", "region_finder"

# These may be changed for one run; the last two are single tables, see model_choice.edited.
CHANGEABLE = (PREPROCESSING, POSTPROCESSING, STRUCTURE_NAMES, REGION_FINDER)

# The network's weights were made for these.
FIXED = ("dimension", "channels", "neighbours")


def pipeline_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section of a model in full: every key, also those that say nothing.

    Args:
        metadata: of the model file.

    Raises:
        ModelError: it is damaged.
    """
    before = Preprocessing.from_dict(dict(metadata[PREPROCESSING])).to_dict(full=True)
    return {PREPROCESSING: before, POSTPROCESSING: [dict(step) for step in metadata.get(POSTPROCESSING, ())]}


def is_pipeline_key(key: str) -> bool:
    """Whether a name given to ``--set`` is one of the section's, not a setting's."""
    return key.split(".", 1)[0] in (PREPROCESSING, POSTPROCESSING)


def edit_pipeline(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section with changes, checked.

    Args:
        section: {"preprocessing": {...}, "postprocessing": [...]}, as in the model file or from ``pipeline_of``.
        changes: dotted key → value, e.g. {"preprocessing.resampling": "cubic", "preprocessing.crop.margin_mm": 20,
            "postprocessing": [], "postprocessing.1.connectivity": ...}: list entries are counted from 1. A table given for a key
            replaces what was there.

    Raises:
        SettingsError: keys or values that do not work; all of them at once.
    """
    edited: dict[str, Any] = copy.deepcopy(
        {PREPROCESSING: dict(section[PREPROCESSING]), POSTPROCESSING: list(section.get(POSTPROCESSING) or [])}
    )
    problems = [text for key, value in changes.items() for text in _put(edited, key, value)]
    if not problems:
        problems = _wrong(section, edited)
    if problems:
        count = "1 change needs" if len(problems) == 1 else f"{len(problems)} changes need"
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise SettingsError(f"the pipeline cannot be edited so; {count} correcting:{listed}")
    try:
        before = Preprocessing.from_dict(edited[PREPROCESSING])
        before.require_steps()
        edited[PREPROCESSING] = before.to_dict()
    except ModelError as error:
        raise SettingsError(str(error)) from None
    return edited


def _put(edited: dict[str, Any], key: str, value: Any) -> list[str]:
    """Writes one value; returns what is wrong with its key."""
    parts = key.split(".")
    if parts[0] not in edited:
        return [unknown_name("section", parts[0], tuple(edited))]
    place: Any = edited
    for depth, part in enumerate(parts[:-1]):
        inner = _inner(place, part, parts[: depth + 1])
        if isinstance(inner, str):
            return [inner]
        place = inner
    last = parts[-1]
    if isinstance(place, list):
        if not last.isdecimal() or not 1 <= int(last) <= len(place):
            return [_no_entry(place, parts)]
        place[int(last) - 1] = value
    else:
        place[last] = value
    return []


def _inner(place: Any, part: str, path: list[str]) -> Any:
    """What lies under a part of a dotted key; a text says what is wrong."""
    if isinstance(place, list):
        if not part.isdecimal() or not 1 <= int(part) <= len(place):
            return _no_entry(place, path)
        return place[int(part) - 1]
    if path == [PREPROCESSING, part]:
        known = {item.name: item.form for item in section_keys()}
        if part not in known:
            return f"{PREPROCESSING}: {unknown_name('key', part, tuple(known))}"
        if place.get(part) is None and known[part] == "table":
            place[part] = {}
    inner = place.get(part) if isinstance(place, dict) else None
    if not isinstance(inner, dict | list):
        return f"{'.'.join(path)}: found {shown(inner)}, which has no keys of its own. Give the whole table."
    return inner


def _no_entry(place: list[Any], path: list[str]) -> str:
    where = ".".join(path[:-1])
    return f"{where}: there is no entry '{path[-1]}'; entries are counted from 1 to {len(place)}."


def _wrong(section: Mapping[str, Any], edited: dict[str, Any]) -> list[str]:
    checked, problems = check_section(edited[PREPROCESSING])
    if not problems:
        problems += clashes(checked)
        was = check_section(section[PREPROCESSING])[0].get("crop")
        problems += [f"{PREPROCESSING}, {text}" for text in without_effect(checked.get("crop"), was)]
        then, now = (
            Preprocessing.from_dict(dict(item)) for item in (section[PREPROCESSING], edited[PREPROCESSING])
        )
        problems += [
            f"{PREPROCESSING}: {key} belongs to the network's weights and cannot be edited; train a model for it."
            for key in FIXED
            if then.to_dict(full=True)[key] != now.to_dict(full=True)[key]
        ]
    try:
        Postprocessing.from_list(edited[POSTPROCESSING])
    except SettingsError as error:
        problems += str(error).splitlines()
    return problems
