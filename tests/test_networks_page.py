"""The page on networks names exactly the networks there are, and says of them what is so."""

from __future__ import annotations

import re

import pytest
import torch

from autoseg_lib.networks.registry import (
    NETWORKS_2D,
    NETWORKS_3D,
    NetworkSpec,
    build_network,
    default_network,
    fitting_shape,
    number_of_weights,
    supervision_options,
)
from autoseg_lib.networks.shapes import weight_shapes
from tests.helpers.real_data import REPOSITORY

PAGE = (REPOSITORY / "docs" / "networks.md").read_text(encoding="utf-8")
NETWORKS = {"2D": NETWORKS_2D, "3D": NETWORKS_3D}


def rows(dimension: str) -> dict[str, list[str]]:
    """Returns name → cells of the table of one dimension."""
    part = PAGE.split(f"## {dimension}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize("dimension", NETWORKS)
def test_the_tables_name_every_network(dimension: str) -> None:
    table = rows(dimension)
    if "`network`" in table:
        del table["`network`"]
    table.pop("network", None)
    assert set(table) == set(NETWORKS[dimension])
    for name, (_, text, weights, ratio, verdict) in table.items():
        entry = NETWORKS[dimension][name]
        assert text == f"{entry.title}: {entry.about}"
        assert float(weights) > 0
        assert (verdict == "slow") == (float(ratio) > 4), "the verdict follows from the ratio"
    assert float(table[default_network(dimension)][3]) == 1.0


@pytest.mark.parametrize("dimension", NETWORKS)
def test_the_weights_in_the_tables_are_right(dimension: str) -> None:
    """Counted without making them; numbers that training does not adjust (running means) make the small difference."""
    for name, row in rows(dimension).items():
        if name == "network":
            continue
        shape = fitting_shape(dimension, name, (256, 256) if dimension == "2D" else (40, 56, 40))
        options = supervision_options(dimension, name)
        spec = NetworkSpec(dimension, name, 4, shape, options=options)  # type: ignore[arg-type]
        if name in ("dynunet", "residual_unet", "swin_unetr"):  # their state holds more than the weights
            count = number_of_weights(build_network(spec))
        else:
            count = sum(torch.Size(item).numel() for item in weight_shapes(spec).values())
        assert float(row[2]) == pytest.approx(count / 1e6, abs=0.06, rel=0.02), name


def test_what_the_page_says_of_deep_supervision() -> None:
    sentence = re.search(
        r"lets the coarser outputs learn too.*?is the default for (.*?)\. When", PAGE, re.DOTALL
    )
    assert sentence
    before = sentence.group(0).split("; it is the default")[0]
    assert set(re.findall(r"`(\w+)`", before)) == {n for n, e in NETWORKS_3D.items() if e.output_weights}
    assert set(re.findall(r"`(\w+)`", sentence.group(1))) == {
        n for n, e in NETWORKS_3D.items() if e.deep_supervision
    }


def test_the_pyramids_weights() -> None:
    for side, millions in ((128, 1.6), (256, 6.3), (512, 25)):
        with torch.device("meta"):
            network = build_network(NetworkSpec("2D", "pyramid_vnet", 4, (side, side)))
        assert number_of_weights(network) / 1e6 == pytest.approx(millions, rel=0.02)
        assert f"{side}: {millions:g}" in PAGE
