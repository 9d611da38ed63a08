"""Codes in label files and the ROI numbers they stand for: recognised here, mapped only where the user says so.

Programs mark ROIs with 255, with 63 and 126, with colours, or each in a plane of its own. What a code means is nothing a
program can know for sure, so a map is proposed with the exact line to set, and used only when it has been set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from autoseg_lib.io.label_codes import code_key, code_of, codes_text, is_mark, is_plane
from autoseg_lib.settings import MOST_LABELS

LabelMap = Mapping[int | str, int]

# More marks than this are no ROIs but an image, or a picture with soft edges (ROIs of whole-body label sets: about 100).
MOST_CODES = 120

# Grey values that are chosen as codes lie apart; with more of them, numbers with gaps are meant (whole-body label sets).
_MOST_GREYS = 32

# From here on a lone value is a code for "inside" (63, 64, 100, 127, 128, 200, 255 are in use); a smaller one is a label.
FIRST_CODE = 63

# A mark that fills more than this share of all pixels is rather what is around the ROI.
_INVERTED_SHARE = 0.5


def propose_map(
    values: Iterable[int], share: Mapping[int, float] | None = None
) -> dict[int | str, int] | None:
    """Returns the map to propose for the values of a whole folder of label files.

    Args:
        values: every value (code) found in any of the files, 0 included where it was found.
        share: value → share of all pixels, where known; then masks whose ROI is 0 and whose surroundings are marked are
            recognised too.

    Returns:
        Key as in the setting ``label_map`` → ROI number, in order; None where the values are ROI numbers 1, 2, ... already, or
        too many to be ROIs.
    """
    found = sorted({int(value) for value in values})
    codes = [code for code in found if code != 0]
    most = MOST_CODES if any(is_mark(code) for code in codes) else _MOST_GREYS
    if not codes or codes == list(range(1, len(codes) + 1)) or len(codes) > most:
        return None
    if len(codes) == 1 and not is_mark(codes[0]) and codes[0] >= FIRST_CODE:
        outside = (share or {}).get(codes[0], 0.0)
        if 0 in found and outside > _INVERTED_SHARE:
            return {0: 1, code_key(codes[0]): 0}
    # Every pixel lies in some plane: then one of them is the background, the first by custom.
    first = 0 if all(is_plane(code) for code in found) and len(codes) > 1 else 1
    return {code_key(code): number for number, code in enumerate(codes, start=first)}


def look_like_codes(values: Iterable[int]) -> bool:
    """Whether values are rather codes than ROI numbers with gaps: colours, planes, or grey values far apart."""
    codes = sorted({int(value) for value in values} - {0})
    if not codes or codes == list(range(1, len(codes) + 1)) or len(codes) > MOST_CODES:
        return False
    if any(is_mark(code) for code in codes):
        return True
    return codes[0] >= FIRST_CODE or (len(codes) > 1 and min(np.diff([0, *codes])) >= _FAR_APART)


def several_colours(values: Iterable[int]) -> bool:
    """Whether there are colours, and more than one ROI: they have no order, so only the user knows which ROI each is."""
    codes = {int(value) for value in values} - {0}
    return len(codes) > 1 and any(is_mark(code) and not is_plane(code) for code in codes)


# Grey values at least this far apart from each other and from 0 are chosen to be told apart by eye.
_FAR_APART = 10


def apply_map(
    array: npt.NDArray[np.unsignedinteger], label_map: LabelMap | None
) -> npt.NDArray[np.unsignedinteger]:
    """Returns label values with every code of ``label_map`` replaced; codes that are not listed stay what they are.

    Args:
        array: stored values of any shape.
        label_map: key (63, "#FF0000", "plane 1") → ROI number; names of ROIs in it are passed over.
    """
    pairs = [
        (code, number) for key, number in (label_map or {}).items() if (code := code_of(key)) is not None
    ]
    if not pairs or array.size == 0:
        return array
    highest = int(array.max())
    result: npt.NDArray[np.unsignedinteger]
    if highest <= np.iinfo(np.uint16).max:
        table = np.arange(highest + 1, dtype=np.uint32)
        for code, number in pairs:
            if code <= highest:
                table[code] = number
        top = int(table[np.unique(array)].max()) if highest > 255 else int(table.max())
        result = table.astype(_kind(top))[array]
    else:
        wide = array.astype(np.uint32)
        for code, number in pairs:
            wide[array == code] = number
        result = wide.astype(_kind(int(wide.max())))
    return result


def map_text(label_map: LabelMap) -> str:
    """Returns a map as it is written in Settings: ``{63: 1, "#FF0000": 2}``."""
    items = (
        f'"{key}": {value}' if isinstance(key, str) else f"{key}: {value}" for key, value in label_map.items()
    )
    return "{" + ", ".join(items) + "}"


def map_option(label_map: LabelMap) -> str:
    """Returns a map as it is written on the command line: ``63=1,#FF0000=2``."""
    return ",".join(f"{key}={value}" for key, value in label_map.items())


def codes_message(
    values: Iterable[int], share: Mapping[int, float] | None = None, *, option: str = ""
) -> str:
    """Returns what to say of values that are no ROI numbers 1, 2, 3, ...: what was found, and the line that maps them.

    Args:
        values: every value found in any label file.
        share: as in ``propose_map``.
        option: the command's option that takes a map, where that is the way to give it ("--label-map"); "": the setting.

    Returns:
        A sentence or two, "" where the values are ROI numbers already.
    """
    found = sorted({int(value) for value in values})
    codes = [code for code in found if code != 0]
    if not codes or codes == list(range(1, len(codes) + 1)):
        return ""
    proposed = propose_map(found, share)
    if proposed is None and max(codes) <= MOST_LABELS:
        missing = [value for value in range(1, max(codes)) if value not in codes]
        return (
            f"the label files hold the values {codes_text(found)}; ROIs are expected to be numbered 1, 2, 3, ... No label holds "
            f"{codes_text(missing)}. Renumber the labels, or, if the gaps are meant, set num_labels = {max(codes)}."
        )
    if proposed is None:
        return (
            f"the label files hold {len(codes)} different values ({codes_text(found, 5)}), which is an image or a picture with "
            "soft edges, no labels. Save the labels with one value per ROI (0 background, 1, 2, ...)."
        )

    def give(label_map: LabelMap) -> str:
        return (
            f'give {option} "{map_option(label_map)}"' if option else f"set label_map = {map_text(label_map)}"
        )

    line = give(proposed)
    if any(is_plane(code) for code in codes):
        planes = f"{len(codes)} planes of 0 and 1" if len(codes) > 1 else "a plane of 0 and 1"
        return (
            f"the label files are stacks of {planes} (one-hot); one number per pixel is expected. If each plane is an ROI"
            f"{' and the first is the background' if 0 in proposed.values() else ''}, {line}."
        )
    what = "colours" if any(is_mark(code) for code in codes) else "values"
    rois = "1 ROI" if len(codes) == 1 else f"{len(codes)} ROIs"
    text = (
        f"the label files hold the {what} {codes_text(found)}; ROIs are expected to be numbered 1, 2, 3, ... "
    )
    if proposed.get(0) == 1:
        outside = codes_text(codes)
        percent = 100 * (share or {}).get(codes[0], 0.0)
        ordinary = give({code_key(codes[0]): 1})
        return (
            f"{text}{outside} fills {percent:.0f} % of the pixels, so it seems to mark what is around the ROI. If so, {line}; if "
            f"{outside} is the ROI, {ordinary}."
        )
    if several_colours(codes):
        return (
            f"{text}These look like {rois}. Which colour is which ROI the files do not say: {line}, with the numbers changed so "
            "that each colour has the place of its ROI in labels_list."
        )
    if look_like_codes(found):
        return f"{text}These look like codes for {rois}. If so, {line}."
    missing = [value for value in range(1, min(max(codes), 255)) if value not in codes]
    kept = (
        f"; if the gap is meant, set num_labels = {max(codes)}"
        if max(codes) <= MOST_LABELS and not option
        else ""
    )
    return f"{text}No label holds {codes_text(missing)}. If they are codes for {rois}, {line}{kept}."


def _kind(highest: int) -> type[np.unsignedinteger]:
    return np.uint8 if highest <= 255 else np.uint16 if highest <= 65535 else np.uint32
