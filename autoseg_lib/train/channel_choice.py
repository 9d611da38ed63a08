"""What the network sees, and what is done to scans before: the settings ``channels`` and ``preprocessing``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autoseg_lib.data.doctor.facts import CaseFacts
from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.preprocess.channels import Channel, channels_from_texts
from autoseg_lib.preprocess.crop import without_effect
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.preprocess.schema import check_section, clashes
from autoseg_lib.train.choosing import Chooser

# What training decides by itself, from settings of their own.
DECIDED_BY_OTHERS = {
    "dimension": "dimension",
    "intensity": "intensity",
    "input_shape": "input_shape",
    "spacing_zyx_mm": "spacing_mm",
    "channels": "channels",
    "neighbours": "neighbour_slices",
}


def choose_channels(chooser: Chooser, facts: Sequence[CaseFacts]) -> tuple[Channel, ...]:
    """Returns the channels of the network.

    Raises:
        SettingsError: one is not known, or asks for an image that a scan does not have.
    """
    count = min(f.images for f in facts)
    names = ["image", *(f"image {number}" for number in range(2, count + 1))]
    alone = "the image itself" if count == 1 else f"the {count} images of each patient"
    chosen = chooser.choose("channels", names, alone)
    try:
        channels = channels_from_texts(chosen)
    except ValueError as error:
        raise SettingsError(f"channels: {error}") from None
    needed = 1 + max(channel.image for channel in channels)
    lacking = [f.name for f in facts if f.images < needed]
    if lacking:
        raise SettingsError(
            f"channels: {needed} images of each patient are asked for; '{lacking[0]}' has "
            f"{min(f.images for f in facts)}. Give the others in a CSV manifest (columns image, image_2, ..., label), or "
            "name fewer images."
        )
    return channels


def with_settings(
    chooser: Chooser, preprocessing: Preprocessing, channels: tuple[Channel, ...], neighbours: int = 0
) -> Preprocessing:
    """Returns the preprocessing with the channels, and with the keys of the setting ``preprocessing``.

    Raises:
        SettingsError: keys or values that do not work; all of them at once.
    """
    preprocessing = replace(preprocessing, channels=channels, neighbours=neighbours)
    given: dict[str, Any] | None = chooser.settings.preprocessing
    if given is None:
        given = chooser.previous.get("preprocessing")
    if not given:
        return preprocessing
    problems = [
        f"preprocessing: {key} is the setting `{DECIDED_BY_OTHERS[key]}` while training; give it there."
        for key in given
        if key in DECIDED_BY_OTHERS
    ]
    crop = given.get("crop")
    if isinstance(crop, dict) and crop.get("to") == "mask":
        problems.append(
            'preprocessing: crop to = "mask" needs a mask with every scan, which training does not have. Crop to "body", '
            '"centre" or "box".'
        )
    table = {**preprocessing.to_dict(), **{k: v for k, v in given.items() if k not in DECIDED_BY_OTHERS}}
    checked, wrong = check_section(table)
    problems += wrong or clashes(checked)
    if not wrong and chooser.settings.preprocessing is not None:
        problems += [f"preprocessing, {text}" for text in without_effect(checked.get("crop"))]
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        changed = Preprocessing.from_dict(table)
        changed.require_steps()
    except ModelError as error:
        raise SettingsError(str(error)) from None
    if chooser.settings.preprocessing is None:
        chooser.values["preprocessing"] = given
        chooser.note(
            "preprocessing", ", ".join(given), "as in the run that is continued, or the model it starts from"
        )
    else:
        chooser.choose("preprocessing", given, "")
    return changed
