"""Values of DICOM headers, read with tolerance for what scanners write."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from pydicom.dataset import Dataset


def text_of(dataset: Dataset, keyword: str) -> str:
    """Returns an element as text, "" where missing or broken."""
    try:
        value = dataset.get(keyword)
    except (ValueError, TypeError, NotImplementedError):
        return ""
    return "" if value is None else str(value).strip().strip("\0")


def many_of(value: Any) -> list[Any]:
    """Returns a value as a list, whatever its multiplicity."""
    if value is None or value == "":
        return []
    if isinstance(value, str | int | float):
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def number_of(value: Any) -> float | None:
    """Returns a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def numbers_of(value: Any, count: int) -> list[float] | None:
    """Returns exactly ``count`` finite numbers, or None."""
    numbers = [number for number in (number_of(item) for item in many_of(value)) if number is not None]
    return numbers if len(numbers) == count else None


def positive_of(value: Any) -> float | None:
    """Returns a number above zero, or None."""
    number = number_of(value)
    return number if number is not None and number > 0 else None


def integer_of(dataset: Dataset, keyword: str) -> int | None:
    """Returns a whole number, or None."""
    number = number_of(dataset.get(keyword))
    return None if number is None else int(number)


# Two directions that are this far from a right angle are a broken header (scanners round to about 1e-6).
_SKEW_TOLERANCE = 1e-2


def cosines_of(values: list[float] | None) -> tuple[float, ...] | None:
    """Returns unit direction cosines, or None where they are no two directions at a right angle."""
    if values is None:
        return None
    row, column = values[:3], values[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    if min(lengths) < 0.5 or max(lengths) > 2:
        return None
    unit = [value / lengths[0] for value in row] + [value / lengths[1] for value in column]
    skew = sum(a * b for a, b in zip(unit[:3], unit[3:], strict=True))
    return tuple(unit) if abs(skew) < _SKEW_TOLERANCE else None


def time_key_of(dataset: Dataset) -> tuple[float, ...]:
    """Returns what orders several images at one position."""
    keys = ("TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime")
    return tuple(number_of(dataset.get(key)) or 0.0 for key in keys)


def name_words_of(dataset: Dataset) -> list[str]:
    """Returns the lower-case words of PatientName, all ways of writing it ("Yamada^Tarou=山田^太郎") one after another."""
    return [word for words in _ways_of_writing(dataset) for word in words]


def _ways_of_writing(dataset: Dataset) -> list[list[str]]:
    text = unicodedata.normalize("NFC", text_of(dataset, "PatientName").lower())
    return [words for part in text.split("=") if (words := re.findall(r"[^\W_]+", part))]


def identity_of(dataset: Dataset, patient_id: str) -> frozenset[str]:
    """Returns lower-case texts that would tell who the patient is: name, number, birth date in its usual orders.

    Words of a name that are too short to mean something alone ("Li^Na") are there as the whole name, both ways round.
    """
    found = {part for part in name_words_of(dataset) if sum(letter.isalpha() for letter in part) >= 3}
    for words in _ways_of_writing(dataset):
        if len(words) > 1 and all(word.isalpha() for word in words) and min(map(len, words)) < 3:
            found |= {" ".join(words), " ".join(words[:2]), " ".join([*words[1:], words[0]])}
            found.add(" ".join([words[1], words[0]]))
        elif len(words) == 1 and len(words[0]) == 2 and words[0].isalpha() and not words[0].isascii():
            found.add(words[0])  # 李娜 is a whole name
    birth = text_of(dataset, "PatientBirthDate")
    found |= {text.lower() for text in (patient_id, birth) if len(text) >= 3}
    digits = re.sub(r"\D", "", birth)
    if len(digits) == 8:
        year, month, day = digits[:4], digits[4:6], digits[6:]
        found |= {digits, day + month + year, month + day + year}
    return frozenset(found)
