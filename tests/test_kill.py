"""A training that is killed again and again ends with the same history and the same weights, bit by bit."""

from __future__ import annotations

from pathlib import Path

from tests.kill_runs import kill_runs, run_to_the_end, write_run


def test_a_killed_training_loses_nothing(tmp_path: Path) -> None:
    """Three kills, one of them while a file is written; more: python -m tests.kill_runs --kills 20."""
    whole, broken = (write_run(tmp_path / name, epochs=12) for name in ("whole", "broken"))
    seconds = run_to_the_end(whole, tmp_path / "whole.log")
    result = kill_runs(whole, broken, kills=3, seed=1, seconds=seconds, folder=tmp_path)
    assert result.differences == []
    assert result.kills >= 2
