"""Validation while training: the network is given what it is given when segmenting, and scored on the scan's own grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoseg_lib.errors import DataError
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.labels import LabelTable
from autoseg_lib.preprocess.channels import Channel
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.train.validate import ValidationScan, score_case
from autoseg_lib.volume import Mask, Volume

LABELS = LabelTable(["blob"])
CENTRE = {"to": "centre", "margin_mm": 0.0, "slices": [2, 5], "size_mm": [0.0, 16.0, 16.0], "threshold": None}


class Recorder(nn.Module):
    """Label 1 where the normalised image is above 0; keeps all it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.given.append(image.clone())
        return torch.cat([torch.zeros_like(image), 50 * image], dim=1)


def scan() -> ValidationScan:
    """A bright blob in the middle, and brighter pixels in a corner that a crop to the middle leaves out."""
    shape = (6, 32, 32)
    pixels = np.random.default_rng(3).normal(0, 0.1, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[1:5, 12:20, 13:19] = 1
    pixels[label > 0] += 20
    pixels[:, :4, :4] = 300
    geometry = Geometry.from_spacing(shape, (3, 1, 1), spacing_known=True, positions_known=True)
    return ValidationScan("made", Volume(pixels, geometry, "MR", "made"), Mask(label, geometry))


def predictor(**changes: object) -> Predictor:
    plan = Preprocessing("2D", IntensityPlan("zscore"), input_shape=(16, 16), **changes)  # type: ignore[arg-type]
    return Predictor(Recorder(), plan, 2, torch.device("cpu"))


def test_validation_gives_the_network_what_segmenting_gives_it():
    given = []
    for thorough in (False, True):
        asked = predictor(crop={**CENTRE, "box_xyz_mm": None})
        case = score_case(asked, scan(), LABELS, thorough=thorough)
        given.append(torch.cat(asked.network.given))  # type: ignore[arg-type]
        # Pixels of the part lie on those of the network, so nothing at all is wrong.
        assert case.dice == (1.0,)
        assert case.prediction.shape == (32, 32)
        if not thorough:
            assert case.loss == pytest.approx(0.0, abs=1e-3)
    # Slices 2 to 5, the middle 16 × 16 pixels.
    assert given[0].shape == (4, 1, 16, 16)
    assert torch.equal(given[0], given[1])


def test_validation_refuses_a_scan_that_lacks_images():
    asked = predictor(channels=(Channel(), Channel(image=1)))
    with pytest.raises(DataError, match="the model sees 2 images of a patient, and the scan has 1"):
        score_case(asked, scan(), LABELS)
