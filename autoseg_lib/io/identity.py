"""Whether a name tells who the patient is, so that it can be kept out of outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from autoseg_lib.io.slice_header import SliceHeader


def tells_identity(name: str, identity: Iterable[str]) -> bool:
    """Whether ``name`` contains one of the ``identity`` texts (PatientName, PatientID, birth date).

    Texts of three or four characters count only as a word of their own, so that "Lee" is not found in "sleep".
    """
    plain = _plain(name)
    words = set(re.findall(r"[a-z]+|\d+|[^\W_]+", name.lower())) | set(re.findall(r"[^\W_]+", name.lower()))
    for text in identity:
        compact = _plain(text)
        if compact in _NOBODY or len(compact) < 3:
            continue
        if compact in words or (len(compact) > 4 and compact in plain):
            return True
    return False


# Words that anonymised headers hold instead of a name.
_NOBODY = {
    "anonymous", "anonymized", "anonymised", "anon", "unknown", "patient", "subject", "none", "name", "test", "example",
    "study", "phantom", "case", "volunteer", "noname", "000", "0000", "00000000", "brain", "head", "scan", "image",
}  # fmt: skip


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


# Shorter numbers occur in file names by chance.
_LONG_NUMBER = 5


def names_person(name: str, header: SliceHeader) -> bool:
    """Whether a slice's file name spells out the patient: the whole name, a hospital number or the birth date.

    Softer than ``tells_identity``: masks keep the names of their slices, and research data often begin the file name
    with a study code that also stands in PatientID.
    """
    words = set(re.findall(r"[a-z]+|\d+", name.lower())) | set(re.findall(r"[^\W_]+", name.lower()))
    numbers = {_plain(text) for text in header.identity}
    if any(n.isdigit() and len(n) >= _LONG_NUMBER and set(n) != {"0"} and n in _plain(name) for n in numbers):
        return True
    letters = [part for part in header.person_name if part.isalpha() and part not in _NOBODY]
    if len(letters) >= 2:
        return all(part in words for part in letters) or _plain("".join(letters)) in _plain(name)
    return (
        len(letters) == 1
        and len(header.person_name) == 1
        and len(letters[0]) >= _LONG_NUMBER
        and letters[0] in words
    )
