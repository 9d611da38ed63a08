"""A light 3D U-Net for computers without a GPU: nearly all of its work is done at half the image's resolution.

A convolution at full resolution costs eight times one at half resolution and is bound by memory, not by arithmetic. So the
image is first folded (each cube of 2 × 2 × 2 voxels becomes 8 channels; Shi et al. 2016, arXiv:1609.05158, run backwards), a
residual U-Net works on the folded image, its answer is unfolded again, and one thin layer at full resolution draws the
borders with what a thin stem saw of the image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

NormKind = Literal["group", "instance", "batch"]
# Voxels in a folded cube.
_CUBE = 8
# Channels that GroupNorm normalises together.
_GROUP_OF = 8
_SLOPE = 0.01


class LightUNet(nn.Module):
    """A U-Net on the folded image between a thin stem and a thin head at full resolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (32, 64, 128),
        stem_width: int = 8,
        blocks: int | Sequence[int] = 1,
        norm: NormKind = "group",
        dropout: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        """Args:
        in_channels: channels of the image.
        out_channels: classes.
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
        self.stem = _conv_unit(in_channels, stem_width, norm) if stem_width else None
        self.encoder = _Encoder(_CUBE * in_channels, widths, counts, norm)
        self.dropout = nn.Dropout3d(dropout)
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(deep, high, 2, 2) for deep, high in pairs)
        self.decoder = nn.ModuleList(_Residual(2 * high, high, norm) for _, high in pairs)
        self.unfold = nn.Conv3d(widths[0], _CUBE * (stem_width or out_channels), 1)
        self.head = None
        if stem_width:
            self.head = nn.Sequential(
                _conv_unit(2 * stem_width, stem_width, norm),
                nn.Dropout3d(dropout),
                nn.Conv3d(stem_width, out_channels, 1),
            )
        self.coarse_head = nn.Conv3d(widths[0], out_channels, 1) if deep_supervision else None

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Returns logits (batch, classes, slices, rows, columns); with deep supervision while training, a list of them
        at full and at half resolution.

        Args:
            image: (batch, channels, slices, rows, columns), sides multiples of 2 ** number of widths.
        """
        *skips, features = self.encoder(fold(image))
        features = self.dropout(features)
        for up, block, skip in zip(self.ups, self.decoder, reversed(skips), strict=True):
            features = block(torch.cat([up(features), skip], 1))
        logits = unfold(self.unfold(features))
        if self.stem is not None and self.head is not None:
            logits = self.head(torch.cat([logits, self.stem(image)], 1))
        if self.coarse_head is not None and self.training:
            return [logits, self.coarse_head(features)]
        return logits


class _Encoder(nn.Module):
    def __init__(
        self, in_channels: int, widths: Sequence[int], counts: Sequence[int], norm: NormKind
    ) -> None:
        super().__init__()
        self.entry = _conv_unit(in_channels, widths[0], norm)
        self.levels = nn.ModuleList()
        for number, (width, count) in enumerate(zip(widths, counts, strict=True)):
            down = [_Residual(widths[number - 1], width, norm, stride=2)] if number else []
            self.levels.append(nn.Sequential(*down, *(_Residual(width, width, norm) for _ in range(count))))

    def forward(self, folded: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features of every level, the finest first."""
        features, found = self.entry(folded), []
        for level in self.levels:
            features = level(features)
            found.append(features)
        return found


class _Residual(nn.Module):
    """Two convolutions whose result is added to what went in (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, norm: NormKind, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv_unit(inputs, outputs, norm, stride)
        self.second = nn.Sequential(
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False), _norm(outputs, norm)
        )
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Conv3d(inputs, outputs, stride, stride, bias=False)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(self.second(self.first(features)) + self.shortcut(features), _SLOPE)


def fold(image: torch.Tensor) -> torch.Tensor:
    """Returns (batch, 8 · channels, slices / 2, rows / 2, columns / 2): each cube of 2 × 2 × 2 voxels as channels."""
    batch, channels, *shape = image.shape
    a, b, c = (n // 2 for n in shape)
    cubes = image.view(batch, channels, a, 2, b, 2, c, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return cubes.reshape(batch, channels * _CUBE, a, b, c)


def unfold(folded: torch.Tensor) -> torch.Tensor:
    """Undoes ``fold``: (batch, channels / 8, 2 · slices, 2 · rows, 2 · columns)."""
    batch, channels, a, b, c = folded.shape
    cubes = folded.reshape(batch, channels // _CUBE, 2, 2, 2, a, b, c).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cubes.reshape(batch, channels // _CUBE, 2 * a, 2 * b, 2 * c)


def _conv_unit(inputs: int, outputs: int, norm: NormKind, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False),
        _norm(outputs, norm),
        nn.LeakyReLU(_SLOPE, inplace=True),
    )


def _norm(channels: int, kind: NormKind) -> nn.Module:
    if kind == "group":
        return nn.GroupNorm(max(1, channels // _GROUP_OF), channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    raise ValueError(f'norm = {kind!r}; expected "group", "instance" or "batch"')
