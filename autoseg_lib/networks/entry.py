"""What is known of a network before it is built: one entry of the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

Options = Mapping[str, Any]


class Described(Protocol):
    """What a builder asks of a NetworkSpec."""

    @property
    def out_channels(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def encoder(self) -> str: ...
    @property
    def dropout(self) -> float: ...
    @property
    def options(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        title: its name in papers.
        about: one line for the table of networks.
        build: returns it with fresh weights; the second argument asks for pretrained encoder weights.
        multiple: the number that each side of the input is a multiple of, by the options.
        smallest_side: fewest pixels along a side; 0: any.
        smallest_batch: fewest images per training step.
        encoder: 2D: the encoder it has unless another is asked for; "" where it takes none.
        dropout: what "auto" becomes.
        loss: the loss it was made for; None: the project's own default.
        output_weights: weights of its several outputs while training, by the options; None: it has one output only.
        always_several: it gives several outputs whatever the options say.
        deep_supervision: whether they are compared with the labels too unless the settings say otherwise.
        options_for: options that follow from the size it is built for; they stay when the size changes later.
        any_size: it takes other sizes than those that it was built for.
    """

    title: str
    about: str
    build: Callable[[Described, bool], nn.Module]
    multiple: Callable[[Options], int]
    smallest_side: int = 0
    smallest_batch: int = 1
    encoder: str = ""
    dropout: float = 0.0
    loss: str | None = None
    output_weights: Callable[[Options], tuple[float, ...]] | None = None
    always_several: bool = False
    deep_supervision: bool = False
    options_for: Callable[[tuple[int, ...]], dict[str, Any]] | None = None
    any_size: bool = True


def halving_weights(outputs: int) -> tuple[float, ...]:
    """Returns weights for outputs each half as fine as the one before: 4/7, 2/7, 1/7 (as in nnU-Net)."""
    total = 2**outputs - 1
    return tuple(2 ** (outputs - 1 - number) / total for number in range(outputs))


def without_own_keys(options: Options, *keys: str) -> dict[str, Any]:
    """Returns the options that go to the network's class as they are."""
    return {key: value for key, value in options.items() if key not in keys}
