"""Pictures of what the data doctor found: the slice with its label as stored and, where a fix is known, as it would be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from autoseg_lib.data.doctor.facts import CaseFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding, FixAction
from autoseg_lib.data.doctor.transforms import TRANSFORMS, transformed
from autoseg_lib.viz.finding_picture import draw_small, encode, side_by_side
from autoseg_lib.viz.view import resize_labels, slice_view

# Codes of colours do not fit into a PNG: from here on the facts keep the places of values among those found.
_FIRST_PLACES = 65536
Labels = npt.NDArray[np.unsignedinteger]
# A slice: (name of the case, index of the slice).
Place = tuple[str, int]


@dataclass(frozen=True)
class FindingPicture:
    """A picture for a finding.

    Attributes:
        caption: case and slice, and what is to be seen.
        jpeg: the file's bytes.
        width_px: width to show it at.
    """

    caption: str
    jpeg: bytes = field(repr=False)
    width_px: int = 160


class Gallery:
    """The slices of a data check, to draw from."""

    def __init__(self, facts: Sequence[CaseFacts]) -> None:
        """Args:
        facts: of all cases that could be read.
        """
        self.cases = {case.name: case for case in facts}
        self._label_places: dict[Path, list[Place]] = defaultdict(list)
        for case in facts:
            for index, item in enumerate(case.slices):
                if item.label_file is not None:
                    self._label_places[item.label_file].append((case.name, index))

    def pictures(self, finding: Finding, limit: int = 4) -> list[FindingPicture]:
        """Draws the first places of a finding, as many different cases as possible; none where it has no places.

        Args:
            finding: with ``samples``.
            limit: most pictures.
        """
        pictures = []
        for name, index in self._spread(finding)[:limit]:
            case = self.cases[name]
            view, item = slice_view(case.geometry), case.slices[index]
            image, label = largest(item)
            drawn = [draw_small(image, label, view)]
            caption = name if len(case.slices) == 1 else f"{name} · {item.name}"
            proposed = self.proposal(finding, name, index)
            if proposed is not None:
                text, label = proposed
                drawn.append(draw_small(image, label, view))
                caption += f": as stored | {text}"
            picture = side_by_side(drawn)
            pictures.append(FindingPicture(caption, encode(picture), round(picture.shape[1] * 2 / 3)))
        return pictures

    def places(self, finding: Finding) -> list[Place]:
        """Returns (case, slice index) of each of a finding's samples; a whole case stands as its fullest slice, and where
        a finding is about the codes of all labels, so does each case."""
        found = []
        for sample in finding.samples:
            case = self.cases.get(sample.case)
            if case is None or not case.slices:
                continue  # the case could not be read, so there is nothing to draw
            if sample.slice_index is None:
                found.append((case.name, fullest_slice(case)))
            elif 0 <= sample.slice_index < len(case.slices):
                found.append((case.name, sample.slice_index))
        if not found and finding.details.get("label_map"):
            # Codes are about all labels; who is to agree to a map wants to see what is marked with which.
            found = [(case.name, fullest_slice(case)) for case in self.cases.values() if case.slices]
        return found

    def _spread(self, finding: Finding) -> list[Place]:
        """The places in an order that shows each case once before any case twice."""
        turn: dict[str, int] = defaultdict(int)
        ranked = []
        for order, (name, index) in enumerate(self.places(finding)):
            ranked.append((turn[name], order, (name, index)))
            turn[name] += 1
        return [place for _, _, place in sorted(ranked)]

    def proposal(self, finding: Finding, name: str, index: int) -> tuple[str, Labels] | None:
        """Returns what the label of one slice would be if the finding were put right; None where there is nothing to show.

        Args:
            finding: its fix says what would be done; without one ``details["transform"]`` or ``details["shift"]``.
            name, index: the slice.

        Returns:
            (what was done, label values on the pixels of the largest picture).
        """
        if finding.details.get("label_map"):
            return None  # the pixels stay as they are drawn, only their numbers change
        case = self.cases[name]
        file = case.slices[index].label_file
        for action in finding.fix.actions if finding.fix else ():
            if file is not None and file in action.files:
                return self._after(action, case, index)
        transform, shift = finding.details.get("transform"), finding.details.get("shift")
        if isinstance(transform, str) and transform in TRANSFORMS:
            return self._after(FixAction("transform", (), {"transform": transform}), case, index)
        if isinstance(shift, int) and shift:
            return self._after(FixAction("shift", (), {"slices": shift}), case, index)
        return None

    def _after(self, action: FixAction, case: CaseFacts, index: int) -> tuple[str, Labels] | None:
        stored = largest(case.slices[index])[1]
        parameters = action.parameters
        if action.kind == "transform":
            slices = parameters.get("slices")
            if slices is not None and index not in slices:
                return None
            return str(parameters["transform"]), _fitted(transformed(stored, parameters["transform"]), stored)
        if action.kind == "map_values":
            changed = stored.copy()
            for old, new in parameters["map"].items():
                if isinstance(old, int):
                    changed[stored == old] = new
            return None if np.array_equal(changed, stored) else ("values corrected", changed)
        if action.kind == "shift":
            source = index - int(parameters["slices"])
            if not 0 <= source < len(case.slices):
                return None
            return f"label of {case.slices[source].name}", _fitted(largest(case.slices[source])[1], stored)
        if action.kind == "swap_labels":
            own = case.slices[index].label_file
            others = [place for file in action.files if file != own for place in self._label_places[file]]
            # Of a label volume, the slice with the same number.
            same = [place for place in others if place[1] == index] if len(others) > 1 else others
            if not same:
                return None
            other, number = same[0]
            label = largest(self.cases[other].slices[number])[1]
            return f"label of {other}", _fitted(label, stored)
        return None


def fullest_slice(case: CaseFacts) -> int:
    """Returns the index of the slice with most ROIs, among equals the one with most pixels drawn."""
    sizes = [
        (len(set(counts) - {0}), sum(n for value, n in counts.items() if value)) for counts in case.counts
    ]
    best = max(sizes)
    return len(sizes) // 2 if best == (0, 0) else sizes.index(best)


def largest(item: SliceFacts) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Returns the largest (row, column) picture there is of a slice, and the label values on its pixels."""
    if not item.view_jpeg:
        return item.small_image, item.small_label
    image = cv2.imdecode(np.frombuffer(item.view_jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    label = cv2.imdecode(np.frombuffer(item.view_label_png, np.uint8), cv2.IMREAD_UNCHANGED)
    values = sorted({0, *item.counts})
    if values[-1] >= _FIRST_PLACES:
        return np.asarray(image, np.uint8), np.array(values, np.uint32)[label]
    return np.asarray(image, np.uint8), np.asarray(label)


def _fitted(label: Labels, like: Labels) -> Labels:
    """Puts a label of other proportions onto the pixels of ``like``, as it would be shown over the image."""
    shape = (like.shape[0], like.shape[1])
    return label if label.shape == shape else resize_labels(label, shape)
