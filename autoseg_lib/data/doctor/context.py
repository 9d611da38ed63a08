"""What every check is given: the facts of all cases, and what follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from autoseg_lib.data.doctor.agreement import Agreement, compare_labels
from autoseg_lib.data.doctor.facts import CaseFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding, Sample
from autoseg_lib.data.pairing import Pairing, TrainingCase
from autoseg_lib.data.scan import load_scan
from autoseg_lib.data.split import Split, split_cases, validation_share
from autoseg_lib.errors import AutosegError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.label_codes import is_mark
from autoseg_lib.labels import LabelTable
from autoseg_lib.settings import AUTO, TrainSettings

# A label slice with more values than this, and several times as many as its image, is the image: whole-body label sets show
# 30 to 40 ROIs on one slice, and their images have hundreds of grey values.
MOST_LABEL_VALUES, MORE_VALUES = 40, 4

# An image with fewer grey values than this may be a label: 8 bits of noise alone bring more.
FEWEST_GREY_LEVELS = 30


# Up to this share of labels may hold a value that ROI numbers do not reach; with more of them it is how the set is coded.
ODD_VALUES_SHARE = 0.4


@dataclass(frozen=True, eq=False)
class Context:
    """What the checks look at.

    Attributes:
        settings: the training settings.
        pairing: images and labels matched by name.
        facts: what was found for each case that could be read.
        labels: the ROIs' values and names.
        unreadable: findings on the cases that could not be read.
    """

    settings: TrainSettings
    pairing: Pairing
    facts: tuple[CaseFacts, ...]
    labels: LabelTable
    unreadable: tuple[Finding, ...] = ()

    @property
    def declared(self) -> bool:
        """Whether the user said how many ROIs there are."""
        return self.settings.labels_list != AUTO or self.settings.num_labels != AUTO

    def slices(self) -> Iterator[tuple[CaseFacts, int, SliceFacts]]:
        """Yields (case, index of the slice, slice) of all cases."""
        for case in self.facts:
            for index, item in enumerate(case.slices):
                yield case, index, item

    def has(self, name: str) -> bool:
        """Whether a case of this name could be read."""
        return name in self._facts_by_name

    def case(self, name: str) -> CaseFacts:
        """Returns the facts of a case."""
        return self._facts_by_name[name]

    def training_case(self, name: str) -> TrainingCase:
        """Returns the files of a case."""
        return self._cases_by_name[name]

    def shares_files(self, name: str) -> tuple[bool, ...]:
        """Returns for each slice of a case whether another slice lies in the same image or label file."""
        if name not in self._sharing:
            slices = self.case(name).slices
            files = Counter(item.image_file for item in slices)
            labels = Counter(item.label_file for item in slices)
            self._sharing[name] = tuple(
                files[item.image_file] > 1 or labels[item.label_file] > 1 for item in slices
            )
        return self._sharing[name]

    @cached_property
    def _sharing(self) -> dict[str, tuple[bool, ...]]:
        return {}

    @cached_property
    def _facts_by_name(self) -> dict[str, CaseFacts]:
        return {case.name: case for case in self.facts}

    @cached_property
    def _cases_by_name(self) -> dict[str, TrainingCase]:
        return {case.name: case for case in self.pairing.cases}

    @cached_property
    def values(self) -> tuple[int, ...]:
        """All label values of all cases, in order, 0 included; files that are images by mistake left out."""
        return label_values(self.facts)

    @cached_property
    def geometries(self) -> dict[str, Geometry]:
        """The grid of every scan, of those too whose label does not fit."""
        grids = {case.name: case.geometry for case in self.facts}
        for case in self.pairing.cases:
            if case.name not in grids and case.label_volume is not None:
                with suppress(AutosegError):
                    grids[case.name] = load_scan(
                        case.source, slice_axis=self.settings.slice_axis
                    ).volume.geometry
        return grids

    @cached_property
    def slice_count(self) -> int:
        """Slices of all cases."""
        return sum(len(case.slices) for case in self.facts)

    @cached_property
    def swapped_files(self) -> frozenset[Sample]:
        """Slices whose label looks like an image, and whose image looks like a label."""
        return frozenset(
            Sample(case.name, index)
            for case, index, item in self.slices()
            if is_swapped(item) or (case.kind == "volume" and any(is_swapped(other) for other in case.slices))
        )

    @cached_property
    def odd_values(self) -> tuple[Sample, ...]:
        """Labels with values beyond the ROI numbers that nearly all others keep to; see ``usual_rois``."""
        return usual_rois(self.facts)[1]

    @cached_property
    def agreement(self) -> Agreement:
        """Which labels do not fit their images; labels that are wrong in an obvious way are left out."""
        return compare_labels(self.facts, {*self.swapped_files, *self.odd_values})

    @property
    def comparison(self) -> Agreement:
        """What ``agreement`` has found so far; empty where no check asked for it."""
        return self.__dict__.get("agreement", Agreement())

    @cached_property
    def split(self) -> Split:
        """Which cases training would keep back, as it will decide itself."""
        patients = len({case.patient for case in self.facts})
        share = self.settings.validation_fraction
        return split_cases(
            self.facts,
            validation_share(patients) if share == AUTO else float(share),
            self.settings.seed,
            slice_counts=[len(case.slices) for case in self.facts],
            with_roi=slices_with_roi(self.facts),
        )


def is_swapped(item: SliceFacts) -> bool:
    """Whether a slice's label looks like an image, and its image like a label."""
    most = max(MOST_LABEL_VALUES, MORE_VALUES * item.grey_levels)
    return item.grey_levels < FEWEST_GREY_LEVELS and len(item.counts) > most


def label_values(facts: Sequence[CaseFacts]) -> tuple[int, ...]:
    """Returns all values of all labels in order; labels that are images by mistake left out."""
    values = {
        value for case in facts for item in case.slices if not is_swapped(item) for value in item.counts
    }
    return tuple(sorted(values))


def usual_rois(facts: Sequence[CaseFacts]) -> tuple[int, tuple[Sample, ...]]:
    """Looks whether nearly all labels keep to the numbers 1..n without gaps and a few do not.

    Returns:
        (n, the samples with values above n); (0, ()) where the values have no gaps, or many labels hold the values that lie
        beyond a gap.
    """
    values = [value for value in label_values(facts) if value > 0]
    count = next((n for n, value in enumerate(values) if value != n + 1), len(values))
    if count in (0, len(values)):
        return 0, ()
    drawn, odd = 0, []
    for case in facts:
        samples = [
            Sample(case.name, i) for i, item in enumerate(case.slices) if any(v > count for v in item.counts)
        ]
        if case.kind == "volume":
            drawn += 1
            odd += [Sample(case.name)] if samples else []
        else:
            drawn += sum(not item.is_empty for item in case.slices)
            odd += [sample for sample in samples if not is_swapped(case.slices[sample.slice_index or 0])]
    # A colour is never an ROI number: it is odd as soon as any label does without.
    most = drawn - 1 if all(is_mark(value) for value in values if value > count) else ODD_VALUES_SHARE * drawn
    return (count, tuple(odd)) if 0 < len(odd) <= most else (0, ())


def slices_with_roi(facts: Sequence[CaseFacts]) -> list[bool] | None:
    """For a study that may be split within one scan: which slices show an ROI; else None."""
    if len(facts) == 1:
        return [not item.is_empty for item in facts[0].slices]
    if all(len(case.slices) == 1 for case in facts):
        return [not case.slices[0].is_empty for case in facts]
    return None
