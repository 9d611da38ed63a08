"""Every network: how many weights it has, and how long one training step takes on this computer's processor.

    python benchmarks/networks.py [2D|3D ...] [--steps 3] [--only unet dynunet] [--write]

Prints the tables of docs/networks.md. A step is forwards, backwards and AdamW on images of 256 × 256 (batch of 2) or patches of
40 × 56 × 40 (batch of 1; larger where the network needs it, and then counted per voxel of 40 × 56 × 40). Numbers are of the
format that training chooses on this computer (--precision: 32 or bf16). Times are of the processor, so that other programs
disturb them little, and shown relative to the default network of that dimension.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from autoseg_lib.losses.registry import build_loss
from autoseg_lib.networks.entry import Entry
from autoseg_lib.networks.registry import (
    NETWORKS_2D,
    NETWORKS_3D,
    NetworkSpec,
    build_network,
    default_network,
    fitting_shape,
    number_of_weights,
    output_weights,
    supervision_options,
)
from autoseg_lib.train.machine import find_machine

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
SIZES = {"2D": (256, 256), "3D": (40, 56, 40)}
BATCHES = {"2D": 2, "3D": 1}
CLASSES = 4
# So many times the default's step make a laptop too slow for a training in an afternoon.
SLOW = 4.0


def describe(dimension: str, name: str) -> NetworkSpec:
    """Returns the network as it is by default, for one image channel."""
    smallest = fitting_shape(dimension, name, (1,) * len(SIZES[dimension]))
    step = max(1, smallest[0] // 2)
    shape = tuple(math.ceil(n / step) * step for n in SIZES[dimension])
    options = supervision_options(dimension, name)
    return NetworkSpec(dimension, name, CLASSES, shape, options=options)  # type: ignore[arg-type]


def seconds_per_step(spec: NetworkSpec, steps: int, precision: str) -> tuple[float, int]:
    """Returns the processor's seconds for a step at the common size, and the number of weights."""
    torch.manual_seed(0)
    flat = spec.dimension == "2D"
    layout = torch.channels_last if flat else torch.channels_last_3d
    network = build_network(spec).train().to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters())
    loss_of = build_loss("dice_ce", output_weights=output_weights(spec))
    images = torch.randn(BATCHES[spec.dimension], 1, *spec.input_shape).contiguous(memory_format=layout)
    labels = torch.randint(0, CLASSES, images.shape)
    times = []
    for _ in range(steps + 1):  # the first sets up the kernels
        begun = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = network(images)
        loss, _ = loss_of.parts(outputs, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.process_time() - begun)
    larger = math.prod(spec.input_shape) / math.prod(SIZES[spec.dimension])
    return statistics.median(times[1:]) / larger, number_of_weights(network)


def table(
    dimension: str, entries: Mapping[str, Entry], steps: int, only: list[str], precision: str
) -> list[str]:
    """Returns the table's lines, the default network first."""
    default = default_network(dimension)
    names = [default, *(name for name in entries if name != default and (not only or name in only))]
    lines = [
        "| `network` | what it is | weights (million) | step, relative | on a laptop |",
        "|---|---|---|---|---|",
    ]
    base = 0.0
    for name in names:
        seconds, weights = seconds_per_step(describe(dimension, name), steps, precision)
        base = base or seconds
        ratio = seconds / base
        verdict = "slow" if ratio > SLOW else "yes"
        line = f"| `{name}` | {entries[name].title}: {entries[name].about} | {weights / 1e6:.1f} | {ratio:.1f} | {verdict} |"
        lines.append(line)
        print(line, flush=True)
    print(f"({dimension}, {precision}: {base:.2f} s of the processor for a step of {default})", flush=True)
    return lines


def write(dimension: str, lines: list[str]) -> None:
    """Puts a table into the page on networks, in place of the one that is there."""
    before, heading, rest = PAGE.read_text(encoding="utf-8").partition(f"## {dimension}\n")
    start = rest.index("|")
    end = rest.index("\n\n", start)
    text = before + heading + rest[:start] + "\n".join(lines) + rest[end:]
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dimensions", nargs="*", default=["2D", "3D"], help="2D, 3D or both")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--precision", choices=["32", "bf16"], default=find_machine().precision)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/networks.md")
    asked = parser.parse_args()
    if asked.write and asked.only:
        parser.error("--write puts whole tables into the page; leave --only out")
    torch.set_num_threads(1)
    for dimension in asked.dimensions:
        entries = NETWORKS_2D if dimension == "2D" else NETWORKS_3D
        lines = table(dimension, entries, asked.steps, asked.only, asked.precision)
        if asked.write:
            write(dimension, lines)


if __name__ == "__main__":
    main()
