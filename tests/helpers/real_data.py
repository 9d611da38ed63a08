"""Where the real scans are, and what to do when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def real_data(name: str) -> Path:
    """Returns the folder of one real data set; skips the test where it is missing.

    The folder that holds them is the environment variable AUTOSEG_TEST_DATA, else shared/data beside the checkout.
    With AUTOSEG_REQUIRE_ALL=1 a missing set fails the test instead of skipping it.
    """
    folder = real_data_or_none(name)
    if folder is None:
        text = f"real scans '{name}' are not there (set AUTOSEG_TEST_DATA to the folder that holds them)"
        if os.environ.get("AUTOSEG_REQUIRE_ALL") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return folder


def real_data_or_none(name: str) -> Path | None:
    """Returns the folder of one real data set, None where it is missing."""
    root = Path(os.environ.get("AUTOSEG_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    folder = root / name
    return folder if folder.exists() else None
