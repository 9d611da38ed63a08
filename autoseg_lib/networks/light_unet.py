"""A light U-Net for computers without a GPU: it does the same work with the operations that processors do well.

On a CPU a convolution at full resolution is bound by memory, not by arithmetic, and a strided or transposed convolution takes
several times as long as its arithmetic needs. So the image is first folded: each cube of 2 × 2 × 2 voxels
(square of 2 × 2 pixels) becomes 8 (4) channels (Shi et al. 2016, arXiv:1609.05158, run backwards). A residual U-Net works on the
folded image; its levels too are reached by folding and a 1 × 1 convolution, and left by unfolding. One thin layer at full
resolution draws the borders with what a thin stem saw of the image itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

NormKind = Literal["group", "instance", "batch"]
# Channels that GroupNorm normalises together; more where the width is no multiple.
_GROUP_OF = 8
_SLOPE = 0.01


# Channels of each level, from half resolution down.
_WIDTHS = (32, 64, 128)


def size_multiple(options: Mapping[str, Any]) -> int:
    """Returns the number that each side of the image must be a multiple of, by the options it is built with."""
    return int(2 ** len(options.get("widths", _WIDTHS)))


class LightUNet(nn.Module):
    """A U-Net on the folded image between a thin stem and a thin head at full resolution."""

    # What fine-tuning may keep as it is at first.
    ENCODER_PARTS = ("stem", "entry", "encoder", "downs")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        widths: Sequence[int] = _WIDTHS,
        stem_width: int = 8,
        blocks: int | Sequence[int] = 1,
        norm: NormKind = "group",
        dropout: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        """Args:
        in_channels: channels of the image.
        out_channels: classes.
        spatial_dims: 2 or 3.
        widths: channels of each level, from half resolution down; each further level halves again.
        stem_width: channels at full resolution; 0: none, the unfolded answer is taken as it is.
        blocks: residual blocks of each level of the encoder; one number is for every level.
        norm: how features are normalised: "group" and "instance" do not depend on the batch.
        dropout: share of channels dropped at the deepest level and before the answer while training.
        deep_supervision: while training give the answer at half resolution too.

        Raises:
            ValueError: no width, or not one number of blocks for each level.
        """
        super().__init__()
        counts = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
        if not widths or len(counts) != len(widths):
            raise ValueError(f"widths {list(widths)} and blocks {counts} need one number for each level")
        layers = _Layers(spatial_dims, norm)
        self.cell = cell = 2**spatial_dims
        self.stem = layers.unit(in_channels, stem_width) if stem_width else None
        self.entry = layers.unit(cell * in_channels, widths[0])
        steps = list(itertools.pairwise(widths))
        self.encoder = nn.ModuleList(
            nn.Sequential(*(_Residual(layers, width) for _ in range(count)))
            for width, count in zip(widths, counts, strict=True)
        )
        self.downs = nn.ModuleList(layers.unit(cell * high, deep, size=1) for high, deep in steps)
        self.ups = nn.ModuleList(layers.conv(deep, cell * high, 1) for high, deep in steps)
        self.decoder = nn.ModuleList(_Residual(layers, high) for high, _ in steps)
        self.dropout = layers.dropout(dropout)
        self.unfold = layers.conv(widths[0], cell * (stem_width or out_channels), 1)
        self.head = None
        if stem_width:
            self.head = nn.Sequential(
                nn.LeakyReLU(_SLOPE),
                layers.conv(stem_width, stem_width, 3, bias=False),
                nn.LeakyReLU(_SLOPE, inplace=True),
                layers.dropout(dropout),
                layers.conv(stem_width, out_channels, 1),
            )
        self.coarse_head = layers.conv(widths[0], out_channels, 1) if deep_supervision else None

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Returns logits (batch, classes, ...); with deep supervision while training, a list of them at full and at half
        resolution.

        Args:
            image: (batch, channels, [slices,] rows, columns), sides multiples of 2 ** number of widths.
        """
        features = self.entry(fold(image))
        levels = []
        for number, blocks in enumerate(self.encoder):
            if number:
                features = self.downs[number - 1](fold(features))
            features = blocks(features)
            levels.append(features)
        features = self.dropout(levels.pop())
        for number in reversed(range(len(levels))):
            features = self.decoder[number](unfold(self.ups[number](features)) + levels[number])
        logits = unfold(self._answer(features))
        if self.stem is not None and self.head is not None:
            logits = self.head(logits + self.stem(image))
        if self.coarse_head is not None and self.training:
            return [logits, self.coarse_head(features)]
        return logits

    def _answer(self, features: torch.Tensor) -> torch.Tensor:
        """What is unfolded in the end: channels that go together beside each other."""
        answer = self.unfold(features)
        if self.stem is not None:
            return answer
        # The layer gives class by class, so that a model for other ROIs can take over what it needs; folding, cell by cell.
        return answer.unflatten(1, (-1, self.cell)).transpose(1, 2).flatten(1, 2)


class _Residual(nn.Module):
    """Two convolutions whose result is added to what went in (He et al. 2016)."""

    def __init__(self, layers: _Layers, width: int) -> None:
        super().__init__()
        self.first = layers.unit(width, width)
        self.second = nn.Sequential(layers.conv(width, width, 3, bias=False), layers.norm(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(self.second(self.first(features)) + features, _SLOPE, inplace=True)


class _Layers:
    """The layers of one number of dimensions and one kind of normalisation."""

    def __init__(self, spatial_dims: int, norm: NormKind) -> None:
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims = {spatial_dims}; expected 2 or 3")
        if norm not in ("group", "instance", "batch"):
            raise ValueError(f'norm = {norm!r}; expected "group", "instance" or "batch"')
        self.flat, self.kind = spatial_dims == 2, norm

    def conv(self, inputs: int, outputs: int, size: int, bias: bool = True) -> nn.Module:
        kind = nn.Conv2d if self.flat else nn.Conv3d
        return kind(inputs, outputs, size, padding=size // 2, bias=bias)

    def norm(self, channels: int) -> nn.Module:
        if self.kind == "group":
            # Groups of at least that many channels, all alike, whatever the width.
            most = max(1, channels // _GROUP_OF)
            groups = next(number for number in range(most, 0, -1) if channels % number == 0)
            return nn.GroupNorm(groups, channels)
        if self.kind == "instance":
            return (nn.InstanceNorm2d if self.flat else nn.InstanceNorm3d)(channels, affine=True)
        return (nn.BatchNorm2d if self.flat else nn.BatchNorm3d)(channels)

    def unit(self, inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
        return nn.Sequential(
            self.conv(inputs, outputs, size, bias=False),
            self.norm(outputs),
            nn.LeakyReLU(_SLOPE, inplace=True),
        )

    def dropout(self, share: float) -> nn.Module:
        return (nn.Dropout2d if self.flat else nn.Dropout3d)(share)


def fold(image: torch.Tensor) -> torch.Tensor:
    """Returns each cube of 2 × 2 × 2 voxels (square of 2 × 2 pixels) as channels.

    Args:
        image: (batch, channels, ...) with even sides.

    Returns:
        (batch, 8 · channels, ...) or (batch, 4 · channels, ...), sides halved; in memory channels lie last.
    """
    batch, channels, *sides = image.shape
    axes = len(sides)
    last = image.movedim(1, -1).reshape(batch, *(n for side in sides for n in (side // 2, 2)), channels)
    cells = last.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return cells.reshape(batch, *(side // 2 for side in sides), 2**axes * channels).movedim(-1, 1)


def unfold(folded: torch.Tensor) -> torch.Tensor:
    """Undoes ``fold``."""
    batch, channels, *sides = folded.shape
    axes = len(sides)
    channels //= 2**axes
    cells = folded.movedim(1, -1).reshape(batch, *sides, *(2,) * axes, channels)
    order = [
        axis for pair in zip(range(1, axes + 1), range(axes + 1, 2 * axes + 1), strict=True) for axis in pair
    ]
    last = cells.permute(0, *order, 2 * axes + 1)
    return last.reshape(batch, *(2 * side for side in sides), channels).movedim(-1, 1)
