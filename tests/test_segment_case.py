"""One scan through everything, with a network that has learned nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg_lib.data.scan import Scan
from autoseg_lib.events import StopFlag, nobody
from autoseg_lib.networks.model_file import load_model, save_model
from autoseg_lib.networks.registry import NetworkSpec, build_network
from autoseg_lib.settings import SegmentSettings
from autoseg_lib.workflow.model_choice import make_predictor
from autoseg_lib.workflow.segment_case import CaseSegmenter
from tests.helpers.made_runs import made_scan


def segmenter(tmp_path: Path, names: dict[str, str]) -> CaseSegmenter:
    spec = NetworkSpec("2D", "light_unet", 4, (32, 32))
    torch.manual_seed(0)
    metadata = {
        "labels": ["psoas_left", "spine", "psoas_right"],
        "network": spec.to_dict(),
        "preprocessing": {"dimension": "2D", "intensity": {"kind": "zscore"}, "input_shape": [32, 32]},
        "structure_names": names,
    }
    path = tmp_path / "m_best.safetensors"
    save_model(path, build_network(spec), metadata)
    model, settings = load_model(path), SegmentSettings()
    return CaseSegmenter(model, "hash", settings, make_predictor(model, settings, []))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        ({}, ((1, 3),)),
        ({"psoas_left": "PSM_1", "psoas_right": "PSM_2"}, ((1, 3),)),
        # The names that are shown come first: whoever reads "left" means the ROI of that name.
        ({"psoas_left": "psoas right", "psoas_right": "psoas left"}, ((3, 1),)),
        ({"psoas_left": "muscle left", "spine": "muscle right"}, ((1, 2),)),
    ],
)
def test_sides_are_compared_whatever_they_are_called(
    tmp_path: Path, names: dict[str, str], pairs: tuple[tuple[int, int], ...]
) -> None:
    case = segmenter(tmp_path, names)
    assert case.pairs == pairs
    volume, _ = made_scan(3, 32)
    scan = Scan("scan_1", volume, volume.geometry, ("a", "b", "c"), ("", "", ""), "volume", "")
    rows = {row.label: row for row in case.answer(scan, nobody, StopFlag()).volumes}
    left, right = (rows[value] for value in pairs[0])
    ours, theirs = left.volume_ml or 0.0, right.volume_ml or 0.0
    assert ours + theirs > 0, "the network says something"
    for row in (left, right):
        assert row.volume_difference_ml == pytest.approx(ours - theirs)
        assert row.asymmetry_percent == pytest.approx(200 * (ours - theirs) / (ours + theirs))
    (other,) = set(rows) - set(pairs[0])
    assert rows[other].asymmetry_percent is None
    assert np.isfinite([ours, theirs]).all()
