"""ROIs: their label value, name and colour, and which of them are the left and right of one structure."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoseg_lib.errors import SettingsError

# Okabe & Ito, "Color Universal Design" (2008): distinguishable with every common colour blindness.
# Black is left out: it vanishes on dark images.
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

# English, its abbreviations, then German, French, Spanish, Italian, Portuguese, Latin, Scandinavian.
_SIDE_WORDS = {
    "left": "right",
    "l": "r",
    "lt": "rt",
    "lft": "rgt",
    "lhs": "rhs",
    "li": "re",
    "links": "rechts",
    "gauche": "droite",
    "izquierdo": "derecho",
    "izquierda": "derecha",
    "izq": "der",
    "sinistra": "destra",
    "sinistro": "destro",
    "sx": "dx",
    "sin": "dex",
    "esquerdo": "direito",
    "esquerda": "direita",
    "sinister": "dexter",
    "venstre": "høyre",
    "vänster": "höger",
}
_OPPOSITE = {**_SIDE_WORDS, **{right: left for left, right in _SIDE_WORDS.items()}}
_OPPOSITE |= {"droit": "gauche"}


# Words that mean a side only beside a partner: letters that number things, "sin" (without), "re" and "li" (parts of words).
_UNCLEAR_SIDES = {"l", "r", "li", "re", "sin", "dex", "der", "izq", "sx", "dx"}


def roi_color(value: int) -> str:
    """Returns the fixed colour of a label value as ``#RRGGBB``; the same in every figure, file and legend.

    Args:
        value: label value, from 1. Beyond the seven Okabe–Ito colours they repeat lighter, then darker.
    """
    base = OKABE_ITO[(value - 1) % len(OKABE_ITO)]
    turn = (value - 1) // len(OKABE_ITO)
    if turn == 0:
        return base
    red, green, blue = (int(base[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    light = light + (1 - light) * 0.45 if turn % 2 else light * 0.6
    red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
    return f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}"


@dataclass(frozen=True)
class Label:
    """One ROI. ``value`` is what the label files hold (0 is background and has no Label)."""

    value: int
    name: str

    @property
    def color(self) -> str:
        """Colour as ``#RRGGBB``."""
        return roi_color(self.value)

    @property
    def color_rgb(self) -> tuple[int, int, int]:
        """Colour as 0..255 red, green, blue."""
        color = self.color
        return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


class LabelTable(Sequence[Label]):
    """The ROIs of a study or model, values 1..n without gaps."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args:
            names: ROI names for the values 1..n, background left out.

        Raises:
            SettingsError: a name is empty or used twice.
        """
        cleaned = [str(name).strip() for name in names]
        doubles = sorted({name for name in cleaned if cleaned.count(name) > 1})
        if doubles or "" in cleaned:
            what = f"the name '{doubles[0]}' is used twice" if doubles else "one name is empty"
            raise SettingsError(
                f"labels_list: {what}; every ROI needs a name of its own. Correct labels_list."
            )
        self._labels = tuple(Label(value, name) for value, name in enumerate(cleaned, start=1))

    @classmethod
    def numbered(cls, count: int) -> LabelTable:
        """Returns ROI 1 ... ROI n, for when nobody gave names."""
        return cls([f"ROI {value}" for value in range(1, count + 1)])

    @property
    def names(self) -> tuple[str, ...]:
        """ROI names in order of value."""
        return tuple(label.name for label in self._labels)

    @property
    def values(self) -> tuple[int, ...]:
        """Label values 1..n."""
        return tuple(label.value for label in self._labels)

    @property
    def has_given_names(self) -> bool:
        """False when the names are the numbered ones, so that nothing is known about sides."""
        return any(label.name != f"ROI {label.value}" for label in self._labels)

    @property
    def mirror_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of label values that a flip across left–right must swap, found by name ("left psoas"/"right psoas")."""
        pairs: list[tuple[int, int]] = []
        for label in self._labels:
            for other in self._labels:
                free = all(label.value not in pair and other.value not in pair for pair in pairs)
                if label.value < other.value and free and _are_partners(label.name, other.name):
                    pairs.append((label.value, other.value))
        return tuple(pairs)

    @property
    def left_right_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of label values as (left, right), found by name."""
        names = {label.value: label.name for label in self._labels}
        return tuple(
            (first, second) if _is_left_of(names[first], names[second]) else (second, first)
            for first, second in self.mirror_pairs
        )

    @property
    def sides_known(self) -> bool:
        """Whether a flip across left–right is safe.

        It is when names were given, each sided ROI has its partner, and no two names differ in nothing but a number or
        letter at their end ("MF 1", "MF 2"), which may mean the sides.
        """
        paired = {value for pair in self.mirror_pairs for value in pair}
        alone = [label for label in self._labels if label.value not in paired]
        stems = [re.sub(r"[\W_]*(\d+|\b[a-z])$", "", label.name.lower()) for label in alone]
        numbered = any(stems.count(stem) > 1 for stem in stems)
        sided = any(_mirrored(_tokens(label.name)) != _tokens(label.name) for label in alone)
        return self.has_given_names and not sided and not numbered

    @property
    def without_other_side(self) -> tuple[Label, ...]:
        """ROIs named as the left or right of something whose other side is not among them."""
        paired = {value for pair in self.mirror_pairs for value in pair}
        words = set(_OPPOSITE) - _UNCLEAR_SIDES
        return tuple(
            label for label in self._labels if label.value not in paired and words & set(_tokens(label.name))
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # int → Label, slice → tuple
        return self._labels[index]

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelTable) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"LabelTable({list(self.names)})"


def _tokens(name: str) -> tuple[str, ...]:
    """Splits a name into lower-case words; "PsoasLeft", "psoas_left" and "Psoas left" give the same."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return tuple(re.findall(r"[^\W_]+", spaced.lower()))


def _are_partners(first: str, second: str) -> bool:
    """Whether two names are the left and right of one structure."""
    ours, theirs = _tokens(first), _tokens(second)
    if ours != theirs and (_mirrored(ours) == theirs or _mirrored(theirs) == ours):
        return True
    # "LMF" and "RMF", "lpsoas" and "rpsoas": one letter at the start or end of one word.
    different = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b]
    if len(ours) != len(theirs) or len(different) != 1:
        return False
    a, b = different[0]
    if len(a) != len(b) or len(a) < 2:
        return False
    return ({a[0], b[0]} == {"l", "r"} and a[1:] == b[1:]) or (
        {a[-1], b[-1]} == {"l", "r"} and a[:-1] == b[:-1]
    )


def _is_left_of(name: str, partner: str) -> bool:
    """Whether the first of two partners is the left one."""
    for ours, theirs in zip(_tokens(name), _tokens(partner), strict=False):
        if ours != theirs:
            if ours in _SIDE_WORDS or theirs in _SIDE_WORDS:
                return ours in _SIDE_WORDS
            # "LMF" and "RMF", "MFL" and "MFR".
            return (ours[0], theirs[0]) == ("l", "r") or (ours[-1], theirs[-1]) == ("l", "r")
    return False


def _mirrored(tokens: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_OPPOSITE.get(token, token) for token in tokens)
