"""Reading one training case as the settings say."""

from __future__ import annotations

from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import load_case
from autoseg_lib.data.pairing import TrainingCase
from autoseg_lib.data.scan import Scan, SpacingOverride
from autoseg_lib.settings import TrainSettings
from autoseg_lib.volume import Mask


def load_training_case(case: TrainingCase, settings: TrainSettings) -> tuple[Scan, Mask, tuple[str, ...]]:
    """Reads image and label of one case as the settings say; also returns what was assumed on the way.

    Raises:
        DataError: a file cannot be read, or image and label do not fit together.
    """
    return load_case(
        case,
        rules=LabelRules.from_settings(settings, case.roi_values),
        slice_axis=settings.slice_axis,
        override=SpacingOverride.from_settings(settings),
    )
