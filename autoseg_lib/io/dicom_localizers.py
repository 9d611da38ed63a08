"""Whether a scanner calls its images localizer, scout or survey."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from autoseg_lib.io.dicom_values import text_of

# What scanners call them in SeriesDescription or ProtocolName where ImageType does not say LOCALIZER.
_LOCALIZER = re.compile(r"locali[sz]er|scout|survey|topogram|scanogram|3[ -]plane|\bloc\b")
_MODALITIES = ("MR", "CT", "PT", "NM", "")


def is_localizer(header: Any, modality: str, image_type: Collection[str]) -> bool:
    """Returns whether these are images for planning others (PS3.3 C.7.6.1.1.2, ImageType LOCALIZER; else the names).

    Args:
        header: a pydicom dataset or a QuickHeader.
        modality: DICOM's word.
        image_type: values of ImageType.
    """
    if modality not in _MODALITIES:
        return False
    words = f"{text_of(header, 'SeriesDescription')} {text_of(header, 'ProtocolName')}".lower()
    return "LOCALIZER" in image_type or _LOCALIZER.search(words) is not None
