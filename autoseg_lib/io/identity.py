"""Whether a name tells who the patient is, so that it can be kept out of outputs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from autoseg_lib.io.slice_header import SliceHeader

# Letters that Unicode does not take apart into a plain letter and a mark.
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th"})
# How umlauts and Nordic letters are written out where a keyboard or a scanner has none.
_WRITTEN_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


def folded(text: str) -> str:
    """Returns a text without case, accents and Unicode's different ways to write one letter ("Müller" → "muller")."""
    apart = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    # Put together again: only what was a letter of its own (Korean syllables) stays one.
    return unicodedata.normalize("NFC", "".join(c for c in apart if not unicodedata.combining(c)))


def tells_identity(name: str, identity: Iterable[str]) -> bool:
    """Whether ``name`` contains one of the ``identity`` texts (PatientName, PatientID, birth date).

    Case, accents and separators make no difference. Texts of three or four characters count only where they begin and
    end with a word, so that "Lee" is not found in "sleep"; Chinese, Japanese and Korean have no gaps between words, and
    two characters are enough.
    """
    name = _DATE.sub(lambda found: f"{int(found[1]):02d}{int(found[2]):02d}{found[3]}", name)
    return any(_occurs(spelling, name) for text in identity for spelling in _spellings(text))


# A date as people write it: 3.2.1961, 03-02-1961.
_DATE = re.compile(r"(?<!\d)(\d{1,2})[\W_](\d{1,2})[\W_](\d{4})(?!\d)")

# Words that anonymised headers hold instead of a name.
_NOBODY = {
    "anonymous", "anonymized", "anonymised", "anon", "unknown", "patient", "subject", "none", "name", "test", "example",
    "study", "phantom", "case", "volunteer", "noname", "000", "0000", "00000000", "brain", "head", "scan", "image",
}  # fmt: skip

_SHORTEST, _SHORTEST_WITHOUT_GAPS = 3, 2
# From this length a text is looked for inside words too.
_LONG = 5


def _occurs(text: str, name: str) -> bool:
    """Whether a folded text occurs in a name."""
    compact = _compact(text)
    if compact in _NOBODY or len(compact) < (_SHORTEST_WITHOUT_GAPS if _without_gaps(compact) else _SHORTEST):
        return False
    if len(compact) >= _LONG or _without_gaps(compact):
        return compact in _compact(folded(name))
    return _is_words(compact, folded(name))


def _is_words(compact: str, name: str) -> bool:
    """Whether one word of a folded name is ``compact``, or neighbouring words make it up where it is a name ("li na").

    Short codes with digits count as one word only: "pat1" is as common in research as "pat_1".
    """
    if compact in re.findall(r"[^\W_]+", name):
        return True
    words = re.findall(r"[a-z]+|\d+|[^\W_a-z\d]+", name)
    if not compact.isalpha():
        return compact in words
    return any(
        compact == "".join(words[start : start + count])
        for start in range(len(words))
        for count in range(1, len(compact) + 1)
    )


def _spellings(text: str) -> set[str]:
    return {folded(text), folded(unicodedata.normalize("NFC", text.lower()).translate(_WRITTEN_OUT))}


def _compact(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


# Where Unicode's blocks of Chinese, Japanese and Korean writing begin.
_EAST_ASIAN = 0x2E80


def _without_gaps(text: str) -> bool:
    return bool(text) and all(ord(letter) >= _EAST_ASIAN for letter in text)


# Shorter numbers occur in file names by chance.
_LONG_NUMBER = 5


def names_person(name: str, header: SliceHeader) -> bool:
    """Whether a slice's file name spells out the patient: the whole name, a hospital number or the birth date.

    Softer than ``tells_identity``: masks keep the names of their slices, so that anyone can match them by name. Research
    data very often begin the file name with a study code that stands in PatientID too ("SCD0000301_0040"). A PatientID
    with letters in it is therefore left in the slices' names; one of digits alone, as hospitals give them, is not.
    """
    numbers = {_compact(text) for text in header.identity}
    long = {n for n in numbers if n.isdecimal() and len(n) >= _LONG_NUMBER and set(n) != {"0"}}
    if tells_identity(name, long):
        return True
    parts = [part for part in header.person_name if part.isalpha() and folded(part) not in _NOBODY]
    if len(parts) >= 2:
        words = set(re.findall(r"[a-z]+|\d+|[^\W_a-z\d]+", folded(name)))
        apart = all(_spellings(part) & words for part in parts)
        return apart or tells_identity(name, {"".join(parts), "".join(reversed(parts))})
    return (
        len(parts) == 1
        and len(header.person_name) == 1
        and (len(parts[0]) >= _LONG or (_without_gaps(parts[0]) and len(parts[0]) >= _SHORTEST_WITHOUT_GAPS))
        and any(_is_words(spelling, folded(name)) for spelling in _spellings(parts[0]))
    )
