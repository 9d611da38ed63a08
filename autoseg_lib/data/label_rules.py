"""How label files are turned into ROI numbers: the user's map of codes, the names of the ROIs, what lies on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from autoseg_lib.data.label_map import LabelMap
from autoseg_lib.data.label_names import distinct_names
from autoseg_lib.io.label_codes import code_of
from autoseg_lib.settings import AUTO, TrainSettings


@dataclass(frozen=True)
class LabelRules:
    """What reading a label file needs to know.

    Attributes:
        label_map: code or ROI name → ROI number, as in the setting; empty where nobody mapped anything.
        roi_values: name → ROI number for files that name their ROIs; empty: each file's own names, in natural order.
        overlap_priority: names of ROIs, the first on top where they overlap.
        seg_threshold: share of a pixel from which a fractional DICOM SEG counts.
        num_labels: number of ROIs where known; JPG labels need it.
        may_be_absent: whether a file that has none of the ROIs is an empty mask and not a mistake.
    """

    label_map: LabelMap = field(default_factory=dict)
    roi_values: Mapping[str, int] = field(default_factory=dict)
    overlap_priority: tuple[str, ...] = ()
    seg_threshold: float = 0.5
    num_labels: int | None = None
    may_be_absent: bool = False

    def only(self, value: int) -> LabelRules:
        """Returns the rules for painting the ROIs of one number alone, whatever lies on top of them."""
        alone = {name: number for name, number in self.roi_values.items() if number == value}
        return replace(self, roi_values=alone, may_be_absent=True)

    def values_for(self, names: Iterable[str]) -> dict[str, int]:
        """Returns name → ROI number for a file that names its ROIs.

        Args:
            names: the file's own, numbered in natural order where nobody gave numbers.
        """
        if self.roi_values or self.may_be_absent:
            return dict(self.roi_values)
        return {name: number for number, name in enumerate(distinct_names(names), start=1)}

    @classmethod
    def from_settings(cls, settings: TrainSettings, roi_values: Iterable[tuple[str, int]] = ()) -> LabelRules:
        """Takes what the settings say.

        Args:
            settings: of training.
            roi_values: names and numbers of the ROIs that the label files name, as pairing found them.
        """
        count: int | None = None
        if settings.labels_list != AUTO:
            count = len(settings.labels_list)
        elif settings.num_labels != AUTO:
            count = settings.num_labels
        return cls(
            label_map=settings.label_map or {},
            roi_values=dict(roi_values),
            overlap_priority=tuple(settings.overlap_priority or ()),
            seg_threshold=settings.seg_threshold,
            num_labels=count,
        )

    @property
    def grey_codes(self) -> tuple[int, ...]:
        """The codes that the map lists, names left out."""
        codes = (code_of(key) for key in self.label_map)
        return tuple(sorted({code for code in codes if code is not None}))
