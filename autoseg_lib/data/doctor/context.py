"""What every check is given: the facts of all cases, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from autoseg_lib.data.doctor.facts import CaseFacts, SliceFacts
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.pairing import Pairing
from autoseg_lib.data.split import Split, split_cases, validation_share
from autoseg_lib.labels import LabelTable
from autoseg_lib.settings import AUTO, TrainSettings


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

    @cached_property
    def values(self) -> tuple[int, ...]:
        """All label values of all cases, in order, 0 included."""
        return tuple(sorted(set().union(*(case.values for case in self.facts)) if self.facts else set()))

    @cached_property
    def slice_count(self) -> int:
        """Slices of all cases."""
        return sum(len(case.slices) for case in self.facts)

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


def slices_with_roi(facts: Sequence[CaseFacts]) -> list[bool] | None:
    """For a study that may be split within one scan: which slices show an ROI; else None."""
    if len(facts) == 1:
        return [not item.is_empty for item in facts[0].slices]
    if all(len(case.slices) == 1 for case in facts):
        return [not case.slices[0].is_empty for case in facts]
    return None
