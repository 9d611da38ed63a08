"""What the system check says."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import pytest

from autoseg_lib import system
from autoseg_lib.system import Gpu, check_system


def test_figures_are_those_of_the_operating_system(tmp_path: Path):
    report = check_system(tmp_path / "not" / "yet" / "made")
    assert report.ram_total_gb == pytest.approx(psutil.virtual_memory().total / 1e9, abs=0.1)
    assert report.disk_free_gb == pytest.approx(
        psutil.disk_usage(str(tmp_path)).free / 1e9, rel=0.05, abs=0.2
    )
    assert report.python_version == platform.python_version()
    assert report.versions["pydicom"].startswith("3.")
    lines = report.lines()
    assert lines[0].startswith("RAM ")
    assert any(line.startswith("GPU enabled") for line in lines)


def test_advice_for_each_kind_of_computer():
    gpu = Gpu("cuda", "NVIDIA X", 16.0, 1.0, 15.0)
    assert system._advice(gpu, 16, 100, 8) == (True, "Ready. 2D and 3D training will run on the GPU.")
    ready, text = system._advice(None, 16, 100, 8)
    assert ready
    assert text.startswith("No GPU found. 2D at 256 × 256 is comfortable on these 8 CPU cores")
    ready, text = system._advice(gpu, 1.5, 100, 8)
    assert not ready
    assert "Only 1.5 GB of memory is free" in text
    ready, text = system._advice(gpu, 16, 0.5, 8)
    assert not ready
    assert "free some space, or set model_dir to another disk" in text
