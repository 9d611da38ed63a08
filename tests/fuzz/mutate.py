"""Damages files, the same way every time: kind and number decide everything."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence

import pydicom

Mutator = Callable[[bytes, random.Random, Sequence[bytes]], bytes]

# Sizes and counts at which readers go wrong: nothing, one, the ends of 8, 16, 32 and 64 bits, and their neighbours.
_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
_WORDS = (
    b"0", b"-1", b"1", b"3", b"65536", b"2147483648", b"99999999999999999999", b"1e999", b"-1e308", b"nan", b"inf", b"",
    b"1.5", b"'", b'"', b"[", b"{", b"&a", b"*a", b"\x00", b"\n", b"\r", b",", b";", b"..", b"../../x", b"/etc/hostname",
    b"=1+1", b"true", b"null", b"None", b"\xff\xfe", "\u202e\u0301".encode(), b"2024-13-45", b"? ", b"- ", b": ", b"!!python/name:os.system",
)  # fmt: skip
# Most of what steers a reader stands at the beginning.
_HEAD = 600


def mutate(kind: str, number: int, seeds: Sequence[bytes]) -> bytes:
    """Returns damaged file ``number`` of a kind."""
    rng = random.Random(f"{kind}:{number}")
    data = rng.choice(seeds)
    wrapped = _WRAPPED.get(kind)
    if wrapped is not None and rng.random() < 0.6:
        return wrapped(data, rng, seeds)
    return _damage(data, rng, seeds)


def _damage(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        data = rng.choice(_MUTATORS)(data, rng, seeds)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    end = len(data) if rng.random() < 0.5 else min(len(data), _HEAD)
    return rng.randrange(end) if end else 0


# --- bytes without a meaning ------------------------------------------------------------------------------------------


def _flip_bits(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _random_bytes(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, count = _place(data, rng), rng.choice((1, 2, 4, 16, 64))
    return data[:start] + rng.randbytes(count) + data[start + count :]


def _cut_off(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: _place(data, rng)]


def _leave_out(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 4, 8, 100)) :]


def _repeat(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, count = _place(data, rng), rng.choice((1, 4, 32, 300))
    return (
        data[: start + count] + data[start : start + count] * rng.choice((1, 2, 50)) + data[start + count :]
    )


def _splice(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _append(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 1000)))


def _number(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Writes an extreme number over 1, 2, 4 or 8 bytes: sizes, lengths and offsets lie somewhere there."""
    size = rng.choice((1, 2, 2, 4, 4, 8))
    value = rng.choice(_NUMBERS) % 2 ** (8 * size)
    start = _place(data, rng)
    if rng.random() < 0.7:
        start -= start % min(size, 4)
    return data[:start] + value.to_bytes(size, rng.choice(("little", "big"))) + data[start + size :]


def _word(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Replaces a number written in digits, or a word, by an extreme one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?|[A-Za-z_]{2,}", data[:20_000]))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_WORDS) * rng.choice((1, 1, 1, 1, 500)) + data[match.end() :]


def _nest(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Brackets in brackets in brackets: readers that call themselves run out of stack."""
    start = _place(data, rng)
    return (
        data[:start]
        + rng.choice((b"[", b"{", b'{"a":', b"(", b"- ")) * rng.choice((10, 5000, 60_000))
        + data[start:]
    )


_MUTATORS: tuple[Mutator, ...] = (
    _flip_bits, _flip_bits, _random_bytes, _cut_off, _leave_out, _repeat, _splice, _append, _number, _number, _number,
    _word, _word, _nest,
)  # fmt: skip


# --- damage inside a sound wrapping ---------------------------------------------------------------------------------------


def _in_gzip(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """NIfTI: damage what is compressed, and compress it again."""
    if data[:2] != b"\x1f\x8b":
        return _damage(data, rng, seeds)
    return gzip.compress(_damage(gzip.decompress(data), rng, seeds), 1, mtime=0)


def _in_png(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Damages one chunk of a PNG and corrects its checksum, so that the damage gets as far as the decoder."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    if not chunks:
        return _damage(data, rng, seeds)
    index = 0 if rng.random() < 0.5 else rng.randrange(len(chunks))
    name, content = chunks[index]
    if name == b"IDAT" and rng.random() < 0.5:
        chunks[index] = name, zlib.compress(_damage(zlib.decompress(content), rng, seeds))
    else:
        chunks[index] = name, _damage(content, rng, seeds)[:1_000_000]
    whole = data[:8]
    for name, content in chunks:
        whole += (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )
    return whole


_TAGS = (
    "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation",
    "PlanarConfiguration", "PhotometricInterpretation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept", "InstanceNumber", "SliceThickness", "SpacingBetweenSlices", "SeriesInstanceUID",
    "StudyInstanceUID", "SOPInstanceUID", "Modality", "ImageType", "PatientName", "PatientID", "PatientBirthDate",
    "SpecificCharacterSet", "SeriesDescription", "SeriesNumber", "FrameOfReferenceUID", "SOPClassUID", "AcquisitionNumber",
)  # fmt: skip
_VALUES = (
    "", "0", "-1", "1", "65535", "2147483647", "99999999999", "1e300", "-1e-300", "nan", "inf", "abc", "1\\1\\1", "0\\0",
    "1e300\\1e300", "1\\0\\0\\1\\0\\0", "0\\0\\0\\0\\0\\0", "1e300\\0\\0", "\\", "\x00", "../../x", "\u202e", "1.2.3", "RGB",
    "PALETTE COLOR", "MONOCHROME1", "YBR_FULL", "ISO 2022 IR 87", "ISO_IR 999", "RTSTRUCT", "SEG", "MOSAIC", "a" * 5000,
)  # fmt: skip
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.1.99", "1.2.3", "",
)  # fmt: skip


def _in_dicom(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Gives some elements of a DICOM file wrong values, lengths and all in order; sometimes damages its pixels only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            for _ in range(rng.choice((1, 1, 2, 4))):
                choice = rng.random()
                if choice < 0.2 and "PixelData" in dataset:
                    dataset.PixelData = _damage(dataset.PixelData, rng, seeds)
                elif choice < 0.28:
                    dataset.file_meta.TransferSyntaxUID = rng.choice(_SYNTAXES)
                elif choice < 0.5 and (tables := _tables(dataset)):
                    _set_value(rng.choice(tables), rng)
                elif choice < 0.6:
                    tags = [element.tag for element in dataset]
                    del dataset[rng.choice(tags)]
                else:
                    _set_value(dataset, rng)
            stream = io.BytesIO()
            # The file's own encoding is kept, so that a wrong transfer syntax is really wrong.
            dataset.save_as(
                stream,
                enforce_file_format=False,
                implicit_vr=bool(dataset.is_implicit_VR),
                little_endian=True,
            )
        return stream.getvalue()
    except Exception:  # noqa: BLE001  # pydicom refuses to write some nonsense; plain damage then
        return _damage(data, rng, seeds)


_TEXTS = (
    "AE",
    "AS",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UR",
    "UT",
)


def _tables(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Returns the items of all sequences: contours, frames, segments."""
    found = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                found += [item, *_tables(item)]
    return found


def _set_value(dataset: pydicom.Dataset, rng: random.Random) -> None:
    own = [element.keyword for element in dataset if element.keyword and element.VR not in ("SQ", "OB", "OW")]
    keyword = rng.choice(own) if own and rng.random() < 0.5 else rng.choice(_TAGS)
    kind = pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(keyword))
    if kind in ("US", "US or SS"):
        dataset.add_new(keyword, "US", rng.choice([n for n in _NUMBERS if n < 65536]))
        return
    if kind not in _TEXTS:
        dataset.add_new(keyword, kind, rng.choice(_NUMBERS))
        return
    text = rng.choice(_VALUES)
    # Raw bytes: what pydicom would refuse to write is what has to be tried.
    element = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(keyword),
        kind,
        len(text.encode()),
        text.encode(),
        0,
        bool(dataset.is_implicit_VR),
        True,
    )
    dataset._dict[element.tag] = element


def _in_safetensors(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Damages the description of a model and corrects the lengths around it."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    told = header.get("__metadata__", {})
    if "autoseg" in told and rng.random() < 0.8:
        table = json.loads(told["autoseg"])
        if rng.random() < 0.6:
            _change_somewhere(table, rng)
            told["autoseg"] = json.dumps(table)
        else:
            told["autoseg"] = _damage(told["autoseg"].encode(), rng, seeds[:1]).decode("latin-1")
        head = json.dumps(header).encode()
    else:
        head = _damage(data[8 : 8 + length], rng, seeds)
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


_JSON_VALUES = (None, True, 0, -1, 1, 3, 10**6, 10**9, 10**30, 1e308, -0.5, "", "2D", "3D", "unet", "x", [], {}, [1], [0, 0, 0], [10**7] * 3, {"a": 1}, [None], [[1]])  # fmt: skip


def _change_somewhere(table: object, rng: random.Random) -> None:
    """Walks down into tables and lists and replaces or removes one entry."""
    while isinstance(table, dict | list) and table:
        key = rng.choice(list(table)) if isinstance(table, dict) else rng.randrange(len(table))
        inner = table[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
            table = inner
            continue
        if rng.random() < 0.15:
            del table[key]
        else:
            table[key] = rng.choice(_JSON_VALUES)
        return


_WRAPPED: dict[str, Mutator] = {
    "nifti": _in_gzip,
    "png": _in_png,
    "dicom": _in_dicom,
    "rtstruct": _in_dicom,
    "dicomseg": _in_dicom,
    "safetensors": _in_safetensors,
}
