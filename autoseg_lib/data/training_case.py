"""Reading one training case as the settings say."""

from __future__ import annotations

from autoseg_lib.data.masks import load_case
from autoseg_lib.data.pairing import TrainingCase
from autoseg_lib.data.scan import Scan, SpacingOverride
from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.volume import Mask


def load_training_case(case: TrainingCase, settings: TrainSettings) -> tuple[Scan, Mask, tuple[str, ...]]:
    """Reads image and label of one case as the settings say; also returns what was assumed on the way.

    Raises:
        DataError: a file cannot be read, or image and label do not fit together.
    """
    count = None
    if settings.labels_list != AUTO:
        count = len(settings.labels_list)
    elif settings.num_labels != AUTO:
        count = settings.num_labels
    return load_case(
        case,
        num_labels=count,
        slice_axis=settings.slice_axis,
        override=SpacingOverride.from_settings(settings),
    )
