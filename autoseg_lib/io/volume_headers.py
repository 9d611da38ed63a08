"""What a volume file's header says, and does not say, about spacing and orientation.

SimpleITK fills in 1 mm and straight axes where a header is silent; measuring must know the difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.errors import DataError


@dataclass(frozen=True)
class HeaderFacts:
    """What the header really holds.

    Attributes:
        format_name: "NRRD header" or "MetaImage header".
        spacing_known: whether distances are given.
        orientation_known: whether directions in the patient are given.
    """

    format_name: str
    spacing_known: bool = True
    orientation_known: bool = True


def header_facts(path: Path) -> HeaderFacts:
    """Returns what the header of an NRRD, MetaImage or NIfTI-2 file says.

    Raises:
        DataError: it is no such file, or damaged.
    """
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return HeaderFacts("NIfTI header")
    text = _text_header(path)
    if name.endswith((".nrrd", ".nhdr")):
        directions = re.search(r"^space directions:", text, re.M) is not None
        spacings = re.search(r"^spacings:(?!.*nan)", text, re.M | re.I) is not None
        space = re.search(r"^space:", text, re.M) is not None
        return HeaderFacts("NRRD header", directions or spacings, directions and space)
    spacing = re.search(r"^Element(Spacing|Size)\s*=", text, re.M) is not None
    turned = re.search(r"^(TransformMatrix|Rotation|Orientation)\s*=", text, re.M) is not None
    return HeaderFacts("MetaImage header", spacing, turned)


def data_files(path: Path) -> tuple[Path, ...]:
    """Returns the files that a .mhd or .nhdr header names as the place of its pixels, whether they exist or not.

    Source: the definitions of MetaImage (ElementDataFile) and NRRD (data file); both know LIST and a counting pattern
    ("slice%03d.raw 1 20 1").
    """
    try:
        text = path.read_bytes()[:1_000_000].decode("utf-8", errors="replace").replace("\r", "")
    except OSError:
        return ()
    found = re.search(r"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.+)$", text, re.M | re.I)
    if found is None or found[1].strip().upper() in ("LOCAL", "INTERNAL"):
        return ()
    value = found[1].strip()
    if value.upper().startswith("LIST"):
        names = [line.strip() for line in text[found.end() :].split("\n") if line.strip()]
    elif counted := re.fullmatch(r"(.*%0?\d*d.*?)\s+(-?\d+)\s+(-?\d+)(?:\s+(-?\d+))?(?:\s+\d+)?", value):
        first, last, step = int(counted[2]), int(counted[3]), int(counted[4] or 1) or 1
        numbers = range(first, last + (1 if step > 0 else -1), step)
        try:
            names = [counted[1] % number for number in numbers[:_MOST_FILES]]
        except (TypeError, ValueError):  # another % in the name
            names = [value]
    else:
        names = [value]
    return tuple(path.parent / name for name in names)


# No stack has more slices; a broken header could ask for billions of names.
_MOST_FILES = 100_000


def _text_header(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(20_000).split(b"\n\n")[0].decode("latin-1").replace("\r", "")
    except OSError as error:
        raise DataError(f"'{path.name}': it cannot be opened ({error}). Check the file.") from None
