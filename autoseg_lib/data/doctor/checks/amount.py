"""Findings on how much there is to learn from."""

from __future__ import annotations

from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding

# A choice, not a measurement: with fewer than these a warning is due. No sharp border is known; how many are needed depends on
# how much the images differ and how hard the ROIs are to tell.
FEWEST_SLICES, FEWEST_SCANS_3D = 30, 10


def check_amount(context: Context) -> Iterable[Finding]:
    """Too few labelled slices or scans."""
    if not context.facts:
        return
    drawn = sum(1 for _, _, item in context.slices() if not item.is_empty)
    if context.settings.dimension == "3D":
        if len(context.facts) < FEWEST_SCANS_3D:
            yield Finding(
                "warning",
                "few_cases",
                f"there are {len(context.facts)} scans, which is little for a 3D network ({FEWEST_SCANS_3D} or more are advised). "
                'Add scans, or set dimension = "2D", which learns from every slice.',
            )
    elif drawn < FEWEST_SLICES:
        count = "1 slice shows" if drawn == 1 else f"{drawn} slices show"
        yield Finding(
            "warning",
            "few_cases",
            f"{count} an ROI, which is little for a model that is to work on new scans ({FEWEST_SLICES} or more are advised). Label "
            "more slices.",
        )
