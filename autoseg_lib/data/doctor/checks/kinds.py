"""Findings on scans that are of another kind than the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Finding


def check_modalities(context: Context) -> Iterable[Finding]:
    """CT and MR mixed."""
    counts = Counter(case.modality for case in context.facts if case.modality)
    if len(counts) > 1:
        text = ", ".join(f"{count} {modality}" for modality, count in counts.most_common())
        yield Finding(
            "warning",
            "modalities",
            f"the scans are of different kinds ({text}). One model for one kind works best.",
        )
