"""Masks that say which part of each scan is worked on, for a crop to a mask: the setting ``region_masks``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from autoseg_lib.data.cases import TrainingCase
from autoseg_lib.data.discover import ImageSource
from autoseg_lib.data.masks import load_case
from autoseg_lib.data.scan import Scan, SpacingOverride
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.evaluate.match import MaskFolder, find_masks
from autoseg_lib.evaluate.reading import case_of
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.volume import Mask


@dataclass(frozen=True)
class RegionMasks:
    """A folder with a mask for each scan, of any kind that ``autoseg measure`` reads, under the scans' names.

    Attributes:
        folder: the setting; empty: there are no such masks.
    """

    folder: str

    @cached_property
    def _found(self) -> MaskFolder:
        return find_masks(Path(self.folder).expanduser())

    def check(self, preprocessing: Preprocessing) -> None:
        """Makes sure that crop and setting go together.

        Raises:
            SettingsError: there is one without the other.
            DataError: the folder does not exist or holds no masks.
        """
        wanted = preprocessing.crop is not None and preprocessing.crop["to"] == "mask"
        if wanted and not self.folder:
            raise SettingsError(
                'preprocessing.crop: to = "mask" needs the setting region_masks, a folder with a mask for each scan. Give it, or '
                'crop to "body", "centre" or "box".'
            )
        if self.folder and not wanted:
            raise SettingsError(
                f"region_masks = '{self.folder}': the model does not crop to a mask, so these masks would do nothing. Add "
                "preprocessing.crop.to = mask, or leave region_masks out."
            )
        if wanted:
            _ = self._found

    def files(self, source: ImageSource) -> tuple[Path, ...]:
        """Returns the files of a scan's mask; none where there is no mask.

        Raises:
            DataError: see ``check``.
        """
        case = self._case(source)
        return () if case is None else tuple(dict.fromkeys(case.labels))

    def read(self, source: ImageSource, scan: Scan, slice_axis: str, override: SpacingOverride) -> Mask:
        """Returns a scan's mask on the scan's own grid.

        Args:
            source: of the scan.
            scan: as it was read from ``source``.
            slice_axis: with which it was read.
            override: likewise.

        Raises:
            DataError: there is none, it lacks slices, cannot be read or does not fit the scan.
        """
        case = self._case(source)
        if case is None:
            raise DataError(
                f"'{scan.name}': region_masks holds no mask of this scan's name, so it is not known which part to work on. Add it, "
                'or crop to "body", "centre" or "box".'
            )
        missing = len(source.files) - len(case.source.files)
        if missing:
            raise DataError(
                f"'{scan.name}': {missing} of {len(source.files)} slices have no mask in region_masks. Add them; an empty mask says "
                "that nothing of a slice counts."
            )
        alone = replace(case, source=replace(case.source, others=()))
        _, mask, _ = load_case(alone, slice_axis=slice_axis, override=override)
        return mask

    def _case(self, source: ImageSource) -> TrainingCase | None:
        return case_of(source, self._found)
