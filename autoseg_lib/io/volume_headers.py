"""What a volume file's header says, and does not say, about spacing and orientation.

SimpleITK fills in 1 mm and straight axes where a header is silent; measuring must know the difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from autoseg_lib.errors import DataError
from autoseg_lib.io.limits import DEFLATE_RATIO, is_inside, is_regular


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
    text = "\n".join(_header_lines(path))
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
        with path.open("rb") as stream:  # only its beginning: the file may hold the pixels too
            text = stream.read(1_000_000).decode("utf-8", errors="replace").replace("\r", "")
    except OSError:
        return ()
    found = re.search(r"^[ \t]*(?:ElementDataFile\s*[=:]|data ?file:)[ \t]*(.+)$", text, re.M | re.I)
    if found is None or found[1].strip().upper() in ("LOCAL", "INTERNAL"):
        return ()
    value = found[1].strip()
    if value.upper().startswith("LIST"):
        names = [line.strip() for line in text[found.end() :].split("\n") if line.strip()]
    elif counted := re.fullmatch(
        r"(.*%0?\d{0,2}d.*?)\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+(-?\d{1,9}))?(?:\s+\d+)?", value
    ):
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


# --- is it a sound header? --------------------------------------------------------------------------------------------

# 3D Slicer writes some 500 bytes a segment; no header is longer than this.
_LONGEST_HEADER = 4_000_000
# The readers copy fields into buffers of a few hundred to a thousand bytes; real ones are far shorter.
_LONGEST_FIELD = 400
_LONGEST_NAME = 250

_NUMBER = r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?|[-+]?(?:nan|inf)(?:inity)?"
_VECTOR = rf"\(\s*(?:{_NUMBER})(?:\s*,\s*(?:{_NUMBER})){{0,7}}\s*\)"


def _some(item: str, most: int = 16) -> str:
    return rf"(?:{item})(?:\s+(?:{item})){{0,{most - 1}}}"


_TEXT = r"[^\x00-\x08\x0b-\x1f]*"
# One name, or one pattern for a counter and nothing else that printf knows; "LIST..." is misread by MetaImage's reader.
_FILE = r"LOCAL|INTERNAL|LIST(?: \d)?|(?!LIST)[^\x00-\x1f%]{1,200}(?:%0?\d{0,2}d[^\x00-\x1f%]{0,100})?"
# NRRD's fields and what may stand in them. Source: teem.sourceforge.net/nrrd/format.html.
_NRRD_FIELDS = {
    "type": r"[a-z0-9_ ]{1,30}",
    "dimension": r"\d{1,2}",
    "sizes": _some(r"\d{1,18}"),
    "encoding": r"[a-z0-9]{1,10}",
    "endian": r"little|big",
    "space": r"[a-z -]{1,60}",
    "space dimension": r"\d",
    "space directions": _some(rf"{_VECTOR}|none"),
    "space origin": _VECTOR,
    "measurement frame": _some(rf"{_VECTOR}|none"),
    **dict.fromkeys(
        ("spacings", "thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs"), _some(_NUMBER)
    ),
    **dict.fromkeys(("kinds", "centers", "centerings"), _some(r"[a-z0-9?*-]{1,40}|\?\?\?")),
    **dict.fromkeys(("min", "max", "old min", "oldmin", "old max", "oldmax"), _NUMBER),
    **dict.fromkeys(("block size", "blocksize", "line skip", "lineskip"), r"\d{1,10}"),
    **dict.fromkeys(("byte skip", "byteskip"), r"-1|\d{1,10}"),
    **dict.fromkeys(
        ("labels", "units", "space units", "content", "number", "sample units", "sampleunits"), _TEXT
    ),
    **dict.fromkeys(("data file", "datafile"), _FILE),
}
_FLAG = r"true|false|[01]|t|f"
# MetaImage's, where there is something to keep to. Source: itk.org/Wiki/ITK/MetaIO/Documentation.
_META_FIELDS = {
    "ndims": r"[1-9]",
    "dimsize": _some(r"\d{1,18}"),
    **dict.fromkeys(
        ("elementspacing", "elementsize", "offset", "position", "origin", "centerofrotation"), _some(_NUMBER)
    ),
    **dict.fromkeys(("transformmatrix", "rotation", "orientation"), _some(_NUMBER, 100)),
    **dict.fromkeys(("binarydata", "binarydatabyteordermsb", "elementbyteordermsb", "compresseddata"), _FLAG),
    **dict.fromkeys(("compresseddatasize", "elementnumberofchannels", "elementnbits"), r"\d{1,18}"),
    "headersize": r"-1|\d{1,10}",
    "elementtype": r"[a-z_]{1,30}",
    "objecttype": r"[a-z]{1,30}",
    "elementdatafile": _FILE,
}


def check_header(path: Path) -> None:
    """Checks an NRRD or MetaImage header line by line: readers in C trust these lines.

    Raises:
        DataError: a line is no header line, a value is not what its field holds, or the pixels lie outside the folder.
    """
    name, packed = path.name.lower(), 0
    if name.endswith((".nrrd", ".nhdr")):
        _check_fields(path, _nrrd_fields(path), _NRRD_FIELDS, ("type", "dimension", "sizes", "encoding"))
    elif name.endswith((".mha", ".mhd")):
        fields = _meta_fields(path)
        _check_fields(path, fields, _META_FIELDS, ("ndims", "dimsize", "elementtype"))
        packed = int(dict(fields).get("compresseddatasize", 0))
    for file in data_files(path):
        inner = str(file.relative_to(path.parent)) if file.is_relative_to(path.parent) else str(file)
        if not is_inside(inner) or not file.is_relative_to(path.parent):
            raise DataError(
                f"'{path.name}': it says that its pixels lie in '{inner[:_LONGEST_NAME]}', outside its own folder; such "
                "files are not opened. Put both files into one folder, and write the name alone into the header."
            )
        if not is_regular(file):
            raise DataError(
                f"'{path.name}': its pixels should lie in '{inner[:_LONGEST_NAME]}', which is not there. Copy both files."
            )
    stored = sum(file.stat().st_size for file in (path, *data_files(path)))
    if packed > stored:
        raise DataError(
            f"'{path.name}': the file ends early (at least {packed - stored} bytes are missing). Copy it again."
        )


def packing_ratio(path: Path) -> float:
    """Returns how many times smaller the compression that a header names can make the pixels at best."""
    lines = _header_lines(path)
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        encodings = [
            line.split(":", 1)[1].strip().lower() for line in lines if line.lower().startswith("encoding:")
        ]
        return {"gzip": DEFLATE_RATIO, "gz": DEFLATE_RATIO, "bzip2": _BZIP2_RATIO, "bz2": _BZIP2_RATIO}.get(
            encodings[0] if encodings else "", 8.0 if encodings and encodings[0] in _AS_TEXT else 1.0
        )
    packed = any(re.match(r"CompressedData\s*=\s*[Tt1]", line) for line in lines)
    text = any(re.match(r"BinaryData\s*=\s*[Ff0]", line) for line in lines)
    return DEFLATE_RATIO if packed else 8.0 if text else 1.0


# bzip2 packs at most 900 000 bytes into some 37. Source: measured with zeros, level 9, 24 000 times.
_BZIP2_RATIO = 25_000
# A double takes at least one digit and a space: 8 bytes in 2, with something to spare.
_AS_TEXT = {"txt", "text", "ascii", "hex"}


def _check_fields(
    path: Path, fields: list[tuple[str, str]], known: dict[str, str], needed: tuple[str, ...]
) -> None:
    seen: set[str] = set()
    for field, value in fields:
        pattern = known.get(field, _TEXT)
        if len(value) > _LONGEST_FIELD or not re.fullmatch(pattern, value, re.IGNORECASE):
            raise DataError(
                f"'{path.name}': its header is damaged: '{_shown(value)}' is no value for '{field}'. Save it again."
            )
        if field in seen and field in known:
            raise DataError(f"'{path.name}': its header is damaged: '{field}' is there twice. Save it again.")
        seen.add(field)
    missing = [field for field in needed if field not in seen]
    if missing:
        raise DataError(
            f"'{path.name}': its header is damaged: there is no '{missing[0]}'. Copy or save it again."
        )
    sizes = dict(fields)
    count = int(sizes.get("dimension") or sizes.get("ndims") or 0)
    found = (sizes.get("sizes") or sizes.get("dimsize") or "").split()
    if len(found) != count or any(int(size) < 1 for size in found):
        raise DataError(
            f"'{path.name}': its header gives the sizes {_shown(' × '.join(found))} for {count} dimensions, which is no "
            "volume. Save it again."
        )


def _nrrd_fields(path: Path) -> list[tuple[str, str]]:
    lines = _header_lines(path)
    if not re.fullmatch(r"NRRD000[1-6]", lines[0].strip()):
        raise DataError(
            f"'{path.name}': it is not an NRRD file, though its name says so. Copy or save it again."
        )
    fields: list[tuple[str, str]] = []
    for line in lines[1:]:
        if not line.strip() or line.startswith("#"):
            continue
        if fields and fields[-1][0] in ("data file", "datafile") and fields[-1][1].upper().startswith("LIST"):
            _check_name(path, line)
            continue
        key, sign, value = re.split(r"(:=|: ?)", line, maxsplit=1) if ":" in line else (line, "", "")
        if sign == ":=":  # anything may stand there, and nothing is read from it
            if len(key) > _LONGEST_NAME or "\0" in line:
                raise DataError(f"'{path.name}': its header is damaged at '{_shown(line)}'. Save it again.")
            continue
        if key.strip().lower() not in _NRRD_FIELDS:
            raise DataError(f"'{path.name}': its header is damaged at '{_shown(line)}'. Save it again.")
        fields.append((key.strip().lower(), value.strip()))
    return fields


def _meta_fields(path: Path) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in _header_lines(path):
        if not line.strip():
            continue
        if fields and fields[-1][0] == "elementdatafile":  # the names of a LIST
            _check_name(path, line)
            continue
        key, sign, value = (
            re.split(r"([=:])", line, maxsplit=1) if re.search("[=:]", line) else (line, "", "")
        )
        if not sign or not re.fullmatch(r"[\w .-]{1,80}", key.strip()):
            raise DataError(f"'{path.name}': its header is damaged at '{_shown(line)}'. Save it again.")
        fields.append((key.strip().lower(), value.strip()))
    return fields


def _check_name(path: Path, name: str) -> None:
    if len(name) > _LONGEST_NAME or not re.fullmatch(_TEXT, name):
        raise DataError(f"'{path.name}': its header is damaged at '{_shown(name)}'. Save it again.")


def _shown(text: str) -> str:
    """Returns the beginning of a damaged line, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:40])


def _header_lines(path: Path) -> list[str]:
    """Returns the lines of a header without the pixels that may follow."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_LONGEST_HEADER)
    except OSError as error:
        raise DataError(f"'{path.name}': it cannot be opened ({error.strerror}). Check the file.") from None
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        end = re.search(rb"\r?\n\r?\n", start)
        start = start[: end.start()] if end else start
    else:
        end = re.search(rb"(?im)^[ \t]*ElementDataFile\s*=[ \t]*([^\r\n]*)\r?\n?", start)
        if end and not end[1].strip().upper().startswith(b"LIST"):
            start = start[: end.end()]
    if len(start) >= _LONGEST_HEADER:
        raise DataError(f"'{path.name}': its header does not end. Copy or save it again.")
    return start.decode("latin-1").replace("\r", "").split("\n")
