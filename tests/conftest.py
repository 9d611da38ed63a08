"""Fixtures shared by all tests."""

from __future__ import annotations

import sys
from pathlib import Path

# Tests import their helpers as `tests.helpers...` from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
