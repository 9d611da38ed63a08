"""Values of DICOM headers, read with tolerance for what scanners write."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

# Numbers as DICOM's DS and IS write them, and with a comma as some programs do; nothing else that Python would take
# ("1_000", "infinity").
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def value_of(header: Any, keyword: str) -> Any:
    """Returns an element's value, as text where pydicom finds it broken; None where it is missing or empty.

    Args:
        header: a pydicom dataset or a QuickHeader.
        keyword: DICOM's keyword.
    """
    try:
        value = header.get(keyword)
    except (ValueError, TypeError, NotImplementedError, OverflowError, AttributeError):
        # "0,7" is no number to pydicom; what is there is looked at as text.
        raw = getattr(header.get_item(keyword), "value", None)
        if not isinstance(raw, bytes):
            return None
        parts = [part.strip("\0 ") for part in raw.decode("latin-1").split("\\")]
        return parts if len(parts) > 1 else parts[0] or None
    return None if value is None or (isinstance(value, str) and not value) else value


def text_of(header: Any, keyword: str) -> str:
    """Returns an element as text, "" where missing or broken."""
    value = value_of(header, keyword)
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
    """Returns a finite number, or None. A decimal comma counts as a point (see ``has_decimal_comma``)."""
    if isinstance(value, str):
        value = value.strip("\0 ")
        if not _NUMBER.fullmatch(value):
            return None
        value = value.replace(",", ".")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def has_decimal_comma(value: Any) -> bool:
    """Whether a number is written "0,7", which DICOM does not allow but only means 0.7."""
    return any(
        isinstance(item, str) and "," in item and number_of(item) is not None for item in many_of(value)
    )


def numbers_of(value: Any, count: int) -> list[float] | None:
    """Returns exactly ``count`` finite numbers, or None."""
    items = many_of(value)
    numbers = [number for number in map(number_of, items) if number is not None]
    return numbers if len(numbers) == count == len(items) else None


def shown_value(value: Any) -> str:
    """Returns a broken number for a message, "" where there is nothing: digits and signs alone, at most 40 of them."""
    text = " × ".join(str(item) for item in many_of(value))
    return re.sub(r"[^0-9eE×.,+\- ]", "?", text)[:40].strip()


def positive_of(value: Any) -> float | None:
    """Returns a number above zero, or None."""
    number = number_of(value)
    return number if number is not None and number > 0 else None


def integer_of(header: Any, keyword: str) -> int | None:
    """Returns a whole number, or None."""
    number = number_of(value_of(header, keyword))
    return None if number is None else int(number)


# Directions are unit vectors at a right angle (PS3.3 C.7.6.2.1.1). Up to the first limit they are rounded (text of two or
# more decimals), up to the second they are straightened and said, beyond it nobody knows what they mean.
_ROUNDED, _CROOKED = 2e-3, 5e-2


def right_angled(values: list[float] | None) -> tuple[tuple[float, ...] | None, bool]:
    """Returns (unit direction cosines at a right angle, whether they had to be straightened); None where they are broken."""
    if values is None:
        return None, False
    row, column = values[:3], values[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    stretched = max(abs(length - 1) for length in lengths)
    if stretched > _CROOKED:
        return None, False
    row = [value / lengths[0] for value in row]
    column = [value / lengths[1] for value in column]
    skew = sum(a * b for a, b in zip(row, column, strict=True))
    if abs(skew) > _CROOKED:
        return None, False
    if abs(skew) > 1e-12:
        column = [c - skew * r for c, r in zip(column, row, strict=True)]
        length = math.hypot(*column)
        column = [value / length for value in column]
    return (*row, *column), max(stretched, abs(skew)) > _ROUNDED


def name_words_of(name: str) -> list[str]:
    """Returns the lower-case words of a PatientName, all ways of writing it ("Yamada^Tarou=山田^太郎") one after another."""
    return [word for words in _ways_of_writing(name) for word in words]


def _ways_of_writing(name: str) -> list[list[str]]:
    text = unicodedata.normalize("NFC", name.lower())
    return [words for part in text.split("=") if (words := re.findall(r"[^\W_]+", part))]


def identity_of(name: str, patient_id: str, birth: str) -> frozenset[str]:
    """Returns lower-case texts that would tell who the patient is: name, number, birth date in its usual orders.

    Words of a name that are too short to mean something alone ("Li^Na") are there as the whole name, both ways round.

    Args:
        name: PatientName.
        patient_id: PatientID.
        birth: PatientBirthDate.
    """
    found = {part for part in name_words_of(name) if sum(letter.isalpha() for letter in part) >= 3}
    for words in _ways_of_writing(name):
        if len(words) > 1 and all(word.isalpha() for word in words) and min(map(len, words)) < 3:
            found |= {" ".join(words), " ".join(words[:2]), " ".join([*words[1:], words[0]])}
            found.add(" ".join([words[1], words[0]]))
        elif len(words) == 1 and len(words[0]) == 2 and words[0].isalpha() and not words[0].isascii():
            found.add(words[0])  # 李娜 is a whole name
    found |= {text.lower() for text in (patient_id, birth) if len(text) >= 3}
    digits = re.sub(r"\D", "", birth)
    if len(digits) == 8:
        year, month, day = digits[:4], digits[4:6], digits[6:]
        found |= {digits, day + month + year, month + day + year}
    return frozenset(found)
